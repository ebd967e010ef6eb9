# SPDX-License-Identifier: Apache-2.0
"""Reading of regular files only, and atomic writes."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from imp_trt.errors import OutputError

_MORE = 1 << 16
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | os.PathLike[str], limit: int | None = None) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    Opening a FIFO waits for its writer, /dev/zero has no end, and opening some devices has side effects.

    Args:
        path: from outside; may be anything.
        limit: largest size in bytes.

    Raises:
        OSError: missing, not a regular file, larger than limit, not readable, or not a valid path;
            ``strerror`` says which.
    """
    try:
        _check_regular(os.stat(path), path, limit)
        # Between the two calls the path may become another file: it is not waited for, and checked again.
        file = open(path, "rb", opener=_without_waiting)
    except ValueError as error:  # a NUL, or characters that the file system's encoding lacks
        raise OSError(errno.EINVAL, f"not a valid path: {error}") from error
    try:
        _check_regular(os.fstat(file.fileno()), path, limit)
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """The content of a regular file, or of a link to one; see :func:`open_regular`.

    Raises:
        OSError: as for open_regular, or too little memory.
    """
    with open_regular(path, limit) as file:
        size = os.fstat(file.fileno()).st_size
        # Not up to the limit at once: that would allocate it. Files of /proc report a size of 0.
        data = b""
        try:
            while part := file.read(max(size - len(data), 0) + _MORE):
                data = data + part if data else part
                if limit is not None and len(data) > limit:
                    break
        except MemoryError as error:
            raise OSError(errno.ENOMEM, f"too little memory for its {size:,} bytes") from error
    if limit is not None and len(data) > limit:  # it grew, or does not report its size
        raise OSError(errno.EFBIG, f"more than {limit:,} bytes")
    return data


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _check_regular(info: os.stat_result, path: str | os.PathLike[str], limit: int | None) -> None:
    if not stat.S_ISREG(info.st_mode):
        kind = _KINDS.get(stat.S_IFMT(info.st_mode), "another kind of file")
        raise OSError(errno.EINVAL, f"{kind}, not a regular file")
    if limit is not None and info.st_size > limit:
        raise OSError(errno.EFBIG, f"{info.st_size:,} bytes, more than {limit:,}")


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A new folder for temporary files; removed with its content on exit.

    Raises:
        OutputError: the folder for temporary files, usually /tmp or $TMPDIR, is not writable.
    """
    try:
        # Files that cannot be deleted after a child process was killed are not an error.
        folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(
            "no temporary folder can be made",
            expected="a writable folder, such as /tmp",
            got=error.strerror or error,
            fix="set TMPDIR to a folder that is writable and has free space",
        ) from error
    with folder as name:
        yield Path(name)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A new temporary path in the folder of ``path``; removed on exit, including on KeyboardInterrupt.

    Rename it to ``path`` to keep the file. It has the suffix of ``path``, since some writers choose the
    format by it.
    """
    temporary = path.with_name(f".{path.stem[:64]}.{secrets.token_hex(8)}.tmp{path.suffix}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_and_sync(path: Path, data: bytes) -> None:
    """Write data to a new file and fsync it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: str | os.PathLike[str], data: bytes, *, sync: bool = True) -> Path:
    """Write data to path atomically. Missing folders are created.

    Args:
        path: file to write; replaced if it exists.
        data: content.
        sync: fsync the file; otherwise a power failure may lose the write.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path) as temporary:
            if sync:
                write_and_sync(temporary, data)
            else:
                temporary.write_bytes(data)
            os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; OutputError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(path: Path, error: OSError) -> OutputError:
    """The OutputError for a failed write to path."""
    return OutputError(
        f"{path} cannot be written",
        got=error.strerror or error,
        fix=room_for(path),
    )


def room_for(path: Path) -> str:
    """How to fix a failed write: a temporary file is not where the user chose."""
    if tempfile.tempdir is not None and path.resolve().is_relative_to(Path(tempfile.tempdir).resolve()):
        return "free space in the temporary folder or set TMPDIR to another, or choose another path"
    return "choose another path, or free disk space"

# SPDX-License-Identifier: Apache-2.0
"""Files from outside, opened only if they are regular ones, and atomic writes."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from imp_trt.data.memory import check_memory
from imp_trt.errors import ImpTrtError, OutputError

MAX_NAME_BYTES = 255
"""Longest name of a file on Linux."""

_MAX_SUFFIX_BYTES = 64  # longer ones are no file format

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.part(\.\w+)?")
_LOCK = ".lock"
_MAX_FOLDERS = 256

# A scan takes at most this fraction of the time: a folder of 100,000 files takes 50 ms.
_SCAN_FRACTION = 0.01

_next_scan: dict[Path, float] = {}
"""Folder -> time.monotonic() before which it is not scanned again."""

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
        OSError: as for open_regular, or too little memory (ENOMEM).
    """
    with open_regular(path, limit) as file:
        size = os.fstat(file.fileno()).st_size
        check_memory(size, f"its {size:,} bytes")
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
        raise _not_regular(info.st_mode)
    if limit is not None and info.st_size > limit:
        raise OSError(errno.EFBIG, f"{info.st_size:,} bytes, more than {limit:,}")


def _not_regular(mode: int) -> OSError:
    kind = _KINDS.get(stat.S_IFMT(mode), "another kind of file")
    return OSError(errno.EINVAL, f"{kind}, not a regular file")


def check_replaceable(path: Path) -> None:
    """OSError for a FIFO, device or socket: a rename would remove it, and its reader would wait forever.

    And for a name that is too long, for which a temporary file can still be made.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
        return  # mostly a new file; other reasons make the write itself fail
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder makes the rename fail
        raise _not_regular(mode)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A new empty file in the folder of ``path``; removed on exit, including on KeyboardInterrupt.

    Rename it to ``path`` to keep it. It has the suffix of ``path``, since some writers choose the format by
    it. A lock shows that its process is alive: what a killed process leaves is removed by the next call for
    the same folder. A forked process removes nothing of its parent.

    Raises:
        OSError: the folder is not writable, or there is a FIFO, device or socket at ``path``.
    """
    check_replaceable(path)
    sweep(path.parent)
    temporary, descriptor = create_temporary(path)
    owner = os.getpid()
    try:
        yield temporary
    finally:
        if os.getpid() == owner:
            temporary.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def written_beside(path: Path, data: bytes, *, sync: bool = True) -> Iterator[Path]:
    """As temporary_beside, with data in the file.

    Where the file system supports it, the file has no name before it is complete: a process that is killed
    while it writes leaves nothing.

    Args:
        sync: fsync the file.

    Raises:
        OSError: the file cannot be written, or there is a FIFO, device or socket at ``path``.
    """
    check_replaceable(path)
    sweep(path.parent)
    unnamed = _create_unnamed(path.parent)
    temporary: Path | None = None
    owner = os.getpid()
    try:
        if unnamed is not None:
            write_data(unnamed, data, sync=sync)
            temporary = _link(unnamed, path)
        if temporary is not None:
            yield temporary
            return
    finally:
        if temporary is not None and os.getpid() == owner:
            temporary.unlink(missing_ok=True)
        if unnamed is not None:
            os.close(unnamed)
    with temporary_beside(path) as named:
        with named.open("rb+", buffering=0) as file:
            write_data(file.fileno(), data, sync=sync)
        yield named


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A new folder in the system's folder for temporary files; removed with its content on exit.

    Folders of the same prefix whose process was killed are removed too. A forked process removes nothing of
    its parent.

    Raises:
        OutputError: the folder for temporary files, usually /tmp or $TMPDIR, is not writable.
    """
    try:
        folder, descriptor = _create_folder(prefix)
    except OSError as error:
        raise OutputError(
            "no temporary folder can be made",
            expected="a writable folder, such as /tmp",
            got=error.strerror or error,
            fix="set TMPDIR to a folder that is writable and has free space",
        ) from error
    owner = os.getpid()
    try:
        yield folder
    finally:
        if os.getpid() == owner:
            # Files that cannot be deleted after a child process was killed are not an error.
            shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _create_folder(prefix: str) -> tuple[Path, int]:
    """Create a locked temporary folder; returns its path and the descriptor that holds the lock."""
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in list(entries):
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False):
                _remove_folder_if_dead(Path(entry.path))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        lock = folder / _LOCK
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _lock(descriptor) and is_at(lock, descriptor):
            return folder, descriptor
        os.close(descriptor)  # another process removed it before it was locked


def _remove_folder_if_dead(folder: Path) -> None:
    with suppress(OSError):
        if folder.stat().st_uid != os.getuid():
            return
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def write_data(descriptor: int, data: bytes, *, sync: bool = True) -> None:
    """Write data to an open file, and fsync it."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    if sync:
        os.fsync(descriptor)


def _create_unnamed(folder: Path) -> int | None:
    """Open a locked file without a name; None if the file system has none."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError:
        return None
    _lock(descriptor)
    return descriptor


def _link(descriptor: int, path: Path) -> Path | None:
    """Give a file without a name a temporary one; None if that is not possible, such as without /proc."""
    temporary = temporary_name(path)
    try:
        # With a descriptor, which is not used, os.link follows the link in /proc.
        os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=descriptor, follow_symlinks=True)
    except OSError:
        return None
    return temporary


def temporary_name(path: Path, token: str | None = None) -> Path:
    """The path of a temporary file next to path that sweep removes; token is 16 hexadecimal digits.

    It has the suffix of path and is as valid: path's own name may have MAX_NAME_BYTES already.
    """
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= _MAX_SUFFIX_BYTES else ""
    ending = f".{token or secrets.token_hex(8)}.part{suffix}"
    room = MAX_NAME_BYTES - len(os.fsencode(f".{ending}"))
    stem = os.fsdecode(os.fsencode(path.stem[:64])[:room])
    return path.parent / f".{stem}{ending}"


def create_temporary(path: Path) -> tuple[Path, int]:
    """Create a locked temporary file; returns its path and the descriptor that holds the lock."""
    while True:
        temporary = temporary_name(path)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if _lock(descriptor) and is_at(temporary, descriptor):
            return temporary, descriptor
        os.close(descriptor)  # another process swept it before it was locked


def _lock(descriptor: int) -> bool:
    """Lock a new file; False if a process that sweeps holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # some network file systems have no locks; there nothing is ever swept
    return True


def is_at(path: Path, descriptor: int) -> bool:
    """Whether path is the name of an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sweep(folder: Path) -> None:
    """Remove temporary files in a folder whose process is dead. Never raises OSError."""
    start = time.monotonic()
    if start < _next_scan.get(folder, 0.0):
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if _TEMPORARY.fullmatch(entry.name)]:
            remove_if_dead(folder / name)
    end = time.monotonic()
    if len(_next_scan) >= _MAX_FOLDERS:
        _next_scan.clear()
    _next_scan[folder] = end + (end - start) / _SCAN_FRACTION


def remove_if_dead(temporary: Path) -> None:
    """Remove a temporary file unless its process is alive. Never raises OSError."""
    with suppress(OSError):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            # Fails while the process that made it, or a child of it, is alive: on this machine, in another
            # container, or on another client of a network file system.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(temporary, descriptor):  # otherwise it was renamed, and the name may be in use again
                temporary.unlink()
        finally:
            os.close(descriptor)


def write_atomically(path: str | os.PathLike[str], data: bytes, *, sync: bool = True) -> Path:
    """Write data to path atomically. Missing folders are created.

    Args:
        path: file to write; replaced if it exists, unless it is a FIFO, device or socket.
        data: content.
        sync: fsync the file; otherwise a power failure may lose the write.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path, data, sync=sync) as temporary:
            os.replace(temporary, path)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    return path


def remove_file(path: Path) -> None:
    """Remove a file, if there is one.

    Raises:
        OutputError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; OutputError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise unwritable(folder, error) from error


def unwritable(path: Path, error: OSError | ValueError) -> OutputError:
    """The OutputError for a failed write to path; a ValueError is that of a path with a NUL character."""
    what = f"{path} cannot be written"
    if isinstance(error, ValueError):
        return OutputError(what, expected="a valid path", got=error, fix="choose another path")
    return OutputError(what, got=error.strerror or error, fix=room_for(path))


def utf8_name(path: str | os.PathLike[str], what: str, error: type[ImpTrtError]) -> str:
    """A path or address for OpenCV, which ends the process if a name is not UTF-8.

    Args:
        what: what it names, for the message; its other bytes are shown as ``\\xff``.
        error: raised if the name is not UTF-8.
    """
    name = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError as cause:
        shown = what.encode(errors="backslashreplace").decode()
        raise error(
            re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", shown),
            expected="a name in UTF-8, which OpenCV needs",
            got="other bytes",
            fix="rename the file or folder",
        ) from cause
    return name


def resolved(path: str | os.PathLike[str]) -> Path:
    """An absolute path without links. Links that form a loop are kept: opening the file then reports them.

    Path.resolve() raises RuntimeError for those before Python 3.13. A relative path is kept, too, if the
    current folder was removed.
    """
    try:
        return Path(os.path.realpath(path))
    except FileNotFoundError:
        return Path(path)


def fixed(path: str | os.PathLike[str]) -> Path:
    """The path of an output, which stays the same if the program changes its current folder.

    Raises:
        OutputError: it is relative, and the current folder was removed.
    """
    try:
        return Path(path).absolute()
    except OSError as error:
        raise unwritable(Path(path), error) from error


def room_for(path: Path) -> str:
    """How to fix a failed write: a temporary file is not where the user chose."""
    if tempfile.tempdir is not None and resolved(path).is_relative_to(resolved(tempfile.tempdir)):
        return "free space in the temporary folder or set TMPDIR to another, or choose another path"
    return "choose another path, or free disk space"

# SPDX-License-Identifier: Apache-2.0
"""Atomic file writes."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imp_trt.errors import OutputError

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.part(\.\w+)?")
_LOCK = ".lock"
_MAX_FOLDERS = 256

# A scan takes at most this fraction of the time: a folder of 100,000 files takes 50 ms.
_SCAN_FRACTION = 0.01

_next_scan: dict[Path, float] = {}
"""Folder -> time.monotonic() before which it is not scanned again."""


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A new empty file in the folder of ``path``; removed on exit, including on KeyboardInterrupt.

    Rename it to ``path`` to keep it. It has the suffix of ``path``, since some writers choose the format by
    it. A lock shows that its process is alive: what a killed process leaves is removed by the next call for
    the same folder.

    Raises:
        OSError: the folder is not writable.
    """
    sweep(path.parent)
    temporary, descriptor = _create(path)
    try:
        yield temporary
    finally:
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
        OSError: the file cannot be written.
    """
    sweep(path.parent)
    unnamed = _create_unnamed(path.parent)
    temporary: Path | None = None
    try:
        if unnamed is not None:
            write_data(unnamed, data, sync=sync)
            temporary = _link(unnamed, path)
        if temporary is not None:
            yield temporary
            return
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if unnamed is not None:
            os.close(unnamed)
    with temporary_beside(path) as named:
        with named.open("rb+", buffering=0) as file:
            write_data(file.fileno(), data, sync=sync)
        yield named


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A new folder in the system's folder for temporary files; removed on exit.

    Folders of the same prefix whose process was killed are removed too.

    Raises:
        OSError: it cannot be created.
    """
    home = Path(tempfile.gettempdir())
    with suppress(OSError), os.scandir(home) as entries:
        for entry in list(entries):
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False):
                _remove_folder_if_dead(Path(entry.path))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        lock = folder / _LOCK
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _lock(descriptor) and _is_at(lock, descriptor):
            break
        os.close(descriptor)  # another process removed it before it was locked
    try:
        yield folder
    finally:
        # Files that cannot be deleted after a child process was killed are not an error.
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


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
    temporary = _temporary_name(path)
    try:
        # With a descriptor, which is not used, os.link follows the link in /proc.
        os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=descriptor, follow_symlinks=True)
    except OSError:
        return None
    return temporary


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.stem[:64]}.{secrets.token_hex(8)}.part{path.suffix}")


def _create(path: Path) -> tuple[Path, int]:
    """Create a locked temporary file; returns its path and the descriptor that holds the lock."""
    while True:
        temporary = _temporary_name(path)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if _lock(descriptor) and _is_at(temporary, descriptor):
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


def _is_at(path: Path, descriptor: int) -> bool:
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
            _remove_if_dead(folder / name)
    end = time.monotonic()
    if len(_next_scan) >= _MAX_FOLDERS:
        _next_scan.clear()
    _next_scan[folder] = end + (end - start) / _SCAN_FRACTION


def _remove_if_dead(temporary: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            # Fails while the process that made it, or a child of it, is alive: on this machine, in another
            # container, or on another client of a network file system.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
        finally:
            os.close(descriptor)


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
        with written_beside(path, data, sync=sync) as temporary:
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
        fix="choose another path, or free disk space",
    )

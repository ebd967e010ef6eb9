# SPDX-License-Identifier: Apache-2.0
"""Atomic file writes."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imp_trt.errors import OutputError

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.part(\.\w+)?")
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


def _create(path: Path) -> tuple[Path, int]:
    """Create a locked temporary file; returns its path and the descriptor that holds the lock."""
    while True:
        temporary = path.with_name(f".{path.stem[:64]}.{secrets.token_hex(8)}.part{path.suffix}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if _locked(descriptor) and _is_at(temporary, descriptor):
            return temporary, descriptor
        os.close(descriptor)  # another process swept it before it was locked


def _locked(descriptor: int) -> bool:
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


def write_and_sync(path: Path, data: bytes) -> None:
    """Write data to a file and fsync it."""
    with path.open("wb") as file:
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
        fix="choose another path, or free disk space",
    )

# SPDX-License-Identifier: Apache-2.0
"""File locks that give each piece of work to one of the processes on a machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imp_trt.data.files import (
    check_replaceable,
    create_temporary,
    is_at,
    make_folder,
    remove_if_dead,
    sweep,
    temporary_name,
    unwritable,
)
from imp_trt.errors import OutputError

_TRIES, _WAIT_S = 20, 0.01  # a process that sweeps holds the lock for a moment


class Busy(Exception):
    """Another process holds the lock.

    Attributes:
        holder: its process id, or "" if it is not known.
    """

    def __init__(self, path: str = "", holder: str = "") -> None:
        super().__init__(path)
        self.holder = holder


class LocksUnsupported(OutputError):
    """The file system has no file locks, as some network file systems: use a local folder."""


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file while the block runs.

    The operating system releases it if the process dies. The file is kept: removing it would let two
    processes hold locks on two files of the same name.

    Raises:
        Busy: the lock is held elsewhere; the call does not wait.
        LocksUnsupported: the file system has no locks.
        OutputError: the file cannot be created.
    """
    make_folder(path.parent)
    try:
        file = path.open("a+")
    except OSError as error:
        raise unwritable(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise Busy(str(path), file.read(32).strip()) from error
        except OSError as error:
            raise LocksUnsupported(
                f"{path} cannot be locked",
                got=error.strerror or error,
                fix="use a folder on a local disk, or a network file system with locks",
            ) from error
        owner = os.getpid()
        try:
            file.truncate(0)
            file.write(f"{owner}\n")
            file.flush()
        except OSError as error:  # a full disk
            raise unwritable(path, error) from error
        try:
            yield
        finally:
            if os.getpid() == owner:  # a forked process may have the file too, and leave the block as well
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def only_temporary_beside(path: Path) -> Iterator[Path]:
    """As temporary_beside, for one writer of ``path`` at a time, whether in this process or another.

    The file may be renamed to ``path`` while it is written: the lock stays with it. In a file system without
    locks, a second writer is not noticed.

    Raises:
        OSError: the folder is not writable, or there is a FIFO, device or socket at ``path``.
        OutputError: something else is writing ``path``.
    """
    check_replaceable(path)
    sweep(path.parent)
    temporary, descriptor = _create_only(path)
    owner = os.getpid()
    try:
        if _is_locked(path):  # another writer's temporary file, which it renamed
            raise _in_use(path)
        yield temporary
    finally:
        if os.getpid() == owner:  # a forked process leaves the file and its lock to its parent
            with suppress(OSError):
                # If it was renamed, the name may be that of the next writer's file.
                if is_at(temporary, descriptor):
                    temporary.unlink()
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked process may have the descriptor too
        os.close(descriptor)


def _create_only(path: Path) -> tuple[Path, int]:
    """Create the locked temporary file that all writers of a path share, and return its descriptor too."""
    temporary = temporary_name(path, hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16])
    for _ in range(_TRIES):
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            remove_if_dead(temporary)
            time.sleep(_WAIT_S)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(temporary, descriptor):
                return temporary, descriptor
        except BlockingIOError:
            pass  # a process that sweeps removes it
        except OSError:
            # Without locks, what a killed process leaves cannot be told from a file in use.
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
            return create_temporary(path)
        os.close(descriptor)
    raise _in_use(path)


def _is_locked(path: Path) -> bool:
    """Whether path is a regular file that is locked."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # opening a FIFO or device has effects
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: it is not open for writing
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _in_use(path: Path) -> OutputError:
    return OutputError(
        f"{path} cannot be written",
        expected="an output that nothing else is writing",
        got="one in use by another run, or by an open writer of this one",
        fix="choose another path, or wait until the other run ends",
    )

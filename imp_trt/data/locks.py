# SPDX-License-Identifier: Apache-2.0
"""File locks that give each piece of work to one of the processes on a machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imp_trt.data.files import make_folder, unwritable
from imp_trt.errors import OutputError


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
        try:
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        except OSError as error:  # a full disk
            raise unwritable(path, error) from error
        yield

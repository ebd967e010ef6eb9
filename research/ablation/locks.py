# SPDX-License-Identifier: Apache-2.0
"""File locks that give each piece of work to one of the processes on a machine."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imp_trt.data.files import make_folder, unwritable


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file while the block runs.

    The operating system releases it if the process dies. The file is kept: removing it would let two
    processes hold locks on two files of the same name.

    Raises:
        Busy: the lock is held elsewhere; the call does not wait.
        OutputError: the file cannot be created.
    """
    make_folder(path.parent)
    try:
        file = path.open("a")
    except OSError as error:
        raise unwritable(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(str(path)) from error
        yield

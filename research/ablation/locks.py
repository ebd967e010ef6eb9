"""One worker for each piece of work, among any number of processes on one machine."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imp_trt.files import make_folder, unwritable


class Busy(Exception):
    """Another process works on this."""


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs. The system frees it when the process dies, however it dies.

    The file stays: removing it would let two processes hold locks on two files of one name.

    Raises:
        Busy: another holder has it; nothing is waited for.
        OutputError: the file cannot be made.
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

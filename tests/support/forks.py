# SPDX-License-Identifier: Apache-2.0
"""Work in a forked process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LIMIT_S = 60


def in_child(work: Callable[[], object]) -> int:
    """Exit code of a forked process that does the work: 0, 1 after an exception, -SIGALRM after LIMIT_S."""
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def living_child() -> Iterator[None]:
    """A forked process that does nothing until the block ends."""
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        while True:
            signal.pause()
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C as the regular end of a run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from types import FrameType


@contextmanager
def stop_on_interrupt(active: bool = True) -> Iterator[Event]:
    """Context manager: the first Ctrl-C, SIGTERM or SIGHUP sets an event, the second interrupts.

    A camera never ends by itself, and the frames of a long video that are done are worth keeping:

    >>> with stop_on_interrupt() as stopped:
    ...     run_pipeline(segmenter, camera, sinks, on_progress=lambda state: not stopped.is_set())

    Has no effect outside the main thread, which receives the signals, and on signals that are ignored (as
    Ctrl-C is by background jobs of a shell) or handled by code other than Python's.

    Args:
        active: False has no effect.
    """
    stopped = Event()
    numbers = (
        [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if active and current_thread() is main_thread() else []
    )
    before = {
        number: handler
        for number in numbers
        if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        stopped.set()
        restore()

    for number in before:
        signal.signal(number, end)
    try:
        yield stopped
    finally:
        restore()

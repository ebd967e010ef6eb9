"""Ctrl-C as the ordinary end of a run that has no other."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from types import FrameType


@contextmanager
def interrupt_ends(active: bool = True) -> Iterator[Event]:
    """The first Ctrl-C or SIGTERM sets an event, the second interrupts as usual.

    A camera has no end of its own, and a run that KeyboardInterrupt ends leaves no files:

    >>> with interrupt_ends() as ended:
    ...     run_pipeline(segmenter, camera, sinks, on_progress=lambda state: not ended.is_set())

    Outside the main thread, which gets the signals, it does nothing; nor with a signal that is ignored, as
    Ctrl-C is by a shell's background jobs, or handled by other than Python code.

    Args:
        active: False does nothing, for runs that may turn out to read files only.
    """
    ended = Event()
    numbers = [signal.SIGINT, signal.SIGTERM] if active and current_thread() is main_thread() else []
    before = {
        number: handler
        for number in numbers
        if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()
        restore()

    for number in before:
        signal.signal(number, end)
    try:
        yield ended
    finally:
        restore()

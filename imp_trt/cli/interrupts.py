# SPDX-License-Identifier: Apache-2.0
"""The second Ctrl-C ends a command, even one that is inside a native call."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_INTERRUPTED = 130

TOGETHER_S = 0.5
"""Signals closer than this count as one: a terminal and a launcher such as torchrun both send them."""

GRACE_S = 3.0
"""Time that a command has to end by itself after the second signal, to remove partial files."""

_ENDS = (signal.SIGTERM, signal.SIGHUP)
"""Signals besides Ctrl-C that end a command: of a service manager, and of a terminal that is closed."""

_NUMBERS = (signal.SIGINT, *_ENDS)


@contextmanager
def ends_by_second_signal(grace_s: float = GRACE_S) -> Iterator[None]:
    """Context manager of a command: SIGTERM and SIGHUP unwind the stack as Ctrl-C does, the second ends it.

    Python calls signal handlers between two of its instructions. Inside a call that does not return, such as
    a GPU that hangs or a network whose loop does not end, they are never called. Here a thread, which needs
    no Python from the main thread, waits for the second of these signals, leaves the command ``grace_s`` to
    unwind, and then ends the process with exit code 130; a third signal ends it at once. After an interrupted
    command they have their default action, since the end of the process can hang as well. A SIGHUP that is
    ignored, as under nohup, stays ignored.

    Has no effect outside the main thread, which receives the signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received, sending = socket.socketpair()
    sending.setblocking(False)
    ends = [n for n in _ENDS if n == signal.SIGTERM or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, _interrupt) for number in ends}
    wakeup = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    watch = _Watch(received, grace_s)
    watch.start()
    unwound = False
    try:
        yield
    except KeyboardInterrupt:
        unwound = True
        raise
    finally:
        signal.set_wakeup_fd(wakeup)
        sending.close()
        watch.join()
        received.close()
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        if unwound and watch.interrupted:
            for number in (signal.SIGINT, *ends):
                signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Watch(threading.Thread):
    """Reads the numbers of signals from a socket until its other end is closed."""

    def __init__(self, received: socket.socket, grace_s: float) -> None:
        super().__init__(name="imp-trt signals", daemon=True)
        self._received, self._grace_s = received, grace_s
        self.interrupted = False

    def run(self) -> None:
        first = None
        while True:
            number = self._next(None)
            if number is None:
                return
            self.interrupted = True
            if first is None:
                first = time.monotonic()
            elif time.monotonic() - first >= TOGETHER_S:
                break
        # A third signal, or silence until the end of the grace period; None: the command has ended.
        if self._next(self._grace_s) is not None:
            with suppress(OSError, ValueError):
                sys.stderr.write("interrupted again: ended within a call that does not return\n")
                sys.stderr.flush()
            os._exit(EXIT_INTERRUPTED)

    def _next(self, timeout_s: float | None) -> int | None:
        """The next signal, 0 after the timeout, None at the end of the command."""
        self._received.settimeout(timeout_s)
        while True:
            try:
                data = self._received.recv(1)
            except TimeoutError:
                return 0
            if not data:
                return None
            if data[0] in _NUMBERS:
                return data[0]

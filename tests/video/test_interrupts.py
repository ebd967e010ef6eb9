# SPDX-License-Identifier: Apache-2.0
"""The first Ctrl-C ends, the second interrupts."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from threading import Thread

import pytest

from imp_trt.video import stop_on_interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_ends_and_the_second_interrupts(number: signal.Signals) -> None:
    seen: list[bool] = []

    def run() -> None:
        with stop_on_interrupt() as ended:
            seen.append(ended.is_set())
            os.kill(os.getpid(), number)
            seen.append(ended.wait(1))
            os.kill(os.getpid(), number)
            time.sleep(0.2)
            seen.append(True)

    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run()
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert seen == [False, True]


def test_inactive_and_in_other_threads_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt(False) as ended:
        assert signal.getsignal(signal.SIGINT) is before
    assert not ended.is_set()
    seen: list[object] = []

    def elsewhere() -> None:
        with stop_on_interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = Thread(target=elsewhere)
    thread.start()
    thread.join(2)
    assert seen == [before]


def test_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with suppress(ValueError), stop_on_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
        raise ValueError
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("handler", [signal.SIG_IGN, None])
def test_a_signal_that_is_ignored_or_not_pythons_stays_so(
    handler: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell has its background jobs ignore Ctrl-C; a program around Python has handlers of its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patched:
        patched.setattr(signal, "getsignal", lambda number: handler)
        with stop_on_interrupt() as ended:
            pass
    assert not ended.is_set()
    assert {number: signal.getsignal(number) for number in before} == before

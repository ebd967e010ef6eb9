# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C in a call that does not return."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

# A call into C that waits without end; a signal does not interrupt it.
STUCK = """
import ctypes, sys
from imp_trt.cli.common import run_command
libc = ctypes.CDLL(None)
def body():
    print("ready", flush=True)
    lock = ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)  # waits for itself
sys.exit(run_command(body))
"""

POLITE = """
import sys, time
from imp_trt.cli.common import run_command
def body():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(float(sys.argv[1]))
        print("cleaned", flush=True)
sys.exit(run_command(body))
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # until it is in the call
    return process


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)],
)
def test_the_second_signal_ends_a_stuck_command(numbers: tuple[int, int]) -> None:
    process = start(STUCK)
    process.send_signal(numbers[0])
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(numbers[1])
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "interrupted again" in err


@pytest.mark.slow
def test_a_third_signal_does_not_wait() -> None:
    process = start(STUCK)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.7)
    process.communicate(timeout=2)
    assert process.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_unwinds(number: int) -> None:
    process = start(POLITE, "0")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == "cleaned\n"
    assert err == "interrupted\n"


@pytest.mark.slow
def test_signals_that_come_together_are_one() -> None:
    """A terminal and a launcher send the same one; the command still has all the time it needs."""
    process = start(POLITE, "4")
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 130

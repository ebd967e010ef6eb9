# SPDX-License-Identifier: Apache-2.0
"""Child processes with a time limit, whose lines arrive while they run."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from checkout import ROOT, environment

TIMEOUT_EXIT = 124
DRAIN_S = 5  # for the last lines of a process that has ended; a grandchild may hold the pipe open


class Child:
    """A command in the root of the checkout, in a process group of its own.

    Args:
        command: program and arguments.
        on_line: called with each line of standard output, in a thread.

    Attributes:
        errors: lines of standard error.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(self, command: Sequence[str], on_line: Callable[[str], None]) -> None:
        self.errors: list[str] = []
        # Its own group, so that compilers and other children of it end with it.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=environment(),
            text=True,
            errors="replace",
            start_new_session=True,
        )
        streams = ((self._process.stdout, on_line), (self._process.stderr, self.errors.append))
        self._readers = [threading.Thread(target=self._read, args=stream, daemon=True) for stream in streams]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: object, on_line: Callable[[str], None]) -> None:
        for line in stream:  # type: ignore[attr-defined]  # of a Popen with pipes
            on_line(line.rstrip("\n"))

    def wait(self, timeout_s: float) -> int | None:
        """Exit code, or None if the process still runs after timeout_s."""
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(max(timeout_s, 0))
            for reader in self._readers:
                reader.join(DRAIN_S)
            return code
        return None

    def end(self, grace_s: float = 3) -> None:
        """End the process and what it started; SIGTERM first, so that it can remove its files."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            if self.wait(grace_s) is not None and sign == signal.SIGKILL:
                return

"""Interrupting and continuing a run: the saved state, signals, the time budget."""

from __future__ import annotations

import io
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from imp_trt.data.files import write_atomically
from imp_trt.errors import CheckpointError, ImpTrtError, UsageError

PARTS = frozenset({"network", "optimiser", "identity", "step", "log"})
"""What a saved state holds."""


SECOND_AFTER = 2.0
"""Signals closer than this (seconds) are one request: torchrun passes on what the terminal has sent too."""


class TimeBudgetSpent(ImpTrtError):
    """The run's deadline has come; the state is saved: run the same again with more time."""


class StopRequest:
    """Whether the run should save its state and stop: after SIGINT, SIGTERM, or at the deadline.

    The first signal lets the step in progress finish; a second one, SECOND_AFTER seconds later or
    more, interrupts at once. Outside the main thread signals are left alone.

    Args:
        deadline: a :func:`time.monotonic` time, or None.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline = deadline
        self._before: dict[int, Any] = {}
        self.signalled = False
        self._first = 0.0

    @property
    def wanted(self) -> bool:
        """Whether to stop at this step boundary."""
        return self.signalled or self.late

    @property
    def late(self) -> bool:
        """Whether the deadline has come."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.signalled:
            self.signalled, self._first = True, time.monotonic()
        elif time.monotonic() - self._first >= SECOND_AFTER:
            raise KeyboardInterrupt


def save_state(path: Path, parts: dict[str, Any]) -> None:
    """Write PARTS, tensors and plain data, to path: the whole of it or nothing."""
    buffer = io.BytesIO()
    torch.save(parts, buffer)
    write_atomically(path, buffer.getvalue())


def read_state(path: Path, identity: str) -> dict[str, Any] | None:
    """What :func:`save_state` wrote for the same run, on the CPU; None without a file.

    Raises:
        CheckpointError: the file is damaged.
        UsageError: it belongs to another run.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many unrelated types for a damaged file
        raise _damaged(path, type(error).__name__) from error
    if not isinstance(state, dict) or not PARTS <= set(state):
        raise _damaged(path, "parts missing")
    require_same_run(path, state["identity"], identity)
    return state


def _damaged(path: Path, got: str) -> CheckpointError:
    return CheckpointError(f"saved state {path}", expected="a whole file", got=got, fix="delete the file")


def require_same_run(path: Path, found: object, identity: str) -> None:
    """UsageError unless what was found in a file is the identity of this run."""
    if found != identity:
        raise UsageError(
            f"{path} belongs to another run",
            expected="the same data, seed, recipe and network",
            got="a file that was made with others",
            fix="choose another folder with -o, or delete the file",
        )

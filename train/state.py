# SPDX-License-Identifier: Apache-2.0
"""Interrupting and resuming a run: the saved state, signals, the time budget."""

from __future__ import annotations

import hashlib
import io
import logging
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from imp_trt.data.files import read_regular, write_atomically
from imp_trt.errors import CheckpointError, ImpTrtError, UsageError
from imp_trt.train.log import LogState

if TYPE_CHECKING:
    from imp_trt.train.validation import ValidationScores

PARTS = frozenset({"network", "optimiser", "identity", "step", "log"})
"""Keys of a saved state."""

VALIDATION_KEY = "validation_facts"
"""Key of :class:`ValidationFacts` in saved states and in the metadata of checkpoints."""

MAX_STATE_BYTES = 16 << 30

_CHECKSUM = b"imp_trt.sha256:"
"""Between the state and the 32 bytes of its SHA-256; torch.load reads a file that has more at its end."""

_log = logging.getLogger(__name__)

SECOND_AFTER = 2.0
"""Signals closer than this (seconds) count as one: the terminal and torchrun both send them."""


class TimeBudgetSpent(ImpTrtError):
    """The run reached its deadline; the state is saved: run the same command again with more time."""


_Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class ValidationFacts(TypedDict):
    """What the scores of a validation depend on besides the weights: digest of its data, steps between."""

    data: str
    every: int


class _Later(TypedDict, total=False):
    """Keys that are missing in older states."""

    sources: list[str]
    data_digest: str
    average: dict[str, Tensor]  # with Recipe.ema_decay
    validation: list[ValidationScores]  # with Run.validation
    validation_facts: ValidationFacts | None
    canvas_scale: float  # of the network's config


class TrainingState(_Later):
    """Content of a saved state."""

    network: dict[str, Tensor]
    optimiser: dict[str, dict[str, object]]  # the stored key predates the American spelling
    identity: str
    step: int
    log: LogState


class StopRequest:
    """Whether the run should save its state and stop: after SIGINT, SIGTERM, SIGHUP, or at the deadline.

    After the first signal the current step finishes; a second one, at least SECOND_AFTER seconds later,
    interrupts immediately. A SIGHUP that is ignored, as under nohup, stays ignored. Outside the main thread
    no signal handlers are installed.

    Args:
        deadline: a :func:`time.monotonic` time, or None.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline = deadline
        self._previous: dict[int, _Handler] = {}
        self.signaled = False
        self._first = 0.0

    @property
    def requested(self) -> bool:
        """Whether to stop at this step boundary."""
        return self.signaled or self.expired

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            # None: the previous handler was not installed from Python.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.signaled:
            self.signaled, self._first = True, time.monotonic()
        elif time.monotonic() - self._first >= SECOND_AFTER:
            raise KeyboardInterrupt


def save_state(path: Path, state: TrainingState) -> None:
    """Write a state atomically, followed by its checksum: torch.load does not notice a changed tensor."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getvalue()
    write_atomically(path, data + _CHECKSUM + hashlib.sha256(data).digest())


def read_state(path: Path, identity: str, data_digest: str | None = None) -> TrainingState | None:
    """Read a state of the same run, with tensors on the CPU; None if there is no file.

    Args:
        path: the saved state.
        identity: identity of the run.
        data_digest: digest of its dataset's content, if that is to be compared too.

    Raises:
        CheckpointError: the file is damaged.
        UsageError: it belongs to another run.
    """
    if not path.exists():
        return None
    try:
        data = _checked(path, read_regular(path, MAX_STATE_BYTES))
        state: TrainingState = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises many unrelated types for a damaged file
        raise _damaged(path, type(error).__name__) from error
    if not isinstance(state, dict) or not PARTS <= set(state):
        raise _damaged(path, "missing keys")
    require_same_run(path, state["identity"], identity)
    require_same_data(path, state.get("data_digest"), data_digest)
    return state


def _checked(path: Path, data: bytes) -> bytes:
    """The state in a file without the checksum behind it; CheckpointError if they do not match."""
    end = len(data) - hashlib.sha256().digest_size
    start = max(0, end - len(_CHECKSUM))
    if data[start:end] != _CHECKSUM:
        _log.warning("%s has no checksum, as those of earlier versions: damage is not noticed", path)
        return data
    if hashlib.sha256(data[:start]).digest() != data[end:]:
        raise _damaged(path, "another checksum than when it was saved")
    return data[:start]


def _damaged(path: Path, got: str) -> CheckpointError:
    return CheckpointError(f"saved state {path}", expected="a complete file", got=got, fix="delete the file")


def require_same_run(path: Path, actual: object, identity: str) -> None:
    """Raise UsageError if a file's identity is not that of this run."""
    if actual != identity:
        raise UsageError(
            f"{path} belongs to another run",
            expected="the same data, seed, recipe, network and initial weights, and with --patience the same "
            "--val, --val-every and --patience",
            got="a file made with others, or by an earlier version",
            fix="choose another folder with -o, or delete the file",
        )


def require_same_data(path: Path, actual: object, data_digest: str | None) -> None:
    """Raise UsageError if a file was made with other images or labels; older files do not record them."""
    if None not in (actual, data_digest) and actual != data_digest:
        raise UsageError(
            f"{path} was made with other images or labels of the same dataset, "
            "or by an earlier version with other digests",
            expected=f"data {data_digest}",
            got=f"data {actual}",
            fix="choose another folder with -o, restore the data, or delete the file",
        )


def require_same_validation(
    path: Path, recorded: Mapping[str, object], validation: ValidationFacts | None
) -> None:
    """Raise UsageError if a file was made with another validation; older files do not record it.

    Args:
        path: file of a stage.
        recorded: its metadata, or the saved state.
        validation: the validation of this run; None if it has none.
    """
    before = recorded.get(VALIDATION_KEY, validation)
    if before != validation:
        raise UsageError(
            f"{path} was made with another validation",
            expected=_described(validation),
            got=_described(before),
            fix="the same --val and --val-every, or choose another folder with -o",
        )


def _described(validation: object) -> str:
    """A validation in words."""
    if not isinstance(validation, Mapping):
        return "no validation"
    return f"data {validation.get('data')} every {validation.get('every')} steps"

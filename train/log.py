# SPDX-License-Identifier: Apache-2.0
"""Training log: mean losses as JSON lines, a progress bar, an estimate of the remaining time."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypedDict

from imp_trt.data.files import make_folder, read_regular, unwritable, write_atomically
from imp_trt.errors import OutputError

LOG_EVERY = 20
"""Steps per log line, and before the estimate of the remaining time."""

_MAX_BYTES = 1 << 30

_LOGGER = logging.getLogger("imp_trt.train")


class _ProgressBar(Protocol):
    """The methods of tqdm that are used."""

    def update(self, n: int) -> object: ...

    def set_postfix(self, *, loss: str) -> None: ...

    def close(self) -> None: ...


class LogState(TypedDict, total=False):
    """Data to resume a log; empty before the first step."""

    sums: dict[str, float]
    seen: int
    seconds: float


class TrainingLog:
    """Mean losses as JSON lines, and a progress bar on stderr.

    Args:
        path: file of JSON lines; lines of steps after ``first`` are removed. None disables file and
            progress bar (for processes of rank above 0).
        total: steps of the stage.
        first: step at which the run starts or resumes.
        previous: :meth:`state` of the run that is resumed, so that its lines are the same as without a stop.
        quiet: no progress bar, no estimate.
        on_line: called with step and values of each line.
    """

    def __init__(
        self,
        path: Path | None,
        total: int,
        first: int,
        previous: LogState,
        quiet: bool,
        on_line: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        self.path, self.total, self.first = path, total, first
        self.quiet = quiet or path is None or bool(os.environ.get("IMP_TRT_NO_PROGRESS"))
        self._sums: dict[str, float] = dict(previous.get("sums", {}))
        self._seen = int(previous.get("seen", 0))
        self._start = time.monotonic()
        self._previous_seconds = float(previous.get("seconds", 0.0))
        self._on_line = on_line
        self._bar: _ProgressBar

    @property
    def seconds(self) -> float:
        """Duration of the stage so far, including interrupted runs."""
        return self._previous_seconds + time.monotonic() - self._start

    def state(self) -> LogState:
        """Plain data to resume the log."""
        return {"sums": dict(self._sums), "seen": self._seen, "seconds": self.seconds}

    def __enter__(self) -> TrainingLog:
        from tqdm import tqdm

        if self.path is not None:
            make_folder(self.path.parent)
            self._drop_repeated_steps(self.path)
        # Every 20 s if stderr is a file, to keep it short.
        interval = 0.1 if sys.stderr.isatty() else 20.0
        self._bar = tqdm(
            total=self.total,
            initial=self.first,
            desc=self.path.stem if self.path is not None else None,
            unit="it",
            mininterval=interval,
            disable=self.quiet,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def _drop_repeated_steps(self, path: Path) -> None:
        try:
            lines = read_regular(path, _MAX_BYTES).splitlines(keepends=True)
            # A killed process may leave an incomplete last line.
            complete = [line for line in lines if line.endswith(b"\n")]
            kept = [line for line in complete if json.loads(line)["step"] <= self.first]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise OutputError(
                f"training log {path}",
                expected="no file, or the JSON lines of this run",
                got=f"{type(error).__name__}: {error}"[:300],
                fix="move the file away",
            ) from error
        write_atomically(path, b"".join(kept))

    def add(self, step: int, losses: dict[str, float], lr: float) -> None:
        """Add a step; every LOG_EVERY steps a line is written.

        Raises:
            OutputError: the line cannot be written.
        """
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._seen += 1
        self._bar.update(1)
        if step + 1 == self.first + LOG_EVERY:
            self._estimate(step + 1)
        if self._seen < LOG_EVERY and step + 1 < self.total:
            return
        means = {name: round(value / self._seen, 5) for name, value in self._sums.items()}
        line = {"step": step + 1, "lr": lr, "seconds": round(self.seconds, 2), **means}
        if self.path is not None:
            try:
                with self.path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:
                raise unwritable(self.path, error) from error
            if self._on_line is not None:
                self._on_line(step + 1, {"lr": lr, **means})
        self._bar.set_postfix(loss=f"{sum(means.values()):.3f}")
        self._sums, self._seen = {}, 0

    def _estimate(self, done: int) -> None:
        if self.quiet or self.path is None or done >= self.total:
            return
        per_step = (time.monotonic() - self._start) / LOG_EVERY
        remaining = per_step * (self.total - done)
        units = ((7200, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))
        size, unit = next((size, unit) for minimum, size, unit in units if remaining >= minimum)
        text = f"{remaining / size:.1f} {unit}" if unit == "hours" else f"{remaining / size:.0f} {unit}"
        _LOGGER.info(
            "%s: %.2f s per step, about %s for the remaining %d steps",
            self.path.stem,
            per_step,
            text,
            self.total - done,
        )

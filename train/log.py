"""What a run tells while it trains: mean losses as JSON lines, a progress bar, the time it will take."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from imp_trt.data.files import make_folder, write_atomically

LOG_EVERY = 20
"""Steps between two lines, and before the first estimate of the time."""

_LOGGER = logging.getLogger("imp_trt.train")


class TrainingLog:
    """Mean losses as JSON lines, and a progress bar with the time left on stderr.

    Args:
        path: file of JSON lines; lines of steps past ``first`` are dropped. None writes and shows
            nothing (the processes of rank above 0).
        total: steps of the stage.
        first: step that the run starts or continues from.
        before: :meth:`state` of the run that is continued, so that its lines come out the same.
        quiet: no progress bar, no estimate.
    """

    def __init__(
        self, path: Path | None, total: int, first: int, before: dict[str, Any], quiet: bool
    ) -> None:
        self.path, self.total, self.first = path, total, first
        self.quiet = quiet or path is None or bool(os.environ.get("IMP_TRT_NO_PROGRESS"))
        self._sums: dict[str, float] = dict(before.get("sums", {}))
        self._seen = int(before.get("seen", 0))
        self._began = time.monotonic()
        self._spent = float(before.get("seconds", 0.0))
        self._bar: Any = None

    @property
    def seconds(self) -> float:
        """Time spent on the stage, that of interrupted runs included."""
        return self._spent + time.monotonic() - self._began

    def state(self) -> dict[str, Any]:
        """What a later run needs to continue the log, as plain data."""
        return {"sums": dict(self._sums), "seen": self._seen, "seconds": self.seconds}

    def __enter__(self) -> TrainingLog:
        from tqdm import tqdm

        if self.path is not None:
            make_folder(self.path.parent)
            self._forget_lost_steps(self.path)
        # Every 20 s where stderr is a file, so that logs stay short.
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

    def _forget_lost_steps(self, path: Path) -> None:
        if path.is_file():
            lines = path.read_text().splitlines(keepends=True)
            # A kill may leave half a line at the end.
            whole = [line for line in lines if line.endswith("\n")]
            kept = [line for line in whole if json.loads(line)["step"] <= self.first]
            write_atomically(path, "".join(kept).encode())

    def add(self, step: int, losses: dict[str, float], rate: float) -> None:
        """Count a step; every LOG_EVERY steps a line is written."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._seen += 1
        self._bar.update(1)
        if step + 1 == self.first + LOG_EVERY:
            self._estimate(step + 1)
        if self._seen < LOG_EVERY and step + 1 < self.total:
            return
        means = {name: round(value / self._seen, 5) for name, value in self._sums.items()}
        line = {"step": step + 1, "lr": rate, "seconds": round(self.seconds, 2), **means}
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        self._bar.set_postfix(loss=f"{sum(means.values()):.3f}")
        self._sums, self._seen = {}, 0

    def _estimate(self, done: int) -> None:
        if self.quiet or self.path is None or done >= self.total:
            return
        each = (time.monotonic() - self._began) / LOG_EVERY
        left = each * (self.total - done)
        units = ((7200, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))
        size, unit = next((size, unit) for least, size, unit in units if left >= least)
        text = f"{left / size:.1f} {unit}" if unit == "hours" else f"{left / size:.0f} {unit}"
        _LOGGER.info(
            "%s: %.2f s a step, about %s for the %d steps left",
            self.path.stem,
            each,
            text,
            self.total - done,
        )

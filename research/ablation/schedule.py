# SPDX-License-Identifier: Apache-2.0
"""Fills cells in order until all are done or the time budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imp_trt.data.locks import Busy
from imp_trt.errors import ImpTrtError
from imp_trt.train.optimizer import TrainingDiverged
from imp_trt.train.state import TimeBudgetSpent
from research.ablation.cells import Cell

POLL_SECONDS = 20.0


@dataclass
class Outcome:
    """Result of :func:`fill`.

    Attributes:
        finished: cells that were filled.
        failed: cells whose training diverged, with the error message.
        left: cells that still have no result.
    """

    finished: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)
    left: list[Cell] = field(default_factory=list)


def fill(
    cells: Sequence[Cell],
    done: Callable[[Cell], bool],
    work: Callable[[Cell], None],
    *,
    deadline: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Fill the first missing cell that is not locked, until no cell is missing.

    Args:
        cells: most important first.
        done: whether a cell has a result.
        work: fills one cell. May raise Busy if another process holds the cell or its stage one, and
            TimeBudgetSpent if it stopped at the deadline; a later call then continues.
        deadline: time on ``clock`` after which no cell is started.
        clock, wait: for tests.

    Raises:
        ImpTrtError: any error raised by ``work`` except TrainingDiverged, which is recorded in the outcome.
    """
    outcome = Outcome()
    spent = False
    while not spent:
        busy = False
        # Restart after each cell: a cell that was locked may be free by now.
        for cell in cells:
            if deadline is not None and clock() >= deadline:
                spent = True
                break
            if cell in outcome.failed or done(cell):
                continue
            try:
                work(cell)
            except Busy:
                busy = True
                continue
            except TimeBudgetSpent:
                spent = True
            except TrainingDiverged as error:
                outcome.failed[cell] = str(error)
            else:
                if not done(cell):
                    raise ImpTrtError(f"cell {cell.name}", expected="its results", got="none")
                outcome.finished.append(cell)
            break
        else:
            if not busy:
                break
            wait(POLL_SECONDS)
    outcome.left = [c for c in cells if c not in outcome.failed and not done(c)]
    return outcome

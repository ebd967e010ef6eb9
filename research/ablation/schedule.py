"""Fills cells in their order until all are done or the time is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imp_trt.errors import ImpTrtError
from imp_trt.train.optimiser import TrainingDiverged
from imp_trt.train.state import TimeBudgetSpent
from research.ablation.cells import Cell
from research.ablation.locks import Busy

POLL_SECONDS = 20.0


@dataclass
class Outcome:
    """What one call of :func:`fill` did.

    Attributes:
        finished: cells that were filled.
        failed: cells whose training diverged, with the message.
        left: cells that are still missing.
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
    """Work on the first cell that is missing and free, until none is missing.

    Args:
        cells: most important first.
        done: whether a cell's results are there.
        work: fills one cell. Busy: another process has it, or something it needs; TimeBudgetSpent: it
            stopped at the deadline and will continue when called again.
        deadline: on the clock; no cell is begun after it.
        clock, wait: replaced in tests.

    Raises:
        ImpTrtError: whatever work raises, except for a training that diverged: the others go on.
    """
    outcome = Outcome()
    spent = False
    while not spent:
        busy = False
        # From the start after each cell: what another process needed may have become free.
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

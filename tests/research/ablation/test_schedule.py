# SPDX-License-Identifier: Apache-2.0
"""Filling cells: order, budget, other processes, failures. Nothing is trained here."""

from __future__ import annotations

import pytest

from imp_trt.data.locks import Busy
from imp_trt.errors import CheckpointError, ImpTrtError
from imp_trt.train.optimizer import TrainingDiverged
from imp_trt.train.state import TimeBudgetSpent
from research.ablation.cells import CONTROL, HEADLINE, Cell
from research.ablation.schedule import POLL_SECONDS, fill

A, B, C = Cell(CONTROL, "base", 0), Cell(HEADLINE, "base", 0), Cell(CONTROL, "base", 1)


class Workshop:
    """Fills cells at once, except for those told otherwise; a call lasts ten seconds of its clock."""

    def __init__(self, **errors: Exception) -> None:
        self.errors = errors
        self.results: set[Cell] = set()
        self.tried: list[Cell] = []
        self.waited: list[float] = []
        self.now = 0.0

    def work(self, cell: Cell) -> None:
        self.tried.append(cell)
        self.now += 10
        error = self.errors.get(cell.name.replace("-", "_"))
        if error is not None:
            raise error
        self.results.add(cell)

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds
        self.errors.clear()

    def fill(self, cells, **options):
        return fill(
            cells,
            self.results.__contains__,
            self.work,
            clock=lambda: self.now,
            wait=self.wait,
            **options,
        )


def test_cells_are_filled_in_order_and_done_ones_left_alone():
    shop = Workshop()
    shop.results = {B}
    outcome = shop.fill([A, B, C])
    assert shop.tried == outcome.finished == [A, C]
    assert (outcome.left, outcome.failed) == ([], {})


def test_what_another_process_has_is_skipped_and_waited_for_in_the_end():
    shop = Workshop(panoptic_fpn_base_s0=Busy())
    outcome = shop.fill([A, B, C])
    # The first is tried again before each other cell: it may have become free.
    assert shop.tried == [A, B, A, C, A, A]
    assert outcome.finished == [B, C, A]
    assert shop.waited == [POLL_SECONDS]


def test_no_cell_is_begun_after_the_deadline():
    shop = Workshop()
    outcome = shop.fill([A, B, C], deadline=15.0)
    assert outcome.finished == [A, B]
    assert outcome.left == [C]


def test_waiting_for_another_process_ends_at_the_deadline():
    shop = Workshop(panoptic_fpn_base_s0=Busy())
    shop.wait = lambda seconds: setattr(shop, "now", shop.now + seconds)  # type: ignore[method-assign]
    outcome = shop.fill([A], deadline=100.0)
    assert outcome.left == [A]
    assert shop.now < 150


def test_a_stage_stopped_at_the_deadline_ends_the_work_and_stays_on_the_list():
    shop = Workshop(panoptic_fpn_imp_base_s0=TimeBudgetSpent("training"))
    outcome = shop.fill([A, B, C])
    assert shop.tried == [A, B]
    assert (outcome.finished, outcome.left, outcome.failed) == ([A], [B, C], {})


def test_a_diverged_training_does_not_stop_the_others():
    shop = Workshop(panoptic_fpn_base_s0=TrainingDiverged("training", got="nan"))
    outcome = shop.fill([A, B])
    assert shop.tried == [A, B]
    assert outcome.finished == [B]
    assert "nan" in outcome.failed[A]
    assert outcome.left == []


def test_any_other_error_stops_everything():
    shop = Workshop(panoptic_fpn_base_s0=CheckpointError("stage one"))
    with pytest.raises(CheckpointError):
        shop.fill([A, B])


def test_work_that_leaves_no_results_is_an_error_and_no_endless_loop():
    with pytest.raises(ImpTrtError, match="panoptic-fpn-base-s0"):
        fill([A], lambda cell: False, lambda cell: None)

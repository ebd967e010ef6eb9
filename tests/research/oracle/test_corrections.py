# SPDX-License-Identifier: Apache-2.0
"""Detections corrected step by step to the ground truth."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch")

import torch
from torch import Tensor

from imp_trt.models.checkpoint import save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import system
from research.ablation.canvas_override import Drawn
from research.oracle.__main__ import table
from research.oracle.corrections import CORRECTIONS, match
from tests.research.ablation.test_canvas_override import Photos
from tests.support.pictures import CLASSES

OWN, NO_FALSE, CLASS, SCORE, MASK, ALL = CORRECTIONS.values()


def drawn(boxes: list[list[float]], scores: list[float], labels: list[int], mask: float) -> Drawn:
    side = torch.full((len(boxes), 2, 2), mask)
    return Drawn(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels), side)


TRUTH = drawn([[0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]], [1, 1, 1], [0, 1, 1], 1.0)
# The first object by two detections, of which the later one has the better box; the second with a wrong
# class; one detection of nothing; the third object is missed.
DETECTED = drawn(
    [[0, 0, 10, 8], [20, 0, 30, 9], [0, 0, 10, 10], [80, 80, 90, 90]], [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 1], 0.5
)


def values(of: Drawn) -> tuple[list[list[float]], list[float], list[int], Tensor]:
    return of.boxes.tolist(), of.scores.tolist(), of.labels.tolist(), of.masks


def test_matching() -> None:
    matched = match(DETECTED, TRUTH)
    assert matched.detections.tolist() == [0, 1]
    assert matched.objects.tolist() == [0, 1]
    assert set(range(len(TRUTH.labels))) - set(matched.objects.tolist()) == {2}, "the missed one"


def test_the_higher_score_takes_the_object_whatever_the_order_of_the_rows() -> None:
    detected = drawn([[0, 0, 10, 10], [0, 0, 10, 9]], [0.3, 0.9], [0, 0], 0.5)
    assert match(detected, TRUTH).detections.tolist() == [1]


def test_each_step_contains_the_ones_before_it() -> None:
    assert OWN(DETECTED, TRUTH) is DETECTED
    boxes = DETECTED.boxes[:2].tolist()
    for change, scores, labels in (
        (NO_FALSE, [0.9, 0.8], [0, 0]),
        (CLASS, [0.9, 0.8], [0, 1]),
        (SCORE, [1.0, 1.0], [0, 1]),
    ):
        found = change(DETECTED, TRUTH)
        assert found.boxes.tolist() == boxes
        torch.testing.assert_close(found.scores, torch.tensor(scores))
        assert found.labels.tolist() == labels
        assert found.masks.tolist() == [[[0.5, 0.5], [0.5, 0.5]]] * 2
    found = MASK(DETECTED, TRUTH)
    assert (found.boxes.tolist(), found.labels.tolist()) == (TRUTH.boxes[:2].tolist(), [0, 1])
    assert bool((found.masks == 1).all())
    assert ALL(DETECTED, TRUTH) is TRUTH


@pytest.mark.parametrize("change", CORRECTIONS.values(), ids=list(CORRECTIONS))
def test_nothing_detected_and_nothing_there(change) -> None:
    none = drawn([], [], [], 1.0)
    assert len(change(none, none).boxes) == 0
    assert len(change(none, TRUTH).boxes) == (3 if change is ALL else 0)
    assert len(change(DETECTED, none).boxes) == (4 if change is OWN else 0)


@pytest.mark.slow
def test_the_table_ends_at_the_oracle_canvas(tmp_path: Path) -> None:
    # The class map of mask-rcnn-imp is its canvas: with that of the ground truth it is nearly the truth.
    torch.manual_seed(0)
    network = ImpNetwork(system("mask-rcnn-imp", CLASSES, (128, 192), "compact")).eval()
    model = save_checkpoint(tmp_path / "model.safetensors", network, {})
    rows = [line.split("|")[1:-1] for line in table(model, Photos(), None, 1).splitlines()[2:]]
    assert [row[0].strip() for row in rows] == list(CORRECTIONS)
    things = [float(row[2]) for row in rows]
    assert things[-1] > 85 > things[0]
    gains = [float(row[3]) for row in rows[1:]]
    assert sum(gains) == pytest.approx(things[-1] - things[0], abs=0.3)

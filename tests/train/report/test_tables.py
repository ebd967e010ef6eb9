# SPDX-License-Identifier: Apache-2.0
"""The tables: what stands in them comes from the evaluation, in percent, with the difference."""

from __future__ import annotations

import pytest

from imp_trt.errors import InvalidInput
from imp_trt.train.evaluation import evaluate
from imp_trt.train.report.numbers import signed
from imp_trt.train.report.tables import Scored, Table, tables
from tests.train.report.conftest import ROOMS, perfect


def by_title(found):
    return {table.title: {row[0]: row[1:] for row in table.rows} for table in found}


def test_a_pair_with_the_difference(scored):
    found = by_title(tables(scored))
    before, after = (s.evaluation for s in scored)
    cat = found["IoU of each class, %"]["cat"]
    assert cat == (
        "thing",
        f"{100 * before.semantic.iou[0]:.2f}",
        "100.00",
        f"+{100 - 100 * before.semantic.iou[0]:.1f}",
    )
    assert found["IoU of each class, %"]["dog"] == ("thing", "-", "-", "-")  # never there
    assert found["Mask AP of each class, %"].keys() == {"cat", "dog"}  # stuff has none
    assert found["Summary, %"]["mIoU"][1] == "100.00"
    assert found["Summary, %"]["box AP"] == (
        f"{100 * before.instances.box.ap:.2f}",
        f"{100 * after.instances.box.ap:.2f}",
        signed(100 * (after.instances.box.ap - before.instances.box.ap)),
    )
    near = found["mIoU near class boundaries, %"]
    assert list(near) == ["10 px", "25 px", "50 px", "100 px", "200 px", "400 px"]
    assert near["10 px"][0] == f"{100 * before.boundary.bands[0].mean_iou:.2f}"
    times = found["Time per image on this machine, ms"]
    assert times["Segmenter.run, p50"] == ("3.0", "5.0")
    assert times["network alone, mean"] == ("2.0", "4.0")


def test_what_was_not_measured_is_left_out():
    found = by_title(tables([Scored("model", "m", evaluate(perfect, ROOMS))]))
    assert set(found) == {"Summary, %", "IoU of each class, %", "Time per image on this machine, ms"}
    assert "box AP" not in found["Summary, %"]
    assert all(len(row) == 1 for row in found["Summary, %"].values())


def test_one_with_and_one_without_a_detector(scored):
    semantic_only = Scored("plain", "p", evaluate(perfect, ROOMS, ("semantic",)))
    found = by_title(tables([semantic_only, scored[1]]))
    assert found["Summary, %"]["box AP"][0] == "-"
    assert found["Summary, %"]["box AP"][2] == "-"
    assert found["PQ of each class, %"]["cat"][1] == "-"


def test_models_of_different_data_are_not_compared(scored):
    other = Scored("imp", "i", evaluate(perfect, ROOMS, limit=2))
    with pytest.raises(InvalidInput, match="4 images"):
        tables([scored[0], other])
    with pytest.raises(InvalidInput, match="one or two models"):
        tables([])


def test_columns_of_numbers_align_to_the_right():
    table = Table("T", ("class", "IoU"), (("a", "1.0"), ("longer", "100.0")))
    assert table.text().splitlines() == ["T:", "class     IoU", "a         1.0", "longer  100.0"]


@pytest.mark.parametrize(
    ("value", "text"), [(1.26, "+1.3"), (-0.04, "0.0"), (-2.0, "\N{MINUS SIGN}2.0"), (0.0, "0.0")]
)
def test_signed(value, text):
    assert signed(value) == text

# SPDX-License-Identifier: Apache-2.0
"""Result files: what is written is read again, and what does not belong is rejected."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from imp_trt.errors import InvalidInput, UsageError
from research.ablation.cells import HEADLINE, Cell
from research.ablation.results import (
    TIMING,
    CellResult,
    machine_facts,
    read_result,
    read_results,
    settings_difference,
    write_json,
)
from tests.research.ablation.made import made

pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval")


OLD = Path(__file__).parent / "old_results"
"""A result as version 0.1 first wrote them: digests of the code, no configuration digest, former names."""


@pytest.fixture(scope="module")
def result():
    return made(Cell(HEADLINE, "rect", 4), 2)


def test_a_result_survives_its_file(result, tmp_path):
    path = write_json(tmp_path / "pets" / f"{result.cell.name}.json", result.to_dict())
    again = read_result(path)
    assert again.to_dict() == result.to_dict()
    assert again.cell == Cell(HEADLINE, "rect", 4)
    write_json(tmp_path / "pets" / TIMING, {})
    assert [r.cell for r in read_results(tmp_path)] == [again.cell]


def test_an_old_result_is_read_under_its_current_names():
    (old,) = read_results(OLD)
    assert old.cell == Cell(HEADLINE, "oracle-canvas", 0)
    assert old.settings["shown"] == "oracle"
    assert old.config_digest is None
    assert old.sources == ["digest 60e59fcf6db7", "digest ea47b6478f30"]
    assert CellResult.from_dict(old.to_dict()).to_dict() == old.to_dict()


def test_an_old_result_and_a_new_one_of_the_same_cell_are_rejected(tmp_path):
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    (old,) = read_results(tmp_path)
    write_json(tmp_path / "scenes" / f"{old.cell.name}.json", old.to_dict())
    with pytest.raises(InvalidInput, match="one file per cell"):
        read_results(tmp_path)


def test_sources_are_named_once_and_by_kind(result):
    new = replace(
        result, machine={"source": "commit b+changes", "trained_by": ["digest a", "commit b+changes"]}
    )
    assert new.sources == ["digest a", "commit b+changes"]
    assert replace(result, machine={"code": "b", "trained_by": ["a", "b"]}).sources == [
        "digest a",
        "digest b",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"format": "imp_trt.ablation/9"},
        {"evaluation": {}},
        {"cell": {"system": HEADLINE}},
        {"cell": {"system": "unet", "variant": "base", "seed": 0}},
        {"seconds": None},
    ],
)
def test_a_file_of_another_kind_is_rejected_by_name(result, tmp_path, change):
    path = write_json(tmp_path / "cell.json", {**result.to_dict(), **change})
    with pytest.raises(InvalidInput, match=r"cell\.json"):
        read_result(path)


def test_a_file_that_is_cut_short_is_rejected(result, tmp_path):
    path = tmp_path / "cell.json"
    path.write_text(json.dumps(result.to_dict())[:500])
    with pytest.raises(InvalidInput, match="delete the file"):
        read_result(path)


def test_no_results_are_reported(tmp_path):
    with pytest.raises(UsageError, match=r"research\.ablation"):
        read_results(tmp_path)


def test_settings_that_came_later_do_not_matter_and_others_do():
    found = {"half": True, "recipe": {"batch": 6}}
    assert settings_difference(found, {"half": True, "recipe": {"batch": 6, "new": 1}, "more": 2}) is None
    assert settings_difference(found, {"half": True, "recipe": {"batch": 8}}) == "recipe.batch: 6, not 8"
    assert settings_difference(found, {"half": False, "recipe": {"batch": 6}}) == "half: true, not false"


def test_a_recipe_field_that_came_later_had_its_default():
    old = {"recipe": {"batch": 6, "stage_one": {"iterations": 9}}}
    assert settings_difference(old, {"recipe": {**old["recipe"], "bootstrap": []}}) is None
    changed = (
        {"bootstrap": [0.1]},
        {"canvas_source": "both"},
        {"stage_one": {"iterations": 9, "schedule": "step"}},
    )
    for change in changed:
        new = {"recipe": {**old["recipe"], **change}}
        assert settings_difference(old, new)
        assert settings_difference(new, old)


@pytest.mark.parametrize("name", ["pets/panoptic-fpn-imp-rect-s5.json", "dogs/panoptic-fpn-imp-rect-s4.json"])
def test_a_result_in_the_place_of_another_is_rejected(result, tmp_path, name):
    write_json(tmp_path / name, result.to_dict())
    with pytest.raises(InvalidInput, match=r"panoptic-fpn-imp-rect-s4\.json for what it holds"):
        read_results(tmp_path)


def test_machine_facts_say_what_the_numbers_depend_on_and_no_more():
    pytest.importorskip("torch", reason="needs PyTorch")
    facts = machine_facts(2, "cpu")
    assert set(facts) == {
        "cpu",
        "cpus",
        "threads",
        "device",
        "system",
        "python",
        "torch",
        "imp_trt",
        "source",
    }
    assert facts["threads"] == 2
    assert facts["cpu"]

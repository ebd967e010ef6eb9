# SPDX-License-Identifier: Apache-2.0
"""The command: options, listing, budget and page, without training."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval")

from imp_trt.cli.common import set_up_logging
from imp_trt.train.optimizer import TrainingDiverged
from research import ablation
from research.ablation import cli, experiment
from research.ablation.cells import CONTROL, HEADLINE, Cell
from research.ablation.experiment import Experiment
from research.ablation.results import write_json
from tests.research.ablation.made import made


@pytest.fixture
def arguments(tmp_path):
    return [
        *("--data", "scenes:64x128", "--recipe", "smoke", "--input-size", "64", "128"),
        *("-o", str(tmp_path / "work"), "--results", str(tmp_path / "results"), "--seeds", "0", "-q"),
    ]


@pytest.fixture
def no_training(monkeypatch):
    """Cells are done as soon as they are worked on; a variant's training diverges."""
    done: list[Cell] = []

    def fill(self, cell):
        if cell.variant == "rect":
            raise TrainingDiverged("training", got="nan")
        done.append(cell)

    monkeypatch.setattr(Experiment, "fill", fill)
    monkeypatch.setattr(Experiment, "done", lambda self, cell: cell in done)
    return done


def test_cells_are_listed_without_training(arguments, capsys):
    assert cli.main([*arguments, "--list", "--variants"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["missing", f"{CONTROL}-base-s0"]
    assert len(lines) == 7


def test_every_result_in_the_repository_counts(tmp_path, capsys):
    results = Path(ablation.__file__).parent / "results"
    options = "--data scenes --recipe scenes-short-canvas-rate-10 --input-size 256 512 --half --list --json"
    assert cli.main([*options.split(), "-q", "-o", str(tmp_path), "--results", str(results)]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert sum(cells.values()) > 20
    files = {path.stem for path in (results / "scenes").glob("*-s?.json")}
    counted = {name for name, done in cells.items() if done}
    assert len(counted) == len(files)
    assert f"{HEADLINE}-oracle-canvas-s0" in cells


def test_a_run_reports_what_it_filled(arguments, no_training, capsys):
    assert cli.main([*arguments, "--systems", CONTROL, HEADLINE, "--variants", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["finished"] == [f"{CONTROL}-base-s0", f"{HEADLINE}-base-s0"]
    assert answer["left"] == []


def test_a_diverged_cell_is_named_and_the_exit_code_says_so(arguments, no_training, capsys):
    code = cli.main([*arguments, "--systems", HEADLINE, "--variants", "rect", "nearest"])
    assert code == 1
    out = capsys.readouterr().out
    assert "failed    panoptic-fpn-imp-rect-s0" in out
    assert "finished  panoptic-fpn-imp-nearest-s0" in out


def test_changes_of_the_recipe_are_part_of_its_name(arguments, monkeypatch):
    seen: list[Experiment] = []
    monkeypatch.setattr(Experiment, "done", lambda self, cell: not seen.append(self))
    assert cli.main([*arguments, "--set", "batch=4", "--set", "stage_one.iterations=7"]) == 0
    assert seen[0].recipe_name == "smoke batch=4 stage_one.iterations=7"
    assert seen[0].init == "scratch"
    assert seen[0].option == "scenes:64x128"
    assert (seen[0].recipe.batch, seen[0].recipe.stage_one.iterations) == (4, 7)


@pytest.mark.parametrize(("more", "expected"), [([], "imagenet"), (["--init", "scratch"], "scratch")])
def test_the_first_weights_are_the_recipes_unless_said_otherwise(arguments, monkeypatch, more, expected):
    seen: list[Experiment] = []
    monkeypatch.setattr(Experiment, "done", lambda self, cell: not seen.append(self))
    assert cli.main([*arguments, "--recipe", "vcp", *more]) == 0
    assert seen[0].init == expected


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (["--results", "x"], "--data"),
        (["--page", "x.md"], "--results"),
        (["--data", "scenes"], "-o"),
        (["--data", "scenes", "-o", "x", "--systems", "panoptic"], "panoptic-fpn-imp"),
        (["--data", "scenes", "-o", "x", "--recipe", "none"], "camvid"),
    ],
)
def test_usage_errors_name_the_remedy(wrong, text, capsys):
    assert cli.main([*wrong, "-q"]) == 2
    assert text in capsys.readouterr().err


def test_a_page_needs_no_data(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs Matplotlib")
    cell = Cell(CONTROL, "base", 0)
    write_json(tmp_path / "results" / "pets" / f"{cell.name}.json", made(cell, 4).to_dict())
    page = tmp_path / "page.md"
    assert cli.main(["--results", str(tmp_path / "results"), "--page", str(page)]) == 0
    assert page.read_text().startswith("<!--")
    assert str(page) in capsys.readouterr().out


@pytest.mark.parametrize(("package", "more"), [("faster_coco_eval", []), ("matplotlib", ["--page", "p.md"])])
def test_missing_packages_are_reported_before_any_training(tmp_path, monkeypatch, capsys, package, more):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(Experiment, "fill", lambda *_: pytest.fail("trained"))
    argv = ["--data", "scenes:64x128", "--recipe", "smoke", "-o", str(tmp_path), "--results", str(tmp_path)]
    assert cli.main([*argv, *more]) == 5
    assert "imp-trt[eval]" in capsys.readouterr().err


def test_what_the_experiment_logs_reaches_the_terminal(capsys):
    set_up_logging()
    experiment._log.info("cell %s", "panoptic-fpn-base-s0")
    assert "INFO: cell panoptic-fpn-base-s0" in capsys.readouterr().err


def test_the_package_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["research.ablation", "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("research.ablation", run_name="__main__")
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m research.ablation ")


def test_a_budget_is_a_length_of_time():
    for text, expected in {"90m": 5400, "2h": 7200, "600s": 600, "600": 600, "1.5h": 5400}.items():
        assert cli.parser().parse_args(["--budget", text]).budget == expected
    for wrong in ("0", "90x", "-5m", ""):
        with pytest.raises(SystemExit):
            cli.parser().parse_args([f"--budget={wrong}"])

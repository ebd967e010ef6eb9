"""Real cells at the smallest size: training, sharing, resuming, scoring, timing."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval")

from imp_trt.errors import UsageError
from imp_trt.train.code_digest import code_digest
from imp_trt.train.config import RECIPES, Stage
from imp_trt.train.dataset import CachedDataset
from imp_trt.train.datasets import open_dataset
from imp_trt.train.state import TimeBudgetSpent
from research.ablation.cells import CONTROL, HEADLINE, Cell
from research.ablation.experiment import Experiment
from research.ablation.locks import Busy, claim
from research.ablation.results import read_result, read_results
from research.ablation.timing import time_systems

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = replace(
    RECIPES["smoke"],
    stage_one=Stage(2, 1e-3, 1e-3, warmup=1),
    stage_two=Stage(2, 1e-3, 1e-3, warmup=1),
    crop=(64, 64),
    canvas_detections=8,
)
PAIR = Cell(CONTROL, "base", 0), Cell(HEADLINE, "base", 0)
SWEPT = Cell("mask-rcnn-imp", "background-0.1", 0)


def experiment(folder, **changes):
    train, val = (CachedDataset(open_dataset("scenes:64x128", split)) for split in ("train", "val"))
    made = Experiment(
        train, val, "tiny", TINY, (64, 128), folder / "work", folder / "results", limit=2, quiet=True
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The pair, a variant, a system without detector, and one step of the sweep."""
    folder = tmp_path_factory.mktemp("ablation")
    run = experiment(folder)
    for cell in (*PAIR, Cell(HEADLINE, "canvas-both", 0), Cell("semantic-p2", "base", 0), SWEPT):
        run.fill(cell)
    return run


@pytest.mark.slow
def test_a_cell_ends_in_a_result_file(filled):
    assert all(filled.done(cell) for cell in (*PAIR, SWEPT))
    result = read_result(filled.path(PAIR[1]))
    assert filled.path(PAIR[1]).parent.name == "scenes"
    assert result.evaluation.images == 2
    assert result.evaluation.instances is not None
    assert set(result.evaluation.milliseconds) == {"total", "infer"}
    assert set(result.canvas["per_class"]) == {
        filled.train.classes.names[t] for t in filled.train.classes.things
    }
    assert [line["stage"] for line in result.curve] == [1, 2]
    assert result.seconds["stage_two"] > 0
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.slow
def test_a_system_without_detector_has_no_instances_and_no_canvas(filled):
    result = read_result(filled.path(Cell("semantic-p2", "base", 0)))
    assert result.canvas is None
    assert result.evaluation.instances is None
    assert result.evaluation.boundary is not None


@pytest.mark.slow
def test_systems_and_variants_share_their_first_stage(filled):
    stages = {r.cell.name: r.settings["stage_one"] for r in read_results(filled.results)}
    shared = {stages[c.name] for c in (*PAIR, Cell(HEADLINE, "canvas-both", 0))}
    assert len(shared) == 1
    assert len(set(stages.values())) == 3
    folders = {p.name for p in filled.folder.glob("stage-one-*")}
    assert folders == set(stages.values())


@pytest.mark.slow
def test_the_sweep_uses_the_base_cells_weights_and_scores_class_maps_alone(filled):
    from imp_trt.models.checkpoint import load_model

    folder = filled.folder / SWEPT.trained.name
    swept, base = (load_model(folder / f"{n}.safetensors")[0] for n in (SWEPT.variant, "stage_two"))
    assert (swept.config.background_score, base.config.background_score) == (0.1, 0.5)
    for name, value in base.state_dict().items():
        assert value.equal(swept.state_dict()[name])
    result = read_result(filled.path(SWEPT))
    assert result.evaluation.instances is result.evaluation.panoptic is None
    assert result.settings["network"]["background_score"] == 0.1
    # The base cell was trained for it, but nobody asked for its scores yet.
    assert not filled.done(SWEPT.trained)


@pytest.mark.slow
def test_a_finished_cell_is_not_trained_again(filled):
    before = filled.path(PAIR[0]).stat().st_mtime_ns
    filled.fill(PAIR[0])
    assert filled.path(PAIR[0]).stat().st_mtime_ns == before


@pytest.mark.slow
def test_results_of_another_recipe_are_refused(filled):
    with pytest.raises(UsageError, match="another experiment") as refused:
        replace(filled, recipe=replace(TINY, batch=4)).done(PAIR[0])
    assert "recipe.batch: 2, not 4" in str(refused.value)


@pytest.mark.slow
def test_a_result_names_the_code_that_trained_it(filled, monkeypatch):
    """A cell whose checkpoints are found done may be scored anew by other code."""
    path, trained = filled.path(PAIR[0]), code_digest()
    assert read_result(path).machine["trained_by"] == [trained, trained]
    kept = path.read_bytes()
    path.unlink()
    monkeypatch.setattr("research.ablation.results.code_digest", lambda: "another")
    filled.fill(PAIR[0])
    machine = read_result(path).machine
    assert (machine["code"], machine["trained_by"]) == ("another", [trained, trained])
    path.write_bytes(kept)


@pytest.mark.slow
def test_a_setting_of_the_canvas_concerns_those_who_learn_from_it(filled):
    faster = replace(filled, recipe=replace(TINY, canvas_rate=3.0))
    assert faster.done(PAIR[0])
    assert faster.done(SWEPT)
    with pytest.raises(UsageError, match="another experiment"):
        faster.done(PAIR[1])


@pytest.mark.slow
def test_the_systems_are_timed_in_one_process(filled):
    data = json.loads(time_systems(filled, [*PAIR, Cell("panoptic-p2", "base", 0)]).read_text())
    assert set(data["systems"]) == {CONTROL, HEADLINE}
    assert data["systems"][CONTROL]["ratio"] == 1
    assert data["systems"][HEADLINE]["infer"]["p50"] > 0
    with pytest.raises(UsageError, match="trained cells"):
        time_systems(filled, [Cell("panoptic-p2", "base", 0)])
    # Times would stand under a size that was not timed.
    with pytest.raises(UsageError, match=r"expected input_size \(64, 192\).*got input_size \(64, 128\)"):
        time_systems(replace(filled, input_size=(64, 192)), PAIR)


@pytest.mark.slow
def test_a_cell_stopped_at_the_deadline_continues(tmp_path):
    late = experiment(tmp_path, deadline=time.monotonic() - 1)
    with pytest.raises(TimeBudgetSpent):
        late.fill(PAIR[0])
    assert not late.done(PAIR[0])
    again = replace(late, deadline=None)
    again.fill(PAIR[0])
    assert again.done(PAIR[0])


def test_a_cell_that_another_process_trains_is_busy(tmp_path):
    run = experiment(tmp_path)
    with claim(run.folder / "locks" / f"{PAIR[0].name}.lock"), pytest.raises(Busy):
        run.fill(PAIR[0])
    # The sweep needs the base cell's training, so it waits for the same lock.
    with claim(run.folder / "locks" / f"{SWEPT.trained.name}.lock"), pytest.raises(Busy):
        run.fill(SWEPT)


def test_networks_without_pretrained_weights_have_no_frozen_statistics(tmp_path):
    run = experiment(tmp_path, backbone="resnet50")
    assert run.config(PAIR[1]).norm == "batch"
    assert replace(run, init="coco").config(PAIR[1]).norm == "frozen_batch"
    assert run.config(Cell(HEADLINE, "rect", 0)).sampling == "rect"

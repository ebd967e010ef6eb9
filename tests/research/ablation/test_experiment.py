# SPDX-License-Identifier: Apache-2.0
"""Real cells at the smallest size: training, sharing, resuming, scoring, timing."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval")

from imp_trt.data.dataset import CachedDataset
from imp_trt.data.locks import Busy, claim
from imp_trt.errors import UsageError
from imp_trt.train.datasets import open_dataset
from imp_trt.train.provenance import source_version
from imp_trt.train.recipes import RECIPES, Stage, recipe
from imp_trt.train.run import Run, stage_one_key
from imp_trt.train.state import TimeBudgetSpent
from research.ablation.cells import CONTROL, HEADLINE, Cell
from research.ablation.experiment import Experiment, _trained_by
from research.ablation.measure import EvenlySpaced
from research.ablation.results import read_result, read_results, write_json
from research.ablation.timing import time_systems
from tests.research.ablation.test_results import OLD

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
    run = experiment(folder, training_images=3)
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
    assert result.config_digest == filled.config_digest(PAIR[1])
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.slow
def test_a_system_without_detector_has_no_instances_and_no_canvas(filled):
    result = read_result(filled.path(Cell("semantic-p2", "base", 0)))
    assert result.canvas is None
    assert result.evaluation.instances is None
    assert result.evaluation.boundary is not None


@pytest.mark.slow
def test_training_images_are_scored_beside_the_others(filled):
    result = read_result(filled.path(PAIR[1]))
    assert result.on_training is not None
    assert result.on_training.images == 3
    assert result.on_training.instances is None
    assert read_result(filled.path(SWEPT)).on_training is None, "it has no training of its own"


def test_evenly_spaced_images_span_the_data_set():
    class Ten:
        name, classes, terms = "ten", None, None

        def __len__(self):
            return 10

        def __getitem__(self, index):
            return index

    chosen = EvenlySpaced(Ten(), 4)
    assert list(chosen) == [0, 2, 5, 7]
    assert len(EvenlySpaced(Ten(), 40)) == 10


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
    # The base cell was trained for it, but it has not been scored yet.
    assert not filled.done(SWEPT.trained)


@pytest.mark.slow
def test_a_finished_cell_is_not_trained_again(filled):
    before = filled.path(PAIR[0]).stat().st_mtime_ns
    filled.fill(PAIR[0])
    assert filled.path(PAIR[0]).stat().st_mtime_ns == before


@pytest.mark.slow
def test_results_of_another_recipe_are_rejected(filled):
    with pytest.raises(UsageError, match="another experiment") as rejected:
        replace(filled, recipe=replace(TINY, batch=4)).done(PAIR[0])
    assert "recipe.batch: 2, not 4" in str(rejected.value)


@pytest.mark.slow
def test_a_result_names_the_code_that_trained_it(filled, monkeypatch):
    """A cell whose checkpoints are found done may be scored anew by other code."""
    path, trained = filled.path(PAIR[0]), source_version()
    assert read_result(path).machine["trained_by"] == [trained]
    kept = path.read_bytes()
    path.unlink()
    monkeypatch.setattr("research.ablation.results.source_version", lambda: "commit other")
    filled.fill(PAIR[0])
    machine = read_result(path).machine
    assert (machine["source"], machine["trained_by"]) == ("commit other", [trained])
    path.write_bytes(kept)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([{"sources": ["commit a"]}, {"sources": ["commit a", "commit b"]}], ["commit a", "commit b"]),
        ([{"code": "5088433c8176"}, {"sources": ["commit b"]}], ["digest 5088433c8176", "commit b"]),
        ([{}, {"sources": ["commit b"]}], None),
    ],
)
def test_checkpoints_of_all_versions_name_what_trained_them(found, expected):
    assert _trained_by(found).get("trained_by") == expected


def test_an_old_checkpoint_is_loaded_and_names_its_code():
    """The bundled weights were trained before commits were recorded."""
    from imp_trt.models.checkpoint import load_model
    from imp_trt.weights import bundled

    assert _trained_by([load_model(bundled())[1]]) == {"trained_by": ["digest 60e59fcf6db7"]}


@pytest.fixture
def old_result(tmp_path):
    """A result without digests of the data, and its experiment."""
    shutil.copytree(OLD, tmp_path / "results")
    (old,) = read_results(tmp_path / "results")
    train, val = (open_dataset("scenes", split) for split in ("train", "val"))
    plan, results = recipe("scenes-short-canvas-rate-10"), tmp_path / "results"
    run = Experiment(train, val, "scenes-short", plan, (256, 512), tmp_path, results, half=True)
    return old, replace(run, option="scenes")


def test_an_old_result_under_a_former_name_counts(tmp_path, old_result):
    old, run = old_result
    assert run.done(old.cell)
    assert not run.done(Cell(HEADLINE, "empty-canvas", 0))
    with pytest.raises(UsageError, match="half: true, not false"):
        replace(run, half=False).done(old.cell)
    # The first stage has kept its key, so checkpoints that exist are found too.
    stage = Run(run.train, run.recipe, 0, tmp_path, half=True)
    assert f"stage-one-{stage_one_key(stage, run.config(old.cell))}" == old.settings["stage_one"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_result_of_other_images_or_labels_is_rejected(old_result, split):
    old, run = old_result
    run = replace(run, val=CachedDataset(run.val))
    data = {**old.settings[split], "digest": run.settings(old.cell)[split]["digest"]}
    settings = {**old.settings, split: data}
    write_json(run.path(old.cell), replace(old, settings=settings).to_dict())
    assert run.done(old.cell)
    data["digest"] = "other"
    write_json(run.path(old.cell), replace(old, settings=settings).to_dict())
    with pytest.raises(UsageError, match=f'{split}.digest: "other", not'):
        run.done(old.cell)


def test_a_result_without_the_training_images_that_are_asked_for_is_rejected(old_result):
    old, run = old_result
    cell = Cell(HEADLINE, "base", 0)
    result = replace(old, cell=cell, settings=run.settings(cell))
    write_json(run.path(cell), result.to_dict())
    assert run.done(cell)
    count = old.evaluation.images
    with pytest.raises(UsageError, match=f"scores of 0 training images, not {count}"):
        replace(run, training_images=count).done(cell)
    write_json(run.path(cell), replace(result, on_training=old.evaluation).to_dict())
    assert replace(run, training_images=count).done(cell)
    assert run.done(cell)


@pytest.mark.slow
def test_the_digest_of_a_cell_covers_what_its_scores_depend_on(tmp_path):
    run, cell = experiment(tmp_path), PAIR[1]
    changed = [
        replace(run, recipe=replace(TINY, canvas_lr_mult=3.0)),
        replace(run, recipe=replace(TINY, stage_one=Stage(3, 1e-3))),
        replace(run, input_size=(64, 192)),
        replace(run, backbone="resnet18"),
        replace(run, init="imagenet"),
        replace(run, half=True),
        replace(run, limit=3),
        replace(run, splits=("train", "test")),
        replace(run, val=open_dataset("scenes:64x128", "test")),
        replace(run, train=open_dataset("scenes:64x96", "train")),
    ]
    cells = [cell, PAIR[0], replace(cell, seed=1)]
    variants = ("rect", "canvas-both", "empty-canvas", "oracle-canvas")
    cells += [replace(cell, variant=v) for v in variants]
    cells += [SWEPT, SWEPT.trained]
    digests = [e.config_digest(cell) for e in changed] + [run.config_digest(c) for c in cells]
    assert len(set(digests)) == len(digests)


def test_the_digest_of_a_cell_leaves_out_names_folders_and_the_machine(tmp_path):
    run = experiment(tmp_path)
    same = replace(
        run,
        recipe_name="other",
        option="components:DIR",
        work=tmp_path / "a",
        results=tmp_path / "b",
        threads=4,
        device="cuda",
        deadline=1.0,
    )
    assert same.config_digest(PAIR[1]) == run.config_digest(PAIR[1])
    # The control learns from no canvas.
    faster = replace(run, recipe=replace(TINY, canvas_lr_mult=3.0))
    assert faster.config_digest(PAIR[0]) == run.config_digest(PAIR[0])


@pytest.mark.slow
def test_a_setting_of_the_canvas_concerns_those_who_learn_from_it(filled):
    faster = replace(filled, recipe=replace(TINY, canvas_lr_mult=3.0))
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


@pytest.mark.exhaustive
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

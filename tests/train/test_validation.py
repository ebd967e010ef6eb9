# SPDX-License-Identifier: Apache-2.0
"""Validation during training: it changes no weight, keeps the best ones, ends a stage, and resumes."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from imp_trt.errors import DatasetError, InvalidInput, UsageError
from imp_trt.models.checkpoint import Checkpoint, load_model, save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.train import loop, validation
from imp_trt.train.config import Stage
from imp_trt.train.run import Run, identity, train_stage_one, train_stage_two
from imp_trt.train.validation import Validation
from tests.support.variants import variants
from tests.train.boxes import CLASSES, CONFIG, RECIPE, Boxes
from tests.train.test_loop import dying_after

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = replace(RECIPE, ema_decay=0.5, freeze_norm=False)


class Held(Boxes):
    """Two images that are not trained on."""

    name = "held"

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return super().__getitem__(index + 100)


def run_in(folder, recipe=PLAN, **changes):
    settings = {"validation": Validation(Held(), every=2), **changes}
    return Run(Boxes(), recipe, 0, folder, quiet=True, **settings)


def weights_of(path):
    return load_model(path)[0].state_dict()


def same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    return all(torch.equal(value, other[name]) for name, value in one.items())


def lines_of(folder, name="stage_one"):
    return [json.loads(line) for line in (folder / f"{name}.val.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A stage one of six steps with three evaluations."""
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    train_stage_one(run_in(folder), CONFIG)
    return folder


@pytest.fixture
def scored(monkeypatch):
    """Evaluations with these scores, instead of real ones."""

    def use(*scores):
        rest = list(scores)

        def scores_of(found, step, _things_only):
            value = rest.pop(0)
            return {"step": step, "score": value, "mean_iou": value, "thing_iou": None, "iou": {}}

        monkeypatch.setattr(validation, "_scores", scores_of)
        return rest

    return use


@pytest.mark.slow
def test_validation_changes_no_weight(tmp_path, whole):
    path = train_stage_one(run_in(tmp_path, validation=None), CONFIG)
    assert same_weights(path, whole / "stage_one.safetensors")
    assert not (tmp_path / "stage_one.val.jsonl").exists()


@pytest.mark.slow
def test_the_curve_is_what_an_evaluation_of_the_checkpoint_gives(whole):
    from imp_trt.segmenter import Segmenter
    from imp_trt.train.evaluation import evaluate

    lines = lines_of(whole)
    assert [line["step"] for line in lines] == [2, 4, 6]
    # The last weights are the average of step 6, which was evaluated.
    with Segmenter(whole / "stage_one.safetensors", device="cpu") as segmenter:
        found = evaluate(segmenter.run, Held()).semantic
    assert lines[-1]["mean_iou"] == pytest.approx(found.mean_iou, nan_ok=True)
    assert lines[-1]["score"] == lines[-1]["mean_iou"]
    assert set(lines[-1]["iou"]) == set(CLASSES.names)


@pytest.mark.slow
def test_the_best_weights_are_kept_beside_the_last(tmp_path, scored):
    scored(0.1, 0.5, 0.5)
    train_stage_one(run_in(tmp_path), CONFIG)
    best, metadata = load_model(tmp_path / "stage_one.best.safetensors")
    assert (metadata["step"], metadata["validation_score"]) == (4, 0.5)
    scored(0.1, 0.5)
    folder = tmp_path / "rarely"
    train_stage_one(run_in(folder, validation=Validation(Held(), 4)), CONFIG)
    assert load_model(folder / "stage_one.best.safetensors")[1]["step"] == 6
    last = weights_of(tmp_path / "stage_one.safetensors")
    assert any(not torch.equal(value, last[name]) for name, value in best.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", variants([3, 4], [3]))
def test_resume_is_bit_identical(tmp_path, monkeypatch, whole, killed_at):
    with dying_after(killed_at, monkeypatch), pytest.raises(MemoryError):
        train_stage_one(run_in(tmp_path, save_every=2), CONFIG)
    assert (tmp_path / "stage_one.resume.pt").is_file()
    train_stage_one(run_in(tmp_path), CONFIG)
    for name in ("stage_one.safetensors", "stage_one.best.safetensors"):
        assert same_weights(tmp_path / name, whole / name), name
    assert lines_of(tmp_path) == lines_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 6], ids=["on the way", "after the last step"])
def test_an_interrupted_evaluation_is_repeated(tmp_path, monkeypatch, whole, step):
    real, seen = loop.Validator.ends, []

    def interrupted(self, at, network, average, stop):
        if at == step and not seen:
            seen.append(at)
            stop.signaled = True
        return real(self, at, network, average, stop)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Validator, "ends", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_stage_one(run_in(tmp_path), CONFIG)
    assert not (tmp_path / "stage_one.safetensors").exists()
    assert (tmp_path / "stage_one.resume.pt").is_file()
    train_stage_one(run_in(tmp_path), CONFIG)
    assert lines_of(tmp_path) == lines_of(whole)
    assert same_weights(tmp_path / "stage_one.safetensors", whole / "stage_one.safetensors")


@pytest.mark.slow
def test_a_validation_image_that_cannot_be_read_costs_no_step(tmp_path, monkeypatch):
    class Damaged(Held):
        def __getitem__(self, index):
            if index and not repaired:
                raise DatasetError("image", expected="a readable file", got="a damaged one")
            return super().__getitem__(index)

    repaired = []
    short = replace(PLAN, stage_one=Stage(3, 1e-3, 1e-3, warmup=1))
    run = run_in(tmp_path, short, validation=Validation(Damaged(), every=2))
    with pytest.raises(DatasetError):
        train_stage_one(run, CONFIG)
    assert torch.load(tmp_path / "stage_one.resume.pt", weights_only=True)["step"] == 2
    repaired.append(True)
    train_stage_one(run, CONFIG)
    assert [line["step"] for line in lines_of(tmp_path)] == [2, 3]


@pytest.mark.slow
def test_a_stage_ends_when_patience_does(tmp_path, scored, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    caplog.set_level(logging.INFO, logger="imp_trt.train")
    rest = scored(0.4, 0.3, 0.9, 0.2, 0.2, 0.2)
    run = run_in(tmp_path, validation=Validation(Held(), 1, patience=2))
    path = train_stage_one(run, CONFIG)
    assert rest == [0.2]
    metadata = load_model(path)[1]
    assert metadata["stopped_early_at"] == 5
    assert load_model(tmp_path / "stage_one.best.safetensors")[1]["step"] == 3
    assert "no better score in 2 evaluations" in caplog.text
    assert not (tmp_path / "stage_one.resume.pt").exists()


def test_a_validation_without_labels_is_rejected_before_the_training(tmp_path):
    class Unlabeled(Held):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return replace(sample, semantic=np.full_like(sample.semantic, 255))

    with pytest.raises(DatasetError, match=r"expected labeled pixels.*got none in 2 of 2 images"):
        train_stage_one(run_in(tmp_path, validation=Validation(Unlabeled(), every=2)), CONFIG)
    assert not list(tmp_path.glob("*.jsonl"))


def test_early_stopping_is_part_of_a_run_and_validation_alone_is_not(tmp_path):
    run = run_in(tmp_path)
    assert identity(run, CONFIG, 1) == identity(replace(run, validation=None), CONFIG, 1)
    patient = replace(run, validation=Validation(Held(), 2, 3))
    assert identity(patient, CONFIG, 1) != identity(run, CONFIG, 1)
    other = replace(run, validation=Validation(Boxes(), 2, 3))
    assert identity(patient, CONFIG, 1) != identity(other, CONFIG, 1)


@pytest.mark.parametrize(
    ("data", "before", "expected"),
    [
        (None, None, None),
        ("A", None, "A"),
        (None, "B", "B"),
        ("A", "A", "A"),
        ("A", "B", "A; initial weights: B"),
        ("A", "A; initial weights: B", "A; initial weights: B"),
        ("C", "A; initial weights: B", "C; initial weights: A; initial weights: B"),
    ],
)
def test_terms_of_the_initial_weights_are_kept(tmp_path, data, before, expected):
    class Termed(Boxes):
        terms = data

    checkpoint = Checkpoint(ImpNetwork(CONFIG), {"terms": before}, "0")
    assert replace(run_in(tmp_path), dataset=Termed(), checkpoint=checkpoint).terms == expected


@pytest.mark.slow
def test_the_best_weights_of_another_run_are_not_replaced(tmp_path, whole):
    (tmp_path / "stage_one.best.safetensors").write_bytes((whole / "stage_one.best.safetensors").read_bytes())
    with pytest.raises(UsageError, match="another run"):
        train_stage_one(run_in(tmp_path, replace(PLAN, batch=1)), CONFIG)


@pytest.mark.slow
def test_scores_and_best_weights_of_an_earlier_run_are_not_taken_for_those_of_this(
    tmp_path, whole, caplog, monkeypatch
):
    """imp-eval draws NAME.val.jsonl next to a checkpoint."""
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    for name in ("stage_one.jsonl", "stage_one.val.jsonl", "stage_one.best.safetensors"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    short = replace(PLAN, stage_one=Stage(1, 1e-3, 1e-3, warmup=0))
    path = train_stage_one(run_in(tmp_path, short, validation=None), CONFIG)
    assert [json.loads(line)["step"] for line in path.with_suffix(".jsonl").read_text().splitlines()] == [1]
    assert not (tmp_path / "stage_one.val.jsonl").exists()
    assert f"{tmp_path / 'stage_one.best.safetensors'} is of another run" in caplog.text
    assert (tmp_path / "stage_one.best.safetensors").is_file()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Validation(Boxes(), every=2), "every 2 steps, got data .* every 2"),
        (Validation(Held(), 3), "every 3 steps"),
    ],
)
def test_a_finished_stage_with_another_validation_is_rejected(whole, settings, expected):
    with pytest.raises(UsageError, match=f"another validation: expected data .* {expected}.*folder with -o"):
        train_stage_one(run_in(whole, validation=settings), CONFIG)


@pytest.mark.slow
def test_a_finished_stage_is_reused_without_validation_but_none_is_added(tmp_path, whole):
    assert train_stage_one(run_in(whole, validation=None), CONFIG) == whole / "stage_one.safetensors"
    short = replace(PLAN, stage_one=Stage(2, 1e-3, 1e-3, warmup=1))
    train_stage_one(run_in(tmp_path, short, validation=None), CONFIG)
    with pytest.raises(UsageError, match="got no validation"):
        train_stage_one(run_in(tmp_path, short), CONFIG)


@pytest.mark.slow
def test_a_stopped_stage_and_its_best_weights_keep_their_validation(tmp_path, monkeypatch):
    with dying_after(3, monkeypatch), pytest.raises(MemoryError):
        train_stage_one(run_in(tmp_path, save_every=2), CONFIG)
    for settings in (None, Validation(Boxes(), 2), Validation(Held(), 3)):
        with pytest.raises(UsageError, match=r"resume\.pt was made with another validation"):
            train_stage_one(run_in(tmp_path, validation=settings), CONFIG)
    (tmp_path / "stage_one.resume.pt").unlink()
    with pytest.raises(UsageError, match=r"best\.safetensors was made with another validation"):
        train_stage_one(run_in(tmp_path, validation=Validation(Held(), 3)), CONFIG)


def test_an_older_file_is_reused_and_a_lack_of_best_weights_is_reported(tmp_path, whole, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    network, metadata = load_model(whole / "stage_one.safetensors")
    del metadata["validation_facts"]
    path = save_checkpoint(tmp_path / "stage_one.safetensors", network, metadata)
    assert train_stage_one(run_in(tmp_path, validation=Validation(Boxes())), CONFIG) == path
    assert "stage_one.best.safetensors does not exist" in caplog.text


@pytest.mark.slow
def test_a_detector_alone_is_scored_by_its_things(tmp_path):
    plan = replace(PLAN, semantic_in_stage_one=False, stage_one=Stage(2, 1e-3, 1e-3, warmup=1))
    run = run_in(tmp_path, replace(plan, stage_two=Stage(2, 1e-3, 1e-3, warmup=1)))
    stage_one = train_stage_one(run, CONFIG)
    (line,) = lines_of(tmp_path)
    assert line["score"] == line["thing_iou"]
    train_stage_two(run, CONFIG, stage_one, "imp")
    (line,) = lines_of(tmp_path, "imp")
    assert line["score"] == line["mean_iou"]
    assert (tmp_path / "imp.best.safetensors").is_file()


def test_a_tenth_of_a_stage_is_the_default_interval(tmp_path):
    validator = loop.Validator(Validation(Held()), 50, tmp_path / "x", "cpu", [], lambda *_: None)
    assert [step for step in range(51) if validator.is_due(step)] == list(range(5, 51, 5))


def test_other_classes_are_rejected(tmp_path):
    class Others(Held):
        classes = replace(CLASSES, names=("a", "b", "c"))

    with pytest.raises(InvalidInput, match=r"validation data: .* Fix: label both with the same classes"):
        train_stage_one(run_in(tmp_path, validation=Validation(Others())), CONFIG)


@pytest.mark.parametrize("change", [{"every": 0}, {"patience": 0}])
def test_settings_out_of_range_are_rejected(change):
    with pytest.raises(UsageError, match="at least 1"):
        Validation(Held(), **change)


@pytest.mark.slow
def test_curves_are_written_for_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("imp_trt.train.log.LOG_EVERY", 2)
    with dying_after(5, monkeypatch), pytest.raises(MemoryError):
        train_stage_one(run_in(tmp_path, save_every=4, tensorboard=True), CONFIG)
    train_stage_one(run_in(tmp_path, tensorboard=True), CONFIG)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "stage_one"))
    events.Reload()
    losses = events.Scalars("training/loss_mask")
    assert [event.step for event in losses] == [2, 4, 6]
    scores = events.Scalars("validation/mean_iou")
    expected = [line["mean_iou"] for line in lines_of(tmp_path)]
    np.testing.assert_allclose([event.value for event in scores], expected, rtol=1e-5)


@pytest.mark.slow
def test_curves_of_an_earlier_run_in_the_folder_are_superseded(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for value, steps in ((1.0, (1, 2, 3)), (2.0, (1, 2))):
        curves = loop.TensorBoardCurves(tmp_path, "imp", 0)
        for step in steps:
            curves.add(step, {"loss": value}, "training")
        curves.close()
        time.sleep(1.1)  # names of event files have the second
    events = EventAccumulator(str(tmp_path / "tensorboard" / "imp"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("training/loss")] == [(1, 2.0), (2, 2.0)]


def test_curves_that_cannot_be_written_do_not_end_the_training(tmp_path, monkeypatch, caplog):
    class Full:
        def add_scalar(self, *_):
            raise OSError(28, "No space left on device")

        flush = close = add_scalar

    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    curves = loop.TensorBoardCurves.__new__(loop.TensorBoardCurves)
    for last in (curves.close, lambda: curves.add(1, {"loss": 2.0}, "training")):
        curves._writer = Full()
        last()
        last()
    assert caplog.text.count("no more curves in TensorBoard's format: ") == 2


def test_without_tensorboard_a_warning_is_logged(tmp_path, monkeypatch, caplog):
    import sys

    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    curves = loop.TensorBoardCurves(tmp_path, "imp", 0)
    curves.add(1, {"loss": 2.0}, "training")
    curves.close()
    assert "no curves in TensorBoard's format" in caplog.text
    assert not list(tmp_path.iterdir())

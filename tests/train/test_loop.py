# SPDX-License-Identifier: Apache-2.0
"""The step loop: resumable bit for bit, losses that fall, the switches of a recipe."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from imp_trt.data.dataset import CachedDataset
from imp_trt.errors import OutputError
from imp_trt.models.checkpoint import load_model
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import without_imp
from imp_trt.train import batches, log, loop
from imp_trt.train.augment import ColorJitter
from imp_trt.train.batches import batch_stream, class_weights, draw_batch, draw_ohem_ratio
from imp_trt.train.config import Stage
from imp_trt.train.optimizer import Optimizer, TrainingDiverged, parameter_groups
from imp_trt.train.run import Run, train_stage_one, train_stage_two
from tests.support.variants import variants
from tests.train.boxes import CLASSES, CONFIG, RECIPE, Boxes

pytestmark = pytest.mark.usefixtures("one_thread")


def weights_of(path):
    return load_model(path)[0].state_dict()


def lines_of(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def trained(folder, recipe, **changes):
    run = Run(Boxes(), recipe, 0, folder, quiet=True)
    return train_stage_one(replace(run, **changes), CONFIG)


@contextmanager
def dying_after(steps, monkeypatch):
    """A training in here fails in the step after so many."""
    real, calls = loop._step, []

    def failing(*args):
        calls.append(1)
        if len(calls) > steps:
            raise MemoryError
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", failing)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", variants([1, 4, 5], [4]))
def test_resume_after_a_failure_is_bit_identical(tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr(log, "LOG_EVERY", 3)
    whole = trained(tmp_path / "whole", RECIPE)
    with dying_after(killed_at, monkeypatch), pytest.raises(MemoryError):
        trained(tmp_path / "cut", RECIPE, save_every=2)
    assert (tmp_path / "cut" / "stage_one.resume.pt").is_file() == (killed_at > 2)
    assert not (tmp_path / "cut" / "stage_one.safetensors").exists()
    resumed = weights_of(trained(tmp_path / "cut", RECIPE))
    expected = weights_of(whole)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert not (tmp_path / "cut" / "stage_one.resume.pt").exists()
    logs = [lines_of(tmp_path / n / "stage_one.jsonl") for n in ("whole", "cut")]
    assert [line["step"] for line in logs[0]] == [3, 6]
    assert logs[0] == logs[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"canvas_lr_mult": 10.0},
        {"canvas_source": "both", "precision": "bfloat16", "optimizer": "sgd"},
    ],
)
def test_stage_two_with_imp_resumes_to_the_bit(tmp_path, monkeypatch, changes):
    recipe = replace(RECIPE, stage_one=Stage(1, 1e-3), **changes)
    first = trained(tmp_path / "first", recipe)

    def second(folder):
        run = Run(Boxes(), recipe, 0, tmp_path / folder, quiet=True, save_every=2)
        return train_stage_two(run, CONFIG, first, "imp")

    whole = weights_of(second("whole"))
    with dying_after(3, monkeypatch), pytest.raises(MemoryError):
        second("cut")
    resumed = weights_of(second("cut"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert resumed["semantic.fuse.0.0.weight"][:, CONFIG.semantic_channels :].any()


@pytest.mark.slow
def test_another_seed_gives_other_weights(tmp_path):
    short = replace(RECIPE, stage_one=Stage(1, 1e-3))
    one, two = (weights_of(trained(tmp_path / str(s), short, seed=s)) for s in (0, 1))
    assert any(not torch.equal(one[n], two[n]) for n in one)


@pytest.mark.slow
def test_losses_fall(tmp_path):
    trained(tmp_path, replace(RECIPE, stage_one=Stage(40, 2e-3, 1e-3, warmup=5)))
    lines = lines_of(tmp_path / "stage_one.jsonl")
    assert lines[-1]["semantic"] < 0.8 * lines[0]["semantic"]


def test_diverging_training_stops(tmp_path, monkeypatch):
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(loop.StageLosses, "forward", lambda *_: {"semantic": nan})
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        trained(tmp_path, RECIPE)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_changes_no_weight(clip):
    # The root's loss is 0, its slope there infinite, and clipping would spread that to every weight.
    network = ImpNetwork(CONFIG)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    update = Optimizer(network, replace(RECIPE, clip=clip), "cpu")
    loss = sum(p.sum() for p in network.parameters()).mul(0).sqrt()
    assert loss == 0
    with pytest.raises(TrainingDiverged, match="finite gradients"):
        update.step(loss, 0.01)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_gradients_of_float16_that_are_never_finite_end_the_training():
    """Each such step is skipped; a run of skipped steps alone ended as if it had trained."""
    network = ImpNetwork(CONFIG)
    update = Optimizer(network, replace(RECIPE, precision="float16"), "cpu")
    weight = next(network.parameters())

    def steps(count):
        for _ in range(count):
            update.step((weight.sum() * 0).sqrt(), 0.01)

    steps(20)
    with pytest.raises(TrainingDiverged, match="finite gradients"):
        steps(40)


def test_without_clipping_gradients_are_used_as_they_are():
    network = ImpNetwork(CONFIG)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    plan = replace(RECIPE, optimizer="sgd", clip=None, weight_decay=0.0, bias_lr_mult=2.0)
    Optimizer(network, plan, "cpu").step(sum(1000 * p.sum() for p in network.parameters()), 0.5)
    for name, p in network.named_parameters():
        rate = 1000 if name.endswith("bias") else 500
        assert torch.equal(p, before[name] - rate), name


@pytest.mark.slow
def test_learning_rates_and_ohem_ratios_of_the_recipe_reach_the_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "LOG_EVERY", 1)
    shares = []
    forward = loop.StageLosses.forward

    def watched(self, batch, share):
        shares.append(share)
        return forward(self, batch, share)

    monkeypatch.setattr(loop.StageLosses, "forward", watched)
    plan = replace(RECIPE, stage_one=Stage(3, 1e-3, 5e-4, warmup=1), semantic_in_stage_one=True)
    trained(tmp_path / "plain", plan)
    assert shares == [None] * 3
    shares.clear()
    several = replace(plan, ohem_ratios=(0.1, 0.25, 0.5), base_batch=2 * plan.batch)
    trained(tmp_path / "shares", several)
    assert shares == [draw_ohem_ratio(several, (0, 1, step)) for step in range(3)]
    plain, halved = (
        [x["lr"] for x in lines_of(tmp_path / n / "stage_one.jsonl")] for n in ("plain", "shares")
    )
    assert halved == pytest.approx([rate / 2 for rate in plain])


def test_colors_of_the_recipe_reach_the_images(monkeypatch):
    asked = []
    monkeypatch.setattr(batches, "ColorJitter", lambda *values: asked.append(values) or ColorJitter(*values))
    draw_batch(Boxes(), CLASSES, replace(RECIPE, color=0.3, batch=1), (0, 1, 0))
    draw_batch(Boxes(), CLASSES, replace(RECIPE, color=0.3, hue=0.4, batch=1), (0, 1, 0))
    assert asked == [pytest.approx((0.3, 0.3, 0.3, 0.03)), (0.3, 0.3, 0.3, 0.4)]


@pytest.mark.slow
def test_quiet_runs_draw_no_bar_and_others_estimate_their_time(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(log, "LOG_EVERY", 1)
    short = replace(RECIPE, stage_one=Stage(2, 1e-3))
    with caplog.at_level("INFO", "imp_trt.train"):
        trained(tmp_path / "quiet", short)
        assert (capsys.readouterr().err, caplog.text) == ("", "")
        monkeypatch.delenv("IMP_TRT_NO_PROGRESS", raising=False)
        trained(tmp_path / "loud", short, quiet=False)
    assert "stage_one" in capsys.readouterr().err
    assert "for the remaining 1 steps" in caplog.text


def test_a_log_with_half_a_line_is_continued(tmp_path):
    (tmp_path / "stage_one.jsonl").write_text('{"step": 900, "lr": 1}\n{"ste')
    trained(tmp_path, replace(RECIPE, stage_one=Stage(1, 1e-3)))
    assert [line["step"] for line in lines_of(tmp_path / "stage_one.jsonl")] == [1]


def test_a_log_that_cannot_be_written_is_an_output_error(tmp_path):
    with log.TrainingLog(tmp_path / "imp.jsonl", 1, 0, {}, quiet=True) as lines:
        lines.path = Path("/dev/full")
        with pytest.raises(OutputError, match="/dev/full cannot be written"):
            lines.add(0, {"semantic": 1.0}, 0.1)


@pytest.mark.parametrize("text", ["[]\n", "{}\n", "1\n", "x\n"])
def test_another_file_in_place_of_the_log_is_rejected(tmp_path, text):
    (tmp_path / "stage_one.jsonl").write_text(text)
    with (
        pytest.raises(OutputError, match="move the file away"),
        log.TrainingLog(tmp_path / "stage_one.jsonl", 1, 0, {}, quiet=True),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_lower_precision_trains(tmp_path, precision):
    # One step of SGD moves the weights along the gradient.
    plan = replace(RECIPE, precision=precision, optimizer="sgd", stage_one=Stage(1, 0.1, warmup=0))
    changed = weights_of(trained(tmp_path / "low", plan))
    start = weights_of(trained(tmp_path / "start", replace(plan, stage_one=Stage(0, 1e-3))))
    kernels = [n for n, v in start.items() if v.ndim == 4 and n.startswith("backbone")]
    assert all(not torch.equal(changed[n], start[n]) for n in kernels)
    exact = weights_of(trained(tmp_path / "exact", replace(plan, precision="float32")))
    moved = torch.cat([(changed[n] - start[n]).flatten() for n in kernels])
    expected = torch.cat([(exact[n] - start[n]).flatten() for n in kernels])
    assert torch.nn.functional.cosine_similarity(moved, expected, dim=0) > 0.8
    assert not torch.equal(moved, expected), "autocast is off"


@pytest.mark.slow
def test_the_papers_optimizer_with_a_frozen_backbone(tmp_path, monkeypatch):
    """SGD, milestones, biases at twice the rate, whole images of several sizes, frozen stages."""
    from imp_trt.models import initial

    monkeypatch.setattr(initial, "initialize", lambda net, kind: None)
    plan = replace(
        RECIPE,
        stage_one=Stage(2, 0.01, warmup=0, schedule="step", milestones=(1,)),
        optimizer="sgd",
        weight_decay=0.0,
        bias_lr_mult=2.0,
        crop=None,
        short_sides=(48, 64),
        max_long=80,
        freeze_stages=2,
        ohem_ratios=(0.25, 0.5),
        clip=None,
    )
    after = weights_of(trained(tmp_path / "two", plan, initial="imagenet"))
    still = replace(plan, stage_one=Stage(0, 0.0))
    before = weights_of(trained(tmp_path / "none", still, initial="imagenet"))
    frozen = ("backbone.body.stem.", "backbone.body.stages.0.")
    for name, value in before.items():
        if name.startswith(frozen):
            assert torch.equal(value, after[name]), name
        elif value.ndim == 4 and "mask_predictor" not in name:
            assert not torch.equal(value, after[name]), name


def test_rare_classes_weigh_more():
    weights = class_weights(Boxes())
    assert weights.shape == (3,)
    assert weights[0] < weights[1]
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize("workers", [1, 3, 9])
def test_batches_depend_on_their_step_alone(workers):
    batch = draw_batch(Boxes(), CLASSES, RECIPE, (0, 1, 5))
    with batch_stream(CachedDataset(Boxes()), CLASSES, RECIPE, (0, 1), range(3, 7), workers) as stream:
        streamed = list(stream)
    assert len(streamed) == 4
    assert torch.equal(streamed[2].frames, batch.frames)
    assert not torch.equal(streamed[1].frames, batch.frames)


def test_the_recipe_decides_how_small_a_target_may_be():
    class Specks(Boxes):
        """One instance of nine pixels."""

        def __getitem__(self, index):
            sample = super().__getitem__(index)
            semantic, instances = np.zeros_like(sample.semantic), np.zeros_like(sample.instances)
            semantic[40:43, 50:53], instances[40:43, 50:53] = 1, 1
            return replace(sample, semantic=semantic, instances=instances)

    whole = replace(RECIPE, crop=(96, 96), scale=(1.0, 1.0))
    for least, expected in ((9, 1), (10, 0)):
        batch = draw_batch(Specks(), CLASSES, replace(whole, min_area=least), (0, 1, 0))
        assert [len(target["labels"]) for target in batch.instances] == [expected] * whole.batch


def test_whole_images_are_padded_to_the_stride_of_the_fpn():
    plan = replace(RECIPE, crop=None, short_sides=(40, 70), batch=6)
    batch = draw_batch(Boxes(), CLASSES, plan, (0, 1, 0))
    # 80x96 at a short side of 70 is 70x84; both sides go up to multiples of 32.
    assert batch.frames.shape == (6, 96, 96, 3)
    rows = {int((image != 255).any(dim=1).sum()) for image in batch.semantic}
    assert rows == {40, 70}
    limited = draw_batch(Boxes(), CLASSES, replace(plan, max_long=60), (0, 1, 0))
    assert limited.frames.shape == (6, 64, 64, 3)


def test_each_step_draws_one_of_several_ohem_ratios():
    assert draw_ohem_ratio(RECIPE, (0, 1, 2)) is None
    fixed = replace(RECIPE, ohem_ratios=(0.3,))
    assert {draw_ohem_ratio(fixed, (0, 1, s)) for s in range(9)} == {0.3}
    several = replace(RECIPE, ohem_ratios=(0.1, 0.25, 0.5))
    drawn = [draw_ohem_ratio(several, (0, 1, s)) for s in range(200)]
    assert drawn == [draw_ohem_ratio(several, (0, 1, s)) for s in range(200)]
    assert all(40 < drawn.count(share) < 95 for share in (0.1, 0.25, 0.5))


def test_groups_of_the_optimizer():
    network = ImpNetwork(without_imp(CONFIG))
    total = sum(1 for _ in network.parameters())
    two = parameter_groups(network, RECIPE)
    assert [group["weight_decay"] for group in two] == [1e-4, 0.0]
    three = parameter_groups(network, replace(RECIPE, bias_lr_mult=2.0))
    assert [group["factor"] for group in three] == [1.0, 1.0, 2.0]
    biases = {id(p) for name, p in network.named_parameters() if name.endswith("bias")}
    assert {id(p) for p in three[2]["params"]} == biases
    assert sum(len(g["params"]) for g in two) == sum(len(g["params"]) for g in three) == total


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_canvas_has_its_own_learning_rate(optimizer):
    moved = {}
    for rate in (1.0, 8.0):
        torch.manual_seed(0)
        network = ImpNetwork(CONFIG)
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        update = Optimizer(network, replace(RECIPE, optimizer=optimizer, canvas_lr_mult=rate), "cpu")
        update.step(sum((p * p).sum() + p.sum() for p in network.parameters()), 0.01)
        moved[rate] = {name: p.detach() - before[name] for name, p in network.named_parameters()}
    kernel, features = "semantic.fuse.0.0.weight", network.semantic.feature_channels
    plain, fast = (moved[rate].pop(kernel) for rate in (1.0, 8.0))
    torch.testing.assert_close(fast[:, features:], 8 * plain[:, features:], rtol=1e-3, atol=1e-6)
    assert fast[:, :features].equal(plain[:, :features])
    assert plain[:, features:].abs().min() > 0
    for name, change in moved[1.0].items():
        assert change.equal(moved[8.0][name]), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_run_on_cuda_continues_within_tolerance(tmp_path, monkeypatch, precision):
    """RoIAlign's gradient sums in no fixed order there, so two runs agree to rounding, not bit for bit."""
    stage = Stage(4, 0.02, 0.02, warmup=0)
    plan = replace(RECIPE, optimizer="sgd", precision=precision, stage_one=stage)
    still = replace(plan, stage_one=replace(stage, iterations=0))
    start, whole = (
        weights_of(trained(tmp_path / n, p, device="cuda")) for n, p in (("start", still), ("whole", plan))
    )
    with dying_after(2, monkeypatch), pytest.raises(MemoryError):
        trained(tmp_path / "cut", plan, device="cuda", save_every=2)
    resumed = weights_of(trained(tmp_path / "cut", plan, device="cuda"))
    names = [n for n, v in start.items() if v.ndim >= 2]
    moved = torch.cat([(whole[n] - start[n]).flatten() for n in names])
    apart = torch.cat([(whole[n] - resumed[n]).flatten() for n in names])
    assert moved.norm() > 0
    assert apart.norm() < 0.05 * moved.norm()

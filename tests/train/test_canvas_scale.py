# SPDX-License-Identifier: Apache-2.0
"""The scale of the canvas: measured on training data, kept by the checkpoint, folded for export."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from imp_trt.errors import InvalidInput, UsageError
from imp_trt.models import initial
from imp_trt.models.checkpoint import load_model
from imp_trt.models.deploy import DeployModule
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import without_imp
from imp_trt.train.batches import draw_batch
from imp_trt.train.canvas_scale import LIMITS, measure_canvas_scale
from imp_trt.train.config import Stage
from imp_trt.train.losses import StageLosses
from imp_trt.train.optimizer import parameter_groups
from imp_trt.train.recipes import FORMER_RECIPES, RECIPES, changed, recipe
from imp_trt.train.run import Run, train_pair, train_stage_one, train_stage_two
from tests.support.networks import detecting_network, small_config, smooth_frames
from tests.train.boxes import CONFIG, RECIPE, Boxes
from tests.train.test_loop import dying_after

pytestmark = pytest.mark.usefixtures("one_thread")

DETECTOR_FIRST = replace(RECIPE, semantic_in_stage_one=False, stage_one=Stage(1, 1e-3))


@pytest.mark.parametrize("skip", [False, True])
def test_a_scaled_canvas_is_exported_as_the_weights_that_read_it(skip):
    network = detecting_network(small_config(canvas_scale=8.0, canvas_skip=skip))
    if skip:
        torch.nn.init.normal_(network.semantic.canvas_to_logits.weight, std=2.0)
    before = network.semantic.canvas_kernel.clone()
    frames = smooth_frames(2)
    module = DeployModule(network)
    assert torch.equal(network.semantic.canvas_kernel, before), "the network's own weights are its own"
    assert module.network.semantic.canvas_scale == 1.0
    canvas = torch.rand(2, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    plain = ImpNetwork(replace(network.config, canvas_scale=1.0)).eval()
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        features = network.backbone(network.preprocess(frames))
        expected, without = network.segment(features, canvas), plain.segment(features, canvas)
        found = module.network.segment(module._features(frames), canvas)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (without - expected).abs().max() > 5e-3, "the scale has an effect"


def test_a_scale_of_one_changes_no_exported_weight():
    network = detecting_network(small_config())
    module = DeployModule(network)
    network.semantic.fold_canvas_scale()
    again = DeployModule(network)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in module.state_dict().items())


def measured(network, **changes):
    return measure_canvas_scale(network, Boxes(), replace(RECIPE, **changes), seed=0)


@pytest.mark.slow
def test_the_scale_is_the_ratio_of_the_standard_deviations():
    network = detecting_network(CONFIG)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scale = measured(network)
    assert LIMITS[0] < scale < LIMITS[1]
    assert scale == measured(network), "the same crops give the same scale"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    # Half the features: the p2 level of the head's sum ends in a normalization and a ReLU.
    with torch.no_grad():
        for level in network.semantic.levels:
            norm = level[-1][1]
            norm.weight.mul_(0.5)
            norm.bias.mul_(0.5)
    assert measured(network) == pytest.approx(scale / 2, rel=0.02)


@pytest.mark.slow
def test_stage_two_measures_the_scale_of_a_recipe_without_one(tmp_path, monkeypatch):
    seen = []

    def fixed(network, *_):
        seen.append(network.config.semantic_head)
        return 3.25

    monkeypatch.setattr("imp_trt.train.run.measure_canvas_scale", fixed)
    plan = replace(DETECTOR_FIRST, stage_two=Stage(1, 1e-3), canvas_scale=None)
    with_imp, plain = train_pair(Run(Boxes(), plan, 0, tmp_path, quiet=True), CONFIG)
    assert load_model(with_imp)[0].config == replace(CONFIG, canvas_scale=3.25)
    assert load_model(plain)[0].config == without_imp(CONFIG)
    assert seen == ["fpn"], "a network without a canvas has nothing to measure"


@pytest.mark.slow
def test_a_given_scale_is_kept_by_the_checkpoint(tmp_path):
    plan = replace(DETECTOR_FIRST, stage_two=Stage(1, 1e-3), canvas_scale=4.0)
    run = Run(Boxes(), plan, 0, tmp_path, quiet=True)
    path = train_stage_two(run, CONFIG, train_stage_one(run, CONFIG), "imp")
    assert load_model(path)[0].semantic.canvas_scale == 4.0


@pytest.mark.slow
def test_a_resumed_stage_two_keeps_the_scale_that_it_started_with(tmp_path, monkeypatch):
    """Another device or number of processes may measure another one."""
    scales = [3.25, 3.26]
    monkeypatch.setattr("imp_trt.train.run.measure_canvas_scale", lambda *_: scales.pop(0))
    plan = replace(DETECTOR_FIRST, stage_one=Stage(0, 0.0), stage_two=Stage(2, 1e-3), canvas_scale=None)
    run = Run(Boxes(), plan, 0, tmp_path, quiet=True, save_every=1)
    first = train_stage_one(run, CONFIG)
    with dying_after(1, monkeypatch), pytest.raises(MemoryError):
        train_stage_two(run, CONFIG, first, "imp")
    trained = load_model(train_stage_two(run, CONFIG, first, "imp"))[0]
    assert trained.config.canvas_scale == trained.semantic.canvas_scale == 3.25


@pytest.mark.slow
@pytest.mark.parametrize("semantic_in_stage_one", [False, True])
def test_the_skip_starts_at_zero_and_learns(tmp_path, semantic_in_stage_one):
    plan = replace(DETECTOR_FIRST, stage_two=Stage(2, 1e-3, warmup=0))
    plan = replace(plan, semantic_in_stage_one=semantic_in_stage_one)
    run = Run(Boxes(), plan, 0, tmp_path, quiet=True)
    config = replace(CONFIG, canvas_skip=True)
    first = train_stage_one(run, config)
    assert not load_model(first)[0].config.canvas_skip, "stage one is shared with networks without it"
    trained = load_model(train_stage_two(run, config, first, "imp"))[0]
    assert trained.semantic.canvas_to_logits.weight.any()
    still = replace(run, recipe=replace(plan, stage_two=Stage(0, 0.0)), folder=tmp_path / "still")
    new = load_model(train_stage_two(still, config, first, "imp"))[0]
    assert not new.semantic.canvas_to_logits.weight.any()


@pytest.mark.parametrize(("part", "reaches"), [("all", (True, True)), ("heads", (True, False)), ("none", ())])
def test_the_gradient_of_the_canvas_reaches_the_parts_that_the_recipe_names(part, reaches, monkeypatch):
    """The semantic loss alone, with a head that reads nothing but the canvas."""
    network = detecting_network(CONFIG).train()
    monkeypatch.setattr(network.semantic, "merge_levels", lambda f: f["p2"].detach()[:, :64] * 0)
    run = replace(RECIPE, canvas_gradient=part, instance_weight=0.0)
    batch = draw_batch(Boxes(), CONFIG.classes, run, (0, 2, 0))
    losses = StageLosses(network, run, 2, None)(batch)
    losses["semantic"].backward()

    def moved(module):
        return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())

    found = (moved(network.detector.roi.mask_predictor), moved(network.backbone.fpn))
    assert found == (reaches or (False, False))


def test_no_recipe_has_another_rate_for_the_canvas():
    assert all(plan.canvas_lr_mult == 1.0 for plan in RECIPES.values())
    assert {plan.canvas_lr_mult for plan in FORMER_RECIPES.values()} == {10.0}


def test_former_recipes_and_the_former_rate_load_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        old = recipe("camvid-canvas-rate-10")
    assert "recipe camvid-canvas-rate-10 is deprecated, use camvid" in caplog.text
    now = changed(recipe("camvid"), ["canvas_lr_mult=10", "canvas_scale=1"])
    assert now == old
    assert "--set canvas_lr_mult is deprecated, use canvas_scale" in caplog.text


def test_the_backbone_has_its_own_rate_and_keeps_its_statistics(tmp_path, monkeypatch):
    monkeypatch.setattr(initial, "initialize", lambda network, kind: None)
    plan = replace(RECIPE, backbone_lr_mult=0.25, bias_lr_mult=2.0)
    network = ImpNetwork(CONFIG)
    groups = parameter_groups(network, plan)
    body = {id(p) for p in network.backbone.body.parameters()}
    for group in groups:
        inside = {id(p) in body for p in group["params"]}
        assert len(inside) == 1, "no group mixes the backbone with the rest"
        assert group["factor"] in ((0.25, 0.5) if inside == {True} else (1.0, 2.0))
    assert sum(len(g["params"]) for g in groups) == len(list(network.parameters()))
    plan = replace(DETECTOR_FIRST, freeze_norm=True)
    run = Run(Boxes(), plan, 0, tmp_path, quiet=True)
    with pytest.raises(UsageError, match="freeze_norm"):
        train_stage_one(run, CONFIG)
    path = train_stage_one(replace(run, initial="imagenet"), CONFIG)
    state = load_model(path)[0].state_dict()
    means = {name: value for name, value in state.items() if name.endswith("running_mean")}
    assert any(value.any() for name, value in means.items() if "backbone.fpn" in name)
    assert not any(value.any() for name, value in means.items() if "backbone.body" in name)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_none_are_rejected(value):
    with pytest.raises(InvalidInput, match="canvas_scale"):
        small_config(canvas_scale=value)
    with pytest.raises(UsageError, match="canvas_scale"):
        replace(RECIPE, canvas_scale=value)

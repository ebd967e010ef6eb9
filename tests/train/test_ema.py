# SPDX-License-Identifier: Apache-2.0
"""The moving average of weights: its recursion, what the checkpoint holds, and resuming."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from imp_trt.errors import UsageError
from imp_trt.models.checkpoint import load_model
from imp_trt.train import loop
from imp_trt.train.ema import WARMUP, WeightAverage
from imp_trt.train.run import Run, train_stage_one
from tests.train.boxes import CONFIG, RECIPE, Boxes
from tests.train.test_loop import dying_after

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_average_follows_its_recursion():
    layer = nn.BatchNorm1d(1)
    average = WeightAverage(layer, 0.5)
    expected = layer.weight.item()
    for step in range(1, 20):
        with torch.no_grad():
            layer.weight.fill_(float(step))
            layer.num_batches_tracked.fill_(step)
        average.update(layer)
        decay = min(0.5, (1 + step) / (WARMUP + step))
        expected = decay * expected + (1 - decay) * step
    average.copy_to(layer)
    assert layer.weight.item() == pytest.approx(expected, rel=1e-5)
    assert int(layer.num_batches_tracked) == 19


def weights(folder, recipe, **changes):
    run = replace(Run(Boxes(), recipe, 0, folder, quiet=True), **changes)
    return load_model(train_stage_one(run, CONFIG))[0].state_dict()


@pytest.mark.slow
def test_the_checkpoint_has_the_average_and_resuming_keeps_it(tmp_path, monkeypatch):
    recipe = replace(RECIPE, ema_decay=0.9)
    whole = weights(tmp_path / "whole", recipe)
    last = weights(tmp_path / "last", RECIPE)
    assert not torch.equal(whole["semantic.classify.weight"], last["semantic.classify.weight"])
    with dying_after(4, monkeypatch), pytest.raises(MemoryError):
        weights(tmp_path / "cut", recipe, save_every=2)
    resumed = weights(tmp_path / "cut", recipe)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_without_a_decay_no_average_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "WeightAverage", lambda *_: pytest.fail("an average was made"))
    weights(tmp_path, RECIPE)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_rejected(decay):
    with pytest.raises(UsageError, match="ema_decay"):
        replace(RECIPE, ema_decay=decay)

# SPDX-License-Identifier: Apache-2.0
"""The deploy module with its layers in float16 and bfloat16."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from imp_trt.errors import ExportError
from imp_trt.export.verification.gates import Agreement, FrameDetections
from imp_trt.models.deploy import DeployModule, Float32GroupNorm, lower_layers
from imp_trt.models.outputs import OUTPUT_NAMES
from tests.support.networks import detecting_network, small_config, smooth_frames

LOW = (torch.float16, torch.bfloat16)


def outputs(module, frames):
    with torch.no_grad():
        return dict(zip(OUTPUT_NAMES, module(frames), strict=True))


@pytest.fixture(scope="module")
def network():
    return detecting_network(small_config())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", LOW)
def test_outputs_have_the_types_of_the_contract_and_nearly_the_values(network, dtype):
    frames = smooth_frames(4)
    exact, low = outputs(DeployModule(network), frames), outputs(DeployModule(network, dtype=dtype), frames)
    assert {n: (t.dtype, t.shape) for n, t in low.items()} == {
        n: (t.dtype, t.shape) for n, t in exact.items()
    }
    agreement = Agreement()
    for i in range(len(frames)):
        found = [
            FrameDetections(*(o[n][i].numpy() for n in ("boxes", "labels", "scores"))) for o in (exact, low)
        ]
        agreement.add((exact["semantic"][i].numpy(), low["semantic"][i].numpy()), tuple(found))
    assert agreement.reference >= 4
    # Random weights decide by smaller margins than trained ones: the gates of an export do not fit here.
    assert agreement.label_agreement > (0.995 if dtype is torch.float16 else 0.97)
    assert agreement.instance_f1 > (0.9 if dtype is torch.float16 else 0.5)


@pytest.mark.parametrize("dtype", LOW)
def test_layers_are_low_and_geometry_is_not(network, dtype):
    module = DeployModule(network, dtype=dtype)
    assert {p.dtype for p in module.parameters()} == {dtype}
    for name in ("anchors", "corners"):
        assert getattr(module.detector, name).dtype == torch.float32
    assert module.scale.dtype == module.shift.dtype == torch.float32
    seen = {}

    def watch(name):
        def hook(_module, inputs, result):
            seen[name] = (inputs[0].dtype, result.dtype)

        return hook

    module.detector.rpn_nms.register_forward_hook(watch("rpn"))
    module.detector.box_nms.register_forward_hook(watch("box"))
    module.detector.mask_upsample.register_forward_hook(watch("mask"))
    module.network.semantic.classify.register_forward_hook(watch("semantic"))
    outputs(module, smooth_frames(1))
    assert seen["rpn"][0] == seen["box"][0] == torch.float32
    assert seen["mask"] == seen["semantic"] == (dtype, dtype)


def test_the_network_given_is_not_changed(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    DeployModule(network, dtype=torch.float16)
    after = network.state_dict()
    assert all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before)


def test_group_norm_survives_values_whose_squares_leave_float16():
    norm = nn.GroupNorm(2, 4)
    block = nn.Sequential(norm)
    lower_layers(block, torch.float16)
    assert isinstance(block[0], Float32GroupNorm)
    assert norm.weight.dtype == torch.float32
    x = torch.linspace(-3e4, 3e4, 4 * 64).reshape(1, 4, 8, 8)
    result = block(x.half())
    assert result.dtype == torch.float16
    np.testing.assert_allclose(result.detach().float(), norm(x).detach(), atol=2e-3)


def test_a_system_with_group_norm_in_float16():
    network = detecting_network(replace(small_config("semantic-fpn"), head_norm="group"))
    frames = smooth_frames(2)
    exact, low = (outputs(DeployModule(network, dtype=t), frames) for t in (torch.float32, torch.float16))
    assert (exact["semantic"] == low["semantic"]).float().mean() > 0.99


def test_a_weight_beyond_the_type_is_rejected(network):
    wide = detecting_network(small_config())
    with torch.no_grad():
        wide.semantic.classify.weight[0, 0] = 1e5
    with pytest.raises(ExportError, match=r"Conv2d.weight.*65504.*got up to 100000.*bf16"):
        DeployModule(wide, dtype=torch.float16)
    DeployModule(wide, dtype=torch.bfloat16)


def test_other_types_are_rejected(network):
    with pytest.raises(ExportError, match=r"type of the layers.*got torch.float64"):
        DeployModule(network, dtype=torch.float64)

# SPDX-License-Identifier: Apache-2.0
"""The static deploy module against the eager network it was made from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from imp_trt.errors import CheckpointError, ExportError
from imp_trt.models.checkpoint import load_model
from imp_trt.models.config import ModelConfig
from imp_trt.models.deploy import DeployModule, fold_batch_norm
from imp_trt.models.deploy_detector import _deconvolution_as_convolution
from imp_trt.models.network import ImpNetwork
from imp_trt.models.outputs import OUTPUT_NAMES
from imp_trt.models.presets import SYSTEMS
from tests.support.networks import detecting_network, small_config, smooth_frames
from tests.support.parity import assert_same


def run(module, frames):
    with torch.no_grad():
        return dict(zip(OUTPUT_NAMES, module(frames), strict=True))


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_each_system_equals_its_eager_network(name):
    network = detecting_network(small_config(name))
    frames = smooth_frames()
    least = 4 if SYSTEMS[name]["detector"] else 0
    assert_same(network.forward_frames(frames), run(DeployModule(network), frames), least)


@pytest.mark.parametrize(
    ("backbone", "norm", "head_norm"),
    [("resnet18", "frozen_batch", "group"), ("resnet50", "batch", "batch"), ("compact", "group", "none")],
)
def test_each_normalization_equals_its_eager_network(backbone, norm, head_norm):
    config = small_config(backbone=backbone, norm=norm, head_norm=head_norm, fpn_channels=32)
    network = detecting_network(config)
    module = DeployModule(network)
    left = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    assert not left, "batch normalization is folded"
    assert_same(network.forward_frames(smooth_frames()), run(module, smooth_frames()), 0)


@pytest.mark.slow
def test_trained_weights_equal_their_eager_network_on_street_scenes():
    from imp_trt.synthetic import StreetScenes
    from imp_trt.weights import bundled

    try:
        network, _ = load_model(bundled())
    except CheckpointError as error:
        pytest.skip(str(error))
    scenes = StreetScenes(seed=11, size=network.config.input_size, length=3)
    frames = torch.stack([torch.from_numpy(scenes[i].image) for i in range(3)])
    module = DeployModule(network)
    assert_same(network.forward_frames(frames), run(module, frames), 6)
    assert module.unconverged(frames) == 0


class _Called(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


def test_the_forward_pass_can_be_recorded_as_a_cuda_graph():
    """Neither a copy of a new host tensor nor a wait for a value on the GPU, which end a capture."""
    module = DeployModule(detecting_network(small_config()))
    with torch.no_grad(), _Called() as called:
        module(smooth_frames())
    assert {"conv2d", "topk"} & called.names
    assert not {"lift_fresh", "_local_scalar_dense", "nonzero", "item"} & called.names


@pytest.mark.slow
def test_every_sampling_rule_reaches_the_canvas():
    network = detecting_network(small_config("mask-rcnn-imp", background_score=0.1))
    seen = []
    for rule in ("bilinear", "nearest", "rect"):
        network.config = replace(network.config, sampling=rule)
        outputs = run(DeployModule(network), smooth_frames())
        assert_same(network.forward_frames(smooth_frames()), outputs)
        seen.append(outputs["semantic"])
    assert not torch.equal(seen[0], seen[2])


def test_the_network_it_is_made_from_stays_as_it_is():
    network = detecting_network(small_config())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    DeployModule(network)
    assert network.detector is not None
    assert set(network.state_dict()) == set(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_nothing_found_is_zeros_everywhere():
    config = small_config()
    network = detecting_network(
        replace(config, detector_config=replace(config.detector_config, score_threshold=0.999))
    )
    outputs = run(DeployModule(network), smooth_frames())
    assert outputs["num_detections"].tolist() == [0, 0]
    assert not any(outputs[name].any() for name in ("boxes", "scores", "labels", "masks"))
    assert torch.equal(outputs["semantic"], network.forward_frames(smooth_frames())["semantic"])


def test_fewer_boxes_than_asked_for_are_padded():
    config = small_config()
    few = replace(config.detector_config, pre_nms_per_level=2, proposals=30, candidates=7, detections=40)
    network = detecting_network(replace(config, detector_config=few))
    outputs = run(DeployModule(network), smooth_frames())
    assert outputs["boxes"].shape == (2, 40, 4)
    assert_same(network.forward_frames(smooth_frames()), outputs, 0)


def test_too_few_nms_iterations_are_noticed():
    network = detecting_network(small_config())
    assert DeployModule(network).unconverged(smooth_frames()) == 0
    assert DeployModule(network, nms_iterations=1).unconverged(smooth_frames()) > 0
    plain = ImpNetwork(small_config("semantic-fpn")).eval()
    assert DeployModule(plain, nms_iterations=1).unconverged(smooth_frames()) == 0


@pytest.mark.parametrize("field", ["pre_nms_per_level", "proposals", "candidates", "detections"])
def test_more_boxes_than_tensorrt_can_rank_are_rejected(config: ModelConfig, field):
    many = replace(config, detector_config=replace(config.detector_config, **{field: 3841}))
    with pytest.raises(ExportError, match=f"{field}.*1 to 3840"):
        DeployModule(ImpNetwork(many))


def test_folding_follows_the_order_of_registration():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1), FrozenBatchNorm2d(2)
    )
    with torch.no_grad():
        for norm in (layers[1], layers[4]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.normal_()
            norm.bias.normal_()
    layers.eval()
    x = torch.randn(2, 3, 8, 8)
    expected = layers(x)
    fold_batch_norm(layers)
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.Identity, nn.ReLU, nn.Conv2d, nn.Identity]
    torch.testing.assert_close(layers(x), expected, atol=1e-5, rtol=1e-5)


def test_a_deconvolution_of_stride_two_is_a_convolution_with_four_outputs_a_pixel():
    torch.manual_seed(0)
    deconvolution = MaskRCNNPredictor(6, 5, 3).conv5_mask
    nn.init.normal_(deconvolution.bias)
    x = torch.randn(2, 6, 7, 7)
    four = _deconvolution_as_convolution(deconvolution)(x).reshape(
        2, 2, 2, 5, 7, 7
    )  # N, row, column, O, h, w
    blocks = four.permute(0, 3, 4, 1, 5, 2).reshape(2, 5, 14, 14)
    torch.testing.assert_close(blocks, deconvolution(x), atol=1e-5, rtol=1e-5)


def test_former_names_of_nms_iterations_warn():
    network = detecting_network(small_config())
    with pytest.warns(DeprecationWarning, match="nms_iterations"):
        module = DeployModule(network, passes=1)
    with pytest.warns(DeprecationWarning, match="unconverged"):
        assert module.unsettled(smooth_frames()) == module.unconverged(smooth_frames()) > 0

# SPDX-License-Identifier: Apache-2.0
"""The eager network: shapes, padding, switches, and gradients through the canvas."""

from __future__ import annotations

import pytest
import torch

from imp_trt.errors import InvalidInput
from imp_trt.models.config import ModelConfig
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import SYSTEMS, system, without_imp
from imp_trt.ops import instance_mask_projection_reference
from tests.support.networks import CLASSES


def test_outputs_have_the_documented_shapes_and_types(network, frames):
    out = network.forward_frames(frames)
    n = network.config.detector_config.detections
    assert {k: (v.dtype, tuple(v.shape)) for k, v in out.items()} == {
        "semantic": (torch.uint8, (2, 64, 96)),
        "boxes": (torch.float32, (2, n, 4)),
        "scores": (torch.float32, (2, n)),
        "labels": (torch.int32, (2, n)),
        "masks": (torch.float32, (2, n, 28, 28)),
        "num_detections": (torch.int32, (2,)),
    }


def test_detections_are_sorted_clipped_and_padded_with_zeros(network, frames):
    out = network.forward_frames(frames)
    for i, count in enumerate(out["num_detections"].tolist()):
        assert count > 0, "the random network must find something for this test to mean anything"
        scores, boxes = out["scores"][i], out["boxes"][i]
        assert (scores[:count].diff() <= 0).all()
        assert (scores[:count] > network.config.detector_config.score_threshold).all()
        assert (boxes[:count, 0::2] <= 96).all()
        assert (boxes[:count, 1::2] <= 64).all()
        assert (boxes[:count, 2:] > boxes[:count, :2]).all()
        assert set(out["labels"][i, :count].tolist()) <= set(network.config.classes.things)
        for name in ("boxes", "scores", "labels", "masks"):
            assert not out[name][i, count:].any(), name


def test_one_frame_at_a_time_equals_the_batch(network, frames):
    both = network.forward_frames(frames)
    for i in range(2):
        one = network.forward_frames(frames[i : i + 1])
        assert torch.equal(one["semantic"][0], both["semantic"][i])
        torch.testing.assert_close(one["boxes"][0], both["boxes"][i], atol=1e-3, rtol=1e-4)


def test_canvas_is_the_reference_operator_on_the_detections(network, frames):
    size = (64, 96)
    with torch.no_grad():
        features = network.backbone(network.preprocess(frames))
        found, masks = network._instances(features, size)
        canvas = network.project(found, masks, size)
    expected = instance_mask_projection_reference(
        found.boxes.numpy(), found.scores.numpy(), found.labels.numpy(), masks.numpy(), 2, (16, 24), 0.25
    )
    assert canvas.shape == (2, 2, 16, 24)
    assert canvas.max() > 0
    torch.testing.assert_close(canvas.double(), torch.from_numpy(expected).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_each_system_runs(name, classes, frames):
    torch.manual_seed(0)
    out = ImpNetwork(system(name, classes, (64, 96))).eval().forward_frames(frames[:1])
    assert out["semantic"].shape == (1, 64, 96)
    assert out["boxes"].shape[1] == (50 if SYSTEMS[name]["detector"] else 0)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet101", "resnext101_32x8d"])
def test_fpn_strides_of_torchvision_backbones(backbone, classes):
    network = ImpNetwork(system("semantic-fpn", classes, (64, 96), backbone, norm="group"))
    width = 128 if backbone == "resnet18" else 256
    with torch.no_grad():
        pyramid = network.eval().backbone(torch.zeros(1, 3, 64, 96))
    sizes = {name: tuple(level.shape[1:]) for name, level in pyramid.items()}
    assert sizes == {
        "p2": (width, 16, 24),
        "p3": (width, 8, 12),
        "p4": (width, 4, 6),
        "p5": (width, 2, 3),
        "p6": (width, 1, 2),
    }


def test_the_semantic_loss_reaches_the_mask_head_through_the_canvas(config, frames):
    torch.manual_seed(3)
    network = ImpNetwork(config)
    with torch.no_grad():
        network.detector.roi.box_predictor.cls_score.weight.mul_(40)
    size = (64, 96)
    features = network.backbone(network.preprocess(frames))
    proposals = [torch.tensor([[5.0, 5, 60, 50], [30, 10, 90, 60]])] * 2
    found = network.detector.detect(features, proposals, size)
    canvas = network.project(found, network.detector.masks(features, found), size)
    assert found.counts.min() > 0
    network.segment(features, canvas).sum().backward()
    assert network.detector.roi.mask_predictor.mask_fcn_logits.weight.grad.abs().sum() > 0
    assert network.detector.roi.box_predictor.cls_score.weight.grad.abs().sum() > 0


def test_the_control_without_imp_differs_in_the_canvas_channels_alone(config):
    with_imp, plain = ImpNetwork(config).state_dict(), ImpNetwork(without_imp(config)).state_dict()
    assert set(with_imp) == set(plain)
    different = [name for name in plain if with_imp[name].shape != plain[name].shape]
    assert different == ["semantic.fuse.0.0.weight"]
    assert with_imp[different[0]].shape[1] - plain[different[0]].shape[1] == config.num_things


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"backbone": "vgg"}, "backbone"),
        ({"sampling": "cubic"}, "sampling"),
        ({"input_size": (65, 96)}, "multiples of 32"),
        ({"detector": False}, "imp needs the detector"),
        ({"semantic_head": "none", "imp": False}, "reads the canvas"),
    ],
)
def test_contradictions_in_the_configuration_are_rejected(classes, changes, text):
    with pytest.raises(InvalidInput, match=text):
        ModelConfig(classes=classes, **{"input_size": (64, 96), **changes})


def test_configuration_survives_json(config):
    import json

    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(InvalidInput, match="surprise"):
        ModelConfig.from_dict({**config.to_dict(), "surprise": 1})


@pytest.mark.parametrize("bad", [torch.zeros(1, 64, 96, 3), torch.zeros(64, 96, 3, dtype=torch.uint8)])
def test_frames_of_another_type_or_rank_are_rejected(network, bad):
    with pytest.raises(InvalidInput, match="uint8"):
        network.forward_frames(bad)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("name", ["panoptic-p2-imp", "panoptic-fpn-imp"])
def test_the_canvas_leaves_the_features_in_their_memory_layout(name, layout):
    # A canvas of another layout made everything behind it contiguous: 15 % of the network's time.
    head = ImpNetwork(system(name, CLASSES, (64, 96))).semantic.eval()
    features = {
        level: torch.rand(1, 64, 16 >> i, 24 >> i).to(memory_format=layout)
        for i, level in enumerate(("p2", "p3", "p4", "p5"))
    }
    canvas = torch.rand(1, 2, 16, 24)
    with torch.no_grad():
        logits = head(features, canvas)
        other = head({level: x.contiguous() for level, x in features.items()}, canvas)
    assert logits.is_contiguous(memory_format=layout)
    torch.testing.assert_close(logits, other, atol=1e-5, rtol=1e-4)

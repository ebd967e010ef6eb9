# SPDX-License-Identifier: Apache-2.0
"""The presets: heads as in section 3.2 of the paper, sizes by backbone, names that checkpoints rely on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.models.checkpoint import load_model
from imp_trt.models.coco import coco_config
from imp_trt.models.config import DetectorConfig
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import SYSTEMS, system
from tests.support.networks import CLASSES, detecting_network, smooth_frames

PUBLISHED = sorted((Path(__file__).parents[2] / "samples" / "weights").glob("*.safetensors"))
PAPER_BACKBONES = ("resnet50", "resnet101", "resnext101_32x8d")


def test_masks_of_an_odd_side_are_rejected_where_they_are_asked_for():
    # The mask head doubles a side of mask_size / 2.
    with pytest.raises(InvalidInput, match="mask_size"):
        DetectorConfig(mask_size=27)


def on_meta(name, backbone):
    """The network without memory for its weights."""
    with torch.device("meta"):
        return ImpNetwork(system(name, CLASSES, (128, 256), backbone))


@pytest.mark.parametrize("name", [name for name, parts in SYSTEMS.items() if parts["semantic_head"] == "p2"])
def test_the_p2_head_is_four_convolutions_and_a_classifier_without_normalization(name):
    head = on_meta(name, "resnet50").semantic
    convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    canvas = 2 if SYSTEMS[name]["imp"] else 0
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convolutions] == [
        (256 + canvas, 128, 3),
        *[(128, 128, 3)] * 3,
        (128, len(CLASSES), 1),
    ]
    assert all(c.bias is not None for c in convolutions)
    assert not [m for m in head.modules() if "Norm" in type(m).__name__]


@pytest.mark.parametrize("name", [name for name, parts in SYSTEMS.items() if parts["semantic_head"] == "fpn"])
def test_the_fpn_head_sums_the_levels_before_the_canvas_comes_in(name):
    head = on_meta(name, "resnet50").semantic
    assert [len(level) for level in head.levels] == [1, 1, 2, 3]
    for level in head.levels:
        for step, block in enumerate(level):
            convolution, norm, activation = block
            assert (convolution.in_channels, convolution.out_channels) == (128 if step else 256, 128)
            assert isinstance(norm, nn.GroupNorm)
            assert norm.num_groups == 32
            assert isinstance(activation, nn.ReLU)
    canvas = 2 if SYSTEMS[name]["imp"] else 0
    assert [block[0].in_channels for block in head.fuse] == [128 + canvas, 128, 128, 128]
    assert all(isinstance(block[1], nn.GroupNorm) for block in head.fuse)
    assert head.classify.kernel_size == (1, 1)


def test_each_level_reaches_stride_four():
    head = on_meta("semantic-fpn", "resnet50").semantic
    level = {
        name: torch.zeros(1, 256, 32 >> i, 64 >> i, device="meta")
        for i, name in enumerate(("p2", "p3", "p4", "p5"))
    }
    assert head(level, None).shape == (1, len(CLASSES), 32, 64)


@pytest.mark.parametrize("backbone", PAPER_BACKBONES)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "panoptic-fpn-imp" else pytest.mark.slow) for n in SYSTEMS]
)
def test_the_papers_backbones_have_its_sizes(name, backbone):
    network = on_meta(name, backbone)
    config = network.config
    assert (config.fpn_channels, config.semantic_channels, config.norm) == (256, 128, "frozen_batch")
    pyramid = network.backbone(torch.zeros(1, 3, 128, 256, device="meta"))
    assert [tuple(pyramid[f"p{level}"].shape[1:]) for level in range(2, 7)] == [
        (256, 32, 64),
        (256, 16, 32),
        (256, 8, 16),
        (256, 4, 8),
        (256, 2, 4),
    ]
    if network.detector is not None:
        assert network.detector.roi.box_head.fc7.weight.shape == (1024, 1024)
        assert network.detector.config.detections == 100


def test_mask_rcnn_with_a_resnet_50_has_torchvisions_parameters():
    with torch.device("meta"):
        ours, theirs = (
            ImpNetwork(coco_config((64, 96))),
            maskrcnn_resnet50_fpn(weights=None, weights_backbone=None),
        )
    # Ten rows fewer in each predictor: class, four box values, mask.
    rows = 10 * (1024 + 1 + 4 * (1024 + 1) + 256 + 1)
    # Frozen normalization keeps its scale and bias as statistics.
    norms = sum(m.weight.numel() * 2 for m in theirs.modules() if isinstance(m, nn.BatchNorm2d))
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters()) - rows - norms


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34"])
def test_small_resnets_come_with_real_time_heads(backbone):
    torch.manual_seed(0)
    network = detecting_network(system("panoptic-fpn-imp", CLASSES, (64, 96), backbone))
    assert not [m for m in network.modules() if "Frozen" in type(m).__name__], "trains from scratch too"
    detector = network.config.detector_config
    assert detector.proposals <= 300
    assert detector.detections <= 50
    assert detector.pre_nms_per_level <= 300
    assert sum(p.numel() for p in network.parameters()) < 30e6
    outputs = network.forward_frames(smooth_frames(1))
    assert outputs["boxes"].shape == (1, 50, 4)
    assert int(outputs["num_detections"]) > 0


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("mask-rcnn-imp", "292155412accfd24"),
        ("semantic-p2", "e32ea6ea09c46cbe"),
        ("semantic-fpn", "f00efe7b63e6bdcf"),
        ("panoptic-p2", "2f8876ac5589ec91"),
        ("panoptic-p2-imp", "a70631a4b26bd04a"),
        ("panoptic-fpn", "3d0d33afeebaaff8"),
        ("panoptic-fpn-imp", "570e416e2a5e0e6e"),
    ],
)
def test_compact_systems_keep_the_names_and_shapes_of_checkpoints_that_exist(name, digest):
    shapes = {key: list(value.shape) for key, value in on_meta(name, "compact").state_dict().items()}
    assert hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:16] == digest


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED, reason="samples/weights has no weights")
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_published_weights_load(path):
    network, metadata = load_model(path)
    assert metadata
    height, width = network.config.input_size
    frame = torch.full((1, height, width, 3), 90, dtype=torch.uint8)
    assert network.forward_frames(frame)["semantic"].shape == (1, height, width)


@pytest.mark.skipif(not PUBLISHED, reason="samples/weights has no weights")
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_published_weights_are_small_and_carry_their_terms_and_card(path):
    assert path.stat().st_size <= 16 << 20
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["metadata"])
        kernels = {file.get_tensor(n).dtype for n in file.keys() if file.get_tensor(n).ndim >= 2}
    assert kernels == {torch.float16}
    assert "only" in metadata["terms"]
    assert path.with_suffix(".md").is_file()
    assert f"({path.stem}.md)" in path.with_name("README.md").read_text()


@pytest.mark.parametrize(
    ("name", "backbone", "meant"),
    [("panoptic-fpm-imp", "compact", "panoptic-fpn-imp"), ("semantic-fpn", "resnet5O", "resnet50")],
)
def test_a_typo_is_answered_with_the_name_that_was_meant(name, backbone, meant):
    with pytest.raises(InvalidInput, match=f"use '{meant}'"):
        system(name, CLASSES, (64, 64), backbone)


def test_classes_without_things_have_systems_of_their_own():
    stuff = ClassTable(("sky", "road"), (), ((0, 0, 0), (9, 9, 9)))
    with pytest.raises(InvalidInput, match=r"at least one thing class.*--system semantic-fpn"):
        system("panoptic-fpn-imp", stuff, (64, 96))
    assert system("semantic-fpn", stuff, (64, 96)).num_things == 0

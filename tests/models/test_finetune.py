# SPDX-License-Identifier: Apache-2.0
"""Starting from a checkpoint: what is copied by name, what stays new, what is said about it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from imp_trt.classes import ClassTable, default_palette
from imp_trt.errors import CheckpointError, InvalidInput
from imp_trt.models.config import DetectorConfig
from imp_trt.models.finetune import copy_weights, finetune_config, plan_transfer, system_of
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import SYSTEMS, system
from tests.support.networks import CLASSES, detecting_network, small_config

OTHER = ClassTable(("Person", "tree", "ROAD", "dog", "truck"), (0, 3, 4), default_palette(5))
"""Two classes of the checkpoint in another order and spelling, three new ones; two of it are missing."""


@pytest.fixture(scope="module")
def source():
    network = detecting_network(small_config(canvas_scale=2.0, canvas_skip=True))
    with torch.no_grad():
        network.semantic.canvas_to_logits.weight.normal_(0, 1)
    return network


def started(source, classes=OTHER, name=None, **changes):
    torch.manual_seed(7)
    network = ImpNetwork(finetune_config(source.config, classes, name, **changes)).eval()
    return network, copy_weights(network, source)


def test_the_same_classes_give_the_same_network(source):
    network, transfer = started(source, CLASSES)
    weights = source.state_dict()
    assert network.config == source.config
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert transfer.lines() == [
        "taken: backbone, FPN, detector, semantic head; classes road, sky, car, person"
    ]


def test_rows_follow_the_names_of_the_classes(source):
    network, transfer = started(source)
    assert dict(transfer.classes) == {0: 3, 2: 0}
    assert dict(transfer.things) == {0: 1}
    roi, theirs = network.detector.roi, source.detector.roi
    score, their_score = roi.box_predictor.cls_score, theirs.box_predictor.cls_score
    assert torch.equal(score.weight[[0, 1]], their_score.weight[[0, 2]])
    assert torch.equal(score.bias[[0, 1]], their_score.bias[[0, 2]])
    boxes, their_boxes = roi.box_predictor.bbox_pred, theirs.box_predictor.bbox_pred
    assert torch.equal(boxes.weight[4:8], their_boxes.weight[8:12])
    masks, their_masks = roi.mask_predictor.mask_fcn_logits, theirs.mask_predictor.mask_fcn_logits
    assert torch.equal(masks.weight[1], their_masks.weight[2])
    classify, their_classify = network.semantic.classify, source.semantic.classify
    assert torch.equal(classify.weight[[0, 2]], their_classify.weight[[3, 0]])
    for layer, new in ((score, [2, 3]), (masks, [2, 3]), (classify, [1, 3, 4])):
        assert 0.005 < layer.weight[new].std().item() < 0.015
        assert not layer.bias[new].any()
    kernel = network.semantic.canvas_kernel
    assert torch.equal(kernel[:, 0], source.semantic.canvas_kernel[:, 1])
    assert not kernel[:, 1:].any()
    skip, their_skip = network.semantic.canvas_to_logits.weight, source.semantic.canvas_to_logits.weight
    assert torch.equal(skip[[0, 2], 0], their_skip[[3, 0], 1])
    assert not skip[:, 1:].any()
    assert not skip[[1, 3, 4], 0].any()


def test_each_line_names_what_is_taken_new_and_left(source):
    assert started(source)[1].lines() == [
        "taken: backbone, FPN, detector, semantic head; classes Person (from person), ROAD (from road)",
        "new: classes tree, dog, truck",
        "not used: classes sky, car",
    ]


def test_a_class_that_was_stuff_has_a_new_detector_row(source):
    things = ClassTable(("road", "sky", "car", "person"), (1, 2, 3), CLASSES.palette)
    lines = started(source, things)[1].lines()
    assert lines[1:] == ["new: classes sky (detector)"]


def test_the_lines_stay_short(source):
    many = ClassTable(tuple(f"kind {i}" for i in range(50)), (1,), default_palette(50))
    lines = started(source, many)[1].lines()
    assert all(len(line) < 200 for line in lines)
    assert "and 38 more" in lines[1]


def test_a_canvas_of_another_scale_reads_the_same(source):
    network, _ = started(source, CLASSES, canvas_scale=8.0)
    features = {f"p{i}": torch.rand(1, 64, 64 // 2**i, 96 // 2**i) for i in (2, 3, 4, 5)}
    canvas = torch.rand(1, 2, 16, 24)
    with torch.no_grad():
        expected = source.semantic(features, canvas)
        torch.testing.assert_close(network.semantic(features, canvas), expected, rtol=1e-4, atol=1e-5)


def test_the_semantic_head_is_new_on_a_detector_alone():
    detector = detecting_network(small_config("mask-rcnn-imp", "resnet18"))
    network, transfer = started(detector, CLASSES, "panoptic-fpn-imp")
    expected = small_config("panoptic-fpn-imp", "resnet18")
    assert network.config == expected
    assert transfer.lines()[1] == "new: semantic head"
    weights = detector.state_dict()
    own = network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights.items())
    assert 0.005 < network.semantic.canvas_kernel.std().item() < 0.015


def test_the_switches_of_an_imported_detector_stay():
    detector = DetectorConfig(rpn_convs=2, box_convs=2, mask_norm=True, proposals=20, detections=5)
    source = ImpNetwork(
        system(
            *("mask-rcnn-imp", CLASSES, (64, 96), "resnet18"),
            **{"norm": "batch", "fpn_channels": 32, "detector_config": detector, "mean": (0.1, 0.2, 0.3)},
        )
    )
    config = started(source, OTHER, "panoptic-fpn-imp")[0].config
    changed = ("classes", "semantic_head", "semantic_channels", "head_norm", "background_score")
    kept = {name: getattr(source.config, name) for name in vars(config) if name not in changed}
    assert kept == {name: getattr(config, name) for name in kept}


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_system_takes_what_it_shares(source, name):
    network, transfer = started(source, CLASSES, name)
    assert system_of(network.config) == name
    shared = ["backbone", "FPN"]
    shared += ["detector"] if SYSTEMS[name]["detector"] else []
    shared += ["semantic head"] if SYSTEMS[name]["semantic_head"] == "fpn" else []
    assert list(transfer.parts) == shared


def test_a_network_without_imp_gains_the_canvas():
    plain = detecting_network(small_config("panoptic-fpn"))
    network, transfer = started(plain, CLASSES, "panoptic-fpn-imp")
    assert transfer.lines()[1] == "new: the weights that read the canvas"
    assert not network.semantic.canvas_kernel.any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone": "resnet18"}, ["backbone='compact'", "backbone='resnet18'"]),
        ({"fpn_channels": 32}, ["fpn_channels=64", "fpn_channels=32"]),
        ({"norm": "group"}, ["norm='batch'", "norm='group'"]),
        ({"semantic_channels": 32}, ["semantic_channels=64", "semantic_channels=32"]),
        ({"detector_config": DetectorConfig()}, ["head_channels=256", "head_channels=1024"]),
    ],
)
def test_other_sizes_are_rejected_with_those_of_the_checkpoint(source, change, words):
    config = finetune_config(source.config, OTHER, **change)
    with pytest.raises(CheckpointError) as rejected:
        plan_transfer(config, source.config)
    for word in words:
        assert word in str(rejected.value)


def test_anchors_of_another_number_are_rejected(source):
    detector = replace(source.config.detector_config, anchor_scales=(1.0, 1.4))
    with pytest.raises(CheckpointError, match=r"anchor_scales=\(1\.0,\)"):
        plan_transfer(replace(source.config, detector_config=detector), source.config)


def test_what_changes_the_meaning_of_weights_is_reported(source):
    transfer = started(source, CLASSES, mean=(0.5, 0.5, 0.5))[1]
    assert transfer.lines()[-1] == "other than in the checkpoint: mean=(0.5, 0.5, 0.5)"


@pytest.mark.parametrize("name", ["panoptic-fpn", "panoptic-fpn-imp"])
def test_a_head_without_convolutions_reads_the_canvas_where_it_classifies(name):
    source = detecting_network(small_config(name, fuse_convs=0, canvas_scale=2.0))
    network, transfer = started(source, OTHER, "panoptic-fpn-imp", canvas_scale=4.0)
    weight, theirs = network.semantic.classify.weight, source.semantic.classify.weight
    features = network.semantic.feature_channels
    assert torch.equal(weight[[0, 2], :features], theirs[[3, 0], :features])
    assert "semantic head" in transfer.parts
    kernel = network.semantic.canvas_kernel
    if name == "panoptic-fpn-imp":
        assert torch.equal(kernel[[0, 2], 0], theirs[[3, 0], features + 1] / 2)
        kernel = kernel.detach().clone()
        kernel[[0, 2], 0] = 0
    assert not kernel.any()


def test_an_unknown_system_is_rejected(source):
    with pytest.raises(InvalidInput, match="system"):
        finetune_config(source.config, CLASSES, "nope")

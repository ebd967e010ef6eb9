# SPDX-License-Identifier: Apache-2.0
"""Starting from torchvision's weights: what is copied, what stays new, what is said without them."""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

from imp_trt.classes import ClassTable
from imp_trt.errors import CheckpointError, DependencyMissing, InvalidInput
from imp_trt.models.initial import coco_rows, copy_backbone, copy_mask_rcnn, initialize
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import system
from tests.support.networks import CLASSES, small_config

CATEGORIES = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
STREET = ClassTable(("road", "rider", "Pedestrian", "car"), (1, 2, 3), ((0, 0, 0),) * 4)


@pytest.fixture(scope="module")
def mask_rcnn():
    """Torchvision's Mask R-CNN with random weights and statistics."""
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(1e-6, 1.5)
                module.weight.uniform_(0.2, 0.5)
    return model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch.hub, and no network."""

    def offline(*_arguments, **_options):
        raise URLError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def published(state):
    """The names of torchvision's file, those of 2019, which its own modules rename when they load it."""
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", name)
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        name = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", name)
        renamed[name] = value
    return renamed


def resnet50(name="panoptic-fpn-imp", **changes):
    torch.manual_seed(1)
    return ImpNetwork(system(name, STREET, (64, 96), "resnet50", **changes))


def test_scratch_changes_nothing():
    network = ImpNetwork(small_config())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialize(network, "scratch")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("norm", ["batch", "frozen_batch"])
def test_the_backbone_equals_torchvisions(norm):
    torch.manual_seed(0)
    net = models.resnet18().eval()
    network = ImpNetwork(small_config(backbone="resnet18", norm=norm)).eval()
    copy_backbone(network, {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        for layer, found in zip("1234", network.backbone.body(x), strict=True):
            expected = getattr(net, f"layer{layer}")(expected)
            torch.testing.assert_close(found, expected)


def test_imagenet_weights_come_from_the_cache(cache):
    torch.manual_seed(0)
    state = models.resnet18().state_dict()
    torch.save(state, cache / models.ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1])
    network = ImpNetwork(small_config(backbone="resnet18"))
    initialize(network, "imagenet")
    assert torch.equal(network.backbone.body.stages[2][0].conv1.weight, state["layer3.0.conv1.weight"])
    new = [network.semantic.classify, network.semantic.fuse[0][0], network.detector.rpn.head.cls_logits]
    new += [network.detector.roi.box_predictor.cls_score, network.detector.roi.mask_predictor.mask_fcn_logits]
    for layer in new:
        assert 0.007 < layer.weight.std().item() < 0.013
        assert layer.bias is None or not layer.bias.any()


def test_a_layer_without_a_number_is_unknown():
    with pytest.raises(CheckpointError, match=r"unknown.*layerx\.weight"):
        copy_backbone(ImpNetwork(small_config(backbone="resnet18")), {"layerx.weight": torch.zeros(1)})


def test_a_head_without_normalization_keeps_its_signal(cache):
    # N(0, 0.01) in four layers of 3x3 that nothing normalizes leaves hardly any of it.
    torch.save(
        models.resnet18().state_dict(), cache / models.ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    )
    network = ImpNetwork(small_config("semantic-p2", backbone="resnet18"))
    initialize(network, "imagenet")
    x = torch.randn(1, 128, 16, 24)
    with torch.no_grad():
        assert network.semantic.fuse(x).std() > 0.01
    assert 0.007 < network.semantic.classify.weight.std().item() < 0.013


@pytest.mark.slow
def test_coco_weights_come_from_the_cache(cache, mask_rcnn):
    file = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.url.rsplit("/", 1)[-1]
    state = published(mask_rcnn.state_dict())
    assert {"roi_heads.mask_head.mask_fcn4.bias", "rpn.head.conv.weight"} <= set(state)
    assert not maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).load_state_dict(dict(state))[0]
    torch.save(state, cache / file)
    network = resnet50()
    initialize(network, "coco")
    for own, name in (
        (network.backbone.fpn.inner_blocks[1], "backbone.fpn.inner_blocks.1.weight"),
        (network.backbone.fpn.layer_blocks[3], "backbone.fpn.layer_blocks.3.weight"),
        (network.detector.rpn.head.conv, "rpn.head.conv.weight"),
        (network.detector.roi.mask_head[2], "roi_heads.mask_head.mask_fcn3.weight"),
    ):
        assert torch.equal(next(own.parameters()), state[name]), name
    head, theirs = network.detector.roi.box_predictor, mask_rcnn.roi_heads.box_predictor
    person, car = CATEGORIES.index("person"), CATEGORIES.index("car")
    for own, other in ((0, 0), (2, person), (3, car)):
        assert torch.equal(head.cls_score.weight[own], theirs.cls_score.weight[other])
        boxes = theirs.bbox_pred.weight[4 * other : 4 * other + 4]
        assert torch.equal(head.bbox_pred.weight[4 * own : 4 * own + 4], boxes)
    rider = head.cls_score.weight[1]
    assert 0.007 < rider.std().item() < 0.013
    assert not (theirs.cls_score.weight == rider).all(dim=1).any(), "COCO has no rider"
    assert head.cls_score.bias[1] == 0
    assert 0.007 < network.semantic.classify.weight.std().item() < 0.013


@pytest.mark.parametrize("kind", ["imagenet", "coco"])
def test_weights_out_of_reach_are_named_with_the_folder_they_belong_in(cache, kind):
    with pytest.raises(DependencyMissing) as caught:
        initialize(resnet50("semantic-p2"), kind)
    text = str(caught.value)
    assert str(cache) in text
    assert "resnet50" in text
    assert ".pth" in text
    assert "https://" in text


def test_a_damaged_file_in_the_cache_is_reported_as_weights_that_are_missing(cache):
    name = models.ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    (cache / name).write_bytes(b"PK\x03\x04 half a download")
    with pytest.raises(DependencyMissing, match=name):
        initialize(ImpNetwork(small_config(backbone="resnet18")), "imagenet")


@pytest.mark.parametrize(
    ("kind", "config", "text"),
    [
        ("caffe", small_config(), "scratch, imagenet, coco"),
        ("imagenet", small_config(), "compact"),
        ("coco", small_config(backbone="resnet18"), "resnet50"),
        ("imagenet", small_config(backbone="resnet18", norm="group"), "frozen_batch"),
    ],
)
def test_impossible_combinations_are_rejected(kind, config, text):
    with pytest.raises(InvalidInput, match=text):
        initialize(ImpNetwork(config), kind)


@pytest.mark.slow
def test_other_sizes_than_torchvisions_are_rejected(mask_rcnn):
    narrow = resnet50(fpn_channels=64)
    with pytest.raises(CheckpointError, match=r"FPN.*\[64, 256, 1, 1\].*\[256, 256, 1, 1\]"):
        copy_mask_rcnn(narrow, mask_rcnn.state_dict(), CATEGORIES)
    slim = replace(narrow.config.detector_config, mask_channels=64)
    with pytest.raises(CheckpointError, match="box and mask heads"):
        copy_mask_rcnn(resnet50(detector_config=slim), mask_rcnn.state_dict(), CATEGORIES)


@pytest.mark.slow
def test_a_semantic_system_takes_backbone_and_fpn(mask_rcnn):
    network = resnet50("semantic-fpn", norm="batch").eval()
    copy_mask_rcnn(network, mask_rcnn.state_dict(), CATEGORIES)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = mask_rcnn.backbone(x)
        found = network.backbone(x)
    for own, theirs in (("p2", "0"), ("p5", "3"), ("p6", "pool")):
        torch.testing.assert_close(found[own], expected[theirs], rtol=1e-3, atol=1e-3)


def test_rows_go_by_name():
    cityscapes = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert coco_rows(cityscapes, CATEGORIES) == {0: 0, 1: 1, 3: 3, 4: 8, 5: 6, 6: 7, 7: 4, 8: 2}
    assert coco_rows(("Pedestrian", "scarf_tie", "skirt", "BAG"), CATEGORIES) == {
        0: 0,
        1: CATEGORIES.index("person"),
        2: CATEGORIES.index("tie"),
        4: CATEGORIES.index("handbag"),
    }
    assert CLASSES.names[3] == "person"

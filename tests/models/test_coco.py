# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN-IMP from torchvision's weights against torchvision's own model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops import FrozenBatchNorm2d

from imp_trt.models.coco import coco_classes, coco_config
from imp_trt.models.deploy import DeployModule
from imp_trt.models.initial import copy_mask_rcnn
from imp_trt.models.network import ImpNetwork
from imp_trt.models.outputs import OUTPUT_NAMES
from tests.support.networks import smooth_frames

SIZE = (192, 256)
CATEGORIES = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]


@pytest.fixture(scope="module")
def pair():
    """Torchvision's model as its COCO weights are used (frozen statistics, eps 0), and ours, same weights."""
    torch.manual_seed(0)
    theirs = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=SIZE[0], max_size=SIZE[1], num_classes=91
    )
    theirs.backbone.body = _frozen(theirs.backbone.body)
    overwrite_eps(theirs, 0.0)
    head = theirs.roi_heads
    with torch.no_grad():
        nn.init.normal_(theirs.rpn.head.cls_logits.weight, std=0.05)
        nn.init.normal_(head.box_predictor.cls_score.weight, std=4.0)
        nn.init.normal_(head.box_predictor.bbox_pred.weight, std=0.1)
        nn.init.normal_(head.mask_predictor.mask_fcn_logits.weight, std=0.5)
        # Ours has no row for the numbers that COCO does not use; theirs never choose them after training.
        for row, name in enumerate(CATEGORIES):
            if name == "N/A":
                head.box_predictor.cls_score.bias[row] = -1e4
        ours = ImpNetwork(coco_config(SIZE))
    copy_mask_rcnn(ours, theirs.state_dict(), CATEGORIES, batch_norm_eps=0.0)
    return theirs.eval(), ours.eval()


def _frozen(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features)
            frozen.running_mean.normal_(0, 0.1)
            # With variances near 1e-5 a wrong eps would show.
            frozen.running_var.copy_(torch.rand(child.num_features) * 0.9 + 2e-5)
            frozen.weight.copy_(0.5 * frozen.running_var.sqrt() + 1e-4)
            setattr(module, name, frozen)
        else:
            _frozen(child)
    return module


@pytest.fixture(scope="module")
def answers(pair, request):
    """What torchvision finds, masks before they are pasted, and what ours finds, on one frame."""
    theirs, ours = pair
    frame = smooth_frames(1, SIZE)
    image = frame[0].permute(2, 0, 1).flip(0).float() / 255
    keep = theirs.transform.postprocess
    theirs.transform.postprocess = lambda result, *_sizes: result
    try:
        with torch.no_grad():
            (expected,) = theirs([image])
    finally:
        theirs.transform.postprocess = keep
    return expected, ours.forward_frames(frame), frame


@pytest.mark.slow
def test_boxes_scores_labels_and_masks_are_torchvisions(pair, answers):
    expected, found, _ = answers
    count = int(found["num_detections"][0])
    assert count == len(expected["scores"])
    assert count >= 10, "it must find something for this test to mean anything"
    names = [CATEGORIES[label] for label in expected["labels"].tolist()]
    classes = pair[1].config.classes
    assert [classes.names[label] for label in found["labels"][0, :count].tolist()] == names
    torch.testing.assert_close(found["scores"][0, :count], expected["scores"], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found["boxes"][0, :count], expected["boxes"], atol=0.02, rtol=1e-4)
    torch.testing.assert_close(found["masks"][0, :count], expected["masks"][:, 0], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_semantics_are_the_best_instance_over_the_background(answers):
    _, found, _ = answers
    present = set(np.unique(found["semantic"].numpy())) - {0}
    assert present
    assert present <= set(found["labels"][0].tolist())


@pytest.mark.slow
def test_its_static_form_agrees(pair, answers):
    _, found, frame = answers
    with torch.no_grad():
        static = dict(zip(OUTPUT_NAMES, DeployModule(pair[1])(frame), strict=True))
    assert int(static["num_detections"][0]) == int(found["num_detections"][0])
    same = (static["semantic"] == found["semantic"]).float().mean()
    assert float(same) > 0.999


def test_coco_has_eighty_things_and_a_background():
    classes = coco_classes()
    assert len(classes) == 81
    assert classes.stuff == (0,)
    assert classes.names[:4] == ("background", "person", "bicycle", "car")
    assert len(set(classes.palette)) == 81

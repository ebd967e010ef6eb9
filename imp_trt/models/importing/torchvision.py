# SPDX-License-Identifier: Apache-2.0
"""torchvision's Mask R-CNN with ResNet and FPN, versions 1 and 2."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from imp_trt.errors import InvalidInput
from imp_trt.models.importing.layout import OWN_EPS, Converted, State, resnet_name, rows, shift_variance
from imp_trt.models.importing.reading import ForeignCheckpoint
from imp_trt.models.initial import backbone_name, current_name

COCO_CLASSES = 91
"""Rows of the class predictor of torchvision's COCO weights: background and 90 category ids."""

SMALL_VARIANCE = 1e-3

_log = logging.getLogger(__name__)

_STAGES = ("backbone.body.layer1.", "backbone.body.layer2.", "backbone.body.layer3.", "backbone.body.layer4.")


def is_torchvision(state: State) -> bool:
    """Whether these are the names of torchvision's Mask R-CNN."""
    names = ("roi_heads.mask_predictor.mask_fcn_logits.weight", "backbone.body.conv1.weight")
    return all(name in state for name in names)


def is_version_2(state: State) -> bool:
    """Whether it is maskrcnn_resnet50_fpn_v2: convolutions with batch normalization in the box head."""
    return "roi_heads.box_head.0.0.weight" in state


def convert(
    foreign: ForeignCheckpoint, batch_norm_eps: float | None = None, caffe: bool | None = None
) -> Converted:
    """Names, sizes and switches of a torchvision state dict.

    Args:
        foreign: of ``maskrcnn_resnet50_fpn`` or ``_v2``, or of a MaskRCNN with another ResNet.
        batch_norm_eps: of the backbone. None takes 0 for version 1 with COCO's 91 rows, whose published
            weights were trained so, else 1e-5. A state dict does not tell.
        caffe: not True: torchvision has no backbones of Caffe2.

    Raises:
        CheckpointError: it is no Mask R-CNN with a supported backbone.
        InvalidInput: caffe is True.
    """
    if caffe:
        raise InvalidInput(
            "caffe",
            expected="a checkpoint of another code base",
            got="one of torchvision, which has no backbones of Caffe2",
            fix="leave --caffe out",
        )
    state = foreign.tensors
    renamed: dict[str, Tensor] = {}
    for published, value in state.items():
        name = current_name(published)
        if name.startswith("backbone.body."):
            name = "backbone.body." + backbone_name(name.removeprefix("backbone.body."))
        elif name.startswith("roi_heads."):
            name = "detector.roi." + name.removeprefix("roi_heads.")
        elif name.startswith("rpn."):
            name = "detector." + name
        renamed[name] = value
    second = is_version_2(state)
    classes = rows(state, "roi_heads.box_predictor.cls_score.weight", "torchvision")
    if batch_norm_eps is None:
        batch_norm_eps = 0.0 if classes == COCO_CLASSES and not second else OWN_EPS
        if classes != COCO_CLASSES and not second and _eps_matters(renamed):
            _log.warning(
                "%s: taken to have eps 1e-5 in its batch normalization, which the file does not say. If it "
                "was fine-tuned from torchvision's COCO weights it has eps 0: --batch-norm-eps 0",
                foreign.path,
            )
    shift_variance(renamed, "backbone.body.", batch_norm_eps - OWN_EPS)
    detector: dict[str, Any] = {
        "head_channels": int(renamed["detector.roi.box_predictor.cls_score.weight"].shape[1]),
        "mask_channels": rows(renamed, "detector.roi.mask_head.0.0.weight", "torchvision"),
        "rpn_convs": _count(renamed, "detector.rpn.head.conv."),
    }
    if second:
        detector |= {"box_convs": _count(renamed, "detector.roi.box_head."), "mask_norm": True}
    return Converted(
        "torchvision-v2" if second else "torchvision",
        resnet_name(state, _STAGES, "torchvision"),
        renamed,
        classes - 1,
        {
            "norm": "batch" if second else "frozen_batch",
            "fpn_channels": rows(renamed, "backbone.fpn.inner_blocks.0.0.weight", "torchvision"),
        },
        detector,
    )


def _eps_matters(state: State) -> bool:
    """Whether eps 1e-5 changes a channel of the backbone by more than half a percent."""
    return any(
        bool((value < SMALL_VARIANCE).any())
        for name, value in state.items()
        if name.startswith("backbone.body.") and name.endswith("running_var")
    )


def _count(state: State, prefix: str) -> int:
    """Number of convolutions below a prefix."""
    return sum(name.startswith(prefix) and name.endswith(".0.weight") for name in state)

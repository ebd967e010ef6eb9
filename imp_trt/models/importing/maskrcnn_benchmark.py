# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN with ResNet and FPN of maskrcnn-benchmark, the code base of the IMP paper."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from imp_trt.models.importing.layout import (
    CLASS_PREDICTOR,
    IMAGENET_MEAN,
    IMAGENET_STD,
    OWN_EPS,
    Converted,
    Pixels,
    State,
    resnet_name,
    rows,
    shift_variance,
    stored_anchors,
)
from imp_trt.models.importing.reading import ForeignCheckpoint

SOURCE = "maskrcnn-benchmark"

CAFFE_MEAN = (102.9801, 115.9465, 122.7717)
"""BGR, of pixels of 0-255."""

CANONICAL_SIZE = 223
"""Their 224 counts the last pixel of a box, which RoIAlign does not read."""

_STAGES = ("backbone.body.layer1.", "backbone.body.layer2.", "backbone.body.layer3.", "backbone.body.layer4.")
_ANCHORS = "rpn.anchor_generator."
_IGNORED = (_ANCHORS,)
_BOX_DELTAS = "detector.roi.box_predictor.bbox_pred"
_RENAMED = (  # of whole names, applied in this order
    (r"backbone\.body\.stem\.conv1\.", r"backbone.body.stem.0."),
    (r"backbone\.body\.stem\.bn1\.", r"backbone.body.stem.1."),
    (r"backbone\.body\.layer(\d)\.", lambda m: f"backbone.body.stages.{int(m[1]) - 1}."),
    (r"backbone\.fpn\.fpn_inner(\d)\.", lambda m: f"backbone.fpn.inner_blocks.{int(m[1]) - 1}.0."),
    (r"backbone\.fpn\.fpn_layer(\d)\.", lambda m: f"backbone.fpn.layer_blocks.{int(m[1]) - 1}.0."),
    (r"rpn\.head\.conv\.", r"detector.rpn.head.conv.0.0."),
    (r"rpn\.head\.", r"detector.rpn.head."),
    (r"roi_heads\.box\.feature_extractor\.", r"detector.roi.box_head."),
    (r"roi_heads\.box\.predictor\.", r"detector.roi.box_predictor."),
    (
        r"roi_heads\.mask\.feature_extractor\.mask_fcn(\d)\.",
        lambda m: f"detector.roi.mask_head.{int(m[1]) - 1}.0.",
    ),
    (r"roi_heads\.mask\.predictor\.", r"detector.roi.mask_predictor."),
)


def fits(state: State) -> bool:
    """Whether these are the names of maskrcnn-benchmark's Mask R-CNN with FPN."""
    names = ("roi_heads.mask.predictor.mask_fcn_logits.weight", "backbone.fpn.fpn_inner1.weight")
    return all(name in state for name in names)


def convert(foreign: ForeignCheckpoint, batch_norm_eps: float | None, caffe: bool | None) -> Converted:
    """Names, sizes and switches of a maskrcnn-benchmark state dict.

    Args:
        foreign: Mask R-CNN with FPN.
        batch_norm_eps: of the backbone; None takes 0, as its frozen normalization has.
        caffe: whether the backbone is from Caffe2, as in the published configurations: BGR, and the stride in
            the 1x1 convolutions of ResNet-50 and 101. None takes True. False is a backbone of PyTorch.

    Raises:
        CheckpointError: it is no Mask R-CNN with a supported backbone.
    """
    state = foreign.tensors
    renamed = {_name(name): value for name, value in state.items() if not name.startswith(_IGNORED)}
    shift_variance(renamed, "backbone.body.", (batch_norm_eps or 0.0) - OWN_EPS)
    backbone = resnet_name(state, _STAGES, SOURCE)
    caffe = caffe is not False
    pixels = (
        Pixels(CAFFE_MEAN, (1.0,) * 3, bgr=True) if caffe else Pixels(IMAGENET_MEAN, IMAGENET_STD, bgr=False)
    )
    model: dict[str, Any] = {
        "norm": "frozen_batch",
        "fpn_channels": rows(renamed, "backbone.fpn.inner_blocks.0.0.weight", SOURCE),
        "stride_in_1x1": caffe and backbone in ("resnet50", "resnet101"),
        **pixels.apply(renamed),
    }
    count = rows(renamed, f"{CLASS_PREDICTOR}.weight", SOURCE) - 1
    _repeat_boxes(renamed, count)
    anchors = {"anchors": "legacy", "anchor_offset": 0.5}
    detector = {
        "head_channels": rows(renamed, "detector.roi.box_head.fc6.weight", SOURCE),
        "mask_channels": rows(renamed, "detector.roi.mask_head.0.0.weight", SOURCE),
        **anchors,
        **stored_anchors(state, f"{_ANCHORS}cell_anchors.", True, anchors, SOURCE),
        "inclusive_boxes": True,
        "canonical_size": CANONICAL_SIZE,
    }
    return Converted(SOURCE, backbone, renamed, count, model, detector)


def _name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub("^" + pattern, replacement, name)
    return name


def _repeat_boxes(state: dict[str, Tensor], count: int) -> None:
    """Boxes that do not depend on the class have rows for the background and for one class, in place."""
    for name in (f"{_BOX_DELTAS}.weight", f"{_BOX_DELTAS}.bias"):
        value = state.get(name)
        if value is not None and value.shape[0] == 8 and count > 1:
            background, one = value[:4], value[4:]
            state[name] = background.new_zeros(4 * (count + 1), *value.shape[1:])
            state[name][4:] = one.repeat(count, *[1] * (value.ndim - 1))

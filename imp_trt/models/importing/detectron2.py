# SPDX-License-Identifier: Apache-2.0
"""Detectron2's Mask R-CNN and Panoptic FPN with ResNet and FPN."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from imp_trt.models.importing.classes import COCO_STUFF
from imp_trt.models.importing.layout import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OWN_EPS,
    Converted,
    Pixels,
    State,
    background_first,
    detector_fields,
    resnet_name,
    rows,
    shift_variance,
    stored_anchors,
)
from imp_trt.models.importing.reading import ForeignCheckpoint

SOURCE = "detectron2"

_STAGES = tuple(f"backbone.bottom_up.res{i}." for i in (2, 3, 4, 5))
_ANCHORS = "proposal_generator.anchor_generator."
_IGNORED = ("pixel_mean", "pixel_std", _ANCHORS)
_RENAMED = (  # of whole names, applied in this order
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.", r"backbone.body.stem.1."),
    (r"backbone\.bottom_up\.stem\.conv1\.", r"backbone.body.stem.0."),
    (r"backbone\.bottom_up\.res(\d)\.", lambda m: f"backbone.body.stages.{int(m[1]) - 2}."),
    (r"(backbone\.body\.stages\..*)\.conv(\d)\.norm\.", r"\1.bn\2."),
    (r"(backbone\.body\.stages\..*)\.shortcut\.norm\.", r"\1.downsample.1."),
    (r"(backbone\.body\.stages\..*)\.shortcut\.", r"\1.downsample.0."),
    (r"backbone\.fpn_lateral(\d)\.", lambda m: f"backbone.fpn.inner_blocks.{int(m[1]) - 2}.0."),
    (r"backbone\.fpn_output(\d)\.", lambda m: f"backbone.fpn.layer_blocks.{int(m[1]) - 2}.0."),
    (r"proposal_generator\.rpn_head\.conv\.conv(\d)\.", r"detector.rpn.head.conv.\1.0."),
    (r"proposal_generator\.rpn_head\.conv\.", r"detector.rpn.head.conv.0.0."),
    (r"proposal_generator\.rpn_head\.objectness_logits\.", r"detector.rpn.head.cls_logits."),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.", r"detector.rpn.head.bbox_pred."),
    (r"roi_heads\.box_head\.fc([12])\.", lambda m: f"detector.roi.box_head.fc{int(m[1]) + 5}."),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"detector.roi.mask_head.{int(m[1]) - 1}.0."),
    (r"roi_heads\.mask_head\.deconv\.", r"detector.roi.mask_predictor.conv5_mask."),
    (r"roi_heads\.mask_head\.predictor\.", r"detector.roi.mask_predictor.mask_fcn_logits."),
    (r"roi_heads\.", r"detector.roi."),
    # Between two convolutions of a level is an upsampling, which counts.
    (
        r"sem_seg_head\.p(\d)\.(\d)\.norm\.",
        lambda m: f"semantic.levels.{int(m[1]) - 2}.{int(m[2]) // 2}.1.",
    ),
    (r"sem_seg_head\.p(\d)\.(\d)\.", lambda m: f"semantic.levels.{int(m[1]) - 2}.{int(m[2]) // 2}.0."),
    (r"sem_seg_head\.predictor\.", r"semantic.classify."),
)


def fits(state: State) -> bool:
    """Whether these are the names of Detectron2's Mask R-CNN with FPN."""
    names = ("roi_heads.mask_head.predictor.weight", "backbone.bottom_up.stem.conv1.weight")
    return all(name in state for name in names)


def convert(foreign: ForeignCheckpoint, batch_norm_eps: float | None, caffe: bool | None) -> Converted:
    """Names, sizes and switches of a Detectron2 state dict.

    Args:
        foreign: Mask R-CNN, or Panoptic FPN.
        batch_norm_eps: of the backbone; None takes 1e-5.
        caffe: whether the backbone is from Caffe2, as in the published configurations: BGR, and the stride in
            the 1x1 convolutions of ResNet-50 and 101. None takes True, unless the file has the mean of RGB
            pixels. False is a backbone of PyTorch.

    Raises:
        CheckpointError: it is no Mask R-CNN with a supported backbone.
    """
    state = foreign.tensors
    renamed = {_name(name): value for name, value in state.items() if not name.startswith(_IGNORED)}
    a, b, c, d = _STAGES
    backbone = resnet_name(state, (a, b, c, d), SOURCE)
    grouped = backbone.startswith("resnext")
    shift_variance(
        renamed, "backbone.body.", (OWN_EPS if batch_norm_eps is None else batch_norm_eps) - OWN_EPS
    )
    caffe = not _has_rgb_mean(state) if caffe is None else caffe
    model: dict[str, Any] = {
        "norm": "frozen_batch",
        "fpn_channels": rows(renamed, "backbone.fpn.inner_blocks.0.0.weight", SOURCE),
        "stride_in_1x1": caffe and not grouped and backbone not in ("resnet18", "resnet34"),
        **_pixels(state, caffe, grouped).apply(renamed),
    }
    stuff: tuple[str, ...] = ()
    if "semantic.classify.weight" in renamed:
        has_norm = "semantic.levels.0.0.1.weight" in renamed
        model |= {
            "semantic_channels": rows(renamed, "semantic.levels.0.0.0.weight", SOURCE),
            "head_norm": "group" if has_norm else "none",
            "fuse_convs": 0,
        }
        stuff = _stuff_names(rows(renamed, "semantic.classify.weight", SOURCE))
    count = background_first(renamed, SOURCE)
    detector = detector_fields(renamed, SOURCE)
    detector |= stored_anchors(state, f"{_ANCHORS}cell_anchors.", False, {"anchors": "exact"}, SOURCE)
    return Converted(SOURCE, backbone, renamed, count, model, detector, stuff)


def _name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub("^" + pattern, replacement, name)
    return name


def _pixels(state: State, caffe: bool, grouped: bool) -> Pixels:
    """Those in the file, as older ones have them, else those of the published configurations."""
    mean, std = (_values(state.get(name)) for name in ("pixel_mean", "pixel_std"))
    if mean and std:
        return Pixels(mean, std, bgr=caffe)
    if not caffe:
        return Pixels(IMAGENET_MEAN, IMAGENET_STD, bgr=False)
    return Pixels(IMAGENET_MEAN[::-1], IMAGENET_STD[::-1] if grouped else (1.0, 1.0, 1.0), bgr=True)


def _has_rgb_mean(state: State) -> bool:
    """Whether the file's mean is that of ImageNet in RGB, which Detectron2 has for backbones of PyTorch."""
    mean = _values(state.get("pixel_mean"))
    return bool(mean) and all(abs(a - b) < 1 for a, b in zip(mean, IMAGENET_MEAN, strict=True))


def _values(stored: Tensor | None) -> tuple[float, ...]:
    return () if stored is None or stored.numel() != 3 else tuple(stored.double().flatten().tolist())


def _stuff_names(count: int) -> tuple[str, ...]:
    """Class 0 is every thing; then COCO's stuff, or numbers."""
    if count == len(COCO_STUFF) + 1:
        return ("things", *COCO_STUFF)
    return ("things", *(f"stuff_{i}" for i in range(1, count)))

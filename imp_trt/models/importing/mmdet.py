# SPDX-License-Identifier: Apache-2.0
"""mmdetection's Mask R-CNN with ResNet and FPN, versions 2 and 3."""

from __future__ import annotations

import re
from typing import Any

from imp_trt.models.config import MAX_ROI_SAMPLES
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
)
from imp_trt.models.importing.reading import ForeignCheckpoint
from imp_trt.models.importing.settings import detector_settings, parse_settings
from imp_trt.models.initial import backbone_name

SOURCE = "mmdet"

_STAGES = ("backbone.layer1.", "backbone.layer2.", "backbone.layer3.", "backbone.layer4.")
_IGNORED = ("data_preprocessor.",)
_RENAMED = (
    (r"backbone\.", lambda m: "backbone.body."),
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
    (r"neck\.fpn_convs\.(\d)\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
    (r"rpn_head\.rpn_conv\.", r"detector.rpn.head.conv.0.0."),
    (r"rpn_head\.rpn_cls\.", r"detector.rpn.head.cls_logits."),
    (r"rpn_head\.rpn_reg\.", r"detector.rpn.head.bbox_pred."),
    (r"roi_head\.bbox_head\.shared_fcs\.([01])\.", lambda m: f"detector.roi.box_head.fc{int(m[1]) + 6}."),
    (r"roi_head\.bbox_head\.fc_cls\.", r"detector.roi.box_predictor.cls_score."),
    (r"roi_head\.bbox_head\.fc_reg\.", r"detector.roi.box_predictor.bbox_pred."),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\.", r"detector.roi.mask_head.\1.0."),
    (r"roi_head\.mask_head\.upsample\.", r"detector.roi.mask_predictor.conv5_mask."),
    (r"roi_head\.mask_head\.conv_logits\.", r"detector.roi.mask_predictor.mask_fcn_logits."),
)


def fits(state: State) -> bool:
    """Whether these are the names of mmdetection's Mask R-CNN with FPN."""
    names = ("roi_head.mask_head.conv_logits.weight", "neck.lateral_convs.0.conv.weight")
    return all(name in state for name in names)


def convert(foreign: ForeignCheckpoint, batch_norm_eps: float | None, caffe: bool | None) -> Converted:
    """Names, sizes and switches of an mmdetection state dict.

    Args:
        foreign: of version 2 or 3; the style of the backbone, the normalization of pixels, the samples of
            RoIAlign, anchors, codes of boxes and thresholds are read from the configuration in it.
        batch_norm_eps: of the backbone; None takes 1e-5.
        caffe: whether the backbone is of the style "caffe": BGR, and the stride in the 1x1 convolutions. None
            takes what the file's configuration says, without one False.

    Raises:
        CheckpointError: it is no Mask R-CNN with a supported backbone, or has other anchors or codes.
    """
    state = foreign.tensors
    renamed = {_name(name): value for name, value in state.items() if not name.startswith(_IGNORED)}
    shift_variance(
        renamed, "backbone.body.", (OWN_EPS if batch_norm_eps is None else batch_norm_eps) - OWN_EPS
    )
    backbone = resnet_name(state, _STAGES, SOURCE)
    style = re.search(r"\bstyle\s*=\s*['\"](\w+)['\"]", foreign.settings)
    in_1x1 = style is not None and style[1] == "caffe" if caffe is None else caffe
    model: dict[str, Any] = {
        "norm": "frozen_batch",
        "fpn_channels": rows(renamed, "backbone.fpn.inner_blocks.0.0.weight", SOURCE),
        "stride_in_1x1": in_1x1 and backbone in ("resnet50", "resnet101"),
        **_pixels(foreign.settings, in_1x1).apply(renamed),
    }
    count = background_first(renamed, SOURCE)
    detector = detector_fields(renamed, SOURCE, _roi_samples(foreign.settings))
    detector |= detector_settings(parse_settings(foreign.settings))
    return Converted(SOURCE, backbone, renamed, count, model, detector)


def _name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub("^" + pattern, replacement, name)
    body = "backbone.body."
    return body + backbone_name(name.removeprefix(body)) if name.startswith(body) else name


def _roi_samples(settings: str) -> int:
    """Samples of RoIAlign where the configuration has one number for boxes and masks, else 0: adaptive."""
    found = set(re.findall(r"\bsampling_ratio\s*=\s*(\d{1,3})\b", settings))
    samples = int(found.pop()) if len(found) == 1 else 0
    return samples if samples <= MAX_ROI_SAMPLES else 0


def _pixels(settings: str, caffe: bool) -> Pixels:
    """Those of the configuration's text, else those of the style."""
    mean, std = (_values(settings, name) for name in ("mean", "std"))
    order = re.search(r"\b(?:to_rgb|bgr_to_rgb)\s*=\s*(True|False)", settings)
    if mean and std and order:
        return Pixels(mean, std, bgr=order[1] == "False")
    if caffe:
        return Pixels(IMAGENET_MEAN[::-1], (1.0, 1.0, 1.0), bgr=True)
    return Pixels(IMAGENET_MEAN, IMAGENET_STD, bgr=False)


def _values(settings: str, name: str) -> tuple[float, ...]:
    found = re.search(rf"\b{name}\s*=\s*[\[(]([-\d., \n]+)[\])]", settings)
    try:
        values = tuple(float(part) for part in found[1].split(",") if part.strip()) if found else ()
    except ValueError:
        return ()
    return values if len(values) == 3 else ()

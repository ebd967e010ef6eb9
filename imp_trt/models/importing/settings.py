# SPDX-License-Identifier: Apache-2.0
"""The configuration in an mmdetection checkpoint, read as data, and what it says of the detector."""

from __future__ import annotations

import ast
import logging
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypeGuard

from imp_trt.errors import CheckpointError
from imp_trt.models.importing.layout import STRIDES, level_sizes

_log = logging.getLogger(__name__)

_MAX_TEXT = 1 << 20
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "type": ("AnchorGenerator",),
    "scale_major": (True,),
    "center_offset": (0, 0.0),
    "centers": (None,),
    "base_sizes": (None,),
}
"""Fields of an anchor generator, and the values that change nothing."""
_MAX_DETECTIONS = 1000
_MAX_PROPOSALS = 4000
_MAX_SCALE = 1e4
_EXTRACTORS = ("bbox_roi_extractor", "mask_roi_extractor")
_EXTRACTOR: Mapping[str, object] = {"type": "SingleRoIExtractor", "featmap_strides": [4, 8, 16, 32]}
_ROI_LAYER: Mapping[str, object] = {"type": "RoIAlign", "pool_mode": "avg"}
"""Fields of the pooling of regions, and the only values that this network has."""


def parse_settings(text: str) -> dict[str, Any]:
    """The assignments of a configuration: ``dict(...)``, lists and literals; anything else is None.

    Returns:
        name -> value; empty for text that is not Python, or of more than a megabyte.
    """
    if len(text) > _MAX_TEXT:
        return {}
    try:
        body = ast.parse(text).body
        return {
            node.targets[0].id: _value(node.value)
            for node in body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def detector_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of DetectorConfig that a configuration sets: anchors, codes of boxes, pooling, thresholds.

    Thresholds that this network does not have, such as those of soft NMS, are logged.

    Args:
        settings: of :func:`parse_settings`.

    Raises:
        CheckpointError: anchors, codes of boxes or a pooling that this network does not have.
    """
    model = _dict(settings, "model")
    rpn, roi = _dict(model, "rpn_head"), _dict(model, "roi_head")
    fields = _anchors(_dict(rpn, "anchor_generator"))
    if (weights := _box_weights(_dict(rpn, "bbox_coder"), "rpn_head.bbox_coder")) not in ((), (1.0,) * 4):
        raise _unsupported("rpn_head.bbox_coder", "target_stds of 1", [1 / weight for weight in weights])
    weights = _box_weights(_dict(roi, "bbox_head", "bbox_coder"), "roi_head.bbox_head.bbox_coder")
    fields |= {"box_weights": weights} if weights else {}
    side = _dict(roi, "mask_roi_extractor", "roi_layer").get("output_size")
    fields |= {"mask_size": 2 * side} if type(side) is int and side > 0 else {}
    test = _dict(model, "test_cfg") or _dict(settings, "test_cfg")
    return fields | _pooling(roi) | _proposals(_dict(test, "rpn")) | _thresholds(_dict(test, "rcnn"))


def _anchors(generator: Mapping[str, Any]) -> dict[str, Any]:
    if not generator:
        return {}
    scales, ratios, strides = (_numbers(generator.get(name)) for name in ("scales", "ratios", "strides"))
    other = set(generator) - {"scales", "ratios", "strides"}
    if (
        any(generator[name] not in _NEUTRAL.get(name, ()) for name in other)
        or strides != STRIDES
        or not scales
        or not ratios
        or not all(0 < value < _MAX_SCALE for value in (*scales, *ratios))
    ):
        expected = "an AnchorGenerator with scales, ratios and strides of 4, 8, 16, 32, 64"
        raise _unsupported("rpn_head.anchor_generator", expected, dict(generator))
    return {
        "anchor_sizes": level_sizes(scales[0] * stride for stride in strides),
        "anchor_scales": tuple(scale / scales[0] for scale in scales),
        "aspect_ratios": ratios,
    }


def _box_weights(coder: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """Divisors of the codes of boxes; empty if the configuration does not set them."""
    if not coder:
        return ()
    means = _numbers(coder.get("target_means", [0.0] * 4))
    stds = _numbers(coder.get("target_stds", [1.0] * 4))
    kind = coder.get("type", "DeltaXYWHBBoxCoder")
    if kind != "DeltaXYWHBBoxCoder" or means != (0.0,) * 4 or len(stds) != 4 or min(stds) <= 0:
        raise _unsupported(name, "a DeltaXYWHBBoxCoder with target_means of 0", dict(coder))
    return tuple(round(1 / std, 6) for std in stds)


def _pooling(roi: Mapping[str, Any]) -> dict[str, Any]:
    """How the features of regions are pooled; one way for boxes and masks."""
    found = []
    for name in _EXTRACTORS:
        extractor, layer = _dict(roi, name), _dict(roi, name, "roi_layer")
        for part, only in ((extractor, _EXTRACTOR), (layer, _ROI_LAYER)):
            for key, value in only.items():
                if part.get(key, value) != value:
                    raise _unsupported(f"roi_head.{name}", f"{key} {value!r}", part[key])
        found.append((extractor.get("finest_scale", 56), layer.get("aligned", True)))
    scale, aligned = found[0]
    if found[0] != found[1] or type(aligned) is not bool or type(scale) is not int or scale < 1:
        raise _unsupported(
            "roi_head: finest_scale and aligned of its extractors", "the same for boxes and masks", found
        )
    return {"canonical_size": 4 * scale, "roi_aligned": aligned} if found[0] != (56, True) else {}


def _proposals(config: Mapping[str, Any]) -> dict[str, Any]:
    """NMS and numbers of the RPN's boxes, also under the names of version 2.0."""
    overlap = _dict(config, "nms").get("iou_threshold", config.get("nms_thr"))
    fields = _in_range("rpn.nms_pre", config.get("nms_pre"), "pre_nms_per_level", _MAX_PROPOSALS)
    count = config.get("max_per_img", config.get("max_num"))
    fields |= _in_range("rpn.max_per_img", count, "proposals", _MAX_PROPOSALS)
    return fields | _nms("rpn.nms", _dict(config, "nms"), overlap, "rpn_nms")


def _thresholds(config: Mapping[str, Any]) -> dict[str, Any]:
    """Minimum score, NMS and number of detections."""
    nms = _dict(config, "nms")
    fields = _nms("rcnn.nms", nms, nms.get("iou_threshold"), "nms")
    score = config.get("score_thr")
    if _is_number(score) and 0 < score < 1:
        fields["score_threshold"] = float(score)
    elif score is not None:
        _not_used("rcnn.score_thr", score)
    binary = config.get("mask_thr_binary", 0.5)
    if binary != 0.5:
        _not_used("rcnn.mask_thr_binary", binary)
    return fields | _in_range("rcnn.max_per_img", config.get("max_per_img"), "detections", _MAX_DETECTIONS)


def _nms(name: str, nms: Mapping[str, Any], overlap: object, field: str) -> dict[str, Any]:
    if nms.get("type", "nms") == "nms" and _is_number(overlap) and 0 < overlap <= 1:
        return {field: float(overlap)}
    if nms or overlap is not None:
        _not_used(name, dict(nms) or overlap)
    return {}


def _in_range(name: str, count: object, field: str, limit: int) -> dict[str, Any]:
    if type(count) is int and 0 < count <= limit:
        return {field: count}
    if count is not None:
        _not_used(name, count)
    return {}


def _not_used(name: str, value: object) -> None:
    _log.warning("test_cfg.%s of the mmdet configuration is not used, but the default: %.80r", name, value)


def _dict(settings: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The dictionary below these names, empty if there is none."""
    for name in names:
        inner = settings.get(name)
        settings = inner if isinstance(inner, dict) else {}
    return settings


def _numbers(value: object) -> tuple[float, ...]:
    """A list of numbers, or empty."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(map(_is_number, value)):
        return ()
    return tuple(float(item) for item in value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _unsupported(name: str, expected: str, got: object) -> CheckpointError:
    return CheckpointError(
        f"mmdet checkpoint: {name} of its configuration",
        expected=expected,
        got=str(got)[:200],
        fix="export the network to ONNX where it runs: imp-export FILE.onnx builds its engine",
    )

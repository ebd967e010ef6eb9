# SPDX-License-Identifier: Apache-2.0
"""The paper's seven systems by name, with the paper's sizes or those of the compact backbone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypedDict

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput, suggestion
from imp_trt.models.config import BACKBONES, Backbone, DetectorConfig, ModelConfig, SemanticHeadKind
from imp_trt.models.efficientnet_lite import SCALING


class _BackgroundScore(TypedDict, total=False):
    background_score: float


class SystemFields(_BackgroundScore):
    """Fields of ModelConfig that define a system."""

    semantic_head: SemanticHeadKind
    detector: bool
    imp: bool


SYSTEMS: dict[str, SystemFields] = {
    # Best background score of trained detectors on both real datasets: tests/bench/RESULTS.md.
    "mask-rcnn-imp": {"semantic_head": "none", "detector": True, "imp": True, "background_score": 0.3},
    "semantic-p2": {"semantic_head": "p2", "detector": False, "imp": False},
    "semantic-fpn": {"semantic_head": "fpn", "detector": False, "imp": False},
    "panoptic-p2": {"semantic_head": "p2", "detector": True, "imp": False},
    "panoptic-p2-imp": {"semantic_head": "p2", "detector": True, "imp": True},
    "panoptic-fpn": {"semantic_head": "fpn", "detector": True, "imp": False},
    "panoptic-fpn-imp": {"semantic_head": "fpn", "detector": True, "imp": True},
}
"""Fields of ModelConfig of the systems in Table 1 of the paper."""

COMPACT_DETECTOR = DetectorConfig(
    anchor_sizes=(16, 32, 64, 128, 256),
    aspect_ratios=(0.5, 1.0, 2.0, 4.0),
    pre_nms_per_level=300,
    proposals=150,
    candidates=300,
    detections=50,
    canonical_size=112,
    head_channels=256,
    mask_channels=64,
    roi_batch=32,
)
"""Real-time sizes: small frames have small objects, and each RoI adds latency."""

LITE_DETECTOR = replace(
    COMPACT_DETECTOR,
    pre_nms_per_level=400,
    proposals=256,
    candidates=512,
    detections=64,
    roi_batch=96,
)
"""The same with more boxes at each stage: missed instances cost IMP more than anything else."""

REAL_TIME_DETECTOR = DetectorConfig(
    anchor_sizes=(16, 32, 64, 128, 256),
    pre_nms_per_level=300,
    proposals=300,
    candidates=600,
    detections=50,
    canonical_size=112,
    head_channels=512,
    mask_channels=128,
    roi_batch=128,
)
"""Between the compact and the paper's sizes, for frames of about 512x1024: the time of the RoI heads grows
with the numbers of proposals and masks, which are a third and half of the paper's. The effect on accuracy
has not been measured."""


def system(
    name: str,
    classes: ClassTable,
    input_size: tuple[int, int],
    backbone: Backbone = "compact",
    **changes: Any,
) -> ModelConfig:
    """Configuration of one system.

    Args:
        name: one of SYSTEMS.
        classes: semantic classes.
        input_size: (height, width), multiples of 32.
        backbone: one of BACKBONES. "compact", the EfficientNet-Lites, "resnet18" and "resnet34" come with
            real-time heads and batch normalization, so that they also train from scratch; the others with the
            paper's sizes and frozen batch normalization, for pretrained weights.
        changes: fields of ModelConfig to override.

    Raises:
        InvalidInput: unknown name, backbone or field value.
    """
    if name not in SYSTEMS:
        raise InvalidInput(
            "system", expected=f"one of {', '.join(SYSTEMS)}", got=name, fix=suggestion(name, SYSTEMS)
        )
    if backbone not in BACKBONES:
        raise InvalidInput(
            "backbone",
            expected=f"one of {', '.join(BACKBONES)}",
            got=backbone,
            fix=suggestion(backbone, BACKBONES),
        )
    config = ModelConfig(classes=classes, input_size=input_size, backbone=backbone, **SYSTEMS[name])
    if backbone == "compact" or backbone in SCALING:
        config = replace(
            config,
            norm="batch",
            head_norm="batch",
            fpn_channels=64 if backbone == "compact" else 96,
            semantic_channels=64 if backbone == "compact" else 96,
            detector_config=COMPACT_DETECTOR if backbone == "compact" else LITE_DETECTOR,
        )
    elif backbone in ("resnet18", "resnet34"):
        config = replace(config, norm="batch", fpn_channels=128, detector_config=REAL_TIME_DETECTOR)
    return replace(config, **changes)


def without_imp(config: ModelConfig) -> ModelConfig:
    """The same network without IMP: the control in comparisons."""
    return replace(config, imp=False)

# SPDX-License-Identifier: Apache-2.0
"""Network configuration as plain data, stored in every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.ops.mask_projection.options import SAMPLING_RULES, Sampling

NMS_ITERATIONS = 32
"""Iterations of each fixed-point NMS in an exported graph; dense anchors with smooth scores needed 18."""

Backbone = Literal[
    "compact",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext101_32x8d",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
]
SemanticHeadKind = Literal["none", "p2", "fpn"]
Norm = Literal["batch", "frozen_batch", "group"]
Initial = Literal["scratch", "imagenet", "coco"]
"""Initial weights, see :func:`imp_trt.models.initial.initialize`."""

BACKBONES: tuple[Backbone, ...] = get_args(Backbone)
SEMANTIC_HEADS: tuple[SemanticHeadKind, ...] = get_args(SemanticHeadKind)
NORMS: tuple[Norm, ...] = get_args(Norm)


_MAY_BE_ZERO = ("box_convs", "mask_norm")


@dataclass(frozen=True)
class DetectorConfig:
    """Sizes and thresholds of the two-stage detector (Mask R-CNN).

    Attributes:
        anchor_sizes: anchor side in pixels for p2..p6.
        aspect_ratios: height / width of the anchors, the same on each level.
        anchor_scales: factors of anchor_sizes; each level has an anchor of each scale and aspect ratio.
        pre_nms_per_level: RPN candidates per level before NMS.
        proposals: boxes passed to the box head (N of the exported graph's first stage).
        rpn_nms: IoU above which a proposal is suppressed.
        candidates: top-scoring (proposal, class) pairs kept before the final NMS.
        score_threshold: minimum class score of a detection.
        nms: IoU above which a detection of the same class is suppressed.
        detections: detections per image, padded with score 0 in the exported graph.
        mask_size: side of a predicted mask, even (28 in the paper).
        canonical_level, canonical_size: a box of canonical_size pixels is pooled from p<canonical_level>
            (FPN paper, eq. 1).
        head_channels: features of the box head's two fully connected layers.
        mask_channels: channels of the mask head's convolutions.
        roi_batch: boxes per image to train the box head with, a quarter of them positive.
        rpn_convs: 3x3 convolutions of the RPN before its predictors.
        box_convs: 3x3 convolutions of the box head. 0: two fully connected layers; else the convolutions,
            without bias and with batch normalization, and one fully connected layer (torchvision's "v2").
        mask_norm: batch normalization in the mask head, as in torchvision's "v2".
    """

    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_scales: tuple[float, ...] = (1.0,)
    pre_nms_per_level: int = 1000
    proposals: int = 1000
    rpn_nms: float = 0.7
    candidates: int = 1000
    score_threshold: float = 0.05
    nms: float = 0.5
    detections: int = 100
    mask_size: int = 28
    canonical_level: int = 4
    canonical_size: int = 224
    head_channels: int = 1024
    mask_channels: int = 256
    roi_batch: int = 512
    rpn_convs: int = 1
    box_convs: int = 0
    mask_norm: bool = False

    def __post_init__(self) -> None:
        if len(self.anchor_sizes) != 5:
            raise InvalidInput("anchor_sizes", expected="one for each of p2..p6", got=self.anchor_sizes)
        if not self.anchor_scales:
            raise InvalidInput("anchor_scales", expected="at least one factor", got=self.anchor_scales)
        if self.box_convs < 0:
            raise InvalidInput("box_convs", expected="0 or more", got=self.box_convs)
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in _MAY_BE_ZERO:
                continue
            if not all(v > 0 for v in (value if isinstance(value, tuple) else (value,))):
                raise InvalidInput(item.name, expected="positive values", got=value)
        if self.mask_size % 2:
            raise InvalidInput("mask_size", expected="an even number of cells", got=self.mask_size)


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of one network; the paper's seven systems are settings of three switches.

    Attributes:
        classes: semantic classes, and which of them are things.
        input_size: (height, width) of the frame the exported graph takes; multiples of 32.
        backbone: one of BACKBONES.
        semantic_head: "none" (argmax of the canvas), "p2" or "fpn" (paper 3.2).
        detector: whether the network has RPN, box and mask heads.
        imp: whether the semantic head reads the canvas; requires the detector.
        sampling: IMP sampling rule.
        norm: normalization of backbone and FPN.
        head_norm: normalization of the "fpn" semantic head; the paper has "group".
        fpn_channels: channels of p2..p6.
        semantic_channels: channels of the semantic head.
        mean, std: per-channel RGB normalization of images in 0-1.
        canvas_scale: factor of the canvas where the semantic head reads it; a measured one gives the canvas
            the standard deviation of the features beside it. An exported convolution includes it.
        canvas_skip: add a 1x1 convolution of the canvas, without canvas_scale, to the logits.
        background_score: constant logit of the background if semantic_head is "none" (0.3 in the preset
            mask-rcnn-imp).
        detector_config: sizes and thresholds of the detector.

    Raises:
        InvalidInput: a field has an invalid value, or two fields contradict each other.
    """

    classes: ClassTable
    input_size: tuple[int, int]
    backbone: Backbone = "resnet50"
    semantic_head: SemanticHeadKind = "fpn"
    detector: bool = True
    imp: bool = True
    sampling: Sampling = "bilinear"
    norm: Norm = "frozen_batch"
    head_norm: Norm | Literal["none"] = "group"
    fpn_channels: int = 256
    semantic_channels: int = 128
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    background_score: float = 0.5
    canvas_scale: float = 1.0
    canvas_skip: bool = False
    detector_config: DetectorConfig = field(default_factory=DetectorConfig)

    def __post_init__(self) -> None:
        _check_choice("backbone", self.backbone, BACKBONES)
        _check_choice("semantic_head", self.semantic_head, SEMANTIC_HEADS)
        _check_choice("sampling", self.sampling, SAMPLING_RULES)
        _check_choice("norm", self.norm, NORMS)
        _check_choice("head_norm", self.head_norm, (*NORMS, "none"))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InvalidInput("mean and std", expected="three values, std > 0", got=(self.mean, self.std))
        if self.fpn_channels < 1 or self.semantic_channels < 1:
            raise InvalidInput(
                "channels", expected="at least 1", got=(self.fpn_channels, self.semantic_channels)
            )
        if self.imp and not self.detector:
            raise InvalidInput("imp needs the detector", expected="detector=True", got="detector=False")
        if self.detector and not self.classes.things:
            raise InvalidInput("detector", expected="at least one thing class", got="none")
        if not 0 < self.canvas_scale < math.inf:
            raise InvalidInput("canvas_scale", expected="a positive number", got=self.canvas_scale)
        if self.semantic_head == "none" and not self.imp:
            raise InvalidInput("semantic_head 'none'", expected="imp=True (it reads the canvas)", got=False)
        height, width = self.input_size
        if height < 64 or width < 64 or height % 32 or width % 32:
            raise InvalidInput("input_size", expected="multiples of 32, at least 64", got=self.input_size)

    @property
    def num_things(self) -> int:
        """Channels of the canvas; detector classes without background."""
        return len(self.classes.things)

    def to_dict(self) -> dict[str, object]:
        """Nested plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Inverse of :meth:`to_dict`; raises InvalidInput on missing, unknown or malformed fields."""
        known = {f.name for f in fields(cls)}
        unknown = set(data) - known
        if unknown:
            raise InvalidInput("model config", expected=f"fields {sorted(known)}", got=sorted(unknown))
        try:
            detector = {k: _tuple(v) for k, v in data["detector_config"].items()}
            rest = {k: _tuple(v) for k, v in data.items() if k not in ("classes", "detector_config")}
            return cls(
                classes=ClassTable.from_dict(data["classes"]),
                detector_config=DetectorConfig(**detector),
                **rest,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvalidInput(
                "model config", expected="every field of ModelConfig", got=repr(error)
            ) from error


def _tuple(value: object) -> Any:  # a value of parsed JSON, with lists as tuples
    return tuple(value) if isinstance(value, list) else value


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(name, expected=f"one of {', '.join(allowed)}", got=value)

# SPDX-License-Identifier: Apache-2.0
"""Network configuration as plain data, stored in every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.ops.mask_projection.options import SAMPLING_RULES, Sampling

MAX_INPUT_PIXELS = 1 << 26
"""Limit of height x width of the input: 8192 x 8192."""

# Beyond what any network of this kind has; within, building it needs no more than some gigabytes.
_MAX_COUNT = 1 << 16
_MAX_CHANNELS = 1 << 14
_MAX_MASK_SIZE = 1 << 10
_MAX_ANCHORS = 64
_MAX_FUSE_CONVS = 64
_NOT_COUNTS = (
    *("anchor_sizes", "aspect_ratios", "anchor_scales", "rpn_nms", "score_threshold", "nms"),
    *("box_convs", "mask_norm", "anchors", "anchor_offset", "box_weights"),
    *("roi_aligned", "roi_samples", "inclusive_boxes"),
)
_LARGEST = 1e6

MAX_ROI_SAMPLES = 16
"""Limit of roi_samples."""

NMS_ITERATIONS = 32
"""Iterations of each fixed-point NMS in an exported graph; dense anchors with smooth scores needed 18."""

MAX_NMS_ITERATIONS = 1000
"""Largest number of iterations; each is written into the graph."""

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
Anchors = Literal["rounded", "exact", "legacy"]
Norm = Literal["batch", "frozen_batch", "group"]
Initial = Literal["scratch", "imagenet", "coco"]
"""Initial weights, see :func:`imp_trt.models.initial.initialize`."""

BACKBONES: tuple[Backbone, ...] = get_args(Backbone)
SEMANTIC_HEADS: tuple[SemanticHeadKind, ...] = get_args(SemanticHeadKind)
NORMS: tuple[Norm, ...] = get_args(Norm)
ANCHORS: tuple[Anchors, ...] = get_args(Anchors)

BOTTLENECKS: tuple[Backbone, ...] = ("resnet50", "resnet101", "resnext101_32x8d")
"""Backbones whose blocks have a 1x1 convolution before the 3x3 one."""


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
        score_threshold: minimum class score of a detection, above 0 and below 1.
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
        anchors: "rounded" as in torchvision: corners are whole pixels, and the stride of p6 is the frame's
            size divided by its cells, rounded down. "exact" as in Detectron2 and mmdetection: not rounded,
            and the stride of p6 is 64. "legacy" as in maskrcnn-benchmark: the sides of a square of the
            level's stride are rounded for each aspect ratio, then scaled; the stride of p6 is 64.
        anchor_offset: center of the first anchor of a level, in strides from the frame's corner; 0 to 1.
        box_weights: divisors of the box head's codes (dx, dy, dw, dh).
        roi_aligned: RoIAlign of Detectron2 and mmdetection, half a cell further up and left than
            torchvision's, see :func:`imp_trt.ops.pyramid_roi_align`.
        roi_samples: RoIAlign's samples per bin and axis; 0 is adaptive as in Detectron2 and mmdetection: as
            many as the bin has cells, rounded up.
        inclusive_boxes: boxes of maskrcnn-benchmark end in their last pixel. Here they end behind it, as all
            others do; but RoIAlign reads up to that pixel, and a box outside of the frame keeps one pixel in
            it.
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
    anchors: Anchors = "rounded"
    anchor_offset: float = 0.0
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    roi_aligned: bool = False
    roi_samples: int = 2
    inclusive_boxes: bool = False

    def __post_init__(self) -> None:
        for name in ("anchor_sizes", "aspect_ratios"):
            _check_numbers(name, getattr(self, name), (1, _MAX_ANCHORS))
        if len(self.anchor_sizes) != 5:
            raise InvalidInput("anchor_sizes", expected="one for each of p2..p6", got=self.anchor_sizes)
        _check_numbers("anchor_scales", self.anchor_scales, (1, _MAX_ANCHORS))
        for name in ("rpn_nms", "score_threshold", "nms"):
            _check_numbers(name, (getattr(self, name),), (1, 1))
        if self.score_threshold >= 1:
            raise InvalidInput(
                "score_threshold", expected="below 1, as no score is above", got=self.score_threshold
            )
        for item in fields(self):
            if item.name not in _NOT_COUNTS:
                _check_integer(item.name, getattr(self, item.name), _MAX_COUNT)
        _check_integer("box_convs", self.box_convs, _MAX_COUNT, low=0)
        _check_integer("roi_samples", self.roi_samples, MAX_ROI_SAMPLES, low=0)
        _check_choice("anchors", self.anchors, ANCHORS)
        _check_numbers("anchor_offset", (self.anchor_offset,), (1, 1), positive=False)
        if not 0 <= self.anchor_offset <= 1:
            raise InvalidInput("anchor_offset", expected="0 to 1", got=self.anchor_offset)
        _check_numbers("box_weights", self.box_weights, (4, 4))
        for name in ("mask_norm", "roi_aligned", "inclusive_boxes"):
            if type(getattr(self, name)) is not bool:
                raise InvalidInput(name, expected="True or False", got=type(getattr(self, name)).__name__)
        if self.mask_size > _MAX_MASK_SIZE:
            raise InvalidInput("mask_size", expected=f"at most {_MAX_MASK_SIZE}", got=self.mask_size)
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
            the standard deviation of the features next to it. An exported convolution includes it.
        stride_in_1x1: the first 1x1 convolution of a stage has its stride, as in the ResNets of Caffe2
            (MSRA), not the 3x3 one; only for BOTTLENECKS.
        fuse_convs: 3x3 convolutions of the semantic head after the levels are merged; 4 in the paper, 0 in
            Panoptic FPN.
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
    stride_in_1x1: bool = False
    fuse_convs: int = 4
    detector_config: DetectorConfig = field(default_factory=DetectorConfig)

    def __post_init__(self) -> None:
        self._check_types()
        _check_choice("backbone", self.backbone, BACKBONES)
        _check_choice("semantic_head", self.semantic_head, SEMANTIC_HEADS)
        _check_choice("sampling", self.sampling, SAMPLING_RULES)
        _check_choice("norm", self.norm, NORMS)
        _check_choice("head_norm", self.head_norm, (*NORMS, "none"))
        if min(self.std) <= 0:
            raise InvalidInput("mean and std", expected="three values, std > 0", got=(self.mean, self.std))
        if self.imp and not self.detector:
            raise InvalidInput("imp needs the detector", expected="detector=True", got="detector=False")
        if self.detector and not self.classes.things:
            raise InvalidInput(
                "detector",
                expected="at least one thing class",
                got="none",
                fix="--system semantic-fpn, which has no detector, or declare things with imp-data --things",
            )
        if self.semantic_head == "none" and not self.imp:
            raise InvalidInput("semantic_head 'none'", expected="imp=True (it reads the canvas)", got=False)
        if self.stride_in_1x1 and self.backbone not in BOTTLENECKS:
            raise InvalidInput(
                "stride_in_1x1", expected=f"one of {', '.join(BOTTLENECKS)}", got=self.backbone
            )
        height, width = self.input_size
        if height < 64 or width < 64 or height % 32 or width % 32:
            raise InvalidInput("input_size", expected="multiples of 32, at least 64", got=self.input_size)
        if height * width > MAX_INPUT_PIXELS:
            raise InvalidInput(
                "input_size", expected=f"at most {MAX_INPUT_PIXELS:,} pixels", got=self.input_size
            )

    def _check_types(self) -> None:
        # In a checkpoint the values have any type: 1.5 proposals fail deep in the network, or not at all.
        for name, kind in (("classes", ClassTable), ("detector_config", DetectorConfig)):
            if not isinstance(getattr(self, name), kind):
                raise InvalidInput(name, expected=kind.__name__, got=type(getattr(self, name)).__name__)
        for name in ("detector", "imp", "canvas_skip", "stride_in_1x1"):
            if type(getattr(self, name)) is not bool:
                raise InvalidInput(name, expected="True or False", got=type(getattr(self, name)).__name__)
        for name in ("fpn_channels", "semantic_channels"):
            _check_integer(name, getattr(self, name), _MAX_CHANNELS)
        _check_integer("fuse_convs", self.fuse_convs, _MAX_FUSE_CONVS, low=0)
        for name in ("mean", "std"):
            _check_numbers(name, getattr(self, name), (3, 3), positive=False)
        _check_numbers("canvas_scale", (self.canvas_scale,), (1, 1))
        _check_numbers("background_score", (self.background_score,), (1, 1), positive=False)
        if not isinstance(self.input_size, tuple) or len(self.input_size) != 2:
            raise InvalidInput("input_size", expected="height and width", got=type(self.input_size).__name__)
        for side in self.input_size:
            _check_integer("input_size", side, MAX_INPUT_PIXELS)

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
        if not isinstance(data, Mapping) or not isinstance(data.get("detector_config"), Mapping):
            raise InvalidInput(
                "model config", expected="an object with detector_config", got=type(data).__name__
            )
        unknown = sorted(str(name)[:80] for name in set(data) - known)
        if unknown:
            raise InvalidInput("model config", expected=f"fields {sorted(known)}", got=unknown[:10])
        try:
            detector = {k: _tuple(v) for k, v in data["detector_config"].items()}
            rest = {k: _tuple(v) for k, v in data.items() if k not in ("classes", "detector_config")}
            return cls(
                classes=ClassTable.from_dict(data["classes"]),
                detector_config=DetectorConfig(**detector),
                **rest,
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise InvalidInput(
                "model config", expected="every field of ModelConfig", got=repr(error)
            ) from error


def _tuple(value: object) -> Any:  # a value of parsed JSON, with lists as tuples
    return tuple(value) if isinstance(value, list) else value


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        got = value[:80] if isinstance(value, str) else type(value).__name__
        raise InvalidInput(name, expected=f"one of {', '.join(allowed)}", got=got)


def _check_integer(name: str, value: object, high: int, low: int = 1) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or not low <= int(value) <= high:
        got = value if isinstance(value, Real) else type(value).__name__
        raise InvalidInput(name, expected=f"an integer, {low} to {high}", got=got)


def _check_numbers(name: str, values: object, count: tuple[int, int], *, positive: bool = True) -> None:
    if not isinstance(values, tuple) or not count[0] <= len(values) <= count[1]:
        expected = f"{count[0]} to {count[1]} values" if count[0] < count[1] else f"{count[0]} values"
        raise InvalidInput(name, expected=expected, got=type(values).__name__)
    for value in values:
        number = _number(value)
        if not math.isfinite(number) or (positive and number <= 0):
            kinds = "positive values" if positive else "values"
            got = type(value).__name__ if math.isnan(number) else value
            raise InvalidInput(name, expected=f"{kinds} up to {_LARGEST:g}", got=got)


def _number(value: object) -> float:
    """A real number as float: NaN for another type, infinity beyond _LARGEST."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.inf
    return number if abs(number) <= _LARGEST else math.inf

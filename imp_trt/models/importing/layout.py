# SPDX-License-Identifier: Apache-2.0
"""What a source's converter returns, and what all converters read off a state dict's shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from imp_trt.errors import CheckpointError
from imp_trt.models.box_conventions import ShiftedAnchors
from imp_trt.models.config import Backbone, DetectorConfig

State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Converted:
    """A network of another code base in this one's terms.

    Attributes:
        source: one of imp_trt.models.importing.SOURCES.
        backbone: of the network.
        state: name in :class:`imp_trt.models.network.ImpNetwork` -> tensor.
        num_things: classes of the detector, without background.
        model: fields of ModelConfig that differ from the preset's.
        detector: fields of DetectorConfig that differ from the defaults.
        stuff_names: names of the semantic head's classes, all stuff; empty without a semantic head.
    """

    source: str
    backbone: Backbone
    state: dict[str, Tensor]
    num_things: int
    model: dict[str, Any] = field(default_factory=dict)
    detector: dict[str, Any] = field(default_factory=dict)
    stuff_names: tuple[str, ...] = ()


IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""RGB, of pixels of 0-255."""
IMAGENET_STD = (58.395, 57.12, 57.375)
OWN_EPS = 1e-5
"""Of the normalization layers of the network."""

PREDICTORS = {  # layer -> values per class
    "detector.roi.box_predictor.cls_score": 1,
    "detector.roi.box_predictor.bbox_pred": 4,
    "detector.roi.mask_predictor.mask_fcn_logits": 1,
}
CLASS_PREDICTOR = "detector.roi.box_predictor.cls_score"

STRIDES = (4, 8, 16, 32, 64)
"""Of the levels with anchors."""


@dataclass(frozen=True)
class Pixels:
    """How a source prepares a frame: values of 0-255, less mean, divided by std.

    Attributes:
        mean, std: per channel, in the order that the first convolution reads.
        bgr: whether that order is BGR.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool

    def apply(self, state: dict[str, Tensor]) -> dict[str, Any]:
        """Make the first convolution read RGB, in place; returns mean and std of ModelConfig."""
        mean, std = self.mean, self.std
        first = "backbone.body.stem.0.weight"
        if self.bgr:
            mean, std = mean[::-1], std[::-1]
            if first in state:
                state[first] = state[first].flip(1)
        return {"mean": tuple(m / 255 for m in mean), "std": tuple(s / 255 for s in std)}


def detector_fields(state: State, source: str, roi_samples: int = 0) -> dict[str, Any]:
    """Fields of DetectorConfig that both Detectron2 and mmdetection differ in, of renamed tensors.

    Args:
        state: renamed tensors.
        source: for the message.
        roi_samples: 0, their default, is adaptive sampling.
    """
    return {
        "head_channels": rows(state, "detector.roi.box_head.fc6.weight", source),
        "mask_channels": rows(state, "detector.roi.mask_head.0.0.weight", source),
        "rpn_convs": sum(
            name.startswith("detector.rpn.head.conv.") and name.endswith(".weight") for name in state
        ),
        "anchors": "exact",
        "roi_aligned": True,
        "roi_samples": roi_samples,
    }


def background_first(state: dict[str, Tensor], source: str) -> int:
    """Reorder predictors whose background is last, in place; returns the number of other classes.

    Rows of the background that a source does not have are zeros: nothing reads them. Boxes or masks that do
    not depend on the class are repeated.
    """
    count = rows(state, f"{CLASS_PREDICTOR}.weight", source) - 1
    for layer, width in PREDICTORS.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            value = state.get(name)
            if value is None or value.shape[0] % width:
                continue  # the network's own check says so
            value = value.reshape(-1, width, *value.shape[1:])
            if layer == CLASS_PREDICTOR:
                value = value.roll(1, 0)
            else:
                if len(value) == 1:
                    value = value.expand(count, *value.shape[1:])
                value = torch.cat([torch.zeros_like(value[:1]), value])
            state[name] = value.reshape(-1, *value.shape[2:])
    return count


def level_sizes(sizes: Iterable[float]) -> tuple[float, ...]:
    """Sizes of anchors, as integers where they are: so they are stored in checkpoints."""
    return tuple(int(size) if size == int(size) else size for size in sizes)


def stored_anchors(
    state: State, prefix: str, ends_in_pixel: bool, fields: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Fields of DetectorConfig for the anchors that some files hold; empty without them.

    Args:
        state: tensors of the file.
        prefix: of the names of the anchors [A, 4] xyxy of the levels, up to the level's number.
        ends_in_pixel: whether they end in their last pixel and are centered on a cell, as in
            maskrcnn-benchmark, not behind it and around 0.
        fields: of DetectorConfig that say how the source makes anchors.
        source: for the message.

    Raises:
        CheckpointError: this network has no such anchors.
    """
    stored = [value.float() for name, value in sorted(state.items()) if name.startswith(prefix)]
    if not stored:
        return {}
    if ends_in_pixel:
        last = torch.tensor([0.0, 0, 1, 1])
        stored = [level + last - stride / 2 for level, stride in zip(stored, STRIDES, strict=False)]
    found = _sizes(stored)
    if found and ends_in_pixel:
        found["aspect_ratios"] = (0.5, 1.0, 2.0)  # its anchors are rounded
    made = ShiftedAnchors(DetectorConfig(**{**fields, **found})).cell_anchors if found else []
    if not made or any(
        own.shape != level.shape or not torch.allclose(own, level, rtol=1e-3, atol=0.02)
        for own, level in zip(made, stored, strict=True)
    ):
        raise CheckpointError(
            f"{source} checkpoint: its anchors",
            expected="one size on each of five levels, and the same aspect ratios on all"
            + ": 0.5, 1, 2" * ends_in_pixel,
            got=f"on the first of {len(stored)} levels {stored[0].tolist()}"[:200],
            fix="export the network to ONNX where it runs: imp-export FILE.onnx builds its engine",
        )
    return found


def _sizes(levels: Sequence[Tensor]) -> dict[str, Any]:
    """Sizes and aspect ratios of anchors [A, 4] xyxy; empty if they are none of five levels."""
    if len(levels) != len(STRIDES) or any(level.shape[1:] != (4,) or not len(level) for level in levels):
        return {}
    sides = [level[:, 2:] - level[:, :2] for level in levels]
    if not all((side > 0).all() and side.isfinite().all() for side in sides):
        return {}
    square = [int((side[:, 0] / side[:, 1] - 1).abs().argmin()) for side in sides]
    ratios = (sides[0][:, 1] / sides[0][:, 0]).tolist()
    return {
        "anchor_sizes": level_sizes(
            round(float(side[i].prod().sqrt()), 3) for side, i in zip(sides, square, strict=True)
        ),
        "aspect_ratios": tuple(round(ratio, 5) for ratio in ratios),
    }


_BLOCKS: dict[tuple[int, int, int, int], tuple[Backbone | None, Backbone | None]] = {
    # blocks of the four stages -> network with two-convolution blocks, and with bottlenecks
    (2, 2, 2, 2): ("resnet18", None),
    (3, 4, 6, 3): ("resnet34", "resnet50"),
    (3, 4, 23, 3): (None, "resnet101"),
}


def resnet_name(state: State, stage_prefixes: tuple[str, str, str, str], source: str) -> Backbone:
    """The ResNet whose blocks a state dict has.

    Args:
        state: of the whole network.
        stage_prefixes: names that the blocks of the four stages begin with, up to the block's number.
        source: for the message.

    Raises:
        CheckpointError: none of the supported ones.
    """
    counts = []
    for prefix in stage_prefixes:
        numbers = [
            int(match[1]) for name in state if (match := re.match(re.escape(prefix) + r"(\d+)\.", name))
        ]
        counts.append(max(numbers, default=-1) + 1)
    a, b, c, d = counts
    plain, bottleneck = _BLOCKS.get((a, b, c, d), (None, None))
    first = stage_prefixes[0] + "0."
    has_third = any(name.startswith(first + "conv3.") for name in state)
    name = bottleneck if has_third else plain
    middle = state.get(first + "conv2.weight")
    if has_third and middle is not None and middle.shape[1] != middle.shape[0]:
        # Grouped: ResNeXt-101 32x8d has 256 channels in 32 groups of 8.
        is_32x8d = tuple(middle.shape[:2]) == (256, 8) and name == "resnet101"
        name = "resnext101_32x8d" if is_32x8d else None
    if name is None:
        raise CheckpointError(
            f"{source} checkpoint",
            expected="a ResNet-18, 34, 50, 101 or ResNeXt-101 32x8d with FPN",
            got=f"stages of {', '.join(map(str, counts))} blocks",
        )
    return name


def rows(state: State, name: str, source: str) -> int:
    """Length of a tensor's first axis; CheckpointError if it is missing."""
    if name not in state:
        raise CheckpointError(
            f"{source} checkpoint",
            expected=f"a Mask R-CNN with FPN, with the tensor {name}",
            got=f"{len(state)} tensors without it",
            fix="choose another --from, or import a Mask R-CNN",
        )
    return int(state[name].shape[0])


def shift_variance(state: dict[str, Tensor], prefix: str, difference: float) -> None:
    """Add a difference of eps to the running variances below a prefix, in place."""
    if difference:
        for name, value in state.items():
            if name.startswith(prefix) and name.endswith("running_var"):
                state[name] = value.to(torch.float64) + difference

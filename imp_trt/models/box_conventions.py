# SPDX-License-Identifier: Apache-2.0
"""Anchors and boxes as other code bases than torchvision define them."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

from imp_trt.models.backbone import STRIDES
from imp_trt.models.config import DetectorConfig

_EXACT_STRIDES = (*STRIDES, 2 * STRIDES[-1])
"""Of the RPN's levels; torchvision's depend on the frame's size."""


class ShiftedAnchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """Anchors of torchvision, or those of other code bases.

    Args:
        config: anchor_sizes, anchor_scales and aspect_ratios; anchors and anchor_offset say how they differ
            from torchvision's.
    """

    def __init__(self, config: DetectorConfig) -> None:
        self._kind, self._offset = config.anchors, config.anchor_offset
        super().__init__(
            sizes=tuple(
                tuple(size * scale for scale in config.anchor_scales) for size in config.anchor_sizes
            ),
            aspect_ratios=(config.aspect_ratios,) * len(config.anchor_sizes),
        )
        if self._kind == "legacy":
            self.cell_anchors = [
                _legacy_anchors(sizes, config.aspect_ratios, stride)
                for sizes, stride in zip(self.sizes, _EXACT_STRIDES, strict=True)
            ]

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008  # torchvision's signature
    ) -> Tensor:
        """The anchors [A, 4] xyxy of a level around 0."""
        if self._kind != "exact":
            return cast(Tensor, super().generate_anchors(scales, aspect_ratios, dtype, device))
        ratios = torch.as_tensor(aspect_ratios, dtype=dtype, device=device)[:, None]
        sides = torch.as_tensor(scales, dtype=dtype, device=device)[None]
        height, width = ((sides * torch.sqrt(r)).flatten() for r in (ratios, 1 / ratios))
        return torch.stack([-width, -height, width, height], dim=1) / 2

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        """The anchors [hwA, 4] xyxy of each level."""
        if self._kind != "rounded":
            strides = [[torch.tensor(stride)] * 2 for stride in _EXACT_STRIDES]
        levels: list[Tensor] = super().grid_anchors(grid_sizes, strides)
        if not self._offset:
            return levels
        shifts = [
            level.new_tensor([stride[1], stride[0]] * 2)
            for level, stride in zip(levels, strides, strict=True)
        ]
        return [level + self._offset * shift for level, shift in zip(levels, shifts, strict=True)]


def _legacy_anchors(sizes: tuple[float, ...], aspect_ratios: tuple[float, ...], stride: int) -> Tensor:
    """The anchors [A, 4] xyxy of a level around 0, as maskrcnn-benchmark makes them of a square."""
    widths = torch.sqrt(stride**2 / torch.tensor(aspect_ratios, dtype=torch.float64)).round()
    heights = (widths * torch.tensor(aspect_ratios, dtype=torch.float64)).round()
    scales = torch.tensor(sizes, dtype=torch.float64) / stride
    width, height = ((sides[:, None] * scales).flatten() for sides in (widths, heights))
    return (torch.stack([-width, -height, width, height], dim=1) / 2).float()


def inclusive_limits(image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Least and largest corners [4] xyxy of a box; see DetectorConfig.inclusive_boxes."""
    height, width = image_size
    return torch.tensor([0.0, 0, 1, 1]), torch.tensor([width - 1.0, height - 1, width, height])


def keep_a_pixel(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Boxes [..., 4] xyxy clipped to the image, with at least one pixel in it."""
    low, high = (limit.to(boxes) for limit in inclusive_limits(image_size))
    return torch.minimum(torch.maximum(boxes, low), high)


def to_last_pixel(boxes: Tensor) -> Tensor:
    """What RoIAlign reads of boxes [..., 4] xyxy with DetectorConfig.inclusive_boxes."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([low, torch.maximum(high - 1, low)], -1)

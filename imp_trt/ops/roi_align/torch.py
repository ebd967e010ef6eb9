# SPDX-License-Identifier: Apache-2.0
"""RoIAlign over four pyramid levels as one operator, equal to torchvision's MultiScaleRoIAlign.

With ``aligned`` it is that of Detectron2 and mmdetection: half a cell further up and left, and without a
least size of one cell.

With it the exported graph has one node that pools each box from its level, instead of four RoIAligns over
all boxes and a selection with data-dependent shapes. On a GPU its forward pass is the kernel of
imp_trt.plugins (`cuda.py`).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, library
from torchvision.ops import roi_align

from imp_trt.errors import InvalidInput
from imp_trt.ops.roi_align import cuda as multilevel_roi_align_cuda
from imp_trt.ops.roi_align.cuda import MAX_SAMPLING_RATIO

STRIDES = (4, 8, 16, 32)
"""Input pixels per cell of p2..p5."""

LEVEL_EPS = 1e-6
"""Added to the level before rounding down, as torchvision's LevelMapper does."""

REACH = 1 << 14
"""Pixels outside of the frame that corners are clamped to with adaptive sampling: it bounds the samples."""


def assign_levels(boxes: Tensor, canonical_level: int = 4, canonical_size: int = 224) -> Tensor:
    """Index in STRIDES of the level of each box (FPN paper, eq. 1; torchvision's rounding).

    Args:
        boxes: [..., 4] float32 xyxy in input pixels.
        canonical_level: level of a box of ``canonical_size``; p2 is 2.
        canonical_size: side of that box in input pixels.

    Returns:
        [...] int64 in 0..3; a box of no area or with a non-finite corner goes to 0.
    """
    x0, y0, x1, y1 = boxes.float().unbind(-1)
    side = torch.sqrt((x1 - x0) * (y1 - y0))
    level = torch.floor(canonical_level + torch.log2(side / canonical_size) + LEVEL_EPS)
    return torch.nan_to_num(level - 2, nan=0.0).clamp(0, len(STRIDES) - 1).to(torch.int64)


def _composed(
    p2: Tensor,
    p3: Tensor,
    p4: Tensor,
    p5: Tensor,
    boxes: Tensor,
    output_size: int,
    sampling_ratio: int,
    canonical_level: int,
    canonical_size: int,
    aligned: bool = False,
) -> Tensor:
    levels = (p2, p3, p4, p5)
    batch, count = boxes.shape[:2]
    rois, which = _rois(boxes, canonical_level, canonical_size)
    if sampling_ratio < 1:
        rois = _within_reach(rois, p2)
    out = p2.new_zeros((batch * count, p2.shape[1], output_size, output_size))
    for index, (features, stride) in enumerate(zip(levels, STRIDES, strict=True)):
        rows = torch.nonzero(which == index).squeeze(1)
        if len(rows):
            # Coordinates are at least float32: float16 is off by a pixel for x > 2048.
            work = _work_type(features)
            pooled = roi_align(
                features.to(work),
                rois[rows].to(work),
                output_size,
                1.0 / stride,
                sampling_ratio,
                aligned=aligned,
            )
            out[rows] = pooled.to(out.dtype)
    return out


_multilevel_roi_align = library.custom_op("imp_trt::multilevel_roi_align", _composed, mutates_args=())


@_multilevel_roi_align.register_kernel("cuda")
def _multilevel_roi_align_cuda(*arguments: Any) -> Tensor:
    out = multilevel_roi_align_cuda.forward(*arguments)
    return _composed(*arguments) if out is None else out


@_multilevel_roi_align.register_fake
def _(
    p2: Tensor,
    p3: Tensor,
    p4: Tensor,
    p5: Tensor,
    boxes: Tensor,
    output_size: int,
    sampling_ratio: int,
    canonical_level: int,
    canonical_size: int,
    aligned: bool = False,
) -> Tensor:
    return p2.new_empty((boxes.shape[0] * boxes.shape[1], p2.shape[1], output_size, output_size))


@library.custom_op("imp_trt::multilevel_roi_align_backward", mutates_args=())
def _multilevel_roi_align_backward(
    grad: Tensor,
    p2: Tensor,
    p3: Tensor,
    p4: Tensor,
    p5: Tensor,
    boxes: Tensor,
    sampling_ratio: int,
    canonical_level: int,
    canonical_size: int,
    aligned: bool = False,
) -> list[Tensor]:
    rois, which = _rois(boxes, canonical_level, canonical_size)
    if sampling_ratio < 1:
        rois = _within_reach(rois, p2)
    size = grad.shape[-1]
    grads = []
    for index, (features, stride) in enumerate(zip((p2, p3, p4, p5), STRIDES, strict=True)):
        rows = torch.nonzero(which == index).squeeze(1)
        work = _work_type(features)
        level = torch.ops.torchvision._roi_align_backward(
            grad[rows].to(work).contiguous(),
            rois[rows].to(work),
            1.0 / stride,
            size,
            size,
            *features.shape,
            sampling_ratio,
            aligned,
        )
        grads.append(level.to(features.dtype))
    return grads


@_multilevel_roi_align_backward.register_fake
def _(
    grad: Tensor,
    p2: Tensor,
    p3: Tensor,
    p4: Tensor,
    p5: Tensor,
    boxes: Tensor,
    sampling_ratio: int,
    canonical_level: int,
    canonical_size: int,
    aligned: bool = False,
) -> list[Tensor]:
    return [p.new_empty(p.shape) for p in (p2, p3, p4, p5)]  # contiguous for any strides of the features


class _Context(Protocol):
    """The context of an autograd function, with what _save adds."""

    attributes: tuple[int, ...]  # sampling_ratio, canonical_level, canonical_size, aligned

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...
    def save_for_backward(self, *tensors: Tensor) -> None: ...


def _save(ctx: _Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.attributes = inputs[6:10]


def _backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    # Boxes get no gradient, as in torchvision.
    levels = torch.ops.imp_trt.multilevel_roi_align_backward(grad, *ctx.saved_tensors, *ctx.attributes)
    return (*levels, *[None] * 6)


_multilevel_roi_align.register_autograd(_backward, setup_context=_save)


def _work_type(features: Tensor) -> torch.dtype:
    return torch.promote_types(features.dtype, torch.float32)


def _rois(boxes: Tensor, canonical_level: int, canonical_size: int) -> tuple[Tensor, Tensor]:
    """boxes [B, N, 4] -> torchvision's rois [B*N, 5] float32 (image, xyxy) and their level [B*N]."""
    batch, count = boxes.shape[:2]
    flat = boxes.detach().reshape(-1, 4).float()
    # torchvision turns a NaN coordinate into an index out of bounds; a box far outside pools zeros.
    size = flat[:, 2:] - flat[:, :2]
    broken = ~(torch.isfinite(flat).all(1) & torch.isfinite(size).all(1))
    flat = torch.where(broken.unsqueeze(1), torch.full_like(flat, -1e6), flat)
    image = torch.arange(batch, device=boxes.device).repeat_interleave(count).to(flat.dtype)
    return torch.cat([image.unsqueeze(1), flat], 1), assign_levels(flat, canonical_level, canonical_size)


def _within_reach(rois: Tensor, p2: Tensor) -> Tensor:
    """Rois [R, 5] as adaptive sampling reads them, for the frame that p2 [B, C, H, W] covers.

    Their corners lie at most REACH pixels outside of it. torchvision raises for a box that is turned inside
    out along one axis; it has no samples, as one without extent.
    """
    height, width = (STRIDES[0] * side + REACH for side in p2.shape[2:])
    image, low, high = rois[:, :1], rois[:, 1:3], rois[:, 3:]
    largest = rois.new_tensor([width, height])
    low, high = (torch.minimum(corner.clamp(min=-REACH), largest) for corner in (low, high))
    return torch.cat([image, low, torch.maximum(low, high)], 1)


def pyramid_roi_align(
    p2: Tensor,
    p3: Tensor,
    p4: Tensor,
    p5: Tensor,
    boxes: Tensor,
    output_size: int,
    sampling_ratio: int = 2,
    canonical_level: int = 4,
    canonical_size: int = 224,
    aligned: bool = False,
) -> Tensor:
    """Pools every box from the pyramid level for its size.

    Differentiable in the features, not in the boxes. A box with a non-finite corner, width or height
    pools zeros.

    Args:
        p2, p3, p4, p5: [B, C, H_l, W_l] features at strides 4, 8, 16 and 32, of one dtype.
        boxes: [B, N, 4] float32 xyxy in input pixels.
        output_size: side of the pooled grid.
        sampling_ratio: samples per bin and axis, at most 64. 0 is adaptive, as in torchvision: as many in
            each bin and axis as the bin has cells of the box's level, rounded up; corners more than REACH
            pixels outside of the frame are clamped, after the level is chosen.
        canonical_level, canonical_size: see :func:`assign_levels`.
        aligned: as of ``torchvision.ops.roi_align``: cell i of a level covers [i, i + 1), where it is the
            point i otherwise, and a box may be smaller than a cell.

    Returns:
        [B*N, C, output_size, output_size] in the dtype of the features.

    Raises:
        InvalidInput: output_size is below 1, or sampling_ratio not 0 to 64.
    """
    if output_size < 1 or not 0 <= sampling_ratio <= MAX_SAMPLING_RATIO:
        raise InvalidInput(
            "pyramid_roi_align",
            expected=f"output_size >= 1 and sampling_ratio 0 to {MAX_SAMPLING_RATIO}",
            got=f"{output_size} and {sampling_ratio}",
        )
    pooled: Tensor = torch.ops.imp_trt.multilevel_roi_align(
        p2, p3, p4, p5, boxes, output_size, sampling_ratio, canonical_level, canonical_size, aligned
    )
    return pooled

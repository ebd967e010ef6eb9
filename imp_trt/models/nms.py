# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression with static shapes, as a fixed point over the IoU matrix.

With boxes in descending order of score, greedy NMS is the unique solution of
``keep[j] = no i < j with keep[i] and IoU(i, j) > threshold``. Iterating this equation from "all
kept" resolves at least one more link of each suppression chain per iteration, so it is exact once the
number of iterations exceeds the longest chain: dense anchors with smooth scores needed up to 18. It uses only
comparisons, matrix products and clamps, so it exports without NonMaxSuppression, NonZero or loops.

The IoUs are float32. The matrix may have 16 bits, which halves what each iteration reads: it and the keep
flags are 0 or 1, and a count of suppressors only matters as 0 or at least 1: a sum of ones never rounds to 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from imp_trt.models.config import NMS_ITERATIONS


def suppression_matrix(
    boxes: Tensor,
    threshold: float,
    labels: Tensor | None = None,
    valid: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Pairwise suppression: whether box i suppresses box j if i itself is kept.

    Args:
        boxes: [..., K, 4] float32 xyxy, in descending order of score.
        threshold: IoU above which (strictly) the lower-scoring box is suppressed.
        labels: [..., K] integers; only boxes with equal labels suppress each other. None: all equal.
        valid: [..., K] bool; an invalid box (padding, below the score threshold) suppresses no other.
        dtype: of the result: float32, float16 or bfloat16.

    Returns:
        [..., K, K] of dtype, 1 where box i (row) suppresses box j (column), else 0. The IoU has
        the operation order of ``torchvision.ops.nms``; a box with zero area overlaps no other.
    """
    x0, y0, x1, y1 = boxes.unbind(-1)  # each [..., K]
    area = (x1 - x0) * (y1 - y0)
    width = torch.minimum(x1.unsqueeze(-1), x1.unsqueeze(-2)) - torch.maximum(
        x0.unsqueeze(-1), x0.unsqueeze(-2)
    )
    height = torch.minimum(y1.unsqueeze(-1), y1.unsqueeze(-2)) - torch.maximum(
        y0.unsqueeze(-1), y0.unsqueeze(-2)
    )
    inter = width.clamp(min=0) * height.clamp(min=0)  # [..., K, K]
    union = area.unsqueeze(-1) + area.unsqueeze(-2) - inter
    order = torch.arange(boxes.shape[-2], device=boxes.device)
    suppresses = (inter / union > _float32_below(threshold)) & (order.unsqueeze(-1) < order)
    if labels is not None:
        suppresses = suppresses & (labels.unsqueeze(-1) == labels.unsqueeze(-2))
    if valid is not None:
        suppresses = suppresses & valid.unsqueeze(-1)
    return suppresses.to(dtype)


def iterate(suppresses: Tensor, iterations: int) -> Tensor:
    """Iterate the keep equation from "all kept".

    Args:
        suppresses: [..., K, K] float32, float16 or bfloat16 from :func:`suppression_matrix`.
        iterations: number of iterations; unrolled in an exported graph.

    Returns:
        keep: [..., K] of the same dtype, exactly 0 or 1.
    """
    keep = torch.ones_like(suppresses[..., :1, :])  # [..., 1, K]
    negative = -suppresses
    for _ in range(iterations):
        # keep @ suppresses counts the kept suppressors. 1 - count, clamped at 0, is the new flag, also where
        # a large count is rounded or infinite.
        keep = torch.relu(keep @ negative + 1)
    return keep.squeeze(-2)


def fixed_point_nms(
    boxes: Tensor,
    threshold: float,
    labels: Tensor | None = None,
    valid: Tensor | None = None,
    iterations: int = NMS_ITERATIONS,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Greedy NMS of boxes in descending order of score.

    Args:
        boxes, threshold, labels, valid, dtype: see :func:`suppression_matrix`.
        iterations: see the module's docstring; :func:`unconverged` checks whether they suffice.

    Returns:
        keep: [..., K] bool; never set where ``valid`` is not.
    """
    keep = iterate(suppression_matrix(boxes, threshold, labels, valid, dtype), iterations).float() > 0.5
    return keep if valid is None else keep & valid


def unconverged(
    boxes: Tensor,
    threshold: float,
    labels: Tensor | None = None,
    valid: Tensor | None = None,
    iterations: int = NMS_ITERATIONS,
) -> int:
    """Number of keep flags that one more iteration would change; 0 means that the result is exact."""
    suppresses = suppression_matrix(boxes, threshold, labels, valid)
    keep = iterate(suppresses, iterations)
    following = torch.relu(1 - (keep.unsqueeze(-2) @ suppresses)).squeeze(-2)
    changed = keep != following
    return int((changed if valid is None else changed & valid).sum())


class FixedPointNms(nn.Module):
    """:func:`fixed_point_nms` as a module, so that :func:`watch_convergence` can hook it.

    Args:
        threshold: IoU above which (strictly) a box is suppressed.
        iterations: iterations of the keep equation.
        dtype: of the suppression matrix; the result does not depend on it.
    """

    def __init__(
        self, threshold: float, iterations: int = NMS_ITERATIONS, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.iterations = iterations
        self.dtype = dtype

    def forward(self, boxes: Tensor, labels: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """boxes [..., K, 4], labels [..., K], valid [..., K] -> keep [..., K] bool."""
        return fixed_point_nms(boxes, self.threshold, labels, valid, self.iterations, self.dtype)


@dataclass
class Convergence:
    """Result of :func:`watch_convergence`: NMS calls, and keep flags that one more iteration changes."""

    calls: int = 0
    unconverged: int = 0


@contextmanager
def watch_convergence(network: nn.Module) -> Iterator[Convergence]:
    """Count unconverged keep flags of each :class:`FixedPointNms` that runs inside the context."""
    convergence = Convergence()

    def check(module: nn.Module, inputs: tuple[Tensor | None, ...], _output: Tensor) -> None:
        if not isinstance(module, FixedPointNms):
            return
        boxes, labels, valid = (*inputs, None, None)[:3]
        if boxes is None:
            return
        convergence.calls += 1
        convergence.unconverged += unconverged(boxes, module.threshold, labels, valid, module.iterations)

    handles = [m.register_forward_hook(check) for m in network.modules() if isinstance(m, FixedPointNms)]
    try:
        yield convergence
    finally:
        for handle in handles:
            handle.remove()


def _float32_below(threshold: float) -> float:
    # torchvision compares a float32 IoU with a float64 threshold. For float32 x, x > t is equivalent to
    # x > (the largest float32 not above t), which a float32 graph can represent.
    nearest = np.float32(threshold)
    return float(nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf)))

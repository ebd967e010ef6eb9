# SPDX-License-Identifier: Apache-2.0
"""RoIAlign over pyramid levels in plain float64 loops, and inputs to try it on."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STRIDES = (4, 8, 16, 32)
FLOAT_MAX = float(np.finfo(np.float32).max)


def reference(
    levels: list[NDArray[np.float64]],
    boxes: NDArray[np.float32],
    size: int,
    ratio: int,
    level0: int = 4,
    size0: int = 224,
    aligned: bool = False,
) -> NDArray[np.float64]:
    """Levels [B, C, H_l, W_l], boxes [B, N, 4] -> [B*N, C, size, size]; zeros where a box is not finite.

    A ratio of 0 takes as many samples as there are cells in a bin, rounded up, as torchvision and Detectron2
    do: none in a box without extent.
    """
    batch, count = boxes.shape[:2]
    channels = levels[0].shape[1]
    out = np.zeros((batch * count, channels, size, size))
    for image in range(batch):
        for n in range(count):
            x0, y0, x1, y1 = (float(v) for v in boxes[image, n])
            if not all(math.isfinite(v) and abs(v) <= FLOAT_MAX for v in (x0, y0, x1, y1, x1 - x0, y1 - y0)):
                continue
            area = max((x1 - x0) * (y1 - y0), 0.0)
            level = math.floor(level0 + math.log2(math.sqrt(area) / size0) + 1e-6) if area > 0 else 2
            index = min(max(level, 2), 5) - 2
            features, scale = levels[index][image], 1 / STRIDES[index]
            shift = 0.5 if aligned else 0.0
            corners = [v * scale - shift for v in (x0, y0, x1, y1)]
            out[image * count + n] = _pool(features, corners, size, ratio, 0.0 if aligned else 1.0)
    return out


def _pool(
    features: NDArray[np.float64], box: list[float], size: int, ratio: int, least: float
) -> NDArray[np.float64]:
    x0, y0, x1, y1 = box
    width, height = (x1 - x0, y1 - y0) if least == 0 else (max(x1 - x0, least), max(y1 - y0, least))
    cell_w, cell_h = width / size, height / size
    rows, columns = (ratio or math.ceil(cell) for cell in (cell_h, cell_w))
    out = np.zeros((features.shape[0], size, size))
    for row in range(size):
        for column in range(size):
            for i in range(rows):
                for j in range(columns):
                    y = y0 + row * cell_h + (i + 0.5) * cell_h / rows
                    x = x0 + column * cell_w + (j + 0.5) * cell_w / columns
                    out[:, row, column] += _sample(features, y, x)
    return out / max(rows * columns, 1)


def _sample(features: NDArray[np.float64], y: float, x: float) -> NDArray[np.float64]:
    height, width = features.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(features.shape[0])
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    return (1 - v) * ((1 - u) * features[:, top, left] + u * features[:, top, right]) + v * (
        (1 - u) * features[:, bottom, left] + u * features[:, bottom, right]
    )


def pyramid(
    batch: int = 2, channels: int = 3, height: int = 96, width: int = 160, seed: int = 0
) -> list[Tensor]:
    """Random levels [B, C, height / stride, width / stride], rounded up."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, channels, -(-height // s), -(-width // s)) for s in STRIDES]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def boxes_of_every_level(
    batch: int = 2, count: int = 24, height: int = 96, width: int = 160, seed: int = 0
) -> Tensor:
    """[B, N, 4] boxes with sides from 2 to 900 pixels, some reaching beyond the frame."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(batch, count, 2, generator=generator) * torch.tensor([width, height])
    side = torch.exp(torch.rand(batch, count, 2, generator=generator) * 6.1 + 0.7)
    return torch.cat([center - side / 2, center + side / 2], 2)


def awkward_boxes() -> Tensor:
    """[1, N, 4]: no area, turned inside out, exactly on level borders, far outside, huge, not finite."""
    nan, inf = float("nan"), float("inf")
    rows = [
        [10, 10, 10, 10],
        [30, 30, 10, 10],
        [30, 10, 10, 30],
        [0, 0, 112, 112],
        [0, 0, 224, 224],
        [0, 0, 448, 448],
        [-500, -500, -400, -400],
        [150, 90, 1000, 1000],
        [-1e6, -1e6, 1e6, 1e6],
        [-3e38, -3e38, 3e38, 3e38],
        [1e38, 1e38, 3e38, 3e38],
        [nan, 0, 10, 10],
        [0, 0, nan, 10],
        [0, nan, 10, nan],
        [inf, 0, inf, 10],
        [0, 0, inf, 10],
        [-inf, -inf, inf, inf],
        [0, 0, 1e-30, 1e-30],
        [159.9, 95.9, 160, 96],
    ]
    return torch.tensor([rows], dtype=torch.float32)

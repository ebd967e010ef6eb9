# SPDX-License-Identifier: Apache-2.0
"""NV12 to BGR, written from the definitions and not from the code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COLORS = [(matrix, levels) for matrix in ("bt601", "bt709") for levels in ("limited", "full")]
"""Every matrix and range."""

_WEIGHTS = {"bt601": (0.299, 0.587, 0.114), "bt709": (0.2126, 0.7152, 0.0722)}  # of red, green and blue in Y


def random_planes(size: tuple[int, int], seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Noise of all levels as Y [h, w] and UV [h / 2, w / 2, 2]."""
    rng, (h, w) = np.random.default_rng(seed), size
    return rng.integers(0, 256, (h, w), np.uint8), rng.integers(0, 256, (h // 2, w // 2, 2), np.uint8)


def every_color() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Planes in which each pair of U and V meets 32 levels of Y, and each Y many pairs: [512, 4096]."""
    u, v = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    uv = np.tile(np.stack([u, v], axis=-1), (1, 8, 1))
    y = (np.arange(512)[:, None] * 67 + np.arange(4096)[None] * 29).astype(np.uint8)
    return y, uv


def nv12_reference(y: NDArray[np.uint8], uv: NDArray[np.uint8], numbers: Sequence[int]) -> NDArray[np.uint8]:
    """The conversion in integers, as `YuvToBgr` defines it; [h, w, 3]."""
    black, scale, u_to_b, u_to_g, v_to_g, v_to_r = numbers
    gray = scale * np.maximum(y.astype(np.int64) - black, 0)
    u, v = (np.kron(uv[..., i].astype(np.int64) - 128, np.ones((2, 2), np.int64)) for i in (0, 1))
    units = np.stack([gray + u_to_b * u, gray + u_to_g * u + v_to_g * v, gray + v_to_r * v], axis=-1)
    return np.clip(np.floor(units / 2**20 + 0.5), 0, 255).astype(np.uint8)


def exact_bgr(y: NDArray[np.uint8], uv: NDArray[np.uint8], matrix: str, levels: str) -> NDArray[np.float64]:
    """The levels by the ITU's equations, limited to 0-255; [h, w, 3]. Y below black is black."""
    red, green, blue = _WEIGHTS[matrix]
    if levels == "limited":
        luma, chroma = np.maximum(y.astype(float) - 16, 0) / 219, (uv.astype(float) - 128) / 224
    else:
        luma, chroma = y / 255, (uv.astype(float) - 128) / 255
    cb, cr = (np.kron(chroma[..., i], np.ones((2, 2))) for i in (0, 1))
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / green
    return np.clip(255 * np.stack([b, g, r], axis=-1), 0, 255)

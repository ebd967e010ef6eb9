# SPDX-License-Identifier: Apache-2.0
"""NV12 in host memory: validation, and conversion to BGR with the arithmetic of the kernel in plugins/."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.native_calls import native_call
from imp_trt.preprocessing.nv12 import Nv12Frame, YuvToBgr, frame_size, plane_layout

_STRIP = 128  # rows that are converted at once; even. Their integers stay in the processor's cache.


@native_call()
def nv12_to_bgr(y: NDArray[np.uint8], uv: NDArray[np.uint8] | None, frame: Nv12Frame) -> NDArray[np.uint8]:
    """A BGR image from planes in host memory.

    Args:
        y, uv: the planes of the frame, as :class:`Nv12Frame` describes them; not changed.
        frame: states matrix and range.

    Returns:
        [h, w, 3] uint8, a new array.

    Raises:
        InvalidInput: shapes, strides or sides that are not those of NV12.
    """
    luma = plane_layout("Y plane", y.shape, y.strides)
    chroma = None if uv is None else plane_layout("UV plane", uv.shape, uv.strides)
    h, w = frame_size(luma, chroma)
    if uv is None:
        rows = y.reshape(luma.rows, w)
        y, uv = rows[:h], rows[h:]
    y, uv = y.reshape(h, w), uv.reshape(h // 2, w // 2, 2)
    if frame.matrix == "bt601" and frame.color_range == "limited":
        # The same integers with vector instructions; OpenCV on ARM rounds in its own way.
        return np.asarray(cv2.cvtColorTwoPlane(y, uv, cv2.COLOR_YUV2BGR_NV12), np.uint8)
    out = np.empty((h, w, 3), np.uint8)
    for top in range(0, h, _STRIP):
        half = slice(top // 2, (top + _STRIP) // 2)
        _convert(y[top : top + _STRIP], uv[half], YuvToBgr.of(frame), out[top : top + _STRIP])
    return out


def _convert(y: NDArray[np.uint8], uv: NDArray[np.uint8], to_bgr: YuvToBgr, out: NDArray[np.uint8]) -> None:
    """By any matrix. y: [h, w]; uv: [h / 2, w / 2, 2]; out: [h, w, 3], written."""
    levels = np.maximum(np.arange(256, dtype=np.int32) - to_bgr.black, 0)
    luma = (levels * to_bgr.y + (1 << 19))[y]  # [h, w] int32
    u, v = (uv[..., i].astype(np.int32) - 128 for i in (0, 1))
    terms = (u * to_bgr.u_to_b, u * to_bgr.u_to_g + v * to_bgr.v_to_g, v * to_bgr.v_to_r)
    for channel, term in enumerate(terms):
        # Each value for 2 x 2 pixels; the sizes are exactly twice as large.
        size = (y.shape[1], y.shape[0])
        units = np.asarray(cv2.resize(term, size, interpolation=cv2.INTER_NEAREST), np.int32)
        units += luma
        units >>= 20
        np.clip(units, 0, 255, out=out[..., channel], casting="unsafe")

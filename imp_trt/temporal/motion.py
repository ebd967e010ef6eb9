# SPDX-License-Identifier: Apache-2.0
"""Motion between two frames of a video, from their luma at the size of the canvas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.native_calls import native_call
from imp_trt.preprocessing.frames import ColorOrder
from imp_trt.results.instances import MASK_THRESHOLD

Luma = NDArray[np.uint8]
"""[h, w], the luma of a frame at the size of the canvas."""

Flow = NDArray[np.float32]
"""[h, w, 2]: x and y of a displacement in pixels of the canvas."""

NOISE = 4.0
"""Mean change of luma, of 255, that is noise: no cut, however flat the frames are."""

_MIN_SIDE = 16
_SAFE_SIDE = 32  # from here on OpenCV's flow has levels of any size
_MIN_SCALED = 6  # pixels of a side from which its growth can be told
_MAX_SCALE = 1.1
_MAX_CELLS = 14  # of a mask along each axis whose motion is looked at


@dataclass(frozen=True, eq=False)
class Motion:
    """How a frame follows from the one before.

    Attributes:
        forward: where each pixel of the frame before went; None for no motion.
        backward: where each pixel of the frame came from; None for no motion.
        change: how much of the frame the motion does not explain. It is the mean absolute difference between
            its luma and that of the frame before, moved along, after a common change of brightness is taken
            out, divided by the contrast (the mean absolute deviation of luma in the frame that has more of
            it); 0 for a difference of at most NOISE. 0 is perfect motion; two images that have nothing in
            common are about 1.
    """

    forward: Flow | None
    backward: Flow | None
    change: float

    @classmethod
    def between(cls, before: Luma, after: Luma, flow: bool) -> Motion:
        """Estimate the motion between two frames of the same size.

        Args:
            flow: False assumes that nothing moves.
        """
        if not flow:
            return cls(None, None, _change(before, after))
        forward, backward = _flow(before, after), _flow(after, before)
        moved = np.asarray(_sample(before, backward, cv2.BORDER_REPLICATE), np.uint8)
        return cls(forward, backward, _change(moved, after))

    def move_canvas(self, canvas: NDArray[np.float32]) -> NDArray[np.float32]:
        """The canvas [T, h, w] of the frame before, moved along; what enters the frame is 0.

        The flow may cover less than the canvas, which is then padded on the right and at the bottom.
        """
        if self.backward is None:
            return canvas
        h, w = self.backward.shape[:2]
        moved = np.zeros_like(canvas)
        for plane, into in zip(canvas, moved, strict=True):
            if plane.any():
                into[:h, :w] = _sample(plane[:h, :w], self.backward, cv2.BORDER_CONSTANT)
        return moved

    def move_boxes(
        self, boxes: NDArray[np.float32], masks: NDArray[np.floating[Any]], stride: float
    ) -> NDArray[np.float32]:
        """Boxes of instances of the frame before, moved and scaled as what their masks cover.

        A mask spans its box, so it moves and grows with it. A box takes the median motion of the cells of its
        mask, and grows along each axis as the motion of these cells does.

        Args:
            boxes: [N, 4] float32, xyxy, pixels of the network's frame; not changed.
            masks: [N, P, P] probabilities.
            stride: pixels of the network's frame per pixel of the canvas.
        """
        if self.forward is None or not len(boxes):
            return boxes
        finite = np.isfinite(boxes).all(axis=1, keepdims=True)  # [N, 1]
        on_canvas = np.asarray(np.where(finite, boxes, 0) / stride, np.float32)
        points, inside = _mask_points(on_canvas, masks)
        h, w = self.forward.shape[:2]
        inside &= (points >= 0).all(axis=2) & (points < (w, h)).all(axis=2)
        pixels = np.clip(np.floor(points), 0, (w - 1, h - 1)).astype(np.intp)
        flow = self.forward[pixels[..., 1], pixels[..., 0]]  # [N, K, 2]
        few = ~inside.any(axis=1, keepdims=True)  # [N, 1]: too small, or outside
        inside |= few  # the motion at the border
        shift = _median(flow, inside)
        weights = inside[..., None].astype(np.float32)
        center = (points * weights).sum(axis=1) / weights.sum(axis=1)  # [N, 2]
        offset = (points - center[:, None]) * weights
        growth = (offset * (flow - shift[:, None])).sum(axis=1) / np.maximum((offset**2).sum(axis=1), 1e-3)
        large = (boxes[:, 2:] - boxes[:, :2] >= _MIN_SCALED * stride) & ~few
        scale = np.where(large, np.clip(1 + growth, 1 / _MAX_SCALE, _MAX_SCALE), 1)
        center, shift = center * stride, shift * stride
        corners = boxes.reshape(-1, 2, 2)
        moved = (corners - center[:, None]) * scale[:, None] + (center + shift)[:, None]
        return np.where(finite, moved.reshape(-1, 4), boxes).astype(np.float32)


@native_call()
def luma_of(image: NDArray[np.uint8], order: ColorOrder = "bgr") -> Luma:
    """The luma of an image [h, w, 3] at the size of the canvas."""
    code = cv2.COLOR_BGR2GRAY if order == "bgr" else cv2.COLOR_RGB2GRAY
    return np.asarray(cv2.cvtColor(image, code), np.uint8)


@native_call()
def _flow(before: Luma, after: Luma) -> Flow:
    h, w = before.shape
    bottom, right = _flow_padding(h, w)
    before, after = (
        np.ascontiguousarray(cv2.copyMakeBorder(luma, 0, bottom, 0, right, cv2.BORDER_REPLICATE), np.uint8)
        for luma in (before, after)
    )
    estimator: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = np.asarray(estimator.calc(before, after, None), np.float32)
    return np.ascontiguousarray(flow[:h, :w])


def _flow_padding(h: int, w: int) -> tuple[int, int]:
    """Rows and columns that are missing for the flow.

    OpenCV chooses the number of levels of its pyramid for small images by their width alone; a long and
    narrow one would have levels that are smaller than a patch, which it reads anyway.
    """
    if min(h, w) >= _SAFE_SIDE:
        return 0, 0
    least = max(_MIN_SIDE, -(-max(h, w) // 2))
    return max(least - h, 0), max(least - w, 0)


@native_call()
def _sample(plane: NDArray[Any], flow: Flow, border: int) -> NDArray[Any]:
    """The plane [h, w] at each pixel plus its flow, bilinear."""
    h, w = plane.shape
    x = flow[..., 0] + np.arange(w, dtype=np.float32)
    y = flow[..., 1] + np.arange(h, dtype=np.float32)[:, None]
    return np.asarray(cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=border, borderValue=0.0))


def _change(before: Luma, after: Luma) -> float:
    signed = after.astype(np.float32) - before
    difference = float(np.abs(signed - signed.mean()).mean())
    if difference <= NOISE:
        return 0.0
    contrast = max(float(np.abs(luma - luma.mean()).mean()) for luma in (before, after))
    return difference / max(contrast, 1.0)


def _mask_points(
    boxes: NDArray[np.float32], masks: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Centers of up to _MAX_CELLS^2 cells of each mask [N, K, 2] x and y, and those inside of it [N, K]."""
    cells = masks.shape[-1]
    step = -(-cells // _MAX_CELLS)
    at = (np.arange(step // 2, cells, step, dtype=np.float32) + 0.5) / cells
    size = boxes[:, 2:] - boxes[:, :2]
    x = boxes[:, :1] + at * size[:, :1]  # [N, cells]
    y = boxes[:, 1:2] + at * size[:, 1:]
    shape = (len(boxes), len(at), len(at))
    points = np.stack([np.broadcast_to(x[:, None], shape), np.broadcast_to(y[:, :, None], shape)], axis=-1)
    inside = masks[:, step // 2 :: step, step // 2 :: step] > MASK_THRESHOLD
    return points.reshape(len(boxes), -1, 2), inside.reshape(len(boxes), -1)


def _median(values: NDArray[np.float32], chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Median [N, 2] of the chosen ones [N, K] of values [N, K, 2]; at least one is chosen in each row."""
    ordered = np.sort(np.where(chosen[..., None], values, np.float32(np.inf)), axis=1)
    middle = (chosen.sum(axis=1) - 1) // 2
    median: NDArray[np.float32] = ordered[np.arange(len(values)), middle]
    return median

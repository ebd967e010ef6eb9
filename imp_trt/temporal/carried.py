# SPDX-License-Identifier: Apache-2.0
"""What is carried from one frame of a video to the next: the canvas and the instances."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.backends.decoding import HostOutputs
from imp_trt.temporal.motion import Motion

SAME_IOU = 0.5
"""Minimum IoU of a detection and a carried instance of its class that is the same object."""


@dataclass(frozen=True, eq=False)
class Carried:
    """Canvas and instances of a frame, in pixels of the network's frame.

    Attributes:
        canvas: [T, h, w] float32.
        detections: boxes [1, N, 4], scores, labels [1, N], masks [1, N, P, P] and num_detections [1] of
            the last frame with the detector, the boxes moved along; track_ids [1, N] int32.
        age: frames since the detector ran.
    """

    canvas: NDArray[np.float32]
    detections: HostOutputs
    age: int

    def moved(self, motion: Motion, stride: float) -> Carried:
        """The same at the next frame.

        Args:
            motion: to that frame.
            stride: pixels of the network's frame per pixel of the canvas.
        """
        detections = dict(self.detections)
        count = count_of(detections)
        boxes = detections["boxes"].copy()
        boxes[0, :count] = motion.move_boxes(boxes[0, :count], detections["masks"][0, :count], stride)
        detections["boxes"] = boxes
        return replace(self, canvas=motion.move_canvas(self.canvas), detections=detections, age=self.age + 1)


def count_of(detections: HostOutputs) -> int:
    """The number of detections that are not padding."""
    return int(min(max(detections["num_detections"][0], 0), detections["scores"].shape[1]))


def give_ids(detections: HostOutputs, earlier: HostOutputs | None, next_id: int) -> NDArray[np.int32]:
    """Ids [1, N] for the detections of a frame.

    A detection takes the id of the carried instance of its class that it overlaps most, if their IoU is at
    least SAME_IOU, best pairs first; all others get new ones. Padding gets -1.

    Args:
        detections: of the frame.
        earlier: the carried ones with their track_ids, moved to the frame; None if there are none.
        next_id: the first new id.
    """
    ids = np.full(detections["scores"].shape, -1, np.int32)
    count = count_of(detections)
    if earlier is not None and count and count_of(earlier):
        known = count_of(earlier)
        overlap = _iou(detections["boxes"][0, :count], earlier["boxes"][0, :known])
        overlap[detections["labels"][0, :count, None] != earlier["labels"][0, :known]] = 0
        for _ in range(min(count, known)):
            row, column = np.unravel_index(int(overlap.argmax()), overlap.shape)
            if overlap[row, column] < SAME_IOU:
                break
            ids[0, row] = earlier["track_ids"][0, column]
            overlap[row], overlap[:, column] = 0, 0
    new = np.flatnonzero(ids[0, :count] < 0)
    ids[0, new] = next_id + np.arange(len(new), dtype=np.int32)
    return ids


def _iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """[N, M] of boxes [N, 4] and [M, 4]; 0 where one is empty or not finite."""
    a, b = (np.nan_to_num(boxes.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0) for boxes in (a, b))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.maximum(high - low, 0).prod(axis=2)
    areas = [np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - both
    return np.asarray(both / np.maximum(union, 1e-9), np.float64)

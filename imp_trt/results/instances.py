# SPDX-License-Identifier: Apache-2.0
"""Detected objects: boxes, classes, scores and masks, in the caller's frame."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import InvalidInput
from imp_trt.ops.mask_projection.numpy import mask_crops
from imp_trt.ops.mask_projection.options import SAMPLING_RULES, Sampling

MASK_THRESHOLD = 0.5
"""Probability above which a pixel belongs to an instance."""


@dataclass(frozen=True, eq=False)
class Instances:
    """Detected objects, in descending order of score.

    Attributes:
        boxes: [N, 4] float32, xyxy in pixels of the frame, inside the frame; finite.
        labels: [N] int32, semantic class index.
        scores: [N] float32, 0-1.
        masks: [N, P, P] float32, probabilities on a grid that spans the mask box.
        size: (h, w) of the frame.
        sampling: how masks are sampled, as in the IMP operator.
        mask_boxes: [N, 4] float32 xyxy, the boxes that the mask grids span; they differ from boxes where
            an object extends beyond the frame. None means boxes.

    Raises:
        InvalidInput: a shape or dtype is wrong, or a box is not finite.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    scores: NDArray[np.float32]
    masks: NDArray[np.float32]
    size: tuple[int, int]
    sampling: Sampling = "bilinear"
    mask_boxes: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.scores) if isinstance(self.scores, np.ndarray) and self.scores.ndim else 0
        if self.mask_boxes is None:
            object.__setattr__(self, "mask_boxes", self.boxes)
        check_array("boxes", self.boxes, np.float32, (n, 4))
        if not np.isfinite(self.boxes).all():
            raise InvalidInput("boxes", expected="finite corners", got="NaN or infinity")
        check_array("labels", self.labels, np.int32, (n,))
        check_array("scores", self.scores, np.float32, (n,))
        check_array("mask_boxes", self.mask_boxes, np.float32, (n, 4))
        side = self.masks.shape[-1] if isinstance(self.masks, np.ndarray) and self.masks.ndim == 3 else 1
        check_array("masks", self.masks, np.float32, (n, max(side, 1), max(side, 1)))
        if self.sampling not in SAMPLING_RULES:
            raise InvalidInput("sampling", expected=f"one of {SAMPLING_RULES}", got=self.sampling)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Instances({len(self)} in {self.size[1]}x{self.size[0]})"

    @property
    def _span(self) -> NDArray[np.float32]:
        return self.boxes if self.mask_boxes is None else self.mask_boxes

    def select(self, keep: NDArray[np.bool_] | NDArray[np.integer]) -> Instances:
        """The instances at a boolean mask [N] or at indices [M], in that order."""
        return Instances(
            self.boxes[keep],
            self.labels[keep],
            self.scores[keep],
            self.masks[keep],
            self.size,
            self.sampling,
            self._span[keep],
        )

    def filter(self, *, min_score: float) -> Instances:
        """The instances with a score of at least min_score."""
        return self.select(self.scores >= min_score)

    def above(self, score: float) -> Instances:
        """Deprecated: use :meth:`filter`."""
        warnings.warn(
            "Instances.above is deprecated, use Instances.filter(min_score=...)",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.filter(min_score=score)

    def crop(self, index: int, threshold: float = MASK_THRESHOLD) -> tuple[NDArray[np.bool_], int, int]:
        """Mask of one instance on the part of the frame that its box covers.

        Args:
            index: of the instance; negative ones count from the last.
            threshold: probability above which a pixel belongs to the instance.

        Returns:
            mask [ch, cw] bool (may be empty), and x, y of its top left pixel in the frame.

        Raises:
            IndexError: there is no such instance.
        """
        position = range(len(self))[index]
        single = slice(position, position + 1)
        for crop in mask_crops(self.masks[single], self._span[single], self.size, self.sampling):
            return crop.values > threshold, crop.columns.start, crop.rows.start
        return np.zeros((0, 0), np.bool_), 0, 0

    def paste(self, threshold: float = MASK_THRESHOLD) -> NDArray[np.bool_]:
        """Masks at the frame's size: [N, h, w] bool. Takes N frames of memory; :meth:`crop` takes less."""
        full = np.zeros((len(self), *self.size), np.bool_)
        for crop in mask_crops(self.masks, self._span, self.size, self.sampling):
            index, rows, columns, values = crop
            full[index, rows, columns] = values > threshold
        return full


def describe(value: object) -> str:
    """Dtype and shape of an array, or the type of anything else, for a message."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


def check_array(name: str, value: object, dtype: type, shape: tuple[int, ...]) -> None:
    """InvalidInput unless value is an array of this dtype and shape."""
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
        raise InvalidInput(name, expected=f"{np.dtype(dtype)} {list(shape)}", got=describe(value))

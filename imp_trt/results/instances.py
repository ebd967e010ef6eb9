# SPDX-License-Identifier: Apache-2.0
"""Detected objects: boxes, classes, scores and masks, in the caller's frame."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import InvalidInput
from imp_trt.ops.mask_projection.numpy import mask_crops
from imp_trt.ops.mask_projection.options import SAMPLING_RULES, Sampling

Index = int | slice | Sequence[int] | Sequence[bool] | NDArray[np.bool_] | NDArray[np.integer]
"""What selects instances."""

MASK_THRESHOLD = 0.5
"""Probability above which a pixel belongs to an instance."""


@dataclass(frozen=True, eq=False)
class Instances:
    """Detected objects, in descending order of score.

    They have a length, are iterable, and take an index, a slice, a boolean mask or a list of indices:

    >>> cars = instances[instances.labels == classes.names.index("car")]
    >>> best = instances[0]  # Instances of length one
    >>> for instance in instances[:3]:
    ...     print(instance.scores[0], instance.boxes[0])

    Attributes:
        boxes: [N, 4] float32, xyxy in pixels of the frame, inside the frame; finite.
        labels: [N] int32, semantic class index.
        scores: [N] float32, 0-1.
        masks: [N, P, P] float32, probabilities on a grid that spans the mask box.
        size: (h, w) of the frame.
        sampling: how masks are sampled, as in the IMP operator.
        mask_boxes: [N, 4] float32 xyxy, the boxes that the mask grids span; they differ from boxes where
            an object extends beyond the frame. None means boxes.
        track_ids: [N] int32, number of the object over the frames of a video, -1 for one that is not
            tracked (yet); see :class:`imp_trt.video.Tracker`. None without tracking.
        ages: [N] int32, frames since the object was detected: 0 for one that was detected on this frame,
            more for one that was carried over from an earlier one. None where every frame has the detector.

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
    track_ids: NDArray[np.int32] | None = None
    ages: NDArray[np.int32] | None = None

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
        for name in ("track_ids", "ages"):
            if getattr(self, name) is not None:
                check_array(name, getattr(self, name), np.int32, (n,))
        if self.sampling not in SAMPLING_RULES:
            raise InvalidInput("sampling", expected=f"one of {SAMPLING_RULES}", got=self.sampling)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, key: Index) -> Instances:
        """The instances at an index, a slice, a boolean mask [N] or indices [M], in that order.

        A single index gives Instances of length one, as does iteration.

        Raises:
            IndexError: out of range, or a mask of another length.
        """
        if isinstance(key, int | np.integer) and not isinstance(key, bool | np.bool_):
            index = operator.index(key)
            if not -len(self) <= index < len(self):
                raise IndexError(f"index {index} is out of range for {len(self)} instances")
            index %= len(self)
            key = slice(index, index + 1)
        elif not isinstance(key, slice):
            key = _checked_indices(key, len(self))
        return self.select(key)

    def __iter__(self) -> Iterator[Instances]:
        """Each instance as Instances of length one, in descending order of score."""
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Instances({len(self)} in {self.size[1]}x{self.size[0]})"

    @property
    def _span(self) -> NDArray[np.float32]:
        return self.boxes if self.mask_boxes is None else self.mask_boxes

    def select(self, keep: NDArray[np.bool_] | NDArray[np.integer] | slice) -> Instances:
        """The instances at a boolean mask [N], at indices [M] or in a slice, in that order."""
        return Instances(
            self.boxes[keep],
            self.labels[keep],
            self.scores[keep],
            self.masks[keep],
            self.size,
            self.sampling,
            self._span[keep],
            None if self.track_ids is None else self.track_ids[keep],
            None if self.ages is None else self.ages[keep],
        )

    def filter(self, *, min_score: float) -> Instances:
        """The instances with a score of at least min_score.

        Raises:
            InvalidInput: min_score is above 1, such as a percentage, or NaN: no instance has such a score.
        """
        check_min_score(min_score)
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
            InvalidInput: threshold is above 1 or NaN.
        """
        check_min_score(threshold, "threshold")
        position = range(len(self))[index]
        single = slice(position, position + 1)
        for crop in mask_crops(self.masks[single], self._span[single], self.size, self.sampling):
            return crop.values > threshold, crop.columns.start, crop.rows.start
        return np.zeros((0, 0), np.bool_), 0, 0

    def paste(self, threshold: float = MASK_THRESHOLD) -> NDArray[np.bool_]:
        """Masks at the frame's size: [N, h, w] bool. Takes N frames of memory; :meth:`crop` takes less.

        Args:
            threshold: as for :meth:`crop`.

        Raises:
            InvalidInput: threshold is above 1 or NaN.
        """
        check_min_score(threshold, "threshold")
        full = np.zeros((len(self), *self.size), np.bool_)
        for crop in mask_crops(self.masks, self._span, self.size, self.sampling):
            index, rows, columns, values = crop
            full[index, rows, columns] = values > threshold
        return full


def _checked_indices(key: object, count: int) -> NDArray[np.bool_] | NDArray[np.intp]:
    """A boolean mask [N] or indices [M] as an array; an empty list selects nothing."""
    if np.ma.is_masked(key):
        raise IndexError("expected an index without masked elements, which NumPy ignores")
    array = np.asarray(key)
    if array.ndim == 1 and not array.size and array.dtype != np.bool_:
        return array.astype(np.intp)
    if array.dtype != np.bool_ and isinstance(key, list | tuple) and _has_bools(key):
        raise IndexError("expected booleans or indices, got both; NumPy takes True and False as 1 and 0")
    if array.ndim != 1 or array.dtype.kind not in "biu":
        raise IndexError(
            f"expected an index, a slice, a boolean mask [{count}] or indices, got {describe(array)}"
        )
    if array.dtype == np.bool_:
        if len(array) != count:
            raise IndexError(f"expected a boolean mask [{count}], got [{len(array)}]")
        return array
    return array.astype(np.intp)


def _has_bools(key: Sequence[object]) -> bool:
    return any(isinstance(value, bool | np.bool_) for value in key)


def check_min_score(min_score: float, name: str = "min_score") -> None:
    """InvalidInput for a score or probability that nothing reaches; one below 0 keeps everything."""
    if not min_score <= 1:  # true for NaN
        raise InvalidInput(name, expected="at most 1: scores and probabilities are 0 to 1", got=min_score)


def describe(value: object) -> str:
    """Dtype and shape of an array, or the type of anything else, for a message."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


def check_array(name: str, value: object, dtype: type, shape: tuple[int, ...]) -> None:
    """InvalidInput unless value is an array of this dtype and shape."""
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
        raise InvalidInput(name, expected=f"{np.dtype(dtype)} {list(shape)}", got=describe(value))

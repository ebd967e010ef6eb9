# SPDX-License-Identifier: Apache-2.0
"""Scores near ground-truth boundaries: by distance (Figure 5 of the IMP paper), and Boundary IoU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.errors import InvalidInput
from imp_trt.metrics.per_class import ClassIou, finite, named, unnamed
from imp_trt.metrics.semantic import ConfusionMatrix, SemanticDict, SemanticScores, pair_codes
from imp_trt.results.result import SegmentationResult

DISTANCES = (10, 25, 50, 100, 200, 400)
"""Pixels, as in Figure 5 of the paper."""

DILATION = 0.02
"""Width of Boundary IoU's bands, as a fraction of the image diagonal (Cheng et al., CVPR 2021)."""


class BoundaryIouDict(TypedDict):
    """JSON form of the Boundary IoU."""

    mean_iou: float | None
    thing_iou: float | None
    stuff_iou: float | None
    iou: dict[str, float | None]


class BoundaryDict(TypedDict):
    """JSON form of :class:`BoundaryScores`."""

    distances: list[float]
    bands: list[SemanticDict]
    boundary_iou: BoundaryIouDict


@dataclass(frozen=True, eq=False)
class BoundaryScores(ClassIou):
    """Scores of the pixels near a ground-truth boundary, in 0-1.

    Attributes:
        classes: class table of the values.
        distances: [D] pixels, ascending.
        bands: [D] scores of the labeled pixels within each distance of a boundary.
        iou: [K] float64, Boundary IoU; NaN for a class without boundary in ground truth and prediction.
    """

    classes: ClassTable
    distances: tuple[float, ...]
    bands: tuple[SemanticScores, ...]
    iou: NDArray[np.float64]

    def to_dict(self) -> BoundaryDict:
        """Plain data for JSON; None where a class does not occur."""
        return {
            "distances": list(self.distances),
            "bands": [band.to_dict() for band in self.bands],
            "boundary_iou": {
                "mean_iou": finite(self.mean_iou),
                "thing_iou": finite(self.thing_iou),
                "stuff_iou": finite(self.stuff_iou),
                "iou": named(self.classes.names, self.iou),
            },
        }

    @classmethod
    def from_dict(cls, data: BoundaryDict, classes: ClassTable) -> BoundaryScores:
        """Inverse of :meth:`to_dict`; KeyError if a key is missing."""
        return cls(
            classes,
            tuple(data["distances"]),
            tuple(SemanticScores.from_dict(band, classes) for band in data["bands"]),
            unnamed(classes.names, data["boundary_iou"]["iou"]),
        )


class BoundaryMeasure:
    """Scores of the pixels near ground-truth boundaries.

    A boundary pixel has a 4-neighbor of another class in the ground truth; the pixels on both sides count.
    A class next to void (255) forms no boundary, since the class there is unknown. Distances are
    exact Euclidean distances to the nearest boundary pixel, so boundary pixels are at distance 0. The bands
    are nested, and each has one confusion matrix over all images.

    Boundary IoU follows Cheng et al. (CVPR 2021) on the mask of each class: it counts only the part of a mask
    within ``DILATION`` of the diagonal (chessboard distance) inside its own contour, in ground truth and
    prediction; the image border is part of the contour. Intersections and unions are summed over all
    images, as for the IoU. Void counts as inside of every mask, so that it creates no contour.

    Args:
        classes: class table of the data set.
        distances: distances of the bands in pixels, ascending.
    """

    def __init__(self, classes: ClassTable, distances: Sequence[float] = DISTANCES) -> None:
        if not distances or list(distances) != sorted(set(distances)) or distances[0] < 0:
            raise InvalidInput("distances", expected="ascending and not negative", got=list(distances))
        self._classes = classes
        self._distances = tuple(distances)
        self._bands = [ConfusionMatrix(len(classes)) for _ in distances]
        self._overlap = np.zeros((len(classes), 2), np.int64)  # intersection, union

    def add(self, sample: Sample, result: SegmentationResult) -> None:
        """Add one image.

        Raises:
            InvalidInput: the class maps have different sizes, or a value is not a class.
        """
        target, predicted = sample.semantic, result.semantic
        if target.shape != predicted.shape:
            raise InvalidInput("class map", expected=list(target.shape), got=list(predicted.shape))
        self._add_bands(target, predicted)
        for index in np.intersect1d(np.union1d(target, predicted), np.arange(len(self._classes))):
            self._overlap[index] += _contour_overlap(target, predicted, int(index))

    def _add_bands(self, target: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        codes = pair_codes(target, predicted, len(self._classes))
        distance = boundary_distance(target)
        near = (target != IGNORE_INDEX) & (distance <= self._distances[-1] + _ROUNDING)
        codes, distance = codes[near], distance[near]
        band = np.zeros(codes.shape, np.intp)  # first band that contains the pixel
        for limit in self._distances[:-1]:
            band += distance > limit + _ROUNDING
        shape = self._bands[0].counts.shape
        cells = shape[0] * shape[1]
        rings = np.bincount(band * cells + codes, minlength=len(self._bands) * cells)
        for matrix, counts in zip(self._bands, np.cumsum(rings.reshape(-1, *shape), axis=0), strict=True):
            matrix.counts += counts

    def scores(self) -> BoundaryScores:
        """Scores of the images so far."""
        intersection, union = self._overlap.T
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = np.where(union > 0, intersection / union, np.nan)
        bands = tuple(matrix.scores(self._classes) for matrix in self._bands)
        return BoundaryScores(self._classes, self._distances, bands, iou)


# OpenCV's distances are float32 with rounding errors; the next possible distance above 400 is 400.001.
_ROUNDING = 5e-4


def boundary_distance(target: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Euclidean distance in pixels to the nearest boundary pixel, [H, W] float32; inf without a boundary.

    Args:
        target: [H, W] uint8 class indices, 255 = void.
    """
    import cv2

    edge = np.zeros(target.shape, np.bool_)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        a, b = target[one], target[other]
        change = (a != b) & (a != IGNORE_INDEX) & (b != IGNORE_INDEX)
        edge[one] |= change
        edge[other] |= change
    if not edge.any():
        return np.full(target.shape, np.inf, np.float32)
    inside = (~edge).view(np.uint8)
    return np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _contour_overlap(target: NDArray[np.uint8], predicted: NDArray[np.uint8], index: int) -> tuple[int, int]:
    """Intersection and union in pixels of the inner contour bands of one class."""
    import cv2

    width = max(1, round(DILATION * float(np.hypot(*target.shape))))
    void = target == IGNORE_INDEX
    bands = []
    for classes in (target, predicted):
        mask = ((classes == index) | void).view(np.uint8)
        eroded = cv2.erode(
            mask,
            np.ones((3, 3), np.uint8),
            iterations=width,
            borderType=cv2.BORDER_CONSTANT,
            borderValue=0,
        )
        bands.append((mask > eroded) & ~void)
    return (
        int(np.count_nonzero(bands[0] & bands[1])),
        int(np.count_nonzero(bands[0] | bands[1])),
    )

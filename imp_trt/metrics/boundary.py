"""Scores near the boundaries of the truth: by distance (Figure 5 of the IMP paper), and Boundary IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.errors import InvalidInput
from imp_trt.metrics.per_class import ClassIou, finite, named, unnamed
from imp_trt.metrics.semantic import ConfusionMatrix, SemanticScores, pair_codes
from imp_trt.results.result import SegmentationResult

DISTANCES = (10, 25, 50, 100, 200, 400)
"""Pixels, as in Figure 5 of the paper."""

DILATION = 0.02
"""Width of Boundary IoU's bands, as a share of the picture's diagonal (Cheng et al., CVPR 2021)."""


@dataclass(frozen=True, eq=False)
class BoundaryScores(ClassIou):
    """Scores of the pixels near a boundary of the truth, in 0-1.

    Attributes:
        classes: what the positions mean.
        distances: [D] pixels, ascending.
        bands: [D] scores of the labeled pixels at most so far from a boundary.
        iou: [K] float64, Boundary IoU; NaN for a class that has no boundary in truth or prediction.
    """

    classes: ClassTable
    distances: tuple[float, ...]
    bands: tuple[SemanticScores, ...]
    iou: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
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
    def from_dict(cls, data: Mapping[str, Any], classes: ClassTable) -> BoundaryScores:
        """Inverse of :meth:`to_dict`; KeyError where something is missing."""
        return cls(
            classes,
            tuple(data["distances"]),
            tuple(SemanticScores.from_dict(band, classes) for band in data["bands"]),
            unnamed(classes.names, data["boundary_iou"]["iou"]),
        )


class BoundaryMeasure:
    """Scores of the pixels near the boundaries of the truth.

    A boundary pixel is a pixel with a side neighbor of another class, in the truth; the pixel on either side
    counts. Where a class meets void (255) there is no boundary: nobody knows what lies there. Distances are
    exact Euclidean distances to the nearest boundary pixel, so boundary pixels themselves lie at 0. The bands
    nest, and the confusion matrix of each is global: over all pictures.

    Boundary IoU follows Cheng et al. (CVPR 2021) on the mask of each class: only the part of a mask counts
    that lies within ``DILATION`` of the diagonal (chessboard distance) inside its own outline, in truth and
    prediction; the edge of the picture counts as outline. Intersections and unions are summed over all
    pictures, as for the IoU itself. Void belongs to the inside of every mask, so that it makes no outline.

    Args:
        classes: the data set's classes.
        distances: of the bands, pixels, ascending.
    """

    def __init__(self, classes: ClassTable, distances: Sequence[float] = DISTANCES) -> None:
        if not distances or list(distances) != sorted(set(distances)) or distances[0] < 0:
            raise InvalidInput("distances", expected="ascending, from 0 on", got=list(distances))
        self._classes = classes
        self._distances = tuple(distances)
        self._bands = [ConfusionMatrix(len(classes)) for _ in distances]
        self._overlap = np.zeros((len(classes), 2), np.int64)  # intersection, union

    def add(self, sample: Sample, result: SegmentationResult) -> None:
        """Count one picture.

        Raises:
            InvalidInput: the class maps do not fit each other or the classes.
        """
        truth, found = sample.semantic, result.semantic
        if truth.shape != found.shape:
            raise InvalidInput("class map", expected=list(truth.shape), got=list(found.shape))
        self._add_bands(truth, found)
        for index in np.intersect1d(np.union1d(truth, found), np.arange(len(self._classes))):
            self._overlap[index] += _outline_overlap(truth, found, int(index))

    def _add_bands(self, truth: NDArray[np.uint8], found: NDArray[np.uint8]) -> None:
        codes = pair_codes(truth, found, len(self._classes))
        distance = boundary_distance(truth)
        near = (truth != IGNORE_INDEX) & (distance <= self._distances[-1] + _ROUNDING)
        codes, distance = codes[near], distance[near]
        band = np.zeros(codes.shape, np.intp)  # the first band that holds the pixel
        for limit in self._distances[:-1]:
            band += distance > limit + _ROUNDING
        shape = self._bands[0].counts.shape
        cells = shape[0] * shape[1]
        rings = np.bincount(band * cells + codes, minlength=len(self._bands) * cells)
        for matrix, counts in zip(self._bands, np.cumsum(rings.reshape(-1, *shape), axis=0), strict=True):
            matrix.counts += counts

    def scores(self) -> BoundaryScores:
        """Scores of the pictures so far."""
        intersection, union = self._overlap.T
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = np.where(union > 0, intersection / union, np.nan)
        bands = tuple(matrix.scores(self._classes) for matrix in self._bands)
        return BoundaryScores(self._classes, self._distances, bands, iou)


# OpenCV's distances are float32 and may be off in the last digits; the next distance above 400 is 400.001.
_ROUNDING = 5e-4


def boundary_distance(truth: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Euclidean distance in pixels to the nearest boundary pixel, [H, W] float32; inf without a boundary.

    Args:
        truth: [H, W] uint8 class indices, 255 = void.
    """
    import cv2

    edge = np.zeros(truth.shape, np.bool_)
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        a, b = truth[one], truth[other]
        change = (a != b) & (a != IGNORE_INDEX) & (b != IGNORE_INDEX)
        edge[one] |= change
        edge[other] |= change
    if not edge.any():
        return np.full(truth.shape, np.inf, np.float32)
    inside = (~edge).view(np.uint8)
    return np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _outline_overlap(truth: NDArray[np.uint8], found: NDArray[np.uint8], index: int) -> tuple[int, int]:
    import cv2

    width = max(1, round(DILATION * float(np.hypot(*truth.shape))))
    void = truth == IGNORE_INDEX
    outlines = []
    for classes in (truth, found):
        mask = ((classes == index) | void).view(np.uint8)
        core = cv2.erode(
            mask,
            np.ones((3, 3), np.uint8),
            iterations=width,
            borderType=cv2.BORDER_CONSTANT,
            borderValue=0,
        )
        outlines.append((mask > core) & ~void)
    return (
        int(np.count_nonzero(outlines[0] & outlines[1])),
        int(np.count_nonzero(outlines[0] | outlines[1])),
    )

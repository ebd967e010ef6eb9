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

OBJECT_DISTANCES = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Fractions of an object's size, the square root of its area. Distances in pixels depend on the resolution:
82% of the thing pixels of CamVid at 480x360 lie within 10 px of a boundary."""

DILATION = 0.02
"""Width of Boundary IoU's bands, as a fraction of the image diagonal (Cheng et al., CVPR 2021)."""


class BoundaryIouDict(TypedDict):
    """JSON form of the Boundary IoU."""

    mean_iou: float | None
    thing_iou: float | None
    stuff_iou: float | None
    iou: dict[str, float | None]


class _ObjectBandsDict(TypedDict, total=False):
    """Missing in results of earlier versions."""

    object_distances: list[float]
    object_bands: list[SemanticDict]


class BoundaryDict(_ObjectBandsDict):
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
        object_distances: [E] fractions of an object's size, ascending; empty in results of earlier versions.
        object_bands: [E] scores of the labeled pixels within each of them of an object's boundary.
    """

    classes: ClassTable
    distances: tuple[float, ...]
    bands: tuple[SemanticScores, ...]
    iou: NDArray[np.float64]
    object_distances: tuple[float, ...] = ()
    object_bands: tuple[SemanticScores, ...] = ()

    def to_dict(self) -> BoundaryDict:
        """Plain data for JSON; None where a class does not occur."""
        return {
            "distances": list(self.distances),
            "bands": [band.to_dict() for band in self.bands],
            "object_distances": list(self.object_distances),
            "object_bands": [band.to_dict() for band in self.object_bands],
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
            tuple(data.get("object_distances", ())),
            tuple(SemanticScores.from_dict(band, classes) for band in data.get("object_bands", ())),
        )


class BoundaryMetric:
    """Scores of the pixels near ground-truth boundaries.

    A boundary pixel has a 4-neighbor of another class in the ground truth; the pixels on both sides count.
    A class next to void (255) forms no boundary, since the class there is unknown. Distances are
    exact Euclidean distances to the nearest boundary pixel, so boundary pixels are at distance 0. The bands
    are nested, and each has one confusion matrix over all images.

    A second set of bands takes the distance to the boundary of an object, inside and outside, as a fraction
    of the object's size (see :func:`object_distance`).

    Boundary IoU follows Cheng et al. (CVPR 2021) on the mask of each class: it counts only the part of a mask
    within ``DILATION`` of the diagonal (chessboard distance) inside its own contour, in ground truth and
    prediction; the image border is part of the contour. Intersections and unions are summed over all
    images, as for the IoU. Void counts as inside of every mask, so that it creates no contour.

    Args:
        classes: class table of the dataset.
        distances: distances of the bands in pixels, ascending.
    """

    def __init__(self, classes: ClassTable, distances: Sequence[float] = DISTANCES) -> None:
        if not distances or list(distances) != sorted(set(distances)) or distances[0] < 0:
            raise InvalidInput("distances", expected="ascending and not negative", got=list(distances))
        self._classes = classes
        self._distances = tuple(distances)
        self._bands = [ConfusionMatrix(len(classes)) for _ in distances]
        self._object_bands = [ConfusionMatrix(len(classes)) for _ in OBJECT_DISTANCES]
        self._overlap = np.zeros((len(classes), 2), np.int64)  # intersection, union

    def add(self, sample: Sample, result: SegmentationResult) -> None:
        """Add one image.

        Raises:
            InvalidInput: the class maps have different sizes, or a value is not a class.
        """
        target, predicted = sample.semantic, result.semantic
        if target.shape != predicted.shape:
            raise InvalidInput("class map", expected=list(target.shape), got=list(predicted.shape))
        codes = pair_codes(target, predicted, len(self._classes))
        labeled = target != IGNORE_INDEX
        distance = boundary_distance(target)
        _add_bands(self._bands, codes[labeled], distance[labeled], self._distances, _ROUNDING)
        relative = object_distance(sample.instances)
        _add_bands(self._object_bands, codes[labeled], relative[labeled], OBJECT_DISTANCES, 0.0)
        for index in np.intersect1d(np.union1d(target, predicted), np.arange(len(self._classes))):
            self._overlap[index] += _contour_overlap(target, predicted, int(index))

    def scores(self) -> BoundaryScores:
        """Scores of the images so far."""
        intersection, union = self._overlap.T
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = np.where(union > 0, intersection / union, np.nan)
        bands = tuple(matrix.scores(self._classes) for matrix in self._bands)
        objects = tuple(matrix.scores(self._classes) for matrix in self._object_bands)
        return BoundaryScores(self._classes, self._distances, bands, iou, OBJECT_DISTANCES, objects)


# OpenCV's distances are float32 with rounding errors; the next possible distance above 400 is 400.001.
_ROUNDING = 5e-4


def _add_bands(
    bands: Sequence[ConfusionMatrix],
    codes: NDArray[np.int32],  # [N] pairs of classes
    distance: NDArray[np.float32],  # [N]
    limits: Sequence[float],
    rounding: float,
) -> None:
    near = distance <= limits[-1] + rounding
    codes, distance = codes[near], distance[near]
    band = np.zeros(codes.shape, np.intp)  # first band that contains the pixel
    for limit in limits[:-1]:
        band += distance > limit + rounding
    shape = bands[0].counts.shape
    cells = shape[0] * shape[1]
    rings = np.bincount(band * cells + codes, minlength=len(bands) * cells)
    for matrix, counts in zip(bands, np.cumsum(rings.reshape(-1, *shape), axis=0), strict=True):
        matrix.counts += counts


def object_distance(instances: NDArray[np.int32]) -> NDArray[np.float32]:
    """Distance of each pixel to the boundary of an object as a fraction of the object's size.

    Inside an object it is the distance to the nearest pixel outside it, outside it the distance to its
    nearest pixel, each less half a pixel and divided by the square root of the object's area; of several
    objects the least counts. The image border is no boundary.

    Args:
        instances: [H, W] object ids, 0 = none.

    Returns:
        [H, W] float32; inf where every object is farther than the last of OBJECT_DISTANCES.
    """
    import cv2

    nearest = np.full(instances.shape, np.inf, np.float32)
    for ident in np.unique(instances[instances > 0]):
        mask = instances == ident
        size = float(np.sqrt(np.count_nonzero(mask)))
        reach = int(np.ceil(OBJECT_DISTANCES[-1] * size)) + 2
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        window = (
            slice(max(rows[0] - reach, 0), rows[-1] + reach + 1),
            slice(max(columns[0] - reach, 0), columns[-1] + reach + 1),
        )
        inside = mask[window].view(np.uint8)
        if inside.all():
            continue
        # One of the two distances is 0 at every pixel.
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        distance = distance + cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        np.minimum(nearest[window], (distance - 0.5) / size, out=nearest[window])
    nearest[nearest > OBJECT_DISTANCES[-1]] = np.inf
    return nearest


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

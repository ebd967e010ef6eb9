# SPDX-License-Identifier: Apache-2.0
"""Semantic scores from one global confusion matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.errors import InvalidInput
from imp_trt.metrics.per_class import ClassIou, finite, known_mean, named, number, unnamed
from imp_trt.results.result import SegmentationResult


class _ScoresDict(TypedDict):
    """What is always there."""

    mean_iou: float | None
    thing_iou: float | None
    stuff_iou: float | None
    mean_accuracy: float | None
    pixel_accuracy: float | None
    iou: dict[str, float | None]
    accuracy: dict[str, float | None]


class SemanticDict(_ScoresDict, total=False):
    """JSON form of :class:`SemanticScores`; confusion only where it was kept."""

    confusion: list[list[int]]


@dataclass(frozen=True, eq=False)
class SemanticScores(ClassIou):
    """Scores of class maps against the ground truth, in 0-1.

    A network without a semantic head (mask-rcnn-imp) predicts things and one background class only: all
    other stuff classes score 0, which lowers ``mean_iou``. Compare such a network by ``thing_iou``.

    Attributes:
        classes: class table of the values.
        iou: [K] float64, intersection over union; NaN for a class in neither ground truth nor prediction.
        accuracy: [K] float64, recall; NaN for a class that does not occur in the ground truth.
        pixel_accuracy: fraction of labeled pixels that are correct; NaN without labeled pixels.
        confusion: [K, K + 1] int64 pixels, as :attr:`ConfusionMatrix.counts`; None if not kept.
        image_counts: [N, 3, K] int64 pixels of each image: of the class, predicted as it, and both; None if
            not kept. Not part of the JSON form; imp-eval --image-counts writes it.
    """

    classes: ClassTable
    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    pixel_accuracy: float
    confusion: NDArray[np.int64] | None = None
    image_counts: NDArray[np.int64] | None = None

    @classmethod
    def from_image_counts(cls, counts: NDArray[np.integer], classes: ClassTable) -> SemanticScores:
        """Scores of all images together.

        Args:
            counts: [N, 3, K] integers, as :attr:`image_counts`, such as those of imp-eval --image-counts.
            classes: class table of the K values.

        Raises:
            InvalidInput: another shape or type, or a count that the others contradict.
        """
        found = np.asarray(counts)
        shape = ("N", 3, len(classes))
        if found.ndim != 3 or found.shape[1:] != shape[1:] or not np.issubdtype(found.dtype, np.integer):
            raise InvalidInput(
                "image counts", expected=f"integers {shape}", got=f"{found.dtype} {list(found.shape)}"
            )
        images = found.astype(np.int64)
        if (images < 0).any() or (images[:, 2:] > images[:, :2]).any():
            raise InvalidInput(
                "image counts",
                expected="pixels of the class, predicted as it, and both",
                got="both above one",
            )
        return replace(_scores(images.sum(axis=0), classes), image_counts=images)

    @property
    def mean_accuracy(self) -> float:
        """Mean over the classes that occur in the ground truth."""
        return known_mean(self.accuracy)

    def to_dict(self) -> SemanticDict:
        """Plain data for JSON; None where a class does not occur."""
        data: SemanticDict = {
            "mean_iou": finite(self.mean_iou),
            "thing_iou": finite(self.thing_iou),
            "stuff_iou": finite(self.stuff_iou),
            "mean_accuracy": finite(self.mean_accuracy),
            "pixel_accuracy": finite(self.pixel_accuracy),
            "iou": named(self.classes.names, self.iou),
            "accuracy": named(self.classes.names, self.accuracy),
        }
        if self.confusion is not None:
            data["confusion"] = self.confusion.tolist()
        return data

    @classmethod
    def from_dict(cls, data: SemanticDict, classes: ClassTable) -> SemanticScores:
        """Inverse of :meth:`to_dict`; means are recomputed.

        KeyError if a class is missing, ValueError if the confusion matrix has another shape.
        """
        confusion = None
        if "confusion" in data:
            confusion = np.array(data["confusion"], np.int64)
            if confusion.shape != (len(classes), len(classes) + 1):
                raise ValueError(f"confusion matrix of shape {list(confusion.shape)}")
        return cls(
            classes,
            unnamed(classes.names, data["iou"]),
            unnamed(classes.names, data["accuracy"]),
            number(data["pixel_accuracy"]),
            confusion,
        )


class ConfusionMatrix:
    """Counts of (true class, predicted class) over any number of class maps.

    Args:
        classes: number of classes K.

    Attributes:
        counts: [K, K + 1] int64, row = ground truth, column = prediction; the last column counts the labeled
            pixels that were predicted as 255 (no class).
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes + 1), np.int64)

    def add(self, target: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """Add one pair of maps [H, W]; pixels whose target is 255 are ignored.

        Raises:
            InvalidInput: sizes differ, or a value is neither below K nor 255.
        """
        if target.shape != predicted.shape:
            raise InvalidInput("class map", expected=list(target.shape), got=list(predicted.shape))
        codes, size = pair_codes(target, predicted, len(self.counts)), self.counts.size
        self.counts += np.bincount(codes[target != IGNORE_INDEX], minlength=size).reshape(self.counts.shape)

    def marginals(self) -> NDArray[np.int64]:
        """Pixels [3, K]: of each class in the ground truth, predicted as it, and both."""
        return np.stack((self.counts.sum(axis=1), self.counts.sum(axis=0)[:-1], np.diag(self.counts)))

    def scores(self, classes: ClassTable) -> SemanticScores:
        """Scores of all maps so far."""
        return _scores(self.marginals(), classes)


def _scores(marginals: NDArray[np.int64], classes: ClassTable) -> SemanticScores:
    """Scores from pixels [3, K], as :meth:`ConfusionMatrix.marginals`."""
    true, predicted, hits = marginals
    total = true.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        union = true + predicted - hits
        iou = np.where(union > 0, hits / union, np.nan)
        accuracy = np.where(true > 0, hits / true, np.nan)
    return SemanticScores(classes, iou, accuracy, float(hits.sum() / total) if total else math.nan)


class SemanticMetric:
    """Semantic scores from one confusion matrix over all images."""

    def __init__(self, classes: ClassTable) -> None:
        self._classes = classes
        self._matrix = ConfusionMatrix(len(classes))
        self._images: list[NDArray[np.int64]] = []

    def add(self, sample: Sample, result: SegmentationResult) -> None:
        """Add one image."""
        image = ConfusionMatrix(len(self._classes))
        image.add(sample.semantic, result.semantic)
        self._matrix.counts += image.counts
        self._images.append(image.marginals())

    def scores(self) -> SemanticScores:
        """Scores of the images so far, with their confusion matrix and the counts of each image."""
        images = np.array(self._images, np.int64).reshape(-1, 3, len(self._classes))
        confusion = self._matrix.counts.copy()
        return replace(self._matrix.scores(self._classes), confusion=confusion, image_counts=images)


def pair_codes(target: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> NDArray[np.int32]:
    """Flat index [H, W] of each pixel in a confusion matrix [K, K + 1]; undefined where the target is 255.

    Raises:
        InvalidInput: a value is neither below K nor 255.
    """
    for values in (target, predicted):
        present = np.flatnonzero(np.bincount(values.ravel(), minlength=IGNORE_INDEX))
        invalid = present[(present >= classes) & (present != IGNORE_INDEX)]
        if invalid.size:
            raise InvalidInput("class map", expected=f"values below {classes}, or 255", got=int(invalid[-1]))
    codes = target.astype(np.int32) * (classes + 1)
    codes += np.minimum(predicted, classes)
    return codes

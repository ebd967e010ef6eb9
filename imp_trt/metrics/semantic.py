"""Semantic scores from one global confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.errors import InvalidInput
from imp_trt.metrics.per_class import ClassIou, finite, known_mean, named, number, unnamed
from imp_trt.results.result import SegmentationResult


@dataclass(frozen=True, eq=False)
class SemanticScores(ClassIou):
    """Scores of a class map against the truth, in 0-1.

    A network without a semantic head (mask-rcnn-imp) predicts things and one background class only: every
    other stuff class scores 0 and pulls ``mean_iou`` down. Compare such a network by ``thing_iou``.

    Attributes:
        classes: what the positions mean.
        iou: [K] float64, intersection over union; NaN for a class in neither truth nor prediction.
        accuracy: [K] float64, recall; NaN for a class that does not occur in the truth.
        pixel_accuracy: share of labeled pixels that are right; NaN without any.
    """

    classes: ClassTable
    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    pixel_accuracy: float

    @property
    def mean_accuracy(self) -> float:
        """Mean over the classes that occur in the truth."""
        return known_mean(self.accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; None where a class does not occur."""
        return {
            "mean_iou": finite(self.mean_iou),
            "thing_iou": finite(self.thing_iou),
            "stuff_iou": finite(self.stuff_iou),
            "mean_accuracy": finite(self.mean_accuracy),
            "pixel_accuracy": finite(self.pixel_accuracy),
            "iou": named(self.classes.names, self.iou),
            "accuracy": named(self.classes.names, self.accuracy),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], classes: ClassTable) -> SemanticScores:
        """Inverse of :meth:`to_dict`; the means are computed anew. KeyError where a class is missing."""
        return cls(
            classes,
            unnamed(classes.names, data["iou"]),
            unnamed(classes.names, data["accuracy"]),
            number(data["pixel_accuracy"]),
        )


class ConfusionMatrix:
    """Counts of (true class, predicted class) over any number of class maps.

    Args:
        classes: number of classes K.

    Attributes:
        counts: [K, K + 1] int64, row = truth, column = prediction; the last column counts the labeled
            pixels that were predicted as 255, that is, as no class.
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes + 1), np.int64)

    def add(self, truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """Count one pair of maps [H, W]; pixels whose truth is 255 are left out.

        Raises:
            InvalidInput: sizes differ, or a value is neither below K nor 255.
        """
        if truth.shape != predicted.shape:
            raise InvalidInput("class map", expected=list(truth.shape), got=list(predicted.shape))
        codes, size = pair_codes(truth, predicted, len(self.counts)), self.counts.size
        self.counts += np.bincount(codes[truth != IGNORE_INDEX], minlength=size).reshape(self.counts.shape)

    def scores(self, classes: ClassTable) -> SemanticScores:
        """Scores of everything counted so far."""
        hits = np.diag(self.counts).astype(np.float64)
        true, found = self.counts.sum(axis=1), self.counts.sum(axis=0)[:-1]
        total = self.counts.sum()
        with np.errstate(invalid="ignore", divide="ignore"):
            union = true + found - hits
            iou = np.where(union > 0, hits / union, np.nan)
            accuracy = np.where(true > 0, hits / true, np.nan)
        return SemanticScores(classes, iou, accuracy, float(hits.sum() / total) if total else math.nan)


class SemanticMeasure:
    """Scores of the class maps, over all pictures together."""

    def __init__(self, classes: ClassTable) -> None:
        self._classes = classes
        self._matrix = ConfusionMatrix(len(classes))

    def add(self, sample: Sample, result: SegmentationResult) -> None:
        """Count one picture."""
        self._matrix.add(sample.semantic, result.semantic)

    def scores(self) -> SemanticScores:
        """Scores of the pictures so far."""
        return self._matrix.scores(self._classes)


def pair_codes(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> NDArray[np.int32]:
    """Position of each pixel [H, W] in a confusion matrix [K, K + 1]; of no meaning where the truth is 255.

    Raises:
        InvalidInput: a value is neither below K nor 255.
    """
    for values in (truth, predicted):
        seen = np.flatnonzero(np.bincount(values.ravel(), minlength=IGNORE_INDEX))
        wrong = seen[(seen >= classes) & (seen != IGNORE_INDEX)]
        if wrong.size:
            raise InvalidInput("class map", expected=f"values below {classes}, or 255", got=int(wrong[-1]))
    codes = truth.astype(np.int32) * (classes + 1)
    codes += np.minimum(predicted, classes)
    return codes

"""Semantic scores from one global confusion matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.train.dataset import Dataset


@dataclass(frozen=True)
class SemanticScores:
    """Scores of a class map against the truth, in 0-1.

    Attributes:
        classes: what the positions mean.
        iou: [K] intersection over union; NaN for a class that occurs neither in truth nor prediction.
        accuracy: [K] recall; NaN for a class that does not occur in the truth.
        pixel_accuracy: share of labelled pixels that are right.
    """

    classes: ClassTable
    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    pixel_accuracy: float

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur."""
        return _mean(self.iou)

    @property
    def mean_accuracy(self) -> float:
        """Mean over the classes that occur in the truth."""
        return _mean(self.accuracy)

    @property
    def thing_iou(self) -> float:
        """Mean IoU of the thing classes that occur."""
        return _mean(self.iou[list(self.classes.things)])

    @property
    def stuff_iou(self) -> float:
        """Mean IoU of the stuff classes that occur."""
        return _mean(self.iou[list(self.classes.stuff)])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; None where a class does not occur."""
        return {
            "mean_iou": _json(self.mean_iou),
            "thing_iou": _json(self.thing_iou),
            "stuff_iou": _json(self.stuff_iou),
            "mean_accuracy": _json(self.mean_accuracy),
            "pixel_accuracy": _json(self.pixel_accuracy),
            "iou": {n: _json(float(v)) for n, v in zip(self.classes.names, self.iou, strict=True)},
        }


class ConfusionMatrix:
    """Counts of (true class, predicted class) over any number of class maps.

    Args:
        classes: number of classes K.
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)  # [true, predicted]

    def add(self, truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """Count one pair of maps [H, W]; pixels whose truth is 255 are left out.

        Raises:
            InvalidInput: sizes differ, or a value is neither below K nor an ignored truth.
        """
        classes = len(self.counts)
        if truth.shape != predicted.shape:
            raise InvalidInput("class map", expected=list(truth.shape), got=list(predicted.shape))
        seen = truth != IGNORE_INDEX
        true, found = truth[seen].astype(np.int64), predicted[seen].astype(np.int64)
        if true.size and max(true.max(), found.max()) >= classes:
            raise InvalidInput(
                "class map", expected=f"values below {classes}", got=int(max(true.max(), found.max()))
            )
        self.counts += np.bincount(true * classes + found, minlength=classes**2).reshape(classes, classes)

    def scores(self, classes: ClassTable) -> SemanticScores:
        """Scores of everything counted so far."""
        hits = np.diag(self.counts).astype(np.float64)
        true, found = self.counts.sum(axis=1), self.counts.sum(axis=0)
        union = true + found - np.diag(self.counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = np.where(union > 0, hits / union, np.nan)
            accuracy = np.where(true > 0, hits / true, np.nan)
        return SemanticScores(classes, iou, accuracy, float(hits.sum() / max(1, self.counts.sum())))


def evaluate(
    predict: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    dataset: Dataset,
    limit: int | None = None,
    on_image: Callable[[int], None] | None = None,
) -> SemanticScores:
    """Score a predictor on a data set.

    Args:
        predict: frame [H, W, 3] uint8 BGR -> class map [H, W] uint8.
        dataset: labelled pictures.
        limit: only the first so many.
        on_image: called with the number of finished pictures.
    """
    matrix = ConfusionMatrix(len(dataset.classes))
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for index in range(count):
        sample = dataset[index]
        matrix.add(sample.semantic, predict(sample.image))
        if on_image is not None:
            on_image(index + 1)
    return matrix.scores(dataset.classes)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _json(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 5)

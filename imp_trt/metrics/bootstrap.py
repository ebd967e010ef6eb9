# SPDX-License-Identifier: Apache-2.0
"""How far the difference of two models depends on which images were drawn: paired bootstrap over images.

Efron, Tibshirani, *An Introduction to the Bootstrap*, 1993 (percentile intervals).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import InvalidInput
from imp_trt.metrics.per_class import finite
from imp_trt.metrics.semantic import SemanticScores

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A difference and its confidence interval, all in 0-1; NaN if there are no such classes."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain data for JSON."""
        return {"value": finite(self.value), "low": finite(self.low), "high": finite(self.high)}


def bootstrap_differences(
    model: SemanticScores,
    baseline: SemanticScores,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Interval]:
    """Model minus baseline: "mean_iou", "thing_iou" and "stuff_iou", each with its interval.

    Images are drawn with replacement, the same ones for both models, and the IoU is computed anew from the
    pixels of the drawn images. The interval covers the choice of images, not that of the training's seed, and
    is too narrow where images resemble each other, such as the frames of one drive.

    Args:
        model, baseline: scores of :class:`SemanticMetric` on the same images, in the same order.
        resamples: number of draws.
        confidence: fraction of the draws within the interval.
        seed: of the draws.

    Raises:
        InvalidInput: the counts of single images were not kept, or images or classes differ.
    """
    ours, theirs = model.image_counts, baseline.image_counts
    if ours is None or theirs is None or not len(ours):
        raise InvalidInput("scores", expected="scores of a SemanticMetric with images", got="no image counts")
    if model.classes != baseline.classes or not np.array_equal(ours[:, 0], theirs[:, 0]):
        raise InvalidInput("scores", expected="the same images and classes", got="others")
    images = len(ours)
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)
    groups = {
        "mean_iou": list(range(len(model.classes))),
        "thing_iou": list(model.classes.things),
        "stuff_iou": list(model.classes.stuff),
    }
    tails = 50 * (1 - confidence), 50 * (1 + confidence)
    found = {}
    for name, group in groups.items():
        differences = _means(drawn, ours[:, :, group]) - _means(drawn, theirs[:, :, group])
        known = differences[~np.isnan(differences)]
        low, high = np.percentile(known, tails) if known.size else (np.nan, np.nan)
        value = getattr(model, name) - getattr(baseline, name)
        found[name] = Interval(float(value), float(low), float(high))
    return found


def _means(drawn: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean IoU [R] of each draw, over the classes that occur in it; NaN where none does.

    Args:
        drawn: [R, N] how often each image was drawn.
        counts: [N, 3, K] as :attr:`SemanticScores.image_counts`.
    """
    sums = (drawn.astype(np.float64) @ counts.reshape(len(counts), -1)).reshape(len(drawn), 3, -1)
    true, predicted, hits = sums[:, 0], sums[:, 1], sums[:, 2]
    union = true + predicted - hits
    occurs = union > 0
    iou = np.divide(hits, union, out=np.zeros_like(union), where=occurs)
    classes = occurs.sum(axis=1)
    means = np.full(len(drawn), np.nan)
    np.divide(iou.sum(axis=1), classes, out=means, where=classes > 0)
    return means

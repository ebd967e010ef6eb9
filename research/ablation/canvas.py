# SPDX-License-Identifier: Apache-2.0
"""Recall and precision of the canvas: the detector's quality as seen by the semantic head."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.results.result import SegmentationResult

SCALE = 0.25
"""Resolution of the canvas relative to the frame (paper, section 3.1)."""

THRESHOLD = 0.5
"""Score times mask probability above which a canvas cell counts as predicted."""


class CanvasMetric:
    """Accumulates recall and precision of the canvas against the ground truth over a dataset.

    The ground truth is sampled at the center of each canvas cell; void pixels are ignored.

    Args:
        classes: class table of the dataset.
    """

    def __init__(self, classes: ClassTable) -> None:
        self._classes = classes
        self._counts = np.zeros((3, len(classes.things)), np.int64)  # both, true, predicted

    def add(self, sample: Sample, result: SegmentationResult) -> None:
        """Add one image."""
        canvas = result.canvas(SCALE)  # [T, h, w] float32
        target = _cell_centers(sample.semantic, canvas.shape[1:])
        labeled = target != 255
        for channel, label in enumerate(self._classes.things):
            true = target == label
            predicted = (canvas[channel] > THRESHOLD) & labeled
            self._counts[:, channel] += (
                np.count_nonzero(true & predicted),
                np.count_nonzero(true),
                np.count_nonzero(predicted),
            )

    def scores(self) -> dict[str, object]:
        """Scores as plain data: "recall", the fraction of thing cells whose own channel is above THRESHOLD;
        "precision", the fraction of cells above THRESHOLD that have the channel's class; both also per class.
        None for 0 / 0.
        """
        both, true, predicted = self._counts
        names = [self._classes.names[t] for t in self._classes.things]
        return {
            "threshold": THRESHOLD,
            "recall": _share(both.sum(), true.sum()),
            "precision": _share(both.sum(), predicted.sum()),
            "per_class": {
                name: {"recall": _share(b, t), "precision": _share(b, s)}
                for name, b, t, s in zip(names, both, true, predicted, strict=True)
            },
        }


def _cell_centers(semantic: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    # semantic [H, W] -> [h, w]
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) / SCALE).astype(np.intp), limit - 1)
        for n, limit in zip(size, semantic.shape, strict=True)
    )
    return semantic[np.ix_(rows, columns)]


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None

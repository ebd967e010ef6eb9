# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality (Kirillov et al., CVPR 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.metrics.per_class import finite, known_mean
from imp_trt.results.result import SegmentationResult


class Quality(NamedTuple):
    """PQ = SQ * RQ of one class, or the mean of each over classes; 0-1, NaN if the class does not occur."""

    pq: float
    sq: float
    rq: float


class QualityDict(TypedDict):
    """JSON form of :class:`Quality`."""

    pq: float | None
    sq: float | None
    rq: float | None


class ClassQualityDict(QualityDict):
    """JSON form of the quality and the counts of one class."""

    iou: float
    matched: int
    spurious: int
    missed: int


class PanopticDict(TypedDict):
    """JSON form of :class:`PanopticScores`."""

    all: QualityDict
    things: QualityDict
    stuff: QualityDict
    per_class: dict[str, ClassQualityDict]


@dataclass(frozen=True, eq=False)
class PanopticScores:
    """Counts of matched and unmatched segments, and the resulting quality.

    Attributes:
        classes: class table of the values.
        iou: [K] float64, sum of the IoU of the matched pairs.
        matched: [K] int64 true positives.
        spurious: [K] int64 false positives.
        missed: [K] int64 false negatives.
    """

    classes: ClassTable
    iou: NDArray[np.float64]
    matched: NDArray[np.int64]
    spurious: NDArray[np.int64]
    missed: NDArray[np.int64]

    def of(self, index: int) -> Quality:
        """Quality of one class; NaN for a class in neither ground truth nor prediction."""
        matched = int(self.matched[index])
        weight = matched + (int(self.spurious[index]) + int(self.missed[index])) / 2
        if not weight:
            return Quality(math.nan, math.nan, math.nan)
        total = float(self.iou[index])
        return Quality(total / weight, total / matched if matched else 0.0, matched / weight)

    def mean(self, indices: Sequence[int]) -> Quality:
        """Means over those of the given classes that occur."""
        values = np.array([self.of(i) for i in indices], np.float64).reshape(-1, 3)
        return Quality(*(known_mean(column) for column in values.T))

    @property
    def all(self) -> Quality:
        """Means over all classes that occur."""
        return self.mean(range(len(self.classes)))

    @property
    def things(self) -> Quality:
        """Means over the thing classes that occur."""
        return self.mean(self.classes.things)

    @property
    def stuff(self) -> Quality:
        """Means over the stuff classes that occur."""
        return self.mean(self.classes.stuff)

    def to_dict(self) -> PanopticDict:
        """Plain data for JSON; None for NaN."""
        return {
            "all": _plain(self.all),
            "things": _plain(self.things),
            "stuff": _plain(self.stuff),
            "per_class": {
                name: {
                    **_plain(self.of(index)),
                    "iou": float(self.iou[index]),
                    "matched": int(self.matched[index]),
                    "spurious": int(self.spurious[index]),
                    "missed": int(self.missed[index]),
                }
                for index, name in enumerate(self.classes.names)
            },
        }

    @classmethod
    def from_dict(cls, data: PanopticDict, classes: ClassTable) -> PanopticScores:
        """Inverse of :meth:`to_dict`; KeyError if a class is missing."""
        rows = [data["per_class"][name] for name in classes.names]
        iou = np.array([row["iou"] for row in rows], np.float64)
        counts = np.array([(row["matched"], row["spurious"], row["missed"]) for row in rows], np.int64)
        return cls(classes, iou, *counts.reshape(-1, 3).T)


class PanopticMetric:
    """Panoptic quality over all images; :func:`imp_trt.results.panoptic.fuse_panoptic` fuses results.

    A predicted and a ground-truth segment match if they have the same class and an IoU above 0.5; void
    pixels (255) of the ground truth do not count in the union. Pixels of a thing class without an instance
    number (crowds, parts too small to be numbered) form one crowd region per class and image, which never
    counts as missed. An unmatched segment is not a false positive if more than half of it lies on void and on
    the crowd region of its class. These are the rules of the evaluation code of COCO and Cityscapes.

    Args:
        classes: class table of the dataset.
        min_score, max_covered, min_stuff_area: see :func:`imp_trt.results.panoptic.fuse_panoptic`.
    """

    def __init__(
        self,
        classes: ClassTable,
        *,
        min_score: float = 0.5,
        max_covered: float = 0.5,
        min_stuff_area: int = 0,
    ) -> None:
        self._classes = classes
        self._min_score = min_score
        self._max_covered = max_covered
        self._min_stuff_area = min_stuff_area
        self._iou = np.zeros(len(classes))
        self._counts = np.zeros((3, len(classes)), np.int64)  # matched, spurious, missed

    def add(self, sample: Sample, result: SegmentationResult) -> None:
        """Add one image."""
        fused = result.panoptic(self._min_score, self._max_covered, self._min_stuff_area)
        true_ids, true_labels, crowds = _true_segments(sample, self._classes)
        labels = np.array([s.label for s in fused.segments], np.int64)
        # [target, predicted] pixels; row 0 is void in the ground truth, column 0 void in the prediction.
        columns = len(labels) + 1
        cells = true_ids.astype(np.intp) * columns + fused.ids
        common = np.bincount(cells.ravel(), minlength=(len(true_labels) + 1) * columns).reshape(-1, columns)
        true_area, predicted_area = common.sum(axis=1), common.sum(axis=0)
        union = true_area[1:, None] + predicted_area[None, 1:] - common[1:, 1:] - common[0, 1:]
        countable = ~crowds[:, None] & (true_labels[:, None] == labels[None, :])
        # 2 * common > union is IoU > 0.5 in integers; at most one segment can satisfy it.
        rows, matches = np.nonzero(countable & (2 * common[1:, 1:] > union))
        np.add.at(self._iou, labels[matches], common[1:, 1:][rows, matches] / union[rows, matches])
        np.add.at(self._counts[0], labels[matches], 1)
        excused = common[0, 1:].copy()
        for row in np.flatnonzero(crowds):
            excused += np.where(labels == true_labels[row], common[row + 1, 1:], 0)
        spurious = 2 * excused <= predicted_area[1:]
        spurious[matches] = False
        np.add.at(self._counts[1], labels[spurious], 1)
        missed = ~crowds
        missed[rows] = False
        np.add.at(self._counts[2], true_labels[missed], 1)

    def scores(self) -> PanopticScores:
        """Scores of the images so far."""
        return PanopticScores(self._classes, self._iou.copy(), *self._counts.copy())


def _true_segments(
    sample: Sample, classes: ClassTable
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Ground-truth segments: ids [H, W] int32 (0 = void), labels [S] and crowd flags [S] of ids 1 to S."""
    semantic, void = sample.semantic, sample.semantic == IGNORE_INDEX
    # One key per segment: the instance number offset past all classes, or the class itself.
    keys = np.where(sample.instances > 0, sample.instances.astype(np.int64) + IGNORE_INDEX, semantic)
    keys[void] = -1
    values, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    ids = inverse.reshape(semantic.shape)
    if values[0] == -1:
        values, first = values[1:], first[1:]
    else:
        ids = ids + 1
    labels = semantic.ravel()[first].astype(np.int64)
    crowds = (values < IGNORE_INDEX) & np.isin(labels, classes.things)
    return ids.astype(np.int32), labels, crowds


def _plain(quality: Quality) -> QualityDict:
    return {"pq": finite(quality.pq), "sq": finite(quality.sq), "rq": finite(quality.rq)}

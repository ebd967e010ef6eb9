# SPDX-License-Identifier: Apache-2.0
"""Detections corrected step by step to the ground truth: what each of their faults costs the class map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.ops import box_iou

from research.ablation.canvas_override import CanvasChange, Drawn

MIN_IOU = 0.5
"""Of the boxes of a detection and of the object that it is taken for."""


@dataclass(frozen=True)
class _Matched:
    """Detections that stand for an object.

    Attributes:
        detections: [M] int64 indices, in the order of the scores.
        objects: [M] int64, the object of each.
    """

    detections: Tensor
    objects: Tensor


def match(detected: Drawn, truth: Drawn) -> _Matched:
    """One detection per object, the one with the highest score first, whatever its class.

    Of the objects with a box IoU of MIN_IOU or more that are left, a detection stands for the one with the
    highest IoU. A second detection of an object is false.
    """
    overlap = box_iou(detected.boxes, truth.boxes)  # [N, K]
    pairs = []
    for index in detected.scores.argsort(descending=True, stable=True).tolist():
        if not overlap.shape[1]:
            break
        best = int(overlap[index].argmax())
        if overlap[index, best] >= MIN_IOU:
            pairs.append((index, best))
            overlap[:, best] = -1.0
    found = torch.tensor(pairs, dtype=torch.int64, device=truth.labels.device).reshape(-1, 2)
    return _Matched(found[:, 0], found[:, 1])


def _chosen(drawn: Drawn, index: Tensor) -> Drawn:
    return Drawn(drawn.boxes[index], drawn.scores[index], drawn.labels[index], drawn.masks[index])


def _own(detected: Drawn, truth: Drawn) -> Drawn:
    return detected


def _without_false(detected: Drawn, truth: Drawn) -> Drawn:
    return _chosen(detected, match(detected, truth).detections)


def _true_class(detected: Drawn, truth: Drawn) -> Drawn:
    labels = truth.labels[match(detected, truth).objects]
    return replace(_without_false(detected, truth), labels=labels)


def _full_score(detected: Drawn, truth: Drawn) -> Drawn:
    drawn = _true_class(detected, truth)
    return replace(drawn, scores=torch.ones_like(drawn.scores))


def _true_mask(detected: Drawn, truth: Drawn) -> Drawn:
    return _chosen(truth, match(detected, truth).objects)


def _all_objects(detected: Drawn, truth: Drawn) -> Drawn:
    return truth


CORRECTIONS: Mapping[str, CanvasChange] = {
    "the network's own": _own,
    "without false detections": _without_false,
    "with the true class": _true_class,
    "at score 1": _full_score,
    "with the true box and mask": _true_mask,
    "and the missed objects: the oracle canvas": _all_objects,
}
"""Each contains the ones before it."""

# SPDX-License-Identifier: Apache-2.0
"""Results as data for JSON and as NumPy archives."""

from __future__ import annotations

import io
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.results.instances import Instances

_InstanceDict = TypedDict("_InstanceDict", {"class": str, "label": int, "score": float, "box": list[float]})


class InstanceDict(_InstanceDict, total=False):
    """One instance of :meth:`SegmentationResult.to_dict`.

    ``box`` is xyxy in pixels of the frame; ``track_id`` is there for results of a tracker, null for an object
    that is not tracked. ``age`` is there for frames of a video on which the detector does not always run:
    frames since the object was detected.
    """

    track_id: int | None
    age: int


class _ResultDict(TypedDict):
    height: int
    width: int
    classes: dict[str, float]
    instances: list[InstanceDict]
    timing_ms: dict[str, float]


class ResultDict(_ResultDict, total=False):
    """What :meth:`SegmentationResult.to_dict` returns; classes maps names to fractions of the frame.

    ``canvas_age`` is there if the result has one.
    """

    canvas_age: int


def instance_dict(instances: Instances, i: int, classes: ClassTable) -> InstanceDict:
    """Instance i as data for JSON."""
    label = int(instances.labels[i])
    data: InstanceDict = {
        "class": classes.names[label],
        "label": label,
        "score": round(float(instances.scores[i]), 4),
        "box": [round(float(v), 2) for v in instances.boxes[i]],
    }
    if instances.track_ids is not None:
        track = int(instances.track_ids[i])
        data["track_id"] = track if track >= 0 else None
    if instances.ages is not None:
        data["age"] = int(instances.ages[i])
    return data


def npz_bytes(semantic: NDArray[np.uint8], instances: Instances, classes: ClassTable) -> bytes:
    """All arrays of a result as a compressed .npz archive, and how its masks are sampled."""
    arrays: dict[str, NDArray[np.generic]] = {
        "semantic": semantic,
        "boxes": instances.boxes,
        "labels": instances.labels,
        "scores": instances.scores,
        "masks": instances.masks,
        "mask_boxes": instances.boxes if instances.mask_boxes is None else instances.mask_boxes,
        "sampling": np.array(instances.sampling),
        "names": np.array(classes.names),
    }
    if instances.track_ids is not None:
        arrays["track_ids"] = instances.track_ids
    if instances.ages is not None:
        arrays["ages"] = instances.ages
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()

# SPDX-License-Identifier: Apache-2.0
"""Looks at label maps before they are used: without labels or things, of blended values, absent classes."""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX
from imp_trt.data.dataset import Dataset
from imp_trt.errors import DatasetError
from imp_trt.train.datasets.blending import MIN_SHARE, BlendedBoundaries
from imp_trt.train.datasets.dropped import named, report_absent, report_empty

LIMIT = 200
"""Number of evenly spaced label maps that are looked at; more only while none has labels or things."""

_log = logging.getLogger(__name__)


@runtime_checkable
class LabelMapDataset(Protocol):
    """A dataset of label maps, which can be read without their images.

    Attributes:
        min_area: things with fewer pixels are not instances.
    """

    min_area: int

    def label_map(self, index: int) -> NDArray[np.uint8]:
        """Class map [H, W], 255 = ignore."""
        ...

    def label_name(self, index: int) -> str:
        """Name of the label map in messages."""
        ...


def check_label_maps(dataset: Dataset) -> None:
    """Log label maps that are ignored as a whole or show no thing, maps that were resized with interpolation,
    and classes that none shows.

    Label maps that cannot be read are left to the access to their sample.

    Raises:
        DatasetError: every pixel of every label map is ignored.
    """
    if not isinstance(dataset, LabelMapDataset) or not len(dataset):
        return
    areas = np.zeros(256, np.int64)
    void: list[str] = []
    without_things: list[str] = []
    looked_at, things = 0, list(dataset.classes.things)
    boundaries = BlendedBoundaries()
    try:
        for index in _spread(len(dataset)):
            if looked_at >= LIMIT and len(void) < looked_at and (not things or areas[things].any()):
                break
            label_map = dataset.label_map(index)
            boundaries.add(label_map)
            counts = np.bincount(label_map.ravel(), minlength=256)
            looked_at += 1
            areas += counts
            if counts[IGNORE_INDEX] == counts.sum():
                void.append(dataset.label_name(index))
            elif things and counts[things].max() < max(1, dataset.min_area):
                without_things.append(dataset.label_name(index))
    except DatasetError:
        return
    where = f"dataset {dataset.name}"
    if len(void) == looked_at:
        raise DatasetError(
            where,
            expected="label maps with classes",
            got=f"{looked_at} label maps of which every pixel is ignored: {named(void)}",
            fix="check the label values, and ignore_index and groups in dataset.json",
        )
    report_empty(where, void, looked_at, "labels: every pixel is ignored")
    if len(void) + len(without_things) == looked_at and things:
        _log.warning(
            "%s: none of %d label maps shows an object of %d pixels or more of a thing class (%s)",
            where,
            looked_at,
            max(1, dataset.min_area),
            named(dataset.classes.names[thing] for thing in things),
        )
    else:
        report_empty(where, without_things, looked_at, "objects")
    if boundaries.share >= MIN_SHARE:
        _log.warning(
            "%s: %.0f%% of the class boundaries have a pixel of a third class between the two, as after a "
            "resize with interpolation, which makes classes that are not there; resize label maps with "
            "nearest neighbor",
            where,
            100 * boundaries.share,
        )
    if looked_at == len(dataset):
        report_absent(where, [n for k, n in enumerate(dataset.classes.names) if not areas[k]])


def require_objects(dataset: Dataset) -> None:
    """Require that a detector has something to learn: an instance in a sample.

    Raises:
        DatasetError: no sample has an instance.
    """
    for index in _spread(len(dataset)):  # usually the first sample has one
        if dataset[index].instances.any():
            return
    raise DatasetError(
        f"dataset {dataset.name}",
        expected=f"objects of {named(dataset.classes.names[thing] for thing in dataset.classes.things)}",
        got=f"none in {len(dataset)} samples",
        fix="label objects, or train a system without detector (--system semantic-fpn)",
    )


def _spread(length: int) -> list[int]:
    """All positions, those of an evenly spaced subset first."""
    step = -(-length // LIMIT)
    return [index for start in range(step) for index in range(start, length, step)]

# SPDX-License-Identifier: Apache-2.0
"""Label maps from regions: one instance per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.data.images import warn_once
from imp_trt.data.instance_maps import renumbered
from imp_trt.train.datasets.regions import Region


def paint(
    image: NDArray[np.uint8],
    objects: Sequence[tuple[int, bool, Region]],
    classes: ClassTable,
    unlabeled: int,
) -> Sample:
    """Sample of an image and its regions.

    Args:
        image: [H, W, 3] uint8 BGR.
        objects: class index, iscrowd, and region of each, of the size of the image. Crowds are at the bottom,
            small instances above large ones.
        classes: class table; only things have instances.
        unlabeled: class index of the other pixels, or 255 to ignore them.
    """
    size = (image.shape[0], image.shape[1])
    semantic = np.full(size, unlabeled, np.uint8)
    painted = np.zeros(size, np.int32)
    crowd = np.zeros(size, np.uint16)
    layers = [
        (number, label, group, *_cropped(region.mask()))
        for number, (label, group, region) in enumerate(objects, 1)
    ]
    layers.sort(key=lambda layer: (not layer[2], -int(layer[4].sum())))
    for number, label, group, window, mask in layers:
        thing = label in classes.things
        semantic[window][mask] = label
        painted[window][mask] = number if thing and not group else 0
        crowd[window][mask] = number if thing and group else 0
    return Sample(image, semantic, renumbered(painted), crowd if crowd.any() else None)


def _cropped(mask: NDArray[np.bool_]) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The window of a mask that is not all 0, and a copy of it: hundreds of whole ones fill the memory."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return (slice(0), slice(0)), mask[:0, :0]
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return window, mask[window].copy()


def count_hidden(
    where: Path, sample: Sample, objects: Sequence[tuple[int, bool, Region]], classes: ClassTable
) -> int:
    """Number of instances of which :func:`paint` leaves no pixel; the first of a folder is logged."""
    expected = sum(label in classes.things and not crowd for label, crowd, _ in objects)
    hidden = expected - int(sample.instances.max(initial=0))
    if hidden:
        warn_once(where, "has objects that others hide, or that cover no pixel; they are left out")
    return hidden

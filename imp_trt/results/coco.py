# SPDX-License-Identifier: Apache-2.0
"""Instances in COCO's results format, which its evaluation, annotation tools and viewers read."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.results.instances import Instances

_MAX_GROUPS = 7
"""Groups of five bits that a 32-bit number and its sign need."""


class CocoRle(TypedDict):
    """A mask as compressed run lengths; size is [h, w]."""

    size: list[int]
    counts: str


class CocoResult(TypedDict):
    """One detection; bbox is [x, y, width, height] in pixels."""

    image_id: int | str
    category_id: int
    bbox: list[float]
    score: float
    segmentation: CocoRle


def coco_results(
    instances: Instances,
    classes: ClassTable,
    image_id: int | str,
    category_ids: Mapping[str, int] | None = None,
) -> list[CocoResult]:
    """One entry for each instance; see :meth:`imp_trt.SegmentationResult.to_coco`.

    Raises:
        InvalidInput: category_ids lacks the class of an instance, or an id is not an integer.
    """
    # A NumPy integer, such as one of pandas or a DataLoader, is not JSON.
    image = image_id if isinstance(image_id, str) else _integer("image_id", image_id)
    results: list[CocoResult] = []
    for index, label in enumerate(instances.labels.tolist()):
        name = classes.names[label]
        if category_ids is not None and name not in category_ids:
            raise InvalidInput("category_ids", expected=f"a number for {name!r}", got=sorted(category_ids))
        left, top, right, bottom = instances.boxes[index].tolist()
        mask, x, y = instances.crop(index)
        results.append(
            {
                "image_id": image,
                "category_id": label
                if category_ids is None
                else _integer(f"category_ids[{name!r}]", category_ids[name]),
                "bbox": [left, top, right - left, bottom - top],
                "score": float(instances.scores[index]),
                "segmentation": {
                    "size": list(instances.size),
                    "counts": compress_runs(run_lengths(mask, x, y, instances.size)),
                },
            }
        )
    return results


def _integer(name: str, value: object) -> int:
    """A number of Python, also from NumPy; True and 3.7 are none."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]  # it checks
    except TypeError as error:
        raise InvalidInput(name, expected="an integer", got=repr(value)[:80]) from error


def run_lengths(mask: NDArray[np.bool_], x: int, y: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """Lengths of the alternating runs of 0 and 1, starting with 0, down the columns of a frame.

    Args:
        mask: [ch, cw] bool, the part of the frame that is not all 0; may be empty.
        x, y: its top left pixel in the frame.
        size: (h, w) of the frame.

    Returns:
        [R] int64; their sum is h * w.
    """
    height, width = size
    columns = np.zeros((mask.shape[1], height), np.bool_)
    columns[:, y : y + mask.shape[0]] = mask.T
    outside = np.zeros(1, np.bool_)
    changes = np.flatnonzero(np.diff(np.concatenate([outside, columns.ravel(), outside]))) + x * height
    runs = np.diff(np.concatenate([[0], changes, [height * width]]))
    # A mask that ends in the last pixel has no run of 0 after it.
    return runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs


def compress_runs(runs: NDArray[np.int64]) -> str:
    """COCO's text for run lengths: "counts" of a compressed RLE.

    From the fourth on, each run is encoded as the difference from the run two before it. Each number takes
    as many groups of five bits as it and its sign need, the lowest first. A group is one character: 48 plus
    the group, plus 32 if another group follows.

    Args:
        runs: [R] int64, each below 2^31.
    """
    rest = np.concatenate([runs[:3], runs[3:] - runs[1:-2]])  # [R]
    characters = np.zeros((len(rest), _MAX_GROUPS), np.uint8)
    unfinished = np.ones(len(rest), np.bool_)
    for group in range(_MAX_GROUPS):
        bits = rest & 31
        rest = rest >> 5
        # Finished when the rest only repeats the sign, the group's highest bit.
        more = rest != -(bits >> 4)
        characters[:, group] = np.where(unfinished, 48 + bits + 32 * more, 0)
        unfinished &= more
    return characters[characters > 0].tobytes().decode("ascii")

"""Instances in the results format of COCO: what its evaluation, annotation tools and viewers read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.results.instances import Instances

_MOST_GROUPS = 7
"""Groups of five bits that a 32-bit number and its sign need."""


def coco_results(
    instances: Instances,
    classes: ClassTable,
    image_id: int | str,
    category_ids: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """One entry for each instance; see :meth:`imp_trt.SegmentationResult.to_coco`.

    Raises:
        InvalidInput: category_ids lacks a class that was found.
    """
    results = []
    for index, label in enumerate(instances.labels.tolist()):
        name = classes.names[label]
        if category_ids is not None and name not in category_ids:
            raise InvalidInput("category_ids", expected=f"a number for {name!r}", got=sorted(category_ids))
        left, top, right, bottom = instances.boxes[index].tolist()
        mask, x, y = instances.crop(index)
        results.append(
            {
                "image_id": image_id,
                "category_id": label if category_ids is None else int(category_ids[name]),
                "bbox": [left, top, right - left, bottom - top],
                "score": float(instances.scores[index]),
                "segmentation": {
                    "size": list(instances.size),
                    "counts": compressed(run_lengths(mask, x, y, instances.size)),
                },
            }
        )
    return results


def run_lengths(mask: NDArray[np.bool_], x: int, y: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """Lengths of the runs of 0 and 1, in turn and from 0, down the columns of a frame.

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
    # A mask that ends in the last pixel has no run of 0 behind it.
    return runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs


def compressed(runs: NDArray[np.int64]) -> str:
    """COCO's text for run lengths: its "counts".

    From the fourth on, each run is written as the difference to the one two before it. Each number takes as
    many groups of five bits as it and its sign need, the lowest first: one character each, 48 and the
    group, and 32 more if another group follows.

    Args:
        runs: [R] int64, each below 2^31.
    """
    left = np.concatenate([runs[:3], runs[3:] - runs[1:-2]])
    characters = np.zeros((len(left), _MOST_GROUPS), np.uint8)
    going = np.ones(len(left), np.bool_)
    for group in range(_MOST_GROUPS):
        bits = left & 31
        left = left >> 5
        # Done when what is left repeats the sign, the group's highest bit.
        more = left != -(bits >> 4)
        characters[:, group] = np.where(going, 48 + bits + 32 * more, 0)
        going &= more
    return characters[characters > 0].tobytes().decode("ascii")

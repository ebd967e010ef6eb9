# SPDX-License-Identifier: Apache-2.0
"""Per-pixel disagreement of the class map and the instances."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX
from imp_trt.data.native_calls import native_call
from imp_trt.ops.mask_projection.numpy import mask_crops
from imp_trt.results.instances import Instances

_STUFF, _THING = 1, 2


@native_call()
def disagreement_map(
    semantic: NDArray[np.uint8], instances: Instances, things: Sequence[int]
) -> NDArray[np.float32]:
    """How strongly the instances contradict the class map, per pixel.

    The instances are compared as the IMP canvas at the frame's size (Fu, Berg and Berg, ICCV 2019,
    section 3.1): C[t], the maximum of score * mask over the instances of thing class t. Where the class map
    has

    - a stuff class, the disagreement is max C[t]: an instance where the map has none;
    - thing class s, it is 1 - C[s]: no instance of that class, or an uncertain one;
    - no label (255), it is 0.

    Above 0.5 the two contradict each other; the lower the value, the better they agree. On CamVid's
    validation frames the project's model was wrong in 61% of the pixels above 0.5 (2% of all) and in 5.9%
    of the others (tests/bench/bench_disagreement.py). Confusion of two stuff classes does not show.

    Args:
        semantic: [h, w] uint8 class indices.
        instances: of the same frame; those of a stuff class are ignored.
        things: the thing classes.

    Returns:
        [h, w] float32, 0-1.
    """
    kinds = np.full(256, _STUFF, np.uint8)  # lookup table by class index
    kinds[list(things)] = _THING
    kinds[IGNORE_INDEX] = 0
    kind = np.asarray(cv2.LUT(semantic, kinds), np.uint8)  # [h, w]
    stuff = kind == _STUFF
    disagreement: NDArray[np.float32] = (kind == _THING).astype(np.float32)
    crops = mask_crops(instances.masks, instances._span, instances.size, instances.sampling)
    for index, rows, columns, values in crops:
        label, score = int(instances.labels[index]), instances.scores[index]
        if label not in things or not np.isfinite(score):
            continue
        canvas = np.clip(np.multiply(values, score, out=values), 0, 1, out=values)
        part = disagreement[rows, columns]
        np.maximum(part, canvas, out=part, where=stuff[rows, columns])
        np.minimum(part, np.subtract(1, canvas, out=canvas), out=part, where=semantic[rows, columns] == label)
    return disagreement

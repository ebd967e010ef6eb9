# SPDX-License-Identifier: Apache-2.0
"""The options of instance mask projection and their validation, common to all implementations."""

from __future__ import annotations

import math
import operator
from typing import Literal

from imp_trt.errors import InvalidInput

Sampling = Literal["bilinear", "nearest", "rect"]
SAMPLING_RULES: tuple[Sampling, ...] = ("bilinear", "nearest", "rect")
MAX_CANVAS_SIDE = 1 << 16


def check_options(
    num_classes: int, canvas_size: tuple[int, int], spatial_scale: float, sampling: str
) -> tuple[int, int]:
    """The canvas size as two ints.

    Raises:
        InvalidInput: an option is out of the range of the operator's contract.
    """
    if not _is_int(num_classes) or num_classes < 1:
        raise InvalidInput("num_classes", expected="an integer >= 1", got=repr(num_classes))
    sides = f"(height, width), integers from 1 to {MAX_CANVAS_SIDE}"
    if not isinstance(canvas_size, (tuple, list)) or len(canvas_size) != 2:
        raise InvalidInput("canvas_size", expected=sides, got=repr(canvas_size))
    height, width = canvas_size
    if not all(_is_int(side) and 1 <= side <= MAX_CANVAS_SIDE for side in (height, width)):
        raise InvalidInput("canvas_size", expected=sides, got=repr(canvas_size))
    if not (isinstance(spatial_scale, (int, float)) and 0 < spatial_scale and math.isfinite(spatial_scale)):
        raise InvalidInput("spatial_scale", expected="a finite number > 0", got=repr(spatial_scale))
    if sampling not in SAMPLING_RULES:
        raise InvalidInput("sampling", expected=" or ".join(SAMPLING_RULES), got=repr(sampling))
    return operator.index(height), operator.index(width)


def _is_int(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)

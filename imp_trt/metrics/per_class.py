# SPDX-License-Identifier: Apache-2.0
"""Per-class values: means over classes, and their JSON form. NaN marks a class that does not occur."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable


class ClassIou:
    """Mixin for score classes: means of the per-class intersection over union."""

    classes: ClassTable
    iou: NDArray[np.float64]  # [K]

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur."""
        return known_mean(self.iou)

    @property
    def thing_iou(self) -> float:
        """Mean over the thing classes that occur."""
        return known_mean(self.iou[list(self.classes.things)])

    @property
    def stuff_iou(self) -> float:
        """Mean over the stuff classes that occur."""
        return known_mean(self.iou[list(self.classes.stuff)])


def known_mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def finite(value: float) -> float | None:
    """JSON form of a value: None for NaN."""
    return None if math.isnan(value) else float(value)


def number(value: float | None) -> float:
    """Inverse of :func:`finite`."""
    return math.nan if value is None else float(value)


def named(names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float | None]:
    """Values [K] by class name, for JSON."""
    return {name: finite(float(value)) for name, value in zip(names, values, strict=True)}


def unnamed(names: tuple[str, ...], values: Mapping[str, float | None]) -> NDArray[np.float64]:
    """Inverse of :func:`named`; KeyError where a name is missing."""
    return np.array([number(values[name]) for name in names], np.float64)

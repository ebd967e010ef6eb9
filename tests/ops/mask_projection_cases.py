# SPDX-License-Identifier: Apache-2.0
"""Inputs for the tests of instance mask projection, ordinary and degenerate."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

RULES = ("bilinear", "nearest", "rect")
BIG = 3e38
CORNERS = (0.0, -0.0, 0.5, 1.0, 3.0, 7.25, 12.0, -4.0, 1e-30, -1e-30, 1e-45, 40.0, 2049.0, 1e9, -1e9)
BAD = (float("nan"), float("inf"), float("-inf"), BIG, -BIG)
LABELS = (0, 1, 2, 3, -1, 7, 2**31, -(2**31), 2**63 - 1, -(2**63))

# Of arbitrary cases; what float16 adds is rounding, which ordinary cases show too.
DEGENERATE_DTYPES = (np.float32, pytest.param(np.float16, marks=pytest.mark.slow))

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Case(NamedTuple):
    """The four tensors of a call as arrays."""

    boxes: NDArray[np.float32]  # [B, N, 4]
    scores: NDArray[np.float32]  # [B, N]
    labels: NDArray[np.int64]  # [B, N]
    masks: NDArray[Any]  # [B, N, P, P]

    def pick(self, instances: Any) -> Case:
        """The same instances of every image."""
        return Case(*(array[:, instances] for array in self))

    def image(self, index: int) -> Case:
        return Case(*(array[index : index + 1] for array in self))

    def plus(self, other: Case) -> Case:
        """Both sets of instances, image by image."""
        pairs = zip(self, other, strict=True)
        return Case(*(np.concatenate(pair, 1).astype(pair[0].dtype) for pair in pairs))


def ordinary(
    seed: int,
    batch: int = 1,
    count: int = 8,
    cells: int = 5,
    canvas: tuple[int, int] = (19, 23),
    classes: int = 3,
    dtype: Any = np.float32,
    sides: tuple[float, float] = (0.5, 30.0),
) -> Case:
    """Boxes with log-uniform sides round random centers, half of them partly outside."""
    rng = np.random.default_rng(seed)
    side = np.exp(rng.uniform(np.log(sides[0]), np.log(sides[1]), (batch, count, 2)))
    center = rng.uniform(0, 1, (batch, count, 2)) * [canvas[1], canvas[0]]
    boxes = np.concatenate([center - side / 2, center + side / 2], -1).astype(np.float32)
    scores = rng.uniform(0.01, 1, (batch, count)).astype(np.float32)
    labels = rng.integers(0, classes, (batch, count))
    masks = rng.uniform(0.01, 1, (batch, count, cells, cells)).astype(dtype)
    return Case(boxes, scores, labels, masks)


INVALID = ("nan corner", "inf corner", "empty", "reversed", "overflow", "nan score", "label", "int64 label")


def invalid_instances(cells: int, batch: int = 1, dtype: Any = np.float32) -> Case:
    """One instance of each kind that contributes nothing, with a mask of ones; see INVALID for the order."""
    nan, inf = float("nan"), float("inf")
    box = (1.0, 1.0, 9.0, 9.0)
    corners = [(nan, 1, 9, 9), (1, 1, inf, 9), (5, 1, 5, 9), (9, 9, 1, 1), (-BIG, 1, BIG, 9), box, box, box]
    scores = [1.0] * 5 + [nan, 1.0, 1.0]
    labels = [0] * 6 + [-1, 2**63 - 1]
    single = Case(
        np.array([corners], np.float32),
        np.array([scores], np.float32),
        np.array([labels], np.int64),
        np.ones((1, len(labels), cells, cells), dtype),
    )
    return Case(*(np.repeat(array, batch, 0) for array in single))


def degenerate(batch: int, count: int, cells: int, dtype: Any = np.float32) -> st.SearchStrategy[Case]:
    """Cases of fixed shape whose every number may be odd; cells stay >= 0, so that no blend cancels."""
    corner = st.one_of(st.sampled_from(CORNERS), st.sampled_from(BAD), st.floats(-12, 24, width=32))
    score = st.one_of(st.sampled_from((0.0, 1.0, 1e-30, BIG, -1.0, *BAD[:3])), st.floats(0, 1, width=32))
    large = 60000.0 if dtype == np.float16 else BIG
    cell = st.one_of(st.sampled_from((0.0, 1.0, large, *BAD[:3])), st.floats(0, 1, width=16))

    def numbers(values: st.SearchStrategy[float], *shape: int) -> st.SearchStrategy[Any]:
        size = int(np.prod(shape))
        return st.lists(values, min_size=size, max_size=size).map(lambda v: np.array(v).reshape(shape))

    boxes, scores = numbers(corner, batch, count, 4), numbers(score, batch, count)
    labels, masks = numbers(st.sampled_from(LABELS), batch, count), numbers(cell, batch, count, cells, cells)
    return st.builds(
        lambda b, s, n, m: Case(
            b.astype(np.float32), s.astype(np.float32), n.astype(np.int64), m.astype(dtype)
        ),
        boxes,
        scores,
        labels,
        masks,
    )


def scale_of(case: Case) -> float:
    """The largest value that a case can put on a canvas, at least 1: what rounding is relative to."""
    with np.errstate(over="ignore", invalid="ignore"):
        top = np.nan_to_num(case.masks.astype(np.float64), nan=0, posinf=0, neginf=0).max(initial=0)
        score = np.nan_to_num(case.scores.astype(np.float64), nan=0, posinf=0, neginf=0).max(initial=0)
    return float(np.clip(top * score, 1, np.finfo(case.masks.dtype).max))


def assert_close(got: Any, truth: Any, tolerance: float = 1e-6) -> None:
    """Finite, non-negative and the same up to rounding."""
    got = np.asarray(got, np.float64)
    assert got.shape == truth.shape
    assert np.isfinite(got).all()
    assert (got >= 0).all()
    worst = float(np.abs(got - truth).max(initial=0.0))
    assert worst <= tolerance, f"differs by {worst:g}"

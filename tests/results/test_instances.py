# SPDX-License-Identifier: Apache-2.0
"""Instances as a sequence: length, index, slice, mask and iteration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.results import Instances

COUNT = 5


@pytest.fixture
def found() -> Instances:
    random = np.random.default_rng(0)
    corners = np.sort(random.uniform(0, 60, (COUNT, 2, 2)), axis=1).astype(np.float32)
    return Instances(
        corners.reshape(COUNT, 4),
        np.arange(COUNT, dtype=np.int32),
        np.linspace(0.9, 0.1, COUNT, dtype=np.float32),
        random.random((COUNT, 4, 4), np.float32),
        (64, 96),
        "nearest",
        corners.reshape(COUNT, 4) - 1,
    )


def numbers(found: Instances) -> list[int]:
    """Which of the five these are; every array agrees."""
    labels: list[int] = found.labels.tolist()
    whole = np.linspace(0.9, 0.1, COUNT, dtype=np.float32)
    assert found.scores.tolist() == [whole[i] for i in labels]
    assert len(found.boxes) == len(found.masks) == len(labels)
    assert found.mask_boxes is not None
    assert np.array_equal(found.mask_boxes, found.boxes - 1)
    assert found.size == (64, 96)
    assert found.sampling == "nearest"
    return labels


@pytest.mark.parametrize("index", range(-COUNT, COUNT))
def test_an_index_gives_one_instance(found: Instances, index: int) -> None:
    for key in (index, np.int64(index), np.int32(index)):
        one = found[key]  # type: ignore[index]
        assert isinstance(one, Instances)
        assert numbers(one) == [index % COUNT]


@pytest.mark.parametrize("index", [COUNT, -COUNT - 1, 10**12])
def test_an_index_out_of_range_is_an_index_error(found: Instances, index: int) -> None:
    with pytest.raises(IndexError):
        found[index]
    with pytest.raises(IndexError):
        found[[index]]


@pytest.mark.parametrize("key", [slice(1, 3), slice(None, None, -1), slice(-2, None), slice(3, 1)])
def test_slices(found: Instances, key: slice) -> None:
    assert numbers(found[key]) == list(range(COUNT))[key]


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ([True, False, False, True, False], [0, 3]),
        ([False] * COUNT, []),
        ([3, 0, -1], [3, 0, 4]),
        ([], []),
        (np.array([2, 2]), [2, 2]),
        (np.array([], np.int64), []),
    ],
)
def test_masks_and_indices(
    found: Instances, key: Sequence[int] | NDArray[np.integer], wanted: list[int]
) -> None:
    assert numbers(found[key]) == wanted
    assert numbers(found[np.array(key)]) == wanted


@pytest.mark.parametrize(
    "key",
    [
        *([True, False], np.zeros(COUNT + 1, bool), np.zeros(0, bool), [True, 0, 1, 0, 0]),
        *("boxes", 1.0, None, [0.5], [[0]], True, np.ma.masked_array([0, 1], [True, False])),
    ],
)
def test_other_keys_are_rejected(found: Instances, key: object) -> None:
    with pytest.raises(IndexError):
        found[key]  # type: ignore[index]


def test_iteration_and_length(found: Instances) -> None:
    assert len(found) == COUNT
    assert [numbers(one) for one in found] == [[i] for i in range(COUNT)]
    assert found
    assert not found[:0]
    first, *rest = found
    assert numbers(first) == [0]
    assert len(rest) == COUNT - 1


def test_a_condition_on_the_arrays_selects(found: Instances) -> None:
    assert numbers(found[found.scores > 0.4]) == [0, 1, 2]
    assert numbers(found[(found.labels == 1) | (found.labels == 4)]) == [1, 4]

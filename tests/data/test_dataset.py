# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import CachedDataset, Dataset, Sample, SampleCache, checked_index
from imp_trt.errors import DatasetError


def _sample(value: int = 0, instance: int = 0) -> Sample:
    return Sample(
        np.full((4, 5, 3), value, np.uint8), np.zeros((4, 5), np.uint8), np.full((4, 5), instance, np.int32)
    )


class _Counting:
    """Three samples; counts how often each is made."""

    name = "counting"
    terms = "free"
    classes = ClassTable(("ground", "thing"), (1,), ((0, 0, 0), (255, 0, 0)))

    def __init__(self) -> None:
        self.made: list[int] = []

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        self.made.append(index)
        return _sample(index, instance=(0, 7, 70000)[index])


def test_sample_knows_its_size() -> None:
    assert _sample().size == (4, 5)


@pytest.mark.parametrize(
    ("image", "semantic", "instances", "named"),
    [
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.int32), "image"),
        (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.int32), "image"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 6), np.uint8), np.zeros((4, 5), np.int32), "semantic"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.int64), np.zeros((4, 5), np.int32), "semantic"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8), "instances"),
        (np.zeros((0, 5, 3), np.uint8), np.zeros((0, 5), np.uint8), np.zeros((0, 5), np.int32), "image"),
    ],
)
def test_sample_rejects_other_shapes_and_types(image, semantic, instances, named) -> None:
    with pytest.raises(DatasetError, match=rf"sample\.{named}: expected"):
        Sample(image, semantic, instances)


def test_cached_dataset_makes_each_sample_once_and_returns_it_unchanged() -> None:
    inner = _Counting()
    cached = CachedDataset(inner)
    assert isinstance(cached, Dataset)
    assert (len(cached), cached.name, cached.terms, cached.classes) == (3, "counting", "free", inner.classes)
    for _ in range(2):
        for index in range(3):
            sample, wanted = cached[index], _Counting()[index]
            assert sample.instances.dtype == np.int32
            assert np.array_equal(sample.image, wanted.image)
            assert np.array_equal(sample.instances, wanted.instances)
    assert inner.made == [0, 1, 2]
    assert cached[-1].instances.max() == 70000


@pytest.mark.parametrize(
    ("crowd", "named"),
    [
        (np.zeros((4, 6), np.uint16), r"crowd: expected uint16 \[4, 5\] .*got uint16 \[4, 6\]"),
        (np.zeros((4, 5), bool), "crowd: expected uint16"),
        (np.ones((4, 5), np.uint16), "instance number 0 in crowds"),
    ],
)
def test_crowds_of_other_shapes_or_with_instances_are_rejected(crowd, named) -> None:
    plain = _sample(instance=3)
    assert plain.crowd is None
    with pytest.raises(DatasetError, match=named):
        Sample(plain.image, plain.semantic, plain.instances, crowd)


def test_caches_keep_crowds_and_no_more_than_they_may() -> None:
    crowd = np.zeros((4, 5), np.uint16)
    crowd[1, 2] = 300
    made: list[int] = []

    def make(index: int) -> Sample:
        made.append(index)
        plain = _sample(index)
        return Sample(plain.image, plain.semantic, plain.instances, crowd)

    # Twenty pixels take 3 + 1 + 1 + 2 bytes each.
    cache = SampleCache(limit=280)
    for _ in range(2):
        for index in range(3):
            sample = cache.get(index, make)
            assert np.array_equal(sample.crowd, crowd)
            assert sample.image[0, 0, 0] == index
    assert made == [0, 1, 2, 2]


def test_iteration_ends() -> None:
    assert len(list(CachedDataset(_Counting()))) == 3
    with pytest.raises(IndexError):
        checked_index(-4, 3)


def test_many_threads_share_a_cache() -> None:
    made = []

    def make(index):
        made.append(index)
        barrier.wait(timeout=5)  # both threads have found nothing before either keeps its own
        return _sample()

    barrier = threading.Barrier(2)
    cache = SampleCache(limit=10**6)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: cache.get(0, make), range(2)))
    first = cache._free
    assert made == [0, 0]
    other = SampleCache(limit=10**6)
    other.get(0, lambda _: _sample())
    assert first == other._free, "one sample takes its room once"

# SPDX-License-Identifier: Apache-2.0
"""Datasets: samples of image, class map and instance map, and their in-memory cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.errors import DatasetError

CACHE_BYTES = 4 << 30
"""Default size limit of a cache: 5,000 samples of 480x360, or 800 of 1024x1024."""


@dataclass(frozen=True)
class Sample:
    """One labeled image. The arrays are shared with caches: treat them as read-only.

    Attributes:
        image: [H, W, 3] uint8, BGR.
        semantic: [H, W] uint8 class index, 255 = ignore.
        instances: [H, W] int32, 0 = no instance, k >= 1 = pixel of instance k. The class of an
            instance is the semantic class of its pixels, one thing class for all of them.
        crowd: [H, W] uint16, 0 = no crowd, k >= 1 = pixel of crowd k; or None without crowds. A
            crowd's class is annotated, but not its individual instances: its semantic class is
            valid, its instance number is 0, and detections there are ignored in evaluation.

    Raises:
        DatasetError: an array has another dtype, the sizes disagree, or an instance lies in a crowd.
    """

    image: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    instances: NDArray[np.int32]
    crowd: NDArray[np.uint16] | None = None

    def __post_init__(self) -> None:
        size = self.image.shape[:2]
        expected: list[tuple[str, NDArray[np.generic], tuple[int, ...], type[np.generic]]] = [
            ("image", self.image, (*size, 3), np.uint8),
            ("semantic", self.semantic, size, np.uint8),
            ("instances", self.instances, size, np.int32),
        ]
        if self.crowd is not None:
            expected.append(("crowd", self.crowd, size, np.uint16))
        for name, array, shape, dtype in expected:
            if array.shape != shape or array.dtype != dtype or array.size == 0:
                raise DatasetError(
                    f"sample.{name}",
                    expected=f"{np.dtype(dtype).name} {list(shape)} with at least one pixel",
                    got=f"{array.dtype.name} {list(array.shape)}",
                )
        if self.crowd is not None and self.instances[self.crowd > 0].any():
            raise DatasetError("sample.crowd", expected="instance number 0 in crowds", got="an instance")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.semantic.shape[0]), int(self.semantic.shape[1])


@runtime_checkable
class Dataset(Protocol):
    """A sequence of labeled images.

    Attributes:
        name: short name for logs and model cards.
        classes: class table of the labels.
        terms: license terms of the data, printed when it is opened; None if there are none.
    """

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> ClassTable: ...

    @property
    def terms(self) -> str | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


_Cached = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.generic], NDArray[np.uint16] | None]


class SampleCache:
    """Keeps samples in memory, the instance map in the smallest unsigned type that holds it.

    Args:
        limit: maximum size in bytes; samples that do not fit are loaded again each time.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._free = limit
        self._samples: dict[int, _Cached] = {}
        self._lock = Lock()

    def get(self, index: int, load: Callable[[int], Sample]) -> Sample:
        """The cached sample at ``index``, or ``load(index)``, which is cached if it fits."""
        cached = self._samples.get(index)
        if cached is not None:
            image, semantic, small, crowd = cached
            return Sample(image, semantic, small.astype(np.int32), crowd)
        sample = load(index)
        small = sample.instances.astype(np.min_scalar_type(int(sample.instances.max())))
        parts = (sample.image, sample.semantic, small, sample.crowd)
        size = sum(part.nbytes for part in parts if part is not None)
        with self._lock:  # several threads load batches, and two may load the same sample
            if index not in self._samples and size <= self._free:
                self._free -= size
                self._samples[index] = parts
        return sample


class CachedDataset:
    """Wraps a dataset with an in-memory cache.

    Args:
        dataset: dataset to wrap; 256x512 samples take about 0.7 MB each.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._cache = SampleCache()

    @property
    def dataset(self) -> Dataset:
        """The wrapped dataset."""
        return self._dataset

    @property
    def name(self) -> str:
        return self._dataset.name

    @property
    def classes(self) -> ClassTable:
        return self._dataset.classes

    @property
    def terms(self) -> str | None:
        return self._dataset.terms

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        return self._cache.get(checked_index(index, len(self)), self._dataset.__getitem__)

    def image_name(self, index: int) -> str:
        """See :func:`image_name`."""
        return image_name(self._dataset, index)


@runtime_checkable
class NamedImages(Protocol):
    """A dataset whose images have names."""

    def image_name(self, index: int) -> str: ...


def image_name(dataset: Dataset, index: int) -> str:
    """Name of an image: its path in the dataset, or its number where a dataset has no files."""
    return dataset.image_name(index) if isinstance(dataset, NamedImages) else f"image {index + 1}"


def checked_index(index: int, length: int) -> int:
    """``index`` as a non-negative position below ``length``.

    Raises:
        IndexError: out of range, which also ends ``for sample in dataset``.
    """
    position = index + length if index < 0 else index
    if not 0 <= position < length:
        raise IndexError(f"sample {index} of {length}")
    return position

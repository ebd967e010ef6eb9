"""What a data set is: samples of image, class map and instance map, and how they are held in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.errors import DatasetError


@dataclass(frozen=True)
class Sample:
    """One labelled picture. The arrays are shared with caches: treat them as read-only.

    Attributes:
        image: [H, W, 3] uint8, BGR.
        semantic: [H, W] uint8 class index, 255 = ignore.
        instances: [H, W] int32, 0 = no instance, k >= 1 = pixel of instance k. The class of an
            instance is the semantic class of its pixels, the same thing class for all of them.

    Raises:
        DatasetError: an array has another dtype or the sizes disagree.
    """

    image: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    instances: NDArray[np.int32]

    def __post_init__(self) -> None:
        size = self.image.shape[:2]
        wanted = (
            ("image", self.image, (*size, 3), np.uint8),
            ("semantic", self.semantic, size, np.uint8),
            ("instances", self.instances, size, np.int32),
        )
        for name, array, shape, dtype in wanted:
            if array.shape != shape or array.dtype != dtype or array.size == 0:
                raise DatasetError(
                    f"sample.{name}",
                    expected=f"{np.dtype(dtype).name} {list(shape)} with at least one pixel",
                    got=f"{array.dtype.name} {list(array.shape)}",
                )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.semantic.shape[0]), int(self.semantic.shape[1])


@runtime_checkable
class Dataset(Protocol):
    """Anything with labelled pictures in a fixed order.

    Attributes:
        name: short name for logs and model cards.
        classes: the class table its labels use.
        terms: the data's terms of use, to be printed when it is opened; None if there are none.
    """

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> ClassTable: ...

    @property
    def terms(self) -> str | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class SampleCache:
    """Keeps samples in memory, the instance map in the smallest unsigned type that holds it."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.generic]]] = {}

    def get(self, index: int, make: Callable[[int], Sample]) -> Sample:
        """The sample kept at ``index``, or ``make(index)``, which is kept from then on."""
        kept = self._kept.get(index)
        if kept is not None:
            return Sample(kept[0], kept[1], kept[2].astype(np.int32))
        sample = make(index)
        small = sample.instances.astype(np.min_scalar_type(int(sample.instances.max())))
        self._kept[index] = (sample.image, sample.semantic, small)
        return sample


class CachedDataset:
    """Another data set with its samples kept in memory from their first use on.

    Args:
        dataset: the data set; 256x512 samples take about 0.7 MB each.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._cache = SampleCache()

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


def checked_index(index: int, length: int) -> int:
    """``index`` as a non-negative position below ``length``.

    Raises:
        IndexError: out of range, so that ``for sample in dataset`` ends where it should.
    """
    position = index + length if index < 0 else index
    if not 0 <= position < length:
        raise IndexError(f"sample {index} of {length}")
    return position

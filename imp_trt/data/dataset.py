"""What a data set is: samples of image, class map and instance map, and how they are held in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.errors import DatasetError

CACHE_BYTES = 4 << 30
"""What a cache keeps at most: 5,000 samples of 480x360, or 800 of 1024x1024."""


@dataclass(frozen=True)
class Sample:
    """One labeled picture. The arrays are shared with caches: treat them as read-only.

    Attributes:
        image: [H, W, 3] uint8, BGR.
        semantic: [H, W] uint8 class index, 255 = ignore.
        instances: [H, W] int32, 0 = no instance, k >= 1 = pixel of instance k. The class of an
            instance is the semantic class of its pixels, the same thing class for all of them.
        crowd: [H, W] uint16, 0 = no crowd, k >= 1 = pixel of crowd k; or None where there is none. A
            crowd's class is annotated, but its instances are not told apart: its semantic class is
            valid, its instance number is 0, and detections there are neither right nor wrong.

    Raises:
        DatasetError: an array has another dtype, the sizes disagree, or an instance lies in a crowd.
    """

    image: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    instances: NDArray[np.int32]
    crowd: NDArray[np.uint16] | None = None

    def __post_init__(self) -> None:
        size = self.image.shape[:2]
        wanted: list[tuple[str, NDArray[Any], tuple[int, ...], type]] = [
            ("image", self.image, (*size, 3), np.uint8),
            ("semantic", self.semantic, size, np.uint8),
            ("instances", self.instances, size, np.int32),
        ]
        if self.crowd is not None:
            wanted.append(("crowd", self.crowd, size, np.uint16))
        for name, array, shape, dtype in wanted:
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
    """Anything with labeled pictures in a fixed order.

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


_Kept = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.generic], NDArray[np.uint16] | None]


class SampleCache:
    """Keeps samples in memory, the instance map in the smallest unsigned type that holds it.

    Args:
        limit: bytes to keep at most; samples that no longer fit are made anew each time.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._room = limit
        self._kept: dict[int, _Kept] = {}
        self._lock = Lock()

    def get(self, index: int, make: Callable[[int], Sample]) -> Sample:
        """The sample kept at ``index``, or ``make(index)``, which is kept from then on if it fits."""
        kept = self._kept.get(index)
        if kept is not None:
            image, semantic, small, crowd = kept
            return Sample(image, semantic, small.astype(np.int32), crowd)
        sample = make(index)
        small = sample.instances.astype(np.min_scalar_type(int(sample.instances.max())))
        parts = (sample.image, sample.semantic, small, sample.crowd)
        size = sum(part.nbytes for part in parts if part is not None)
        with self._lock:  # several threads draw batches, and two may have made the same sample
            if index not in self._kept and size <= self._room:
                self._room -= size
                self._kept[index] = parts
        return sample


class CachedDataset:
    """Another data set with its samples kept in memory from their first use on, as far as they fit.

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

"""Regions of COCO-format annotations: polygons, and run lengths with and without compression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import DependencyMissing

# What a polygon may stick out of its image, in sides of the image: pycocotools walks along every edge,
# so a corner at 1e9 would take all memory there is.
_REACH = 4


@dataclass(frozen=True)
class Region:
    """A region of an image, either as polygons or as run lengths.

    Attributes:
        size: height and width of the image.
        polygons: arrays of x0, y0, x1, y1, ... in pixels, float64; their union is the region.
        runs: lengths of alternating runs outside and inside the region, column by column, [R] int64;
            None for a region of polygons.
    """

    size: tuple[int, int]
    polygons: tuple[NDArray[np.float64], ...] = ()
    runs: NDArray[np.int64] | None = None

    def mask(self) -> NDArray[np.bool_]:
        """[H, W] bool. Polygons are filled by pycocotools, whose rule COCO's own figures use.

        Raises:
            DependencyMissing: pycocotools is not installed (polygons only).
        """
        height, width = self.size
        if self.runs is not None:
            inside = np.arange(self.runs.size) % 2 == 1
            return np.ascontiguousarray(np.repeat(inside, self.runs).reshape(width, height).T)
        if not self.polygons:
            return np.zeros(self.size, np.bool_)
        codec = need_pycocotools()
        filled = codec.decode(codec.merge(codec.frPyObjects(list(self.polygons), height, width)))
        return np.asarray(filled, np.bool_)


def parse_region(segmentation: object, size: tuple[int, int]) -> Region:
    """The region that an annotation's ``segmentation`` describes.

    Polygons of fewer than three corners have no area and are left out.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...], or a mapping with ``counts`` (a list of
            run lengths, or their compressed text) and ``size`` [height, width].
        size: height and width of the image.

    Raises:
        ValueError: it describes no region of an image of this size.
    """
    if isinstance(segmentation, Mapping):
        return Region(size, runs=_runs(segmentation, size))
    if not isinstance(segmentation, list):
        raise ValueError(f"a list of polygons or run lengths, not {type(segmentation).__name__}")
    polygons = []
    reach = _REACH * max(size)
    for corners in segmentation:
        polygon = np.asarray(corners, np.float64)
        if polygon.ndim != 1 or polygon.size % 2:
            raise ValueError(f"a polygon of x and y in turn, not {str(corners)[:40]}")
        if not (np.isfinite(polygon).all() and np.abs(polygon).max(initial=0) <= reach):
            raise ValueError(f"corners near the image of {size[1]}x{size[0]}, not {str(corners)[:40]}")
        if polygon.size >= 6:
            polygons.append(polygon)
    return Region(size, polygons=tuple(polygons))


def need_pycocotools() -> Any:
    """The module pycocotools.mask.

    Raises:
        DependencyMissing: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DependencyMissing(
            "pycocotools, which fills COCO's polygons",
            got=repr(error),
            fix="pip install 'imp-trt[eval]'",
        ) from error
    return mask


def _runs(segmentation: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.int64]:
    if list(segmentation.get("size", size)) != list(size):
        raise ValueError(f"run lengths for the size {list(size)}, not {segmentation['size']}")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        runs = _uncompressed(counts.encode("ascii", "replace"))
    elif isinstance(counts, list) and all(isinstance(c, int) for c in counts):
        runs = np.asarray(counts, np.int64)
    else:
        raise ValueError("counts as a list of whole numbers or as text")
    if runs.size == 0 or runs.min() < 0 or runs.max() > size[0] * size[1] or runs.sum() != size[0] * size[1]:
        # pycocotools leaves pixels that no run covers uninitialized.
        raise ValueError(f"run lengths with a sum of {size[0] * size[1]}, not {int(runs.sum())}")
    return runs


def _uncompressed(text: bytes) -> NDArray[np.int64]:
    """The run lengths in COCO's text form.

    A number is written in characters of 5 bits, the lowest first, each 48 + bits, plus 32 if more
    follow; the highest bit of its last character is the sign. From the fourth number on, what is
    written is the difference from the number two before.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("counts in COCO's text form")
    last = np.flatnonzero(codes & 32 == 0)
    first = np.r_[0, last[:-1] + 1]
    digits = last - first + 1
    if digits.max() > 8:
        raise ValueError("counts in COCO's text form")
    place = np.arange(codes.size) - np.repeat(first, digits)
    values = np.add.reduceat((codes & 31) << (5 * place), first)
    values -= ((codes[last] & 16) != 0) * (np.int64(1) << (5 * digits))
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values

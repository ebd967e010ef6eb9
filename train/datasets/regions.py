# SPDX-License-Identifier: Apache-2.0
"""Regions of COCO annotations: polygons, and uncompressed and compressed run-length encodings (RLE)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import DependencyMissing

# Maximum coordinate of a polygon, in multiples of the image side: pycocotools allocates memory proportional
# to the length of the edges, so a vertex at 1e9 would exhaust it.
_REACH = 4
# By how much a bbox may differ from the region.
_BOX_PIXELS, _BOX_SHARE = 3.0, 0.2
OVERHANG = 0.05
"""By how much polygons of an image may reach beyond it, as a fraction of its sides: tools do not clip."""


@dataclass(frozen=True)
class Region:
    """A region of an image, as polygons or as RLE.

    Attributes:
        size: height and width of the image.
        polygons: arrays of x0, y0, x1, y1, ... in pixels, float64; their union is the region.
        runs: [R] int64 lengths of alternating runs outside and inside the region, in column-major order;
            None for polygons.
    """

    size: tuple[int, int]
    polygons: tuple[NDArray[np.float64], ...] = ()
    runs: NDArray[np.int64] | None = None

    def mask(self) -> NDArray[np.bool_]:
        """[H, W] bool. Polygons are rasterized by pycocotools, as in COCO's evaluation.

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

    def bounds(self) -> NDArray[np.float64] | None:
        """[4] float64, xyxy in pixels: the extent of polygons or runs; None for an empty region."""
        if self.runs is None:
            if not self.polygons:
                return None
            points = np.concatenate([polygon.reshape(-1, 2) for polygon in self.polygons])
            return np.concatenate([points.min(axis=0), points.max(axis=0)])
        height = self.size[0]
        ends = np.cumsum(self.runs)
        first, last = ends[:-1:2], ends[1::2] - 1  # of the runs inside
        first, last = (a[self.runs[1::2] > 0] for a in (first, last))
        if not first.size:
            return None
        columns = first // height, last // height
        several = bool((columns[0] != columns[1]).any())  # a run that goes on in the next column
        top = 0 if several else int((first % height).min())
        bottom = height if several else int((last % height).max()) + 1
        return np.array([columns[0].min(), top, columns[1].max() + 1, bottom], np.float64)

    def equals(self, other: Region) -> bool:
        """Whether both have the same polygons or runs."""
        if self.runs is not None and other.runs is not None:
            return np.array_equal(self.runs, other.runs)
        same = self.runs is None and other.runs is None and len(self.polygons) == len(other.polygons)
        return same and all(map(np.array_equal, self.polygons, other.polygons))

    def fits(self, box: object) -> bool:
        """Whether a bbox [x, y, width, height] may be that of this region; True for what is no box.

        Sides may be off by a fifth of the size, since tools round, clip and smooth.
        """
        bounds = self.bounds()
        try:
            x, y, width, height = (float(v) for v in box)  # type: ignore[attr-defined]  # of any type
        except (TypeError, ValueError, OverflowError):
            return True
        if bounds is None or not (0 < width < math.inf and 0 < height < math.inf):
            return True
        off = np.abs(bounds - (x, y, x + width, y + height)).max()
        return bool(off <= max(_BOX_PIXELS, _BOX_SHARE * max(bounds[2] - bounds[0], bounds[3] - bounds[1])))

    def reaches_beyond(self) -> bool:
        """Whether it extends beyond the image by more than a few pixels and OVERHANG of its sides."""
        bounds = None if self.runs is not None else self.bounds()
        if bounds is None:
            return False
        left, top, right, bottom = bounds.tolist()
        height, width = self.size
        x, y = (max(_BOX_PIXELS, OVERHANG * side) for side in (width, height))
        return bool(left < -x or top < -y or right > width + x or bottom > height + y)

    def problem(self) -> str | None:
        """Why the region cannot contain a pixel of the image, or None."""
        if self.runs is not None:
            return None if self.runs[1::2].any() else "with an empty mask"
        if not self.polygons:
            return "without a polygon of three points [x0, y0, x1, y1, x2, y2]"
        height, width = self.size
        points = np.concatenate([polygon.reshape(-1, 2) for polygon in self.polygons])
        if 0 <= points.min() and points.max() <= 1 < max(height, width) / 2:
            return "with coordinates of 0 to 1 instead of pixels"
        inside = False
        for polygon in self.polygons:
            (left, top), (right, bottom) = (f(polygon.reshape(-1, 2), axis=0) for f in (np.min, np.max))
            inside |= left < width and top < height and right > 0 and bottom > 0
        if not inside:
            return "outside of its image"
        return None if any(_area(polygon) > 0 for polygon in self.polygons) else "without area"


def _area(polygon: NDArray[np.float64]) -> float:
    """Area of a polygon, of which parts may cancel where it crosses itself, by the shoelace formula."""
    x, y = polygon[0::2], polygon[1::2]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def parse_region(segmentation: object, size: tuple[int, int]) -> Region:
    """Parse an annotation's ``segmentation``.

    Polygons with fewer than three vertices have no area and are skipped.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...], or RLE: a mapping with ``counts`` (a list, or
            a compressed string) and ``size`` [height, width].
        size: height and width of the image.

    Raises:
        ValueError: it is not a valid region of an image of this size.
    """
    if isinstance(segmentation, Mapping):
        return Region(size, runs=_runs(segmentation, size))
    if not isinstance(segmentation, list):
        raise ValueError(f"expected a list of polygons or RLE, not {type(segmentation).__name__}")
    polygons = []
    reach = _REACH * max(size)
    for vertices in segmentation:
        try:
            polygon = np.asarray(vertices, np.float64)
        except OverflowError as error:
            raise ValueError("expected vertices near the image, not integers of any size") from error
        if polygon.ndim != 1 or polygon.size % 2:
            raise ValueError(f"expected a polygon [x0, y0, x1, y1, ...], not {str(vertices)[:40]}")
        if not (np.isfinite(polygon).all() and np.abs(polygon).max(initial=0) <= reach):
            raise ValueError(
                f"expected vertices near the image of {size[1]}x{size[0]}, not {str(vertices)[:40]}"
            )
        if polygon.size >= 6:
            polygons.append(polygon)
    return Region(size, polygons=tuple(polygons))


def need_pycocotools() -> ModuleType:
    """The module pycocotools.mask.

    Raises:
        DependencyMissing: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DependencyMissing(
            "pycocotools, which rasterizes COCO's polygons",
            got=repr(error),
            fix="pip install 'imp-trt[eval]'",
        ) from error
    module: ModuleType = mask
    return module


def _runs(segmentation: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.int64]:
    if list(segmentation.get("size", size)) != list(size):
        raise ValueError(f"expected RLE of size {list(size)}, not {segmentation['size']}")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        runs = _decompress(counts.encode("ascii", "replace"))
    elif isinstance(counts, list) and all(isinstance(c, int) for c in counts):
        # An integer of Python has any size, one of NumPy 64 bits.
        runs = np.asarray([min(max(c, -1), size[0] * size[1] + 1) for c in counts], np.int64)
    else:
        raise ValueError("counts must be a list of integers or a string")
    if runs.size == 0 or runs.min() < 0 or runs.max() > size[0] * size[1] or runs.sum() != size[0] * size[1]:
        # pycocotools leaves pixels that are not covered by a run uninitialized.
        raise ValueError(f"expected run lengths with sum {size[0] * size[1]}, not {int(runs.sum())}")
    return runs


def _decompress(text: bytes) -> NDArray[np.int64]:
    """Decode COCO's compressed RLE.

    A number is encoded in characters of 5 bits, least significant first, each 48 + bits, plus 32 if more
    follow; the highest bit of its last character is the sign. From the fourth number on, the
    difference to the number two before is encoded.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("counts are not valid compressed RLE")
    last = np.flatnonzero(codes & 32 == 0)
    first = np.r_[0, last[:-1] + 1]
    digits = last - first + 1
    if digits.max() > 8:
        raise ValueError("counts are not valid compressed RLE")
    place = np.arange(codes.size) - np.repeat(first, digits)
    values = np.add.reduceat((codes & 31) << (5 * place), first)
    values -= ((codes[last] & 16) != 0) * (np.int64(1) << (5 * digits))
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values

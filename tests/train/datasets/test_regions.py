# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import numpy as np
import pytest

from imp_trt.errors import DependencyMissing
from imp_trt.train.datasets.regions import parse_region


def _codec():
    return pytest.importorskip("pycocotools.mask", reason="needs pycocotools")


def _masks(rng: np.random.Generator) -> list[np.ndarray]:
    """Masks of every density, and the ones at the ends: nothing, everything, one pixel, stripes."""
    sizes = [(1, 1), (1, 9), (7, 1), (13, 17), (64, 48), (301, 203)]
    masks = [rng.random(size) < density for size in sizes for density in (0, 0.01, 0.5, 0.99, 1)]
    stripes = np.zeros((40, 30), bool)
    stripes[:, ::2] = True
    blob = np.zeros((700, 900), bool)
    blob[100:600, 50:850] = True
    return [*masks, stripes, blob]


def test_run_lengths_are_those_of_pycocotools() -> None:
    codec = _codec()
    for mask in _masks(np.random.default_rng(0)):
        packed = codec.encode(np.asfortranarray(mask.astype(np.uint8)))
        segmentation = {"size": list(mask.shape), "counts": packed["counts"].decode()}
        region = parse_region(segmentation, mask.shape)
        assert np.array_equal(region.mask(), mask)
        plain = {"size": list(mask.shape), "counts": region.runs.tolist()}
        assert np.array_equal(parse_region(plain, mask.shape).mask(), mask)
        assert np.array_equal(codec.decode(codec.frPyObjects(plain, *mask.shape)), mask)


def test_run_lengths_by_hand() -> None:
    # Column by column: 3 outside, 2 inside, 1 outside.
    mask = parse_region({"counts": [3, 2, 1], "size": [2, 3]}, (2, 3)).mask()
    assert mask.tolist() == [[False, False, True], [False, True, False]]
    assert np.array_equal(parse_region({"counts": "321", "size": [2, 3]}, (2, 3)).mask(), mask)


def test_polygons_are_filled_as_pycocotools_does() -> None:
    codec = _codec()
    rng = np.random.default_rng(1)
    for _ in range(50):
        polygons = [list(rng.uniform(-5, 45, 2 * int(rng.integers(3, 9)))) for _ in range(2)]
        expected = codec.decode(codec.merge(codec.frPyObjects(polygons, 30, 40)))
        assert np.array_equal(parse_region(polygons, (30, 40)).mask(), expected)


def test_a_square_covers_its_pixels_and_polygons_unite() -> None:
    _codec()
    square, other = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0], [6, 0, 8, 0, 8, 2, 6, 2]
    mask = parse_region([square, other, [0, 0, 9, 7], []], (8, 10)).mask()
    expected = np.zeros((8, 10), bool)
    expected[1:4, 1:5], expected[0:2, 6:8] = True, True
    assert np.array_equal(mask, expected)


def test_regions_without_area_are_empty() -> None:
    assert not parse_region([], (4, 5)).mask().any()
    assert not parse_region([[1, 1, 2, 2]], (4, 5)).mask().any()


@pytest.mark.parametrize(
    ("segmentation", "named"),
    [
        (None, "NoneType"),
        ("abc", "str"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon"),
        ([["a", 2, 3, 4, 5, 6]], "could not convert"),
        ([1, 2, 3, 4, 5, 6], "a polygon"),
        ([[1e9, 1, 5, 1, 5, 5]], "near the image of 10x8"),
        ([[float("nan"), 1, 5, 1, 5, 5]], "near the image"),
        ({"counts": [3, 4], "size": [8, 10]}, "sum 80, not 7"),
        ({"counts": [], "size": [8, 10]}, "sum 80"),
        ({"counts": [-3, 83], "size": [8, 10]}, "sum 80"),
        ({"counts": [1.5, 78.5], "size": [8, 10]}, "integers"),
        ({"counts": [80], "size": [10, 8]}, r"size \[8, 10\], not \[10, 8\]"),
        ({"counts": "5", "size": [8, 10]}, "sum 80"),
        ({"counts": "", "size": [8, 10]}, "compressed RLE"),
        ({"counts": "0`", "size": [8, 10]}, "compressed RLE"),
        ({"counts": "oooooooooooooooo2", "size": [8, 10]}, "compressed RLE"),
        ({"counts": "\x00é", "size": [8, 10]}, "compressed RLE"),
        ({"size": [8, 10]}, "counts must be a list"),
    ],
)
def test_what_is_no_region_is_rejected(segmentation: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_region(segmentation, (8, 10))


def test_polygons_need_pycocotools_and_run_lengths_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert parse_region({"counts": [0, 20], "size": [4, 5]}, (4, 5)).mask().all()
    with pytest.raises(DependencyMissing, match=r"pip install 'imp-trt\[eval\]'"):
        parse_region([[0, 0, 3, 0, 3, 3]], (4, 5)).mask()


@pytest.mark.parametrize(
    ("polygon", "beyond"),
    [
        ([0, 0, 128, 0, 128, 96], False),
        ([-6, -4.5, 134, 0, 134, 100], False),
        ([-7, 0, 60, 0, 60, 50], True),
        ([0, 0, 60, -5, 60, 50], True),
        ([0, 0, 135, 0, 60, 50], True),
        ([0, 0, 60, 0, 60, 102], True),
    ],
)
def test_polygons_that_reach_beyond_their_image(polygon: list[float], beyond: bool) -> None:
    assert parse_region([[10, 10, 20, 10, 20, 20], polygon], (96, 128)).reaches_beyond() == beyond


def test_a_small_image_has_a_margin_of_pixels() -> None:
    assert not parse_region([[-3, 0, 5, 0, 5, 5]], (20, 20)).reaches_beyond()
    assert not parse_region({"counts": [0, 400]}, (20, 20)).reaches_beyond()
    assert not parse_region([], (20, 20)).reaches_beyond()

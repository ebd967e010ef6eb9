# SPDX-License-Identifier: Apache-2.0
"""Instances in COCO's results format, against pycocotools."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imp_trt.errors import InvalidInput
from imp_trt.results.coco import compress_runs, run_lengths
from imp_trt.results.result import Instances, SegmentationResult
from tests.support import tiny

SIZE = (tiny.HEIGHT, tiny.WIDTH)


def found(count: int = 2) -> SegmentationResult:
    instances = Instances(
        tiny.BOXES[:count], tiny.LABELS[:count], tiny.SCORES[:count], tiny.MASKS[:count], SIZE
    )
    return SegmentationResult(tiny.truth(tiny.frame()), instances, tiny.CLASSES)


def placed(mask: NDArray[np.bool_], x: int, y: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    whole = np.zeros(size, np.bool_)
    whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return whole


@st.composite
def crops(draw: st.DrawFn) -> tuple[NDArray[np.bool_], int, int, tuple[int, int]]:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    y, x = draw(st.integers(0, height)), draw(st.integers(0, width))
    shape = (draw(st.integers(0, height - y)), draw(st.integers(0, width - x)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.97, 1.0])), x, y, (height, width)


@given(crops())
@settings(max_examples=200, deadline=None)
def test_encoding_equals_pycocotools(case: tuple[NDArray[np.bool_], int, int, tuple[int, int]]) -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    whole = placed(*case)
    wanted = coco.encode(np.asfortranarray(whole.view(np.uint8)))["counts"].decode()
    assert compress_runs(run_lengths(*case)) == wanted


def test_long_runs_equal_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    whole = np.zeros((3000, 4000), np.bool_)
    whole[:, 1500:] = True
    whole[2999, 3999] = False
    whole[0, 0] = True
    wanted = coco.encode(np.asfortranarray(whole.view(np.uint8)))["counts"].decode()
    assert compress_runs(run_lengths(whole, 0, 0, whole.shape)) == wanted


def test_run_lengths_by_hand() -> None:
    mask = np.array([[1, 0], [1, 1]], np.bool_)
    assert run_lengths(mask, 0, 0, (2, 2)).tolist() == [0, 2, 1, 1]
    assert run_lengths(mask, 1, 1, (4, 3)).tolist() == [5, 2, 3, 1, 1]
    assert run_lengths(np.zeros((0, 0), np.bool_), 2, 1, (3, 5)).tolist() == [15]


def test_entries() -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    result = found()
    entries = json.loads(json.dumps(result.to_coco(7)))
    assert [e["image_id"] for e in entries] == [7, 7]
    assert [e["category_id"] for e in entries] == [2, 3]
    assert entries[0]["bbox"] == [10, 20, 40, 32]
    assert [e["score"] for e in entries] == pytest.approx([0.9, 0.6])
    for entry, mask in zip(entries, result.instances.paste(), strict=True):
        assert np.array_equal(coco.decode(entry["segmentation"]).astype(np.bool_), mask)


def test_categories_of_a_data_set() -> None:
    assert [e["category_id"] for e in found().to_coco("a", {"car": 3, "person": 1, "dog": 18})] == [3, 1]
    assert [e["category_id"] for e in found().to_coco("a", {"car": 3}, min_score=0.7)] == [3]
    with pytest.raises(InvalidInput, match="person"):
        found().to_coco("a", {"car": 3})


def test_areas_are_those_of_masks_without_the_boxes() -> None:
    """As docs/guides/results.md says: pycocotools takes the area of a bbox if there is one."""
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    known = coco.COCO()
    known.dataset = {"info": {}, "images": [{"id": 7}], "annotations": [], "categories": []}
    known.createIndex()
    masks = [int(mask.sum()) for mask in found().instances.paste()]
    entries = found().to_coco(7)
    areas = [known.loadRes(e).dataset["annotations"] for e in (entries, [_without_bbox(e) for e in entries])]
    with_box, without = ([entry["area"] for entry in annotations] for annotations in areas)
    assert without == masks
    assert with_box != masks


def _without_bbox(entry: Any) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "bbox"}


def test_nothing_found() -> None:
    assert found(0).to_coco(1) == []


@pytest.mark.parametrize("image_id", [np.int64(4), np.uint8(4), 4])
def test_image_ids_of_numpy_are_plain_data(image_id: int) -> None:
    entries = json.loads(json.dumps(found().to_coco(image_id)))
    assert {entry["image_id"] for entry in entries} == {4}


@pytest.mark.parametrize("number", [None, 1.5, np.float32(1), True, np.True_])
def test_ids_that_are_no_integers_are_rejected(number: Any) -> None:
    with pytest.raises(InvalidInput, match="image_id"):
        found(0).to_coco(number)
    with pytest.raises(InvalidInput, match="'car'"):
        found().to_coco(1, {"car": number, "person": 2})


def test_crops_by_index() -> None:
    instances = found().instances
    np.testing.assert_array_equal(instances.crop(-1)[0], instances.crop(1)[0])
    assert instances.crop(-1)[0].any()
    for index in (2, 7, -3):
        with pytest.raises(IndexError):
            instances.crop(index)

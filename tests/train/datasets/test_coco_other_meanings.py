# SPDX-License-Identifier: Apache-2.0
"""COCO files that look valid and mean something else: rejected, read as meant, or counted."""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.cli import data as command
from imp_trt.data import images
from imp_trt.errors import DatasetError
from imp_trt.train.datasets import open_dataset
from imp_trt.train.datasets.regions import parse_region
from tests.train.datasets.small_files import (
    RING,
    Change,
    H,
    W,
    boxes_of,
    two_classes,
    write_coco,
)


@pytest.fixture(autouse=True)
def _nothing_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_warned", set())


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        ('"iscrowd": 0', '"iscrowd": 1, "iscrowd": 0'),
        ('"categories": [', '"categories": [], "categories": ['),
        ('"name": "cat"', '"name": "cat", "name": "dog"'),
    ],
)
def test_a_key_given_twice(once: str, twice: str, tmp_path: Path) -> None:
    where = write_coco(tmp_path, lambda data: None)
    path = tmp_path / "train.json"
    path.write_text(path.read_text().replace(once, twice, 1))
    key = once.partition('"')[2].partition('"')[0]
    with pytest.raises(DatasetError, match=f"key '{key}' is given twice"):
        open_dataset(where, "train")


WHOLE = [(0, "cat", [20, 10, 60, 50]), (1, "dog", [20, 10, 60, 50])]


def _runs(mask: NDArray[np.uint8], order: Any) -> dict[str, Any]:
    flat = mask.astype(bool).flatten(order)
    edges = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [H, W], "counts": np.diff(np.r_[0, edges, flat.size]).tolist()}


def _first(**changes: object) -> Change:
    return lambda data: data["annotations"][0].update(changes)


def _names(one: object, two: object) -> Change:
    return lambda data: [c.update(name=n) for c, n in zip(data["categories"], (one, two), strict=True)]


COCO_SAID: dict[str, tuple[Change, str]] = {
    "image under two ids": (lambda d: d["images"][1].update(file_name="a.png"), "1 images .* several ids"),
    "image in two spellings": (lambda d: d["images"][1].update(file_name="./a.png"), "several ids"),
    "object twice": (
        lambda d: d["annotations"].append({**d["annotations"][0], "id": 3}),
        r"1 of 3 objects are not used: 1 that repeat another of their image \(annotation 3\)",
    ),
    "object below another": (
        lambda d: d["annotations"].append({**d["annotations"][0], "id": 3, "category_id": 2}),
        r"a\.png has objects that others hide",
    ),
    "object without a pixel": (_first(segmentation=[[20.1, 10.1, 20.3, 10.1, 20.3, 10.3]]), "cover no pixel"),
    "names in two cases": (_names("cat", "Cat"), "'cat' and 'Cat'"),
    "names with a space": (_names("cat", "cat "), "begin or end with a space: 'cat '"),
    "names in two forms of Unicode": (
        _names("caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")),
        "classes differ only in case",
    ),
    "names with two kinds of spaces": (_names("traffic light", "traffic\u00a0light"), "classes differ only"),
    "names with and without underscore": (_names("traffic light", "traffic_light"), "classes differ only"),
    "name with an invisible character": (_names("cat", "c\u200bat"), "classes differ only"),
    "runs along rows": (_first(segmentation=_runs(two_classes() == 1, "C")), "1 with a bbox that is not"),
    "y before x": (
        _first(segmentation=[[v for p in range(0, 8, 2) for v in (RING[p + 1], RING[p])]]),
        "bbox",
    ),
    "percent": (_first(segmentation=[[v / (W, H)[i % 2] * 100 for i, v in enumerate(RING)]]), "bbox that"),
    "a smaller image": (_first(segmentation=[[v / 4 for v in RING]]), "order, unit or image size"),
    "a larger image": (
        _first(segmentation=[[v * 2 for v in (40, 20, 120, 20, 120, 100)]], bbox=[80, 40, 160, 160]),
        r"1 that reach far beyond their image \(annotation 1\), of 2: .*image size",
    ),
    "a larger image, no bbox": (_first(segmentation=[[-30, 5, 60, 5, 60, 50]], bbox=[]), "reach far beyond"),
    "a hole": (
        _first(segmentation=[RING, [30, 20, 50, 20, 50, 40, 30, 40]], area=1200),
        r"1 with a polygon inside another, which is filled; holes need RLE \(annotation 1\)",
    ),
    "an object to ignore": (_first(ignore=1), "1 with ignore 1, which are used"),
    "keypoints with visibility": (
        _first(segmentation=[[20, 10, 2, 60, 10, 2, 60, 50, 2, 20, 50, 2]]),
        "bbox",
    ),
}


@pytest.mark.parametrize("name", COCO_SAID)
def test_coco_that_is_accepted_is_named(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    change, words = COCO_SAID[name]
    boxes_of(open_dataset(write_coco(tmp_path, change), "train"))
    assert [r.levelno for r in caplog.records if _matches(words, r.getMessage())] == [logging.WARNING]


def _matches(words: str, text: str) -> bool:

    return re.search(words, text) is not None


COCO_REJECTED: dict[str, tuple[Change, str]] = {
    "category id 1.7": (lambda d: d["categories"][0].update(id=1.7), "a category id must be an integer"),
    "category id false": (lambda d: d["categories"][0].update(id=False), "must be an integer, not False"),
    "category_id true": (_first(category_id=True), "category_id must be an integer"),
    "width 128.9": (lambda d: d["images"][0].update(width=128.9), "width must be an integer"),
    "no name": (_names("cat", None), "class names must be text"),
    "empty name": (_names("cat", "  "), "class names must be text"),
    "name with a lone surrogate": (_names("cat", "\ud800x"), "class names must be text"),
    "name without end": (_names("cat", "x" * 1001), "class names must be text"),
    "isthing 2": (lambda d: d["categories"][0].update(isthing=2), "isthing must be 0 or 1"),
    "isthing as text": (lambda d: d["categories"][0].update(isthing="0"), "isthing must be 0 or 1"),
    "name of two lines": (_names("cat", "a\nb"), "class names must be text"),
}


@pytest.mark.parametrize("name", COCO_REJECTED)
def test_coco_that_is_rejected(name: str, tmp_path: Path) -> None:
    change, words = COCO_REJECTED[name]
    with pytest.raises(DatasetError, match=words):
        open_dataset(write_coco(tmp_path, change), "train")


def _as_text(data: dict[str, Any]) -> None:
    for row, key in [(c, "id") for c in data["categories"]] + [
        (a, "category_id") for a in data["annotations"]
    ]:
        row[key] = str(row[key])


COCO_MEANT: dict[str, Change] = {
    "unchanged": lambda d: None,
    "category ids as text": _as_text,
    "category ids as floats": lambda d: [c.update(id=float(c["id"])) for c in d["categories"]],
    "width as text": lambda d: d["images"][0].update(width=str(W)),
    "a path of Windows": lambda d: d["images"][0].update(file_name="sub\\c.png"),
    "isthing": lambda d: [c.update(isthing=v) for c, v in zip(d["categories"], (1, True), strict=True)],
    "no bbox": lambda d: d["annotations"][0].pop("bbox"),
    "an empty bbox": _first(bbox=[]),
    "no object to ignore": _first(ignore=0),
    "an area of any type": _first(area="1600", segmentation=[RING, [21, 11, 20, 11, 20, 10]]),
    "a bbox of zeros": _first(bbox=[0, 0, 0, 0]),
    "a bbox that is rounded outward": _first(bbox=[18, 8, 44, 44]),
    "runs down the columns": _first(segmentation=_runs(two_classes() == 1, "F")),
    "a name that is a number": _names("cat", "dog"),
}


@pytest.mark.parametrize("name", COCO_MEANT)
def test_coco_that_is_meant_is_read_in_silence(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    assert boxes_of(open_dataset(write_coco(tmp_path, COCO_MEANT[name]), "train")) == WHOLE
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_bounds_of_runs_are_those_of_their_masks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(v) for v in rng.integers(1, 9, 2))
        mask = rng.random((height, width)) < rng.choice([0.05, 0.3, 0.9])
        flat = mask.flatten("F")
        runs = np.diff(np.r_[0, np.flatnonzero(np.diff(flat)) + 1, flat.size]).tolist()
        region = parse_region(
            {"size": [height, width], "counts": [0, *runs] if flat[0] else runs}, mask.shape
        )
        y, x = np.nonzero(mask)
        bounds = region.bounds()
        if not y.size:
            assert bounds is None
            continue
        assert bounds is not None
        assert bounds[[0, 2]].tolist() == [x.min(), x.max() + 1]
        assert bounds[[1, 3]].tolist() == [y.min(), y.max() + 1]


@pytest.mark.parametrize("last", [0, 1, None])
def test_categories_that_the_file_calls_stuff(
    last: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in COCO's panoptic annotations and what is made of them."""
    pytest.importorskip("pycocotools", reason="needs pycocotools")

    def change(data: dict[str, Any]) -> None:
        data["categories"][0]["isthing"], data["categories"][1]["isthing"] = False, last

    data = open_dataset(write_coco(tmp_path, change), "train")
    assert data.classes.names == ("background", "cat", "dog")
    assert data.classes.things == (() if last == 0 else (2,))
    assert (data[0].semantic == 1).sum() == 40 * 40
    assert boxes_of(data) == ([] if last == 0 else WHOLE[1:])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("level", [None, 0, 200])
def test_images_of_the_same_names_in_two_folders(
    level: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    for name in ("annotations", "train", "images"):
        (tmp_path / name).mkdir()
    write_coco(tmp_path / "train", lambda data: None)
    (tmp_path / "train/train.json").rename(tmp_path / "annotations/instances_train.json")
    if level is not None:  # the second is a copy
        image = np.zeros((H, W, 3), np.uint8)
        image[::2] = level
        assert cv2.imwrite(str(tmp_path / "images/a.png"), image)
    data = open_dataset(str(tmp_path), "train")
    assert data.image_path(0) == tmp_path / "train/a.png"  # type: ignore[attr-defined]
    assert (f"other images of the same names are in {tmp_path}/images" in caplog.text) == (level == 200)


def test_hidden_objects_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    write_coco(tmp_path, COCO_SAID["object below another"][0])
    assert command.main([str(tmp_path), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["hidden_objects"] == 1
    assert command.main([str(tmp_path), "-q"]) == 0
    assert "1 object hidden by others, or without a pixel" in capsys.readouterr().out

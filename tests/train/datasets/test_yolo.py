# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from imp_trt.errors import DatasetError, DependencyMissing
from imp_trt.train.datasets import open_dataset, yolo
from tests.support.label_layouts import LAYOUTS, scene, yolo_lines

POLYGON = "0 0.1 0.1 0.9 0.1 0.9 0.9\n"


def _write(root: Path, lines: str = POLYGON, description: str | None = None) -> Path:
    (root / "images/train").mkdir(parents=True)
    (root / "labels/train").mkdir(parents=True)
    assert cv2.imwrite(str(root / "images/train/a.png"), np.zeros((20, 20, 3), np.uint8))
    (root / "labels/train/a.txt").write_text(lines)
    text = "names: [thing, other]\ntrain: images/train\n" if description is None else description
    (root / "data.yaml").write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("7 0.1 0.1 0.9 0.1 0.9 0.9\n", r"a\.txt line 1.*class one of 0 to 1"),
        (POLYGON + "x 0.1 0.1 0.9 0.1 0.9 0.9\n", r"a\.txt line 2"),
        ("0 0.1 0.1 zero 0.1 0.9 0.9\n", r"a\.txt line 1"),
        ("0 0.5 0.5 0.2 0.2\n", r"1 boxes without a polygon \(annotation a\.txt:1\)"),
        ("0 0.5 0.5 0.2 0.2\n", "Fix: export YOLO segmentation"),
        ("0 0.1 0.1 0.9 0.1 0.9\n", "without a polygon of three points"),
        ("0 10 10 19 10 19 19\n", "no fractions of width and height"),
        ("0 0.1 0.1 nan 0.1 0.9 0.9\n", "no fractions of width and height"),
        ("0 0.1 0.1 1e300 0.1 0.9 0.9\n", "no fractions of width and height"),
        ("0 0.1 0.1 0.1 0.1 0.1 0.1\n", "without area"),
        ("", "no annotations"),
    ],
)
def test_lines_that_are_no_polygons(lines: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=told):
        open_dataset(str(_write(tmp_path, lines)), "train")


NO_VALUES = ("!!int ''", "!!float ''", "!!float _", "!!bool maybe", "!!timestamp x", "2024-13-45")
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b]\ntrain: images/train\n"


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ("names: [a\n", "a YAML file"),
        ("- names\n", "got list"),
        ("!!python/object/apply:os.system ['true']\n", "ConstructorError"),
        (BOMB, "aliases"),
        ("[" * 1200, "YAML file"),
        *((f"names: [car]\nx: {value}\n", "YAML file") for value in NO_VALUES),
        ("train: images/train\n", "names: a list"),
        ("names: {a: b}\ntrain: images/train\n", "names: a list"),
        ("names: {.inf: b}\ntrain: images/train\n", "names: a list"),
        ("names: [a, a]\ntrain: images/train\n", "each name once"),
        ("names: [a]\ntrain: 3\n", "paths for train"),
        ("names: [a]\ntrain: nowhere\n", "an existing folder or list"),
        (f"names: [a]\ntrain: {'b' * 5000}\n", "File name too long"),
        ("names: [a]\n", "a folder or list of images"),
        ("names: [a]\ntrain: labels/train\n", "a folder or list of images"),
    ],
)
def test_descriptions_that_cannot_be_used(description: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=told):
        open_dataset(str(_write(tmp_path, description=description)), "train")


def test_the_numbers_of_the_classes_are_part_of_what_it_is(tmp_path: Path) -> None:
    lines = POLYGON.replace("0", "1", 1)
    digests = {}
    for names in ("{0: thing, 1: other}", "{1: thing, 2: other}"):
        root = _write(tmp_path / names, lines, f"names: {names}\ntrain: images/train\n")
        data = open_dataset(str(root), "train")
        digests[names] = data.content_digest()  # type: ignore[attr-defined]
        assert data.classes.names == ("background", "thing", "other")
    assert len({*digests.values()}) == 2


def test_many_keys_take_little_time(tmp_path: Path) -> None:
    """Comparing each of them with each takes minutes."""
    keys = [str(number) for number in range(180_000)]
    start = time.process_time()
    yolo._need_once(keys)
    with pytest.raises(ValueError, match="twice in the file: 7"):
        yolo._need_once([*keys, "7"])
    assert time.process_time() - start < 10


def test_a_list_of_images_as_cvat_writes_it(tmp_path: Path) -> None:
    _write(tmp_path, description="names: {0: thing, 1: other}\ntrain: train.txt\npath: .\n")
    (tmp_path / "train.txt").write_text("data/images/train/a.png\n\n")
    data = open_dataset(str(tmp_path), "train")
    assert data[0].semantic[5, 15] == 1
    (tmp_path / "train.txt").write_text("data/images/train/b.png\n")
    with pytest.raises(DatasetError, match=r"files missing: .*b\.png"):
        open_dataset(str(tmp_path), "train")


def test_text_of_images_in_another_list_is_not_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All images in one folder, and a list for each split."""
    root = _write(tmp_path, description="names: {0: thing, 1: other}\ntrain: train.txt\nval: val.txt\n")
    for name in ("b", "c"):
        (root / f"labels/train/{name}.txt").write_text(POLYGON)
    assert cv2.imwrite(str(root / "images/train/b.png"), np.zeros((20, 20, 3), np.uint8))
    for split, name in (("train", "a"), ("val", "b")):
        (root / f"{split}.txt").write_text(f"images/train/{name}.png\n")
        caplog.clear()
        data = open_dataset(str(root), split)
        assert len(data) == 1
        assert "1 in text files without an image (annotation c.txt)" in caplog.text


def test_images_without_text_are_background_and_lines_may_be_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _write(tmp_path, POLYGON + "1 0.5 0.5 0.2 0.2\n")
    assert cv2.imwrite(str(root / "images/train/b.png"), np.zeros((20, 20, 3), np.uint8))
    data = open_dataset(str(root), "train")
    assert len(data) == 2
    assert not data[1].semantic.any()
    assert "1 of 2 objects are not used: 1 boxes without a polygon" in caplog.text
    assert "no image shows the classes other" in caplog.text


def test_a_text_that_is_a_link_without_a_target_is_an_error(tmp_path: Path) -> None:
    """As git-annex and DVC leave them: the image would be background alone."""
    root = _write(tmp_path, POLYGON)
    assert cv2.imwrite(str(root / "images/train/b.png"), np.zeros((20, 20, 3), np.uint8))
    (root / "labels/train/b.txt").symlink_to("nowhere.txt")
    with pytest.raises(DatasetError, match=r"labels/train/b\.txt: expected a text file, got FileNotFound"):
        open_dataset(str(root), "train")


def test_without_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(DependencyMissing, match=r"imp-trt\[train\]"):
        open_dataset(str(_write(tmp_path)), "train")


def test_the_path_of_another_machine_is_passed_over(tmp_path: Path) -> None:
    LAYOUTS["yolo"](tmp_path)
    text = (tmp_path / "data.yaml").read_text().replace("path: .", "path: /home/someone/datasets/mine")
    (tmp_path / "data.yaml").write_text(text)
    assert len(open_dataset(str(tmp_path), "train")) == 3
    assert yolo_lines(scene(0)).startswith("0 0.0 0.7")

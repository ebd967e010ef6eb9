# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.classes import default_palette
from imp_trt.errors import DatasetError
from imp_trt.train.datasets import open_dataset
from tests.support.label_layouts import LAYOUTS, H, W


def _palette_png(path: Path, values: NDArray[np.uint8]) -> None:
    """An indexed PNG with PASCAL VOC's palette, as in the original dataset."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    palette = bytes(v for color in (*default_palette(255), (224, 224, 192)) for v in color)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"PLTE", palette), chunk(b"IDAT", zlib.compress(rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))


def _original(root: Path) -> Path:
    """Two aeroplanes that touch, each with a border, and a person without an object of its own."""
    for name in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    semantic, numbers = np.zeros((12, 20), np.uint8), np.zeros((12, 20), np.uint8)
    semantic[2:10, 2:14], numbers[2:10, 2:8], numbers[2:10, 8:14] = 1, 1, 2
    semantic[2], numbers[2] = 255, 255
    semantic[4:8, 16:19] = 15
    _palette_png(root / "SegmentationClass/a.png", semantic)
    _palette_png(root / "SegmentationObject/a.png", numbers)
    assert cv2.imwrite(str(root / "JPEGImages/a.jpg"), np.zeros((12, 20, 3), np.uint8))
    (root / "ImageSets/Segmentation/train.txt").write_text("a\n")
    return root


def test_components_that_are_too_small_for_objects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The person has 12 pixels: a component of fewer than 50 is no instance."""
    root = _original(tmp_path)
    semantic = np.zeros((12, 20), np.uint8)
    semantic[4:8, 16:19] = 15
    _palette_png(root / "SegmentationClass/a.png", semantic)
    _palette_png(root / "SegmentationObject/a.png", semantic)
    assert open_dataset(str(root), "train")[0].instances.max() == 1
    assert "shows an object" not in caplog.text
    shutil.rmtree(root / "SegmentationObject")
    assert open_dataset(str(root), "train")[0].instances.max() == 0
    assert "none of 1 label maps shows an object of 50 pixels or more" in caplog.text


@pytest.mark.parametrize("inside", ["", "VOC2012"])
def test_the_original_palette(inside: str, tmp_path: Path) -> None:
    _original(tmp_path / inside)
    data = open_dataset(str(tmp_path), "train")
    assert len(data.classes) == 21
    assert data.classes.things == tuple(range(1, 21))
    sample = data[0]
    assert (sample.semantic[2] == 255).all()
    assert sample.instances.max() == 2
    assert (sample.instances[3:10, 2:8] == 1).all()
    assert (sample.instances[3:10, 8:14] == 2).all()
    assert (sample.semantic[4:8, 16:19] == 15).all()
    assert not sample.instances[:, 15:].any()


def test_class_indices_in_place_of_colors(tmp_path: Path) -> None:
    written = LAYOUTS["voc"](tmp_path)
    colored = open_dataset(str(tmp_path), "train")[0]
    for seed in (0, 1, 2):
        semantic, numbers = written.scenes[f"pic {seed}"].planes()
        semantic[0, 0] = 255
        cv2.imwrite(str(tmp_path / f"SegmentationClass/pic {seed}.png"), semantic)
        cv2.imwrite(str(tmp_path / f"SegmentationObject/pic {seed}.png"), numbers)
    gray = open_dataset(str(tmp_path), "train")[0]
    assert gray.semantic[0, 0] == 255
    assert np.array_equal(gray.semantic.ravel()[1:], colored.semantic.ravel()[1:])
    assert np.array_equal(gray.instances, colored.instances)


def test_colors_of_no_class_are_named(tmp_path: Path) -> None:
    written = LAYOUTS["voc"](tmp_path)
    mask = cv2.imread(str(written.labels[0]))
    mask[0, :3], mask[1, 0] = (3, 2, 1), (9, 9, 9)
    cv2.imwrite(str(written.labels[0]), mask)
    with pytest.raises(DatasetError, match=r"in 4 pixels also the colors 1,2,3, 9,9,9\. Fix: .*labelmap"):
        _ = list(open_dataset(str(tmp_path), "train"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("car\n", "line 1"),
        ("car:0,0,999::\n", "palette"),
        ("a:0,0,0::\nb:0,0,0::\n", "each color once"),
        ("a:0,0,0::\na:0,0,1::\n", "each name once"),
        ("", "1 to 255 names"),
        ("\0", "line 1"),
    ],
)
def test_wrong_label_maps_are_rejected(text: str, told: str, tmp_path: Path) -> None:
    LAYOUTS["voc"](tmp_path)
    (tmp_path / "labelmap.txt").write_text(text)
    with pytest.raises(DatasetError, match=told):
        open_dataset(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("../../etc/x", "a path out of it"),
        ("/etc/x", "a path out of it"),
        ("", "got none"),
        ("no", "missing"),
    ],
)
def test_wrong_lists_are_rejected(line: str, told: str, tmp_path: Path) -> None:
    LAYOUTS["voc"](tmp_path)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text(line)
    with pytest.raises(DatasetError, match=told):
        open_dataset(str(tmp_path), "train")


def test_masks_must_be_png(tmp_path: Path) -> None:
    written = LAYOUTS["voc"](tmp_path)
    written.labels[0].write_bytes(cv2.imencode(".jpg", np.zeros((H, W, 3), np.uint8))[1].tobytes())
    with pytest.raises(DatasetError, match="lossy"):
        _ = list(open_dataset(str(tmp_path), "train"))


def test_without_lists_all_masks_are_divided(tmp_path: Path) -> None:
    written = LAYOUTS["voc-cvat"](tmp_path)
    (tmp_path / "ImageSets/Segmentation/default.txt").unlink()
    assert sum(len(open_dataset(str(tmp_path), split)) for split in ("train", "val")) == len(written.scenes)

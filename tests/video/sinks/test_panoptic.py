# SPDX-License-Identifier: Apache-2.0
"""Panoptic PNGs and their JSON, read back by COCO's rules."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imp_trt.classes import ClassTable
from imp_trt.errors import OutputError
from imp_trt.results.panoptic import Panoptic, Segment
from imp_trt.results.result import SegmentationResult
from imp_trt.video.sinks import PanopticMaps
from imp_trt.video.sinks import images as images_module
from imp_trt.video.sinks import panoptic as panoptic_module
from imp_trt.video.sinks.panoptic import _colorize, segment_colors
from tests.support import tiny
from tests.video.sinks.conftest import MakeItem


def read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "panoptic.json").read_text()))


def test_maps_and_segments_agree(tmp_path: Path, results: list[SegmentationResult], item: MakeItem) -> None:
    with PanopticMaps(tmp_path) as sink:
        for i in range(3):
            assert sink.write(item(i))
        assert not (tmp_path / "panoptic.json").exists()
    assert sorted(os.listdir(tmp_path)) == ["name0.png", "name1.png", "name2.png", "panoptic.json"]
    data = read(tmp_path)
    assert [image["id"] for image in data["images"]] == [1, 2, 3]
    assert [(c["id"], c["name"], c["isthing"]) for c in data["categories"]] == [
        (0, "road", 0),
        (1, "sky", 0),
        (2, "car", 1),
        (3, "person", 1),
    ]
    for image, annotation, result in zip(data["images"], data["annotations"], results, strict=True):
        assert annotation["image_id"] == image["id"]
        assert annotation["file_name"] == image["file_name"]
        assert (image["height"], image["width"]) == result.size
        blue, green, red = cv2.split(cv2.imread(str(tmp_path / image["file_name"])).astype(np.int64))
        ids = red + 256 * green + 65536 * blue
        panoptic = result.panoptic()
        listed = annotation["segments_info"]
        assert {0, *(s["id"] for s in listed)} >= set(np.unique(ids).tolist())
        assert np.array_equal(ids == 0, panoptic.ids == 0)
        for info, segment in zip(listed, panoptic.segments, strict=True):
            mask = ids == info["id"]
            assert np.array_equal(mask, panoptic.ids == segment.id)
            assert (info["category_id"], info["area"]) == (segment.label, int(mask.sum()))
            rows, columns = np.nonzero(mask)
            x, y = int(columns.min()), int(rows.min())
            assert info["bbox"] == [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
            assert info["iscrowd"] == 0
            assert ("score" in info) == segment.is_thing


def test_ids_are_shades_of_the_class_colors() -> None:
    """The first segment of a class has its color, others look alike, none is void or equal to another."""
    classes = ClassTable(("a", "b"), (0, 1), ((0, 0, 0), (12, 0, 0)))
    segments = tuple(Segment(i + 1, i % 2, True, 0.9, 1) for i in range(1300))
    colors = segment_colors(Panoptic(np.zeros((1, 1), np.int32), segments), classes)
    assert len(set(colors.tolist())) == len(segments) + 1
    assert colors[0] == 0
    assert colors.max() < 1 << 24
    table = segment_colors(Panoptic(np.zeros((1, 1), np.int32), (Segment(1, 1, False, 1, 1),)), tiny.CLASSES)
    red, green, blue = tiny.CLASSES.palette[1]
    assert table.tolist() == [0, red + 256 * green + 65536 * blue]


@pytest.mark.parametrize("count", [255, 256])
def test_many_segments_are_painted_as_few_are(count: int) -> None:
    ids = np.arange(count + 1, dtype=np.int64) * 65_793 // 3
    numbers = np.arange(count + 1).reshape(1, -1)
    picture = _colorize(numbers.astype(np.uint8 if count < 256 else np.int32), ids)
    blue, green, red = (picture[0, :, channel].astype(np.int64) for channel in range(3))
    assert np.array_equal(red + 256 * green + 65536 * blue, ids)


def test_sources_have_folders_and_ids_of_their_own(tmp_path: Path, item: MakeItem) -> None:
    with PanopticMaps(tmp_path) as sink:
        for source in ("front", "rear"):
            sink.write(item(source=source))
    data = read(tmp_path)
    assert [(i["id"], i["file_name"]) for i in data["images"]] == [
        (1, "front/name0.png"),
        (2, "rear/name0.png"),
    ]
    assert all((tmp_path / i["file_name"]).is_file() for i in data["images"])


def test_a_run_without_frames_leaves_nothing(tmp_path: Path) -> None:
    PanopticMaps(tmp_path / "maps").close()
    assert os.listdir(tmp_path / "maps") == []


@pytest.mark.parametrize("place", ["map.png", "%d.png", "map.jpg"])
def test_maps_need_a_folder(tmp_path: Path, place: str) -> None:
    with pytest.raises(OutputError, match="folder"):
        PanopticMaps(tmp_path / place)


def test_maps_before_a_failed_write_have_their_json(
    tmp_path: Path, item: MakeItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = PanopticMaps(tmp_path)
    assert sink.write(item(0))

    def full(*arguments: object, **options: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(images_module, "write_atomically", full)
    with pytest.raises(OutputError, match="full"):
        sink.write(item(1))
    assert sink.recovers
    sink.close()
    assert [image["file_name"] for image in read(tmp_path)["images"]] == ["name0.png"]


def test_the_json_file_has_room_on_a_full_disk(
    tmp_path: Path, item: MakeItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def allocate(descriptor: int, offset: int, size: int) -> None:
        if size > 1 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        held.append(size)

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    sink = PanopticMaps(tmp_path)
    written = 0

    def fill() -> None:
        nonlocal written
        for written in range(10_000):
            sink.write(item(written))
            sink._entries.write(f"{{}}\t{' ' * 30_000}{{}}\n")  # as of a frame with many segments

    with pytest.raises(OutputError, match="No space left"):
        fill()
    assert written > 10
    assert len(list(tmp_path.glob("*.png"))) == written
    sink.close()
    assert len(read(tmp_path)["images"]) == 2 * written
    assert (tmp_path / "panoptic.json").stat().st_size < held[-1]


def test_the_json_file_needs_no_further_descriptor(tmp_path: Path, item: MakeItem) -> None:
    sink = PanopticMaps(tmp_path)
    sink.write(item(0))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OutputError, match="Too many open files"):
            sink.write(item(1))
        sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(read(tmp_path)["images"]) == 1


def test_a_file_system_that_reserves_nothing(
    tmp_path: Path, item: MakeItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with PanopticMaps(tmp_path) as sink:
        sink.write(item())
    assert len(read(tmp_path)["images"]) == 1


def test_the_json_file_of_a_long_run_can_be_read_before_its_end(
    tmp_path: Path, item: MakeItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(panoptic_module.time, "monotonic", lambda: now[0])
    sink = PanopticMaps(tmp_path)
    seen = []
    for i in range(5):
        now[0] += 4.0
        sink.write(item(i))
        if (tmp_path / "panoptic.json").exists():
            data = json.loads((tmp_path / "panoptic.json").read_text())
            assert len(data["images"]) == len(data["annotations"])
            seen.append(len(data["images"]))
    assert seen == [3, 3, 3]
    sink.close()
    data = json.loads((tmp_path / "panoptic.json").read_text())
    assert [image["id"] for image in data["images"]] == [1, 2, 3, 4, 5]
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []

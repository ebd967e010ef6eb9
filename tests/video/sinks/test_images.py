# SPDX-License-Identifier: Apache-2.0
"""Image sequences: names, formats, exact class maps."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from imp_trt.data.images import IMAGE_SUFFIXES
from imp_trt.errors import OutputError
from imp_trt.results.result import SegmentationResult
from imp_trt.video.sinks import ClassMaps, OverlayImages, PanopticMaps, overlay_sink
from imp_trt.video.sinks.images import is_pattern, safe_name
from tests.video.sinks.conftest import MakeItem


def test_frames_in_a_folder_a_pattern_and_a_file(tmp_path: Path, item: MakeItem) -> None:
    with (
        OverlayImages(tmp_path / "folder") as folder,
        OverlayImages(tmp_path / "p" / "%03d.jpg") as pattern,
    ):
        for i in range(3):
            assert folder.write(item(i))
            assert pattern.write(item(i))
    assert sorted(os.listdir(tmp_path / "folder")) == ["name0.png", "name1.png", "name2.png"]
    assert sorted(os.listdir(tmp_path / "p")) == ["000.jpg", "001.jpg", "002.jpg"]
    picture = cv2.imread(str(tmp_path / "folder" / "name1.png"))
    assert np.array_equal(picture, item(1).overlay)
    single = OverlayImages(tmp_path / "one.png")
    single.write(item(0))
    with pytest.raises(OutputError, match="one image"):
        single.write(item(1))


def test_images_that_stay_from_an_earlier_run_are_counted(
    tmp_path: Path, item: MakeItem, caplog: pytest.LogCaptureFixture
) -> None:
    for frames, path in ((3, tmp_path), (1, tmp_path), (1, tmp_path / "%d.png"), (1, tmp_path / "other.png")):
        caplog.clear()
        with OverlayImages(path) as sink:
            for i in range(frames):
                sink.write(item(i))
        earlier = frames == 1 and path.name != "other.png"
        assert ("already has" in caplog.text) == earlier
    with ClassMaps(tmp_path):
        assert "already has 5 images (.png)" in caplog.text


def test_a_percent_sign_in_the_name_of_a_folder(tmp_path: Path, item: MakeItem) -> None:
    folder = tmp_path / "scaled 50%"
    for sink in (OverlayImages(folder / "%03d.png"), PanopticMaps(folder)):
        with sink:
            for i in range(2):
                sink.write(item(i))
    found = sorted(os.listdir(folder))
    assert found == ["000.png", "001.png", "name0.png", "name1.png", "panoptic.json"]


@pytest.mark.parametrize("name", ["", "%04d.png"])
def test_frames_that_would_replace_each_other(tmp_path: Path, item: MakeItem, name: str) -> None:
    sink = OverlayImages(tmp_path / "out" / name)
    for source in ("front", "rear"):
        sink.write(item(1, source=source))
    with pytest.raises(OutputError, match="has the previous frame: expected another"):
        sink.write(item(1, source="rear"))


def test_a_folder_for_each_source(tmp_path: Path, item: MakeItem) -> None:
    with OverlayImages(tmp_path / "a") as folder, OverlayImages(tmp_path / "b" / "x%02d.png") as pattern:
        for source in ("front", "rear"):
            folder.write(item(4, source=source))
            pattern.write(item(4, source=source))
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert found == ["a/front/name4.png", "a/rear/name4.png", "b/front/x04.png", "b/rear/x04.png"]


@pytest.mark.parametrize(
    ("source", "name"),
    [("front", "front"), ("../../etc", "etc"), ("rtsp://***@h:8554/a", "rtsp_h_8554_a"), ("..", "source")],
)
def test_names_of_sources_stay_in_their_folder(source: str, name: str) -> None:
    assert safe_name(source) == name


def test_class_maps_are_exact(tmp_path: Path, results: list[SegmentationResult], item: MakeItem) -> None:
    with ClassMaps(tmp_path / "maps") as sink:
        sink.write(item(2))
    found = cv2.imread(str(tmp_path / "maps" / "name2.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, results[2].semantic)
    with pytest.raises(OutputError, match=r"\.png"):
        ClassMaps(tmp_path / "lossy.jpg")


@pytest.mark.parametrize("name", ["o.pgm", "o.PGM", "%02d.pgm"])
def test_an_overlay_has_colors(
    tmp_path: Path, name: str, results: list[SegmentationResult], item: MakeItem
) -> None:
    """PGM is gray: an error before the first frame, and no suffix that an error suggests."""
    with pytest.raises(OutputError, match=r"\.ppm"):
        overlay_sink(tmp_path / name, None)
    with pytest.raises(OutputError, match=r"\.ppm"):
        results[0].save(tmp_path / "o.pgm", item(0).frame.image)
    with pytest.raises(OutputError, match=r"\.ppm") as caught:
        overlay_sink(tmp_path / "o.gif", None)
    assert ".pgm" not in str(caught.value)
    assert os.listdir(tmp_path) == []
    for suffix in IMAGE_SUFFIXES:
        if suffix in str(caught.value):
            with overlay_sink(tmp_path / f"o{suffix}", None) as sink:
                sink.write(item(0))
            assert cv2.imread(str(tmp_path / f"o{suffix}"), cv2.IMREAD_UNCHANGED).ndim == 3


@pytest.mark.parametrize("make", [OverlayImages, ClassMaps])
def test_a_pattern_needs_the_suffix_of_an_image(
    tmp_path: Path, item: MakeItem, make: Callable[[str], OverlayImages | ClassMaps]
) -> None:
    for name in ("out 50%d", "x%06d.txt", "%d"):
        with pytest.raises(OutputError, match="suffix of an image"):
            make(str(tmp_path / name))
    assert os.listdir(tmp_path) == []
    with make(f"{tmp_path}/out 50%d/") as sink:  # a folder
        sink.write(item(0))
    with make(f"{tmp_path}/out 50%d") as sink:  # it exists now
        sink.write(item(1))
    assert sorted(os.listdir(tmp_path / "out 50%d")) == ["name0.png", "name1.png"]


@pytest.mark.parametrize(
    ("name", "found"), [("a_%06d.png", True), ("%d.png", True), ("%0999999999d.png", False)]
)
def test_patterns(name: str, found: bool) -> None:
    """A number of a thousand million digits would take gigabytes."""
    assert is_pattern(f"out/{name}") == found

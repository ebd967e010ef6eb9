# SPDX-License-Identifier: Apache-2.0
"""Overlay videos: their times, one for each source, and which sink a place asks for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imp_trt.errors import InvalidInput, OutputError
from imp_trt.results.result import SegmentationResult
from imp_trt.video.sinks import (
    JsonLines,
    NullSink,
    OverlayImages,
    OverlayVideo,
    SegmentedFrame,
    overlay_sink,
)
from imp_trt.video.sources import open_source
from tests.support import clips
from tests.video.sinks.conftest import MakeItem


def times(path: Path) -> list[float]:
    with open_source(path) as source:
        return [frame.time_s if frame.time_s is not None else -1.0 for frame in source]


def test_each_source_has_its_own_video(tmp_path: Path, item: MakeItem) -> None:
    with OverlayVideo(tmp_path / "out.mp4", 10) as sink:
        for i in range(3):
            sink.write(item(i, source="front"))
            sink.write(item(i, source="cam/../1"))
    assert sorted(os.listdir(tmp_path)) == ["out_cam_.._1.mp4", "out_front.mp4"]
    assert len(times(tmp_path / "out_front.mp4")) == 3
    for source in ("", "front", "new"):
        with pytest.raises(OutputError, match="closed"):
            sink.write(item(source=source))
    sink.close()


def test_frames_with_and_without_a_source_are_all_kept(tmp_path: Path, item: MakeItem) -> None:
    with OverlayVideo(tmp_path / "out.mp4", 10) as sink:
        sink.write(item(0, source="front"))
        sink.write(item(1))
    assert sorted(os.listdir(tmp_path)) == ["out.mp4", "out_front.mp4"]


def test_a_video_without_frames_is_an_error(tmp_path: Path) -> None:
    sink = OverlayVideo(tmp_path / "out.mp4", 10)
    with pytest.raises(OutputError, match="no frame"):
        sink.close()
    assert os.listdir(tmp_path) == []


def test_one_of_two_videos_that_cannot_be_opened_does_not_cost_the_other(
    tmp_path: Path, item: MakeItem
) -> None:
    (tmp_path / "out_rear.mp4").mkdir()
    with OverlayVideo(tmp_path / "out.mp4", 10) as sink:
        sink.write(item(source="front"))
        with pytest.raises(OutputError, match=r"out_rear\.mp4"):
            sink.write(item(source="rear"))
        sink.abort()
    assert sorted(os.listdir(tmp_path)) == ["out_front.mp4", "out_rear.mp4"]


def test_times_of_the_container_of_the_capture_and_constant(tmp_path: Path, item: MakeItem) -> None:
    pytest.importorskip("av", reason="needs PyAV to keep times")
    captured = [100.0, 100.2, 100.3, 101.3]
    found = {}
    for kind in ("container", "capture", "constant"):
        with OverlayVideo(tmp_path / f"{kind}.mp4", 5, times=kind) as sink:
            for i, moment in enumerate(captured):
                sink.write(item(i, captured_s=moment))
        found[kind] = times(tmp_path / f"{kind}.mp4")
    assert found["container"] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert found["capture"] == pytest.approx([0, 0.2, 0.3, 1.3])
    assert found["constant"] == pytest.approx([0, 0.2, 0.4, 0.6])
    with pytest.raises(InvalidInput, match="times"):
        OverlayVideo(tmp_path / "x.mp4", 5, times="wall")


@pytest.mark.parametrize("fps", [30000 / 1001, 12.5, 60.0])
def test_a_clip_keeps_rate_and_times_on_its_way_through(
    tmp_path: Path, results: list[SegmentationResult], fps: float
) -> None:
    """What imp-segment does: the source's rate and times go to the sink."""
    clip = clips.write_clip(tmp_path / "clip.mp4", 12, fps, results[0].size)
    with open_source(clip) as source, OverlayVideo(tmp_path / "out.mp4", source.fps) as sink:
        for frame in source:
            sink.write(SegmentedFrame(frame, results[0]))
    with open_source(tmp_path / "out.mp4") as source:
        assert source.fps == pytest.approx(fps, rel=1e-4)
        assert source.frames == 12
    assert times(tmp_path / "out.mp4") == pytest.approx(times(clip), abs=1e-3)


@pytest.mark.parametrize(
    "place", ["file/out.mp4", "file/out.png", "file/%d.png", "file/folder", "out.gif", "out.txt"]
)
def test_unwritable_places_are_reported_before_the_work(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        overlay_sink(tmp_path / place, 25)
    if place.startswith("file"):
        with pytest.raises(OutputError):
            JsonLines(tmp_path / place)


def test_overlay_sink_chooses_by_the_place(tmp_path: Path) -> None:
    for place, kind in (
        ("null:", NullSink),
        (tmp_path / "a.mp4", OverlayVideo),
        (tmp_path / "a.avi", OverlayVideo),
        (tmp_path / "a.png", OverlayImages),
        (tmp_path / "%05d.jpg", OverlayImages),
        (tmp_path / "folder", OverlayImages),
        (tmp_path, OverlayImages),
        (f"{tmp_path}/v1.2/", OverlayImages),
    ):
        sink = overlay_sink(place, None)
        assert isinstance(sink, kind)
        sink.abort()

"""Sinks: whole files or none, and no frame lost without a word."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from imp_trt.errors import InvalidInput, OutputError
from imp_trt.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.video import sinks as sinks_module
from imp_trt.video.sinks import (
    ClassMaps,
    DrawOptions,
    JsonLines,
    NullSink,
    OverlayPictures,
    OverlayVideo,
    Segmented,
    Sink,
    Window,
    overlay_sink,
)
from imp_trt.video.sources import Frame, open_source
from imp_trt.video.writer import VIDEO_CODECS, VideoWriter
from tests.support import clips, tiny


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[SegmentationResult]:
    with Segmenter(tiny.artifact(tmp_path_factory.mktemp("artifact"))) as segmenter:
        return [segmenter.run(tiny.frame(seed=i)) for i in range(3)]


def item(results: list[SegmentationResult], i: int = 0, draw: DrawOptions | None = None) -> Segmented:
    return Segmented(Frame(tiny.frame(seed=i), i, f"name{i}", i / 10), results[i], draw or DrawOptions())


def test_the_overlay_is_drawn_once(results: list[SegmentationResult]) -> None:
    one = item(results, draw=DrawOptions(alpha=0.2, labels=False))
    assert one.overlay is one.overlay
    assert np.array_equal(one.overlay, results[0].plot(tiny.frame(), alpha=0.2, labels=False))


@pytest.mark.parametrize("suffix", VIDEO_CODECS)
@pytest.mark.parametrize("fps", [30000 / 1001, 25.0, 0.5])
def test_video_reads_back(tmp_path: Path, suffix: str, fps: float) -> None:
    path = tmp_path / "new" / f"out{suffix}"
    writer = VideoWriter(path, fps)
    for i in range(5):
        writer.write(clips.picture(i))
        assert not path.exists()
    writer.close()
    writer.close()
    with open_source(path) as source:
        frames = list(source)
    assert len(frames) == 5
    assert source.fps == pytest.approx(fps, rel=1e-4)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("size", [(47, 65), (47, 64), (48, 65), (2, 2), (1, 1)])
def test_odd_sizes_gain_a_pixel_instead_of_losing_one(tmp_path: Path, size: tuple[int, int]) -> None:
    writer = VideoWriter(tmp_path / "odd.mp4", 10)
    writer.write(np.full((*size, 3), 200, np.uint8))
    writer.close()
    (frame,) = open_source(tmp_path / "odd.mp4")
    assert frame.image.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert np.abs(frame.image.astype(int) - 200).max() <= 5


def test_a_frame_of_another_size_raises(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", 10)
    writer.write(clips.picture(0))
    for bad in (clips.picture(0, (64, 48)), clips.picture(0)[..., 0], clips.picture(0) / 255):
        with pytest.raises(InvalidInput):
            writer.write(bad)  # type: ignore[arg-type]
    writer.abort()
    assert os.listdir(tmp_path) == []


def test_video_bad_places_and_rates(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    for path in ("file/x.mp4", "folder.mp4", "x.gif", "x"):
        with pytest.raises(OutputError):
            VideoWriter(tmp_path / path, 25)
    for fps in (0, -1, float("nan"), float("inf"), 1e9):
        with pytest.raises(InvalidInput, match="fps"):
            VideoWriter(tmp_path / "x.mp4", fps)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4"]


def test_closing_without_a_frame_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no frame"):
        VideoWriter(tmp_path / "x.mp4", 25).close()
    assert os.listdir(tmp_path) == []


def test_writing_after_close(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "x.mp4", 25)
    writer.write(clips.picture(0))
    writer.close()
    with pytest.raises(OutputError, match="closed"):
        writer.write(clips.picture(0))


def test_lost_frames_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full disk does: OpenCV goes on and says nothing."""
    writer = VideoWriter(tmp_path / "x.mp4", 25)
    writer.write(clips.picture(0))
    writer._writer.release()
    data = writer._file.read_bytes()
    writer.write(clips.picture(1))  # goes nowhere
    writer._file.write_bytes(data)
    with pytest.raises(OutputError, match="1 of 2 frames"):
        writer.close()
    assert os.listdir(tmp_path) == []


def test_a_missing_encoder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VIDEO_CODECS, ".mp4", "avc1")
    writer = VideoWriter(tmp_path / "x.mp4", 25)
    if not cv2.VideoWriter(str(tmp_path / "p.avi"), cv2.VideoWriter.fourcc(*"avc1"), 25, (64, 48)).isOpened():
        with pytest.raises(OutputError, match="encoder"):
            writer.write(clips.picture(0))
    writer.abort()
    assert not (tmp_path / "x.mp4").exists()


def test_pictures_in_a_folder_a_pattern_and_a_file(tmp_path: Path, results: list[SegmentationResult]) -> None:
    with (
        OverlayPictures(tmp_path / "folder") as folder,
        OverlayPictures(tmp_path / "p" / "%03d.jpg") as pattern,
    ):
        for i in range(3):
            assert folder.write(item(results, i))
            assert pattern.write(item(results, i))
    assert sorted(os.listdir(tmp_path / "folder")) == ["name0.png", "name1.png", "name2.png"]
    assert sorted(os.listdir(tmp_path / "p")) == ["000.jpg", "001.jpg", "002.jpg"]
    picture = cv2.imread(str(tmp_path / "folder" / "name1.png"))
    assert np.array_equal(picture, item(results, 1).overlay)
    single = OverlayPictures(tmp_path / "one.png")
    single.write(item(results, 0))
    with pytest.raises(OutputError, match="one picture"):
        single.write(item(results, 1))


def test_class_maps_are_exact(tmp_path: Path, results: list[SegmentationResult]) -> None:
    with ClassMaps(tmp_path / "maps") as sink:
        sink.write(item(results, 2))
    found = cv2.imread(str(tmp_path / "maps" / "name2.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, results[2].semantic)
    with pytest.raises(OutputError, match=r"\.png"):
        ClassMaps(tmp_path / "lossy.jpg")


def test_json_lines(tmp_path: Path, results: list[SegmentationResult]) -> None:
    path = tmp_path / "out.jsonl"
    with JsonLines(path, min_score=0.7) as sink:
        for i in range(3):
            sink.write(item(results, i))
        assert not path.exists()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["index"], line["name"], line["time_s"]) for line in lines] == [
        (0, "name0", 0.0),
        (1, "name1", 0.1),
        (2, "name2", 0.2),
    ]
    assert all(len(line["instances"]) == 1 for line in lines)
    assert os.listdir(tmp_path) == ["out.jsonl"]


MAKERS: dict[str, Callable[[Path], Sink]] = {
    "video": lambda folder: OverlayVideo(folder / "out.mp4", None),
    "json": lambda folder: JsonLines(folder / "out.jsonl"),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_after_an_exception_nothing_is_left(
    tmp_path: Path, results: list[SegmentationResult], name: str, error: BaseException
) -> None:
    earlier = tmp_path / ("out.mp4" if name == "video" else "out.jsonl")
    earlier.write_text("earlier")
    sink = MAKERS[name](tmp_path)

    def work() -> None:
        with sink:
            sink.write(item(results))
            raise error

    with pytest.raises(type(error)):
        work()
    assert os.listdir(tmp_path) == [earlier.name]
    assert earlier.read_text() == "earlier"
    sink.abort()
    sink.close()


@pytest.mark.parametrize("name", MAKERS)
def test_a_failing_replacement_leaves_nothing(
    tmp_path: Path, results: list[SegmentationResult], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = MAKERS[name](tmp_path)
    sink.write(item(results))

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        sink.close()
    assert os.listdir(tmp_path) == []


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


def test_json_in_place_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="folder"):
        JsonLines(tmp_path)


def test_overlay_sink_chooses_by_the_place(tmp_path: Path) -> None:
    for place, kind in (
        ("null:", NullSink),
        (tmp_path / "a.mp4", OverlayVideo),
        (tmp_path / "a.avi", OverlayVideo),
        (tmp_path / "a.png", OverlayPictures),
        (tmp_path / "%05d.jpg", OverlayPictures),
        (tmp_path / "folder", OverlayPictures),
        (tmp_path, OverlayPictures),
        (f"{tmp_path}/v1.2/", OverlayPictures),
    ):
        sink = overlay_sink(place, None)
        assert isinstance(sink, kind)
        sink.abort()


def test_window_shows_frames_until_q(
    monkeypatch: pytest.MonkeyPatch, results: list[SegmentationResult]
) -> None:
    shown: list[tuple[str, tuple[int, ...]]] = []
    keys = iter([-1, -1, ord("q")])
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append((title, image.shape)))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, prop: 1.0)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.clear())
    with Window() as window:
        answers = [window.write(item(results, i)) for i in range(3)]
        assert len(shown) == 3
    assert answers == [True, True, False]
    assert shown == []


def test_window_without_support_says_headless(
    monkeypatch: pytest.MonkeyPatch, results: list[SegmentationResult]
) -> None:
    def refuse(*args: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(sinks_module.cv2, "imshow", refuse)
    with pytest.raises(OutputError, match="--headless"):
        Window().write(item(results))

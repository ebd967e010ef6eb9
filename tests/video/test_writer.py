# SPDX-License-Identifier: Apache-2.0
"""Video files: frame times, atomic files, and an error for every lost frame."""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from packaging.version import Version

from imp_trt.errors import DependencyMissing, InvalidInput, OutputError
from imp_trt.video import writer_opencv, writer_pyav
from imp_trt.video.encoder import TICKS, VIDEO_CODECS
from imp_trt.video.sources import open_source
from imp_trt.video.writer import ENCODERS, VideoWriter
from tests.support import clips


def _has_h264() -> bool:
    try:
        return bool(writer_pyav.h264_encoder())
    except DependencyMissing:
        return False


needs_pyav = pytest.mark.skipif(not _has_h264(), reason="needs PyAV with an H.264 encoder")
each_encoder = pytest.mark.parametrize(
    "encoder", [pytest.param("pyav", marks=needs_pyav), pytest.param("opencv")]
)


@each_encoder
@pytest.mark.parametrize("suffix", VIDEO_CODECS)
@pytest.mark.parametrize("fps", [30000 / 1001, 25.0, 0.5])
def test_video_reads_back(tmp_path: Path, suffix: str, fps: float, encoder: str) -> None:
    path = tmp_path / "new" / f"out{suffix}"
    writer = VideoWriter(path, fps, encoder=None if suffix == ".avi" else encoder)
    for i in range(5):
        writer.write(clips.picture(i))
        assert os.listdir(path.parent) == [path.name]
    writer.close()
    writer.close()
    with open_source(path) as source:
        frames = list(source)
    assert len(frames) == 5
    assert source.fps == pytest.approx(fps, rel=1e-4)
    for i, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - clips.picture(i)).max() <= 6
    assert os.listdir(path.parent) == [path.name]


@each_encoder
@pytest.mark.parametrize("size", [(47, 65), (47, 64), (48, 65), (2, 2), (1, 1)])
def test_odd_sizes_gain_a_pixel_instead_of_losing_one(
    tmp_path: Path, size: tuple[int, int], encoder: str
) -> None:
    writer = VideoWriter(tmp_path / "odd.mp4", 10, encoder=encoder)
    writer.write(np.full((*size, 3), 200, np.uint8))
    writer.close()
    (frame,) = open_source(tmp_path / "odd.mp4")
    assert frame.image.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert np.abs(frame.image.astype(int) - 200).max() <= 5


@needs_pyav
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_variable_rate_stays(tmp_path: Path, suffix: str) -> None:
    if suffix == ".mkv" and Version(cv2.__version__) < Version("4.11"):
        pytest.skip("needs an OpenCV that knows the times of frames in Matroska")
    times = [7.0, 7.04, 7.3, 7.31, 9.0, 9.033]  # a file's times need not start at 0
    writer = VideoWriter(tmp_path / f"out{suffix}", 25)
    for i, time_s in enumerate(times):
        writer.write(clips.picture(i), time_s)
    writer.close()
    capture = cv2.VideoCapture(str(tmp_path / f"out{suffix}"))
    found = []
    while capture.read()[0]:
        found.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
    assert found == pytest.approx([t - times[0] for t in times], abs=1.1e-3 if suffix == ".mkv" else 1e-5)


@each_encoder
def test_colors_come_back(tmp_path: Path, encoder: str) -> None:
    colors = [(0, 0, 255), (0, 255, 0), (255, 0, 0), (128, 64, 128), (142, 0, 0), (60, 20, 220)]
    picture = np.hstack([np.full((64, 64, 3), color, np.uint8) for color in colors])
    writer = VideoWriter(tmp_path / "out.mp4", 10, encoder=encoder)
    for _ in range(3):
        writer.write(picture)
    writer.close()
    with open_source(tmp_path / "out.mp4") as source:
        for frame in source:
            inside = frame.image[8:-8, 32::64].astype(int)
            assert np.abs(inside - picture[8:-8, 32::64]).max() <= 10


@each_encoder
def test_a_frame_of_another_size_raises(tmp_path: Path, encoder: str) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", 10, encoder=encoder)
    writer.write(clips.picture(0))
    for bad in (clips.picture(0, (64, 48)), clips.picture(0)[..., 0], clips.picture(0) / 255, None):
        with pytest.raises(InvalidInput):
            writer.write(bad)  # type: ignore[arg-type]
    writer.abort()
    assert clips.played(tmp_path / "out.mp4") == 1


@each_encoder
def test_a_frame_that_is_a_view_is_written_as_it_looks(tmp_path: Path, encoder: str) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24] = 200
    writer = VideoWriter(tmp_path / "out.mp4", 10, encoder=encoder)
    writer.write(picture[::-1, ::-1])
    writer.close()
    (frame,) = open_source(tmp_path / "out.mp4")
    assert np.abs(frame.image.astype(int) - picture[::-1, ::-1]).mean() < 3
    assert picture[0, 0, 0] == 200


def test_bad_places_rates_and_encoders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    for path in ("file/x.mp4", "folder.mp4", "x.gif", "x"):
        with pytest.raises(OutputError):
            VideoWriter(tmp_path / path, 25)
    for fps in (0, -1, float("nan"), float("inf"), 1e9):
        with pytest.raises(InvalidInput, match="fps"):
            VideoWriter(tmp_path / "x.mp4", fps)
    for suffix, encoder in ((".mp4", "vlc"), (".avi", "pyav")):
        with pytest.raises(InvalidInput, match="encoder"):
            VideoWriter(tmp_path / f"x{suffix}", 25, encoder=encoder)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4"]


@each_encoder
def test_closing_without_a_frame_is_an_error(tmp_path: Path, encoder: str) -> None:
    with pytest.raises(OutputError, match="no frame"):
        VideoWriter(tmp_path / "x.mp4", 25, encoder=encoder).close()
    assert os.listdir(tmp_path) == []


@each_encoder
def test_writing_after_close(tmp_path: Path, encoder: str) -> None:
    writer = VideoWriter(tmp_path / "x.mp4", 25, encoder=encoder)
    writer.write(clips.picture(0))
    writer.close()
    with pytest.raises(OutputError, match="closed"):
        writer.write(clips.picture(0))


@pytest.mark.slow
@each_encoder
@pytest.mark.parametrize("end", ["close", "abort"])
def test_ending_while_another_thread_writes(tmp_path: Path, encoder: str, end: str) -> None:
    writer = VideoWriter(tmp_path / "out.mkv", 30, encoder=encoder)
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    written: list[int] = []
    closed: list[str] = []

    def write() -> None:
        try:
            while True:
                writer.write(noise)
                written.append(1)
        except OutputError as error:
            closed.append(str(error))

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    while len(written) < 3:
        time.sleep(0.01)
    getattr(writer, end)()
    thread.join(20)
    assert "a closed writer" in closed[0]
    assert clips.played(tmp_path / "out.mkv") == len(written)


@each_encoder
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_lost_frames_are_noticed(tmp_path: Path, encoder: str, suffix: str) -> None:
    """Whatever the encoder says, the file is counted before it is put in place."""
    writer = VideoWriter(tmp_path / f"x{suffix}", 25, encoder=encoder)
    for i in range(3):
        writer.write(clips.picture(i))
    writer._written += 1
    encoded = writer._encoder
    assert encoded is not None
    with pytest.raises(OutputError, match="of 4 frames") as caught:
        writer.close()
    # What can be read is kept. A Matroska file has no count of frames.
    kept = max(encoded.count(), 0)
    assert f"only {kept} of 4" in str(caught.value)
    assert os.listdir(tmp_path) == ([f"x{suffix}"] if kept else [])


@each_encoder
@pytest.mark.parametrize("ending", ["close", "abort"])
def test_a_recording_that_cannot_be_opened_at_its_end_is_kept(
    tmp_path: Path, encoder: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what it holds if no descriptor is free."""
    writer = VideoWriter(tmp_path / "x.mkv", 25, encoder=encoder)
    for i in range(3):
        writer.write(clips.picture(i))
    encoded = writer._encoder
    assert encoded is not None

    limits, count = resource.getrlimit(resource.RLIMIT_NOFILE), encoded.count

    def without_descriptors() -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        return count()

    monkeypatch.setattr(encoded, "count", without_descriptors)
    try:
        if ending == "close":
            with pytest.raises(OutputError, match="its 3 frames could not be read back; it is kept"):
                writer.close()
        else:
            writer.abort()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert os.listdir(tmp_path) == ["x.mkv"]
    assert (tmp_path / "x.mkv").stat().st_size > 500


@needs_pyav
def test_a_matroska_file_without_its_last_frame_is_noticed(tmp_path: Path) -> None:
    """The container has no frame count, and reading the whole file would take too long."""
    encoder = writer_pyav.PyAvEncoder(tmp_path / "x.mkv", Fraction(30000, 1001), (48, 64), "x.mkv")
    for i in range(200):
        encoder.write(clips.picture(i % 20), round(i * TICKS * 1001 / 30000))
    encoder.finish()
    assert encoder.count() == 200
    encoder._last += TICKS // 30
    encoder._written += 1
    assert encoder.count() == 200


@needs_pyav
def test_pyav_is_the_default_and_writes_yuv420p_h264(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    writer = VideoWriter(tmp_path / "x.mp4", 30000 / 1001)
    for i in range(4):
        writer.write(clips.picture(i))
    writer.close()
    with av.open(str(tmp_path / "x.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(30000, 1001)
        assert [packet.pts for packet in container.demux(stream) if packet.size] == [0, 24024, 48048, 72072]
        assert stream.duration == 4 * 24024


@needs_pyav
def test_a_size_that_h264_cannot_have(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "x.mp4", 25)
    with pytest.raises(OutputError, match="smaller video"):
        writer.write(np.zeros((2, 70_000, 3), np.uint8))
    writer.abort()
    assert os.listdir(tmp_path) == []


def test_without_pyav_opencv_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> str:
        raise DependencyMissing("H.264 video needs PyAV", fix="pip install 'imp-trt[video]'")

    monkeypatch.setattr(writer_pyav, "h264_encoder", missing)
    writer = VideoWriter(tmp_path / "x.mp4", 25)
    with caplog.at_level(logging.WARNING):
        for i, time_s in enumerate([0.0, 0.04, 2.0]):
            writer.write(clips.picture(i), time_s)
        writer.close()
    assert "1.92 s off their times" in caplog.text
    capture = cv2.VideoCapture(str(tmp_path / "x.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 3
    with pytest.raises(DependencyMissing, match=r"imp-trt\[video\]"):
        VideoWriter(tmp_path / "y.mp4", 25, encoder="pyav")
    assert os.listdir(tmp_path) == ["x.mp4"]


def test_a_pyav_that_does_not_load_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DependencyMissing, match=r"imp-trt\[video\]"):
        writer_pyav.h264_encoder.__wrapped__()


def test_a_constant_rate_is_no_reason_to_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = VideoWriter(tmp_path / "x.mp4", 30000 / 1001, encoder="opencv")
    for i in range(30):
        writer.write(clips.picture(0), 5 + round(i * 1.001 / 30, 3))
    writer.close()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_missing_encoder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def isOpened(self) -> bool:
            return False

        def release(self) -> None:
            pass

        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __init__(self, *args: object) -> None:
            pass

    monkeypatch.setattr(writer_opencv.cv2, "VideoWriter", Failing)
    writer = VideoWriter(tmp_path / "x.mp4", 25, encoder="opencv")
    with pytest.raises(OutputError, match="encoder"):
        writer.write(clips.picture(0))
    writer.abort()
    assert os.listdir(tmp_path) == []


@needs_pyav
def test_a_frame_an_hour(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "x.mkv", 1 / 3600)
    for index in range(4):
        writer.write(clips.picture(index), 3600.0 * index)
    writer.close()
    with open_source(tmp_path / "x.mkv") as source:
        assert source.fps == pytest.approx(1 / 3600)
        assert [frame.time_s for frame in source] == [0, 3600, 7200, 10800]


@pytest.mark.parametrize(("name", "fps"), [("x.mp4", 1 / 3600), ("x.mov", 1e-9), ("x.mkv", 5e-324)])
def test_rates_that_a_container_cannot_hold_are_rejected(tmp_path: Path, name: str, fps: float) -> None:
    with pytest.raises(InvalidInput, match="or more often"):
        VideoWriter(tmp_path / name, fps)
    assert os.listdir(tmp_path) == []


def test_every_encoder_is_known() -> None:
    assert set(ENCODERS) == {"pyav", "opencv"}


@each_encoder
@pytest.mark.parametrize("replaced", [True, False])
def test_a_recording_that_another_program_replaced_is_an_error(
    tmp_path: Path, encoder: str, replaced: bool
) -> None:
    path = tmp_path / "x.mkv"
    writer = VideoWriter(path, 10, encoder=encoder)
    writer.write(clips.picture(0))
    path.rename(tmp_path / "moved.mkv")
    if replaced:
        path.write_bytes(b"of the other program")
    with pytest.raises(OutputError, match="another program"):
        writer.close()
    writer.abort()
    assert clips.played(tmp_path / "moved.mkv") == 1
    assert path.exists() == replaced


@pytest.mark.parametrize(
    ("suffix", "installed", "advice"),
    [
        (".avi", True, "write .mp4 or .mkv"),
        (".mkv", True, "choose the encoder pyav"),
        (".mkv", False, "pip install 'imp-trt[video]'"),
    ],
)
def test_what_keeps_frame_times(
    tmp_path: Path,
    suffix: str,
    installed: bool,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def encoder() -> str:
        if not installed:
            raise DependencyMissing("H.264 video needs PyAV")
        return "libx264"

    monkeypatch.setattr(writer_pyav, "h264_encoder", encoder)
    writer = VideoWriter(tmp_path / f"x{suffix}", 25, encoder="opencv")
    with caplog.at_level(logging.WARNING, "imp_trt"):
        for time_s in (0, 2):
            writer.write(clips.picture(0), time_s)
        writer.close()
    assert f"off their times; to keep them, {advice}" in caplog.text


def test_opencv_is_not_given_names_that_are_not_utf8(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / os.fsdecode(b"x\xff.avi"), 25)
    with pytest.raises(OutputError, match=r"video x\\xff\.avi cannot be written.*UTF-8"):
        writer.write(clips.picture(0))
    writer.abort()
    assert os.listdir(tmp_path) == []

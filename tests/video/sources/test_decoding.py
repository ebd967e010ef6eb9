# SPDX-License-Identifier: Apache-2.0
"""Every property that a video can carry: the frames are those of FFmpeg and the colors those of the images.

What a decoder does not honor is reported: no file is silently read differently.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.errors import SourceError
from imp_trt.video.sources import decoder, files, open_source
from imp_trt.video.sources.frame import Frame
from tests.support import av_clips

pytest.importorskip("av", reason="PyAV is not installed")
if not decoder.pyav_decodes():
    pytest.skip("PyAV is older than 17.1, which is not used for decoding", allow_module_level=True)

_OPENCV_5 = cv2.__version__.startswith("5.")


@pytest.fixture(params=["pyav", "opencv"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The decoder in use: that of an installation with PyAV, and of one without."""
    decoder._warn_of_opencv.cache_clear()
    if request.param == "opencv":
        for module in (decoder, files):
            monkeypatch.setattr(module, "pyav_decodes", lambda: False)
    yield request.param
    decoder._warn_of_opencv.cache_clear()


def _as_stored(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image


def _gray(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), np.uint8)


@dataclass(frozen=True)
class Case:
    """A video, and what is expected of it.

    Attributes:
        shown: the stored image as it is displayed.
        warning: of PyAV's decoder.
        opencv: whether OpenCV's decoder gives the same; otherwise it must warn or reject.
    """

    suffix: str
    codec: str = "libx264"
    pixels: str = "yuv420p"
    shown: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = _as_stored
    warning: str = ""
    opencv: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


def _colors(space: int, full: int, **more: Any) -> dict[str, Any]:
    return {"context": {"colorspace": space, "color_range": full, **more}}


def _turned(degrees: int, **flips: bool) -> dict[str, Any]:
    return {"turned": {"degrees": degrees, **flips}}


_STRETCHED = {"context": {"sample_aspect_ratio": Fraction(4, 3)}}
_SQUARE = "pixels are not square"
_LOSSLESS = {"options": {"qp": "0"}}
CASES = {
    "mp4": Case(".mp4"),
    "m4v": Case(".m4v"),
    "mov": Case(".mov"),
    "mkv": Case(".mkv"),
    "ts": Case(".ts"),
    "flv": Case(".flv"),
    "avi mpeg4": Case(".avi", "mpeg4"),
    "webm vp8": Case(".webm", "libvpx"),
    "webm vp9": Case(".webm", "libvpx-vp9"),
    "wmv": Case(".wmv", "wmv2"),
    # OpenCV's times of the first and the last frame are wrong.
    "mpg": Case(".mpg", "mpeg2video", settings={"rate": 25}, opencv=False),
    "flv1": Case(".flv", "flv"),
    "hevc": Case(".mp4", "libx265", settings={"options": {"x265-params": "log-level=none"}}),
    "av1 mp4": Case(".mp4", "libsvtav1", opencv=False),
    "av1 mkv": Case(".mkv", "libsvtav1", opencv=False),
    "mjpeg": Case(".avi", "mjpeg", "yuvj422p"),
    "fragmented": Case(".mp4", settings={"container": {"movflags": "frag_keyframe+empty_moov"}}),
    "10 bits": Case(".mp4", pixels="yuv420p10le"),
    "4:2:2": Case(".mp4", pixels="yuv422p"),
    "4:4:4": Case(".mp4", pixels="yuv444p"),
    "prores 4:4:4 with alpha": Case(".mov", "prores_ks", "yuva444p10le"),
    "vp9 with alpha": Case(".webm", "libvpx-vp9", "yuva420p"),
    "rgb": Case(".mkv", "libx264rgb", "rgb24", settings=_LOSSLESS),
    "bgra": Case(".mkv", "ffv1", "bgra"),
    "raw": Case(".avi", "rawvideo", "bgr24"),
    "png": Case(".mov", "png", "rgba"),
    "gray": Case(".mkv", "ffv1", "gray", _gray),
    "gray of 16 bits": Case(".mkv", "ffv1", "gray16le", _gray),
    "BT.709": Case(".mp4", pixels="yuv444p", settings=_colors(1, 1), opencv=_OPENCV_5),
    "BT.709 full range": Case(".mp4", pixels="yuv444p", settings=_colors(1, 2), opencv=_OPENCV_5),
    "BT.601 full range": Case(".mp4", pixels="yuv444p", settings=_colors(6, 2)),
    "BT.2020 matrix": Case(".mkv", pixels="yuv444p", settings=_colors(9, 1), opencv=_OPENCV_5),
    "BT.709 10 bits full": Case(".mp4", pixels="yuv444p10le", settings=_colors(1, 2), opencv=_OPENCV_5),
    "wide pixels mp4": Case(".mp4", warning=_SQUARE, settings=_STRETCHED),
    "wide pixels mkv": Case(".mkv", warning=_SQUARE, settings=_STRETCHED),
    "wide pixels avi": Case(".avi", "mpeg4", warning=_SQUARE, settings=_STRETCHED),
    "wide pixels ts": Case(".ts", warning=_SQUARE, settings=_STRETCHED),
    "turned 90": Case(".mp4", shown=lambda image: np.rot90(image), settings=_turned(90)),
    "turned 180": Case(".mov", shown=lambda image: np.rot90(image, 2), settings=_turned(180)),
    "turned 270": Case(".mkv", shown=lambda image: np.rot90(image, 3), settings=_turned(270)),
    "turned 45": Case(".mp4", warning="quarter turns", settings=_turned(45)),
    "mirrored": Case(".mp4", shown=np.fliplr, settings=_turned(0, hflip=True), opencv=False),
    "upside down": Case(".mkv", shown=np.flipud, settings=_turned(0, vflip=True), opencv=False),
    "turned and mirrored": Case(
        ".mp4",
        shown=lambda image: np.fliplr(np.rot90(image)),
        settings=_turned(90, hflip=True),
        opencv=False,
    ),
    "interlaced": Case(
        ".mp4",
        warning="interlaced",
        settings={"options": {"flags": "+ildct+ilme", "x264-params": "tff=1"}},
        opencv=not _OPENCV_5,
    ),
    "interlaced mpeg2": Case(
        ".mpg",
        "mpeg2video",
        warning="interlaced",
        settings={"options": {"flags": "+ildct+ilme"}, "rate": 25},
        opencv=False,
    ),
    "stereoscopic": Case(
        ".mkv", warning="stereoscopic", settings={"metadata": {"stereo_mode": "left_right"}}, opencv=False
    ),
    "b-frames": Case(".mp4", settings={"options": {"bf": "3"}, "frames": 20}),
    "b-frames ts": Case(".ts", settings={"options": {"bf": "3"}, "frames": 20}),
    "variable rate mp4": Case(".mp4", settings={"times": [0, 40, 300, 310, 2000, 2033]}),
    "variable rate mkv": Case(".mkv", settings={"times": [0, 40, 300, 310, 2000, 2033]}),
    "late start mp4": Case(".mp4", settings={"times": [5000 + 100 * i for i in range(6)]}),
    "late start mkv": Case(".mkv", settings={"times": [5000 + 100 * i for i in range(6)]}),
    "a frame an hour mp4": Case(".mp4", settings={"times": [3_600_000 * i for i in range(4)]}),
    "a frame an hour mkv": Case(".mkv", settings={"times": [3_600_000 * i for i in range(4)]}),
    "cropped in the stream": Case(".mp4", pixels="yuv444p", settings={"size": (63, 97)}),
    "one frame": Case(".mp4", settings={"frames": 1}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_frames_are_those_of_ffmpeg(
    tmp_path: Path, reader: str, case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    path = av_clips.write(tmp_path / f"clip{case.suffix}", case.codec, case.pixels, **case.settings)
    reference = av_clips.decoded(path)
    try:
        with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
            frames = list(source)
    except SourceError:
        assert reader == "opencv"
        assert not case.opencv
        return
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert len(frames) == len(reference)
    if reader == "opencv" and not case.opencv:
        assert "OpenCV" in said
        return
    for frame, (_, time_s) in zip(frames, reference, strict=True):
        assert frame.time_s == pytest.approx(time_s, abs=2e-3)
    assert _difference(frames, case) < 4
    if reader == "opencv":
        assert case.warning in said or case.warning != _SQUARE
        return
    assert case.warning in said if case.warning else not said
    if case.shown is _as_stored:
        for frame, (image, _) in zip(frames, reference, strict=True):
            assert np.array_equal(frame.image, image)


def _difference(frames: list[Frame], case: Case) -> float:
    """The largest mean difference of a frame and its image."""
    size = case.settings.get("size", av_clips.SIZE)
    shown = [case.shown(av_clips.picture(index, size)) for index in range(len(frames))]
    assert all(f.image.shape == image.shape for f, image in zip(frames, shown, strict=True))
    return max(
        float(np.abs(f.image.astype(int) - image).mean()) for f, image in zip(frames, shown, strict=True)
    )


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_trimmed_video(tmp_path: Path, reader: str, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    """The edit list hides 25 of the 30 frames that the container lists."""
    whole = av_clips.write(tmp_path / "whole.mp4", frames=30, options={"g": "250", "bf": "0"})
    path = av_clips.trimmed(whole, tmp_path / f"trimmed{suffix}", 2.5)
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        frames = list(source)
    assert len(frames) == len(av_clips.decoded(path)) == 5
    assert _level(frames[0]) == pytest.approx(20 + 12 * (25 % 18), abs=4)
    assert source.frames == 5
    assert not [r for r in caplog.records if "could be decoded" in r.getMessage()]
    assert reader == "opencv" or not caplog.records


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("whole", [True, False])
def test_damaged_frames_are_reported(
    tmp_path: Path, suffix: str, whole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Parts of other frames take the place of what cannot be decoded, and the number of frames is right."""
    path = av_clips.write(tmp_path / f"x{suffix}", frames=30, options={"g": "10", "bf": "0"})
    place, size = av_clips.packets(path)[20]  # a key frame
    data = bytearray(path.read_bytes())
    data[place + size // 2 : place + size] = b"\xff" * (size - size // 2)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        assert len(list(source if whole else islice(source, 25))) == (30 if whole else 25)
    (message,) = caplog.messages
    assert "1 of 30 frames were decoded in part" in message or not whole
    assert "it is damaged" in message


@pytest.mark.parametrize(("frames", "every"), [(96, 5), (100, 40)])
def test_an_avi_whose_recorder_dropped_frames(
    tmp_path: Path, reader: str, frames: int, every: int, caplog: pytest.LogCaptureFixture
) -> None:
    times = [100 * i for i in range(0, frames, every)]
    path = av_clips.write(tmp_path / "dropped.avi", "mpeg4", times=times)
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        assert [frame.time_s for frame in source] == pytest.approx([t / 1000 for t in times], abs=2e-3)
    if reader == "pyav":
        assert source.frames == len(times)
        assert not caplog.records


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".avi", "libx264"), (".avi", "mpeg4"), (".wmv", "libx264"), (".mpg", "libx264")]
)
def test_times_increase_where_only_those_of_decoding_are_stored(
    tmp_path: Path, reader: str, suffix: str, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    """B-frames in AVI and ASF; and MPEG program streams, which store the time of some frames only."""
    path = av_clips.write(tmp_path / f"x{suffix}", codec, frames=20, rate=25, options={"bf": "3"})
    with open_source(path) as source:
        times = [frame.time_s for frame in source]
    if reader == "pyav":
        assert times == pytest.approx([index / 25 for index in range(20)], abs=2e-3)
        assert not caplog.messages
    known = [time_s for time_s in times if time_s is not None]
    assert known == sorted(known)


def test_a_stream_that_changes_its_size(
    tmp_path: Path, reader: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As FFmpeg does it: one size for all, which is what a recording of the result needs."""
    parts = [av_clips.write(tmp_path / f"{i}.ts", size=size) for i, size in enumerate([(64, 96), (48, 64)])]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        frames = list(source)
    assert len(frames) == len(av_clips.decoded(path)) == 16
    if reader == "opencv":
        assert "OpenCV" in caplog.text  # version 4 does not resize
        return
    assert max(np.abs(f.image.astype(int) - av_clips.picture(f.index % 8)).mean() for f in frames) < 10
    assert "size changes" in caplog.text


@pytest.mark.parametrize(
    ("transfer", "changed"),
    [(1, False), *(pytest.param(number, True, marks=pytest.mark.slow) for number in (16, 18))],
)
def test_hdr_is_mapped_to_sdr_or_reported(
    tmp_path: Path, transfer: int, changed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    context = {
        "colorspace": 9,
        "color_range": 1,
        "color_trc": transfer,
        "color_primaries": 9 if changed else 1,
    }
    options = {"x265-params": "log-level=none"}
    path = av_clips.write(tmp_path / "x.mp4", "libx265", "yuv444p10le", context=context, options=options)
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        image = next(iter(source)).image
    mapped = np.abs(image.astype(int) - av_clips.picture(0)).mean() > 10
    assert mapped == changed or ("HDR" in caplog.text and changed)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_further_video_streams_are_named(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    front = av_clips.write(tmp_path / "front.mp4", frames=8)
    rear = av_clips.write(tmp_path / "rear.mp4", frames=30, size=(48, 64))
    path = av_clips.joined([front, rear], tmp_path / f"both{suffix}")
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        frames = list(source)
    assert len(frames) == (8 if frames[0].image.shape[:2] == (64, 96) else 30)
    (message,) = caplog.messages  # not that it is damaged
    assert "stream 0 (96x64)" in message
    assert "stream 1 (64x48)" in message


def test_a_stream_of_matroska_has_its_own_duration(tmp_path: Path) -> None:
    """FFmpeg gives some streams of a file the duration of the longest one."""
    capture = decoder.PyAvCapture(av_clips.write(tmp_path / "x.mkv"))
    tick, tags = Fraction(1, 1000), {"DURATION": "00:00:00.800000000"}
    stream: Any = SimpleNamespace(frames=0, duration=2000, time_base=tick, average_rate=10, metadata=tags)
    capture._stream = stream
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    stream.metadata = {}
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 20


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "libx264"), (".avi", "mpeg4")])
def test_a_title_in_another_encoding(tmp_path: Path, reader: str, suffix: str, codec: str) -> None:
    path = av_clips.write(tmp_path / f"x{suffix}", codec, metadata={"title": "Stra*e"})
    data = path.read_bytes()
    assert data.count(b"Stra*e") == 1
    path.write_bytes(data.replace(b"Stra*e", b"Stra\xdfe"))  # Latin-1
    assert len(list(open_source(path))) == 8


def test_a_codec_that_is_not_known(tmp_path: Path, reader: str) -> None:
    path = av_clips.write(tmp_path / "x.avi", "mjpeg", "yuvj422p")
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"ZZZ9"))
    with pytest.raises(SourceError, match="an unknown codec"):
        open_source(path)


@pytest.mark.parametrize("first", [True, False])
def test_a_second_stream_of_a_codec_that_is_not_known(
    tmp_path: Path, first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    video = av_clips.write(tmp_path / "a.avi", "mpeg4")
    other = av_clips.write(tmp_path / "b.avi", "mjpeg", "yuvj422p", size=(256, 256))
    path = av_clips.joined([other, video] if first else [video, other], tmp_path / "x.avi")
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"ZZZ9"))
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        assert [frame.image.shape[0] for frame in source] == [64] * 8
    (message,) = caplog.messages
    assert f"stream {0 if first else 1} (an unknown codec)" in message


def test_a_stream_that_begins_within_the_file(tmp_path: Path) -> None:
    """PyAV, which knows the streams at the file's start only, raises IndexError at its packets."""
    capture = decoder.PyAvCapture(av_clips.write(tmp_path / "x.ts", frames=20))
    container = capture._container

    class Growing:
        name, later = "mpegts", False

        def demux(self, stream: object) -> Iterator[object]:
            for number, packet in enumerate(container.demux(stream)):
                if number == 4 and not self.later:
                    self.later = True
                    raise IndexError("list index out of range")
                yield packet

    growing: Any = Growing()
    growing.format = growing
    capture._frames, capture._container = capture._decode(), growing
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames >= 15


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_sound_that_is_longer_is_no_missing_part(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = av_clips.with_sound(av_clips.write(tmp_path / "video.mp4"), tmp_path / f"x{suffix}", seconds=2)
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        assert source.frames == len(list(source)) == 8
    assert not caplog.messages


@pytest.mark.parametrize("videos", [0, 1])
def test_a_cover_is_not_a_video(tmp_path: Path, videos: int, caplog: pytest.LogCaptureFixture) -> None:
    cover = av_clips.write(tmp_path / "cover.mov", "png", "rgb24", frames=1, size=(300, 300))
    video = av_clips.write(tmp_path / "video.mp4")
    path = av_clips.joined([video, cover][1 - videos :], tmp_path / "x.mp4", cover=True)
    with caplog.at_level(logging.WARNING, "imp_trt"):
        if not videos:
            with pytest.raises(SourceError, match="none: audio only"):
                open_source(path)
            return
        assert [frame.image.shape[0] for frame in open_source(path)] == [64] * 8
    assert not caplog.messages


@pytest.mark.parametrize("installed", [True, False])
def test_what_opencv_ignores_is_reported_with_a_fix_that_works(
    tmp_path: Path, installed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoder, "pyav_decodes", lambda: installed)
    decoder._warn_of_opencv.cache_clear()
    decoder.opencv_capture(av_clips.write(tmp_path / "x.mp4")).release()
    decoder._warn_of_opencv.cache_clear()
    assert ("pip install" in caplog.text) != installed


def test_a_file_that_names_other_files_is_not_followed(tmp_path: Path, reader: str) -> None:
    av_clips.write(tmp_path / "secret.mp4")
    for name, text in (
        ("list.mp4", "ffconcat version 1.0\nfile http://127.0.0.1:9/x.mp4\n"),
        ("hls.ts", "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(SourceError, match="a playlist, a text that names other files"):
            open_source(tmp_path / name)


def test_only_regular_files_are_opened(tmp_path: Path, reader: str) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    for name in ("fifo.mp4", "zero.mp4"):
        with pytest.raises(SourceError):
            files.VideoSource(tmp_path / name)


def _level(frame: Frame) -> float:
    return float(frame.image[4:12, 4:12].mean())

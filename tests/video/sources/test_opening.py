# SPDX-License-Identifier: Apache-2.0
"""Which spec opens what, and what rejections say. No camera is needed."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imp_trt.data.images import encode_image
from imp_trt.errors import DependencyMissing, InvalidInput, SourceError
from imp_trt.video.sources import open_source, opening
from tests.support.scripted_camera import ScriptedCapture


@pytest.mark.parametrize(
    ("spec", "device", "properties"),
    [
        ("0", "/dev/video0", {}),
        ("12", "/dev/video12", {}),
        ("/dev/video7", "/dev/video7", {}),
        ("/dev/v4l/by-id/usb-cam", "/dev/v4l/by-id/usb-cam", {}),
        ("v4l2:///dev/video0", "/dev/video0", {}),
        (
            "v4l2:///dev/video2?width=1280&height=720&fps=30&codec=mjpg",
            "/dev/video2",
            {"width": 1280, "height": 720, "fps": 30, "codec": "mjpg"},
        ),
    ],
)
def test_cameras(monkeypatch: pytest.MonkeyPatch, spec: str, device: str, properties: dict[str, Any]) -> None:
    calls = _record(monkeypatch, "open_camera")
    with open_source(spec) as source:
        assert (source.name, source.live) == (spec, True)
        assert next(iter(source)).index == 0
    assert calls[0] == (Path(device), properties)


@pytest.mark.parametrize(
    ("spec", "function", "argument"),
    [
        ("rtsp://cam/1", "open_stream", "rtsp://cam/1"),
        ("RTSPS://cam/1", "open_stream", "RTSPS://cam/1"),
        ("http://cam/1?[x]*", "open_stream", "http://cam/1?[x]*"),
        ("https://cam/1", "open_stream", "https://cam/1"),
        ("gstreamer:videotestsrc ! appsink", "open_gstreamer", "videotestsrc ! appsink"),
    ],
)
def test_streams(monkeypatch: pytest.MonkeyPatch, spec: str, function: str, argument: str) -> None:
    calls = _record(monkeypatch, function)
    with open_source(spec) as source:
        assert source.live
        next(iter(source))
    assert calls[0] == (argument, 5.0)
    assert not source.paced


def test_streams_with_a_frame_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _record(monkeypatch, "open_stream")
    with open_source("rtsp://cam/1", read_timeout_s=20) as source:
        assert source._stall_s > 20
    assert calls[0] == ("rtsp://cam/1", 20)
    for bad in (0, -1, float("nan")):
        with pytest.raises(InvalidInput, match="read_timeout_s"):
            open_source("rtsp://cam/1", read_timeout_s=bad)


@pytest.mark.parametrize(
    ("url", "paced"),
    [
        ("http://host/live/l.m3u8", True),
        ("https://host/L.M3U8?token=a.b", True),
        ("https://host/manifest.mpd", True),
        ("http://host/m3u8", False),
        ("http://host/video?x=l.m3u8", False),
    ],
)
def test_streams_in_segments_are_paced(monkeypatch: pytest.MonkeyPatch, url: str, paced: bool) -> None:
    for choice, expected in ((None, paced), (True, True), (False, False)):
        _record(monkeypatch, "open_stream")
        with open_source(url, paced=choice) as source:
            assert source.paced == expected


@pytest.mark.parametrize(("spec", "properties"), [("csi://1", {}), ("csi://1?fps=60", {"fps": 60})])
def test_csi(monkeypatch: pytest.MonkeyPatch, spec: str, properties: dict[str, Any]) -> None:
    calls = _record(monkeypatch, "open_csi")
    with open_source(spec) as source:
        assert (source.name, source.live) == (spec, True)
    assert calls[0] == (1, properties)


def test_the_connection_that_distinguishes_a_camera_from_a_recording_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = _record(monkeypatch, "open_stream", steps=[1, 2, None])
    with open_source("http://cam/1") as source:
        next(iter(source))
        assert len(calls) == 1


@pytest.mark.parametrize(
    ("spec", "function"),
    [
        ("0", "open_camera"),
        ("csi://0", "open_csi"),
        ("rtsp://cam/1", "open_stream"),
        ("http://cam/1", "open_stream"),
        ("gstreamer:videotestsrc ! appsink", "open_gstreamer"),
    ],
)
def test_how_long_a_source_may_stay_away(monkeypatch: pytest.MonkeyPatch, spec: str, function: str) -> None:
    captures = [ScriptedCapture([1, None])]

    def opens(*_: Any) -> ScriptedCapture:
        if not captures:
            raise SourceError("camera", got="nothing")
        return captures.pop()

    monkeypatch.setattr(opening, function, opens)
    with (
        open_source(spec, reconnect_timeout_s=0.05) as source,
        pytest.raises(SourceError, match=r"no frame for 0\.05 s"),
    ):
        list(source)


@pytest.mark.parametrize("bad", [-1, float("nan")])
def test_times_to_stay_away_that_are_none(bad: float) -> None:
    """NaN would be forever."""
    for spec in ("rtsp://cam/1", "0"):
        with pytest.raises(InvalidInput, match="reconnect_timeout_s"):
            open_source(spec, reconnect_timeout_s=bad)


@pytest.mark.parametrize("spec", [0, b"clip.mp4", None])
def test_what_is_no_text(spec: object) -> None:
    with pytest.raises(
        InvalidInput, match=r'open_source\("0"\)' if spec == 0 else "expected a path, or text"
    ):
        open_source(spec)  # type: ignore[arg-type]


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").write_text("x")
    with pytest.raises(SourceError, match="no suffix"):
        open_source("0")


LONG = "videotestsrc ! " * 40 + "rtspsrc location=rtsp://u:secret@cam user-pw=secret ! appsink"


def test_a_pipeline_may_be_longer_than_a_file_name(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _record(monkeypatch, "open_gstreamer")
    with open_source(f"gstreamer:{LONG}"):
        assert calls[0][0] == LONG


def test_folders_with_brackets_in_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run[1]").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "run[1]" / name).write_bytes(encode_image(np.zeros((4, 4), np.uint8), ".png"))
    for spec in ("run[1]/*.png", "~/run[1]/*.png", "~/run[[]1]/*.png", "~/run[1]"):
        assert [path.name for path in open_source(spec).paths] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("", "nothing at this path"),
        ("x" * 300 + ".mp4", "nothing at this path"),
        (LONG, "nothing at this path"),
        ("u:secret@10.0.0.1/stream", "nothing at this path"),
        ("v4l2:///dev/video0?size=1", "size=1"),
        ("v4l2:///dev/video0?width=wide", "width=wide"),
        ("v4l2:///dev/video0?width=0", "width=0"),
        ("v4l2:///dev/video0?width=640", "width and height together"),
        ("csi://0?codec=abc", "codec=abc"),
        ("csi://0?codec=MJPG", "codec=MJPG"),
        ("csi://front", "an address with csi:"),
        ("v4l2://video0", "an address with v4l2:"),
        ("ftp://u:secret@host/clip.mp4", "an address with ftp:"),
        ("rtsp:/u:secret@host/1", "nothing at this path"),
        ("99", r"/dev/video99.*no such device.*connect it"),
        ("/dev/video99", r"no such device"),
        ("rtsp://u:secret@127.0.0.1:9/1", "connection refused on port 9"),
        ("rtsp://u:secret@no-such-host.invalid/1", "unknown host no-such-host.invalid"),
        ("rtsp://u:secret@host:port/1", "a port that is not a number"),
        ("rtsp:///1", "an address without a host"),
    ],
)
def test_rejected(spec: str, named: str) -> None:
    with pytest.raises(SourceError, match=named) as caught:
        open_source(spec)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has GStreamer")
@pytest.mark.parametrize("spec", ["csi://0", "gstreamer:rtspsrc location=rtsp://u:secret@cam ! appsink"])
def test_without_gstreamer(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(DependencyMissing, match="WITH_GSTREAMER=ON") as caught:
        open_source(spec)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(
    not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has no GStreamer"
)
def test_gstreamer() -> None:
    pipeline = "videotestsrc pattern=white num-buffers=50 ! videoconvert ! video/x-raw,format=BGR ! appsink"
    with open_source(f"gstreamer:{pipeline}") as source:
        assert next(iter(source)).image.mean() > 230
    with pytest.raises(SourceError, match="does not start"):
        open_source("gstreamer:nosuchelement ! appsink")


def _record(monkeypatch: pytest.MonkeyPatch, function: str, steps: Any = (1, 2, 3)) -> list[Any]:
    """Put a camera in the place of one of the functions that open; returns what it is called with."""
    calls: list[Any] = []

    def opens(*arguments: Any) -> ScriptedCapture:
        calls.append(arguments)
        return ScriptedCapture(steps)

    monkeypatch.setattr(opening, function, opens)
    return calls

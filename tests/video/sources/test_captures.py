# SPDX-License-Identifier: Apache-2.0
"""What is requested of OpenCV when a camera or stream is opened."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path
from typing import Any

import cv2
import pytest

from imp_trt.errors import DependencyMissing, SourceError
from imp_trt.video.sources import captures


class FakeCapture:
    """Stands in for cv2.VideoCapture."""

    opens = True
    opens_with_settings = True
    rejected: int | None = None
    made: list[FakeCapture]

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.released = False
        self.settings: list[tuple[int, float]] = []
        type(self).made.append(self)

    def set(self, prop: int, value: float) -> bool:
        self.settings.append((prop, value))
        return prop != self.rejected

    def isOpened(self) -> bool:
        return self.opens and (self.opens_with_settings or not self.arguments[2])

    def release(self) -> None:
        self.released = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    class Capture(FakeCapture):
        made: list[FakeCapture] = []  # noqa: RUF012

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr(captures, "_has", lambda backend: True)
    return Capture


def test_streams_have_time_outs(fake: type[FakeCapture]) -> None:
    captures.open_stream("rtsp://cam/1")
    name, backend, settings = fake.made[0].arguments
    assert (name, backend) == ("rtsp://cam/1", cv2.CAP_FFMPEG)
    assert _pairs(settings) == {cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC: 5000}


def test_gstreamer_has_time_outs(fake: type[FakeCapture]) -> None:
    captures.open_gstreamer("videotestsrc ! appsink")
    name, backend, settings = fake.made[0].arguments
    assert (name, backend) == ("videotestsrc ! appsink", cv2.CAP_GSTREAMER)
    assert cv2.CAP_PROP_READ_TIMEOUT_MSEC in _pairs(settings)


def test_a_camera_is_asked_for_its_codec_first(fake: type[FakeCapture], tmp_path: Path) -> None:
    device = tmp_path / "video0"
    device.touch()
    captures.open_camera(device, {"width": 1280, "height": 720, "fps": 30, "codec": "mjpg"})
    assert fake.made[0].arguments == (str(device), cv2.CAP_V4L2, [])
    assert fake.made[0].settings == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 30),
    ]


def test_what_a_camera_rejects_is_logged(
    fake: type[FakeCapture], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "video0").touch()
    fake.rejected = cv2.CAP_PROP_FPS
    captures.open_camera(tmp_path / "video0", {"fps": 240, "width": 640, "height": 480})
    (record,) = caplog.records
    assert record.getMessage().endswith("video0 rejects fps 240")


def test_a_camera_in_use(fake: type[FakeCapture], tmp_path: Path) -> None:
    fake.opens = False
    (tmp_path / "video0").touch()
    with pytest.raises(SourceError, match="in use or not a camera"):
        captures.open_camera(tmp_path / "video0")
    assert fake.made[0].released


def test_a_camera_without_permission(
    fake: type[FakeCapture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "video0").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read anything
    with pytest.raises(SourceError, match="group video"):
        captures.open_camera(tmp_path / "video0")
    assert fake.made == []


def test_a_pipeline_that_does_not_start(fake: type[FakeCapture]) -> None:
    fake.opens = False
    with pytest.raises(SourceError, match="does not start"):
        captures.open_gstreamer("nosuchelement ! appsink")
    assert fake.made[0].released


@pytest.mark.parametrize(
    ("error", "named"),
    [(TimeoutError(), "no response within 2 s"), (OSError(113, "No route to host"), "No route to host")],
)
def test_a_host_that_does_not_answer(
    fake: type[FakeCapture], monkeypatch: pytest.MonkeyPatch, error: OSError, named: str
) -> None:
    fake.opens = False
    request: list[Any] = []

    def connect(address: Any, timeout: float) -> None:
        request.append((address, timeout))
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(SourceError, match=named):
        captures.open_stream("rtsp://u:p@10.0.0.9/1")
    assert request == [(("10.0.0.9", 554), 2)]


def test_a_csi_camera(fake: type[FakeCapture], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    captures.open_csi(1, {"width": 1920, "height": 1080})
    pipeline = fake.made[0].arguments[0]
    assert pipeline.startswith("nvarguscamerasrc sensor-id=1 ! ")
    assert "width=1920,height=1080,framerate=30/1" in pipeline
    assert "format=BGR ! appsink drop=true" in pipeline


def test_a_csi_camera_on_another_machine(fake: type[FakeCapture], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(DependencyMissing, match=r"only NVIDIA Jetson has.*x86_64.*/dev/video0"):
        captures.open_csi(0)
    assert fake.made == []


def test_gstreamer_of_an_opencv_without_time_outs(fake: type[FakeCapture]) -> None:
    fake.opens_with_settings = False
    captures.open_gstreamer("videotestsrc ! appsink")
    assert fake.made[0].released
    assert fake.made[1].arguments[2] == []


def _pairs(settings: list[int]) -> dict[int, int]:
    return dict(zip(settings[::2], settings[1::2], strict=True))

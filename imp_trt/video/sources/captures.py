"""Cameras and streams by OpenCV: opened with time-outs, and with the reason where they do not open."""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import DependencyMissing, SourceError
from imp_trt.video.sources.addresses import redacted

OPEN_TIMEOUT_MS = 5000
READ_TIMEOUT_MS = 5000

_log = logging.getLogger(__name__)

_ESCAPES = "in a password, / @ : # are written %2F %40 %3A %23"
_WISHES = {
    "codec": cv2.CAP_PROP_FOURCC,
    "width": cv2.CAP_PROP_FRAME_WIDTH,
    "height": cv2.CAP_PROP_FRAME_HEIGHT,
    "fps": cv2.CAP_PROP_FPS,
}
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}


class Capture(Protocol):
    """The part of cv2.VideoCapture that sources use; tests put a script in its place."""

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """Wait for the next picture, [h, w, 3] uint8 BGR; (False, None) when there is none."""
        ...

    def get(self, prop: int, /) -> float:
        """A property by its cv2.CAP_PROP number; 0 or less when it is unknown."""
        ...

    def release(self) -> None: ...


def open_stream(url: str) -> Capture:
    """Open an rtsp, rtsps, http or https address; RTSP goes over TCP.

    ``OPENCV_FFMPEG_CAPTURE_OPTIONS`` of the environment, as OpenCV reads it, chooses otherwise
    (``rtsp_transport;udp``).

    Raises:
        SourceError: nothing answers within OPEN_TIMEOUT_MS, or no video comes from there.
    """
    backend = cv2.CAP_FFMPEG if _has(cv2.CAP_FFMPEG) else cv2.CAP_ANY
    capture = _open(url, backend, _timeouts())
    if capture is not None:
        return capture
    raise SourceError(f"stream {redacted(url)}", expected="a video stream", **_why_no_stream(url))


def open_camera(device: Path, wishes: Mapping[str, int | str] | None = None) -> Capture:
    """Open a V4L2 camera.

    Args:
        device: such as /dev/video0.
        wishes: width and height in pixels, fps, codec (four letters, such as MJPG). The driver takes the
            nearest size and rate that it has; what it refuses is logged.

    Raises:
        SourceError: no such device, no permission, in use, or not a camera.
    """
    if device.exists() and os.access(device, os.R_OK | os.W_OK):
        capture = _open(str(device), cv2.CAP_V4L2 if _has(cv2.CAP_V4L2) else cv2.CAP_ANY, [])
        if capture is not None:
            _set(capture, device, wishes or {})
            return capture
    raise SourceError(f"camera {device}", expected="a camera that opens", **_why_no_camera(device))


def open_gstreamer(pipeline: str) -> Capture:
    """Open a GStreamer pipeline that ends in an appsink of BGR pictures.

    Raises:
        DependencyMissing: this OpenCV was built without GStreamer, as those of PyPI are.
        SourceError: the pipeline does not start.
    """
    if not _has(cv2.CAP_GSTREAMER):
        raise DependencyMissing(
            f"OpenCV {cv2.__version__} has no GStreamer, which this source needs: {redacted(pipeline)}",
            fix="remove opencv-python and use the system's (apt install python3-opencv; JetPack brings one), "
            "or build OpenCV with -D WITH_GSTREAMER=ON",
        )
    # Before OpenCV 4.7 its GStreamer reader knew no time-outs, and refused to open with them.
    capture = _open(pipeline, cv2.CAP_GSTREAMER, _timeouts()) or _open(pipeline, cv2.CAP_GSTREAMER, [])
    if capture is not None:
        return capture
    raise SourceError(
        f"GStreamer pipeline {redacted(pipeline)}",
        expected="one that starts and ends in an appsink",
        got="one that does not start",
        fix="try it with gst-launch-1.0, with fakesink in the place of appsink",
    )


def open_csi(sensor: int, wishes: Mapping[str, int | str] | None = None) -> Capture:
    """Open a CSI camera of NVIDIA Jetson, through its image signal processor.

    Args:
        wishes: width and height (default 1280 x 720), fps (default 30); one of the sensor's own modes.

    Raises:
        DependencyMissing: not on Jetson, or OpenCV was built without GStreamer.
        SourceError: the camera does not start.
    """
    # Elsewhere the elements are unknown, which OpenCV's reader does not take for an error: it waits for them.
    if platform.machine() != "aarch64":
        raise DependencyMissing(
            f"camera csi://{sensor} is read through GStreamer elements that only NVIDIA Jetson has",
            got=f"{platform.machine()}",
            fix="name a camera of this machine by its device, such as /dev/video0",
        )
    mode = {"width": 1280, "height": 720, "fps": 30, **(wishes or {})}
    return open_gstreamer(
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),"
        f"width={mode['width']},height={mode['height']},framerate={mode['fps']}/1 ! "
        "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def _set(capture: Any, device: Path, wishes: Mapping[str, int | str]) -> None:
    # The codec first, because sizes and rates depend on it. Given on opening, one refusal would be the end.
    for name, prop in _WISHES.items():
        if name in wishes:
            wish = wishes[name]
            value = cv2.VideoWriter.fourcc(*wish.upper()) if isinstance(wish, str) else wish
            if not capture.set(prop, value):
                _log.warning("camera %s refuses %s %s", device, name, wish)


def _open(name: str, backend: int, settings: list[int]) -> Capture | None:
    capture: Any = cv2.VideoCapture(name, backend, settings)
    if capture.isOpened():
        return capture  # type: ignore[no-any-return]
    capture.release()
    return None


def _has(backend: int) -> bool:
    return bool(cv2.videoio_registry.hasBackend(backend))


def _timeouts() -> list[int]:
    return [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        OPEN_TIMEOUT_MS,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        READ_TIMEOUT_MS,
    ]


def _why_no_stream(url: str) -> dict[str, Any]:
    """OpenCV only says no; whether anything listens there tells a wrong host from a wrong path or login."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme.lower(), 0)
    except ValueError:
        return {"got": "a port that is no number", "fix": f"check the port; {_ESCAPES}"}
    if not host:
        return {"got": "an address without a host", "fix": "write it as rtsp://host:port/path"}
    try:
        socket.create_connection((host, port), timeout=2).close()
    except socket.gaierror:
        return {"got": f"no host of the name {host}", "fix": "check the name"}
    except ConnectionRefusedError:
        return {"got": f"a refusal of port {port}", "fix": "check the port, and that the server runs"}
    except OSError as error:
        got = "no answer within 2 s" if isinstance(error, TimeoutError) else error.strerror or str(error)
        return {"got": got, "fix": "check the address and the network"}
    return {
        "got": "a server that gives no video",
        "fix": f"check the path, user and password; {_ESCAPES}",
    }


def _why_no_camera(device: Path) -> dict[str, Any]:
    if not device.exists():
        others = sorted(str(path) for path in Path("/dev").glob("video*"))
        return {
            "got": "no such device",
            "fix": f"plug it in, or name one of: {', '.join(others) or '(none)'}",
        }
    if not os.access(device, os.R_OK | os.W_OK):
        return {"got": "no permission", "fix": "add the user to the group video, and log in again"}
    return {
        "got": "one in use, or no camera",
        "fix": "close what uses it (fuser -v names it); of a camera's devices the first gives pictures",
    }

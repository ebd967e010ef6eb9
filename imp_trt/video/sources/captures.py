# SPDX-License-Identifier: Apache-2.0
"""Opens cameras and streams with OpenCV, with timeouts and specific error messages."""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache, lru_cache
from pathlib import Path
from typing import Protocol, TypedDict, cast
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.files import utf8_name
from imp_trt.data.memory import MEMORY_FIX, memory_is_short
from imp_trt.data.native_calls import call_after_fork, never_release, waiting_call
from imp_trt.errors import DependencyMissing, SourceError
from imp_trt.video.sources.addresses import redacted

OPEN_TIMEOUT_MS = 5000
READ_TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)

NOT_SQUARE = (
    "its pixels are not square ({}:{}); frames are processed as stored, in which shapes are stretched"
)
NOT_HONORED = (
    "ignores mirroring and the color matrix and range of a video"
    if int(cv2.__version__.split(".")[0]) < 5
    else "turns interlaced video to noise and ignores mirroring"
)
"""What OpenCV does not honor, and does not report."""

_ESCAPES = "escape / @ : # in a password as %2F %40 %3A %23"
_CAMERA_PROPERTIES = {
    "codec": cv2.CAP_PROP_FOURCC,
    "width": cv2.CAP_PROP_FRAME_WIDTH,
    "height": cv2.CAP_PROP_FRAME_HEIGHT,
    "fps": cv2.CAP_PROP_FPS,
}
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}


class _Reason(TypedDict):
    """Keyword arguments of SourceError."""

    got: str
    fix: str


class Capture(Protocol):
    """The part of the interface of cv2.VideoCapture that sources use; tests replace it."""

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """Wait for the next image, [h, w, 3] uint8 BGR; (False, None) if there is none."""
        ...

    def get(self, prop: int, /) -> float:
        """Return a property by its cv2.CAP_PROP number; 0 or negative if it is unknown."""
        ...

    def release(self) -> None: ...


class _Device(Capture, Protocol):
    def set(self, prop: int, value: float, /) -> bool: ...


def inherited(name: str) -> SourceError:
    """The error for a read in a forked process: the threads of the decoder are the parent's."""
    return SourceError(
        f"source {redacted(name)}",
        expected="a source that this process opened",
        got="one of the process that forked it",
        fix="open it after the fork, or read it in the parent",
    )


class GuardedCapture:
    """A capture of OpenCV whose calls the end of the process does not interrupt; see :class:`Capture`.

    A forked process neither reads nor releases that of its parent.

    Args:
        call: around each call: waiting_call for cameras and streams, native_call for files.
        name: path or address, for messages.
    """

    def __init__(self, capture: _Device, call: Callable[[], AbstractContextManager[None]], name: str) -> None:
        self._capture, self._call, self._name = capture, call, name
        self._inherited = False
        call_after_fork(self)

    def after_fork(self) -> None:
        """See :class:`imp_trt.data.native_calls.Inherited`."""
        never_release(self._capture)
        self._inherited = True

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """See :meth:`Capture.read`."""
        if self._inherited:
            raise inherited(self._name)
        with self._call():
            return self._capture.read()

    def get(self, prop: int, /) -> float:
        """See :meth:`Capture.get`."""
        with self._call():
            return self._capture.get(prop)

    def set(self, prop: int, value: float, /) -> bool:
        """Set a property; False if the driver rejects it."""
        with self._call():
            return self._capture.set(prop, value)

    def release(self) -> None:
        """Close it."""
        if not self._inherited:
            with self._call():
                self._capture.release()


def open_stream(url: str, read_timeout_s: float = READ_TIMEOUT_S) -> Capture:
    """Open an rtsp, rtsps, http or https address; RTSP uses TCP.

    A read fails after read_timeout_s without a frame.

    OpenCV's environment variable ``OPENCV_FFMPEG_CAPTURE_OPTIONS`` overrides the transport
    (``rtsp_transport;udp``).

    Raises:
        SourceError: no response within OPEN_TIMEOUT_MS, or the server does not send video.
    """
    backend = cv2.CAP_FFMPEG if _has(cv2.CAP_FFMPEG) else cv2.CAP_ANY
    capture = _open(url, backend, _timeouts(read_timeout_s))
    if capture is not None:
        return capture
    raise SourceError(f"stream {redacted(url)}", expected="a video stream", **_diagnose_stream(url))


def warn_of_shape(capture: Capture, name: str) -> None:
    """Warn of pixels that are not square, once for each video or stream."""
    ratio = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    if min(ratio) > 0 and ratio[0] != ratio[1]:
        _warn_of_shape(name, NOT_SQUARE.format(*map(int, ratio)))


@lru_cache(1000)
def _warn_of_shape(name: str, text: str) -> None:
    _log.warning("%s: %s", name, text)


@cache
def warn_of_streams() -> None:
    """Warn once per process of what OpenCV, which reads all streams, does not honor."""
    _log.warning("streams are decoded by OpenCV %s, which %s", cv2.__version__, NOT_HONORED)


def open_camera(device: Path, properties: Mapping[str, int | str] | None = None) -> Capture:
    """Open a V4L2 camera.

    Args:
        device: such as /dev/video0.
        properties: width and height in pixels, fps, codec (four letters, such as MJPG). The driver uses the
            nearest size and rate that it supports; properties that it rejects are logged.

    Raises:
        SourceError: no such device, no permission, in use, or not a camera.
    """
    if device.exists() and os.access(device, os.R_OK | os.W_OK):
        capture = _open(str(device), cv2.CAP_V4L2 if _has(cv2.CAP_V4L2) else cv2.CAP_ANY, [])
        if capture is not None:
            _set(capture, device, properties or {})
            return capture
    raise SourceError(f"camera {device}", expected="a camera that opens", **_diagnose_camera(device))


def open_gstreamer(pipeline: str, read_timeout_s: float = READ_TIMEOUT_S) -> Capture:
    """Open a GStreamer pipeline that ends in an appsink with BGR images.

    Raises:
        DependencyMissing: OpenCV was built without GStreamer, as the wheels on PyPI are.
        SourceError: the pipeline does not start.
    """
    if not _has(cv2.CAP_GSTREAMER):
        raise DependencyMissing(
            f"OpenCV {cv2.__version__} has no GStreamer, which this source needs: {redacted(pipeline)}",
            fix="uninstall opencv-python and use the system's OpenCV (apt install python3-opencv; part of "
            "JetPack), or build OpenCV with -D WITH_GSTREAMER=ON",
        )
    # Before version 4.7, OpenCV's GStreamer backend did not support timeouts and failed to open with them.
    timeouts = _timeouts(read_timeout_s)
    capture = _open(pipeline, cv2.CAP_GSTREAMER, timeouts) or _open(pipeline, cv2.CAP_GSTREAMER, [])
    if capture is not None:
        return capture
    raise SourceError(
        f"GStreamer pipeline {redacted(pipeline)}",
        expected="a pipeline that starts and ends in an appsink",
        got="a pipeline that does not start",
        fix="test it with gst-launch-1.0, with fakesink instead of appsink",
    )


def open_csi(sensor: int, properties: Mapping[str, int | str] | None = None) -> Capture:
    """Open a CSI camera on NVIDIA Jetson, through its image signal processor.

    Args:
        properties: width and height (default 1280 x 720), fps (default 30); one of the sensor's own modes.

    Raises:
        DependencyMissing: not on Jetson, or OpenCV was built without GStreamer.
        SourceError: the camera does not start.
    """
    # On other platforms the GStreamer elements do not exist, and OpenCV blocks instead of failing.
    if platform.machine() != "aarch64":
        raise DependencyMissing(
            f"camera csi://{sensor} needs GStreamer elements that only NVIDIA Jetson has",
            got=f"{platform.machine()}",
            fix="name a camera of this machine by its device, such as /dev/video0",
        )
    mode = {"width": 1280, "height": 720, "fps": 30, **(properties or {})}
    return open_gstreamer(
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),"
        f"width={mode['width']},height={mode['height']},framerate={mode['fps']}/1 ! "
        "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def _set(capture: _Device, device: Path, properties: Mapping[str, int | str]) -> None:
    # The codec first, because sizes and rates depend on it. Set after opening, because opening with a
    # property that the driver rejects fails.
    for name, prop in _CAMERA_PROPERTIES.items():
        if name in properties:
            requested = properties[name]
            value = cv2.VideoWriter.fourcc(*requested.upper()) if isinstance(requested, str) else requested
            if not capture.set(prop, value):
                _log.warning("camera %s rejects %s %s", device, name, requested)


def _open(name: str, backend: int, settings: list[int]) -> _Device | None:
    utf8_name(name, f"source {redacted(name)}", SourceError)
    with waiting_call():
        capture = cv2.VideoCapture(name, backend, settings)
        if capture.isOpened():
            # OpenCV's stubs say that read() always returns an image; without one it returns None.
            return GuardedCapture(cast(_Device, capture), waiting_call, name)
        capture.release()
    return None


def _has(backend: int) -> bool:
    return bool(cv2.videoio_registry.hasBackend(backend))


def _timeouts(read_timeout_s: float) -> list[int]:
    return [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        OPEN_TIMEOUT_MS,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        max(1, min(round(read_timeout_s * 1e3), 2**31 - 1)),
    ]


def _diagnose_stream(url: str) -> _Reason:
    """OpenCV reports no reason. A TCP connection distinguishes a wrong host from a wrong path or login."""
    if memory_is_short():
        return {"got": "too little memory", "fix": MEMORY_FIX}
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme.lower(), 0)
    except ValueError:
        return {"got": "a port that is not a number", "fix": f"check the port; {_ESCAPES}"}
    if not host:
        return {"got": "an address without a host", "fix": "use the form rtsp://host:port/path"}
    try:
        socket.create_connection((host, port), timeout=2).close()
    except socket.gaierror:
        return {"got": f"unknown host {host}", "fix": "check the host name"}
    except ConnectionRefusedError:
        return {
            "got": f"connection refused on port {port}",
            "fix": "check the port, and that the server is running",
        }
    except OSError as error:
        got = "no response within 2 s" if isinstance(error, TimeoutError) else error.strerror or str(error)
        return {"got": got, "fix": "check the address and the network"}
    return {
        "got": "a server that sends no video",
        "fix": f"check the path, user and password; {_ESCAPES}",
    }


def _diagnose_camera(device: Path) -> _Reason:
    if not device.exists():
        others = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
        return {
            "got": "no such device",
            "fix": f"connect it, or use one of {others}" if others else "connect it; no camera was found",
        }
    if not os.access(device, os.R_OK | os.W_OK):
        return {"got": "no permission", "fix": "add the user to the group video, and log in again"}
    return {
        "got": "a device that is in use or not a camera",
        "fix": "close the program that uses it (see fuser -v), or use the first of the camera's devices",
    }

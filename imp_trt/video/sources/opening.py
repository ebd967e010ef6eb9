# SPDX-License-Identifier: Apache-2.0
"""Opens a source by its path, address or device name."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

import cv2

from imp_trt._deprecated import renamed_parameters
from imp_trt.data.images import IMAGE_SUFFIXES
from imp_trt.errors import InvalidInput, SourceError
from imp_trt.video.sources.addresses import redacted
from imp_trt.video.sources.captures import (
    OPEN_TIMEOUT_MS,
    READ_TIMEOUT_S,
    Capture,
    open_camera,
    open_csi,
    open_gstreamer,
    open_stream,
    warn_of_shape,
    warn_of_streams,
)
from imp_trt.video.sources.decoder import PyAvCapture, pyav_decodes
from imp_trt.video.sources.files import VIDEO_SUFFIXES, ImageSource, VideoSource, images_in, images_matching
from imp_trt.video.sources.live import RECONNECT_TIMEOUT_S, STALL_TIMEOUT_S, LiveSource, OnEvent
from imp_trt.video.sources.reader import StreamEnded
from imp_trt.video.sources.source import Source

_log = logging.getLogger(__name__)

_KINDS = (
    "an image, a folder or pattern of images, a video file, a camera (0, /dev/video0, v4l2:///dev/video0, "
    "csi://0), a stream (rtsp://, rtsps://, http://, https://), or gstreamer:PIPELINE"
)
_STALL_MARGIN_S = 10.0  # between the time-out of OpenCV and that for a call that does not return
_CAMERA_PROPERTIES = ("width", "height", "fps", "codec")

_SEGMENTED = (".m3u8", ".m3u", ".mpd")  # HLS and DASH


class _Live(Protocol):
    """Creates a live source from its name and the function that connects to it."""

    def __call__(self, name: str, connect: Callable[[], Capture], *, paced: bool = False) -> Source: ...


@dataclass(frozen=True)
class _Streams:
    """Options of open_source for streams."""

    read_timeout_s: float
    paced: bool | None


@renamed_parameters(give_up_s="reconnect_timeout_s")
def open_source(
    spec: str | os.PathLike[str],
    *,
    on_event: OnEvent | None = None,
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
    paced: bool | None = None,
    strict: bool = False,
) -> Source:
    """Open a source of frames.

    Args:
        spec: path of an image, of a folder of images, of a video, or a pattern such as ``'run/*.png'``
            (files of a folder or pattern are read in natural order: frame2 before frame10); a camera: ``0``,
            ``/dev/video0``, ``v4l2:///dev/video0`` or, on Jetson, ``csi://0``, the last two with optional
            properties such as ``?width=1280&height=720&fps=30`` (V4L2: ``&codec=MJPG``); a stream:
            ``rtsp://``, ``rtsps://``, ``http://``, ``https://``; or ``gstreamer:`` and a pipeline that ends
            in an appsink. Existing files take precedence; ``~`` is the home folder.
        on_event, reconnect_timeout_s: for cameras and streams, see LiveSource.
        read_timeout_s: a stream is reconnected after this time without a frame; increase it for streams with
            a frame every few seconds.
        paced: whether a stream is read at its own pace, see LiveSource. None: HLS and DASH, whose addresses
            end with .m3u8 and .mpd.
        strict: an image of a folder or pattern that cannot be read is an error rather than skipped.

    Raises:
        SourceError: the source does not exist, or is not of a supported kind.
        DependencyMissing: OpenCV has no GStreamer, which the source needs; or a CSI camera on a platform
            other than Jetson.
        InvalidInput: read_timeout_s is not above 0, or reconnect_timeout_s is below 0; or spec is neither
            text nor a path, such as a number of cv2.VideoCapture.
    """
    if not read_timeout_s > 0:
        raise InvalidInput("read_timeout_s", expected="above 0", got=read_timeout_s)
    if not reconnect_timeout_s >= 0:
        raise InvalidInput("reconnect_timeout_s", expected="0 or more", got=reconnect_timeout_s)
    text = _checked_text(spec)
    path = Path(text)
    stall_s = max(STALL_TIMEOUT_S, read_timeout_s + _STALL_MARGIN_S)
    streams = _Streams(read_timeout_s, paced)
    live = partial(LiveSource, on_event=on_event, reconnect_timeout_s=reconnect_timeout_s, stall_s=stall_s)
    # Unlike the methods of Path, these return False for names that are too long, such as pipelines.
    if os.path.isdir(text):
        return ImageSource(text, images_in(path), strict=strict)
    if re.fullmatch(r"/dev/(video\d+|v4l/.+)", text):
        return _camera(text, path, {}, live)
    if not os.path.exists(text):
        if text.isdecimal():
            return _camera(text, Path(f"/dev/video{int(text)}"), {}, live)
        scheme = re.match(r"([a-z][a-z0-9+.-]*):(?=//)|gstreamer:", text, re.IGNORECASE)
        if scheme:
            return _by_scheme(scheme.group().rstrip(":").lower(), text, live, streams)
        if glob.has_magic(text):
            return ImageSource(text, images_matching(text), strict=strict)
        what = f"source {redacted(text)}"  # it may be an address with a missing slash
        raise SourceError(what, expected=_KINDS, got="nothing at this path", fix="check the path")
    return _camera(text, path, {}, live) if path.is_char_device() else _open_file(path)


def _open_file(path: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageSource(str(path), [path])
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path)
    raise SourceError(
        f"source {path}",
        expected=f"a file that ends with {', '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))}",
        got=suffix or "no suffix",
        fix="give the file the suffix of its format, or convert it",
    )


def _checked_text(given: str | os.PathLike[str]) -> str:
    """The source with ~ as the home folder; an error if no path or address can contain it."""
    if not isinstance(given, str | os.PathLike):  # such as 0 for cv2.VideoCapture
        raise InvalidInput(
            "source",
            expected="a path, or text",
            got=type(given).__name__,
            fix=f'open_source("{given}")' if isinstance(given, int) else "open_source(str(path))",
        )
    spec = os.fspath(given)
    try:
        text = os.path.expanduser(spec)
        valid = b"\0" not in os.fsencode(text)
    except (UnicodeError, ValueError):
        valid = False
    if not valid:
        raise SourceError(
            f"source {redacted(spec)}", expected=_KINDS, got="text with a NUL or undecodable characters"
        )
    return text


def _by_scheme(scheme: str, text: str, live: _Live, streams: _Streams) -> Source:
    timeout_s = streams.read_timeout_s
    if scheme in ("http", "https"):
        return _web(text, live, streams)
    if scheme in ("rtsp", "rtsps"):
        return live(text, partial(_open_stream, text, timeout_s), paced=bool(streams.paced))
    if scheme == "gstreamer":
        pipeline = text.partition(":")[2].strip()
        return live(text, partial(open_gstreamer, pipeline, timeout_s), paced=bool(streams.paced))
    place, _, query = text.partition("://")[2].partition("?")
    if scheme == "v4l2" and place.startswith("/dev/"):
        return _camera(text, Path(place), _parse_properties(text, query), live)
    if scheme == "csi" and place.isdecimal():
        properties = _parse_properties(text, query, _CAMERA_PROPERTIES[:3])  # its codec is fixed
        return live(text, partial(open_csi, int(place), properties))
    raise SourceError(f"source {redacted(text)}", expected=_KINDS, got=f"an address with {scheme}:")


def _camera(text: str, device: Path, properties: dict[str, int | str], live: _Live) -> Source:
    return live(text, partial(open_camera, device, properties))


def _web(url: str, live: _Live, streams: _Streams) -> Source:
    """Open a web address. A recording reports its number of frames; a camera does not."""
    opened = [open_stream(url, streams.read_timeout_s)]
    if _is_recording(opened[0]):
        return VideoSource(redacted(url), _recording(url, opened[0], streams.read_timeout_s))
    _report(url, opened[0])

    def connect() -> Capture:
        # Some cameras serve one client at a time, so the open capture is used as the first connection.
        if opened:
            return opened.pop()
        capture = _open_stream(url, streams.read_timeout_s)
        if _is_recording(capture):
            capture.release()
            raise StreamEnded
        return capture

    segmented = urlsplit(url).path.lower().endswith(_SEGMENTED)
    return live(url, connect, paced=segmented if streams.paced is None else streams.paced)


def _recording(url: str, opened: Capture, read_timeout_s: float) -> Iterator[Capture]:
    """Captures of a recording, the preferred decoder first; one connection at a time."""
    if pyav_decodes():
        opened.release()
        try:
            yield PyAvCapture(url, (OPEN_TIMEOUT_MS / 1e3, read_timeout_s))
        except OSError as error:
            _log.debug("PyAV does not open %s: %s", redacted(url), error)
        opened = open_stream(url, read_timeout_s)
    _report(url, opened)
    yield opened


def _open_stream(url: str, read_timeout_s: float) -> Capture:
    capture = open_stream(url, read_timeout_s)
    _report(url, capture)
    return capture


def _report(url: str, capture: Capture) -> None:
    """Warn of what is not honored of a stream that OpenCV decodes."""
    warn_of_streams()
    warn_of_shape(capture, redacted(url))


def _is_recording(capture: Capture) -> bool:
    return 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) < 1e9


def _parse_properties(
    text: str, query: str, known: tuple[str, ...] = _CAMERA_PROPERTIES
) -> dict[str, int | str]:
    properties: dict[str, int | str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "codec" and name in known and re.fullmatch(r"[A-Za-z0-9]{4}", value):
            properties[name] = value
        elif name in _CAMERA_PROPERTIES[:3] and value.isdecimal() and int(value):
            properties[name] = int(value)
        else:
            raise SourceError(
                f"source {text}",
                expected=f"after ?: {', '.join(known)}; integers"
                + (", and codec as four letters" if "codec" in known else ""),
                got=f"{name}={value}",
            )
    if ("width" in properties) != ("height" in properties):
        raise SourceError(f"source {text}", expected="width and height together", got=query)
    return properties

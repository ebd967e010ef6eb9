# SPDX-License-Identifier: Apache-2.0
"""Opens a source by its path, address or device name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl

import cv2

from imp_trt._deprecated import renamed_parameters
from imp_trt.data.images import IMAGE_SUFFIXES
from imp_trt.errors import SourceError
from imp_trt.video.sources.addresses import redacted
from imp_trt.video.sources.captures import Capture, open_camera, open_csi, open_gstreamer, open_stream
from imp_trt.video.sources.files import VIDEO_SUFFIXES, ImageSource, VideoSource, images_in, images_matching
from imp_trt.video.sources.live import RECONNECT_TIMEOUT_S, LiveSource, OnEvent
from imp_trt.video.sources.source import Source

_KINDS = (
    "an image, a folder or pattern of images, a video file, a camera (0, /dev/video0, v4l2:///dev/video0, "
    "csi://0), a stream (rtsp://, rtsps://, http://, https://), or gstreamer:PIPELINE"
)
_CAMERA_PROPERTIES = ("width", "height", "fps", "codec")

_Live = Callable[[str, Callable[[], Capture]], Source]
"""Creates a live source from its name and the function that connects to it."""


@renamed_parameters(give_up_s="reconnect_timeout_s")
def open_source(
    spec: str | os.PathLike[str],
    *,
    on_event: OnEvent | None = None,
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
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

    Raises:
        SourceError: the source does not exist, or is not of a supported kind.
        DependencyMissing: OpenCV has no GStreamer, which the source needs; or a CSI camera on a platform
            other than Jetson.
    """
    text = _checked_text(os.fspath(spec))
    path = Path(text)
    live = partial(LiveSource, on_event=on_event, reconnect_timeout_s=reconnect_timeout_s)
    # Unlike the methods of Path, these return False for names that are too long, such as pipelines.
    if os.path.isdir(text):
        return ImageSource(text, images_in(path))
    if re.fullmatch(r"/dev/(video\d+|v4l/.+)", text):
        return _camera(text, path, {}, live)
    if not os.path.exists(text):
        if text.isdecimal():
            return _camera(text, Path(f"/dev/video{int(text)}"), {}, live)
        scheme = re.match(r"([a-z][a-z0-9+.-]*):(?=//)|gstreamer:", text, re.IGNORECASE)
        if scheme:
            return _by_scheme(scheme.group().rstrip(":").lower(), text, live)
        if glob.has_magic(text):
            return ImageSource(text, images_matching(text))
        what = f"source {redacted(text)}"  # it may be an address with a missing slash
        raise SourceError(what, expected=_KINDS, got="nothing at this path", fix="check the path")
    if path.is_char_device():
        return _camera(text, path, {}, live)
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageSource(text, [path])
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path)
    raise SourceError(
        f"source {text}",
        expected=f"a file that ends with {', '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))}",
        got=suffix or "no suffix",
        fix="give the file the suffix of its format, or convert it",
    )


def _checked_text(spec: str) -> str:
    """The source with ~ as the home folder; SourceError if no path or address can contain it."""
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


def _by_scheme(scheme: str, text: str, live: _Live) -> Source:
    if scheme in ("http", "https"):
        return _web(text, live)
    if scheme in ("rtsp", "rtsps"):
        return live(text, partial(open_stream, text))
    if scheme == "gstreamer":
        return live(text, partial(open_gstreamer, text.partition(":")[2].strip()))
    place, _, query = text.partition("://")[2].partition("?")
    if scheme == "v4l2" and place.startswith("/dev/"):
        return _camera(text, Path(place), _parse_properties(text, query), live)
    if scheme == "csi" and place.isdecimal():
        return live(text, partial(open_csi, int(place), _parse_properties(text, query)))
    raise SourceError(f"source {redacted(text)}", expected=_KINDS, got=f"an address with {scheme}:")


def _camera(text: str, device: Path, properties: dict[str, int | str], live: _Live) -> Source:
    return live(text, partial(open_camera, device, properties))


def _web(url: str, live: _Live) -> Source:
    """Open a web address. A recording reports its number of frames; a camera does not."""
    opened = [open_stream(url)]
    if 0 < opened[0].get(cv2.CAP_PROP_FRAME_COUNT) < 1e9:
        return VideoSource(redacted(url), opened[0])
    # Some cameras serve one client at a time, so the open capture is used as the first connection.
    return live(url, lambda: opened.pop() if opened else open_stream(url))


def _parse_properties(text: str, query: str) -> dict[str, int | str]:
    properties: dict[str, int | str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "codec" and re.fullmatch(r"[A-Za-z0-9]{4}", value):
            properties[name] = value
        elif name in _CAMERA_PROPERTIES[:3] and value.isdecimal() and int(value):
            properties[name] = int(value)
        else:
            raise SourceError(
                f"source {text}",
                expected=f"after ?: {', '.join(_CAMERA_PROPERTIES)}; integers, and codec as four letters",
                got=f"{name}={value}",
            )
    if ("width" in properties) != ("height" in properties):
        raise SourceError(f"source {text}", expected="width and height together", got=query)
    return properties

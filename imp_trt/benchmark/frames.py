# SPDX-License-Identifier: Apache-2.0
"""Frames for measurements: from a file, decoded each time, or synthetic streets as JPEG in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from imp_trt.data.images import encode_image
from imp_trt.errors import InvalidInput, SourceError, UsageError
from imp_trt.video.sources import open_source, redacted
from imp_trt.video.sources.files import ImageSource, VideoSource
from imp_trt.video.sources.frame import Frame
from imp_trt.video.sources.source import Source

DEFAULT_SIZE = (720, 1280)
STREETS = 8

_SEED = 21


class Feed(Protocol):
    """Infinite iterable of frames; each is decoded when it is taken.

    Attributes:
        name: description of the frames for reports.
        decoder: description of the decoder for reports.
    """

    name: str
    decoder: str

    def __iter__(self) -> Iterator[Frame | None]:
        """Iterate over the frames, numbered from 0. None marks that a file was opened, which is not timed."""
        ...


class SourceFeed:
    """An image, a folder or a video from disk, in a loop.

    Opening a video decodes its first frame. This frame is skipped, because its decoding time cannot be
    separated from the opening.

    Raises:
        SourceError: the source does not exist, or has too few frames.
        UsageError: a camera or stream, whose frame rate limits the measurement.
    """

    def __init__(self, spec: str) -> None:
        self.name = redacted(spec)
        self._spec = spec
        self._unreadable: set[Path] = set()
        with open_source(spec) as source:
            if source.live:
                raise UsageError(
                    f"--source {self.name}",
                    expected="a file or folder, because the frame rate of a live source is limited",
                    fix="imp-segment SOURCE null: --deadline 50ms reports the age of a camera's results",
                )
            self._video = isinstance(source, VideoSource)
            self.decoder = "OpenCV, image files from disk"
            if isinstance(source, VideoSource):
                self.decoder = f"{source.decoder}, the video from {'disk' if source.paths else 'its address'}"

    def __iter__(self) -> Iterator[Frame | None]:
        index = 0
        while True:
            start = index
            with self._open() as source:
                frames = iter(source)
                if self._video:
                    next(frames, None)
                yield None
                for frame in frames:
                    yield _numbered(frame, index)
                    index += 1
                if isinstance(source, ImageSource):
                    self._unreadable.update(path for path, _ in source.skipped)
            if index == start:
                raise SourceError(
                    f"source {self.name}", expected="a video with at least two frames", got="one frame"
                )

    def _open(self) -> Source:
        """The source, without the images that could not be read: they are reported once, and not timed."""
        source = open_source(self._spec)
        if self._unreadable and isinstance(source, ImageSource):
            return ImageSource(source.name, [path for path in source.paths if path not in self._unreadable])
        return source


class StreetFeed:
    """Synthetic street scenes as JPEG in memory, in a loop.

    Args:
        size: (h, w) of the frames, at least 32 each.
    """

    def __init__(self, size: tuple[int, int] = DEFAULT_SIZE) -> None:
        from imp_trt.synthetic import StreetScenes

        self.name = f"{STREETS} synthetic street scenes"
        self.decoder = "OpenCV, JPEG from memory"
        scenes = StreetScenes(_SEED, size, STREETS)
        self._jpegs = [
            np.frombuffer(encode_image(scenes[i].image, ".jpg"), np.uint8) for i in range(len(scenes))
        ]

    def __iter__(self) -> Iterator[Frame | None]:
        index = 0
        while True:
            data = self._jpegs[index % len(self._jpegs)]
            image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
            yield _numbered(Frame(image, index, "", None), index)
            index += 1


def open_feed(spec: str | None, size: tuple[int, int] | None) -> Feed:
    """Return the frames for the given options.

    Args:
        spec: image, folder, pattern or video; None for synthetic streets.
        size: (h, w) of synthetic frames; None for DEFAULT_SIZE.
    """
    if spec is None:
        return StreetFeed(size or DEFAULT_SIZE)
    if size is not None:
        raise UsageError("--frame-size with --source", expected="only one of them")
    return SourceFeed(spec)


def only_frames(feed: Feed) -> Iterator[Frame]:
    """Iterate over the frames of a feed without the None markers."""
    return (frame for frame in iter(feed) if frame is not None)


def parse_size(text: str) -> tuple[int, int]:
    """Parse HEIGHTxWIDTH to (h, w).

    Raises:
        UsageError: it is invalid.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise UsageError("--frame-size", expected="HEIGHTxWIDTH in pixels, such as 720x1280", got=text)
    height, width = (int(part) for part in parts)
    if not (32 <= height <= 8192 and 32 <= width <= 8192):
        raise InvalidInput("--frame-size", expected="32 to 8192 pixels on each side", got=text)
    return height, width


def _numbered(frame: Frame, index: int) -> Frame:
    return replace(frame, index=index, name=f"{index:06d}", time_s=None)

"""Frames to measure with: a file's, decoded anew each time, or drawn streets as JPEG in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import cv2
import numpy as np

from imp_trt.data.images import encode_image
from imp_trt.errors import InvalidInput, SourceError, UsageError
from imp_trt.video.sources import open_source, redacted
from imp_trt.video.sources.frame import Frame
from imp_trt.video.sources.source import Source

DEFAULT_SIZE = (720, 1280)
STREETS = 8

_SEED = 21


class Feed(Protocol):
    """Frames without end; taking one decodes one.

    Attributes:
        name: what they are, for reports.
        decoder: what decoding is here, for reports.
    """

    name: str
    decoder: str

    def __iter__(self) -> Iterator[Frame | None]:
        """Frames, counted from 0. None where a file was opened (again): the time that took is no frame's."""
        ...


class SourceFeed:
    """An image, a folder or a video from disk, over and over.

    Opening a video decodes its first frame; that one is left out, because its decoding cannot be told from
    the opening.

    Raises:
        SourceError: nothing is there, or too few frames to go round.
        UsageError: a camera or stream, which sets the pace itself.
    """

    def __init__(self, spec: str) -> None:
        self.name = redacted(spec)
        self._spec = spec
        with open_source(spec) as source:
            if source.live:
                raise UsageError(
                    f"--source {self.name}",
                    expected="a file or folder: a live source sets the pace",
                    fix="imp-segment SOURCE null: --deadline 50ms tells how old a camera's results are",
                )
            self._video = _is_video(source)
        self.decoder = "OpenCV, the video from disk" if self._video else "OpenCV, image files from disk"

    def __iter__(self) -> Iterator[Frame | None]:
        index = 0
        while True:
            taken = index
            with open_source(self._spec) as source:
                frames = iter(source)
                if self._video:
                    next(frames, None)
                yield None
                for frame in frames:
                    yield _numbered(frame, index)
                    index += 1
            if index == taken:
                raise SourceError(
                    f"source {self.name}", expected="a video with at least two frames", got="one"
                )


class StreetFeed:
    """Drawn street scenes, kept as JPEG in memory, over and over.

    Args:
        size: (h, w) of the frames, at least 32 each.
    """

    def __init__(self, size: tuple[int, int] = DEFAULT_SIZE) -> None:
        from imp_trt.synthetic import StreetScenes

        self.name = f"{STREETS} drawn street scenes"
        self.decoder = "OpenCV, JPEG from memory"
        scenes = StreetScenes(_SEED, size, STREETS)
        self._pictures = [
            np.frombuffer(encode_image(scenes[i].image, ".jpg"), np.uint8) for i in range(len(scenes))
        ]

    def __iter__(self) -> Iterator[Frame | None]:
        index = 0
        while True:
            data = self._pictures[index % len(self._pictures)]
            image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
            yield _numbered(Frame(image, index, "", None), index)
            index += 1


def open_feed(spec: str | None, size: tuple[int, int] | None) -> Feed:
    """The frames that the options ask for.

    Args:
        spec: image, folder, pattern or video; None for drawn streets.
        size: (h, w) of drawn frames; None for DEFAULT_SIZE.
    """
    if spec is None:
        return StreetFeed(size or DEFAULT_SIZE)
    if size is not None:
        raise UsageError("--frame-size with --source", expected="one of them: a file has its own size")
    return SourceFeed(spec)


def only_frames(feed: Feed) -> Iterator[Frame]:
    """The feed's frames alone, for those who do not count the opening."""
    return (frame for frame in iter(feed) if frame is not None)


def parse_size(text: str) -> tuple[int, int]:
    """(h, w) from HEIGHTxWIDTH.

    Raises:
        UsageError: it is none.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise UsageError("--frame-size", expected="HEIGHTxWIDTH in pixels, such as 720x1280", got=text)
    height, width = (int(part) for part in parts)
    if not (32 <= height <= 8192 and 32 <= width <= 8192):
        raise InvalidInput("--frame-size", expected="32 to 8192 pixels on each side", got=text)
    return height, width


def _is_video(source: Source) -> bool:
    from imp_trt.video.sources.files import VideoSource

    return isinstance(source, VideoSource)


def _numbered(frame: Frame, index: int) -> Frame:
    return replace(frame, index=index, name=f"{index:06d}", time_s=None)

"""Where frames come from: an image, a folder, a pattern, a video file."""

from __future__ import annotations

import glob
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import SourceError
from imp_trt.images import IMAGE_SUFFIXES, read_image
from imp_trt.video.containers import missing_bytes

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")

_log = logging.getLogger(__name__)

_KINDS = "an image, a folder or pattern of images, or a video file"


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        image: [h, w, 3] uint8 BGR.
        index: position in the source, from 0.
        name: unique within the source; the stem of an image file, the number of a video frame.
        time_s: presentation time in seconds as the container says; None for images.
    """

    image: NDArray[np.uint8]
    index: int
    name: str
    time_s: float | None


class Source(Protocol):
    """Frames in order, once.

    Attributes:
        name: what was opened.
        paths: the files that are read.
        frames: how many frames there are, None if unknown.
        fps: frames per second as the container says, None for images or if it does not say.
    """

    name: str
    paths: tuple[Path, ...]
    frames: int | None
    fps: float | None

    def __iter__(self) -> Iterator[Frame]: ...
    def __enter__(self) -> Source: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def close(self) -> None:
        """Release the file; idempotent."""
        ...


def open_source(spec: str | os.PathLike[str]) -> Source:
    """Open what spec names.

    Args:
        spec: path of an image, of a folder of images, of a video, or a pattern such as ``'run/*.png'``.
            Files of a folder or pattern come in natural order (frame2 before frame10).

    Raises:
        SourceError: nothing is there, or it is not something that frames come from.
    """
    text = os.fspath(spec)
    path = Path(text)
    if path.is_dir():
        return ImageSource(text, _images_in(path))
    if not path.exists():
        if re.match(r"^[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) or text.isdigit():
            raise SourceError(
                f"source {_redacted(text)}",
                expected=_KINDS,
                got="a camera or stream",
                fix="record it to a file first; this version reads files only",
            )
        if glob.has_magic(text):
            return ImageSource(text, _images_matching(text))
        raise SourceError(f"source {text}", expected=_KINDS, got="nothing at this path", fix="check the path")
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ImageSource(text, [path])
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path)
    raise SourceError(
        f"source {text}",
        expected=f"a file that ends with {', '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))}",
        got=suffix or "no suffix",
        fix="rename the file to what it is, or convert it",
    )


class _Closing:
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; idempotent."""


class ImageSource(_Closing):
    """Image files, each read when its turn comes. See :class:`Source`."""

    fps: float | None = None

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name = name
        self.frames: int | None = len(paths)
        self.paths = tuple(paths)
        stems = [path.stem for path in paths]
        # Outputs are named after frames: a.png and a.jpg, or one name in two folders, must stay apart.
        unique = len(set(stems)) == len(stems)
        self._names = stems if unique else [f"{i:06d}_{stem}" for i, stem in enumerate(stems)]

    def __enter__(self) -> Source:
        return self

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self.paths):
            yield Frame(read_image(path), index, self._names[index], None)


class VideoSource(_Closing):
    """A video file, decoded by OpenCV. See :class:`Source`.

    The first frame is decoded on opening, so that a file without pictures is refused there.

    Raises:
        SourceError: missing, empty, cut short, damaged, or without a video stream; while iterating, if
            less than half of the frames that the container lists can be decoded (below 98 %, a warning is
            logged).
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.paths: tuple[Path, ...] = (path,)
        try:
            size = path.stat().st_size
            missing = missing_bytes(path)
        except OSError as error:
            raise SourceError(f"video {path}", expected="a readable file", got=error.strerror) from error
        if not size or missing:
            raise SourceError(
                f"video {path}",
                expected="a whole file",
                got=f"one that is cut short by {missing} bytes" if size else "an empty file",
                fix="copy or record it again",
            )
        self._capture: Any = cv2.VideoCapture(str(path.resolve()), _file_backend())
        self._decoded = 0
        self._first = self._read() if self._capture.isOpened() else None
        if self._first is None:
            self.close()
            raise SourceError(
                f"video {path}",
                expected="a video stream that OpenCV can decode",
                got="none: audio only, damaged, or an unknown codec",
                fix="play it with another program; if it plays, convert it to H.264 in MP4",
            )
        count, fps = (self._capture.get(p) for p in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        self.frames: int | None = int(count) if 0 < count < 1e9 else None
        self.fps: float | None = float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else None

    def __enter__(self) -> Source:
        return self

    def __iter__(self) -> Iterator[Frame]:
        while self._capture is not None:
            picture, self._first = self._first or self._read(), None
            if picture is None:
                self._check_count()
                return
            image, time_s = picture
            index, self._decoded = self._decoded, self._decoded + 1
            yield Frame(image, index, f"{index:06d}", time_s)

    def close(self) -> None:
        """Release the file; idempotent."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def _check_count(self) -> None:
        # Counts are estimates in some containers, and count what an edit list hides (trimmed videos).
        listed, decoded = self.frames or 0, self._decoded
        if decoded < 0.5 * listed:
            raise SourceError(
                f"video {self.name}",
                expected=f"about {listed} frames, as the file lists",
                got=f"only {decoded} that can be decoded",
                fix=f"copy or record it again, or ask for its first {decoded} frames only",
            )
        if decoded < 0.98 * listed:
            _log.warning("%s lists %d frames; %d were there to decode", self.name, listed, decoded)

    def _read(self) -> tuple[NDArray[np.uint8], float | None] | None:
        if self._capture is None:
            return None
        done, image = self._capture.read()
        if not done or image is None:
            return None
        milliseconds = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        return image, milliseconds / 1e3 if math.isfinite(milliseconds) and milliseconds >= 0 else None


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key by which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _images_in(folder: Path) -> list[Path]:
    try:
        names = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"folder {folder}", expected="a readable folder", got=error.strerror) from error
    found = sorted((p for p in names if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
    if not found:
        raise SourceError(
            f"folder {folder}", expected="images in it", got=f"{len(names)} files, none of them an image"
        )
    return found


def _images_matching(pattern: str) -> list[Path]:
    found = sorted((Path(p) for p in glob.glob(pattern, recursive=True)), key=natural_key)
    if not found:
        raise SourceError(
            f"pattern {pattern}", expected="at least one file", got="none", fix="check the path"
        )
    other = next((p for p in found if p.suffix.lower() not in IMAGE_SUFFIXES or not p.is_file()), None)
    if other is not None:
        raise SourceError(
            f"pattern {pattern}", expected="images only", got=other, fix="narrow it, e.g. 'folder/*.png'"
        )
    return found


def _file_backend() -> int:
    """FFmpeg where OpenCV has it: the other readers guess by name, e.g. at numbered images."""
    available = cv2.videoio_registry.getBackends()
    return int(cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in available else cv2.CAP_ANY)


def _redacted(url: str) -> str:
    """The address without user and password."""
    return re.sub(r"//[^/@]*@", "//***@", url)

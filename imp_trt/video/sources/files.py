"""Frames from files: images, and videos decoded by OpenCV."""

from __future__ import annotations

import glob
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.images import IMAGE_SUFFIXES, read_image
from imp_trt.errors import SourceError
from imp_trt.video.containers import lists_frames, missing_bytes
from imp_trt.video.sources.captures import Capture
from imp_trt.video.sources.frame import Frame
from imp_trt.video.sources.source import ClosingSource, Source

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")

_log = logging.getLogger(__name__)


class ImageSource(ClosingSource):
    """Image files, each read when its turn comes. See :class:`Source`."""

    fps: float | None = None
    live = False

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


class VideoSource(ClosingSource):
    """A recorded video, decoded by OpenCV. See :class:`Source`.

    The first frame is decoded on opening, so that a file without pictures is refused there.

    Args:
        path: the file; or, without credentials, the address that capture reads.
        capture: what is open already at an address; closed with the source.

    Raises:
        SourceError: missing, empty, cut short, damaged, or without a video stream; while iterating, if
            less than half of the frames that the container lists can be decoded, or of the time that it
            says it lasts (below 98 %, a warning is logged).
    """

    live = False

    def __init__(self, path: str | os.PathLike[str], capture: Capture | None = None) -> None:
        self.name = os.fspath(path)
        self.paths: tuple[Path, ...] = () if capture else (Path(path),)
        self._capture: Any = capture or _opened(Path(path))
        self._in_use = Lock()
        self._closed = False
        self._decoded = 0
        self._lasts_s = 0.0
        self._listed = capture is None and lists_frames(Path(path))
        self._first = self._read()
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
                if not self._closed:
                    self._check_count()
                return
            image, time_s = picture
            index, self._decoded = self._decoded, self._decoded + 1
            yield Frame(image, index, f"{index:06d}", time_s)

    def close(self) -> None:
        """Release the file, after the read under way in another thread if there is one; idempotent."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        if self._in_use.acquire(blocking=False):
            capture, self._capture = self._capture, None
            self._in_use.release()
            if capture is not None:
                capture.release()

    def _check_count(self) -> None:
        # Counts include what an edit list hides (trimmed videos).
        listed, decoded = self.frames or 0, self._decoded
        if self.fps and not self._listed:
            # OpenCV's number is the length times the nominal rate, which a recording need not have kept.
            decoded = max(decoded, round(self._lasts_s * self.fps) + 1)
        if decoded < 0.5 * listed:
            raise SourceError(
                f"video {self.name}",
                expected=f"about {listed} frames, as the file lists",
                got=f"only {decoded} that can be decoded",
                fix=f"copy or record it again, or ask for its first {self._decoded} frames only",
            )
        if decoded < 0.98 * listed:
            _log.warning("%s lists %d frames; %d were there to decode", self.name, listed, decoded)

    def _read(self) -> tuple[NDArray[np.uint8], float | None] | None:
        with self._in_use:
            if self._capture is None:
                return None
            done, image = self._capture.read()
            milliseconds = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if self._closed:
            self._release()
            return None
        if not done or image is None:
            return None
        if not (math.isfinite(milliseconds) and milliseconds >= 0):
            return image, None
        self._lasts_s = max(self._lasts_s, milliseconds / 1e3)
        return image, milliseconds / 1e3


def _opened(path: Path) -> Any:
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
    return cv2.VideoCapture(str(path.resolve()), _file_backend())


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key by which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def images_in(folder: Path) -> list[Path]:
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


def images_matching(pattern: str) -> list[Path]:
    folder, name = os.path.split(pattern)
    # A folder may be called run[1], which is not meant as a choice.
    names = glob.glob(pattern, recursive=True) or glob.glob(os.path.join(glob.escape(folder), name))
    found = sorted((Path(p) for p in names), key=natural_key)
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

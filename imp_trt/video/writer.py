"""A video file through OpenCV, which by itself reports neither dropped frames nor a full disk."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import InvalidInput, OutputError
from imp_trt.files import temporary_beside

# What OpenCV's wheels can encode by themselves; their FFmpeg has no H.264 encoder.
VIDEO_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}


class VideoWriter:
    """Frames into one video file, in place only when it is whole and reads back.

    Args:
        path: ends with one of VIDEO_CODECS. Missing folders are made.
        fps: frames per second, fractions kept (30000/1001 stays 29.97).

    Raises:
        OutputError: unknown suffix, or the place is not writable.
        InvalidInput: fps is not a positive number.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        self._path = Path(path)
        codec = VIDEO_CODECS.get(self._path.suffix.lower())
        if codec is None:
            raise OutputError(
                f"video {path}", expected=f"a suffix of {', '.join(VIDEO_CODECS)}", got=self._path.suffix
            )
        if not (math.isfinite(fps) and 0 < fps <= 1000):
            raise InvalidInput("fps", expected="a number above 0, at most 1000", got=fps)
        if self._path.is_dir():
            raise self._error("a folder has this name")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = temporary_beside(self._path)
            self._file = self._temporary.__enter__()
            self._file.touch(exist_ok=False)  # an unwritable place shows before the work is done
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        self._fps = fps
        self._fourcc = cv2.VideoWriter.fourcc(*codec)
        self._writer: Any = None
        self._size: tuple[int, int] | None = None
        self._written = 0
        self._done = False

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Append a picture [h, w, 3] uint8 BGR; all have the size of the first.

        Odd sides gain a copy of their last row or column: the codecs would drop it instead.

        Raises:
            InvalidInput: another size or dtype (OpenCV would drop the frame silently).
            OutputError: the file cannot be opened, or is closed.
        """
        if self._done:
            raise self._error("the writer is closed")
        size = (picture.shape[0], picture.shape[1])
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise InvalidInput(
                "video frame", expected="uint8 [h, w, 3]", got=f"{picture.dtype} {picture.shape}"
            )
        if self._size not in (None, size):
            raise InvalidInput(
                f"frame {self._written} of {self._path}",
                expected=f"size {self._size}, as the first",
                got=f"size {size}",
                fix="write pictures of different sizes to a folder instead of a video",
            )
        if self._writer is None:
            self._size = size
            even = (size[1] + size[1] % 2, size[0] + size[0] % 2)
            self._writer = cv2.VideoWriter(str(self._file), self._fourcc, self._fps, even)
            if not self._writer.isOpened():
                raise self._error("OpenCV has no encoder for it")
        if size[0] % 2 or size[1] % 2:
            border = cv2.BORDER_REPLICATE
            picture = np.asarray(
                cv2.copyMakeBorder(picture, 0, size[0] % 2, 0, size[1] % 2, border), np.uint8
            )
        self._writer.write(picture)
        self._written += 1

    def close(self) -> None:
        """Finish the file, read it back, and put it in place. Idempotent.

        Raises:
            OutputError: nothing was written, or the file does not hold every frame (a full disk).
        """
        if self._done:
            return
        try:
            if self._writer is None:
                raise self._error("no frame was written to it")
            self._writer.release()
            self._check()
            descriptor = os.open(self._file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(self._file, self._path)
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Give up; the unfinished file is removed. Idempotent."""
        if not self._done:
            self._done = True
            if self._writer is not None:
                self._writer.release()
            self._temporary.__exit__(None, None, None)

    def _check(self) -> None:
        capture = cv2.VideoCapture(str(self._file))
        try:
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
            readable = capture.isOpened() and capture.read()[0]
        finally:
            capture.release()
        if not readable or count < self._written:
            raise self._error(f"only {count} of {self._written} frames could be read back; is the disk full?")

    def _error(self, got: str) -> OutputError:
        return OutputError(
            f"video {self._path} cannot be written", got=got, fix="choose another path, or make room"
        )

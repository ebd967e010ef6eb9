"""A video file that holds every frame at its time, in place only when it is whole."""

from __future__ import annotations

import logging
import math
import os
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.files import temporary_beside
from imp_trt.errors import DependencyMissing, InvalidInput, OutputError
from imp_trt.video import writer_pyav
from imp_trt.video.containers import missing_bytes
from imp_trt.video.encoder import TICKS, VIDEO_CODECS, Encoder
from imp_trt.video.writer_opencv import OpenCvEncoder

ENCODERS = ("pyav", "opencv")
"""What can write a video: H.264 with every frame's own time, or OpenCV's codecs at a constant rate."""

_SHORTEST = TICKS // 1000  # Matroska counts milliseconds
_LONGEST = 600 * TICKS
_BEYOND_ANY_CLOCK_S = 1e12
_ROOM_CHECK_FRAMES = 32
# For what comes until the next check, and for the index, without which nothing can be kept.
_ROOM_BYTES = 8 << 20
_INDEX_BYTES_A_FRAME = 32

_log = logging.getLogger(__name__)


class VideoWriter:
    """Frames into one video file, in place only when it is whole and reads back.

    MP4 and MOV collect their index in memory, 8 MB in an hour at 30 frames/s; Matroska does not.

    Args:
        path: ends with one of VIDEO_CODECS. Missing folders are made.
        fps: frames per second, fractions kept (30000/1001 stays 29.97).
        encoder: one of ENCODERS. None: "pyav" where the package av is here with an H.264 encoder; else, and
            for .avi, which knows no times, "opencv", which shows every frame equally long.

    Raises:
        OutputError: unknown suffix, or the place is not writable.
        InvalidInput: fps is not a positive number, or the encoder is unknown or not for this suffix.
        DependencyMissing: encoder "pyav" without the package or without H.264 in it.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, *, encoder: str | None = None) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() not in VIDEO_CODECS:
            raise OutputError(
                f"video {path}", expected=f"a suffix of {', '.join(VIDEO_CODECS)}", got=self._path.suffix
            )
        if not (math.isfinite(fps) and 0 < fps <= 1000):
            raise InvalidInput("fps", expected="a number above 0, at most 1000", got=fps)
        self._kind = _choose(encoder, self._path.suffix.lower())
        if self._path.is_dir():
            raise self._error("a folder has this name")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = temporary_beside(self._path)
            self._file = self._temporary.__enter__()
            self._file.touch(exist_ok=False)  # an unwritable place shows before the work is done
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        self._rate = frame_rate(fps)
        self._timeline = Timeline(self._rate)
        self._encoder: Encoder | None = None
        self._size: tuple[int, int] | None = None
        self._written = 0
        self._done = False

    def write(self, picture: NDArray[np.uint8], time_s: float | None = None) -> None:
        """Append a picture [h, w, 3] uint8 BGR; all have the size of the first.

        Odd sides gain a copy of their last row or column: H.264 in 4:2:0 has even sides only.

        Args:
            time_s: when it is shown, seconds on any clock that goes forward; see :class:`Timeline`.

        Raises:
            InvalidInput: another size or dtype (OpenCV would drop the frame silently).
            OutputError: there is no encoder for it, the disk is full, or the writer is closed.
        """
        if self._done:
            raise self._error("the writer is closed")
        self._check_picture(picture)
        rows, columns = picture.shape[0] % 2, picture.shape[1] % 2
        if rows or columns:
            border = cv2.BORDER_REPLICATE
            picture = np.asarray(cv2.copyMakeBorder(picture, 0, rows, 0, columns, border), np.uint8)
        try:
            if self._encoder is None:
                self._encoder = self._open((picture.shape[0], picture.shape[1]))
            self._encoder.write(picture, self._timeline.ticks(time_s))
            if self._written % _ROOM_CHECK_FRAMES == 0:
                self._check_room()
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        self._written += 1

    def close(self) -> None:
        """Finish the file, read it back, and put it in place. Idempotent.

        Raises:
            OutputError: nothing was written, or the file does not hold every frame (a full disk).
        """
        if self._done:
            return
        try:
            if self._encoder is None:
                raise self._error("no frame was written to it")
            self._encoder.finish()
            self._check_file(self._encoder)
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
            if self._encoder is not None:
                self._encoder.release()
            self._temporary.__exit__(None, None, None)

    def _open(self, size: tuple[int, int]) -> Encoder:
        if self._kind == "pyav":
            return writer_pyav.PyAvEncoder(self._file, self._rate, size, name=self._path.name)
        return OpenCvEncoder(self._file, self._rate, size, name=self._path.name)

    def _check_picture(self, picture: NDArray[np.uint8]) -> None:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise InvalidInput(
                "video frame", expected="uint8 [h, w, 3]", got=f"{picture.dtype} {picture.shape}"
            )
        size = (picture.shape[0], picture.shape[1])
        if self._size not in (None, size):
            raise InvalidInput(
                f"frame {self._written} of {self._path}",
                expected=f"size {self._size}, as the first",
                got=f"size {size}",
                fix="write pictures of different sizes to a folder instead of a video",
            )
        self._size = size

    def _check_room(self) -> None:
        """Notice a full disk within a second or two: OpenCV would go on for hours without a word."""
        found = os.statvfs(self._file)
        free = found.f_bavail * found.f_frsize
        needed = _ROOM_BYTES + _INDEX_BYTES_A_FRAME * self._written
        if found.f_blocks and free < needed:  # some network disks say 0 of 0
            raise self._error(f"only {free} bytes are left on the disk")

    def _check_file(self, encoder: Encoder) -> None:
        count = encoder.count()
        if missing_bytes(self._file) or count < self._written:
            raise self._error(
                f"only {max(count, 0)} of {self._written} frames could be read back; is the disk full?"
            )

    def _error(self, got: str) -> OutputError:
        return OutputError(
            f"video {self._path} cannot be written", got=got, fix="choose another path, or make room"
        )


class Timeline:
    """Times of frames on a file's own clock, which starts at 0 and only goes forward.

    Distances between frames are kept to the tick. A frame without a time comes one period after the last;
    so does one whose clock went back or jumped ahead by more than ten minutes (a camera that started anew,
    a file that is played again), and the clock counts on from there. Frames closer than a millisecond are
    moved apart.

    Args:
        rate: frames per second.
    """

    def __init__(self, rate: Fraction) -> None:
        self._period = TICKS / rate
        self._last: Fraction | None = None
        self._time_s = math.nan  # of the last frame that had one
        self._start_s = 0.0  # where the file's zero lies on the frames' clock

    def ticks(self, time_s: float | None) -> int:
        """Where the next frame goes, in TICKS of a second."""
        follows = Fraction(0) if self._last is None else self._last + self._period
        at = follows
        if time_s is not None and abs(time_s) < _BEYOND_ANY_CLOCK_S:  # NaN is not
            at = Fraction(round((time_s - self._start_s) * TICKS))
            last = self._last or Fraction(0)
            # Also the first time of all: comparisons with NaN are false.
            if not (time_s > self._time_s and at - last <= _LONGEST):
                at = follows
                self._start_s = time_s - float(follows / TICKS)
            elif self._last is not None:
                at = max(at, last + _SHORTEST)
            self._time_s = time_s
        self._last = at
        return round(at)


def frame_rate(fps: float) -> Fraction:
    """The rate that a rounded number means: 29.97 is 30000/1001."""
    thousandths = fps * 1.001
    if abs(thousandths - round(thousandths)) < 1e-3 and abs(fps - round(fps)) > 1e-3:
        return Fraction(round(thousandths) * 1000, 1001)
    return Fraction(fps).limit_denominator(1001)


def _choose(encoder: str | None, suffix: str) -> str:
    if encoder not in (None, *ENCODERS):
        raise InvalidInput("encoder", expected=f"one of {', '.join(ENCODERS)}, or None", got=encoder)
    if encoder == "pyav" and suffix == ".avi":
        raise InvalidInput("encoder of an .avi", expected="opencv", got=encoder, fix="write .mp4 or .mkv")
    if encoder == "opencv" or suffix == ".avi":
        return "opencv"
    try:
        writer_pyav.h264_encoder()
    except DependencyMissing as error:
        if encoder == "pyav":
            raise
        _log.debug("videos are written by OpenCV: %s", error)
        return "opencv"
    return "pyav"

# SPDX-License-Identifier: Apache-2.0
"""Video writer that keeps frame times; its file can be played however the process ends."""

from __future__ import annotations

import logging
import math
import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt._deprecated import renamed_parameters
from imp_trt.data.files import fixed
from imp_trt.data.locks import only_temporary_beside
from imp_trt.data.native_calls import native_call
from imp_trt.errors import DependencyMissing, InvalidInput, OutputError
from imp_trt.video import writer_pyav
from imp_trt.video.containers import missing_bytes
from imp_trt.video.encoder import TICKS, VIDEO_CODECS, Encoder
from imp_trt.video.unclosed import EndedIfDropped, exclusive
from imp_trt.video.writer_opencv import OpenCvEncoder

EncoderName = Literal["pyav", "opencv"]

ENCODERS: tuple[EncoderName, ...] = ("pyav", "opencv")
"""Video encoders: H.264 with a time per frame, or OpenCV's codecs at a constant frame rate."""

_MIN_STEP = TICKS // 1000  # Matroska counts milliseconds
_MAX_GAP = 600 * TICKS
_REPLACES_AFTER = 2 * TICKS  # by then the first fragment is written
_MAX_TIME_S = 1e12
_MP4_MAX_PERIOD = (1 << 31) - 1  # ticks, in 32 bits
_MAX_PERIOD = 1 << 40
_DISK_CHECK_INTERVAL = 32  # frames
# For the frames until the next check, and for the index, without which the file cannot be read.
_RESERVED_BYTES = 8 << 20
_INDEX_BYTES_PER_FRAME = 32

_NEED_THEIR_END = (".mp4", ".m4v", ".mov")  # if OpenCV writes them
_NEEDS_END = (
    "a %s file written by OpenCV cannot be played if this process is killed; to be safe, use .mkv or "
    "pip install 'imp-trt[video]'"
)

_log = logging.getLogger(__name__)


class VideoWriter(EndedIfDropped):
    """Writes frames to a video file, which has its name from the first frame on.

    An existing file is replaced when two seconds of the new one are written, or it is complete: a run that
    fails at once does not cost an earlier recording. What was written can be read if the process is killed,
    or the disk fills up, except for the last second: MP4 and MOV files consist of fragments until they are
    complete. OpenCV's MP4 and MOV files cannot be read without their end; use .mkv or .avi there. After a
    power failure, what the operating system had not yet written is missing.

    A writer that is dropped without close(), or open when the process ends, is aborted with a warning.

    MP4 and MOV keep their index in memory, 8 MB for an hour at 30 frames/s; Matroska does not.

    Args:
        path: ends with one of VIDEO_CODECS. Missing folders are created.
        fps: frames per second; fractional rates are kept (29.97 is stored as 30000/1001).
        encoder: one of ENCODERS. None: "pyav" if the package av is installed with an H.264 encoder,
            otherwise "opencv", which gives all frames the same duration. Always "opencv" for .avi, which
            does not store frame times.

    Raises:
        OutputError: unknown suffix, the path is not writable, or another VideoWriter, in this process or
            another, is writing it.
        InvalidInput: fps is not a positive number, or the encoder is unknown or does not support the suffix.
        DependencyMissing: encoder "pyav" without the package, or without H.264 in it.
    """

    def __init__(
        self, path: str | os.PathLike[str], fps: float, *, encoder: EncoderName | None = None
    ) -> None:
        self._path = fixed(path)
        suffix = self._path.suffix.lower()
        if suffix not in VIDEO_CODECS:
            raise OutputError(
                f"video {path}", expected=f"a suffix of {', '.join(VIDEO_CODECS)}", got=self._path.suffix
            )
        if not (math.isfinite(fps) and 0 < fps <= 1000):
            raise InvalidInput("fps", expected="a number above 0, at most 1000", got=fps)
        self._kind = _select_encoder(encoder, suffix)
        self._rate = frame_rate(fps)
        longest = _MP4_MAX_PERIOD if suffix in (".mp4", ".m4v", ".mov") else _MAX_PERIOD
        if TICKS / self._rate > longest:
            raise InvalidInput(
                f"fps of {self._path.name}",
                expected=f"a frame every {longest // TICKS} s or more often",
                got=f"{fps:g} frames per second",
                fix="write .mkv" if longest == _MP4_MAX_PERIOD else "write images to a folder",
            )
        if self._path.is_dir():
            raise self._error("the path is a folder")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = only_temporary_beside(self._path)
            self._file = self._temporary.__enter__()
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        self._timeline = Timeline(self._rate)
        self._encoder: Encoder | None = None
        self._size: tuple[int, int] | None = None
        self._written = 0
        self._jumps = False
        self._named: os.stat_result | None = None  # of the file, once it has its final name
        self._done = False

    def after_fork(self) -> None:
        """See :class:`imp_trt.data.native_calls.Inherited`: the file is the parent's, and closed here."""
        super().after_fork()
        self._done = True

    @property
    def size(self) -> tuple[int, int] | None:
        """(h, w) of the images; None before the first."""
        return self._size

    @renamed_parameters(picture="image")
    @exclusive
    def write(self, image: NDArray[np.uint8], time_s: float | None = None) -> None:
        """Append an image.

        Images with an odd height or width are padded by one row or column, because H.264 in 4:2:0 requires
        even sizes.

        Args:
            image: [h, w, 3] uint8 BGR; all images have the size of the first.
            time_s: presentation time in seconds on any monotonic clock; see :class:`Timeline`.

        Raises:
            InvalidInput: another size or dtype (OpenCV would drop the frame silently).
            OutputError: no encoder supports it, the disk is full, or the writer is closed.
        """
        if self._done:
            raise OutputError(f"video {self._path} cannot be written", got="a closed writer")
        self._check_image(image)
        self._in_use()
        rows, columns = image.shape[0] % 2, image.shape[1] % 2
        if rows or columns:
            border = cv2.BORDER_REPLICATE
            with native_call():
                image = np.asarray(cv2.copyMakeBorder(image, 0, rows, 0, columns, border), np.uint8)
        try:
            if self._encoder is None:
                self._encoder = self._open((image.shape[0], image.shape[1]))
            ticks = self._timeline.ticks(time_s)
            self._encoder.write(image, ticks)
            if self._timeline.jump_s and not self._jumps:
                self._jumps = True
                text = "%s: at frame %d, times jump by %+.1f s; the video goes on without the jump"
                _log.warning(text, self._path.name, self._written, self._timeline.jump_s)
            if self._written % _DISK_CHECK_INTERVAL == 0:
                self._check_free_space()
            if not self._named and (ticks >= _REPLACES_AFTER or not self._path.exists()):
                self._take_name()
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        self._written += 1

    @exclusive
    def close(self) -> None:
        """Finish the file and verify it. Idempotent.

        Raises:
            OutputError: nothing was written, or the file does not hold every frame (a full disk); the frames
                that it holds are kept.
        """
        if self._done:
            return
        if not self._written or self._encoder is None:
            self._end()
            raise self._error("no frame was written to it")
        failure: OSError | None = None
        try:
            self._encoder.finish()
            _sync(self._file)
        except OSError as error:
            failure = error
            self._encoder.release()
        if self._replaced():
            self._end()
            raise self._error("another program replaced, moved or removed it")
        count = self._count(self._encoder)
        lost = failure is not None or (count or 0) < self._written or missing_bytes(self._file)
        try:
            if count == 0 and self._named:
                self._path.unlink(missing_ok=True)
            elif count and not self._named:
                self._take_name()
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        finally:
            self._end()
        if lost:
            reason = (failure.strerror or str(failure)) if failure else "is the disk full?"
            if count is None:
                kept = "; it is kept" if self._named else ""
                what = f"its {self._written} frames could not be read back{kept}"
            else:
                kept = "; they are kept" if count else ""
                what = f"only {count} of {self._written} frames could be read back{kept}"
            raise self._error(f"{what}; {reason}") from failure

    @exclusive
    def abort(self) -> None:
        """End the file without raising: if it has its name, its frames are kept. Idempotent."""
        if self._done:
            return
        if self._named and self._encoder is not None:
            with suppress(OSError):
                self._encoder.finish()
            self._encoder.release()
            if not self._replaced() and self._count(self._encoder) == 0:
                self._path.unlink(missing_ok=True)
        self._end()

    def end_if_open(self) -> None:
        """Abort it, with a warning."""
        if not self._done:
            kept = "its frames are kept" if self._named else "the earlier file is kept"
            _log.warning("video %s was not closed; %s", self._path, kept)
            self.abort()

    def _count(self, encoder: Encoder) -> int | None:
        """Number of frames in the file; None if that cannot be known, such as without a free descriptor."""
        count = encoder.count()
        if count < 0:
            try:
                with self._file.open("rb"):
                    pass
            except OSError:
                return None
        return max(count, 0)

    def _end(self) -> None:
        if not self._done:
            self._done = True
            if self._encoder is not None:
                self._encoder.release()
            self._temporary.__exit__(None, None, None)

    def _take_name(self) -> None:
        """Give the file its name, replacing an earlier one; the encoder goes on writing to it."""
        os.replace(self._file, self._path)
        self._named, self._file = os.stat(self._path), self._path
        if self._encoder is not None:
            self._encoder.file = self._file

    def _replaced(self) -> bool:
        """Whether the file had its name and lost it: nothing prevents that where there are no locks."""
        if self._named is None:
            return False
        try:
            return not os.path.samestat(self._named, os.stat(self._path))
        except OSError:
            return True

    def _open(self, size: tuple[int, int]) -> Encoder:
        if self._kind == "pyav":
            return writer_pyav.PyAvEncoder(self._file, self._rate, size, name=self._path.name)
        return OpenCvEncoder(self._file, self._rate, size, name=self._path.name)

    def _check_image(self, image: NDArray[np.uint8]) -> None:
        if not isinstance(image, np.ndarray):
            raise InvalidInput("video frame", expected="an array", got=type(image).__name__)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InvalidInput("video frame", expected="uint8 [h, w, 3]", got=f"{image.dtype} {image.shape}")
        size = (image.shape[0], image.shape[1])
        if self._size not in (None, size):
            raise InvalidInput(
                f"frame {self._written} of {self._path}",
                expected=f"size {self._size}, as the first frame",
                got=f"size {size}",
                fix="write images of different sizes to a folder instead of a video",
            )
        self._size = size

    def _check_free_space(self) -> None:
        """Detect a full disk within a second or two. OpenCV does not report it."""
        disk = os.statvfs(self._file)
        free = disk.f_bavail * disk.f_frsize
        needed = _RESERVED_BYTES + _INDEX_BYTES_PER_FRAME * self._written
        if disk.f_blocks and free < needed:  # some network file systems report 0 of 0 blocks
            raise self._error(f"only {free} bytes are left on the disk")

    def _error(self, got: str) -> OutputError:
        return OutputError(
            f"video {self._path} cannot be written", got=got, fix="choose another path, or free disk space"
        )


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Timeline:
    """Maps frame times to presentation times in a file, which start at 0 and increase strictly.

    Intervals between frames are kept to the tick. A frame without a time follows one frame period after its
    predecessor. So does a frame whose clock stood still, went back or jumped ahead by more than ten minutes
    (a restarted camera, a file played again); later frames are relative to it. Frames less than a
    millisecond apart are moved apart.

    Args:
        rate: frames per second.

    Attributes:
        jump_s: by how much the clock went back or jumped ahead at the last frame; 0 if it did not.
    """

    def __init__(self, rate: Fraction) -> None:
        self.jump_s = 0.0
        self._period = TICKS / rate
        self._last: Fraction | None = None
        self._time_s = math.nan  # of the last frame that had a time
        self._start_s = 0.0  # time of the file's zero on the frames' clock

    def ticks(self, time_s: float | None) -> int:
        """Return the presentation time of the next frame, in units of 1 / TICKS seconds."""
        successor = Fraction(0) if self._last is None else self._last + self._period
        pts, self.jump_s = successor, 0.0
        if time_s is not None and abs(time_s) < _MAX_TIME_S:  # false for NaN
            pts = Fraction(round((time_s - self._start_s) * TICKS))
            last = self._last or Fraction(0)
            # Also taken for the very first time, because comparisons with NaN are false.
            if not (time_s > self._time_s and pts - last <= _MAX_GAP):
                if not math.isnan(self._time_s):
                    self.jump_s = time_s - self._time_s
                pts = successor
                self._start_s = time_s - float(successor / TICKS)
            elif self._last is not None:
                pts = max(pts, last + _MIN_STEP)
            self._time_s = time_s
        self._last = pts
        return round(pts)


def frame_rate(fps: float) -> Fraction:
    """Return the exact rate of a rounded number: 29.97 is 30000/1001."""
    thousandths = fps * 1.001
    if abs(thousandths - round(thousandths)) < 1e-3 and abs(fps - round(fps)) > 1e-3:
        return Fraction(round(thousandths) * 1000, 1001)
    if fps < 1:  # time-lapse: a period of a whole number of seconds is more likely than a rate
        return 1 / (1 / Fraction(fps)).limit_denominator(1001)
    return Fraction(fps).limit_denominator(1001)


def _select_encoder(encoder: EncoderName | None, suffix: str) -> EncoderName:
    if encoder not in (None, *ENCODERS):
        raise InvalidInput("encoder", expected=f"one of {', '.join(ENCODERS)}, or None", got=encoder)
    if encoder == "pyav" and suffix == ".avi":
        raise InvalidInput("encoder of an .avi", expected="opencv", got=encoder, fix="write .mp4 or .mkv")
    if encoder == "opencv" or suffix == ".avi":
        if suffix in _NEED_THEIR_END:
            _log.info(_NEEDS_END, suffix)
        return "opencv"
    try:
        writer_pyav.h264_encoder()
    except DependencyMissing as error:
        if encoder == "pyav":
            raise
        _log.debug("videos are written by OpenCV: %s", error)
        if suffix in _NEED_THEIR_END:
            _log.info(_NEEDS_END, suffix)
        return "opencv"
    return "pyav"

# SPDX-License-Identifier: Apache-2.0
"""Video encoder based on OpenCV, which reports neither dropped frames nor a full disk."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.files import utf8_name
from imp_trt.data.native_calls import call_after_fork, native_call, never_release
from imp_trt.errors import DependencyMissing, OutputError
from imp_trt.video import writer_pyav
from imp_trt.video.encoder import TICKS, VIDEO_CODECS

_log = logging.getLogger(__name__)


class OpenCvEncoder:
    """See :class:`imp_trt.video.encoder.Encoder`. All frames have the same duration.

    Args:
        file: absolute path to write; its suffix selects the codec.
        rate: frames per second.
        size: (h, w), even numbers.
        name: name of the video for messages.
    """

    @native_call()
    def __init__(self, file: Path, rate: Fraction, size: tuple[int, int], name: str) -> None:
        self.file, self._name = file, name
        self._period = TICKS / rate
        fourcc = cv2.VideoWriter.fourcc(*VIDEO_CODECS[file.suffix.lower()])
        utf8_name(file.with_name(name), f"video {name} cannot be written", OutputError)
        self._writer = cv2.VideoWriter(str(file), fourcc, float(rate), (size[1], size[0]))
        if not self._writer.isOpened():
            raise OutputError(f"video {name} cannot be written", got="OpenCV has no encoder for it")
        call_after_fork(self)
        self._written = 0
        self._max_error = Fraction(0)  # largest difference between requested and written time, in ticks

    def after_fork(self) -> None:
        """See :class:`imp_trt.data.native_calls.Inherited`: its destructor would write the parent's index."""
        never_release(self._writer)

    @native_call()
    def write(self, image: NDArray[np.uint8], ticks: int) -> None:
        """See :meth:`imp_trt.video.encoder.Encoder.write`."""
        self._writer.write(image)
        self._max_error = max(self._max_error, abs(ticks - self._written * self._period))
        self._written += 1

    @native_call()
    def finish(self) -> None:
        """See :meth:`imp_trt.video.encoder.Encoder.finish`."""
        self._writer.release()
        if self._max_error > self._period:
            _log.warning(
                "%s has a constant frame rate: frames are up to %.2f s off their times; to keep them, %s",
                self._name,
                self._max_error / TICKS,
                "write .mp4 or .mkv" if self.file.suffix.lower() == ".avi" else _keeps_times(),
            )

    @native_call()
    def release(self) -> None:
        """See :meth:`imp_trt.video.encoder.Encoder.release`."""
        self._writer.release()

    @native_call()
    def count(self) -> int:
        """See :meth:`imp_trt.video.encoder.Encoder.count`."""
        capture = cv2.VideoCapture(str(self.file))
        try:
            if not capture.isOpened() or not capture.read()[0]:
                return -1
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            if count >= self._written:
                return count
            count = 1  # without its end, a file lists none; decode to its last frame
            while capture.grab():
                count += 1
            return count
        finally:
            capture.release()


def _keeps_times() -> str:
    try:
        writer_pyav.h264_encoder()
    except DependencyMissing:
        return "pip install 'imp-trt[video]'"
    return "choose the encoder pyav"

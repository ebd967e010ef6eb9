"""Video through OpenCV, which by itself reports neither dropped frames nor a full disk."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import OutputError
from imp_trt.video.encoder import TICKS, VIDEO_CODECS

_log = logging.getLogger(__name__)


class OpenCvEncoder:
    """See :class:`imp_trt.video.encoder.Encoder`; every frame is shown for one period.

    Args:
        file: to write; its suffix chooses the codec.
        rate: frames per second.
        size: (h, w), even.
        name: of the video, for messages.
    """

    def __init__(self, file: Path, rate: Fraction, size: tuple[int, int], name: str) -> None:
        self._file, self._name = file, name
        self._period = TICKS / rate
        fourcc = cv2.VideoWriter.fourcc(*VIDEO_CODECS[file.suffix.lower()])
        self._writer: Any = cv2.VideoWriter(str(file), fourcc, float(rate), (size[1], size[0]))
        if not self._writer.isOpened():
            raise OutputError(f"video {name} cannot be written", got="OpenCV has no encoder for it")
        self._written = 0
        self._off = Fraction(0)

    def write(self, picture: NDArray[np.uint8], ticks: int) -> None:
        """See :meth:`imp_trt.video.encoder.Encoder.write`."""
        self._writer.write(picture)
        self._off = max(self._off, abs(ticks - self._written * self._period))
        self._written += 1

    def finish(self) -> None:
        """See :meth:`imp_trt.video.encoder.Encoder.finish`."""
        self._writer.release()
        if self._off > self._period:
            _log.warning(
                "%s shows every frame equally long: its frames are up to %.2f s from their times; "
                "pip install 'imp-trt[video]' keeps them",
                self._name,
                self._off / TICKS,
            )

    def release(self) -> None:
        """See :meth:`imp_trt.video.encoder.Encoder.release`."""
        self._writer.release()

    def count(self) -> int:
        """See :meth:`imp_trt.video.encoder.Encoder.count`."""
        capture = cv2.VideoCapture(str(self._file))
        try:
            if not capture.isOpened() or not capture.read()[0]:
                return -1
            return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()

# SPDX-License-Identifier: Apache-2.0
"""Interface of the video encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Codecs that OpenCV's wheels can encode; their FFmpeg has no H.264 encoder.
VIDEO_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}

TICKS = 720_000
"""Time base: ticks per second. The periods of all usual frame rates, 30000/1001 included, and of 90 kHz are
whole numbers of ticks."""


class Encoder(Protocol):
    """Encodes images into one open file.

    Attributes:
        file: its absolute path, changed if the file is renamed while it is written.
    """

    file: Path

    def write(self, image: NDArray[np.uint8], ticks: int) -> None:
        """Append an image.

        Args:
            image: [h, w, 3] uint8 BGR; h and w are even.
            ticks: presentation time in units of 1 / TICKS seconds.

        Raises:
            OSError: the file cannot be written.
            OutputError: no encoder supports the image.
        """
        ...

    def finish(self) -> None:
        """Flush delayed frames and write the index; raises OSError."""
        ...

    def release(self) -> None:
        """Close the file without raising; idempotent."""
        ...

    def count(self) -> int:
        """Return the number of frames that the released file reports, -1 if it cannot be opened."""
        ...

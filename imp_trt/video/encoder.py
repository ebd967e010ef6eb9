"""What the encoders of videos have in common."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# What OpenCV's wheels can encode by themselves; their FFmpeg has no H.264 encoder.
VIDEO_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}

TICKS = 720_000
"""Ticks of a second, in which all usual rates, 30000/1001 among them, and 90 kHz have whole periods."""


class Encoder(Protocol):
    """Pictures into one open file."""

    def write(self, picture: NDArray[np.uint8], ticks: int) -> None:
        """Append a picture [h, w, 3] uint8 BGR of even sides, shown from ticks on.

        Raises:
            OSError: the file cannot take it.
            OutputError: there is no encoder for it.
        """
        ...

    def finish(self) -> None:
        """Write what is held back and the file's index; raises OSError."""
        ...

    def release(self) -> None:
        """Let the file go without raising; idempotent."""
        ...

    def count(self) -> int:
        """How many frames the finished file holds by its own account, -1 if it cannot be opened."""
        ...

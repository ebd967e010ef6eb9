"""One picture of a source, with when and where it came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        image: [h, w, 3] uint8 BGR.
        index: position in the source, from 0.
        name: unique within the source; the stem of an image file, the number of a video frame.
        time_s: presentation time in seconds as the container says; of a camera or stream, seconds since its
            first picture; None for images.
        captured_s: monotonic clock, in seconds, when the picture was handed over by the decoder or camera;
            None for files, which wait until they are asked.
        source: short name of the source, where there are several.
    """

    image: NDArray[np.uint8]
    index: int
    name: str
    time_s: float | None
    captured_s: float | None = None
    source: str = ""

# SPDX-License-Identifier: Apache-2.0
"""A frame of a source: the image, its index, name and times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    Attributes:
        image: [h, w, 3] uint8 BGR. It is read and drawn later, in other threads: a source that fills the
            same array again must pass copies.
        index: position in the source, from 0.
        name: unique within the source; the stem of an image file, the number of a video frame.
        time_s: presentation time in seconds from the start of the video stream, as stored in the container;
            it goes back where recordings were joined. For a camera or stream, seconds since its first frame;
            None for images.
        captured_s: time on the monotonic clock in seconds at which the decoder or camera returned the
            image; None for files, which are read on demand.
        source: short name of the source if there are several.
    """

    image: NDArray[np.uint8]
    index: int
    name: str
    time_s: float | None
    captured_s: float | None = None
    source: str = ""

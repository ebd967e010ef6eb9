# SPDX-License-Identifier: Apache-2.0
"""The types of frames that can be segmented."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imp_trt.preprocessing.array_input import SupportsCudaArrayInterface, SupportsDLPack
from imp_trt.preprocessing.nv12 import Nv12Frame


class PilImage(Protocol):
    """The part of PIL.Image.Image that tells it from other images; Pillow is not a dependency."""

    @property
    def mode(self) -> str: ...
    @property
    def size(self) -> tuple[int, int]: ...
    def getexif(self) -> Any: ...


FrameLike = NDArray[np.uint8] | PilImage | Nv12Frame | SupportsDLPack | SupportsCudaArrayInterface
"""What :meth:`imp_trt.Segmenter.run` accepts: [h, w, 3] uint8, BGR or RGB, or NV12 planes.

Arrays on the GPU are for engines. None, paths and lists are errors.
"""


class TimedFrame(Protocol):
    """A frame with its time in the video, as sources of imp_trt.video yield it."""

    @property
    def image(self) -> FrameLike: ...
    @property
    def time_s(self) -> float | None: ...

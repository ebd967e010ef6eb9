# SPDX-License-Identifier: Apache-2.0
"""Finds label maps that were resized with interpolation: classes appear on boundaries that are not there.

Where class 3 meets class 7, such a map has a pixel of 5. If 5 is a class, nothing else tells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX

MIN_SHARE = 0.12
"""Share of the boundaries with a value in between from which on maps count as blended.

Measured on CamVid and Clothing Co-Parsing: 0.00 to 0.02 as they are and resized with nearest neighbor (0.05
in the worst single map), 0.19 to 0.63 after linear, cubic, area or Lanczos interpolation or JPEG.
"""

_EACH = 8
"""Of the rows and columns of a map, every eighth is looked at: the cost stays below that of decoding it."""


class BlendedBoundaries:
    """Counts boundaries of label maps, and those with a value in between."""

    def __init__(self) -> None:
        self._blended = self._sharp = 0.0

    @property
    def share(self) -> float:
        """Share of the boundaries that have a value in between; 0 without any."""
        return self._blended / max(1.0, self._blended + self._sharp)

    def add(self, label_map: NDArray[np.uint8]) -> None:
        """Count a label map [H, W]."""
        for lines in (label_map[::_EACH], label_map[:, ::_EACH].T):
            before, pixel, after = lines[:, :-2], lines[:, 1:-1], lines[:, 2:]
            edge = before != after
            thin = edge & (pixel != before) & (pixel != after)
            between = thin & ((pixel > before) == (after > pixel)) & (pixel != IGNORE_INDEX)
            self._blended += np.count_nonzero(between)
            # A boundary without a pixel of its own is seen from both of its sides.
            self._sharp += (np.count_nonzero(edge) - np.count_nonzero(thin)) / 2

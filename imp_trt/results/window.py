# SPDX-License-Identifier: Apache-2.0
"""One image in a window, for scripts and interactive use."""

from __future__ import annotations

import os
import sys

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import DependencyMissing

_POLL_MS = 50
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
_FIX = 'save the overlay: result.save("overlay.png", frame)'


def show_image(image: NDArray[np.uint8], title: str) -> None:
    """Show an image [h, w, 3] uint8 BGR until a key is pressed or the window is closed.

    Raises:
        DependencyMissing: OpenCV cannot open windows here.
    """
    # Without a display OpenCV's window library ends the process instead of raising.
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in _DISPLAYS):
        raise DependencyMissing(
            "show()", expected=f"one of {', '.join(_DISPLAYS)}", got="no display", fix=_FIX
        )
    try:
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        cv2.imshow(title, image)
        # Polled, because waitKey(0) does not return when the window is closed by its button.
        while cv2.waitKey(_POLL_MS) < 0 and cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1:
            pass
        cv2.destroyWindow(title)
    except cv2.error as error:
        raise DependencyMissing(
            "show()",
            expected="an OpenCV with windows: opencv-python, not opencv-python-headless",
            got=str(error.err or error).strip(),
            fix=_FIX,
        ) from error

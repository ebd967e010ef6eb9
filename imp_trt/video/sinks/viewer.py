# SPDX-License-Identifier: Apache-2.0
"""Viewer process that displays windows: ``python -m imp_trt.video.sinks.viewer``, started by Window.

OpenCV's windows use Qt, which belongs to the first thread that opens one and ends the process if there is
no display. In a separate process it affects neither the pipeline's threads nor a program with its own
windows.

Standard input: HEADER (byte length of the title, height, width), title, height * width * 3 bytes BGR.
Standard output: a line "ready" when the next image may be sent, "quit" when the user closes a window.
"""

from __future__ import annotations

import os
import select
import struct

import cv2
import numpy as np

HEADER = struct.Struct("<III")
MAX_WINDOW_SIZE = (900, 1600)
"""Maximum initial height and width of a window; it can be resized."""

_QUIT = (ord("q"), 27)
_IDLE_MS = 20


def main() -> None:
    """Show images until the input ends or the user quits."""
    shown: set[str] = set()
    _send("ready")
    while True:
        # Windows handle mouse events only inside waitKey.
        if not select.select([0], [], [], 0 if shown else None)[0]:
            if _quit_requested(shown, _IDLE_MS):
                return _send("quit")
            continue
        try:
            length, height, width = HEADER.unpack(_read(HEADER.size))
            title = _read(length).decode()
            image = np.frombuffer(_read(height * width * 3), np.uint8).reshape(height, width, 3)
        except EOFError:
            return
        if title not in shown:
            _open(title, height, width)
            shown.add(title)
        cv2.imshow(title, image)
        if _quit_requested(shown, 1):
            return _send("quit")
        _send("ready")


def _open(title: str, height: int, width: int) -> None:
    cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    scale = min(1.0, MAX_WINDOW_SIZE[0] / height, MAX_WINDOW_SIZE[1] / width)
    cv2.resizeWindow(title, max(1, round(width * scale)), max(1, round(height * scale)))


def _quit_requested(shown: set[str], milliseconds: int) -> bool:
    key = cv2.waitKey(milliseconds) & 0xFF
    closed = any(cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1 for title in shown)
    return key in _QUIT or closed


def _read(size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _send(word: str) -> None:
    try:
        os.write(1, f"{word}\n".encode())
    except BrokenPipeError:  # the run has closed the pipe; the end of the input follows
        pass


if __name__ == "__main__":
    main()

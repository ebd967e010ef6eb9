"""The process that shows windows: ``python -m imp_trt.video.sinks.viewer``, started by Window.

Qt, which OpenCV's windows are made of, belongs to the first thread that opens one, and ends its process
where there is no display. In a process of its own it disturbs neither the pipeline's threads nor a program
with windows of its own.

Standard input: HEADER (bytes of the title, height, width), title, height * width * 3 bytes BGR. Standard
output: a line "ready" when the next picture may come, "quit" when the user has had enough.
"""

from __future__ import annotations

import os
import select
import struct

import cv2
import numpy as np

HEADER = struct.Struct("<III")
LARGEST = (900, 1600)
"""Rows and columns that a window starts with at most; its edges can be dragged."""

_QUIT = (ord("q"), 27)
_IDLE_MS = 20


def main() -> None:
    """Show pictures until the input ends or the user quits."""
    shown: set[str] = set()
    _say("ready")
    while True:
        # Windows answer to the mouse only while their keys are asked for.
        if not select.select([0], [], [], 0 if shown else None)[0]:
            if _wants_to_quit(shown, _IDLE_MS):
                return _say("quit")
            continue
        try:
            length, height, width = HEADER.unpack(_read(HEADER.size))
            title = _read(length).decode()
            picture = np.frombuffer(_read(height * width * 3), np.uint8).reshape(height, width, 3)
        except EOFError:
            return
        if title not in shown:
            _open(title, height, width)
            shown.add(title)
        cv2.imshow(title, picture)
        if _wants_to_quit(shown, 1):
            return _say("quit")
        _say("ready")


def _open(title: str, height: int, width: int) -> None:
    cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    scale = min(1.0, LARGEST[0] / height, LARGEST[1] / width)
    cv2.resizeWindow(title, max(1, round(width * scale)), max(1, round(height * scale)))


def _wants_to_quit(shown: set[str], milliseconds: int) -> bool:
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


def _say(word: str) -> None:
    try:
        os.write(1, f"{word}\n".encode())
    except BrokenPipeError:  # nobody listens any more; the end of the input follows
        pass


if __name__ == "__main__":
    main()

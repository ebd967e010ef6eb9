# SPDX-License-Identifier: Apache-2.0
"""Small videos and damaged ones, made with OpenCV alone."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}


def picture(index: int, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """A flat gray whose level encodes the frame's number, also after lossy coding."""
    return np.full((*size, 3), 20 + 8 * index, np.uint8)


def write_clip(path: Path, frames: int = 10, fps: float = 25.0, size: tuple[int, int] = (48, 64)) -> Path:
    """A video of frames images."""
    codec = cv2.VideoWriter.fourcc(*CODECS[path.suffix])
    writer = cv2.VideoWriter(str(path), codec, fps, (size[1], size[0]))
    for i in range(frames):
        writer.write(picture(i, size))
    writer.release()
    return path


def moved_to_front(data: bytes) -> bytes:
    """An MP4 with its index before its images, as files for the web have it.

    Only such a file still opens when its end is missing.
    """
    boxes = {}
    position = 0
    while position < len(data):
        length = struct.unpack(">I", data[position : position + 4])[0]
        boxes[data[position + 4 : position + 8]] = data[position : position + length]
        position += length
    index = bytearray(boxes[b"moov"])
    at = index.index(b"stco") + 4
    count = struct.unpack(">I", index[at + 4 : at + 8])[0]
    old_start = data.index(b"mdat") - 4
    new_start = len(boxes[b"ftyp"]) + len(index)
    for i in range(count):
        place = slice(at + 8 + 4 * i, at + 12 + 4 * i)
        offset = struct.unpack(">I", index[place])[0]
        index[place] = struct.pack(">I", offset - old_start + new_start)
    return boxes[b"ftyp"] + bytes(index) + boxes[b"mdat"]


def wave_file() -> bytes:
    """A tenth of a second of silence as RIFF WAVE."""
    samples = bytes(1600)
    header = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    body = b"WAVE" + header + struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def played(path: Path) -> int:
    """How many frames a player shows of a file."""
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    return count

"""A contact sheet: moments of a run side by side, as a sink."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.data.files import write_atomically
from imp_trt.data.images import encode_image
from imp_trt.errors import InvalidInput
from imp_trt.results.drawing import class_colors, color_map
from imp_trt.results.image_grid import make_grid
from imp_trt.results.result import SegmentationResult
from imp_trt.video.sinks import Base, Segmented

COLUMNS = ("frame", "instances projected on the canvas", "class map", "overlay")


class ContactSheet(Base):
    """Collects the frames at some positions and writes one PNG when the run ends.

    Args:
        path: PNG to write.
        moments: frame indices, one row each.
        width: of one tile, pixels.
    """

    def __init__(self, path: str | os.PathLike[str], moments: Sequence[int], width: int = 480) -> None:
        self._path = Path(path)
        self._moments = set(moments)
        self._width = width
        self._rows: list[list[NDArray[np.uint8]]] = []
        self._classes: ClassTable | None = None

    def write(self, item: Segmented) -> bool:
        if item.frame.index in self._moments:
            self._rows.append(_row(item, self._width))
            self._classes = item.result.classes
        return True

    def close(self) -> None:
        if not self._rows or self._classes is None:
            return
        picture = make_grid(self._rows, COLUMNS, self._classes)
        write_atomically(self._path, encode_image(picture, ".png"))
        self._rows = []

    def abort(self) -> None:
        self._rows = []


def canvas_picture(result: SegmentationResult, scale: float = 0.5) -> NDArray[np.uint8]:
    """The IMP canvas as a picture [h * scale, w * scale, 3] uint8 BGR.

    Every thing plane shines in its class color with the strength of its projected score; at each
    pixel the strongest plane is shown.
    """
    canvas = result.canvas(scale)
    if len(canvas) == 0:
        raise InvalidInput("canvas", expected="a model with thing classes", got="none")
    strongest = canvas.argmax(axis=0)
    strength = np.take_along_axis(canvas, strongest[None], axis=0)[0]
    things = np.asarray(result.classes.things)
    colors = class_colors(result.classes)[things[strongest]].astype(np.float32)
    return np.asarray(np.clip(colors * strength[..., None] + 16, 0, 255), np.uint8)


def _row(item: Segmented, width: int) -> list[NDArray[np.uint8]]:
    height, full = item.result.size
    size = (width, max(1, round(height * width / full)))
    classes = color_map(item.result.semantic, item.result.classes)
    tiles = [
        cv2.resize(item.frame.image, size, interpolation=cv2.INTER_AREA),
        cv2.resize(canvas_picture(item.result), size, interpolation=cv2.INTER_LINEAR),
        cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST),
        cv2.resize(item.overlay, size, interpolation=cv2.INTER_AREA),
    ]
    return [np.asarray(tile, np.uint8) for tile in tiles]

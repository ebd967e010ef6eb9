"""A contact sheet: moments of a run side by side, as a sink."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.draw import class_colours, colour_map
from imp_trt.errors import InvalidInput
from imp_trt.files import write_atomically
from imp_trt.images import encode_image
from imp_trt.result import SegmentationResult
from imp_trt.video.sinks import Base, Segmented

COLUMNS = ("frame", "instances projected on the canvas", "class map", "overlay")

_GAP, _BAR = 6, 26
_INK = (235, 235, 235)
_GROUND = (24, 24, 24)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


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
        self._rows: list[NDArray[np.uint8]] = []
        self._classes: ClassTable | None = None

    def write(self, item: Segmented) -> bool:
        if item.frame.index in self._moments:
            self._rows.append(_row(item, self._width))
            self._classes = item.result.classes
        return True

    def close(self) -> None:
        if not self._rows or self._classes is None:
            return
        write_atomically(self._path, encode_image(_sheet(self._rows, self._classes), ".png"))
        self._rows = []

    def abort(self) -> None:
        self._rows = []


def canvas_picture(result: SegmentationResult, scale: float = 0.5) -> NDArray[np.uint8]:
    """The IMP canvas as a picture [h * scale, w * scale, 3] uint8 BGR.

    Every thing plane shines in its class colour with the strength of its projected score; at each
    pixel the strongest plane is shown.
    """
    canvas = result.canvas(scale)
    if len(canvas) == 0:
        raise InvalidInput("canvas", expected="a model with thing classes", got="none")
    strongest = canvas.argmax(axis=0)
    strength = np.take_along_axis(canvas, strongest[None], axis=0)[0]
    things = np.asarray(result.classes.things)
    colours = class_colours(result.classes)[things[strongest]].astype(np.float32)
    return np.asarray(np.clip(colours * strength[..., None] + 16, 0, 255), np.uint8)


def _row(item: Segmented, width: int) -> NDArray[np.uint8]:
    height, full = item.result.size
    size = (width, max(1, round(height * width / full)))
    tiles = [
        cv2.resize(item.frame.image, size, interpolation=cv2.INTER_AREA),
        cv2.resize(canvas_picture(item.result), size, interpolation=cv2.INTER_LINEAR),
        cv2.resize(
            colour_map(item.result.semantic, item.result.classes), size, interpolation=cv2.INTER_NEAREST
        ),
        cv2.resize(item.overlay, size, interpolation=cv2.INTER_AREA),
    ]
    gap = np.full((size[1], _GAP, 3), _GROUND, np.uint8)
    parts = [part for tile in tiles for part in (tile, gap)][:-1]
    return np.asarray(np.hstack(parts), np.uint8)


def _sheet(rows: Sequence[NDArray[np.uint8]], classes: ClassTable) -> NDArray[np.uint8]:
    width = rows[0].shape[1]
    bar = np.full((_BAR, width, 3), _GROUND, np.uint8)
    tile = (width + _GAP) // len(COLUMNS)
    for index, title in enumerate(COLUMNS):
        cv2.putText(bar, title, (index * tile + 6, _BAR - 8), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    gap = np.full((_GAP, width, 3), _GROUND, np.uint8)
    parts = [bar, *[part for row in rows for part in (row, gap)], _legend(classes, width)]
    return np.asarray(np.vstack(parts), np.uint8)


def _legend(classes: ClassTable, width: int) -> NDArray[np.uint8]:
    """Colour and name of every class, as many in a line as fit."""
    lines, x = [np.full((_BAR, width, 3), _GROUND, np.uint8)], 6
    for name, colour in zip(classes.names, class_colours(classes), strict=False):
        (text, _), _ = cv2.getTextSize(name, _FONT, 0.5, 1)
        if x + text + 40 > width:
            lines.append(np.full((_BAR, width, 3), _GROUND, np.uint8))
            x = 6
        cv2.rectangle(lines[-1], (x, 6), (x + 14, _BAR - 7), colour.tolist(), -1)
        cv2.putText(lines[-1], name, (x + 20, _BAR - 8), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
        x += text + 40
    return np.asarray(np.vstack(lines), np.uint8)

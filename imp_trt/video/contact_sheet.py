# SPDX-License-Identifier: Apache-2.0
"""Sink that writes some frames of a run, with their results, as one image grid."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.data.files import fixed, write_atomically
from imp_trt.data.images import encode_image
from imp_trt.data.native_calls import native_call
from imp_trt.errors import InvalidInput
from imp_trt.results.drawing import class_colors, color_map
from imp_trt.results.image_grid import make_grid
from imp_trt.results.result import SegmentationResult
from imp_trt.video.sinks import BaseSink, SegmentedFrame

COLUMNS = ("frame", "instances projected on the canvas", "class map", "overlay")


class ContactSheet(BaseSink):
    """Collects the frames at given indices and writes them as one PNG when the run ends.

    Args:
        path: PNG to write.
        indices: frame indices, one row of the grid each. If the run has none of them, because its source
            listed more frames than it has, the grid shows the last frame.
        width: width of one tile in pixels.
    """

    def __init__(self, path: str | os.PathLike[str], indices: Sequence[int], width: int = 480) -> None:
        self._path = fixed(path)
        self._indices = set(indices)
        self._width = width
        self._rows: list[list[NDArray[np.uint8]]] = []
        self._last: SegmentedFrame | None = None
        self._classes: ClassTable | None = None

    def write(self, item: SegmentedFrame) -> bool:
        if item.frame.index in self._indices:
            self._rows.append(_row(item, self._width))
        self._last, self._classes = item, item.result.classes
        return True

    def close(self) -> None:
        if self._last is not None and not self._rows:
            self._rows.append(_row(self._last, self._width))
        if not self._rows or self._classes is None:
            return
        grid = make_grid(self._rows, COLUMNS, self._classes)
        write_atomically(self._path, encode_image(grid, ".png"))
        self.abort()

    def abort(self) -> None:
        self._rows, self._last = [], None


def canvas_image(result: SegmentationResult, scale: float = 0.5) -> NDArray[np.uint8]:
    """Render the IMP canvas as an image [h * scale, w * scale, 3] uint8 BGR.

    Each pixel has the color of the thing class with the highest projected score, scaled by that score.
    """
    canvas = result.canvas(scale)  # [T, h * scale, w * scale] float32, scores
    if len(canvas) == 0:
        raise InvalidInput("canvas", expected="a model with thing classes", got="none")
    best = canvas.argmax(axis=0)  # [h, w], index of the thing class
    scores = np.take_along_axis(canvas, best[None], axis=0)[0]
    things = np.asarray(result.classes.things)
    colors = class_colors(result.classes)[things[best]].astype(np.float32)
    return np.asarray(np.clip(colors * scores[..., None] + 16, 0, 255), np.uint8)


def _row(item: SegmentedFrame, width: int) -> list[NDArray[np.uint8]]:
    full_height, full_width = item.result.size
    size = (width, max(1, round(full_height * width / full_width)))
    tiles = (
        (item.frame.image, cv2.INTER_AREA),
        (canvas_image(item.result), cv2.INTER_LINEAR),
        (color_map(item.result.semantic, item.result.classes), cv2.INTER_NEAREST),
        (item.overlay, cv2.INTER_AREA),
    )
    with native_call():
        return [np.asarray(cv2.resize(tile, size, interpolation=how), np.uint8) for tile, how in tiles]

"""A sheet: pictures in rows and columns, titles above, the classes' colors below."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.results.drawing import class_colors

GAP = 6
"""Between tiles, pixels."""
BAR = 26
"""Height of a line of text, pixels."""

_INK = (235, 235, 235)
_GROUND = (24, 24, 24)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]], titles: Sequence[str], classes: ClassTable
) -> NDArray[np.uint8]:
    """Lay tiles out.

    Args:
        rows: one or more, each with a tile [h, w, 3] uint8 BGR for every title; one width for all, one height
            in a row.
        titles: of the columns.
        classes: names and colors of the legend.

    Returns:
        [h, w, 3] uint8 BGR.
    """
    lines = [_line(row) for row in rows]
    width = lines[0].shape[1]
    gap = np.full((GAP, width, 3), _GROUND, np.uint8)
    bar = _title_bar(titles, rows[0][0].shape[1], width)
    parts = [bar, *[part for line in lines for part in (line, gap)], _legend(classes, width)]
    return np.asarray(np.vstack(parts), np.uint8)


def _line(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = np.full((len(tiles[0]), GAP, 3), _GROUND, np.uint8)
    parts = [part for tile in tiles for part in (tile, gap)][:-1]
    return np.asarray(np.hstack(parts), np.uint8)


def _title_bar(titles: Sequence[str], tile: int, width: int) -> NDArray[np.uint8]:
    bar = np.full((BAR, width, 3), _GROUND, np.uint8)
    for index, title in enumerate(titles):
        cv2.putText(bar, title, (index * (tile + GAP) + 6, BAR - 8), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    return bar


def _legend(classes: ClassTable, width: int) -> NDArray[np.uint8]:
    """Color and name of every class, as many in a line as fit."""
    lines, x = [np.full((BAR, width, 3), _GROUND, np.uint8)], 6
    for name, color in zip(classes.names, class_colors(classes), strict=False):
        (text, _), _ = cv2.getTextSize(name, _FONT, 0.5, 1)
        if x + text + 40 > width:
            lines.append(np.full((BAR, width, 3), _GROUND, np.uint8))
            x = 6
        cv2.rectangle(lines[-1], (x, 6), (x + 14, BAR - 7), color.tolist(), -1)
        cv2.putText(lines[-1], name, (x + 20, BAR - 8), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
        x += text + 40
    return np.asarray(np.vstack(lines), np.uint8)

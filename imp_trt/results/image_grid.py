# SPDX-License-Identifier: Apache-2.0
"""A grid of images with column titles above and the classes' colors below."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.data.native_calls import native_call
from imp_trt.results.drawing import class_colors
from imp_trt.results.text import drawn, drawn_names

GAP = 6
"""Between images, pixels."""
BAR = 26
"""Height of a line of text, pixels."""

_TEXT_COLOR = (235, 235, 235)
_BACKGROUND = (24, 24, 24)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def make_grid(
    rows: Sequence[Sequence[NDArray[np.uint8]]], titles: Sequence[str], classes: ClassTable
) -> NDArray[np.uint8]:
    """Arrange images in a grid.

    Args:
        rows: at least one, each with an image [h, w, 3] uint8 BGR for every title. All images have the same
            width, and all in a row the same height.
        titles: of the columns.
        classes: names and colors for the legend.

    Returns:
        [h, w, 3] uint8 BGR.
    """
    lines = [_row(row) for row in rows]
    width = lines[0].shape[1]
    gap = np.full((GAP, width, 3), _BACKGROUND, np.uint8)
    bar = _title_bar(titles, rows[0][0].shape[1], width)
    parts = [bar, *[part for line in lines for part in (line, gap)], _legend(classes, width)]
    return np.asarray(np.vstack(parts), np.uint8)


def _row(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = np.full((len(images[0]), GAP, 3), _BACKGROUND, np.uint8)
    parts = [part for image in images for part in (image, gap)][:-1]
    return np.asarray(np.hstack(parts), np.uint8)


@native_call()
def _title_bar(titles: Sequence[str], column: int, width: int) -> NDArray[np.uint8]:
    bar = np.full((BAR, width, 3), _BACKGROUND, np.uint8)
    for index, title in enumerate(titles):
        origin = (index * (column + GAP) + 6, BAR - 8)
        cv2.putText(bar, drawn(title), origin, _FONT, 0.5, _TEXT_COLOR, 1, cv2.LINE_AA)
    return bar


@native_call()
def _legend(classes: ClassTable, width: int) -> NDArray[np.uint8]:
    """Color and name of every class, as many per line as fit."""
    lines, x = [np.full((BAR, width, 3), _BACKGROUND, np.uint8)], 6
    for name, color in zip(drawn_names(classes), class_colors(classes), strict=False):
        (text, _), _ = cv2.getTextSize(name, _FONT, 0.5, 1)
        if x + text + 40 > width:
            lines.append(np.full((BAR, width, 3), _BACKGROUND, np.uint8))
            x = 6
        cv2.rectangle(lines[-1], (x, 6), (x + 14, BAR - 7), color.tolist(), -1)
        cv2.putText(lines[-1], name, (x + 20, BAR - 8), _FONT, 0.5, _TEXT_COLOR, 1, cv2.LINE_AA)
        x += text + 40
    return np.asarray(np.vstack(lines), np.uint8)

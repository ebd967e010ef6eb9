# SPDX-License-Identifier: Apache-2.0
"""Drawing of results: class colors over the frame, instances outlined and labeled."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.data.native_calls import native_call
from imp_trt.errors import InvalidInput
from imp_trt.results.instances import Instances
from imp_trt.results.panoptic import Panoptic
from imp_trt.results.shading import Bgr, shaded, smooth_map
from imp_trt.results.text import drawn_names

Style = Literal["instances", "classes", "panoptic"]

STYLES: tuple[Style, ...] = ("instances", "classes", "panoptic")
"""Styles of drawing: filled instances over faint class colors, the class map alone, or panoptic segments."""

DEFAULT_ALPHA: dict[Style, float] = {"instances": 0.25, "classes": 0.5, "panoptic": 0.5}
"""Weight of the class colors by style, 0-1."""

_FILL = 0.5  # weight of an instance's color
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_Rect = tuple[int, int, int, int]


def class_colors(classes: ClassTable) -> NDArray[np.uint8]:
    """Lookup table [256, 3] uint8, BGR, by class index; black beyond the last class."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes)] = np.array(classes.palette, np.uint8)[:, ::-1]
    return table


@native_call()
def color_map(semantic: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.uint8]:
    """A class map [h, w] uint8 as an image [h, w, 3] uint8 BGR in the classes' colors."""
    # A lookup in OpenCV: NumPy's fancy indexing takes ten times as long.
    image = cv2.applyColorMap(semantic, class_colors(classes).reshape(256, 1, 3))
    return np.asarray(image, np.uint8)


@native_call()
def draw_result(
    frame: NDArray[np.uint8],
    semantic: NDArray[np.uint8],
    instances: Instances,
    classes: ClassTable,
    *,
    style: Literal["instances", "classes"] = "instances",
    alpha: float | None = None,
    labels: bool = True,
    legend: Collection[int] | None = None,
    network_size: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """The frame with a result drawn over it; see :meth:`imp_trt.SegmentationResult.plot`.

    Args:
        frame: [h, w, 3] uint8 BGR, contiguous; not changed.
        semantic: [h, w] uint8 class indices.
        instances: what is drawn, in descending order of score.
        classes: names and colors.
        style: "instances" or "classes"; :func:`draw_panoptic` is the third.
        alpha: weight of the class map's colors, 0-1; None for DEFAULT_ALPHA.
        labels: draw class and score at each instance.
        legend: class indices to list; None for no legend.
        network_size: (h, w) of the class map before it was enlarged to the frame; its edges are drawn
            smooth. None if it was not enlarged.

    Raises:
        InvalidInput: the frame has another size than the class map, or alpha is not 0-1.
    """
    alpha = _checked_alpha(frame, semantic.shape, alpha, style)
    if alpha:
        image = color_map(smooth_map(semantic, network_size), classes)
        cv2.addWeighted(frame, 1 - alpha, image, alpha, 0, dst=image)
    else:
        image = frame.copy()
    colors = shaded(instances.boxes, instances.labels.tolist(), classes, instances.track_ids)
    if style == "instances":
        # Best last, so that it is on top.
        for i in reversed(range(len(instances))):
            _draw_instance(image, frame, instances, i, colors[i])
    taken = [] if legend is None else _draw_legend(image, legend, classes)
    if labels and style == "instances":
        names = [_label(instances, i, classes) for i in range(len(instances))]
        _draw_labels(image, instances.boxes, names, colors, taken)
    return image


@native_call()
def draw_panoptic(
    frame: NDArray[np.uint8],
    panoptic: Panoptic,
    classes: ClassTable,
    *,
    alpha: float | None = None,
    labels: bool = True,
    legend: Collection[int] | None = None,
) -> NDArray[np.uint8]:
    """The frame with panoptic segments drawn over it, each with a border; void pixels keep the frame's.

    Args:
        frame: [h, w, 3] uint8 BGR, contiguous; not changed.
        panoptic: of the same frame.
        classes, labels, legend: as for :func:`draw_result`.
        alpha: weight of the segments' colors, 0-1; None for DEFAULT_ALPHA.

    Raises:
        InvalidInput: the frame has another size than the segments, or alpha is not 0-1.
    """
    alpha = _checked_alpha(frame, panoptic.ids.shape, alpha, "panoptic")
    things = [segment for segment in panoptic.segments if segment.is_thing]
    masks = [(panoptic.ids == segment.id).view(np.uint8) for segment in things]
    # [N, 4] x, y, width, height -> xyxy
    boxes = np.array([cv2.boundingRect(mask) for mask in masks], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    shades = shaded(boxes, [segment.label for segment in things], classes)
    table = np.zeros((len(panoptic.segments) + 1, 3), np.uint8)  # color by segment id
    for segment, color in zip(things, shades, strict=True):
        table[segment.id] = color
    for segment in panoptic.segments:
        if not segment.is_thing:
            table[segment.id] = _bgr(classes, segment.label)
    colors = np.take(table, panoptic.ids, axis=0)
    image = np.asarray(cv2.addWeighted(frame, 1 - alpha, colors, alpha, 0), np.uint8)
    np.copyto(image, frame, where=(panoptic.ids == 0)[..., None])
    _draw_borders(image, panoptic.ids)
    taken = [] if legend is None else _draw_legend(image, legend, classes)
    if labels:
        names = [f"{drawn_names(classes)[segment.label]} {segment.score:.2f}" for segment in things]
        _draw_labels(image, boxes, names, shades, taken)
    return image


def _checked_alpha(
    frame: NDArray[np.uint8], size: tuple[int, ...], alpha: float | None, style: Style
) -> float:
    if frame.shape[:2] != size:
        raise InvalidInput("frame to draw on", expected=f"size {size}", got=f"size {frame.shape[:2]}")
    if alpha is None:
        return DEFAULT_ALPHA[style]
    if not 0 <= alpha <= 1:
        raise InvalidInput("alpha", expected="0 to 1", got=alpha)
    return alpha


def _draw_borders(image: NDArray[np.uint8], ids: NDArray[np.int32]) -> None:
    """Lighten the pixels whose right or lower neighbor belongs to another segment."""
    edges = np.zeros(ids.shape, np.bool_)
    edges[:, :-1] = ids[:, :-1] != ids[:, 1:]
    edges[:-1] |= ids[:-1] != ids[1:]
    image[edges] = image[edges] // 2 + 127


def _draw_instance(
    image: NDArray[np.uint8], frame: NDArray[np.uint8], instances: Instances, i: int, color: Bgr
) -> None:
    """Fill the instance and outline it: its color inside a dark rim, visible on any background."""
    mask, x, y = instances.crop(i)
    if not mask.any():
        return
    rows, columns = slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1])
    part = image[rows, columns]
    plane = np.empty_like(part)
    plane[0] = color
    plane[1:] = plane[0]  # by rows: NumPy takes long to repeat three bytes
    # Over the frame, not over the class map's color: what the map says here is not the object's color.
    fill = cv2.addWeighted(frame[rows, columns], 1 - _FILL, plane, _FILL, 0, dst=plane)
    cv2.copyTo(fill, mask.view(np.uint8), part)
    outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    # Fewer corners, by at most a pixel: every stroke of a thick smooth line costs.
    outlines = [cv2.approxPolyDP(outline, 1.0, True) for outline in outlines]
    width = _line_width(image)
    for rim, line in ((_dark(color), width + 2), (_light(color), width)):
        cv2.drawContours(image, outlines, -1, rim, line, cv2.LINE_AA, offset=(x, y))


def _label(instances: Instances, i: int, classes: ClassTable) -> str:
    """Class, number of the track if there is one, and score."""
    track = -1 if instances.track_ids is None else int(instances.track_ids[i])
    number = f" #{track}" if track >= 0 else ""
    return f"{drawn_names(classes)[int(instances.labels[i])]}{number} {instances.scores[i]:.2f}"


def _draw_labels(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],  # [N, 4] xyxy
    labels: list[str],  # best first
    colors: list[Bgr],
    taken: list[_Rect],
) -> None:
    """Label every box, best first; a label that would cover a taken rectangle is left out."""
    scale, thickness = _text_style(image)
    taken = list(taken)
    for i, (text, color) in enumerate(zip(labels, colors, strict=True)):
        (tw, th), base = cv2.getTextSize(text, _FONT, scale, thickness)
        pad = max(4, th // 2)
        w, h = tw + 2 * pad, th + base + max(2, th // 3)
        rect = _label_position(image, boxes, i, w, h, taken)
        if rect is None:
            continue
        taken.append(rect)
        x, y = rect[:2]
        cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), color, cv2.FILLED)
        cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), _dark(color), 1)
        origin = (x + pad, y + th + max(2, th // 3) // 2 + 1)
        cv2.putText(image, text, origin, _FONT, scale, _text_color(color), thickness, cv2.LINE_AA)


def _label_position(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], i: int, w: int, h: int, taken: list[_Rect]
) -> _Rect | None:
    """The position at which a label of box i covers the least of other boxes.

    Tried are above and below the box, at its left and right edge, and inside its top. None if every one
    covers another label.
    """
    height, width = image.shape[:2]
    if w > width:
        return None
    left, top, right, bottom = boxes[i].tolist()
    best, min_hidden = None, np.inf
    positions = ((left, top - h), (right - w, top - h), (left, bottom), (right - w, bottom), (left, top))
    for x, y in positions:
        x, y = int(np.clip(x, 0, width - w)), int(y)
        rect = (x, y, x + w, y + h)
        if y < 0 or rect[3] > height or any(_overlap(rect, other) for other in taken):
            continue
        corners = np.minimum(boxes[:, 2:], rect[2:]) - np.maximum(boxes[:, :2], rect[:2])
        # In halves of the label: with finer steps labels jump more from frame to frame.
        hidden = np.round(2 * corners.clip(0).prod(axis=1).sum() / (w * h))
        if hidden < min_hidden:
            best, min_hidden = rect, hidden
    return best


def _overlap(a: _Rect, b: _Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_legend(image: NDArray[np.uint8], listed: Collection[int], classes: ClassTable) -> list[_Rect]:
    """List classes on a darkened panel, in the order of the table; returns its rectangle, if any.

    If the image is too low for all of them, the first ones of listed are shown.
    """
    height = image.shape[0]
    scale, thickness = _text_style(image)
    names = drawn_names(classes)
    sizes = {k: cv2.getTextSize(names[k], _FONT, scale, thickness)[0] for k in listed}
    th = max((size[1] for size in sizes.values()), default=1)
    row = round(th * 1.9)
    shown = sorted(list(sizes)[: max(0, (height - 3 * th) // row)])
    if not shown:
        return []
    w, h = max(sizes[k][0] for k in shown) + 4 * th, row * len(shown) + th
    panel = image[height - h - th : height - th, th : th + w]
    panel[...] = panel // 3
    for i, k in enumerate(shown):
        y = height - h - th + th // 2 + i * row + row // 2
        corner, other = (2 * th - th // 2, y - th // 2), (2 * th + th // 2, y + th // 2)
        cv2.rectangle(image, corner, other, _bgr(classes, k), cv2.FILLED)
        origin = (3 * th, y + th // 2)
        cv2.putText(image, names[k], origin, _FONT, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return [(th, height - h - th, th + w, height - th)]


def _text_style(image: NDArray[np.uint8]) -> tuple[float, int]:
    """Font scale and thickness that stay readable from thumbnails to 4K."""
    scale = float(np.clip(min(image.shape[:2]) / 1250, 0.35, 2.0))
    return scale, max(1, round(scale * 1.9))


def _line_width(image: NDArray[np.uint8]) -> int:
    return max(1, round(int(min(image.shape[:2])) / 540))


def _bgr(classes: ClassTable, label: int) -> Bgr:
    r, g, b = classes.palette[label]
    return (b, g, r)


def _light(color: Bgr) -> Bgr:
    b, g, r = (round(v + (255 - v) * 0.55) for v in color)
    return (b, g, r)


def _dark(color: Bgr) -> Bgr:
    b, g, r = (round(v * 0.35) for v in color)
    return (b, g, r)


def _text_color(color: Bgr) -> Bgr:
    """Black or white, whichever reads better on the color (luma, ITU-R BT.601)."""
    b, g, r = color
    return (0, 0, 0) if 0.114 * b + 0.587 * g + 0.299 * r > 140 else (255, 255, 255)

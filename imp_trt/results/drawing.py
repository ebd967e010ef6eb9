# SPDX-License-Identifier: Apache-2.0
"""Drawing of results: class colors over the frame, instances outlined and labeled."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.results.instances import Instances
from imp_trt.results.text import drawn_names

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_Bgr = tuple[int, int, int]
_Rect = tuple[int, int, int, int]


def class_colors(classes: ClassTable) -> NDArray[np.uint8]:
    """Lookup table [256, 3] uint8, BGR, by class index; black beyond the last class."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes)] = np.array(classes.palette, np.uint8)[:, ::-1]
    return table


def color_map(semantic: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.uint8]:
    """A class map [h, w] uint8 as an image [h, w, 3] uint8 BGR in the classes' colors."""
    # A lookup in OpenCV: NumPy's fancy indexing takes ten times as long.
    image = cv2.applyColorMap(semantic, class_colors(classes).reshape(256, 1, 3))
    return np.asarray(image, np.uint8)


def draw_result(
    frame: NDArray[np.uint8],
    semantic: NDArray[np.uint8],
    instances: Instances,
    classes: ClassTable,
    *,
    alpha: float = 0.5,
    labels: bool = True,
    legend: NDArray[np.int64] | None = None,
) -> NDArray[np.uint8]:
    """The frame with a result drawn over it; see :meth:`imp_trt.SegmentationResult.plot`.

    Args:
        frame: [h, w, 3] uint8 BGR, contiguous; not changed.
        semantic: [h, w] uint8 class indices.
        instances: what is drawn, in descending order of score.
        classes: names and colors.
        legend: [K] int64, pixels of each class; the legend lists the largest classes. None for no legend.

    Raises:
        InvalidInput: the frame has another size than the class map, or alpha is not 0-1.
    """
    if frame.shape[:2] != semantic.shape:
        raise InvalidInput(
            "frame to draw on", expected=f"size {semantic.shape}", got=f"size {frame.shape[:2]}"
        )
    if not 0 <= alpha <= 1:
        raise InvalidInput("alpha", expected="0 to 1", got=alpha)
    image = color_map(semantic, classes)
    cv2.addWeighted(frame, 1 - alpha, image, alpha, 0, dst=image)
    # Best last, so that it is on top.
    for i in reversed(range(len(instances))):
        _draw_instance(image, instances, i, _bgr(classes, int(instances.labels[i])))
    taken = [] if legend is None else _draw_legend(image, legend, classes)
    if labels:
        _draw_labels(image, instances, classes, taken)
    return image


def _draw_instance(image: NDArray[np.uint8], instances: Instances, i: int, color: _Bgr) -> None:
    """Tint the instance and outline it: its color inside a dark rim, visible on any background."""
    mask, x, y = instances.crop(i)
    if not mask.any():
        return
    part = image[y : y + mask.shape[0], x : x + mask.shape[1]]
    plane = np.empty_like(part)
    plane[0] = _light(color)
    plane[1:] = plane[0]  # by rows: NumPy takes long to repeat three bytes
    tint = cv2.addWeighted(part, 0.75, plane, 0.25, 0, dst=plane)
    cv2.copyTo(tint, mask.view(np.uint8), part)
    outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    # Fewer corners, by at most a pixel: every stroke of a thick smooth line costs.
    outlines = [cv2.approxPolyDP(outline, 1.0, True) for outline in outlines]
    width = _line_width(image)
    for rim, line in ((_dark(color), width + 2), (_light(color), width)):
        cv2.drawContours(image, outlines, -1, rim, line, cv2.LINE_AA, offset=(x, y))


def _draw_labels(
    image: NDArray[np.uint8], instances: Instances, classes: ClassTable, taken: list[_Rect]
) -> None:
    """Label every instance, best first; a label that would cover a taken rectangle is left out."""
    scale, thickness = _text_style(image)
    taken, names = list(taken), drawn_names(classes)
    for i in range(len(instances)):
        color = _bgr(classes, int(instances.labels[i]))
        text = f"{names[int(instances.labels[i])]} {instances.scores[i]:.2f}"
        (tw, th), base = cv2.getTextSize(text, _FONT, scale, thickness)
        pad = max(4, th // 2)
        w, h = tw + 2 * pad, th + base + max(2, th // 3)
        rect = _label_position(image, instances.boxes, i, w, h, taken)
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


def _draw_legend(image: NDArray[np.uint8], counts: NDArray[np.int64], classes: ClassTable) -> list[_Rect]:
    """List the classes of at least 0.5 % of the pixels on a darkened panel; returns its rectangle, if any."""
    height, width = image.shape[:2]
    fraction = counts / (height * width)
    shown = [int(k) for k in np.argsort(-fraction, kind="stable") if fraction[k] >= 0.005]
    scale, thickness = _text_style(image)
    names = drawn_names(classes)
    sizes = [cv2.getTextSize(names[k], _FONT, scale, thickness)[0] for k in shown]
    th = max((size[1] for size in sizes), default=1)
    row = round(th * 1.9)
    rows = min(len(shown), (height - 3 * th) // row)  # only the largest, if the image is too low for all
    if rows < 1:
        return []
    w, h = max(size[0] for size in sizes[:rows]) + 4 * th, row * rows + th
    panel = image[height - h - th : height - th, th : th + w]
    panel[...] = panel // 3
    for i, k in enumerate(shown[:rows]):
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


def _bgr(classes: ClassTable, label: int) -> _Bgr:
    r, g, b = classes.palette[label]
    return (b, g, r)


def _light(color: _Bgr) -> _Bgr:
    b, g, r = (round(v + (255 - v) * 0.55) for v in color)
    return (b, g, r)


def _dark(color: _Bgr) -> _Bgr:
    b, g, r = (round(v * 0.35) for v in color)
    return (b, g, r)


def _text_color(color: _Bgr) -> _Bgr:
    """Black or white, whichever reads better on the color (luma, ITU-R BT.601)."""
    b, g, r = color
    return (0, 0, 0) if 0.114 * b + 0.587 * g + 0.299 * r > 140 else (255, 255, 255)

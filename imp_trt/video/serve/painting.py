"""Pictures for viewers: only what somebody watches is drawn, and once for all who watch the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import OutputError
from imp_trt.results.drawing import class_colors, color_map
from imp_trt.results.result import SegmentationResult
from imp_trt.video.serve.latest import Shown
from imp_trt.video.sinks import Segmented

LAYERS = ("classes", "instances", "canvas", "disagreement")
MAX_SIDE = 1920
"""Longer side, in pixels, of what is sent."""

DRAWN_SIDE = 1280
"""Frames of at most half of this, in their longer side, are enlarged up to it before anything is drawn."""

_QUALITY = 85
_KEPT = 16
_PATIENCE_S = 5.0
_DIMMED = 0.45


@dataclass(frozen=True)
class View:
    """What one viewer wants to see over the picture.

    Attributes:
        layers: some of LAYERS; none is the picture alone.
        alpha: weight of the class colors, 0-1; None for the run's own.
    """

    layers: frozenset[str]
    alpha: float | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> View:
        """From ``layers=classes,canvas&alpha=40``; ValueError if it says anything else."""
        names = query.get("layers", "classes,instances")
        layers = frozenset(name for name in names.split(",") if name)
        if not layers <= set(LAYERS):
            raise ValueError(f"layers: some of {', '.join(LAYERS)}")
        if "alpha" not in query or "classes" not in layers:
            return cls(layers)
        percent = int(query["alpha"])
        if not 0 <= percent <= 100:
            raise ValueError("alpha: 0 to 100")
        # In steps, so that many viewers share few pictures.
        return cls(layers, round(percent, -1) / 100)


class Painter:
    """Paints one picture at a time: however many watch, the network loses one core at most."""

    def __init__(self) -> None:
        self._busy = Lock()
        self._painted: OrderedDict[tuple[int, View], bytes] = OrderedDict()

    def jpeg(self, shown: Shown, view: View) -> bytes:
        """The picture as somebody wants to see it.

        Raises:
            OutputError: too many views are waiting to be painted.
        """
        if not self._busy.acquire(timeout=_PATIENCE_S):
            raise OutputError("too many different views are being watched")
        try:
            key = (shown.sequence, view)
            if key not in self._painted:
                # So that names and outlines are sharp where a small picture fills a screen.
                item = enlarged(shown.item) if "instances" in view.layers else shown.item
                self._painted[key] = encoded(fitted(paint(item, view)))
                while len(self._painted) > _KEPT:
                    self._painted.popitem(last=False)
            return self._painted[key]
        finally:
            self._busy.release()


def paint(item: Segmented, view: View) -> NDArray[np.uint8]:
    """[h, w, 3] uint8 BGR; may be the frame itself or a picture that others share: not to be changed."""
    frame, result, draw = item.frame.image, item.result, item.draw
    alpha = draw.alpha if view.alpha is None else view.alpha
    if view.layers == {"classes", "instances"} and alpha == draw.alpha:
        return item.overlay  # which a video sink may have drawn already
    picture = frame
    if "classes" in view.layers:
        colors = color_map(result.semantic, result.classes)
        picture = np.asarray(cv2.addWeighted(frame, 1 - alpha, colors, alpha, 0), np.uint8)
    if "canvas" in view.layers:
        picture = with_canvas(picture, result)
    if "disagreement" in view.layers:
        picture = with_disagreement(picture, result)
    if "instances" in view.layers:
        picture = result.plot(picture, alpha=0.0, min_score=draw.min_score, labels=draw.labels)
    return picture


def with_canvas(picture: NDArray[np.uint8], result: SegmentationResult) -> NDArray[np.uint8]:
    """A picture [h, w, 3] under the IMP canvas: dimmed, and lit up in their classes' colors by instances."""
    canvas = result.canvas()
    if not len(canvas):
        return np.asarray(cv2.convertScaleAbs(picture, alpha=_DIMMED), np.uint8)
    things = np.asarray(result.classes.things)
    strength = canvas.max(axis=0)
    colors = class_colors(result.classes)[things[canvas.argmax(axis=0)]]
    # Half way to white: many palettes have cars in a blue that no dark ground shows.
    light = (127.5 + colors * 0.5) * strength[..., None]
    size = (picture.shape[1], picture.shape[0])
    light = cv2.resize(light.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)
    dark = cv2.resize((255 * _DIMMED * (1 - 0.6 * strength)).astype(np.uint8), size)
    ground = cv2.multiply(picture, cv2.merge([dark] * 3), scale=1 / 255)
    return np.asarray(cv2.addWeighted(ground, 1.0, light, 0.75, 0), np.uint8)


def with_disagreement(picture: NDArray[np.uint8], result: SegmentationResult) -> NDArray[np.uint8]:
    """A picture [h, w, 3], dimmed, that glows where class map and instances contradict each other.

    The colors are those of the legend in page.css: black at 0, red at a half, where agreement ends, and
    pale yellow at 1.
    """
    heat = cv2.applyColorMap(cv2.convertScaleAbs(result.disagreement, alpha=255), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.addWeighted(picture, _DIMMED, heat, 0.9, 0), np.uint8)


def enlarged(item: Segmented) -> Segmented:
    """A small frame and its result at two, three or four times the size; one that is not small as it is."""
    result, (h, w) = item.result, item.frame.image.shape[:2]
    factor = min(4, DRAWN_SIDE // max(h, w))
    if factor < 2:
        return item
    size = (w * factor, h * factor)
    found = result.instances
    mask_boxes = found.boxes if found.mask_boxes is None else found.mask_boxes
    instances = replace(found, boxes=found.boxes * factor, mask_boxes=mask_boxes * factor, size=size[::-1])
    semantic = np.asarray(cv2.resize(result.semantic, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    image = np.asarray(cv2.resize(item.frame.image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return replace(
        item,
        frame=replace(item.frame, image=image),
        result=SegmentationResult(semantic, instances, result.classes),
    )


def fitted(picture: NDArray[np.uint8], max_side: int = MAX_SIDE) -> NDArray[np.uint8]:
    """The picture, made smaller if its longer side has more than max_side pixels."""
    scale = max_side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    h, w = (max(1, round(side * scale)) for side in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA), np.uint8)


def encoded(picture: NDArray[np.uint8]) -> bytes:
    """A picture as a JPEG file; OutputError if OpenCV cannot make one."""
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise OutputError("picture for the browser", expected="a size that JPEG has", got=picture.shape[:2])
    return bytes(data)

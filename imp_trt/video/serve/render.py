# SPDX-License-Identifier: Apache-2.0
"""Rendering of frames for viewers: on request, and once for all viewers with the same settings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.native_calls import native_call
from imp_trt.errors import OutputError
from imp_trt.results.drawing import class_colors, color_map
from imp_trt.results.result import SegmentationResult
from imp_trt.video.serve.frame_store import StoredFrame
from imp_trt.video.sinks import SegmentedFrame

LAYERS = ("classes", "instances", "canvas", "disagreement")
MAX_SIDE = 1920
"""Maximum longer side of the sent images in pixels."""

DRAWN_SIDE = 1280
"""Frames whose longer side is at most half of this are upscaled towards it before drawing."""

_QUALITY = 85
_CACHE_SIZE = 16
_TIMEOUT_S = 5.0
_BACKGROUND_BRIGHTNESS = 0.45


@dataclass(frozen=True)
class View:
    """Display settings of one viewer.

    Attributes:
        layers: subset of LAYERS; empty for the plain frame.
        alpha: weight of the class colors, 0-1; None for that of the run.
    """

    layers: frozenset[str]
    alpha: float | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> View:
        """Parse ``layers=classes,canvas&alpha=40``; ValueError if it is invalid."""
        names = query.get("layers", "classes,instances")
        layers = frozenset(name for name in names.split(",") if name)
        if not layers <= set(LAYERS):
            raise ValueError(f"layers must be among {', '.join(LAYERS)}")
        if "alpha" not in query or "classes" not in layers:
            return cls(layers)
        percent = int(query["alpha"])
        if not 0 <= percent <= 100:
            raise ValueError("alpha must be between 0 and 100")
        # Rounded to steps of 10, so that viewers share rendered images.
        return cls(layers, round(percent, -1) / 100)


class Renderer:
    """Renders one image at a time, so that viewers take at most one core from the network."""

    def __init__(self) -> None:
        self._busy = Lock()
        self._rendered: OrderedDict[tuple[int, View], bytes] = OrderedDict()

    def jpeg(self, shown: StoredFrame, view: View) -> bytes:
        """Return the frame as JPEG, rendered with the settings of a viewer.

        Raises:
            OutputError: too many views are waiting to be rendered.
        """
        if not self._busy.acquire(timeout=_TIMEOUT_S):
            raise OutputError("too many different views are open")
        try:
            key = (shown.sequence, view)
            if key not in self._rendered:
                # Upscaled before drawing, so that labels and contours of small frames are sharp.
                item = upscale(shown.item) if "instances" in view.layers else shown.item
                self._rendered[key] = encode_jpeg(limit_size(render(item, view)))
                while len(self._rendered) > _CACHE_SIZE:
                    self._rendered.popitem(last=False)
            return self._rendered[key]
        finally:
            self._busy.release()


def render(item: SegmentedFrame, view: View) -> NDArray[np.uint8]:
    """Return [h, w, 3] uint8 BGR. It may be the frame itself or a shared overlay; do not modify it."""
    frame, result, draw = item.frame.image, item.result, item.draw
    alpha = draw.opacity if view.alpha is None else view.alpha
    if view.layers == {"classes", "instances"} and alpha == draw.opacity:
        return item.overlay  # a video sink may have drawn it already
    image = frame
    if "classes" in view.layers:
        colors = color_map(result.semantic, result.classes)
        with native_call():
            image = np.asarray(cv2.addWeighted(frame, 1 - alpha, colors, alpha, 0), np.uint8)
    if "canvas" in view.layers:
        image = blend_canvas(image, result)
    if "disagreement" in view.layers:
        image = blend_disagreement(image, result)
    if "instances" in view.layers:
        image = result.plot(image, alpha=0.0, min_score=draw.min_score, labels=draw.labels)
    return image


def blend_canvas(image: NDArray[np.uint8], result: SegmentationResult) -> NDArray[np.uint8]:
    """Blend the IMP canvas into a darkened image [h, w, 3] uint8 BGR, in the colors of the classes."""
    canvas = result.canvas()  # [T, ch, cw] float32, scores
    if not len(canvas):
        with native_call():
            return np.asarray(cv2.convertScaleAbs(image, alpha=_BACKGROUND_BRIGHTNESS), np.uint8)
    things = np.asarray(result.classes.things)
    scores = canvas.max(axis=0)  # [ch, cw]
    colors = class_colors(result.classes)[things[canvas.argmax(axis=0)]]
    # Mixed with white: dark blue, a common color of cars, is invisible on a dark background.
    foreground = (127.5 + colors * 0.5) * scores[..., None]
    size = (image.shape[1], image.shape[0])
    with native_call():
        foreground = cv2.resize(foreground.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)
        brightness = cv2.resize((255 * _BACKGROUND_BRIGHTNESS * (1 - 0.6 * scores)).astype(np.uint8), size)
        background = cv2.multiply(image, cv2.merge([brightness] * 3), scale=1 / 255)
        return np.asarray(cv2.addWeighted(background, 1.0, foreground, 0.75, 0), np.uint8)


def blend_disagreement(image: NDArray[np.uint8], result: SegmentationResult) -> NDArray[np.uint8]:
    """Blend a heat map of the disagreement of class map and instances into a darkened image [h, w, 3].

    The colors match the legend in page.css: black at 0, red at 0.5, the limit of agreement, and pale yellow
    at 1.
    """
    disagreement = result.disagreement
    with native_call():
        heat = cv2.applyColorMap(cv2.convertScaleAbs(disagreement, alpha=255), cv2.COLORMAP_INFERNO)
        return np.asarray(cv2.addWeighted(image, _BACKGROUND_BRIGHTNESS, heat, 0.9, 0), np.uint8)


def upscale(item: SegmentedFrame) -> SegmentedFrame:
    """Scale a small frame and its result by 2, 3 or 4; larger frames are returned unchanged."""
    result, (h, w) = item.result, item.frame.image.shape[:2]
    factor = min(4, DRAWN_SIDE // max(h, w))
    if factor < 2:
        return item
    size = (w * factor, h * factor)
    small = result.instances
    mask_boxes = small.boxes if small.mask_boxes is None else small.mask_boxes
    instances = replace(small, boxes=small.boxes * factor, mask_boxes=mask_boxes * factor, size=size[::-1])
    semantic = result.semantic
    with native_call():
        semantic = np.asarray(cv2.resize(semantic, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        image = np.asarray(cv2.resize(item.frame.image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return replace(
        item,
        frame=replace(item.frame, image=image),
        result=SegmentationResult(semantic, instances, result.classes),
    )


@native_call()
def limit_size(image: NDArray[np.uint8], max_side: int = MAX_SIDE) -> NDArray[np.uint8]:
    """Downscale an image [h, w, 3] whose longer side exceeds max_side pixels."""
    scale = max_side / max(image.shape[:2])
    if scale >= 1:
        return image
    h, w = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA), np.uint8)


@native_call()
def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode an image [h, w, 3] uint8 BGR as JPEG; OutputError if OpenCV fails."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise OutputError("image for the browser", expected="a size that JPEG supports", got=image.shape[:2])
    return bytes(data)

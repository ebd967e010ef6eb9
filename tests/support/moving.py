# SPDX-License-Identifier: Apache-2.0
"""Videos of textured squares with exact motion, and a backend that finds the squares by their red."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import InputContract, Manifest
from imp_trt.backends.canvas import CanvasShape
from imp_trt.backends.decoding import HostOutputs
from imp_trt.segmenter import Segmenter
from tests.support import tiny

HEIGHT, WIDTH, STRIDE = 128, 192, 4
CAR, PERSON = 2, 3
DETECTED_MS, CARRIED_MS = 100.0, 40.0

Square = tuple[float, float, int, int]
"""x and y of its top left corner, side, and class."""


class Clock:
    """Seconds; advanced by the backend."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def texture(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[np.uint8]:
    """[h, w] smooth noise of full contrast."""
    noise = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.asarray(smooth * 200, np.uint8)


def picture(
    squares: Sequence[Square] = (), scene: int = 0, shift: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> NDArray[np.uint8]:
    """A frame [h, w, 3]: background in blue and green, moved by shift; red is 250 on cars, 240 on people."""
    background = np.roll(texture(scene, size), shift, axis=1)
    frame = np.dstack([background, background, np.minimum(background, 180)])
    for x, y, side, label in squares:
        left, top = round(x), round(y)
        inside = texture(90 + label)[:side, :side]
        rows, columns = slice(max(top, 0), max(top + side, 0)), slice(max(left, 0), max(left + side, 0))
        part = frame[rows, columns]
        inside = inside[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]]
        part[..., 0], part[..., 1] = inside, 255 - inside
        part[..., 2] = 250 if label == CAR else 240
    return frame


class SquareBackend:
    """Finds the squares of :func:`picture` exactly; from a canvas on, it returns what the canvas shows.

    Attributes:
        calls: "whole" and "canvas", one for each call.
    """

    def __init__(self, clock: Clock | None = None, batch: int = 1) -> None:
        self.clock = clock
        self.calls: list[str] = []
        self.manifest: Manifest = tiny.manifest(
            batch, input=InputContract(height=HEIGHT, width=WIDTH, batch=batch), detections=8, mask_size=4
        )

    def infer(self, frames: NDArray[np.uint8]) -> HostOutputs:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        self._spend("whole", DETECTED_MS)
        batch = len(frames)
        outputs: HostOutputs = {
            "semantic": np.zeros((batch, HEIGHT, WIDTH), np.uint8),
            "boxes": np.zeros((batch, 8, 4), np.float32),
            "scores": np.zeros((batch, 8), np.float32),
            "labels": np.zeros((batch, 8), np.int32),
            "masks": np.ones((batch, 8, 4, 4), np.float32),
            "num_detections": np.zeros(batch, np.int32),
        }
        for b, frame in enumerate(frames):
            found = 0
            for label, low, high in ((CAR, 246, 256), (PERSON, 232, 246)):
                # In 16 bits: NumPy 2.1 crashes with Python 3.13 where uint8 is compared with 256.
                red = frame[..., 2].astype(np.int16)
                mask = ((red >= low) & (red < high)).astype(np.uint8)
                outputs["semantic"][b][mask > 0] = label
                count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
                for x, y, w, h, area in stats[1:count]:
                    if area < 30 or found == 8:
                        continue
                    outputs["boxes"][b, found] = x, y, x + w, y + h
                    outputs["scores"][b, found] = 0.95 - 0.05 * found
                    outputs["labels"][b, found] = label
                    found += 1
            outputs["num_detections"][b] = found
        return outputs

    def open_canvas(self) -> CanvasShape:
        """See :meth:`imp_trt.backends.CanvasBackend.open_canvas`."""
        return self.manifest.input.batch, 2, HEIGHT // STRIDE, WIDTH // STRIDE

    def infer_canvas(self, frames: NDArray[np.uint8], canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See :meth:`imp_trt.backends.CanvasBackend.infer_canvas`."""
        self._spend("canvas", CARRIED_MS)
        large = canvas.repeat(STRIDE, 2).repeat(STRIDE, 3)
        best = large.argmax(1) + CAR
        return np.asarray(np.where(large.max(1) > 0.3, best, 0), np.uint8)

    def close(self) -> None:
        """Nothing to release."""

    def _spend(self, call: str, milliseconds: float) -> None:
        self.calls.append(call)
        if self.clock is not None:
            self.clock.now += milliseconds / 1e3


def segmenter_of(backend: SquareBackend) -> Segmenter:
    """A Segmenter on the backend."""
    from imp_trt.backends.runners import HostRunner
    from imp_trt.data.native_calls import CallLock

    segmenter = Segmenter.__new__(Segmenter)
    segmenter._runner, segmenter._temporal = HostRunner(backend), None
    segmenter._manifest, segmenter._min_score, segmenter._lock = backend.manifest, 0.0, CallLock()
    return segmenter

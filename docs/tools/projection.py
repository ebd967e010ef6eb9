# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/projection.svg: what the operator does, with values that it computes.

python docs/tools/projection.py
"""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.ops import instance_mask_projection_numpy

OUTPUT = Path(__file__).resolve().parents[1] / "images" / "projection.svg"
SIZE = (120, 200)  # of the canvas
NAMES = ("car", "person")
COLORS = ("#1976d2", "#c62828")
BOXES = np.array([[14, 52, 112, 108], [84, 62, 176, 112], [150, 18, 186, 102]], np.float32)
SCORES = np.array([0.9, 0.6, 0.8], np.float32)
LABELS = np.array([0, 0, 1])


def masks() -> NDArray[np.float32]:
    """Soft 28x28 masks: two cars and a person."""
    y, x = (np.mgrid[0:28, 0:28] + 0.5) / 28

    def soft(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(distance * 40))

    body = soft(np.maximum(np.abs(x - 0.5) - 0.46, np.abs(y - 0.62) - 0.24))
    roof = soft(np.maximum(np.abs(x - 0.5) - (0.12 + 0.28 * y), np.abs(y - 0.25) - 0.2))
    wheels = np.maximum(soft(np.hypot(x - 0.22, y - 0.85) - 0.11), soft(np.hypot(x - 0.78, y - 0.85) - 0.11))
    car = np.maximum.reduce([body, roof, wheels])
    head = soft(np.hypot((x - 0.5) * 0.6, y - 0.12) - 0.1)
    trunk = soft(np.hypot((x - 0.5) / 0.36, (y - 0.42) / 0.26) - 1)
    legs = soft(np.maximum(np.abs(np.abs(x - 0.5) - 0.16) - 0.11, np.abs(y - 0.78) - 0.22))
    return np.stack([car, car, np.maximum.reduce([head, trunk, legs])]).astype(np.float32)


def picture(values: NDArray[np.float32], color: str, x: float, y: float, width: float, height: float) -> str:
    """An <image> of values 0 to 1, from white to color."""
    full = np.array([int(color[i : i + 2], 16) for i in (5, 3, 1)], np.float32)  # BGR
    pixels = 255 + (full - 255) * values[..., None]
    png = base64.b64encode(cv2.imencode(".png", pixels.round().astype(np.uint8))[1].tobytes()).decode()
    return (
        f'<image x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{png}"/>'
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="none" stroke="#888"/>'
    )


def text(
    words: str, x: float, y: float, *, bold: bool = False, middle: bool = False, fill: str = "#222"
) -> str:
    weight, anchor = "bold" if bold else "normal", "middle" if middle else "start"
    return f'<text x="{x}" y="{y}" font-weight="{weight}" text-anchor="{anchor}" fill="{fill}">{words}</text>'


def arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    return (
        f'<path d="M{x0} {y0} L{x1} {y1}" stroke="#555" stroke-width="1.6" fill="none" marker-end="url(#a)"/>'
    )


def main() -> None:
    """Write the image."""
    shapes = masks()
    canvas = instance_mask_projection_numpy(
        BOXES[None], SCORES[None], LABELS[None], shapes[None], num_classes=2, canvas_size=SIZE
    )[0]
    parts = [
        text("Detections", 20, 26, bold=True),
        text("Canvas: one plane per class of things", 310, 26, bold=True),
        text("Semantic head", 640, 26, bold=True),
    ]
    for n, (score, label) in enumerate(zip(SCORES, LABELS, strict=True)):
        top = 44 + n * 100
        parts += [
            picture(shapes[n], "#444444", 20, top, 74, 74),
            text("28x28 mask", 20, top + 90),
            text(NAMES[label], 106, top + 22, bold=True, fill=COLORS[label]),
            text(f"score {score:.1f}", 106, top + 42),
            text("box " + ", ".join(f"{v:.0f}" for v in BOXES[n]), 106, top + 62),
            arrow(236, top + 36, 298, 110 if label == 0 else 260),
        ]
    for plane, name in enumerate(NAMES):
        top = 44 + plane * 152
        parts += [
            picture(canvas[plane], COLORS[plane], 310, top, 216, 130),
            text(name, 318, top + 18, bold=True, fill=COLORS[plane]),
            arrow(534, top + 65, 626, 150 if plane == 0 else 210),
        ]
    parts += [
        text("score x mask, resized into its box;", 310, 348),
        text("where two overlap, the larger value", 310, 366),
        '<rect x="640" y="60" width="76" height="54" fill="#e8e8e8" stroke="#888"/>',
        text("features", 678, 84, middle=True),
        text("C x H x W", 678, 102, middle=True),
        '<rect x="640" y="118" width="76" height="24" fill="#dbe9f8" stroke="#888"/>',
        text("canvas", 678, 135, middle=True),
        text("concatenated", 640, 166),
        arrow(678, 176, 678, 206),
        '<rect x="632" y="212" width="92" height="40" rx="5" fill="#e0f2f1" stroke="#00796b"/>',
        text("convolutions", 678, 237, middle=True),
        arrow(678, 256, 678, 286),
        text("a class for", 678, 306, middle=True),
        text("every pixel", 678, 324, middle=True),
    ]
    parts = [part.replace('626 150"', '626 130"') for part in parts]
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 744 384" font-family="sans-serif" '
        'font-size="14"><defs>'
        '<marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>'
        '<rect width="744" height="384" fill="#ffffff"/>' + "\n".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    main()

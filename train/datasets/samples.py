# SPDX-License-Identifier: Apache-2.0
"""Labeled images side by side in one image: class colors over the image, instances outlined and named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.data.files import write_atomically
from imp_trt.data.images import encode_image
from imp_trt.data.instance_maps import instance_table
from imp_trt.results.drawing import color_map
from imp_trt.results.image_grid import make_grid

WIDTH = 480
"""Width of each image in the sheet, pixels."""


def write_samples(path: Path, samples: list[Sample], classes: ClassTable) -> Path:
    """Write a PNG of samples, each the image and its labels drawn over it; two in a row if their sizes agree.

    Args:
        path: file to write; replaced if it exists.
        samples: one or more.
        classes: names and colors.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = [[image, drawn_labels(image, sample, classes)] for image, sample in map(_scaled, samples)]
    titles = ["image", "labels"]
    if len(rows) % 2 == 0 and len({len(image) for image, _ in rows}) == 1:
        rows, titles = [[*a, *b] for a, b in zip(rows[::2], rows[1::2], strict=True)], titles * 2
    return write_atomically(path, encode_image(make_grid(rows, titles, classes), ".png"))


def drawn_labels(image: NDArray[np.uint8], sample: Sample, classes: ClassTable) -> NDArray[np.uint8]:
    """The image [h, w, 3] uint8 BGR with the labels of a sample of the same size drawn over it."""
    drawn = cv2.addWeighted(image, 0.4, color_map(sample.semantic, classes), 0.6, 0)
    drawn[sample.semantic == IGNORE_INDEX] //= 3
    boxes, _, numbers = instance_table(sample)
    for box, number in zip(boxes.astype(int).tolist(), numbers, strict=True):
        left, top, right, bottom = box
        mask = (sample.instances[top:bottom, left:right] == number).view(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(drawn, outlines, -1, (255, 255, 255), 1, cv2.LINE_AA, offset=(left, top))
    return np.asarray(drawn, np.uint8)


def _scaled(sample: Sample) -> tuple[NDArray[np.uint8], Sample]:
    height, width = sample.size
    size = (WIDTH, min(4 * WIDTH, max(1, round(height * WIDTH / width))))
    shrinks = width > WIDTH
    image = cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    semantic, instances = (
        cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST)
        for plane in (sample.semantic, sample.instances)
    )
    pixels = np.asarray(image, np.uint8)
    return pixels, Sample(pixels, np.asarray(semantic, np.uint8), np.asarray(instances, np.int32))

# SPDX-License-Identifier: Apache-2.0
"""Street scenes as a dataset, and as a video of a moving camera."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Sample, checked_index
from imp_trt.errors import InvalidInput
from imp_trt.synthetic import backdrop
from imp_trt.synthetic.draw import SUPERSAMPLE, Camera, Canvas
from imp_trt.synthetic.layout import Street
from imp_trt.synthetic.palette import SCENE_CLASSES
from imp_trt.synthetic.props import Prop

MIN_AREA = 30
"""Things with fewer visible pixels keep their class but are not instances."""

_SMALLEST = 32


class StreetScenes:
    """Independent street scenes; scene i depends only on the seed and i.

    Args:
        seed: any non-negative integer.
        size: height and width in pixels, at least 32 each.
        length: number of scenes.

    Raises:
        InvalidInput: an argument is out of range.
    """

    def __init__(self, seed: int, size: tuple[int, int] = (256, 512), length: int = 1000) -> None:
        _check(seed, size)
        if length < 1:
            raise InvalidInput("number of scenes", expected="at least 1", got=length)
        self.seed = seed
        self.size = size
        self._length = length

    @property
    def name(self) -> str:
        return f"scenes/{self.seed}"

    @property
    def classes(self) -> ClassTable:
        return SCENE_CLASSES

    @property
    def terms(self) -> str | None:
        return None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        key = (self.seed, 1, checked_index(index, self._length))
        rng = np.random.default_rng([*key, 99])
        street = Street(key, busy=float(rng.uniform(0.8, 1.3)))
        height, width = self.size
        camera = Camera(
            height,
            width,
            focal=max(height, width) * float(rng.uniform(0.72, 1.05)),
            horizon=height * float(rng.uniform(0.36, 0.5)),
            position=(
                float(rng.uniform(-0.7, 0.7)),
                float(rng.uniform(1.3, 1.9)),
                float(rng.uniform(0, 400)),
            ),
            yaw=float(rng.normal(0, 0.06)),
        )
        return render(street, camera, time=float(rng.uniform(0, 200)), rng=rng)


def street_video(
    seed: int, frames: int, size: tuple[int, int] = (256, 512), fps: float = 15.0
) -> Iterator[Sample]:
    """A drive along one street, frame by frame; instance numbers are not consistent between frames.

    Args:
        seed: any non-negative integer; the same seed gives the same video.
        frames: number of frames.
        size: height and width in pixels, at least 32 each.
        fps: frames per second, which determines the motion between frames.

    Raises:
        InvalidInput: an argument is out of range.
    """
    _check(seed, size)
    if frames < 1 or not 0 < fps < math.inf:
        raise InvalidInput("video", expected="frames >= 1 and fps > 0", got=f"{frames} frames, {fps} fps")
    return _drive(seed, frames, size, fps)


def _drive(seed: int, frames: int, size: tuple[int, int], fps: float) -> Iterator[Sample]:
    street = Street((seed, 2, 0), headway=20.0)  # a bus directly ahead would occlude the street
    height, width = size
    start = float(np.random.default_rng([seed, 2, 1]).uniform(0, 400))
    for frame in range(frames):
        time = frame / fps
        bump = 0.6 * math.sin(2.3 * time) + 0.4 * math.sin(5.1 * time + 1)
        camera = Camera(
            height,
            width,
            focal=0.85 * max(height, width),
            horizon=height * (0.42 + 0.004 * bump),
            position=(0.25 * math.sin(0.4 * time), 1.6 + 0.015 * bump, start + 7.5 * time),
            yaw=0.012 * math.sin(0.5 * time + 0.7),
        )
        yield render(street, camera, time, np.random.default_rng([seed, 2, 2, frame]), steady=True)


def render(
    street: Street, camera: Camera, time: float, rng: np.random.Generator, steady: bool = False
) -> Sample:
    """Render one image of a street with its labels.

    Args:
        street: street to render.
        camera: camera of the image.
        time: time in seconds of all moving objects.
        rng: random generator of the sensor noise and, unless steady, of tone and sharpness.
        steady: same tone for all images, as in a video.

    Returns:
        image, semantic and instances of the camera's size; instances are visible parts, numbered
        from far to near without gaps.
    """
    canvas = Canvas(camera.height, camera.width)
    props = _far_to_near(street.props(camera.position[2], time), camera)
    backdrop.paint_sky(canvas, camera, street, time)
    backdrop.paint_ground(canvas, camera, street, props)
    backdrop.paint_skyline(canvas, camera, street)
    count = len(SCENE_CLASSES)
    labels = np.arange(
        count + len(props), dtype=np.int64
    )  # numbers below count are classes without instances
    things = np.zeros(count + len(props), bool)
    tint = street.light.horizon
    for number, prop in enumerate(props, count):
        labels[number] = prop.label
        things[number] = prop.label in SCENE_CLASSES.things
        x0, z0, x1, _ = prop.box
        away = math.hypot((x0 + x1) / 2 - camera.position[0], max(z0 - camera.position[2], 0.0))
        share = 0.9 * (1 - math.exp(-street.light.haze * away))
        for mesh in prop.meshes:
            canvas.mesh(mesh, camera, number, (share, tint))
    image = _developed(canvas, rng, steady)
    numbers = canvas.numbers[1::SUPERSAMPLE, 1::SUPERSAMPLE]
    areas = np.bincount(numbers.ravel(), minlength=len(labels))
    kept = things & (areas >= MIN_AREA)
    instance = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return Sample(image, labels.astype(np.uint8)[numbers], instance[numbers])


def _far_to_near(props: list[Prop], camera: Camera) -> list[Prop]:
    """Painter's order: props behind another across a plane along or across the street come first."""
    boxes = np.array([p.box for p in props]).reshape(-1, 4) - np.tile(np.array(camera.position)[[0, 2]], 2)
    x0, z0, x1, z1 = boxes.T
    nearest = np.hypot(np.maximum(np.maximum(x0, -x1), 0), np.maximum(z0, 0))
    order = np.lexsort((np.arange(len(props)), -nearest))
    x0, z0, x1, z1 = boxes[order].T
    # behind[i, j]: i must be rendered before j.
    apart = z0[:, None] >= z1[None, :]
    overlap = ~apart & ~apart.T
    farther = ((x0[:, None] >= x1[None, :]) & (x1[None, :] > 0)) | (
        (x1[:, None] <= x0[None, :]) & (x0[None, :] < 0)
    )
    behind = apart | (overlap & farther)
    np.fill_diagonal(behind, False)
    waiting = behind.sum(axis=0)
    left = np.ones(len(props), bool)
    result: list[Prop] = []
    for _ in range(len(props)):
        free = np.flatnonzero(left & (waiting == 0))
        # A cycle is broken at its farthest member.
        pick = int(free[0]) if free.size else int(np.flatnonzero(left)[0])
        left[pick] = False
        waiting -= behind[pick]
        result.append(props[int(order[pick])])
    return result


def _developed(canvas: Canvas, rng: np.random.Generator, steady: bool) -> NDArray[np.uint8]:
    """Downsample the canvas and add tone, vignette and sensor noise."""
    height, width = canvas.image.shape[0] // SUPERSAMPLE, canvas.image.shape[1] // SUPERSAMPLE
    image = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA)
    gamma, gain, sigma, soft = (1.0, 1.0, 1.4, 0.0) if steady else (
        float(rng.uniform(0.88, 1.14)), float(rng.uniform(0.9, 1.08)),
        float(rng.uniform(0.5, 4.0)), float(rng.uniform(-0.6, 0.7)),
    )  # fmt: skip
    if soft > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), soft)
    curve = np.clip(255 * gain * (np.arange(256) / 255) ** gamma, 0, 255)
    image = cv2.LUT(image, curve.astype(np.uint8))
    image = cv2.multiply(image, _vignette(height, width), scale=1 / 255)
    noise = _noise_bank()
    top, left = (int(v) for v in rng.integers(0, noise.shape[0] // 2, 2))
    repeats = (math.ceil(height / (noise.shape[0] // 2)), math.ceil(width / (noise.shape[1] // 2)), 1)
    patch = np.tile(noise[top:, left:][: noise.shape[0] // 2, : noise.shape[1] // 2], repeats)[
        :height, :width
    ]
    return np.asarray(cv2.addWeighted(image, 1.0, patch, sigma / 32, 0.0, dtype=cv2.CV_8U), np.uint8)


@lru_cache(maxsize=1)
def _noise_bank() -> NDArray[np.int16]:
    return np.rint(np.random.default_rng(5).normal(0, 32, (1024, 1024, 3))).astype(np.int16)


@lru_cache(maxsize=4)
def _vignette(height: int, width: int) -> NDArray[np.uint8]:
    y = (np.arange(height)[:, None] / height - 0.5) * 2
    x = (np.arange(width)[None, :] / width - 0.5) * 2
    falloff = 255 * (1 - 0.09 * (x * x + y * y))
    return np.repeat(falloff[..., None], 3, axis=2).astype(np.uint8)


def _check(seed: int, size: tuple[int, int]) -> None:
    if seed < 0:
        raise InvalidInput("seed", expected="0 or more", got=seed)
    if len(size) != 2 or min(size) < _SMALLEST:
        raise InvalidInput("scene size", expected=f"height and width of at least {_SMALLEST}", got=size)

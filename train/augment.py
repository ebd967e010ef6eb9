# SPDX-License-Identifier: Apache-2.0
"""Random crops with color jitter, and letterboxing; the random numbers are arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX
from imp_trt.data.dataset import Sample
from imp_trt.data.instance_maps import renumbered
from imp_trt.errors import InvalidInput

PAD_VALUE = 114
"""Gray value of padding, the same as in the input contract of an exported model."""

RANDOM_NUMBERS = 8
"""Random numbers per crop: scale, top, left, horizontal flip, brightness, contrast, saturation, hue."""

_LUMA_BGR = (0.114, 0.587, 0.299)


@dataclass(frozen=True)
class ColorJitter:
    """Strengths of the color jitter; 0 disables a part.

    Attributes:
        brightness, contrast, saturation: the factor is drawn from [1 - strength, 1 + strength].
        hue: the hue shift is drawn from [-hue, hue]; 0.5 is half a turn of the color circle.

    Raises:
        InvalidInput: a strength is outside [0, 1], or hue outside [0, 0.5].
    """

    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.03

    def __post_init__(self) -> None:
        for name, value, limit in (
            ("brightness", self.brightness, 1.0),
            ("contrast", self.contrast, 1.0),
            ("saturation", self.saturation, 1.0),
            ("hue", self.hue, 0.5),
        ):
            if not 0 <= value <= limit:
                raise InvalidInput(f"color jitter {name}", expected=f"0 to {limit}", got=value)


def random_crop(
    sample: Sample,
    uniform: NDArray[np.float64],
    crop_hw: tuple[int, int] | None,
    scale_range: tuple[float, float] = (0.75, 1.5),
    *,
    short_sides: Sequence[int] = (),
    max_long: int | None = None,
    flip: bool = True,
    color: ColorJitter | None = None,
    min_area: int = 16,
) -> Sample:
    """A random crop of a sample at a random scale, with random horizontal flip and color jitter.

    Only the cropped part of the sample is resized. The result has no crowd map: training does not
    use it.

    Args:
        sample: the sample; not changed.
        uniform: [RANDOM_NUMBERS] float64 random numbers in [0, 1). Each number has one use, so two
            runs that differ in one setting see the same crops.
        crop_hw: height and width of the result; a smaller scaled sample is padded on the right and at
            the bottom (gray 114, semantic 255, no instance). None takes the whole sample.
        scale_range: bounds of the scale, which is drawn log-uniformly.
        short_sides: if given, the shorter side is resized to one of these instead.
        max_long: with short_sides, maximum of the resized longer side.
        flip: flip horizontally with probability 1/2.
        color: strengths of the color jitter; None disables it.
        min_area: instances with fewer pixels in the crop are removed.

    Returns:
        A sample of size crop_hw with instances renumbered 1, 2, ... in the same order.

    Raises:
        InvalidInput: a crop side is below 1, or the scale range is not positive and ascending.
    """
    if uniform.shape != (RANDOM_NUMBERS,):
        raise InvalidInput("uniform", expected=[RANDOM_NUMBERS], got=list(uniform.shape))
    full_h, full_w = sample.size
    scale = _random_scale(float(uniform[0]), sample.size, scale_range, short_sides, max_long)
    scaled = max(1, round(full_h * scale)), max(1, round(full_w * scale))
    height, width = scaled if crop_hw is None else _checked_size(crop_hw)
    # The window of the source that the crop covers, in whole source pixels.
    source_h = full_h if crop_hw is None else min(full_h, max(1, round(height / scale)))
    source_w = full_w if crop_hw is None else min(full_w, max(1, round(width / scale)))
    top = int(uniform[1] * (full_h - source_h + 1))
    left = int(uniform[2] * (full_w - source_w + 1))
    window = np.s_[top : top + source_h, left : left + source_w]
    image = sample.image[window]
    if color is not None:
        image = _jitter_colors(image, color, uniform[4:8])  # before padding, which stays gray
    part = Sample(image, sample.semantic[window], sample.instances[window])
    resized_h = min(height, max(1, round(source_h * scale)))
    resized_w = min(width, max(1, round(source_w * scale)))
    # A window smaller than the sample fills the crop despite rounding; only the sample's border is padded.
    resized = (height if source_h < full_h else resized_h, width if source_w < full_w else resized_w)
    crop = _resize_and_pad(part, resized, (height, width))
    return _flip_and_renumber(crop, flip and bool(uniform[3] < 0.5), min_area)


def mirrored_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Classes that differ in left and right alone, such as "left shoe" and "right shoe"; also "L" and "R".

    A mirrored image shows the one where its labels have the other.
    """
    known = {name.lower(): name for name in names}
    pairs = []
    for name in names:
        low = name.lower()
        others = (low.replace("left", "right"), re.sub(r"(?<![a-z])l(?![a-z])", "r", low))
        other = next((known[o] for o in others if o != low and o in known and len(low) > 1), None)
        if other is not None:
            pairs.append((name, other))
    return pairs


def _flip_and_renumber(sample: Sample, flip: bool, min_area: int) -> Sample:
    image, semantic, instances = sample.image, sample.semantic, sample.instances
    if flip:
        image, semantic, instances = image[:, ::-1], semantic[:, ::-1], instances[:, ::-1]
    return Sample(
        np.ascontiguousarray(image),
        np.ascontiguousarray(semantic),
        renumbered(np.ascontiguousarray(instances), min_area),
    )


def _random_scale(
    uniform: float,
    size: tuple[int, int],
    scale_range: tuple[float, float],
    short_sides: Sequence[int],
    max_long: int | None,
) -> float:
    if short_sides:
        scale = short_sides[int(uniform * len(short_sides))] / min(size)
        return min(scale, max_long / max(size)) if max_long is not None else scale
    low, high = scale_range
    if not 0 < low <= high < math.inf:
        raise InvalidInput("scale range", expected="0 < low <= high", got=scale_range)
    return float(low * (high / low) ** uniform)


def pad_sample(sample: Sample, hw: tuple[int, int]) -> Sample:
    """Pad on the right and at the bottom to (height, width) with gray 114, semantic 255, no instance."""
    return _resize_and_pad(sample, sample.size, hw)


def letterbox_sample(sample: Sample, hw: tuple[int, int]) -> Sample:
    """Letterbox a sample to another size with the rule of the runtime.

    The scale is min(H / h, W / w), which keeps the aspect ratio; the image is at the top left and padded on
    the right and at the bottom with gray 114, semantic 255, no instance. Instances keep their numbers.

    Raises:
        InvalidInput: a side is below 1.
    """
    height, width = _checked_size(hw)
    full_h, full_w = sample.size
    if height * full_w <= width * full_h:
        resized = (height, _scaled(full_w, height, full_h))
    else:
        resized = (_scaled(full_h, width, full_w), width)
    return _resize_and_pad(sample, resized, (height, width))


def resize_sample(sample: Sample, hw: tuple[int, int]) -> Sample:
    """Resize to (height, width): the image by area or bilinearly, labels by nearest pixel center."""
    height, width = _checked_size(hw)
    full_h, full_w = sample.size
    if (height, width) == (full_h, full_w):
        return sample
    downscales = height <= full_h and width <= full_w
    image = cv2.resize(
        sample.image, (width, height), interpolation=cv2.INTER_AREA if downscales else cv2.INTER_LINEAR
    )
    # cv2.INTER_NEAREST samples pixel corners, not centers: labels would shift relative to the image.
    rows = ((2 * np.arange(height, dtype=np.intp) + 1) * full_h // (2 * height))[:, None]
    columns = ((2 * np.arange(width, dtype=np.intp) + 1) * full_w // (2 * width))[None, :]
    return Sample(
        np.asarray(image, np.uint8), sample.semantic[rows, columns], sample.instances[rows, columns]
    )


def _resize_and_pad(sample: Sample, resized: tuple[int, int], hw: tuple[int, int]) -> Sample:
    """Resize to ``resized`` and pad on the right and at the bottom to ``hw``."""
    part = resize_sample(sample, resized)
    if resized == hw:
        return part
    image = np.full((*hw, 3), PAD_VALUE, np.uint8)
    semantic = np.full(hw, IGNORE_INDEX, np.uint8)
    instances = np.zeros(hw, np.int32)
    window = np.s_[: resized[0], : resized[1]]
    image[window], semantic[window], instances[window] = part.image, part.semantic, part.instances
    return Sample(image, semantic, instances)


def _jitter_colors(
    image: NDArray[np.uint8], jitter: ColorJitter, uniform: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Hue, saturation, contrast (about the mean gray) and brightness as one affine map of colors.

    Args:
        image: [H, W, 3] uint8 BGR.
        jitter: strengths.
        uniform: [4] float64 in [0, 1): brightness, contrast, saturation, hue.
    """
    signed = 2 * uniform - 1
    brightness = 1 + jitter.brightness * signed[0]
    contrast = 1 + jitter.contrast * signed[1]
    saturation = 1 + jitter.saturation * signed[2]
    angle = 2 * math.pi * jitter.hue * signed[3]
    gray = np.tile(np.asarray(_LUMA_BGR), (3, 1))
    # Rotation about the gray axis (1, 1, 1) by Rodrigues' formula: gray stays gray.
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rotation = math.cos(angle) * np.eye(3) + (1 - math.cos(angle)) * axis + math.sin(angle) * cross
    colors = (saturation * np.eye(3) + (1 - saturation) * gray) @ rotation
    pivot = float(np.dot(cv2.mean(np.ascontiguousarray(image))[:3], _LUMA_BGR))
    matrix = np.empty((3, 4))  # [R | t] of cv2.transform
    matrix[:, :3] = brightness * contrast * colors
    matrix[:, 3] = brightness * (1 - contrast) * pivot
    # cv2.transform rounds and saturates to uint8.
    return np.asarray(cv2.transform(np.ascontiguousarray(image), matrix), np.uint8)


def _scaled(side: int, numerator: int, denominator: int) -> int:
    """side * numerator / denominator, at least 1, rounded half up as in the runtime's letterbox."""
    return max(1, (2 * side * numerator + denominator) // (2 * denominator))


def _checked_size(hw: tuple[int, int]) -> tuple[int, int]:
    height, width = hw
    if height < 1 or width < 1:
        raise InvalidInput("size", expected="height and width of at least 1", got=hw)
    return int(height), int(width)

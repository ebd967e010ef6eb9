"""Random crops with colour jitter, and letterboxing; all chance comes in as numbers."""

from __future__ import annotations

import math
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
"""Gray level of padding, the same as in the input contract of an exported model."""

CHANCES = 8
"""Random numbers of a crop: scale, top, left, mirroring, brightness, contrast, saturation, hue."""

_LUMA_BGR = (0.114, 0.587, 0.299)


@dataclass(frozen=True)
class ColorJitter:
    """Strengths of the colour jitter; 0 switches a part off.

    Attributes:
        brightness, contrast, saturation: the factor is drawn from [1 - strength, 1 + strength].
        hue: the turn of the colour circle is drawn from [-hue, hue]; 0.5 is half a turn.

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
                raise InvalidInput(f"colour jitter {name}", expected=f"0 to {limit}", got=value)


def random_crop(
    sample: Sample,
    chance: NDArray[np.float64],
    crop_hw: tuple[int, int] | None,
    scale_range: tuple[float, float] = (0.75, 1.5),
    *,
    short_sides: Sequence[int] = (),
    max_long: int | None = None,
    flip: bool = True,
    colour: ColorJitter | None = None,
    min_area: int = 16,
) -> Sample:
    """A random part of a sample at a random scale, maybe mirrored, with jittered colors.

    Only the part of the sample that is seen is resized. Crowds are not told from other pixels of
    their class any more: in training nothing asks.

    Args:
        sample: the sample; not changed.
        chance: [CHANCES] float64 in [0, 1), all the chance there is. Each number has one use, so two
            runs that differ in one switch see the same crops.
        crop_hw: height and width of the result; where the scaled sample is smaller it is padded on
            the right and at the bottom (gray 114, semantic 255, no instance). None takes all of it.
        scale_range: bounds of the scale, drawn uniformly in its logarithm.
        short_sides: where given, the shorter side is scaled to one of these instead.
        max_long: with short_sides, the most that the longer side is scaled to.
        flip: mirror left and right with probability 1/2.
        colour: strengths of the colour jitter; None leaves colors alone.
        min_area: what is left of an instance counts as an instance from this many pixels on.

    Returns:
        A sample of size crop_hw with instances numbered 1, 2, ... in their old order.

    Raises:
        InvalidInput: a crop side is below 1, or the scale range is not positive and ascending.
    """
    if chance.shape != (CHANCES,):
        raise InvalidInput("chance", expected=[CHANCES], got=list(chance.shape))
    full_h, full_w = sample.size
    scale = _drawn_scale(float(chance[0]), sample.size, scale_range, short_sides, max_long)
    if crop_hw is None:
        height, width = max(1, round(full_h * scale)), max(1, round(full_w * scale))
        source_h, source_w = full_h, full_w
    else:
        height, width = _checked_size(crop_hw)
        # The window of the source that the crop shows, in whole source pixels.
        source_h = min(full_h, max(1, round(height / scale)))
        source_w = min(full_w, max(1, round(width / scale)))
    top = int(chance[1] * (full_h - source_h + 1))
    left = int(chance[2] * (full_w - source_w + 1))
    window = np.s_[top : top + source_h, left : left + source_w]
    image = sample.image[window]
    if colour is not None:
        image = _jittered(image, colour, chance[4:8])  # before padding, which keeps its gray
    part = Sample(image, sample.semantic[window], sample.instances[window])
    shown = (min(height, max(1, round(source_h * scale))), min(width, max(1, round(source_w * scale))))
    # A window cut by nothing but rounding fills the crop; one cut by the sample's border is padded.
    shown = (height if source_h < full_h else shown[0], width if source_w < full_w else shown[1])
    placed = _placed(part, shown, (height, width))
    return _finished(placed, flip and bool(chance[3] < 0.5), min_area)


def _finished(sample: Sample, mirrored: bool, min_area: int) -> Sample:
    image, semantic, instances = sample.image, sample.semantic, sample.instances
    if mirrored:
        image, semantic, instances = image[:, ::-1], semantic[:, ::-1], instances[:, ::-1]
    return Sample(
        np.ascontiguousarray(image),
        np.ascontiguousarray(semantic),
        renumbered(np.ascontiguousarray(instances), min_area),
    )


def _drawn_scale(
    chance: float,
    size: tuple[int, int],
    scale_range: tuple[float, float],
    short_sides: Sequence[int],
    max_long: int | None,
) -> float:
    if short_sides:
        scale = short_sides[int(chance * len(short_sides))] / min(size)
        return min(scale, max_long / max(size)) if max_long is not None else scale
    low, high = scale_range
    if not 0 < low <= high < math.inf:
        raise InvalidInput("scale range", expected="0 < low <= high", got=scale_range)
    return float(low * (high / low) ** chance)


def padded(sample: Sample, hw: tuple[int, int]) -> Sample:
    """The sample at the top left of a size that holds it; gray 114, semantic 255, no instance around."""
    return _placed(sample, sample.size, hw)


def letterbox_sample(sample: Sample, hw: tuple[int, int]) -> Sample:
    """A sample fitted into another size without distortion, by the rule of the runtime.

    The scale is min(H / h, W / w); the image lies at the top left and is padded on the right and at
    the bottom with gray 114, semantic 255, no instance. The result's instances keep their numbers.

    Raises:
        InvalidInput: a side is below 1.
    """
    height, width = _checked_size(hw)
    full_h, full_w = sample.size
    if height * full_w <= width * full_h:
        shown = (height, _scaled(full_w, height, full_h))
    else:
        shown = (_scaled(full_h, width, full_w), width)
    return _placed(sample, shown, (height, width))


def resized_sample(sample: Sample, hw: tuple[int, int]) -> Sample:
    """A sample stretched to another size: image linear or by area, labels by nearest pixel center."""
    height, width = _checked_size(hw)
    full_h, full_w = sample.size
    if (height, width) == (full_h, full_w):
        return sample
    shrinks = height <= full_h and width <= full_w
    image = cv2.resize(
        sample.image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    # cv2.INTER_NEAREST takes the pixel's corner, not its center: labels would shift against the image.
    rows = ((2 * np.arange(height, dtype=np.intp) + 1) * full_h // (2 * height))[:, None]
    columns = ((2 * np.arange(width, dtype=np.intp) + 1) * full_w // (2 * width))[None, :]
    return Sample(
        np.asarray(image, np.uint8), sample.semantic[rows, columns], sample.instances[rows, columns]
    )


def _placed(sample: Sample, shown: tuple[int, int], hw: tuple[int, int]) -> Sample:
    """The sample resized to ``shown`` at the top left of a padded ``hw``."""
    part = resized_sample(sample, shown)
    if shown == hw:
        return part
    image = np.full((*hw, 3), PAD_VALUE, np.uint8)
    semantic = np.full(hw, IGNORE_INDEX, np.uint8)
    instances = np.zeros(hw, np.int32)
    window = np.s_[: shown[0], : shown[1]]
    image[window], semantic[window], instances[window] = part.image, part.semantic, part.instances
    return Sample(image, semantic, instances)


def _jittered(
    image: NDArray[np.uint8], colour: ColorJitter, chance: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Hue, saturation, contrast (about the mean gray) and brightness as one affine map of the colors."""
    signed = 2 * chance - 1
    brightness = 1 + colour.brightness * signed[0]
    contrast = 1 + colour.contrast * signed[1]
    saturation = 1 + colour.saturation * signed[2]
    turn = 2 * math.pi * colour.hue * signed[3]
    gray = np.tile(np.asarray(_LUMA_BGR), (3, 1))
    # Rotation about the gray axis (1, 1, 1) by Rodrigues' formula: gray stays gray.
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rotation = math.cos(turn) * np.eye(3) + (1 - math.cos(turn)) * axis + math.sin(turn) * cross
    colors = (saturation * np.eye(3) + (1 - saturation) * gray) @ rotation
    pivot = float(np.dot(cv2.mean(np.ascontiguousarray(image))[:3], _LUMA_BGR))
    matrix = np.empty((3, 4))
    matrix[:, :3] = brightness * contrast * colors
    matrix[:, 3] = brightness * (1 - contrast) * pivot
    # cv2.transform rounds and saturates to uint8.
    return np.asarray(cv2.transform(np.ascontiguousarray(image), matrix), np.uint8)


def _scaled(side: int, numerator: int, denominator: int) -> int:
    """side * numerator / denominator, at least 1; rounded half up as the letterbox does."""
    return max(1, (2 * side * numerator + denominator) // (2 * denominator))


def _checked_size(hw: tuple[int, int]) -> tuple[int, int]:
    height, width = hw
    if height < 1 or width < 1:
        raise InvalidInput("size", expected="height and width of at least 1", got=hw)
    return int(height), int(width)

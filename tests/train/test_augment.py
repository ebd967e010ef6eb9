# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imp_trt.artifacts.manifest import InputContract
from imp_trt.data.dataset import Sample
from imp_trt.errors import InvalidInput
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.train.augment import (
    RANDOM_NUMBERS,
    ColorJitter,
    letterbox_sample,
    mirrored_pairs,
    pad_sample,
    random_crop,
    resize_sample,
)
from imp_trt.train.batches import draw_batch
from tests.train.boxes import CLASSES, RECIPE, Boxes


def _chance(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(RANDOM_NUMBERS)


def _sample(height: int = 60, width: int = 80) -> Sample:
    """Gray levels, classes and instances that all change at the same edges."""
    semantic = np.zeros((height, width), np.uint8)
    semantic[height // 4 : height // 2, width // 4 : width // 2] = 1
    semantic[height // 2 :, width // 2 :] = 2
    instances = np.where(semantic > 0, 3 * semantic.astype(np.int32), 0).astype(np.int32)
    image = np.repeat((semantic * 80 + 40)[..., None], 3, axis=2)
    return Sample(image, semantic, instances)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    crop=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    scale=st.floats(0.2, 4),
    flip=st.booleans(),
)
def test_crops_have_the_size_asked_for_and_consistent_labels(seed, size, crop, scale, flip) -> None:
    sample = _sample(*size)
    actual = random_crop(sample, _chance(seed), crop, (scale * 0.7, scale), flip=flip, color=ColorJitter())
    assert actual.size == crop
    assert set(np.unique(actual.semantic)) <= {0, 1, 2, 255}
    ids = np.unique(actual.instances[actual.instances > 0])
    assert ids.tolist() == list(range(1, len(ids) + 1))
    for number in ids.tolist():
        assert len(np.unique(actual.semantic[actual.instances == number])) == 1
    padding = actual.semantic == 255
    assert (actual.image[padding] == 114).all()
    assert (actual.instances[padding] == 0).all()


def test_labels_stay_on_the_image() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        actual = random_crop(_sample(), rng.random(RANDOM_NUMBERS), (40, 48), (0.5, 2.0))
        expected = actual.semantic.astype(int) * 80 + 40
        shown = actual.semantic != 255
        # At an edge interpolation mixes the two sides, but never more than half of the other one
        # (two edges meet at corners).
        wrong = np.abs(actual.image[..., 0].astype(int) - expected)[shown] > 81
        assert wrong.sum() <= 4


def test_the_numbers_decide_everything() -> None:
    sample = _sample()
    before = sample.image.copy()
    first = random_crop(sample, _chance(5), (32, 32), color=ColorJitter())
    again = random_crop(sample, _chance(5), (32, 32), color=ColorJitter())
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.instances, again.instances)
    plain = random_crop(sample, _chance(5), (32, 32))
    assert np.array_equal(first.semantic, plain.semantic)
    assert not np.array_equal(first.image, plain.image)
    assert np.array_equal(sample.image, before)


def test_flip_mirrors_about_half_of_the_crops() -> None:
    sample = _sample(32, 32)
    flipped = 0
    for seed in range(60):
        actual = random_crop(sample, _chance(seed), (32, 32), (1.0, 1.0))
        mirrored = np.array_equal(actual.semantic, sample.semantic[:, ::-1])
        assert mirrored or np.array_equal(actual.semantic, sample.semantic)
        flipped += mirrored
    assert 15 < flipped < 45


def test_crops_reach_every_border() -> None:
    semantic = np.zeros((30, 40), np.uint8)
    semantic[0, 0], semantic[29, 39], semantic[0, 39], semantic[29, 0] = 1, 2, 3, 4
    sample = Sample(np.zeros((30, 40, 3), np.uint8), semantic, np.zeros((30, 40), np.int32))
    rng = np.random.default_rng(0)
    seen: set[int] = set()
    for _ in range(3000):
        seen |= set(
            np.unique(random_crop(sample, rng.random(RANDOM_NUMBERS), (20, 20), (1.0, 1.0)).semantic).tolist()
        )
    assert seen == {0, 1, 2, 3, 4}


def test_color_jitter_keeps_gray_gray_and_is_off_at_zero() -> None:
    sample = _sample()
    none = ColorJitter(0, 0, 0, 0)
    same = random_crop(sample, _chance(1), (60, 80), (1.0, 1.0), flip=False, color=none)
    assert np.array_equal(same.image, sample.image)
    only_hue = ColorJitter(0, 0, 1.0, 0.5)
    gray = random_crop(sample, _chance(1), (60, 80), (1.0, 1.0), flip=False, color=only_hue)
    assert np.abs(gray.image.astype(int) - sample.image).max() <= 1


@pytest.mark.parametrize(("hw", "shown"), [((32, 80), (32, 43)), ((120, 80), (60, 80)), ((60, 80), (60, 80))])
def test_letterbox_lies_at_the_top_left(hw, shown) -> None:
    actual = letterbox_sample(_sample(), hw)
    assert actual.size == hw
    visible = actual.semantic != 255
    assert visible[: shown[0], : shown[1]].all()
    assert visible.sum() == shown[0] * shown[1]
    assert (actual.image[~visible] == 114).all()
    assert set(np.unique(actual.instances)) == {0, 3, 6}


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    hw=st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
def test_letterbox_is_the_runtime_s(size, hw) -> None:
    sample = _sample(*size)
    fit = LetterboxTransform.of(
        size, InputContract(height=hw[0], width=hw[1], fit="letterbox", pad_value=114)
    )
    assert np.array_equal(letterbox_sample(sample, hw).image, fit.apply(sample.image))


def test_doubling_repeats_label_pixels() -> None:
    sample = _sample(6, 8)
    actual = resize_sample(sample, (12, 16))
    assert np.array_equal(actual.semantic, np.kron(sample.semantic, np.ones((2, 2), np.uint8)))


def test_wrong_arguments_are_rejected() -> None:
    for crop, scales in (((0, 5), (1, 1)), ((5, 5), (0, 1)), ((5, 5), (2, 1)), ((5, 5), (1, float("inf")))):
        with pytest.raises(InvalidInput, match="expected"):
            random_crop(_sample(), _chance(0), crop, scales)
    with pytest.raises(InvalidInput, match="uniform"):
        random_crop(_sample(), np.zeros(3), (5, 5))
    with pytest.raises(InvalidInput, match="hue"):
        ColorJitter(hue=0.7)
    with pytest.raises(InvalidInput, match="size"):
        letterbox_sample(_sample(), (0, 4))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(2, 90), st.integers(2, 90)),
    sides=st.lists(st.integers(8, 80), min_size=1, max_size=3),
    longest=st.one_of(st.none(), st.integers(20, 90)),
)
def test_whole_images_have_one_of_the_short_sides(seed, size, sides, longest) -> None:
    actual = random_crop(_sample(*size), _chance(seed), None, short_sides=sides, max_long=longest)
    assert not (actual.semantic == 255).any()
    short, long = min(actual.size), max(actual.size)
    if longest is None or any(s / min(size) * max(size) <= longest for s in sides):
        assert longest is None or long <= longest
    if short not in sides:
        assert longest is not None
        assert long == longest
    # One scale, of which both sides are rounded.
    low = max((side - 0.5) / whole for side, whole in ((short, min(size)), (long, max(size))))
    high = min((side + 0.5) / whole for side, whole in ((short, min(size)), (long, max(size))))
    assert low <= high + 1e-9


def test_every_short_side_comes_up_equally_often() -> None:
    sides = [random_crop(_sample(), _chance(s), None, short_sides=(20, 30, 40)).size[0] for s in range(300)]
    assert all(70 < sides.count(side) < 130 for side in (20, 30, 40))
    cropped = [random_crop(_sample(), _chance(s), (32, 32), short_sides=(16,)) for s in range(5)]
    assert all(crop.size == (32, 32) and (crop.semantic[16:] == 255).all() for crop in cropped)


def test_a_larger_image_is_padded_on_the_right_and_below() -> None:
    sample = _sample(6, 8)
    actual = pad_sample(sample, (32, 32))
    assert actual.size == (32, 32)
    assert np.array_equal(actual.image[:6, :8], sample.image)
    assert (actual.semantic[6:] == 255).all()
    assert (actual.image[:, 8:] == 114).all()


def test_crowds_are_dropped() -> None:
    sample = _sample()
    crowd = sample.semantic == 2
    lone = Sample(
        sample.image,
        sample.semantic,
        np.where(crowd, 0, sample.instances).astype(np.int32),
        crowd.astype(np.uint16),
    )
    actual = random_crop(lone, _chance(0), (60, 80), (1.0, 1.0), flip=False)
    assert actual.crowd is None
    assert np.array_equal(actual.semantic, sample.semantic)
    assert np.unique(actual.instances).tolist() == [0, 1]


@pytest.mark.parametrize("flip", [True, False])
def test_the_recipe_decides_whether_crops_are_flipped(flip):
    """The left part of a person is the right part of a mirrored one."""
    plan = replace(RECIPE, batch=8, crop=(64, 64), scale=(1.0, 1.0), color=0.0, flip=flip)
    frames = draw_batch(Gradient(), CLASSES, plan, (0, 1, 0)).frames.numpy().astype(int)
    grows = [bool(frame[0, 20, 0] > frame[0, 10, 0]) for frame in frames]
    assert all(grows) != flip


class Gradient(Boxes):
    """Images that get brighter to the right."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        row = np.arange(sample.size[1], dtype=np.uint8)
        return replace(sample, image=np.ascontiguousarray(np.broadcast_to(row[:, None], sample.image.shape)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("left shoe", "shoe", "Right Shoe"), [("left shoe", "Right Shoe")]),
        (("armLeft", "armRight"), [("armLeft", "armRight")]),
        (("leg_right", "leg_left"), [("leg_left", "leg_right")]),
        (("hand L", "hand R", "L-foot", "R-foot"), [("hand L", "hand R"), ("L-foot", "R-foot")]),
        (("left lane", "right of way", "leftover", "rightover"), [("leftover", "rightover")]),
        (("l", "R", "rail", "curl"), []),
    ],
)
def test_classes_that_a_mirrored_image_would_swap(names, expected):
    assert mirrored_pairs(names) == expected

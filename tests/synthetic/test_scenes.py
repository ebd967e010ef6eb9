# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from imp_trt.data.dataset import Dataset, Sample
from imp_trt.errors import InvalidInput
from imp_trt.synthetic import SCENE_CLASSES, StreetScenes, street_video
from imp_trt.synthetic.street import MIN_AREA

HORIZON = 110


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    data = StreetScenes(seed=11, length=60)
    return [data[k] for k in range(60)]


def test_scenes_are_a_dataset() -> None:
    data = StreetScenes(seed=0, size=(64, 96), length=3)
    assert isinstance(data, Dataset)
    assert len(data) == 3
    assert len(list(data)) == 3
    assert data[0].size == (64, 96)
    assert data.classes is SCENE_CLASSES
    assert data.terms is None


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    first, second = StreetScenes(5, (96, 128), 20), StreetScenes(5, (96, 128), 9)
    late, early = first[7], first[2]
    assert np.array_equal(second[2].image, early.image)
    assert np.array_equal(second[-2].image, late.image)
    assert np.array_equal(second[7].instances, late.instances)
    assert not np.array_equal(early.image, late.image)
    assert not np.array_equal(StreetScenes(6, (96, 128), 20)[7].image, late.image)


@pytest.mark.slow
def test_labels_are_consistent(scenes: list[Sample]) -> None:
    for sample in scenes:
        numbers = np.unique(sample.instances)
        assert numbers.tolist() == list(range(len(numbers)))
        assert sample.semantic.max() < len(SCENE_CLASSES)
        for number in numbers[1:].tolist():
            classes = np.unique(sample.semantic[sample.instances == number])
            assert len(classes) == 1
            assert int(classes[0]) in SCENE_CLASSES.things
            assert (sample.instances == number).sum() >= MIN_AREA


@pytest.mark.slow
def test_every_class_occurs_and_things_overlap(scenes: list[Sample]) -> None:
    pixels = sum(np.bincount(s.semantic.ravel(), minlength=len(SCENE_CLASSES)) for s in scenes)
    assert (pixels / pixels.sum() > 0.002).all()
    present = [len(np.intersect1d(np.unique(s.semantic), SCENE_CLASSES.things)) for s in scenes]
    assert np.mean(present) > 4
    touching = 0
    for sample in scenes:
        left, right = sample.instances[:, :-1], sample.instances[:, 1:]
        touching += bool(((left > 0) & (right > 0) & (left != right)).any())
    assert touching > len(scenes) * 0.9


@pytest.mark.slow
def test_image_edges_lie_on_label_edges(scenes: list[Sample]) -> None:
    """Where the class changes the image changes much more than elsewhere."""
    across, within = [], []
    for sample in scenes[:20]:
        gray = cv2.cvtColor(sample.image, cv2.COLOR_BGR2GRAY).astype(int)
        step = np.abs(gray[:, 2:] - gray[:, :-2])[:, 1:-1]
        here = sample.semantic[:, 1:-1]
        edge = (here[:, 1:-1] != here[:, 2:]) | (here[:, 1:-1] != here[:, :-2])
        across.append(step[edge].mean())
        within.append(step[~edge].mean())
    assert np.mean(across) > 4 * np.mean(within)


def test_things_shrink_towards_the_horizon(scenes: list[Sample]) -> None:
    car = SCENE_CLASSES.names.index("car")
    feet, heights = [], []
    for sample in scenes:
        for number in np.unique(sample.instances[sample.semantic == car]).tolist():
            ys, xs = np.nonzero(sample.instances == number)
            if number and xs.min() > 0 and xs.max() < 511 and ys.max() < 255:
                feet.append(ys.max())
                heights.append(ys.max() - ys.min())
    assert np.corrcoef(feet, heights)[0, 1] > 0.7


def _patches_and_shapes(scenes: list[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """[N, 7] mean and deviation of 9x9 patches inside things and their class; [M, 68] shapes and class."""
    rng = np.random.default_rng(0)
    patches, shapes = [], []
    for sample in scenes:
        pixels = sample.image.astype(np.float32)
        mean = cv2.blur(pixels, (9, 9))
        deviation = np.sqrt(np.maximum(cv2.blur(pixels * pixels, (9, 9)) - mean * mean, 0))
        for number in range(1, int(sample.instances.max()) + 1):
            mask = (sample.instances == number).astype(np.uint8)
            ys, xs = np.nonzero(mask)
            label = sample.semantic[ys[0], xs[0]]
            inner = np.argwhere(cv2.erode(mask, np.ones((9, 9), np.uint8), borderValue=0))
            for y, x in rng.permutation(inner)[:6]:
                patches.append([*mean[y, x], *deviation[y, x], label])
            top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
            whole = top > 0 and left > 0 and bottom < mask.shape[0] and right < mask.shape[1]
            if whole and len(ys) >= 120:
                high, wide = bottom - top, right - left
                outline = cv2.resize(mask[top:bottom, left:right] * 255, (8, 8), interpolation=cv2.INTER_AREA)
                scale = [2 * np.log(high / wide), 2 * np.log(high / max(bottom - HORIZON, 4))]
                shapes.append([*(outline.ravel() / 510), *scale, len(ys) / (high * wide), label])
    return np.array(patches), np.array(shapes)


def _neighbors_accuracy(train: np.ndarray, test: np.ndarray, count: int) -> float:
    """Class-balanced accuracy of a nearest-neighbor vote; the last column is the class."""
    rng = np.random.default_rng(1)
    picks = [rng.choice(np.flatnonzero(train[:, -1] == c), 150) for c in SCENE_CLASSES.things]
    train = train[np.concatenate(picks)]
    distance = ((train[None, :, :-1] - test[:, None, :-1]) ** 2).sum(-1)
    nearest = train[np.argpartition(distance, count, axis=1)[:, :count], -1]
    votes = np.stack([(nearest == c).sum(1) for c in SCENE_CLASSES.things], axis=1)
    right = np.array(SCENE_CLASSES.things)[votes.argmax(1)] == test[:, -1]
    return float(np.mean([right[test[:, -1] == c].mean() for c in SCENE_CLASSES.things]))


@pytest.mark.slow
def test_shape_tells_the_class_of_a_thing_and_a_local_patch_does_not(scenes: list[Sample]) -> None:
    patches, shapes = _patches_and_shapes(scenes[0::2])
    other_patches, other_shapes = _patches_and_shapes(scenes[1::2])
    local = _neighbors_accuracy(patches, other_patches[::3], 15)
    outline = _neighbors_accuracy(shapes, other_shapes, 3)
    assert local < 0.36  # chance is 1/6
    assert outline > 0.6


def test_video_moves_smoothly_and_repeats() -> None:
    frames = list(street_video(3, 12, size=(128, 256)))
    agreement = [(a.semantic == b.semantic).mean() for a, b in pairwise(frames)]
    assert min(agreement) > 0.85
    assert (frames[0].semantic == frames[-1].semantic).mean() < min(agreement)
    again = next(iter(street_video(3, 1, size=(128, 256))))
    assert np.array_equal(again.image, frames[0].image)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StreetScenes(-1),
        lambda: StreetScenes(0, size=(16, 512)),
        lambda: StreetScenes(0, length=0),
        lambda: street_video(-1, 3),
        lambda: street_video(0, 0),
        lambda: street_video(0, 3, fps=0),
    ],
)
def test_wrong_arguments_are_rejected_at_once(make) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        make()

# SPDX-License-Identifier: Apache-2.0
"""Batches of a stage: the crops of a step depend only on (seed, stage, step)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Dataset
from imp_trt.data.memory import check_memory
from imp_trt.errors import UsageError
from imp_trt.train.augment import RANDOM_NUMBERS, ColorJitter, pad_sample, random_crop
from imp_trt.train.config import Recipe
from imp_trt.train.distributed import part_of
from imp_trt.train.targets import Batch, make_batch

_BYTES_PER_PIXEL = 19  # image, class and instance of a sample; image and class of the batch


def class_weights(dataset: Dataset) -> Tensor:
    """Class weights [K] float32: 1 / log(1.10 + frequency) (ENet, Paszke et al. 2016, with constant 1.10)."""
    counts = np.zeros(256, np.int64)
    step = max(1, len(dataset) // 200)
    for index in range(0, len(dataset), step):
        counts += np.bincount(dataset[index].semantic.ravel(), minlength=256)
    counts[IGNORE_INDEX] = 0
    frequency = counts[: len(dataset.classes)] / max(1, int(counts.sum()))
    return torch.from_numpy(1.0 / np.log(1.10 + frequency)).float()


def draw_batch(dataset: Dataset, classes: ClassTable, recipe: Recipe, seed: tuple[int, int, int]) -> Batch:
    """This process's crops of one step.

    Args:
        dataset: labeled images.
        classes: class table of the network.
        recipe: batch, crop, scales, flips, color jitter.
        seed: (seed, stage, step), the seed of all random numbers, so that the global batch does not depend
            on the number of processes.
    """
    rng = np.random.default_rng(seed)
    part = part_of(recipe.batch)
    indices = rng.integers(0, len(dataset), recipe.batch)[part]
    numbers = rng.random((recipe.batch, RANDOM_NUMBERS))[part]
    strength = recipe.color
    hue = strength / 10 if recipe.hue is None else recipe.hue
    samples = [
        random_crop(
            dataset[int(index)],
            uniform,
            recipe.crop,
            recipe.scale,
            short_sides=recipe.short_sides,
            max_long=recipe.max_long,
            flip=recipe.flip,
            color=ColorJitter(strength, strength, strength, hue),
            min_area=recipe.min_area,
        )
        for index, uniform in zip(indices, numbers, strict=True)
    ]
    if recipe.crop is None:
        # The coarsest backbone level has stride 32.
        height, width = (-(-max(s.size[axis] for s in samples) // 32) * 32 for axis in (0, 1))
        samples = [pad_sample(s, (height, width)) for s in samples]
    return make_batch(samples, classes)


def check_batch(dataset: Dataset, recipe: Recipe) -> None:
    """UsageError if the crops of a step alone, without any features, need more memory than is free."""
    height, width = recipe.crop or (side * recipe.scales(dataset[0].size)[1] for side in dataset[0].size)
    count = len(range(recipe.batch)[part_of(recipe.batch)])
    try:
        check_memory(round(count * height * width * _BYTES_PER_PIXEL), "the crops of a step")
    except OSError as error:
        raise UsageError(
            f"batches of {count:,} crops, {width:.0f}x{height:.0f}",
            expected="ones that fit into memory",
            got=error.strerror,
            fix="choose a smaller --batch-size, --set crop or --set scale",
        ) from error


def draw_ohem_ratio(recipe: Recipe, seed: tuple[int, int, int]) -> float | None:
    """Fraction of hard pixels of a step (online hard example mining); None for all pixels."""
    if not recipe.ohem_ratios:
        return None
    # The fourth number makes this draw independent of the crops.
    return float(np.random.default_rng((*seed, 1)).choice(recipe.ohem_ratios))


@contextmanager
def batch_stream(
    dataset: Dataset,
    classes: ClassTable,
    recipe: Recipe,
    seed: tuple[int, int],
    steps: range,
    workers: int = 1,
) -> Iterator[Iterator[Batch]]:
    """Batches of the steps in order; threads load the next ones during the current step.

    Args:
        dataset, classes, recipe: see :func:`draw_batch`.
        seed: (seed, stage).
        steps: step numbers.
        workers: number of threads; each loads whole batches, which do not depend on it.
    """
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="imp-batches")
    depth = workers + 1

    def load(step: int) -> Batch:
        return draw_batch(dataset, classes, recipe, (*seed, step))

    def stream() -> Iterator[Batch]:
        ahead: list[Future[Batch]] = [pool.submit(load, s) for s in steps[:depth]]
        for position in range(len(steps)):
            batch = ahead.pop(0).result()
            if position + depth < len(steps):
                ahead.append(pool.submit(load, steps[position + depth]))
            yield batch

    try:
        yield stream()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

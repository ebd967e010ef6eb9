"""The batches of a stage: which crops a step sees depends on (seed, stage, step) alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Dataset
from imp_trt.train.augment import CHANCES, ColorJitter, padded, random_crop
from imp_trt.train.distributed import part_of
from imp_trt.train.recipes import Recipe
from imp_trt.train.targets import Batch, make_batch


def class_weights(dataset: Dataset) -> Tensor:
    """[K] 1 / log(1.10 + frequency) of each class (ENet, Paszke et al. 2016, with its constant 1.10)."""
    counts = np.zeros(256, np.int64)
    step = max(1, len(dataset) // 200)
    for index in range(0, len(dataset), step):
        counts += np.bincount(dataset[index].semantic.ravel(), minlength=256)
    counts[IGNORE_INDEX] = 0
    frequency = counts[: len(dataset.classes)] / max(1, counts.sum())
    return torch.from_numpy(1.0 / np.log(1.10 + frequency)).float()


def draw_batch(dataset: Dataset, classes: ClassTable, recipe: Recipe, seed: tuple[int, int, int]) -> Batch:
    """This process's part of the crops of one step.

    Args:
        dataset: labeled pictures.
        classes: class table of the network.
        recipe: batch, crop, scales, colors.
        seed: (seed, stage, step); all that chance depends on, so that any number of processes sees
            the same global batch.
    """
    rng = np.random.default_rng(seed)
    part = part_of(recipe.batch)
    indices = rng.integers(0, len(dataset), recipe.batch)[part]
    chances = rng.random((recipe.batch, CHANCES))[part]
    strength = recipe.colour
    hue = strength / 10 if recipe.hue is None else recipe.hue
    samples = [
        random_crop(
            dataset[int(index)],
            chance,
            recipe.crop,
            recipe.scale,
            short_sides=recipe.short_sides,
            max_long=recipe.max_long,
            colour=ColorJitter(strength, strength, strength, hue),
            min_area=recipe.min_area,
        )
        for index, chance in zip(indices, chances, strict=True)
    ]
    if recipe.crop is None:
        # The coarsest pyramid level halves five times.
        height, width = (-(-max(s.size[axis] for s in samples) // 32) * 32 for axis in (0, 1))
        samples = [padded(s, (height, width)) for s in samples]
    return make_batch(samples, classes)


def hard_share(recipe: Recipe, seed: tuple[int, int, int]) -> float | None:
    """Share of the hardest pixels that a step learns from; None for all of them."""
    if not recipe.bootstrap:
        return None
    # A fourth number keeps this draw apart from the crops.
    return float(np.random.default_rng((*seed, 1)).choice(recipe.bootstrap))


@contextmanager
def batch_stream(
    dataset: Dataset,
    classes: ClassTable,
    recipe: Recipe,
    seed: tuple[int, int],
    steps: range,
    workers: int = 1,
) -> Iterator[Iterator[Batch]]:
    """Batches of the steps in order, the next ones made by threads while the current one trains.

    Args:
        dataset, classes, recipe: as of :func:`draw_batch`.
        seed: (seed, stage).
        steps: numbers of the steps.
        workers: threads, each of which makes a whole batch; the batches do not depend on their number.
    """
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="imp-batches")
    depth = workers + 1

    def make(step: int) -> Batch:
        return draw_batch(dataset, classes, recipe, (*seed, step))

    def stream() -> Iterator[Batch]:
        ahead: list[Future[Batch]] = [pool.submit(make, s) for s in steps[:depth]]
        for position in range(len(steps)):
            batch = ahead.pop(0).result()
            if position + depth < len(steps):
                ahead.append(pool.submit(make, steps[position + depth]))
            yield batch

    try:
        yield stream()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

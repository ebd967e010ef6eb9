"""The CUDA kernel of multilevel RoIAlign, its text run on the host under sanitizers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from imp_trt.cuda.kernels import geometry
from imp_trt.ops.roi_align.torch import assign_levels, pyramid_roi_align
from tests.support.cuda_on_host.host_kernels import Out
from tests.support.cuda_on_host.operators import (
    DTYPES,
    NUMPY_DTYPES,
    TORCH_DTYPES,
    as_tensor,
    garbage,
    kernels,
    stored,
)
from tests.support.roi_align import awkward_boxes, boxes_of_every_level, pyramid


def pool(
    levels: list[Tensor],
    boxes: Tensor,
    size: int,
    ratio: int,
    level0: int = 4,
    size0: int = 224,
    dtype: str = "f32",
    sanitizer: str = "address",
) -> Tensor:
    batch, count = boxes.shape[:2]
    channels = levels[0].shape[1]
    constants = geometry("multilevel_roi_align")
    grid = (batch * count, -(-channels // constants["IMP_RA_CHANNELS"]), 1)
    out = Out(garbage((batch * count, channels, size, size), NUMPY_DTYPES[dtype]))
    sides = [side for level in levels for side in level.shape[2:]]
    arguments: list[Any] = [stored(level.numpy(), dtype) for level in levels]
    arguments += [boxes.numpy(), out, batch, count, channels, *sides, size, ratio, level0, size0]
    entry = f"imp_multilevel_roi_align_{dtype}"
    block = (constants["IMP_RA_THREADS"], 1, 1)
    (result,) = kernels("multilevel_roi_align", sanitizer).run(entry, grid, block, arguments)
    return as_tensor(result, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "ratio", "size0", "channels"), [(7, 2, 224, 3), (14, 2, 112, 33), (1, 1, 64, 1), (3, 4, 224, 70)]
)
def test_equals_the_pytorch_operator(size: int, ratio: int, size0: int, channels: int, dtype: str) -> None:
    levels, boxes = pyramid(channels=channels), boxes_of_every_level(count=10)
    assert assign_levels(boxes, 4, size0).unique().tolist() == [0, 1, 2, 3]
    rounded = [level.to(TORCH_DTYPES[dtype]) for level in levels]
    expected = pyramid_roi_align(*rounded, boxes, size, ratio, 4, size0)
    assert torch.equal(pool(levels, boxes, size, ratio, 4, size0, dtype), expected)


def test_equals_torchvision() -> None:
    levels, boxes = pyramid(), boxes_of_every_level()
    names = ["0", "1", "2", "3"]
    theirs = MultiScaleRoIAlign(names, 7, 2)(
        dict(zip(names, levels, strict=True)), list(boxes), [(96, 160)] * 2
    )
    assert torch.equal(pool(levels, boxes, 7, 2), theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_boxes(dtype: str) -> None:
    levels, boxes = pyramid(batch=1), awkward_boxes()
    rounded = [level.to(TORCH_DTYPES[dtype]) for level in levels]
    got = pool(levels, boxes, 7, 2, dtype=dtype)
    assert torch.equal(got, pyramid_roi_align(*rounded, boxes, 7, 2))
    broken = ~torch.isfinite(boxes[0]).all(1) | ~torch.isfinite(boxes[0, :, 2:] - boxes[0, :, :2]).all(1)
    assert not got[broken].any()


def test_more_samples_than_the_table_in_shared_memory_holds() -> None:
    levels, boxes = pyramid(batch=1, channels=2), boxes_of_every_level(batch=1, count=3)
    for size, ratio in ((40, 2), (3, 30), (65, 1)):
        assert torch.equal(pool(levels, boxes, size, ratio), pyramid_roi_align(*levels, boxes, size, ratio))


def test_levels_of_one_cell_and_features_that_are_not_finite() -> None:
    levels = [torch.full((1, 1, 1, 1), float(k + 1)) for k in range(4)]
    boxes = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 2000, 2000], [1, 1, 2, 2]]])
    assert torch.equal(pool(levels, boxes, 2, 2), pyramid_roi_align(*levels, boxes, 2, 2))
    levels = pyramid(batch=1, channels=1)
    levels[0][0, 0, 3, 3] = float("inf")
    levels[0][0, 0, 4, 9] = float("nan")
    boxes = torch.tensor([[[0.0, 0, 60, 60], [8, 8, 20, 20]]])
    expected = pyramid_roi_align(*levels, boxes, 3, 2)
    np.testing.assert_array_equal(pool(levels, boxes, 3, 2).numpy(), expected.numpy())
    assert not expected.isfinite().all()


def test_no_two_threads_race_for_shared_memory() -> None:
    levels, boxes = pyramid(channels=2), boxes_of_every_level(count=2)
    watched = pool(levels, boxes, 7, 2, sanitizer="thread")
    assert torch.equal(watched, pyramid_roi_align(*levels, boxes, 7, 2))

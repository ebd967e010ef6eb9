# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernel of multilevel RoIAlign, its text run on the host under sanitizers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
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
    hwc8: bool = False,
    aligned: bool = False,
) -> Tensor:
    """The kernel's answer; with hwc8 the features are handed over in TensorRT's layout of that name."""
    batch, count = boxes.shape[:2]
    channels = levels[0].shape[1]
    constants = geometry("multilevel_roi_align")
    grid = (batch * count, -(-channels // constants["IMP_RA_CHANNELS"]), 1)
    out = Out(garbage((batch * count, channels, size, size), NUMPY_DTYPES[dtype]))
    sides = [side for level in levels for side in level.shape[2:]]
    arguments: list[Any] = [stored(level.numpy(), dtype) for level in levels]
    if hwc8:
        arguments = [channels_last(level) for level in arguments]
    arguments += [
        boxes.numpy(),
        out,
        batch,
        count,
        channels,
        *sides,
        size,
        ratio,
        level0,
        size0,
        int(aligned),
    ]
    entry = f"imp_multilevel_roi_align_{'hwc8_' if hwc8 else ''}{dtype}"
    block = (constants["IMP_RA_THREADS"], 1, 1)
    (result,) = kernels("multilevel_roi_align", sanitizer).run(entry, grid, block, arguments)
    return as_tensor(result, dtype)


def channels_last(level: NDArray[Any]) -> NDArray[Any]:
    """[B, C, H, W] as [B, H, W, C rounded up to 8]; what fills up is NaN, which must not matter."""
    filled = garbage((*level.shape[:1], *level.shape[2:], -(-level.shape[1] // 8) * 8), level.dtype).copy()
    filled[..., : level.shape[1]] = level.transpose(0, 2, 3, 1)
    return filled


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("channels", [1, 8, 15, 65, 72])
@pytest.mark.parametrize(("size", "ratio"), [(1, 1), (7, 2), (12, 2), (3, 3), (33, 2), (40, 1)])
def test_channels_last_khwc8(size: int, ratio: int, channels: int, dtype: str) -> None:
    levels = pyramid(channels=channels, height=64, width=64)
    boxes = boxes_of_every_level(count=4, height=64, width=64)
    rounded = [level.to(TORCH_DTYPES[dtype]) for level in levels]
    got = pool(levels, boxes, size, ratio, dtype=dtype, hwc8=True)
    assert torch.equal(got, pyramid_roi_align(*rounded, boxes, size, ratio))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_channels_last_with_awkward_boxes(dtype: str) -> None:
    levels, boxes = pyramid(batch=1, channels=9), awkward_boxes()
    levels[0][0, 3, 3, 3] = float("inf")
    levels[0][0, 4, 4, 9] = float("nan")
    rounded = [level.to(TORCH_DTYPES[dtype]) for level in levels]
    got, expected = (
        pool(levels, boxes, 7, 2, dtype=dtype, hwc8=True),
        pyramid_roi_align(*rounded, boxes, 7, 2),
    )
    np.testing.assert_array_equal(got.float().numpy(), expected.float().numpy())


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


@pytest.mark.parametrize(("dtype", "hwc8"), [("f32", False), ("f16", False), ("bf16", True)])
@pytest.mark.parametrize(("size", "ratio"), [(7, 2), (3, 3)])
def test_aligned_boxes(size: int, ratio: int, dtype: str, hwc8: bool) -> None:
    levels, boxes = pyramid(batch=1, channels=9), boxes_of_every_level(batch=1)
    small = boxes_of_every_level(batch=1, count=8) * 0.02 + 5  # below a cell
    boxes = torch.cat([boxes, small, awkward_boxes()], 1)
    rounded = [level.to(TORCH_DTYPES[dtype]) for level in levels]
    expected = pyramid_roi_align(*rounded, boxes, size, ratio, aligned=True)
    assert torch.equal(pool(levels, boxes, size, ratio, dtype=dtype, hwc8=hwc8, aligned=True), expected)
    assert not torch.equal(expected, pyramid_roi_align(*rounded, boxes, size, ratio))


ADAPTIVE = torch.tensor(
    [
        [
            [2, 3, 158, 11],  # elongated: 39 x 2 cells of p2
            [5.5, 1, 9, 95],
            [-300, -200, 700, 500],
            [120, 60, 220, 160],
            [0, 0, 28, 28],  # exactly one cell in each of 7 bins
            [0, 0, 28.0001, 56],
            [8, 8, 8, 40],
            [8, 8, 9, 10],
            [60, 30, 20, 60],
            [-80, -60, -20, -10],
        ]
    ],
    dtype=torch.float32,
)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(
    ("dtype", "hwc8"), [(dtype, False) for dtype in DTYPES] + [("f16", True), ("bf16", True)]
)
@pytest.mark.parametrize("size", [7, 14, 1])
def test_adaptive_sampling(size: int, dtype: str, hwc8: bool, aligned: bool) -> None:
    levels = pyramid(batch=1, channels=9)
    boxes = torch.cat([ADAPTIVE, boxes_of_every_level(batch=1, count=10)], 1)
    rounded = [level.to(TORCH_DTYPES[dtype]) for level in levels]
    expected = pyramid_roi_align(*rounded, boxes, size, 0, aligned=aligned)
    got = pool(levels, boxes, size, 0, dtype=dtype, hwc8=hwc8, aligned=aligned)
    assert torch.equal(got, expected)
    assert not torch.equal(expected, pyramid_roi_align(*rounded, boxes, size, 2, aligned=aligned))


@pytest.mark.parametrize(("dtype", "hwc8"), [("f32", False), ("f16", True)])
@pytest.mark.parametrize("aligned", [False, True])
def test_adaptive_sampling_of_awkward_boxes_ends(dtype: str, hwc8: bool, aligned: bool) -> None:
    """A box of 1e9 pixels on the finest level has no more samples than one that ends 16384 pixels outside."""
    levels, far = pyramid(batch=1, channels=1, height=32, width=32), 1e9
    rows = [[-far, 8, far, 9], [8, -far, 9, far], [-far, -far, far, far], [far, far, 3e38, 3e38]]
    boxes = torch.cat([awkward_boxes(), torch.tensor([rows])], 1)
    rounded = [level.to(TORCH_DTYPES[dtype]) for level in levels]
    expected = pyramid_roi_align(*rounded, boxes, 3, 0, aligned=aligned)
    assert torch.equal(pool(levels, boxes, 3, 0, dtype=dtype, hwc8=hwc8, aligned=aligned), expected)
    assert expected.isfinite().all()
    assert expected[-4:-1].any()


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [2, 7, 14, 16, 17, 33])
def test_bins_of_four_samples_at_borders(size: int, dtype: str) -> None:
    """Boxes that end on, before and behind the last cell; sizes below and above a block's threads."""
    levels = pyramid(batch=1, channels=65 if size < 8 else 3, height=64, width=64)
    edges = [-9.0, -3.9, -0.1, 0.0, 30.2, 59.9, 60.0, 60.1, 63.9, 64.0, 64.1, 68.1, 75.0]
    corners = list(zip(edges, edges[::-1], strict=True))
    rows = [[x, y, x + w, y + h] for x, y in corners for w, h in ((4, 8), (40, 3), (30, 60))]
    boxes = torch.tensor([rows])
    rounded = [level.to(TORCH_DTYPES[dtype]) for level in levels]
    got = pool(levels, boxes, size, 2, dtype=dtype)
    assert torch.equal(got, pyramid_roi_align(*rounded, boxes, size, 2))


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


@pytest.mark.slow
def test_no_two_threads_race_for_shared_memory() -> None:
    levels, boxes = pyramid(channels=2), boxes_of_every_level(count=2)
    watched = pool(levels, boxes, 7, 2, sanitizer="thread")
    assert torch.equal(watched, pyramid_roi_align(*levels, boxes, 7, 2))
    halves = [level.half() for level in levels]
    watched = pool(levels, boxes, 7, 2, dtype="f16", sanitizer="thread", hwc8=True)
    assert torch.equal(watched, pyramid_roi_align(*halves, boxes, 7, 2))

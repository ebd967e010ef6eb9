# SPDX-License-Identifier: Apache-2.0
"""The operator against torchvision's MultiScaleRoIAlign and a float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import library
from torchvision.ops import MultiScaleRoIAlign, roi_align

from imp_trt import ops
from imp_trt.errors import InvalidInput
from imp_trt.ops.roi_align.torch import REACH, assign_levels, pyramid_roi_align
from tests.support.roi_align import awkward_boxes, boxes_of_every_level, pyramid, reference


def torchvision_pool(levels, boxes, size, ratio, level0=4, size0=224):
    names = ["0", "1", "2", "3"]
    pool = MultiScaleRoIAlign(names, size, ratio, canonical_scale=size0, canonical_level=level0)
    frame = (levels[0].shape[2] * 4, levels[0].shape[3] * 4)
    return pool(dict(zip(names, levels, strict=True)), list(boxes), [frame] * len(boxes))


@pytest.mark.parametrize(("size", "ratio", "size0"), [(7, 2, 224), (14, 2, 112), (1, 1, 64), (3, 4, 224)])
def test_equals_torchvision_forward_and_backward(size, ratio, size0):
    boxes = boxes_of_every_level()
    assert assign_levels(boxes, 4, size0).unique().tolist() == [0, 1, 2, 3]
    ours = [p.requires_grad_() for p in pyramid()]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    out = pyramid_roi_align(*ours, boxes, size, ratio, 4, size0)
    expected = torchvision_pool(theirs, boxes, size, ratio, 4, size0)
    assert torch.equal(out, expected)
    weight = torch.rand(out.shape, generator=torch.Generator().manual_seed(1))
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("boxes", [boxes_of_every_level(count=6), awkward_boxes().expand(2, -1, -1)])
def test_equals_the_reference(boxes):
    levels = pyramid()
    expected = reference([p.double().numpy() for p in levels], boxes.numpy(), 4, 2)
    out = pyramid_roi_align(*levels, boxes, 4)
    # Coordinates are float32: a sample of a box of 1e6 pixels is placed to within 1e-2 cells.
    tolerance = np.where(np.nan_to_num(boxes.reshape(-1, 4).abs().amax(1).numpy(), nan=0) > 1e5, 0.1, 1e-4)
    assert (np.abs(out.numpy() - expected) <= tolerance[:, None, None, None]).all()


@pytest.mark.parametrize(("size", "ratio"), [(7, 2), (3, 1), (2, 0)])
def test_aligned_equals_the_reference(size, ratio):
    small = torch.tensor([[10.0, 10, 11, 12], [20, 20, 23, 21], [0, 0, 0.5, 40], [95, 50, 99, 54]])
    boxes = torch.cat([boxes_of_every_level(count=6), small.expand(2, -1, -1)], 1)
    levels = [p.double() for p in pyramid()]
    expected = reference([p.numpy() for p in levels], boxes.numpy(), size, ratio, aligned=True)
    ours = [p.clone().requires_grad_() for p in levels]
    out = pyramid_roi_align(*ours, boxes, size, ratio, aligned=True)
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-4)
    # The operator is linear: its gradient with the features gives the weighted sum of its outputs.
    weight = torch.rand(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (out * weight).sum().backward()
    total = sum((p.grad * p.detach()).sum() for p in ours)
    torch.testing.assert_close(total, (torch.from_numpy(expected) * weight).sum(), atol=1e-3, rtol=1e-5)


def test_a_box_that_is_not_finite_pools_zeros_and_has_no_gradient():
    levels = [p.requires_grad_() for p in pyramid(batch=1)]
    boxes = awkward_boxes()
    out = pyramid_roi_align(*levels, boxes, 7)
    assert torch.isfinite(out).all()
    broken = ~torch.isfinite(boxes[0]).all(1) | ~torch.isfinite(boxes[0, :, 2:] - boxes[0, :, :2]).all(1)
    assert broken.sum() >= 7
    assert not out[broken].any()
    out[broken].sum().backward()
    assert not any(p.grad.any() for p in levels)


def test_levels_follow_torchvision_on_their_borders():
    sides = torch.tensor([0.0, 1, 111.99, 112, 223.99, 224, 447.99, 448, 10_000])
    boxes = torch.stack([torch.zeros(9), torch.zeros(9), sides, sides], 1)
    assert assign_levels(boxes).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert assign_levels(torch.tensor([float("nan"), 0, 1, 1])).item() == 0


def adaptive_boxes():
    """[1, N, 4] for 160x96: many samples, elongated, no area, turned inside out, outside of the frame."""
    rows = [
        [0, 0, 160, 96],
        [2, 3, 158, 11],  # on p2, 39 x 2 cells
        [5.5, 1, 9, 95],
        [-300, -200, 700, 500],
        [-40, 20, 44, 60],
        [120, 60, 220, 160],
        [0, 0, 28, 28],  # 7 cells of p2: exactly one per bin
        [0, 0, 28.0001, 56],
        [8, 8, 8, 8],
        [8, 8, 8, 40],
        [8, 8, 9, 10],
        [60, 60, 20, 30],
        [60, 30, 20, 60],
        [-80, -60, -20, -10],
        [400, 10, 440, 50],
    ]
    return torch.tensor([rows], dtype=torch.float32)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [7, 3, 1])
def test_adaptive_sampling_equals_the_reference_and_torchvision(size, aligned):
    levels, boxes = pyramid(batch=1), adaptive_boxes()
    every = torch.cat([boxes, boxes_of_every_level(batch=1, count=12)], 1)
    assert assign_levels(every).unique().tolist() == [0, 1, 2, 3]
    ours, theirs = ([p.clone().requires_grad_() for p in levels] for _ in range(2))
    out = pyramid_roi_align(*ours, every, size, 0, aligned=aligned)
    expected = reference([p.double().numpy() for p in levels], every.numpy(), size, 0, aligned=aligned)
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-4)
    which = assign_levels(every[0])
    low, high = every[0].split(2, 1)  # torchvision raises for a box that is turned inside out
    rois = torch.cat([torch.zeros(len(which), 1), low, torch.maximum(low, high)], 1)
    single = [
        roi_align(theirs[k], roi[None], size, 1 / (4 << k), 0, aligned=aligned)
        for k, roi in zip(which.tolist(), rois, strict=True)
    ]
    assert torch.equal(out, torch.cat(single))
    weight = torch.rand(out.shape, generator=torch.Generator().manual_seed(1))
    (out * weight).sum().backward()
    (torch.cat(single) * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


def test_adaptive_sampling_takes_as_many_samples_as_a_bin_has_cells():
    """A box of 36 x 6 cells into 3 x 3 bins: 12 x 2 samples, by hand."""
    levels = pyramid(batch=1, channels=1, height=64, width=256)
    plane = levels[0][0, 0]
    boxes = torch.tensor([[[8.0, 12, 152, 36]]])  # cells 2 to 38 and 3 to 9 of p2
    (pooled,) = pyramid_roi_align(*levels, boxes, 3, 0)[0]
    for row in range(3):
        for column in range(3):
            ys = [3 + 2 * row + i + 0.5 for i in range(2)]
            xs = [2 + 12 * column + j + 0.5 for j in range(12)]
            cells = [plane[int(y) : int(y) + 2, int(x) : int(x) + 2].mean() for y in ys for x in xs]
            torch.testing.assert_close(pooled[row, column], torch.stack(cells).mean())
    assert not torch.allclose(pooled, pyramid_roi_align(*levels, boxes, 3, 2)[0, 0], atol=1e-3)


def test_adaptive_sampling_of_awkward_boxes_is_bounded():
    levels, boxes = pyramid(batch=1), awkward_boxes()
    height, width = (4 * side + REACH for side in levels[0].shape[2:])
    clamped = torch.minimum(boxes.clamp(min=-REACH), torch.tensor([width, height, width, height]))
    broken = ~torch.isfinite(boxes[0]).all(1) | ~torch.isfinite(boxes[0, :, 2:] - boxes[0, :, :2]).all(1)
    for aligned in (False, True):
        out = pyramid_roi_align(*levels, boxes, 7, 0, aligned=aligned)
        assert torch.isfinite(out).all()
        assert not out[broken].any()
        other = pyramid_roi_align(*levels, clamped[:, ~broken], 7, 0, aligned=aligned)
        assert torch.equal(out[~broken], other)


def test_half_precision_keeps_coordinates_in_float32():
    # x = 2049 is 2048 in float16: the box would move by a pixel.
    level = torch.zeros(1, 1, 8, 1024)
    level[..., 512:] = 1
    levels = [level, *(torch.zeros(1, 1, 8 // k, 1024 // k) for k in (2, 4, 8))]
    boxes = torch.tensor([[[2045.0, 4, 2053, 12]]])
    half = pyramid_roi_align(*(p.half() for p in levels), boxes, 7)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), pyramid_roi_align(*levels, boxes, 7), atol=1e-3, rtol=0)


def test_operator_contract():
    levels = [p.requires_grad_() for p in pyramid(batch=1, channels=2, height=32, width=32)]
    boxes = boxes_of_every_level(batch=1, count=3, height=32, width=32)
    # The fourth check, of compiled autograd, repeats these through the compiler and takes half a minute.
    for ratio in (2, 0):
        library.opcheck(
            torch.ops.imp_trt.multilevel_roi_align.default,
            (*levels, boxes, 2, ratio, 4, 224, True),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


def test_public_name():
    assert ops.pyramid_roi_align is pyramid_roi_align


def test_gradcheck():
    levels = [p.double().requires_grad_() for p in pyramid(1, 1, 32, 32)]
    boxes = boxes_of_every_level(batch=1, count=3, height=32, width=32)
    assert torch.autograd.gradcheck(lambda *p: pyramid_roi_align(*p, boxes, 2), levels)


def test_inputs_stay_as_they_are():
    levels, boxes = pyramid(), boxes_of_every_level()
    before = [t.clone() for t in (*levels, boxes)]
    pyramid_roi_align(*levels, boxes, 7)
    assert all(torch.equal(a, b) for a, b in zip((*levels, boxes), before, strict=True))


@pytest.mark.parametrize(("size", "ratio"), [(0, 2), (-1, 0), (7, -1), (7, 65), (7, 2**31 - 1)])
def test_sizes_out_of_range_are_rejected(size, ratio):
    with pytest.raises(InvalidInput, match="expected output_size >= 1 and sampling_ratio 0 to 64"):
        pyramid_roi_align(*pyramid(), boxes_of_every_level(), size, ratio)

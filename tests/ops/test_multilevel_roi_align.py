# SPDX-License-Identifier: Apache-2.0
"""The operator against torchvision's MultiScaleRoIAlign and a float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import library
from torchvision.ops import MultiScaleRoIAlign

from imp_trt import ops
from imp_trt.ops.roi_align.torch import assign_levels, pyramid_roi_align
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


@pytest.mark.parametrize(("size", "ratio"), [(7, 2), (3, 1)])
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
    library.opcheck(
        torch.ops.imp_trt.multilevel_roi_align.default,
        (*levels, boxes, 2, 2, 4, 224, True),
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


@pytest.mark.parametrize(("size", "ratio"), [(0, 2), (7, 0), (7, -1)])
def test_sizes_below_one_are_refused(size, ratio):
    with pytest.raises(ValueError, match="expected output_size and sampling_ratio >= 1"):
        pyramid_roi_align(*pyramid(), boxes_of_every_level(), size, ratio)

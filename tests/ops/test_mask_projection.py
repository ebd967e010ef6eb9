# SPDX-License-Identifier: Apache-2.0
"""Instance mask projection: NumPy and PyTorch against the loops that define it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from imp_trt.ops import (
    instance_mask_projection,
    instance_mask_projection_numpy,
    instance_mask_projection_reference,
    paste_masks,
)
from imp_trt.ops.mask_projection.numpy import mask_crops
from tests.ops.mask_projection_cases import (
    DEGENERATE_DTYPES,
    INVALID,
    QUICK,
    RULES,
    Case,
    assert_close,
    degenerate,
    invalid_instances,
    ordinary,
    scale_of,
)

ROUNDING = {np.float16: 5e-4, np.float32: 1e-6, np.float64: 1e-6}
CANVAS = (13, 11)


def by_torch(case: Case, classes: int, canvas: tuple[int, int], scale: float, rule: str) -> np.ndarray:
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in case]
    return instance_mask_projection(*tensors, classes, canvas, scale, rule).numpy()


def by_numpy(case: Case, classes: int, canvas: tuple[int, int], scale: float, rule: str) -> np.ndarray:
    return instance_mask_projection_numpy(*case, classes, canvas, scale, rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cells", [1, 2, 5, 14])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_forms_agree_on_ordinary_boxes(rule: str, cells: int, dtype: type) -> None:
    case = ordinary(cells, batch=2, count=3, cells=cells, dtype=dtype)
    truth = instance_mask_projection_reference(*case, 3, CANVAS, 0.75, rule)
    got = by_torch(case, 3, CANVAS, 0.75, rule)
    assert got.dtype == dtype
    assert truth.max() > 0.1
    assert_close(got, truth, ROUNDING[dtype])
    np.testing.assert_array_equal(got > 0, truth > (1e-7 if dtype == np.float16 else 0))
    np.testing.assert_array_equal(by_numpy(case, 3, CANVAS, 0.75, rule), got)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("canvas", [(1, 1), (1, 9), (9, 1), (7, 5)])
def test_forms_agree_on_small_and_odd_canvases(rule: str, canvas: tuple[int, int]) -> None:
    case = ordinary(3, count=6, cells=3, canvas=canvas, sides=(0.1, 20))
    truth = instance_mask_projection_reference(*case, 3, canvas, 1.0, rule)
    got = by_torch(case, 3, canvas, 1.0, rule)
    assert_close(got, truth)
    np.testing.assert_array_equal(by_numpy(case, 3, canvas, 1.0, rule), got)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DEGENERATE_DTYPES)
def test_forms_agree_on_degenerate_numbers(rule: str, dtype: type) -> None:
    @QUICK
    @given(case=degenerate(2, 3, 2, dtype), scale=st.sampled_from((1.0, 0.25, 1e-3, 3.7)))
    def agree(case: Case, scale: float) -> None:
        truth = instance_mask_projection_reference(*case, 3, (6, 7), scale, rule)
        got = by_torch(case, 3, (6, 7), scale, rule)
        assert_close(got, truth, ROUNDING[dtype] * scale_of(case))
        np.testing.assert_array_equal(by_numpy(case, 3, (6, 7), scale, rule), got)

    agree()


@pytest.mark.parametrize("rule", RULES)
def test_membership_is_that_of_the_reference_where_corners_meet_pixel_centers(rule: str) -> None:
    @QUICK
    @given(corners=st.lists(st.integers(-8, 48), min_size=8, max_size=8), third=st.booleans())
    def agree(corners: list[int], third: bool) -> None:
        boxes = (np.array(corners, np.float32) / np.float32(6 if third else 4)).reshape(1, 2, 4)
        ones = np.ones((1, 2, 3, 3), np.float32)
        case = Case(boxes, np.ones((1, 2), np.float32), np.array([[0, 1]]), ones)
        truth = instance_mask_projection_reference(*case, 2, (9, 9), 1.0, rule)
        got = by_torch(case, 2, (9, 9), 1.0, rule)
        threshold = 1e-6 if rule == "bilinear" else 0
        np.testing.assert_array_equal(got > threshold, truth > threshold)

    agree()


def test_extreme_cells_of_both_signs_stay_finite() -> None:
    cells = np.array([3.4e38, -3.4e38, 1.0, -1.0], np.float32)
    for seed in range(20):
        case = ordinary(seed, count=6, cells=4)
        masks = np.random.default_rng(seed).choice(cells, case.masks.shape)
        scores = np.random.default_rng(seed).choice([3e38, 1e-38, 1.0, -2.0], case.scores.shape)
        wild = case._replace(masks=masks, scores=scores.astype(np.float32))
        for rule in RULES:
            for form in (by_torch, by_numpy):
                out = form(wild, 3, CANVAS, 1.0, rule)
                assert np.isfinite(out).all()
                assert (out >= 0).all()


@pytest.mark.parametrize("form", [by_torch, by_numpy])
@pytest.mark.parametrize(
    ("dtype", "top"), [(np.float16, 65504.0), (np.float32, float(np.finfo(np.float32).max))]
)
def test_saturates_at_the_largest_finite_value(form, dtype: type, top: float) -> None:
    case = ordinary(1, dtype=dtype)
    case = case._replace(masks=np.full_like(case.masks, top), scores=case.scores + 2)
    for rule in RULES:
        truth = instance_mask_projection_reference(*case, 3, CANVAS, 1.0, rule)
        out = form(case, 3, CANVAS, 1.0, rule)
        assert out.max() == dtype(top)
        assert_close(out, truth, 4 * ROUNDING[dtype] * top)


@pytest.mark.parametrize("form", [by_torch, by_numpy])
@pytest.mark.parametrize("rule", RULES)
def test_invalid_instances_contribute_nothing(form, rule: str) -> None:
    case = ordinary(2, batch=2)
    invalid = invalid_instances(5, batch=2)
    alone = form(case, 3, CANVAS, 1.0, rule)
    np.testing.assert_array_equal(form(case.plus(invalid), 3, CANVAS, 1.0, rule), alone)
    np.testing.assert_array_equal(form(invalid.plus(case), 3, CANVAS, 1.0, rule), alone)
    for k, name in enumerate(INVALID):
        assert not form(invalid.pick([k]), 3, CANVAS, 1.0, rule).any(), name


@pytest.mark.parametrize("form", [by_torch, by_numpy])
def test_a_non_finite_cell_counts_as_zero(form) -> None:
    case = ordinary(4)
    holes = case.masks.copy()
    holes[0, :, 1:3, 2] = 0
    for bad in (np.nan, np.inf, -np.inf):
        broken = case.masks.copy()
        broken[0, :, 1:3, 2] = bad
        for rule in RULES:
            expected = form(case._replace(masks=holes), 3, CANVAS, 1.0, rule)
            np.testing.assert_array_equal(form(case._replace(masks=broken), 3, CANVAS, 1.0, rule), expected)


@pytest.mark.parametrize("form", [by_torch, by_numpy])
@pytest.mark.parametrize("rule", RULES)
def test_order_batching_and_monotony(form, rule: str) -> None:
    case = ordinary(5, batch=3, count=12)
    whole = form(case, 3, CANVAS, 0.5, rule)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(form(case.pick(order), 3, CANVAS, 0.5, rule), whole)
    single = [form(case.image(b), 3, CANVAS, 0.5, rule) for b in range(3)]
    np.testing.assert_array_equal(np.concatenate(single), whole)
    parts = [form(case.pick([n]), 3, CANVAS, 0.5, rule) for n in range(12)]
    np.testing.assert_array_equal(np.maximum.reduce(parts), whole)


@pytest.mark.parametrize("form", [by_torch, by_numpy])
@pytest.mark.parametrize("rule", RULES)
def test_moving_boxes_by_whole_pixels_moves_the_canvas(form, rule: str) -> None:
    case = ordinary(6, sides=(2, 8), canvas=(10, 10))
    case = case._replace(boxes=np.round(case.boxes * 64) / 64)
    moved = case._replace(boxes=case.boxes + np.float32([16, 32, 16, 32]))
    here = form(case._replace(boxes=case.boxes + 16), 3, (64, 64), 1.0, rule)
    there = form(moved, 3, (64, 64), 1.0, rule)
    np.testing.assert_allclose(there[:, :, 16:], here[:, :, :-16], atol=1e-6)


@pytest.mark.parametrize("form", [by_torch, by_numpy])
def test_no_instances_give_zeros(form) -> None:
    case = ordinary(0, batch=2).pick(slice(0, 0))
    for rule in RULES:
        out = form(case, 4, CANVAS, 1.0, rule)
        assert out.shape == (2, 4, *CANVAS)
        assert not out.any()


@pytest.mark.parametrize("form", [by_torch, by_numpy])
def test_a_wide_canvas_and_far_boxes(form) -> None:
    corners = [[65000, 0, 66000, 1], [1e30, 0, 2e30, 1], [-1e9, -1e9, 1e9, 1e9], [16777216, 0, 16777220, 1]]
    case = Case(
        np.array([corners], np.float32),
        np.array([[0.9, 0.8, 0.5, 0.7]], np.float32),
        np.zeros((1, 4), np.int64),
        np.ones((1, 4, 3, 3), np.float32),
    )
    for rule in RULES:
        row = form(case, 1, (1, 65536), 1.0, rule)[0, 0, 0]
        assert row[0] == pytest.approx(0.5)
        assert row[-1] == pytest.approx(0.9)


def test_bilinear_equals_grid_sample() -> None:
    case = ordinary(7, count=1, cells=14, sides=(3, 20))
    x0, y0, x1, y1 = case.boxes[0, 0].astype(np.float64)
    x, y = np.arange(23) + 0.5, np.arange(19) + 0.5
    across, down = 2 * (x - x0) / (x1 - x0) - 1, 2 * (y - y0) / (y1 - y0) - 1
    grid = torch.from_numpy(np.stack(np.meshgrid(across, down), -1))[None]
    mask = torch.from_numpy(case.masks[0]).double()[None]
    expected = F.grid_sample(mask, grid, "bilinear", "zeros", align_corners=False)[0, 0].numpy()
    label = int(case.labels[0, 0])
    out = by_torch(case, 3, (19, 23), 1.0, "bilinear")[0, label]
    assert expected.max() > 0.1
    np.testing.assert_allclose(out, expected * case.scores[0, 0], atol=2e-6)


@pytest.mark.parametrize("rule", RULES)
def test_pasted_masks_are_the_projection_of_each_alone(rule: str) -> None:
    case = ordinary(8, count=5)
    invalid = invalid_instances(5)
    both = case.plus(invalid)
    pasted = paste_masks(both.masks[0], both.boxes[0], CANVAS, rule)
    assert pasted.dtype == np.float32
    assert pasted.shape == (5 + len(INVALID), *CANVAS)
    for n in range(5):
        one = case.pick([n])._replace(scores=np.ones((1, 1), np.float32), labels=np.zeros((1, 1), np.int64))
        np.testing.assert_array_equal(pasted[n], by_numpy(one, 1, CANVAS, 1.0, rule)[0, 0])
    assert not pasted[5:10].any()  # labels and scores play no part in pasting
    for crop in mask_crops(case.masks[0], case.boxes[0], CANVAS, rule):
        np.testing.assert_array_equal(pasted[crop.instance, crop.rows, crop.columns], crop.values)


def test_inputs_stay_as_they_are() -> None:
    case = ordinary(9)
    copies = [array.copy() for array in case]
    for rule in RULES:
        by_numpy(case, 3, CANVAS, 0.5, rule)
        by_torch(case, 3, CANVAS, 0.5, rule)
        paste_masks(case.masks[0], case.boxes[0], CANVAS, rule)
    for array, copy in zip(case, copies, strict=True):
        np.testing.assert_array_equal(array, copy)

# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernel of instance mask projection, its text run on the host under ASan and UBSan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from imp_trt.ops import instance_mask_projection, instance_mask_projection_reference
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
from tests.support.cuda_on_host.operators import DTYPES, Projection, as_tensor
from tests.support.variants import variants

TYPES = {np.float16: "f16", np.float32: "f32"}
ROUNDING = {np.float16: 5e-4, np.float32: 1e-6}
CANVAS = (13, 11)


def by_torch(case: Case, classes: int, canvas: tuple[int, int], scale: float, rule: str, dtype: str) -> Any:
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in case[:3]]
    masks = as_tensor(Projection(case, classes, canvas, dtype=dtype).case.masks, dtype)
    return instance_mask_projection(*tensors, masks, classes, canvas, scale, rule)


def assert_same_bits(
    case: Case, classes: int, canvas: tuple[int, int], scale: float, rule: str, dtype: str, offset: int = 0
) -> NDArray[Any]:
    """The kernel's canvas, after comparing it with PyTorch's."""
    got = Projection(case, classes, canvas, scale, rule, dtype).canvas(offset)
    expected = by_torch(case, classes, canvas, scale, rule, dtype)
    assert torch.equal(as_tensor(got, dtype), expected)
    return got


# Cases of some seconds.
RULES_OF_LARGE_CASES = variants(RULES, ["bilinear"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("cells", "canvas"),
    [(1, (19, 23)), (2, (1, 1)), (5, (16, 64)), (28, (33, 72)), (3, (17, 65)), (14, (1, 200)), (7, (50, 1))],
)
def test_equals_pytorch_bit_for_bit(cells: int, canvas: tuple[int, int], rule: str, dtype: str) -> None:
    case = ordinary(cells, batch=2, count=9, cells=cells, canvas=canvas, sides=(0.5, 60))
    got = assert_same_bits(case, 3, canvas, 0.75, rule, dtype)
    assert canvas == (1, 1) or got.any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_is_within_rounding_of_the_definition(rule: str, dtype: type) -> None:
    case = ordinary(2, batch=2, count=5, cells=6, dtype=dtype)
    truth = instance_mask_projection_reference(*case, 3, CANVAS, 0.75, rule)
    assert truth.max() > 0.1
    assert_close(Projection(case, 3, CANVAS, 0.75, rule, TYPES[dtype]).canvas(), truth, ROUNDING[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES_OF_LARGE_CASES)
@pytest.mark.parametrize("dtype", DEGENERATE_DTYPES)
def test_degenerate_numbers(rule: str, dtype: type) -> None:
    @QUICK
    @given(case=degenerate(2, 3, 2, dtype), scale=st.sampled_from((1.0, 0.25, 1e-3, 3.7)))
    def agree(case: Case, scale: float) -> None:
        got = assert_same_bits(case, 3, (6, 7), scale, rule, TYPES[dtype])
        truth = instance_mask_projection_reference(*case, 3, (6, 7), scale, rule)
        assert_close(got, truth, ROUNDING[dtype] * scale_of(case))

    agree()


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_membership_where_corners_meet_pixel_centers_and_tile_borders(rule: str) -> None:
    rng = np.random.default_rng(0)
    for part in (4, 6, 64):
        corners = rng.integers(-2 * part, 70 * part, (2, 40, 4)) / part
        low, high = (
            np.minimum(corners[..., :2], corners[..., 2:]),
            np.maximum(corners[..., :2], corners[..., 2:]),
        )
        boxes = np.concatenate([low, high], -1).astype(np.float32)
        labels = np.tile(np.arange(40), (2, 1))
        case = Case(boxes, np.ones((2, 40), np.float32), labels, np.ones((2, 40, 3, 3), np.float32))
        assert_same_bits(case, 40, (35, 67), 1.0, rule, "f32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_extreme_cells_and_saturation(rule: str, dtype: str) -> None:
    top = {"f32": 3.4028234e38, "f16": 65504.0, "bf16": 3.3895e38}[dtype]
    cells = np.array([top, -top, 1.0, -1.0, np.nan, np.inf, -np.inf, 0], np.float32)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        case = ordinary(seed, count=6, cells=4)
        scores = rng.choice([3e38, 1e-38, 1.0, -2.0], case.scores.shape).astype(np.float32)
        wild = case._replace(masks=rng.choice(cells, case.masks.shape), scores=scores)
        got = as_tensor(assert_same_bits(wild, 3, CANVAS, 1.0, rule, dtype), dtype)
        assert got.isfinite().all()
        assert (got >= 0).all()


@pytest.mark.parametrize("labels", [np.int32, np.int64])
@pytest.mark.parametrize("rule", RULES)
def test_invalid_instances_contribute_nothing(rule: str, labels: type) -> None:
    case = ordinary(2, batch=2)
    invalid = invalid_instances(5, batch=2)
    beyond = (
        np.array([2**31 - 1, -(2**31), 3, 4]) if labels == np.int32 else np.array([2**32, -1, 2**63 - 1, 3])
    )
    invalid.labels[:, :4] = beyond
    invalid.labels[:, 4:][invalid.labels[:, 4:] > 2**31] = 3
    both = case.plus(invalid)
    both = both._replace(labels=both.labels.astype(labels))
    narrow = case._replace(labels=case.labels.astype(labels))
    alone = Projection(narrow, 3, CANVAS, 1.0, rule).canvas()
    np.testing.assert_array_equal(Projection(both, 3, CANVAS, 1.0, rule).canvas(), alone)
    for k, name in enumerate(INVALID):
        single = invalid_instances(5).pick([k])
        assert not Projection(single, 3, CANVAS, 1.0, rule).canvas().any(), name


@pytest.mark.parametrize("count", [127, 128, 129, 160, 161, 300])
def test_any_number_of_instances(count: int) -> None:
    """Around the number of threads and the length of the list, all on one plane and one tile."""
    case = ordinary(count, count=count, cells=3, canvas=(16, 64), classes=1, sides=(2, 12))
    got = assert_same_bits(case, 1, (16, 64), 1.0, "bilinear", "f32")
    last = Projection(case.pick([count - 1]), 1, (16, 64)).canvas()
    assert (got >= last).all()


def test_no_instances_give_zeros() -> None:
    case = ordinary(0, batch=2).pick(slice(0, 0))
    for rule in RULES:
        for canvas in (CANVAS, (16, 64)):
            assert not Projection(case, 4, canvas, 1.0, rule).canvas().any()


@pytest.mark.parametrize("rule", RULES_OF_LARGE_CASES)
def test_a_wide_canvas_and_far_boxes(rule: str) -> None:
    corners = [[65000, 0, 66000, 1], [1e30, 0, 2e30, 1], [-1e9, -1e9, 1e9, 1e9], [16777216, 0, 16777220, 1]]
    case = Case(
        np.array([corners], np.float32),
        np.array([[0.9, 0.8, 0.5, 0.7]], np.float32),
        np.zeros((1, 4), np.int64),
        np.ones((1, 4, 3, 3), np.float32),
    )
    row = assert_same_bits(case, 1, (1, 65536), 1.0, rule, "f32")[0, 0, 0]
    assert row[0] == pytest.approx(0.5)
    assert row[-1] == pytest.approx(0.9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 72, 71])
def test_a_canvas_that_does_not_start_on_16_bytes(width: int, dtype: str) -> None:
    case = ordinary(9, batch=2, count=20, cells=4, canvas=(20, width))
    for offset in (0, 4, 8):
        assert_same_bits(case, 3, (20, width), 1.0, "bilinear", dtype, offset)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cells", [1, 2, 28])
def test_boxes_that_end_near_a_tile(cells: int, rule: str) -> None:
    """The list takes more boxes than reach the tile: some end a little before or behind its borders."""
    size, reach = 10000.0, (0.5 if rule == "bilinear" else 0.0) * 10000.0 / cells
    ends = np.array([-1.5, -0.6, -0.4, 0.4, 0.6, 1.5, 15.4, 15.6, 63.4, 63.6], np.float32)
    shifts = [(end - size - reach, end + reach) for end in ends]
    low = np.array([low for pair in shifts for low in pair])
    boxes = [
        [[x, -size / 2, x + size, size / 2] for x in low],
        [[-size / 2, y, size / 2, y + size] for y in low],
    ]
    count = len(low)
    case = Case(
        np.array(boxes, np.float32),
        np.linspace(0.1, 1, 2 * count, dtype=np.float32).reshape(2, count),
        np.zeros((2, count), np.int64),
        np.random.default_rng(cells).uniform(0, 1, (2, count, cells, cells)).astype(np.float32),
    )
    assert_same_bits(case, 1, (20, 70), 1.0, rule, "f32")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sides", [(4, 30), (10, 64), (60, 300)])
@pytest.mark.parametrize("cells", [14, 28, 112])
def test_crowds_whose_lines_do_not_fit_at_a_time(cells: int, sides: tuple[float, float], dtype: str) -> None:
    case = ordinary(cells, count=40, cells=cells, canvas=(40, 150), classes=1, sides=sides)
    for rule in ("bilinear", "nearest"):
        assert_same_bits(case, 1, (40, 150), 1.0, rule, dtype)


def test_cells_that_are_not_finite_next_to_the_columns_that_read_them() -> None:
    """One neighbor has weight 0 at a border, and one at every column where the mask fits the pixels."""
    rng = np.random.default_rng(3)
    for dtype in DTYPES:
        for cells in (1, 2, 5):
            case = ordinary(cells, count=30, cells=cells, canvas=(20, 70), classes=1, sides=(3, 40))
            values = rng.choice(np.array([np.inf, -np.inf, np.nan, 0.5, 0.25], np.float32), case.masks.shape)
            corners = np.round(case.boxes).astype(np.float32)
            wild = case._replace(masks=values, boxes=corners)
            for rule in RULES:
                assert_same_bits(wild, 1, (20, 70), 1.0, rule, dtype)


@pytest.mark.parametrize("width", [64, 71])
def test_planes_beyond_the_grid_are_drawn_too(width: int) -> None:
    case = ordinary(10, batch=3, count=12, canvas=(20, width))
    whole = Projection(case, 3, (20, width)).canvas()
    for planes in (1, 2, 4):
        few = Projection(case, 3, (20, width), planes=planes).canvas()
        np.testing.assert_array_equal(few, whole)

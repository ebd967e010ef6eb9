# SPDX-License-Identifier: Apache-2.0
"""The winner and backward kernels of instance mask projection, run on the host under sanitizers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import imp_trt.ops.mask_projection.torch as op
from imp_trt.ops.mask_projection.plan import make_plan
from tests.ops.mask_projection_cases import QUICK, RULES, Case, degenerate, invalid_instances, ordinary
from tests.support.cuda_on_host.operators import DTYPES, TORCH_DTYPES, Projection, as_tensor, stored

CANVAS = (19, 23)
ROUNDING = {"f32": 1e-5, "f16": 1e-3, "bf16": 8e-3}


def tensors(call: Projection) -> list[Tensor]:
    first = [torch.from_numpy(np.ascontiguousarray(array)) for array in call.case[:3]]
    return [*first, as_tensor(call.case.masks, call.dtype)]


def winner_by_torch(call: Projection, scale: float) -> NDArray[np.int64]:
    """[B, C, H, W]: n, or -1."""
    extent = call.shape[2:]
    plan = make_plan(*tensors(call), call.shape[1], extent, scale, call.rule)
    limit = torch.finfo(TORCH_DTYPES[call.dtype]).max
    kept = op._winners(plan, call.shape[0] * call.shape[1], extent, limit)
    instance = torch.cat([plan.instance, torch.tensor([-1])])[kept]  # place -1 is the last
    return torch.where(instance >= 0, instance % max(call.count, 1), -1).view(call.shape).numpy()


def gradient(call: Projection, seed: int = 0) -> NDArray[Any]:
    """[B, C, H, W] as stored, of both signs."""
    return stored(np.random.default_rng(seed).uniform(-1, 1, call.shape).astype(np.float32), call.dtype)


def assert_backward_is_that_of_torch(call: Projection, scale: float) -> tuple[Tensor, Tensor]:
    grad = gradient(call)
    winner = call.winner()
    np.testing.assert_array_equal(winner, winner_by_torch(call, scale))
    scores, masks = call.backward(winner, grad)
    expected = op._backward(as_tensor(grad, call.dtype), *tensors(call), scale, call.rule)
    got = (torch.from_numpy(scores.copy()), as_tensor(masks, call.dtype))
    for ours, theirs in zip(got, expected, strict=True):
        tolerance = ROUNDING[call.dtype] * max(1.0, float(theirs.float().abs().max()))
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=ROUNDING[call.dtype], atol=tolerance)
    return got


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("cells", "canvas", "batch", "count"), [(1, (9, 7), 2, 6), (3, (40, 70), 2, 6), (33, (19, 23), 1, 1)]
)
def test_gradients_are_those_of_pytorch(
    cells: int, canvas: tuple[int, int], batch: int, count: int, rule: str, dtype: str
) -> None:
    case = ordinary(cells, batch, count, cells, canvas, classes=2, sides=(3, 50))
    got = assert_backward_is_that_of_torch(Projection(case, 2, canvas, 0.75, rule, dtype), 0.75)
    assert all(g.any() for g in got)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_degenerate_numbers(rule: str) -> None:
    @QUICK
    @given(case=degenerate(2, 3, 2), scale=st.sampled_from((1.0, 0.25, 3.7)))
    def agree(case: Case, scale: float) -> None:
        call = Projection(case, 2, (6, 7), scale, rule)
        winner = call.winner()
        np.testing.assert_array_equal(winner, winner_by_torch(call, scale))
        grad = np.ones(call.shape, np.float32)
        scores, masks = call.backward(winner, grad)
        expected = op._backward(torch.from_numpy(grad), *tensors(call), scale, rule)
        np.testing.assert_allclose(scores, expected[0], rtol=1e-5, atol=1e-30)
        np.testing.assert_allclose(masks, expected[1], rtol=1e-5, atol=1e-30)

    agree()


@pytest.mark.parametrize("rule", RULES)
def test_ties_go_to_the_lowest_instance_and_cell(rule: str) -> None:
    boxes = np.array([[[2.0, 2, 8, 8]] * 3 + [[0.0, 0, 9, 9]] * 140], np.float32)
    count = boxes.shape[1]
    masks = np.full((1, count, 2, 2), 0.5, np.float32)
    case = Case(boxes, np.ones((1, count), np.float32), np.zeros((1, count), np.int64), masks)
    call = Projection(case, 1, (10, 10), 1.0, rule)
    assert_backward_is_that_of_torch(call, 1.0)
    inside = call.winner()[0, 0, 3:7, 3:7]
    assert (inside == 0).all()
    one = Case(np.array([[[0.0, 0, 3, 3]]], np.float32), *(array[:, :1] for array in case[1:]))
    if rule == "rect":  # the cells meet at 1.5: pixel 1 belongs to both
        single = Projection(one, 1, (3, 3), 1.0, rule)
        _, grad = single.backward(single.winner(), np.ones((1, 1, 3, 3), np.float32))
        np.testing.assert_array_equal(grad[0, 0], [[4, 2], [2, 1]])


@pytest.mark.parametrize("labels", [np.int32, np.int64])
@pytest.mark.parametrize("rule", RULES)
def test_no_gradient_through_invalid_instances(rule: str, labels: type) -> None:
    case = ordinary(2).plus(invalid_instances(5))
    if labels == np.int32:
        case = case._replace(labels=np.clip(case.labels, -7, 99).astype(np.int32))
    call = Projection(case, 3, CANVAS, 1.0, rule)
    scores, masks = call.backward(call.winner(), gradient(call))
    assert scores[:, :8].any()
    assert not scores[:, 8:].any()
    assert not masks[:, 8:].any()


def test_no_gradient_through_zero_or_saturated_pixels_and_cells_that_are_not_finite() -> None:
    box, one = np.array([[[1.0, 1, 9, 9]]], np.float32), np.full((1, 1), 9, np.float32)
    for value, won in ((60000.0, False), (0.0, False), (-1.0, False), (np.nan, False), (1.0, True)):
        case = Case(box, one, np.zeros((1, 1), np.int64), np.full((1, 1, 2, 2), value, np.float32))
        call = Projection(case, 1, (4, 4), 0.5, "nearest", "f16")
        winner = call.winner()
        assert (winner == 0).any() == won
        assert as_tensor(call.backward(winner, gradient(call))[1], "f16").any() == won
    masks = np.ones((1, 1, 3, 3), np.float32)
    masks[0, 0, 1, 1] = np.inf
    call = Projection(Case(box, one, np.zeros((1, 1), np.int64), masks), 1, (9, 9))
    _, grad = call.backward(call.winner(), np.ones(call.shape, np.float32))
    assert grad[0, 0, 1, 1] == 0
    assert (grad[0, 0, 0] > 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_boxes_far_larger_than_the_canvas(rule: str) -> None:
    boxes = np.array([[[-1e9, -1e9, 1e9, 1e9], [-500, -3, 700, 4], [-1e30, 0, 1e30, 5]]], np.float32)
    rng = np.random.default_rng(0)
    masks = rng.uniform(0.1, 1, (1, 3, 4, 4)).astype(np.float32)
    case = Case(boxes, np.array([[0.2, 0.9, 0.5]], np.float32), np.zeros((1, 3), np.int64), masks)
    assert_backward_is_that_of_torch(Projection(case, 1, (12, 70), 1.0, rule), 1.0)


def test_images_beyond_the_grid_and_repetition() -> None:
    case = ordinary(3, batch=3, count=5)
    call = Projection(case, 3, CANVAS)
    winner, grad = call.winner(), gradient(call)
    whole = call.backward(winner, grad)
    for images in (3, 2, 1):
        for ours, theirs in zip(call.backward(winner, grad, images), whole, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_no_two_threads_race_for_shared_memory(rule: str) -> None:
    """Under ThreadSanitizer: more instances than threads, groups of boxes, staged and direct stores."""
    for width in (64, 21):
        case = ordinary(4, count=150, cells=3, canvas=(20, width), classes=1)
        watched = Projection(case, 1, (20, width), 1.0, rule, "f32", "thread", planes=1)
        plain = Projection(case, 1, (20, width), 1.0, rule)
        np.testing.assert_array_equal(watched.canvas(), plain.canvas())
        np.testing.assert_array_equal(watched.winner(), plain.winner())
    two = Projection(ordinary(5, batch=2, count=2), 3, (20, 21), 1.0, rule, "f32", "thread", planes=2)
    winner, grad = two.winner(), gradient(two)
    for ours, theirs in zip(two.backward(winner, grad, 1), two.backward(winner, grad), strict=True):
        np.testing.assert_array_equal(ours, theirs)

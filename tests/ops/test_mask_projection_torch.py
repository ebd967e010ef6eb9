# SPDX-License-Identifier: Apache-2.0
"""The PyTorch operator: registration, gradients, determinism, and the ways it draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, library

import imp_trt.ops.mask_projection.torch as op
from imp_trt.ops import instance_mask_projection
from imp_trt.ops.mask_projection.plan import make_plan
from tests.ops.mask_projection_cases import RULES, invalid_instances, ordinary

OPERATOR = torch.ops.imp_trt.instance_mask_projection.default
CANVAS = (13, 11)


def tensors(seed: int, dtype: torch.dtype = torch.float32, **shape: object) -> list[Tensor]:
    boxes, scores, labels, masks = (torch.from_numpy(array) for array in ordinary(seed, **shape))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return [boxes, scores.to(wide).requires_grad_(), labels, masks.to(dtype).requires_grad_()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("rule", RULES)
def test_opcheck(rule: str, dtype: torch.dtype) -> None:
    arguments = (*tensors(0, dtype, batch=2, count=3, cells=3), 3, 7, 5, 0.5, rule)
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if (rule, dtype) == ("bilinear", torch.float32):
        checks.append("test_aot_dispatch_dynamic")
    library.opcheck(OPERATOR, arguments, test_utils=checks)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cells", [1, 3])
def test_gradcheck(rule: str, cells: int) -> None:
    boxes, scores, labels, masks = tensors(1, torch.float64, batch=2, count=3, cells=cells, sides=(1, 15))

    def canvas(scores: Tensor, masks: Tensor) -> Tensor:
        return instance_mask_projection(boxes, scores, labels, masks, 2, (6, 7), 0.5, rule)

    assert torch.autograd.gradcheck(canvas, (scores, masks))


@pytest.mark.parametrize("rule", RULES)
def test_ties_go_to_the_lowest_instance_and_cell(rule: str) -> None:
    boxes = torch.tensor([[[2.0, 2, 8, 8]] * 3])
    scores = torch.ones(1, 3, requires_grad=True)
    masks = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    instance_mask_projection(
        boxes, scores, torch.zeros(1, 3, dtype=torch.int64), masks, 1, (10, 10), 1.0, rule
    ).sum().backward()
    assert scores.grad is not None
    assert masks.grad is not None
    assert scores.grad[0, 0] > 0
    assert not scores.grad[0, 1:].any()
    assert not masks.grad[0, 1:].any()
    if rule == "rect":  # 6 x 6 pixels, 3 to a cell: no two cells share one
        np.testing.assert_array_equal(masks.grad[0, 0], [[9, 9], [9, 9]])


def test_rect_gives_a_shared_pixel_to_the_lowest_of_equal_cells() -> None:
    masks = torch.ones(1, 1, 2, 2, requires_grad=True)
    one = torch.ones(1, 1)
    box = torch.tensor([[[0.0, 0, 3, 3]]])  # the cells meet at 1.5: pixel 1 belongs to both
    canvas = instance_mask_projection(box, one, one.long() * 0, masks, 1, (3, 3), 1.0, "rect")
    canvas.sum().backward()
    assert masks.grad is not None
    np.testing.assert_array_equal(masks.grad[0, 0], [[4, 2], [2, 1]])


@pytest.mark.parametrize("rule", RULES)
def test_no_gradient_through_invalid_zero_or_saturated(rule: str) -> None:
    case = invalid_instances(3)
    boxes, scores, labels, masks = (torch.from_numpy(array) for array in case)
    scores.requires_grad_()
    masks.requires_grad_()
    instance_mask_projection(boxes, scores, labels, masks, 2, CANVAS, 1.0, rule).sum().backward()
    assert not scores.grad.any()
    assert not masks.grad.any()

    box, one = torch.tensor([[[1.0, 1, 9, 9]]]), torch.ones(1, 1)
    for value in (60000.0, 0.0, -1.0, float("nan")):
        masks = torch.full((1, 1, 2, 2), value, dtype=torch.float16, requires_grad=True)
        instance_mask_projection(
            box, 9 * one, one.long() * 0, masks, 1, (4, 4), 0.5, "nearest"
        ).sum().backward()
        assert masks.grad is not None
        assert not masks.grad.any()


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_forward_and_backward_repeat_bit_for_bit(rule: str) -> None:
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 4, 4, 4):
            torch.set_num_threads(count)
            boxes, scores, labels, masks = tensors(2, batch=2, count=40, cells=28, canvas=(48, 64))
            canvas = instance_mask_projection(boxes, scores, labels, masks, 3, (48, 64), 1.0, rule)
            weight = torch.linspace(-1, 1, canvas.numel()).view_as(canvas)
            results.append((canvas.detach(), *torch.autograd.grad((canvas * weight).sum(), (scores, masks))))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_list_loop_and_chunks_draw_the_same_bits(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, labels, masks = (t.detach() for t in tensors(3, batch=2, count=20, cells=28))
    plan = make_plan(boxes, scores, labels, masks, 3, (19, 23), 1.0, rule)
    listed = op._project_list(plan, 6, (19, 23))
    winner = op._winners(plan, 6, (19, 23), 1e30)
    assert torch.equal(op._project_loop(plan, 6, (19, 23)).flatten(), listed)
    monkeypatch.setattr(op, "_CHUNK_PIXELS", 300)
    assert len(list(op._chunks(plan))) > 3
    assert torch.equal(op._project_list(plan, 6, (19, 23)), listed)
    assert torch.equal(op._winners(plan, 6, (19, 23), 1e30), winner)


@pytest.mark.parametrize("rule", RULES)
def test_the_form_without_scatter_gives_the_same(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[Tensor, ...]:
        boxes, scores, labels, masks = tensors(4, batch=2, count=20, cells=5)
        canvas = instance_mask_projection(boxes, scores, labels, masks, 3, (19, 23), 1.0, rule)
        return (canvas.detach(), *torch.autograd.grad(canvas.square().sum(), (scores, masks)))

    expected = run()
    monkeypatch.setattr(op, "_reduce", op._sorted_reduce)
    got = run()
    assert torch.equal(got[0], expected[0])
    for a, b in zip(got[1:], expected[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_gradients_of_awkward_layouts_and_no_instances() -> None:
    boxes, scores, labels, masks = tensors(5, batch=2, count=6, cells=4)
    expected = torch.autograd.grad(
        instance_mask_projection(boxes, scores, labels, masks, 3, CANVAS).sum(), (scores, masks)
    )
    turned = scores.detach().t().contiguous().t().requires_grad_()
    turned_masks = masks.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    got = torch.autograd.grad(
        instance_mask_projection(boxes, turned, labels, turned_masks, 3, CANVAS).sum(), (turned, turned_masks)
    )
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))

    empty = [t[:, :0].detach().requires_grad_(t.is_floating_point()) for t in (boxes, scores, labels, masks)]
    instance_mask_projection(*empty, 3, CANVAS).sum().backward()
    assert empty[1].grad is not None
    assert empty[1].grad.shape == (2, 0)


def test_bfloat16_and_autocast() -> None:
    boxes, scores, labels, masks = tensors(6, torch.bfloat16, batch=1, count=6)
    exact = instance_mask_projection(boxes, scores, labels, masks.float(), 3, CANVAS)
    with torch.autocast("cpu", torch.bfloat16):
        out = instance_mask_projection(boxes, scores, labels, masks, 3, CANVAS)
        same = instance_mask_projection(boxes, scores, labels, masks.float(), 3, CANVAS)
    assert out.dtype == torch.bfloat16
    assert torch.equal(same, exact)
    torch.testing.assert_close(out.float(), exact, atol=4e-3, rtol=0)
    out.float().sum().backward()
    assert masks.grad is not None
    assert masks.grad.dtype == torch.bfloat16

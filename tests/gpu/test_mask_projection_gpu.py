# SPDX-License-Identifier: Apache-2.0
"""The PyTorch operator on each device against the reference, and on the GPU against the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, library

from imp_trt.ops import instance_mask_projection, instance_mask_projection_reference
from imp_trt.ops.mask_projection import torch as mask_projection
from tests.gpu.conftest import need_torch_cuda
from tests.ops.mask_projection_cases import (
    DEGENERATE_DTYPES,
    QUICK,
    RULES,
    Case,
    assert_close,
    degenerate,
    invalid_instances,
    ordinary,
    scale_of,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDING = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
SHAPES = {
    "small": dict(batch=2, count=3, cells=5, canvas=(13, 11)),
    "one cell": dict(batch=1, count=9, cells=1, canvas=(30, 70)),
    "several tiles": dict(batch=1, count=4, cells=6, canvas=(20, 131), sides=(4, 60)),
}


def on(device: str, case: Case, dtype: torch.dtype | None = None) -> list[Tensor]:
    """The tensors of a case on a device; scores and masks want gradients."""
    boxes, scores, labels, masks = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in case)
    masks = masks.to(dtype or masks.dtype)
    return [boxes, scores.requires_grad_(), labels, masks.requires_grad_()]


def gradients(canvas: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of scores and masks, for a gradient of the canvas that differs from pixel to pixel."""
    weight = torch.linspace(-1, 1, canvas.numel()).view(canvas.shape).to(canvas)
    return torch.autograd.grad(canvas, (inputs[1], inputs[3]), weight)


def assert_near(got: Tensor, expected: Tensor, relative: float) -> None:
    """Equal up to rounding of the largest value of the tensor."""
    tolerance = relative * max(float(expected.abs().max()), 1.0)
    torch.testing.assert_close(got.cpu().double(), expected.cpu().double(), atol=tolerance, rtol=relative)


def moderate(case: Case) -> Case:
    """The same without large numbers: the order of a sum would decide whether it overflows."""
    with np.errstate(invalid="ignore"):
        scores, masks = (
            np.where(np.isfinite(array) & (np.abs(array) > 100), 1, array).astype(array.dtype)
            for array in (case.scores, case.masks)
        )
    return case._replace(scores=scores, masks=masks)


@pytest.fixture
def only_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The composed form must not stand in for the kernels on a GPU."""

    def fail(*args: object) -> None:
        raise AssertionError("the composed form ran instead of the kernel")

    if device == "cuda":
        monkeypatch.setattr(mask_projection, "_composed", fail)
        monkeypatch.setattr(mask_projection, "_composed_backward", fail)


@pytest.mark.usefixtures("only_kernels")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_forward_equals_the_reference(device, rule, dtype, shape):
    case = ordinary(5, **SHAPES[shape])
    rounded = torch.from_numpy(case.masks).to(dtype)
    canvas = SHAPES[shape]["canvas"]
    truth = instance_mask_projection_reference(*case[:3], rounded.double().numpy(), 3, canvas, 0.75, rule)
    out = instance_mask_projection(*on(device, case, dtype), 3, canvas, 0.75, rule)
    assert out.dtype == dtype
    assert truth.max() > 0.1
    assert_close(out.detach().double().cpu().numpy(), truth, ROUNDING[dtype])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_backward_equals_that_of_float64(device, rule, dtype, shape):
    case = ordinary(6, **SHAPES[shape])
    canvas = SHAPES[shape]["canvas"]
    inputs = on(device, case, dtype)
    got = gradients(instance_mask_projection(*inputs, 3, canvas, 0.75, rule), inputs)
    exact = on("cpu", case._replace(scores=case.scores.astype(np.float64)))
    exact[3] = inputs[3].detach().cpu().double().requires_grad_()
    wide = instance_mask_projection(*exact, 3, canvas, 0.75, rule)
    # The gradient of the canvas is rounded to its type; the reference must see the same numbers.
    weight = torch.linspace(-1, 1, wide.numel()).view(wide.shape).to(dtype).double()
    expected = torch.autograd.grad(wide, (exact[1], exact[3]), weight)
    assert [g.dtype for g in got] == [torch.float32, dtype]
    assert_near(got[0], expected[0], 1e-5)
    assert_near(got[1], expected[1], {torch.float32: 1e-5}.get(dtype, ROUNDING[dtype]))


@pytest.mark.parametrize("rule", RULES)
def test_the_composed_form_is_that_of_the_cpu(device, rule):
    case = ordinary(10, batch=2, count=30, cells=7, canvas=(40, 61))  # float64 has no kernels
    results = []
    for where in ("cpu", device, device):
        inputs = on(where, case, torch.float64)
        canvas = instance_mask_projection(*inputs, 3, (40, 61), 1.0, rule)
        results.append((canvas.detach(), *gradients(canvas, inputs)))
    for truth, ours, again in zip(*results, strict=True):
        assert_near(ours, truth, 1e-6 if truth.dtype == torch.float32 else 1e-12)
        assert torch.equal(ours, again)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DEGENERATE_DTYPES)
def test_degenerate_numbers(device, rule, dtype):
    @QUICK
    @given(case=degenerate(2, 3, 2, dtype), scale=st.sampled_from((1.0, 0.25, 1e-3, 3.7)))
    def agree(case: Case, scale: float) -> None:
        truth = instance_mask_projection_reference(*case, 3, (6, 7), scale, rule)
        out = instance_mask_projection(*on(device, case), 3, (6, 7), scale, rule)
        rounding = {np.float16: 5e-4, np.float32: 1e-6}[dtype]
        assert_close(out.detach().cpu().numpy(), truth, rounding * scale_of(case))
        grads = []
        for where in ("cpu", device):
            inputs = on(where, moderate(case))
            canvas = instance_mask_projection(*inputs, 3, (6, 7), scale, rule)
            grads.append(gradients(canvas, inputs))
        for ours, theirs in zip(grads[1], grads[0], strict=True):
            assert_near(ours, theirs, 1e-3)

    agree()


@pytest.mark.parametrize("rule", RULES)
def test_invalid_instances_and_none(device, rule):
    case = ordinary(2, batch=2)
    alone = instance_mask_projection(*on(device, case), 3, (13, 11), 1.0, rule)
    both = on(device, invalid_instances(5, batch=2).plus(case))
    out = instance_mask_projection(*both, 3, (13, 11), 1.0, rule)
    assert torch.equal(out, alone)
    assert not any(grad[:, :8].any() for grad in gradients(out, both))
    none = on(device, case.pick([]))
    empty = instance_mask_projection(*none, 3, (13, 11), 1.0, rule)
    assert not empty.any()
    assert [grad.shape[:2] for grad in gradients(empty, none)] == [(2, 0), (2, 0)]


def test_labels_of_both_sizes_and_other_layouts(device):
    boxes, scores, labels, masks = on(device, ordinary(3, batch=2, cells=4))
    expected = instance_mask_projection(boxes, scores, labels, masks, 3, (19, 23))
    turned = masks.detach().transpose(2, 3).contiguous().transpose(2, 3)
    shifted = torch.cat([masks.detach().new_zeros(1), masks.detach().flatten()])[1:].view(masks.shape)
    for other in (turned, shifted):
        out = instance_mask_projection(boxes.double(), scores, labels.int(), other, 3, (19, 23))
        assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_a_hundred_runs_give_the_same_bits(device, rule, dtype):
    inputs = on(device, ordinary(7, batch=2, count=40, cells=14, canvas=(48, 80)), dtype)
    first: tuple[Tensor, ...] | None = None
    for _ in range(100 if device == "cuda" else 2):
        canvas = instance_mask_projection(*inputs, 3, (48, 80), 1.0, rule)
        results = (canvas.detach(), *gradients(canvas, inputs))
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(results, first, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operator_contract(device, dtype):
    arguments = (*on(device, ordinary(0, batch=2, count=3, cells=3), dtype), 3, 7, 5, 0.5, "bilinear")
    library.opcheck(
        torch.ops.imp_trt.instance_mask_projection.default,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.gpu
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gpu_and_cpu_give_the_same_pixels(rule, dtype):
    need_torch_cuda()
    case = ordinary(8, batch=2, count=60, cells=28, canvas=(96, 200), sides=(4, 150))
    theirs = instance_mask_projection(*on("cpu", case, dtype), 3, (96, 200), 1.0, rule)
    ours = instance_mask_projection(*on("cuda", case, dtype), 3, (96, 200), 1.0, rule)
    assert_near(ours, theirs, ROUNDING[dtype])
    assert torch.equal((ours > 0).cpu(), theirs > 0)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", RULES)
def test_in_a_cuda_graph(rule):
    need_torch_cuda()
    inputs = on("cuda", ordinary(9, batch=2, count=20, cells=28, canvas=(64, 100)), torch.float16)
    expected = instance_mask_projection(*inputs, 3, (64, 100), 1.0, rule)
    wanted = gradients(expected, inputs)
    grad = torch.linspace(-1, 1, expected.numel()).view(expected.shape).to(expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plain = [tensor.detach() for tensor in inputs]
        canvas = instance_mask_projection(*plain, 3, (64, 100), 1.0, rule)
        grads = torch.ops.imp_trt.instance_mask_projection_backward(grad, *plain, 1.0, rule)
    for _ in range(3):
        canvas.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(canvas, expected)
        assert all(torch.equal(a, b) for a, b in zip(grads, wanted, strict=True))
    with torch.no_grad():
        plain[1].zero_()  # a replay reads the inputs anew
    graph.replay()
    torch.cuda.synchronize()
    assert not canvas.any()


@pytest.mark.gpu
def test_on_the_stream_that_is_current():
    need_torch_cuda()
    inputs = on("cuda", ordinary(1))
    expected = instance_mask_projection(*inputs, 3, (19, 23))
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # what follows must wait for this stream, not for the default one
        late = [tensor.detach() * 1 for tensor in inputs[:2]]
        canvas = instance_mask_projection(late[0], late[1], *inputs[2:], 3, (19, 23))
    side.synchronize()
    assert torch.equal(canvas, expected)


@pytest.mark.gpu
def test_on_another_gpu_than_the_current_one():
    need_torch_cuda()
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    case = ordinary(1)
    expected = instance_mask_projection(*on("cuda:0", case), 3, (19, 23))
    out = instance_mask_projection(*on("cuda:1", case), 3, (19, 23))
    assert torch.cuda.current_device() == 0
    assert out.device == torch.device("cuda:1")
    assert torch.equal(out.cpu(), expected.cpu())


def test_compiled(device):
    inputs = on(device, ordinary(1, batch=2))
    expected = instance_mask_projection(*inputs, 3, (19, 23))
    compiled = torch.compile(instance_mask_projection, fullgraph=True, backend="aot_eager")
    out = compiled(*inputs, 3, (19, 23))
    assert torch.equal(out, expected)
    for ours, theirs in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        assert torch.equal(ours, theirs)

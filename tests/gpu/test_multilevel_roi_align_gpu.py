# SPDX-License-Identifier: Apache-2.0
"""Multilevel RoIAlign on each device against the reference, and on the GPU against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import library

from imp_trt.cuda import kernels, tensors
from imp_trt.ops.roi_align import torch as multilevel_roi_align
from imp_trt.ops.roi_align.cuda import launch_multilevel_roi_align
from imp_trt.ops.roi_align.torch import pyramid_roi_align
from tests.gpu.conftest import need_torch_cuda
from tests.support.roi_align import awkward_boxes, boxes_of_every_level, pyramid, reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDING = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}
BOXES = {
    "every level": boxes_of_every_level(count=6),
    "awkward": awkward_boxes().expand(2, -1, -1),
}


@pytest.fixture
def only_kernels(device, monkeypatch):
    """The composed form must not stand in for the kernel on a GPU."""

    def fail(*args):
        raise AssertionError("the composed form ran instead of the kernel")

    if device == "cuda":
        monkeypatch.setattr(multilevel_roi_align, "_composed", fail)


@pytest.mark.usefixtures("only_kernels")
@pytest.mark.parametrize("boxes", BOXES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "ratio"), [(7, 2), (4, 1), (3, 3)])
def test_equals_the_reference(device, size, ratio, dtype, boxes):
    levels, boxes = [level.to(dtype) for level in pyramid()], BOXES[boxes]
    expected = reference([level.double().numpy() for level in levels], boxes.numpy(), size, ratio)
    out = pyramid_roi_align(*(level.to(device) for level in levels), boxes.to(device), size, ratio)
    assert out.dtype == dtype
    # Coordinates are float32: a sample of a box of 1e6 pixels is placed to within 1e-2 cells.
    far = np.nan_to_num(boxes.reshape(-1, 4).abs().amax(1).numpy(), nan=0) > 1e5
    tolerance = np.where(far, 0.1, ROUNDING[dtype])[:, None, None, None] * np.maximum(np.abs(expected), 1)
    assert (np.abs(out.double().cpu().numpy() - expected) <= tolerance).all()


def test_channels_beyond_one_block(device):
    levels = pyramid(channels=70)
    boxes = boxes_of_every_level(count=5)
    out = pyramid_roi_align(*(level.to(device) for level in levels), boxes.to(device), 7)
    for first in range(0, 70, 35):
        part = [level[:, first : first + 35].contiguous() for level in levels]
        alone = pyramid_roi_align(*part, boxes, 7)
        torch.testing.assert_close(out[:, first : first + 35].cpu(), alone, atol=1e-5, rtol=1e-5)


def test_other_layouts_and_no_boxes(device):
    levels = [level.to(device) for level in pyramid()]
    boxes = boxes_of_every_level(count=5).to(device)
    last = [level.to(memory_format=torch.channels_last) for level in levels]
    assert torch.equal(pyramid_roi_align(*last, boxes.double(), 7), pyramid_roi_align(*levels, boxes, 7))
    assert pyramid_roi_align(*levels, boxes[:, :0], 7).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("ratio", [2, 0])
def test_aligned_boxes_are_those_of_the_cpu(device, ratio):
    levels, boxes = pyramid(), boxes_of_every_level(count=6)
    expected = pyramid_roi_align(*levels, boxes, 7, ratio, aligned=True)
    out = pyramid_roi_align(*(level.to(device) for level in levels), boxes.to(device), 7, ratio, aligned=True)
    torch.testing.assert_close(out.cpu(), expected, atol=1e-5, rtol=1e-5)


def test_adaptive_sampling_of_awkward_boxes_is_that_of_the_cpu(device):
    levels, boxes = pyramid(batch=1), torch.cat([awkward_boxes(), boxes_of_every_level(batch=1)], 1)
    expected = pyramid_roi_align(*levels, boxes, 7, 0)
    out = pyramid_roi_align(*(level.to(device) for level in levels), boxes.to(device), 7, 0)
    torch.testing.assert_close(out.cpu(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("aligned", [False, True])
def test_backward_is_that_of_the_cpu(device, aligned):
    boxes = boxes_of_every_level(count=6)
    results = []
    for where in ("cpu", device):
        levels = [level.to(where).requires_grad_() for level in pyramid()]
        out = pyramid_roi_align(*levels, boxes.to(where), 7, aligned=aligned)
        weight = torch.linspace(-1, 1, out.numel()).view(out.shape).to(where)
        results.append([grad.cpu() for grad in torch.autograd.grad((out * weight).sum(), levels)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_operator_contract(device):
    levels = [p.to(device).requires_grad_() for p in pyramid(batch=1, channels=2, height=32, width=32)]
    boxes = boxes_of_every_level(batch=1, count=3, height=32, width=32).to(device)
    library.opcheck(
        torch.ops.imp_trt.multilevel_roi_align.default,
        (*levels, boxes, 2, 2, 4, 224),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_contract_of_the_backward_operator(device, layout):
    shape = dict(batch=1, channels=3, height=32, width=32)
    levels = [p.to(device, memory_format=layout) for p in pyramid(**shape)]
    boxes = boxes_of_every_level(batch=1, count=3, height=32, width=32).to(device)
    grad = torch.ones(boxes.shape[1], 3, 2, 2, device=device)
    library.opcheck(
        torch.ops.imp_trt.multilevel_roi_align_backward.default,
        (grad, *levels, boxes, 2, 4, 224),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_runs_give_the_same_bits(device, dtype):
    levels = [level.to(device, dtype) for level in pyramid(channels=40)]
    boxes = boxes_of_every_level().to(device)
    first = pyramid_roi_align(*levels, boxes, 7)
    for _ in range(100 if device == "cuda" else 1):
        assert torch.equal(pyramid_roi_align(*levels, boxes, 7), first)


@pytest.mark.gpu
def test_in_a_cuda_graph():
    need_torch_cuda()
    levels = [level.cuda().half() for level in pyramid()]
    boxes = boxes_of_every_level().cuda()
    expected = pyramid_roi_align(*levels, boxes, 14)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = pyramid_roi_align(*levels, boxes, 14)
    out.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize(("channels", "ratio"), [(3, 2), (72, 2), (72, 0)])
def test_channels_last_khwc8_gives_the_same_bits(channels, ratio, dtype):
    """TensorRT's HWC8, which no PyTorch operator hands over."""
    need_torch_cuda()
    levels, boxes = [p.to("cuda", dtype) for p in pyramid(channels=channels)], boxes_of_every_level().cuda()
    padded = [torch.nn.functional.pad(p.permute(0, 2, 3, 1), (0, -channels % 8)).contiguous() for p in levels]
    batch, count = boxes.shape[:2]
    out = torch.empty(batch * count, channels, 7, 7, device="cuda", dtype=dtype)
    launch_multilevel_roi_align(
        *tensors.pointers(*padded, boxes, out),
        batch=batch,
        boxes_per_image=count,
        channels=channels,
        sizes=[(p.shape[2], p.shape[3]) for p in levels],
        output_size=7,
        sampling_ratio=ratio,
        canonical_level=4,
        canonical_size=224,
        dtype=tensors.DTYPES[dtype],
        layout="hwc8",
        stream=tensors.stream_of(out),
        device=kernels.shared_device(0),
    )
    assert torch.equal(out, pyramid_roi_align(*levels, boxes, 7, ratio))

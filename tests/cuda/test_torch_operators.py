# SPDX-License-Identifier: Apache-2.0
"""The CUDA registrations of the PyTorch operators, on CPU tensors and kernels that run on the host."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import pytest
import torch

from imp_trt.cuda import kernels, tensors
from imp_trt.cuda.driver import Device
from imp_trt.errors import DependencyMissing, InvalidInput
from imp_trt.ops.mask_projection import torch as mask_projection
from imp_trt.ops.roi_align import torch as multilevel_roi_align
from tests.ops.mask_projection_cases import RULES, ordinary
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_kernels import kernels as fake_kernels
from tests.support.roi_align import boxes_of_every_level, pyramid

HALVES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def fake(monkeypatch):
    """CPU tensors pass for CUDA tensors; the fake runs a kernel as soon as it is launched."""
    monkeypatch.setattr(kernels, "_image", lambda op, device: b"image")
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.Tensor, "get_device", lambda self: 0)
    monkeypatch.setattr(tensors, "stream_of", lambda tensor: 2)
    monkeypatch.setattr(tensors, "_unavailable", set())
    with FakeCuda(kernels=fake_kernels(), eager=True).installed() as installed:
        yield installed


def case(dtype=torch.float32, **shape):
    boxes, scores, labels, masks = (torch.from_numpy(a) for a in ordinary(3, batch=2, **shape))
    return boxes, scores, labels, masks.to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rule", RULES)
def test_mask_projection_forward_and_backward(fake, rule, dtype):
    inputs = case(dtype)
    canvas = mask_projection._forward_cuda(*inputs, 3, 19, 23, 0.5, rule)
    assert torch.equal(canvas, mask_projection._composed(*inputs, 3, 19, 23, 0.5, rule))
    grad = torch.randn(canvas.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    grads = mask_projection._backward_cuda(grad, *inputs, 0.5, rule)
    truth = mask_projection._composed_backward(grad, *inputs, 0.5, rule)
    assert all(torch.equal(a, b) for a, b in zip(grads, truth, strict=True))
    suffix = f"{rule}_{tensors.DTYPES[dtype]}"
    assert [launch.entry.removeprefix("imp_mask_projection_") for launch in fake.launches] == [
        suffix,
        f"winner_{suffix}",
        f"backward_{suffix}",
    ]


def test_inputs_of_other_layouts_and_types(fake):
    boxes, scores, labels, masks = case()
    truth = mask_projection._composed(boxes, scores, labels, masks, 3, 19, 23, 1.0, "bilinear")
    twice = [torch.stack([tensor, tensor], -1)[..., 0] for tensor in (boxes, scores, labels, masks)]
    assert not any(tensor.is_contiguous() for tensor in twice)
    shifted = torch.cat([torch.zeros(1), masks.flatten()])[1:].view(masks.shape)
    assert shifted.data_ptr() % 16
    for inputs in (
        tuple(twice),
        (boxes.double(), scores.double(), labels.int(), masks),
        (boxes, scores, labels.to(torch.int16), shifted),
    ):
        assert torch.equal(mask_projection._forward_cuda(*inputs, 3, 19, 23, 1.0, "bilinear"), truth)
    assert [launch.values[5] for launch in fake.launches] == [8, 4, 8]
    assert not any(pointer % 16 for launch in fake.launches for pointer in launch.values[:5])


def test_gradients_have_the_types_of_the_inputs(fake):
    boxes, scores, labels, masks = case(torch.float16)
    grad = torch.ones(2, 3, 19, 23, dtype=torch.float16).expand(2, 3, 19, 23).transpose(2, 3).transpose(2, 3)
    scores = scores.half()
    grad_scores, grad_masks = mask_projection._backward_cuda(grad, boxes, scores, labels, masks, 1.0, "rect")
    assert (grad_scores.dtype, grad_masks.dtype) == (torch.float16, torch.float16)
    assert (grad_scores.shape, grad_masks.shape) == (scores.shape, masks.shape)


@pytest.mark.parametrize(("batch", "count"), [(0, 3), (2, 0)])
def test_nothing_to_project(fake, batch, count):
    boxes, scores, labels = torch.zeros(batch, count, 4), torch.zeros(batch, count), torch.zeros(batch, count)
    inputs = (boxes, scores, labels.long(), torch.zeros(batch, count, 5, 5))
    canvas = mask_projection._forward_cuda(*inputs, 3, 4, 5, 1.0, "nearest")
    assert torch.equal(canvas, torch.zeros(batch, 3, 4, 5))
    grads = mask_projection._backward_cuda(canvas, *inputs, 1.0, "nearest")
    assert [grad.shape for grad in grads] == [scores_shape := (batch, count), (*scores_shape, 5, 5)]


def test_float64_has_no_kernel(fake):
    inputs = case(torch.float64)
    canvas = mask_projection._forward_cuda(*inputs, 3, 19, 23, 1.0, "bilinear")
    assert torch.equal(canvas, mask_projection._composed(*inputs, 3, 19, 23, 1.0, "bilinear"))
    mask_projection._backward_cuda(canvas, *inputs, 1.0, "bilinear")
    levels = [level.double() for level in pyramid()]
    multilevel_roi_align._multilevel_roi_align_cuda(*levels, boxes_of_every_level(), 7, 2, 4, 224)
    mixed = [levels[0].float(), *levels[1:]]
    multilevel_roi_align._multilevel_roi_align_cuda(*mixed, boxes_of_every_level(), 7, 2, 4, 224)
    assert not fake.launches


def test_tensors_that_do_not_match_reach_no_kernel(fake):
    boxes, scores, labels, masks = case()
    options = (3, 19, 23, 1.0, "bilinear")
    with pytest.raises(InvalidInput, match=r"labels: expected shape \[2, 8\]"):
        mask_projection._forward_cuda(boxes, scores, labels[:1], masks, *options)
    with pytest.raises(InvalidInput, match=r"boxes: expected on cpu as the masks, got meta"):
        mask_projection._forward_cuda(boxes.to("meta"), scores, labels, masks, *options)
    with pytest.raises(InvalidInput, match=r"grad: expected 2 images on cpu, got \[1, 3, 9, 9\]"):
        mask_projection._backward_cuda(torch.ones(1, 3, 9, 9), boxes, scores, labels, masks, 1.0, "rect")
    levels, rois = pyramid(), boxes_of_every_level()
    with pytest.raises(
        InvalidInput, match=r"boxes: expected rank 3, beginning with \[2, 24, 4\], got \[1, 24"
    ):
        multilevel_roi_align._multilevel_roi_align_cuda(*levels, rois[:1], 7, 2, 4, 224)
    with pytest.raises(InvalidInput, match=r"p4: expected rank 4, beginning with \[2, 3\], got \[2, 2"):
        multilevel_roi_align._multilevel_roi_align_cuda(
            *levels[:2], levels[2][:, :2], levels[3], rois, 7, 2, 4, 224
        )
    with pytest.raises(InvalidInput, match="boxes: expected on cpu as p2, got meta"):
        multilevel_roi_align._multilevel_roi_align_cuda(*levels, rois.to("meta"), 7, 2, 4, 224)
    assert not fake.launches


@pytest.mark.parametrize("dtype", HALVES)
def test_multilevel_roi_align(fake, dtype):
    levels = [level.to(dtype) for level in pyramid()]
    levels[1] = levels[1].to(memory_format=torch.channels_last)
    boxes = boxes_of_every_level()
    arguments = (*levels, boxes, 7, 2, 4, 112)
    out = multilevel_roi_align._multilevel_roi_align_cuda(*arguments)
    assert torch.equal(out, multilevel_roi_align._composed(*arguments))
    assert [launch.entry for launch in fake.launches] == [f"imp_multilevel_roi_align_{tensors.DTYPES[dtype]}"]


def test_without_kernels_the_operators_work_and_say_so_once(fake, monkeypatch):
    def missing(op, device):
        raise DependencyMissing("NVRTC 13", fix="pip install nvrtc")

    monkeypatch.setattr(kernels, "_image", missing)
    inputs, levels = case(), pyramid()
    with pytest.warns(RuntimeWarning, match=r"slower: NVRTC 13\. Fix: pip install nvrtc") as caught:
        canvas = mask_projection._forward_cuda(*inputs, 3, 19, 23, 1.0, "bilinear")
    assert len(caught) == 1
    assert torch.equal(canvas, mask_projection._composed(*inputs, 3, 19, 23, 1.0, "bilinear"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask_projection._backward_cuda(canvas, *inputs, 1.0, "bilinear")
        multilevel_roi_align._multilevel_roi_align_cuda(*levels, boxes_of_every_level(), 7, 2, 4, 224)
    assert not fake.launches


def test_nothing_is_loaded_while_pytorch_records_a_graph(fake, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with tensors.launching(torch.zeros(1), lambda device: pytest.fail("loaded")) as device:
        assert isinstance(device, Device)


@pytest.mark.parametrize("name", ["instance_mask_projection", "multilevel_roi_align"])
def test_cuda_is_registered(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"imp_trt::{name}", "CUDA")

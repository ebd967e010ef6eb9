# SPDX-License-Identifier: Apache-2.0
"""GPU times of the operators, in microseconds by replay of a CUDA graph; results are compared before they are
timed.

Keys: mask_projection_us and mask_projection_cold_us (after the L2 cache was overwritten), algorithm1_us (of
the paper, float32 canvas), algorithm1_and_cast_us, mask_projection_backward_us, letterbox_us,
class_map_back_us, roi_align_us, torchvision_roi_align_us (boxes already picked by level). Exit code 1: a
result differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from imp_trt.cuda import nvrtc
from imp_trt.cuda.driver import Device, Module
from imp_trt.errors import ImpTrtError, VerificationError
from imp_trt.ops import instance_mask_projection
from imp_trt.ops.mask_projection import cuda as mask_projection
from imp_trt.ops.roi_align import cuda as roi_align
from imp_trt.ops.roi_align.torch import pyramid_roi_align
from imp_trt.preprocessing import letterbox_cuda
from imp_trt.preprocessing.letterbox import LetterboxTransform
from tests.bench import bench_mask_projection_cuda as projection_bench
from tests.bench import bench_multilevel_roi_align_cuda as roi_bench
from tests.bench.cuda_timing import cold_microseconds, copy_rate, machine, microseconds, require_gpu
from tests.gpu.steps.on_gpu import need_gpu, need_torch, report

DTYPE = "f16"
ROI_TOLERANCE = 4e-3  # of float16
# frame, network
LETTERBOXES = (((1080, 1920), (512, 1024)), ((2160, 3840), (512, 1024)), ((360, 480), (384, 512)))


def algorithm1(device: Device) -> Module:
    """The paper's Algorithm 1, compiled for the GPU."""
    target = nvrtc.target(device.compute_capability, device.driver_version)
    image = nvrtc.compile_program(projection_bench.algorithm1_program(), target)
    return Module(image, [f"algorithm1_{name}_{DTYPE}" for name in ("bilinear", "cast")])


def projections(device: Device) -> Iterator[tuple[float, float]]:
    """Times by layout; yields those of the kernel and of Algorithm 1."""
    program = algorithm1(device)
    scale = projection_bench.SCALE
    for name, layout, height, width, classes in projection_bench.SIZES:
        tag = f"{name}, {layout}, {classes}x{height}x{width}"
        case = projection_bench.Case(device, program, layout, (height, width, classes), DTYPE)
        boxes, scores, labels, masks = case.host
        expected = instance_mask_projection(boxes, scores, labels, masks, classes, (height, width), scale)
        for form in (case.kernel, case.scatter, case.scatter_and_cast):
            _compare(f"{form.__name__}, {tag}", form(), expected, projection_bench.TOLERANCE[DTYPE])
        grad = torch.randn(1, classes, height, width, device="cuda", dtype=masks.dtype)
        kernel, scattered = microseconds(case.kernel), microseconds(case.scatter)
        _time("mask_projection_us", tag, kernel)
        _time("algorithm1_us", tag, scattered)
        _time("algorithm1_and_cast_us", tag, microseconds(case.scatter_and_cast))
        _time("mask_projection_cold_us", tag, cold_microseconds(case.kernel))
        backward = partial(mask_projection.backward, grad, *case.data, scale, "bilinear")
        _time("mask_projection_backward_us", tag, microseconds(backward))
        yield kernel, scattered


def roi_aligns(device: Device) -> None:
    for size, name in roi_bench.GRIDS:
        tag = f"{name}, {size}x{size}, {roi_bench.BOXES} boxes, {roi_bench.CHANNELS} channels"
        case = roi_bench.Case(device, size, DTYPE)
        p2, p3, p4, p5 = case.host
        expected = pyramid_roi_align(p2, p3, p4, p5, case.boxes, size)
        _compare(f"RoIAlign, {tag}", case.kernel(), expected, ROI_TOLERANCE)
        _time("roi_align_us", tag, microseconds(case.kernel))
        _time("torchvision_roi_align_us", tag, microseconds(case.torchvision))


def letterboxes(device: Device) -> None:
    for frame, network in LETTERBOXES:
        transform = LetterboxTransform(frame, network, network, 0)
        pixels = torch.randint(0, 256, (*frame, 3), dtype=torch.uint8, device="cuda")
        resized = torch.empty((*network, 3), dtype=torch.uint8, device="cuda")
        classes = torch.randint(0, 19, network, dtype=torch.uint8, device="cuda")
        back = torch.empty(frame, dtype=torch.uint8, device="cuda")
        tag = f"{frame[0]}x{frame[1]}, network {network[0]}x{network[1]}"
        resize = partial(_letterbox, transform, pixels, resized, device)
        _time("letterbox_us", tag, microseconds(resize))
        _time("class_map_back_us", tag, microseconds(partial(_back, transform, classes, back, device)))


def _letterbox(transform: LetterboxTransform, pixels: Tensor, out: Tensor, device: Device) -> None:
    stream = torch.cuda.current_stream().cuda_stream
    pitch = 3 * transform.frame[1]
    arguments = (pixels.data_ptr(), pitch, False, out.data_ptr(), 0, stream, device)
    letterbox_cuda.launch_letterbox(transform, *arguments)


def _back(transform: LetterboxTransform, classes: Tensor, out: Tensor, device: Device) -> None:
    stream = torch.cuda.current_stream().cuda_stream
    letterbox_cuda.launch_invert_mask(transform, classes.data_ptr(), out.data_ptr(), stream, device)


def _time(key: str, case: str, time_us: float) -> None:
    report(**{key: {case: round(time_us, 2)}})


def _compare(what: str, got: Tensor, expected: Tensor, tolerance: float) -> None:
    worst = float((got.float().cpu() - expected.float()).abs().max())
    if not worst <= tolerance:
        raise VerificationError(what, expected=f"within {tolerance} of the CPU", got=worst)


def main() -> int:
    need_gpu()
    need_torch()
    device = require_gpu()
    report(machine=machine(device))
    for operator in (mask_projection, roi_align, letterbox_cuda):
        prepare: Callable[[Any], None] = operator.prepare
        prepare(device)
    try:
        with torch.inference_mode():
            report(copy_bytes_per_s=copy_rate())
            pairs = []
            for pair in projections(device):
                pairs.append(pair)
                slower = sum(kernel > other for kernel, other in pairs)
                times = "/".join(f"{kernel:.1f}" for kernel, _ in pairs)
                report(verdict=f"IMP {times} us, slower than Algorithm 1 in {slower} of {len(pairs)} layouts")
            roi_aligns(device)
            letterboxes(device)
    except ImpTrtError as error:
        report(verdict=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Multilevel RoIAlign on a GPU against torchvision's: first the answer, then the time.

    python -m tests.bench.bench_multilevel_roi_align_cuda [--json FILE] [--dtype f16]

GPU time by graph replay, microseconds. torchvision's MultiScaleRoIAlign assigns levels with operations that
wait for the device, which a graph cannot hold; its row is one RoIAlign per level with the boxes of that level
already picked out, so that it counts less work than torchvision really does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

from imp_trt.cuda.driver import Device
from imp_trt.errors import VerificationError
from imp_trt.ops.roi_align.cuda import launch_multilevel_roi_align, prepare
from imp_trt.ops.roi_align.torch import STRIDES, assign_levels, pyramid_roi_align
from tests.bench.cuda_timing import cold_microseconds, copy_rate, microseconds, run_benchmark

HEIGHT, WIDTH, CHANNELS, BOXES = 512, 1024, 256, 100
GRIDS = ((7, "boxes"), (14, "masks"))
DTYPES = {"f16": torch.float16, "f32": torch.float32}


class Case:
    """Features at strides 4 to 32, boxes of every level, and the forms."""

    def __init__(self, device: Device, size: int, dtype: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.device, self.size, self.dtype = device, size, dtype
        self.host = [
            torch.randn((1, CHANNELS, HEIGHT // s, WIDTH // s), generator=generator).to(DTYPES[dtype])
            for s in STRIDES
        ]
        center = torch.rand(1, BOXES, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
        side = torch.exp(torch.rand(1, BOXES, 2, generator=generator) * 4.1 + 2.4)  # 11 to 665 pixels
        self.boxes = torch.cat([center - side / 2, center + side / 2], 2)
        self.levels = [level.cuda() for level in self.host]
        self.on_device = self.boxes.cuda()
        which = assign_levels(self.boxes)[0]
        self.rows = [(which == k).nonzero()[:, 0].cuda() for k in range(len(STRIDES))]
        self.rois = [
            torch.cat([torch.zeros(len(r), 1, device="cuda"), self.on_device[0, r]], 1).to(DTYPES[dtype])
            for r in self.rows
        ]
        self.out = torch.empty((BOXES, CHANNELS, size, size), dtype=DTYPES[dtype], device="cuda")

    def kernel(self) -> Tensor:
        launch_multilevel_roi_align(
            *(level.data_ptr() for level in self.levels),
            self.on_device.data_ptr(),
            self.out.data_ptr(),
            batch=1,
            boxes_per_image=BOXES,
            channels=CHANNELS,
            sizes=[(level.shape[2], level.shape[3]) for level in self.levels],
            output_size=self.size,
            sampling_ratio=2,
            canonical_level=4,
            canonical_size=224,
            dtype=self.dtype,
            stream=torch.cuda.current_stream().cuda_stream,
            device=self.device,
        )
        return self.out

    def torchvision(self) -> Tensor:
        for level, rois, rows, stride in zip(self.levels, self.rois, self.rows, STRIDES, strict=True):
            self.out[rows] = roi_align(level, rois, self.size, 1 / stride, 2, aligned=False)
        return self.out


def run(device: Device, dtype: str) -> dict[str, Any]:
    prepare(device)
    rate, results = copy_rate(), []
    print(f"{device.name}, {dtype}, {BOXES} boxes, {CHANNELS} channels, copy rate {rate / 1e12:.2f} TB/s")
    for size, name in GRIDS:
        case = Case(device, size, dtype)
        cpu = pyramid_roi_align(*case.host, case.boxes, size)
        difference = float((case.kernel().float().cpu() - cpu.float()).abs().max())
        if difference > {"f16": 4e-3, "f32": 1e-5}[dtype]:
            raise VerificationError(
                f"the kernel at {size}x{size}", expected="the CPU's answer", got=difference
            )
        # In float16 torchvision's boxes are float16 too and move by up to half a pixel.
        apart = float((case.torchvision().float().cpu() - cpu.float()).abs().mean())
        if apart > {"f16": 0.05, "f32": 1e-6}[dtype]:
            raise VerificationError(f"torchvision at {size}x{size}", expected="the CPU's answer", got=apart)
        forms = {"imp_trt kernel": case.kernel, "torchvision": case.torchvision}
        times = {
            form: {"warm_us": microseconds(work), "cold_us": cold_microseconds(work)}
            for form, work in forms.items()
        }
        for form, us in times.items():
            print(
                f"  {name} {size}x{size} {form:16} warm {us['warm_us']:8.2f} us cold {us['cold_us']:8.2f} us"
            )
        results.append({"grid": size, "us": times, "largest_difference": difference})
    return {
        "dtype": dtype,
        "boxes": BOXES,
        "channels": CHANNELS,
        "copy_bytes_per_s": rate,
        "results": results,
    }


def main(arguments: list[str] | None = None) -> None:
    run_benchmark(__doc__, run, DTYPES, arguments)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The kernels on raw device pointers: registers, the bits of the CPU operators, 100 runs.

check_kernels.py [--quick]; --quick leaves out the large layouts, for compute-sanitizer. No kernel of PyTorch
runs. Exit code 1: a result differs.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imp_trt.cuda import driver, kernels
from imp_trt.cuda.driver import Device, DeviceBuffer, Stream
from imp_trt.ops import instance_mask_projection, instance_mask_projection_reference
from imp_trt.ops.mask_projection.cuda import launch_mask_projection
from imp_trt.ops.mask_projection.options import SAMPLING_RULES, Sampling
from imp_trt.ops.roi_align.cuda import launch_multilevel_roi_align
from imp_trt.ops.roi_align.torch import STRIDES, pyramid_roi_align
from imp_trt.preprocessing import letterbox_cuda
from imp_trt.preprocessing.letterbox import LetterboxTransform
from tests.gpu.steps.on_gpu import need_gpu, report

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
ROUNDING = {"f32": 1e-6, "f16": 5e-4, "bf16": 4e-3}  # of values up to 1
ROI_ROUNDING = {"f32": 1e-5, "f16": 4e-3, "bf16": 4e-2}
SCALE = 0.25
# layout, height, width, classes
LAYOUTS = (("log-uniform", 13, 35, 3), ("log-uniform", 256, 512, 8), ("street", 256, 512, 8))
COMPARED = 4  # instances of the small layout: the reference is written for clarity, not for speed
RUNS = 100


class Gpu:
    """A device with a stream, and tensors of the host that are copied to it and back."""

    def __init__(self) -> None:
        self.device = Device.open()
        self.stream = Stream(self.device)
        self._buffers: list[DeviceBuffer] = []

    def __enter__(self) -> Gpu:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (*self._buffers, self.stream, self.device):
            one.close()

    def upload(self, tensor: Tensor) -> int:
        """Device pointer to a copy."""
        tensor = tensor.contiguous()
        pointer = self.empty(tensor)
        size = tensor.numel() * tensor.element_size()
        driver.copy_in(pointer, tensor.data_ptr(), size, self.stream.handle)
        self.stream.synchronize()
        return pointer

    def empty(self, like: Tensor) -> int:
        """Device pointer to memory of the same size."""
        self._buffers.append(DeviceBuffer(like.numel() * like.element_size()))
        return self._buffers[-1].pointer

    def download(self, pointer: int, like: Tensor) -> Tensor:
        """What lies at a pointer after the stream's work, as a tensor like the given one."""
        found = torch.empty_like(like)
        size = found.numel() * found.element_size()
        driver.copy_out(found.data_ptr(), pointer, size, self.stream.handle)
        self.stream.synchronize()
        return found


class Projection:
    """One call of the projection, its inputs on the GPU."""

    def __init__(self, gpu: Gpu, layout: tuple[str, int, int, int], rule: Sampling, dtype: str) -> None:
        from tests.bench.bench_mask_projection_cuda import instances

        name, self.height, self.width, self.classes = layout
        self.gpu, self.dtype = gpu, dtype
        self.rule: Sampling = rule
        data = instances(name, *layout[1:], DTYPES[dtype])
        self.data = [tensor[:, :COMPARED].contiguous() for tensor in data] if layout == LAYOUTS[0] else data
        self.out = torch.empty(1, self.classes, self.height, self.width, dtype=DTYPES[dtype])
        self._pointers = [gpu.upload(tensor) for tensor in (*self.data, torch.full_like(self.out, -1))]

    def run(self) -> Tensor:
        """The canvas of the kernel."""
        masks = self.data[3]
        launch_mask_projection(
            *self._pointers,
            label_bytes=8,
            batch=1,
            instances=masks.shape[1],
            classes=self.classes,
            height=self.height,
            width=self.width,
            cells=masks.shape[2],
            spatial_scale=SCALE,
            sampling=self.rule,
            dtype=self.dtype,
            stream=self.gpu.stream.handle,
            device=self.gpu.device,
        )
        return self.gpu.download(self._pointers[4], self.out)

    def expected(self) -> Tensor:
        """Of the CPU operator."""
        size = (self.height, self.width)
        boxes, scores, labels, masks = self.data
        return instance_mask_projection(boxes, scores, labels, masks, self.classes, size, SCALE, self.rule)

    def distance(self, canvas: Tensor) -> float:
        """Largest difference to the float64 reference."""
        boxes, scores, labels = (tensor.numpy() for tensor in self.data[:3])
        truth = instance_mask_projection_reference(
            boxes,
            scores,
            labels,
            self.data[3].double().numpy(),
            self.classes,
            (self.height, self.width),
            SCALE,
            self.rule,
        )
        return float(np.abs(canvas.double().numpy() - truth).max())


def resources(gpu: Gpu) -> dict[str, Any]:
    """Registers, local and shared memory of each kernel, as the driver says."""
    names = {"registers": "NUM_REGS", "local_bytes": "LOCAL_SIZE_BYTES", "shared_bytes": "SHARED_SIZE_BYTES"}
    attributes = driver.bindings().CUfunction_attribute
    found: dict[str, Any] = {}
    for op, entries in kernels.ENTRIES.items():
        start = time.perf_counter()
        kernels.prepare(op, gpu.device)
        seconds = round(time.perf_counter() - start, 2)
        for entry in entries:
            unit = kernels.variant_of(op, entry)
            module = gpu.device.modules[f"{op}:{unit}" if unit else op]
            found[entry] = {
                name: int(
                    driver.call(
                        "cuFuncGetAttribute",
                        getattr(attributes, f"CU_FUNC_ATTRIBUTE_{attribute}"),
                        module.functions[entry],
                    )
                )
                for name, attribute in names.items()
            }
        report(kernels={"resources": found, "prepare_s": {op: seconds}})
    return found


def projections(gpu: Gpu, quick: bool) -> list[str]:
    """Cases whose result is not that of the CPU operator, or too far from the reference."""
    wrong = []
    for layout in LAYOUTS[:1] if quick else LAYOUTS:
        for rule, dtype in itertools.product(SAMPLING_RULES, DTYPES):
            case = Projection(gpu, layout, rule, dtype)
            got, expected = case.run(), case.expected()
            name = f"{layout[0]} {layout[3]}x{layout[1]}x{layout[2]} {rule} {dtype}"
            equal = torch.equal(got, expected)
            entry: dict[str, object] = {"equals_cpu": equal}
            if layout is LAYOUTS[0]:
                entry["distance_to_reference"] = case.distance(got)
            report(kernels={"mask_projection": {name: entry}})
            far = float(str(entry.get("distance_to_reference", 0))) > ROUNDING[dtype]
            if far or not equal:
                worst = float((got.double() - expected.double()).abs().max())
                wrong.append(f"mask projection {name}: differs by up to {worst:.3g} from the CPU")
    return wrong


def repeated(gpu: Gpu) -> list[str]:
    """Whether 100 runs give the same bits, in the layout with the most boxes in a tile."""
    case = Projection(gpu, LAYOUTS[-1], "bilinear", "f16")
    first = case.run()
    same = sum(torch.equal(case.run(), first) for _ in range(RUNS - 1)) + 1
    report(kernels={"equal_runs": same})
    return [] if same == RUNS else [f"mask projection: {RUNS - same} of {RUNS} runs gave other bits"]


def roi_align(gpu: Gpu) -> list[str]:
    """Types in which RoIAlign is further from the CPU operator than rounding explains."""
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(1, 20, 2, generator=generator) * torch.tensor([256.0, 128.0])
    side = torch.exp(torch.rand(1, 20, 2, generator=generator) * 3.5 + 2)  # 7 to 245 pixels
    boxes = torch.cat([center - side / 2, center + side / 2], 2)
    wrong = []
    for dtype, kind in DTYPES.items():
        p2, p3, p4, p5 = levels = [
            torch.randn(1, 16, 128 // s, 256 // s, generator=generator).to(kind) for s in STRIDES
        ]
        expected = pyramid_roi_align(p2, p3, p4, p5, boxes, 7)
        pointers = [*map(gpu.upload, (*levels, boxes)), gpu.empty(expected)]
        launch_multilevel_roi_align(
            *pointers,
            batch=1,
            boxes_per_image=boxes.shape[1],
            channels=16,
            sizes=[(level.shape[2], level.shape[3]) for level in levels],
            output_size=7,
            sampling_ratio=2,
            canonical_level=4,
            canonical_size=224,
            dtype=dtype,
            stream=gpu.stream.handle,
            device=gpu.device,
        )
        got = gpu.download(pointers[-1], expected)
        worst = float((got.double() - expected.double()).abs().max())
        report(kernels={"roi_align": {dtype: {"equals_cpu": torch.equal(got, expected), "distance": worst}}})
        if not worst <= ROI_ROUNDING[dtype]:
            wrong.append(f"RoIAlign {dtype}: differs by up to {worst:.3g} from the CPU")
    return wrong


def letterbox(gpu: Gpu) -> list[str]:
    """Resizing of a frame and back; 1 of 255 levels of rounding is allowed, as in tests/gpu."""
    transform = LetterboxTransform((90, 160), (64, 96), (54, 96), 114)
    frame = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8))
    expected = torch.from_numpy(transform.apply(frame.numpy()))
    out = gpu.empty(expected)
    letterbox_cuda.launch_letterbox(
        transform, gpu.upload(frame), 3 * 160, False, out, 114, gpu.stream.handle, gpu.device
    )
    worst = int((gpu.download(out, expected).int() - expected.int()).abs().max())
    report(kernels={"letterbox": {"distance": worst}})
    return [] if worst <= 1 else [f"letterbox: differs by up to {worst} levels from the host"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    need_gpu()
    wrong: list[str] = []
    with Gpu() as gpu:
        found = resources(gpu)
        checks: list[Callable[[Gpu], list[str]]] = [lambda one: projections(one, options.quick)]
        checks += [roi_align, letterbox] if options.quick else [repeated, roi_align, letterbox]
        for check in checks:
            wrong += check(gpu)
    registers = [entry["registers"] for entry in found.values()]
    spilled = sum(entry["local_bytes"] > 0 for entry in found.values())
    text = f"{len(found)} kernels, {min(registers)}-{max(registers)} registers, {spilled} with local memory"
    report(verdict=f"{text}; {len(wrong)} results differ" + (f": {wrong[0]}" if wrong else ""))
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Instance mask projection on a GPU against Algorithm 1 and PyTorch: first the answer, then the time.

    python -m tests.bench.bench_mask_projection_cuda [--json FILE] [--dtype f16]

GPU time by graph replay, microseconds. "warm": the same call again and again; "cold": after the L2 cache was
overwritten. Algorithm 1 (tests/bench/algorithm1.cu) counts the clearing of its canvas, which is float32; the
cast to the type of the masks is counted in a row of its own. "share": bytes that any form must read and
write, per second, over the rate of a copy on the same GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from ctypes import c_float, c_int, c_longlong, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imp_trt.cuda import driver, nvrtc
from imp_trt.cuda.driver import Device, Module
from imp_trt.cuda.kernels import Kernel
from imp_trt.cuda.nvrtc import Program
from imp_trt.errors import VerificationError
from imp_trt.ops import instance_mask_projection
from imp_trt.ops.mask_projection.cuda import launch_mask_projection, prepare
from tests.bench.cuda_timing import cold_microseconds, copy_rate, microseconds, run_benchmark

# name, layout, height, width, classes
SIZES = (
    ("cityscapes", "log-uniform", 256, 512, 8),
    ("cityscapes", "street", 256, 512, 8),
    ("clothing", "log-uniform", 200, 333, 25),
    ("4k", "log-uniform", 540, 960, 8),
)
INSTANCES, CELLS, SCALE = 100, 28, 0.25
PEOPLE = 60  # of the instances in a street, the first; the rest are cars
DTYPES = {"f16": torch.float16, "f32": torch.float32}
TOLERANCE = {"f16": 2e-3, "f32": 1e-5}
A1_BLOCKS, A1_THREADS = 16, 256  # IMP_A1_BLOCKS, IMP_A1_THREADS


def _log_uniform(rng: np.random.Generator, height: int, width: int) -> Any:
    """Sides of 8 to 256 cells of the canvas, log-uniform, each box where it fits or overhangs least."""
    side = np.exp(rng.uniform(np.log(8), np.log(256), (INSTANCES, 2)))
    corner = rng.uniform(0, 1, (INSTANCES, 2)) * ([width, height] - side)
    return np.concatenate([corner, corner + side], 1)


def _street(rng: np.random.Generator, height: int, width: int) -> Any:
    """People on two pavements and cars in four lanes, 16 to 60 m away, as a car's camera sees them."""
    focal, eye = 1.1 * width, 1.3  # of the lens, cells; above the ground, metres
    person, distance = np.arange(INSTANCES) < PEOPLE, rng.uniform(16, 60, INSTANCES)
    pavement, lane = rng.choice([-6.0, 5.0], INSTANCES), rng.choice([-4.0, -1.5, 1.5, 4.0], INSTANCES)
    place = np.where(person, pavement, lane) + rng.uniform(-0.8, 0.8, INSTANCES)  # metres from the middle
    size = np.where(person, [[0.7], [1.7]], [[1.9], [1.5]]) * rng.uniform(0.85, 1.15, (2, INSTANCES))
    (wide, tall), x = focal * size / distance, width / 2 + focal * place / distance
    foot = 0.45 * height + focal * eye / distance
    return np.stack([x - wide / 2, foot - tall, x + wide / 2, foot], 1)


LAYOUTS = {"log-uniform": _log_uniform, "street": _street}


def instances(layout: str, height: int, width: int, classes: int, dtype: torch.dtype) -> list[Tensor]:
    """Boxes xyxy in image pixels, scores, labels and masks of one image; the same in every run."""
    rng = np.random.default_rng(0)
    boxes = (LAYOUTS[layout](rng, height, width) / SCALE).astype(np.float32)
    scores = rng.uniform(0.05, 1, INSTANCES).astype(np.float32)
    labels = rng.integers(0, classes, INSTANCES)
    if layout == "street":  # two classes: many boxes in few tiles
        labels = np.where(np.arange(INSTANCES) < PEOPLE, 0, 1)
    masks = rng.uniform(0, 1, (INSTANCES, CELLS, CELLS)).astype(np.float32)
    tensors = [torch.from_numpy(array)[None] for array in (boxes, scores, labels, masks)]
    return [*tensors[:3], tensors[3].to(dtype)]


def _weights(low: Tensor, size: Tensor, extent: int) -> Tensor:
    """[N, extent, P]: what each pixel takes from each cell along an axis."""
    pixels = torch.arange(extent, device=low.device, dtype=torch.float32)
    position = (pixels + 0.5 - low[:, None]) * CELLS / size[:, None] - 0.5
    cell = torch.arange(CELLS, device=low.device, dtype=torch.float32)
    return (1 - (position[..., None] - cell).abs()).clamp(min=0)


def composition(data: list[Tensor], classes: int, size: tuple[int, int]) -> Tensor:
    """The operator from PyTorch's own: bilinear interpolation as two matrix products, then a maximum."""
    boxes, scores, labels, masks = (tensor[0] for tensor in data)
    corners = boxes * SCALE
    low, side = corners[:, :2], corners[:, 2:] - corners[:, :2]
    rows, columns = _weights(low[:, 1], side[:, 1], size[0]), _weights(low[:, 0], side[:, 0], size[1])
    pasted = rows @ masks.float() @ columns.transpose(1, 2) * scores[:, None, None]
    canvas = pasted.new_zeros(classes, size[0] * size[1])
    index = labels[:, None].expand(-1, canvas.shape[1])
    return canvas.scatter_reduce(0, index, pasted.flatten(1), "amax").to(masks.dtype).view(1, classes, *size)


def algorithm1_program() -> Program:
    """The baseline's source with the operator's headers."""
    source = Path(__file__).with_name("algorithm1.cu").read_text()
    return Program("algorithm1.cu", source, nvrtc.program("instance_mask_projection").headers)


class Case:
    """Buffers of one size on the GPU and the forms that fill them."""

    def __init__(
        self, device: Device, algorithm1: Module, layout: str, size: tuple[int, int, int], dtype: str
    ) -> None:
        self.height, self.width, self.classes = size
        self.device, self.dtype, self._algorithm1 = device, dtype, algorithm1
        self.host = instances(layout, *size, DTYPES[dtype])
        self.data = [tensor.cuda() for tensor in self.host]
        shape = (1, self.classes, self.height, self.width)
        self.canvas = torch.empty(shape, dtype=DTYPES[dtype], device="cuda")
        self.scattered = torch.empty(shape, dtype=torch.float32, device="cuda")
        self.sizes = (8, 1, INSTANCES, self.classes, self.height, self.width, CELLS)

    def kernel(self) -> Tensor:
        names = ("label_bytes", "batch", "instances", "classes", "height", "width", "cells")
        launch_mask_projection(
            *(tensor.data_ptr() for tensor in (*self.data, self.canvas)),
            **dict(zip(names, self.sizes, strict=True)),
            spatial_scale=SCALE,
            sampling="bilinear",
            dtype=self.dtype,
            stream=torch.cuda.current_stream().cuda_stream,
            device=self.device,
        )
        return self.canvas

    def scatter(self) -> Tensor:
        stream = torch.cuda.current_stream().cuda_stream
        driver.call("cuMemsetD32Async", self.scattered.data_ptr(), 0, self.scattered.numel(), stream)
        pointers = [(t.data_ptr(), c_void_p) for t in (*self.data, self.scattered)]
        arguments = [*pointers, *((size, c_int) for size in self.sizes), (SCALE, c_float)]
        self._launch(f"algorithm1_bilinear_{self.dtype}", (A1_BLOCKS, INSTANCES, 1), arguments)
        return self.scattered

    def scatter_and_cast(self) -> Tensor:
        self.scatter()
        count = self.canvas.numel()
        pointers = [(t.data_ptr(), c_void_p) for t in (self.scattered, self.canvas)]
        blocks = -(-count // (4 * A1_THREADS))
        self._launch(f"algorithm1_cast_{self.dtype}", (blocks, 1, 1), [*pointers, (count, c_longlong)])
        return self.canvas

    def composed(self) -> Tensor:
        return composition(self.data, self.classes, (self.height, self.width))

    def _launch(self, entry: str, grid: tuple[int, int, int], arguments: list[tuple[Any, Any]]) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        Kernel(entry, self._algorithm1.functions[entry]).launch(grid, (A1_THREADS, 1, 1), stream, arguments)

    def bytes(self) -> int:
        """What any form must read or write at least once."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.data, self.canvas))


def _compiled(case: Case) -> Callable[[], Tensor] | None:
    compiled = torch.compile(composition, fullgraph=True, dynamic=False)

    def run() -> Tensor:
        return compiled(case.data, case.classes, (case.height, case.width))

    try:
        run()
    except Exception as error:  # whatever Inductor lacks here; the other rows stand without it
        reason = (str(error).splitlines() or [""])[0]
        warnings.warn(f"torch.compile failed: {type(error).__name__} {reason}", stacklevel=2)
        return None
    return run


def measure(
    device: Device, algorithm1: Module, name: str, layout: str, size: tuple[int, int, int], dtype: str
) -> Any:
    case = Case(device, algorithm1, layout, size, dtype)
    cpu = instance_mask_projection(*case.host, size[2], size[:2], SCALE)
    forms: dict[str, Callable[[], Tensor] | None] = {
        "imp_trt kernel": case.kernel,
        "algorithm 1, float32": case.scatter,
        "algorithm 1 + cast": case.scatter_and_cast,
        "pytorch eager": case.composed,
        "pytorch compiled": _compiled(case),
    }
    present = {form: run for form, run in forms.items() if run is not None}
    for form, run in present.items():
        case.canvas.fill_(-1)
        difference = float((run().float().cpu() - cpu.float()).abs().max())
        if difference > TOLERANCE[dtype]:
            raise VerificationError(
                f"{form} at {name}, {layout}", expected=f"<= {TOLERANCE[dtype]}", got=difference
            )
    equal = torch.equal(case.kernel().cpu(), cpu)
    times = {
        form: {"warm_us": microseconds(run), "cold_us": cold_microseconds(run)}
        for form, run in present.items()
    }
    return {
        "name": name,
        "layout": layout,
        "canvas": [size[2], *size[:2]],
        "equals_cpu_bit_for_bit": equal,
        "bytes": case.bytes(),
        "us": times,
    }


def run(device: Device, dtype: str) -> dict[str, Any]:
    prepare(device)
    torch.backends.cuda.matmul.allow_tf32 = False
    image = nvrtc.compile_program(
        algorithm1_program(), nvrtc.target(device.compute_capability, device.driver_version)
    )
    algorithm1 = Module(image, [f"algorithm1_{name}_{dtype}" for name in ("bilinear", "cast")])
    rate = copy_rate()
    rows = [measure(device, algorithm1, name, layout, size, dtype) for name, layout, *size in SIZES]
    print(f"{device.name}, masks {dtype}, N={INSTANCES}, copy rate {rate / 1e12:.2f} TB/s")
    for row in rows:
        classes, height, width = row["canvas"]
        print(f"{row['name']}, {row['layout']}, C={classes} {height}x{width}, {row['bytes']} bytes")
        ours = row["us"]["imp_trt kernel"]
        for form, us in row["us"].items():
            share = row["bytes"] / (us["warm_us"] * 1e-6) / rate
            ratio = us["warm_us"] / ours["warm_us"]
            times = f"warm {us['warm_us']:9.2f} us  cold {us['cold_us']:9.2f} us"
            print(f"  {form:22} {times}  {ratio:7.1f}x the kernel  share {share:6.1%}")
    return {"dtype": dtype, "instances": INSTANCES, "copy_bytes_per_s": rate, "results": rows}


def main(arguments: list[str] | None = None) -> None:
    run_benchmark(__doc__, run, DTYPES, arguments)


if __name__ == "__main__":
    main()

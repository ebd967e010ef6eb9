"""Faults planted into the kernels must be found: without this, a clean run under sanitizers proves little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imp_trt.cuda.kernels import geometry
from tests.ops.mask_projection_cases import Case, ordinary
from tests.support.cuda_on_host.host_kernels import PLUGINS, HostKernelFault, HostKernels, Out

OP = "instance_mask_projection"
ENTRY = "imp_mask_projection_bilinear_f32"

# name: (sanitizer, file, text, what it becomes, what is reported)
FAULTS = {
    "a row below the canvas": (
        "address",
        "project_tile.h",
        "if (x < width && y < height) {",
        "if (x < width && y <= height) {",
        "heap-buffer-overflow",
    ),
    "a list longer than its array": (
        "address",
        "project_tile.h",
        "count + IMP_MP_THREADS <= kList",
        "count <= kList",
        "runtime error",
    ),
    "a coordinate cast without a test": (
        "address",
        "instance_mask_projection.h",
        " && position < static_cast<float>(cells))) {",
        ")) {",
        "outside the range of representable values",
    ),
    "threads that skip a barrier": (
        "address",
        "project_tile.h",
        "if (first > 0) {",
        "if (first > 0 && threadIdx.x > 0) {",
        "barrier",
    ),
    "taps read before all are written": (
        "thread",
        "project_tile.h",
        "make_taps<rule>(memory, first, used, left, top, p.cells);\n                __syncthreads();",
        "make_taps<rule>(memory, first, used, left, top, p.cells);",
        "data race",
    ),
    "a list read before all is written": (
        "thread",
        "project_tile.h",
        "next += IMP_MP_THREADS;\n        __syncthreads();",
        "next += IMP_MP_THREADS;",
        "data race",
    ),
    "taps overwritten while they are read": (
        "thread",
        "project_tile.h",
        "if (first > 0) {\n                    __syncthreads();",
        "if (first > 0) {",
        "data race",
    ),
}


def build(folder: Path, sanitizer: str, file: str = "", text: str = "", fault: str = "") -> HostKernels:
    """One kernel from a copy of the sources, in which `text` of a file becomes `fault`."""
    include = folder / "plugins"
    (include / OP).mkdir(parents=True)
    for header in sorted((PLUGINS / OP).glob("*.h")):
        source = header.read_text()
        if header.name == file:
            assert source.count(text) == 1, f"{file} has changed: plant the fault where it belongs now"
            source = source.replace(text, fault)
        (include / OP / header.name).write_text(source)
    kernels, separator, _ = (PLUGINS / OP / f"{OP}.cu").read_text().partition("IMP_MP_DTYPES(bilinear)")
    assert separator
    copy = include / OP / f"{OP}.cu"
    copy.write_text(f"{kernels}IMP_MP_KERNELS(bilinear, f32, float)\n")
    return HostKernels(copy, [ENTRY], folder, sanitizer, [include])


def launch(kernels: HostKernels) -> None:
    """More instances than the list holds, on tiles that reach beyond the canvas."""
    case = ordinary(1, count=300, cells=3, canvas=(20, 21), classes=1)
    # The center of pixel 0 is inside, pixel 63 lies 6e9 cells behind: more than an int holds.
    thin = np.array([[[np.nextafter(np.float32(0.5), np.float32(0)), 3.0, 0.5, 9.0]]], np.float32)
    case = Case(thin, *(array[:, :1] for array in case[1:])).plus(case)
    sizes = [8, 1, case.boxes.shape[1], 1, 20, 21, 3, 1.0]
    constants = geometry(OP)
    grid = (-(-21 // constants["IMP_MP_TILE_W"]), -(-20 // constants["IMP_MP_TILE_H"]), 1)
    canvas = Out(np.zeros((1, 1, 20, 21), np.float32))
    kernels.run(ENTRY, grid, (constants["IMP_MP_THREADS"], 1, 1), [*case, canvas, *sizes])


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_the_kernel_itself_has_no_fault(sanitizer: str, tmp_path: Path) -> None:
    kernels = build(tmp_path, sanitizer)
    launch(kernels)
    kernels.close()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    sanitizer, file, text, fault, report = FAULTS[name]
    kernels = build(tmp_path, sanitizer, file, text, fault)
    with pytest.raises(HostKernelFault, match=report):
        launch(kernels)

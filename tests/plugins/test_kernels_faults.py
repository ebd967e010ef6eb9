# SPDX-License-Identifier: Apache-2.0
"""Faults planted into the kernels must be found: without this, a clean run under sanitizers proves little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imp_trt.cuda.kernels import geometry
from tests.ops.mask_projection_cases import Case, ordinary
from tests.support.cuda_on_host.host_kernels import PLUGINS, HostKernelFault, HostKernels, Out
from tests.support.variants import variants

OP = "instance_mask_projection"
ENTRY = "imp_mask_projection_bilinear_f32"

# name: (sanitizer, file, text, what it becomes, what is reported)
FAULTS = {
    "a row below the canvas": (
        "address",
        "store_tile.h",
        "if (x < width && y < height) {",
        "if (x < width && y <= height) {",
        "heap-buffer-overflow",
    ),
    "a list longer than its array": (
        "address",
        "list_instances.h",
        "count + IMP_MP_THREADS <= kList",
        "count <= kList",
        "AddressSanitizer|runtime error",
    ),
    "a coordinate cast without a test": (
        "address",
        "instance_mask_projection.h",
        "const float place = inside ? position : 0.0F;",
        "const float place = position;",
        "outside the range of representable values",
    ),
    "a neighbor behind the last cell": (
        "address",
        "instance_mask_projection.h",
        "at_most(cell, cells - 2)",
        "at_most(cell, cells - 1)",
        "heap-buffer-overflow",
    ),
    "threads that skip a barrier": (
        "address",
        "project_tile.h",
        "__syncthreads();  // what the boxes need",
        "if (threadIdx.x > 0) __syncthreads();  // what the boxes need",
        "barrier",
    ),
    "more lines than there is room for": (
        "thread",
        "project_tile.h",
        "room += end <= kLines ? 1 : 0;",
        "room += end <= 2 * kLines ? 1 : 0;",
        "data race|SEGV",
    ),
    "numbers of lines written by two lanes at once": (
        "thread",
        "prepare_box.h",
        "not used\n    __syncwarp();",
        "not used",
        "data race",
    ),
    "lines read before all are written": (
        "thread",
        "project_tile.h",
        "    __syncthreads();\n    return room;",
        "    return room;",
        "data race",
    ),
    "a list read before all is written": (
        "thread",
        "list_instances.h",
        "next += IMP_MP_THREADS;\n        __syncthreads();",
        "next += IMP_MP_THREADS;",
        "data race",
    ),
    "lines overwritten while they are read": (
        "thread",
        "project_tile.h",
        "__syncthreads();  // what the boxes need",
        "// what the boxes need",
        "data race",
    ),
}
CELLS = 28


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
    kernels, separator, _ = (PLUGINS / OP / f"{OP}.cu").read_text().partition("#ifdef IMP_MP_ONLY_RULE")
    assert separator
    copy = include / OP / f"{OP}.cu"
    copy.write_text(f"{kernels}IMP_MP_KERNELS(bilinear, f32, float)\n")
    return HostKernels(copy, [ENTRY], folder, sanitizer, [include])


def launch(kernels: HostKernels) -> None:
    """More instances than the list holds, more lines than fit, tiles that reach beyond the canvas."""
    case = ordinary(1, count=600, cells=CELLS, canvas=(20, 21), classes=1)
    # The center of pixel 0 is inside, pixel 63 lies 6e9 cells behind: more than an int holds.
    thin = np.array([[[np.nextafter(np.float32(0.5), np.float32(0)), 3.0, 0.5, 9.0]]], np.float32)
    # The last mask is read up to its last cell.
    last = np.array([[[-40.0, -40.0, 20.2, 19.2]]], np.float32)
    case = (
        Case(thin, *(array[:, :1] for array in case[1:]))
        .plus(case)
        .plus(Case(last, *(array[:, -1:] for array in case[1:])))
    )
    sizes = [8, 1, case.boxes.shape[1], 1, 20, 21, CELLS, 1.0]
    constants = geometry(OP)
    grid = (-(-21 // constants["IMP_MP_TILE_W"]), -(-20 // constants["IMP_MP_TILE_H"]), 1)
    canvas = Out(np.zeros((1, 1, 20, 21), np.float32))
    kernels.run(ENTRY, grid, (constants["IMP_MP_THREADS"], 1, 1), [*case, canvas, *sizes])


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_the_kernel_itself_has_no_fault(sanitizer: str, tmp_path: Path) -> None:
    kernels = build(tmp_path, sanitizer)
    launch(kernels)
    kernels.close()


# Each fault costs a compilation.
USUAL = ("a row below the canvas", "threads that skip a barrier", "lines read before all are written")


@pytest.mark.slow
@pytest.mark.parametrize("name", variants(FAULTS, USUAL))
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    sanitizer, file, text, fault, report = FAULTS[name]
    kernels = build(tmp_path, sanitizer, file, text, fault)
    with pytest.raises(HostKernelFault, match=report):
        launch(kernels)

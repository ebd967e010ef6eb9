# SPDX-License-Identifier: Apache-2.0
"""Faults planted into the kernel of multilevel RoIAlign must be found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imp_trt.cuda.kernels import geometry
from tests.support.cuda_on_host import operators
from tests.support.cuda_on_host.host_kernels import PLUGINS, HostKernelFault, HostKernels, Out
from tests.support.cuda_on_host.operators import NUMPY_DTYPES, garbage, stored
from tests.support.roi_align import awkward_boxes, boxes_of_every_level, pyramid
from tests.support.variants import variants

OP = "multilevel_roi_align"

# name: (sanitizer, layout, file, text, what it becomes, what is reported)
FAULTS = {
    "a right neighbor behind the last cell": (
        "address",
        "linear",
        "pool_bins.h",
        " & (x.high == x.low + 1)",
        "",
        "heap-buffer-overflow",
    ),
    "a sample outside the map": (
        "address",
        "linear",
        "pool_bins.h",
        "(y.low != kNoSample) & (x.low != kNoSample) & ",
        "",
        "AddressSanitizer",
    ),
    "a sample outside the map, channels last": (
        "address",
        "hwc8",
        "pool_channels_last.h",
        "inside &= (y.low != kNoSample) & (x.low != kNoSample);",
        "",
        "AddressSanitizer",
    ),
    "channels that fill up are stored": (
        "address",
        "hwc8",
        "pool_channels_last.h",
        "if (k < channels) {",
        "if (k <= channels) {",
        "heap-buffer-overflow",
    ),
    "two threads at one output": (
        "thread",
        "linear",
        "pool_bins.h",
        "if (first >= together) {",
        "if (first > together) {",
        "data race",
    ),
    "samples read before all are written": (
        "thread",
        "linear",
        f"{OP}.cu",
        "fill_tables(memory, grid, output_size);\n    __syncthreads();",
        "__syncthreads();\n    fill_tables(memory, grid, output_size);",
        "data race",
    ),
}


def planted(folder: Path, file: str, text: str, fault: str) -> Path:
    """The .cu file of a copy of the sources in which `text` of a file becomes `fault`."""
    (folder / OP).mkdir(parents=True)
    for path in (*(PLUGINS / OP).glob("*.h"), PLUGINS / OP / f"{OP}.cu"):
        source = path.read_text()
        if path.name == file:
            assert source.count(text) == 1, f"{file} has changed: plant the fault where it belongs now"
            source = source.replace(text, fault)
        (folder / OP / path.name).write_text(source)
    return folder / OP / f"{OP}.cu"


def run(
    folder: Path, sanitizer: str, layout: str = "linear", file: str = "", text: str = "", fault: str = ""
) -> None:
    """One kernel, in whose sources `text` of a file becomes `fault`, on boxes of all kinds."""
    dtype = "f32" if layout == "linear" else "f16"
    entry = f"imp_multilevel_roi_align_{dtype if layout == 'linear' else f'{layout}_{dtype}'}"
    kernels = operators.kernels(OP, sanitizer)
    if file:
        source = planted(folder / "plugins", file, text, fault)
        kernels = HostKernels(source, [entry], folder, sanitizer, [folder / "plugins"])
    boxes = torch.cat([awkward_boxes(), boxes_of_every_level(batch=1, count=20)], 1)
    levels, count, channels = pyramid(batch=1, channels=7), boxes.shape[1], 7
    constants = geometry(OP)
    grid = (count, -(-channels // constants["IMP_RA_CHANNELS"]), 1)
    out = Out(garbage((count, channels, 7, 7), NUMPY_DTYPES[dtype]))
    sides = [side for level in levels for side in level.shape[2:]]
    arguments: list[Any] = [stored(level.numpy(), dtype) for level in levels]
    if layout == "hwc8":
        arguments = [np.pad(level.transpose(0, 2, 3, 1), [(0, 0)] * 3 + [(0, 1)]) for level in arguments]
    arguments += [boxes.numpy(), out, 1, count, channels, *sides, 7, 2, 4, 224, 0]
    kernels.run(entry, grid, (constants["IMP_RA_THREADS"], 1, 1), arguments)
    kernels.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sanitizer", "layout"),
    [
        ("address", "hwc8"),
        pytest.param("address", "linear", marks=pytest.mark.exhaustive),
        pytest.param("thread", "hwc8", marks=pytest.mark.exhaustive),
        ("thread", "linear"),
    ],
)
def test_the_kernel_itself_has_no_fault(sanitizer: str, layout: str, tmp_path: Path) -> None:
    run(tmp_path, sanitizer, layout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", variants(FAULTS, ("a sample outside the map, channels last", "two threads at one output"))
)
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    *planted, report = FAULTS[name]
    with pytest.raises(HostKernelFault, match=report):
        run(tmp_path, *planted)

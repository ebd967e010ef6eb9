"""Faults planted into the kernel of multilevel RoIAlign must be found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from imp_trt.cuda.kernels import geometry
from tests.support.cuda_on_host.host_kernels import PLUGINS, HostKernelFault, HostKernels, Out
from tests.support.cuda_on_host.operators import garbage
from tests.support.roi_align import awkward_boxes, boxes_of_every_level, pyramid

OP = "multilevel_roi_align"
ENTRY = "imp_multilevel_roi_align_f32"

# name: (sanitizer, text, what it becomes, what is reported)
FAULTS = {
    "a right neighbour behind the last cell": (
        "address",
        " & (x.high == x.low + 1)",
        "",
        "heap-buffer-overflow",
    ),
    "a sample outside the map": (
        "address",
        "(y.low != kNoSample) & (x.low != kNoSample) & ",
        "",
        "AddressSanitizer",
    ),
    "two threads at one output": (
        "thread",
        "if (first >= together) {",
        "if (first > together) {",
        "data race",
    ),
    "samples read before all are written": (
        "thread",
        "fill_tables(memory, grid, output_size);\n    __syncthreads();",
        "__syncthreads();\n    fill_tables(memory, grid, output_size);",
        "data race",
    ),
}


def run(folder: Path, sanitizer: str, text: str = "", fault: str = "") -> None:
    """One kernel, in whose source `text` becomes `fault`, on boxes of all levels and awkward ones."""
    source = (PLUGINS / OP / f"{OP}.cu").read_text()
    if text:
        assert source.count(text) == 1, "the source has changed: plant the fault where it belongs now"
        source = source.replace(text, fault)
    copy = folder / f"{OP}.cu"
    copy.write_text(source)
    kernels = HostKernels(copy, [ENTRY], folder, sanitizer)
    boxes = torch.cat([awkward_boxes(), boxes_of_every_level(batch=1, count=20)], 1)
    levels, count, channels = pyramid(batch=1, channels=7), boxes.shape[1], 7
    constants = geometry(OP)
    grid = (count, -(-channels // constants["IMP_RA_CHANNELS"]), 1)
    out = Out(garbage((count, channels, 7, 7), "float32"))
    sides = [side for level in levels for side in level.shape[2:]]
    arguments = [level.numpy() for level in levels]
    arguments += [boxes.numpy(), out, 1, count, channels, *sides, 7, 2, 4, 224]
    kernels.run(ENTRY, grid, (constants["IMP_RA_THREADS"], 1, 1), arguments)
    kernels.close()


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_the_kernel_itself_has_no_fault(sanitizer: str, tmp_path: Path) -> None:
    run(tmp_path, sanitizer)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    sanitizer, text, fault, report = FAULTS[name]
    with pytest.raises(HostKernelFault, match=report):
        run(tmp_path, sanitizer, text, fault)

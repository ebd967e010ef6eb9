# SPDX-License-Identifier: Apache-2.0
"""GPU time by replaying CUDA graphs, and what a figure must name: GPU, driver, versions."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from imp_trt.cuda import nvrtc
from imp_trt.cuda.driver import Device
from imp_trt.cuda.kernels import shared_device
from imp_trt.errors import DependencyMissing, ImpTrtError

REPLAYS = 20


def require_gpu() -> Device:
    """The GPU that PyTorch uses.

    Raises:
        DependencyMissing: there is none, or PyTorch was built without CUDA.
    """
    if not torch.cuda.is_available():
        build = f"PyTorch {torch.__version__} for CUDA {torch.version.cuda}"
        raise DependencyMissing(
            "an NVIDIA GPU that PyTorch can use",
            got=f"none with {build}",
            fix="run this benchmark on a machine where nvidia-smi lists a GPU",
        )
    torch.cuda.init()
    return shared_device(torch.cuda.current_device())


def machine(device: Device) -> dict[str, str]:
    """What the figures were measured on."""
    try:
        kernel_module = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        kernel_module = "unknown"
    compiler = nvrtc.target(device.compute_capability, device.driver_version).library
    return {
        "gpu": device.name,
        "compute_capability": ".".join(map(str, device.compute_capability)),
        "driver_cuda": ".".join(map(str, device.driver_version)),
        "driver": kernel_module,
        "nvrtc": ".".join(map(str, compiler.version)),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def microseconds(work: Callable[[], Any], repeats: int = 50) -> float:
    """GPU time of one call: the median over replays of a graph that holds `repeats` calls in a row."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            work()
    graph.replay()
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / repeats)
    return statistics.median(times)


def cold_microseconds(work: Callable[[], Any], repeats: int = 20) -> float:
    """The same with an L2 cache that holds none of its data: it is overwritten before each call."""
    size = 4 * torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    other = torch.empty(max(size, 64 << 20), dtype=torch.uint8, device="cuda")

    def after_flush() -> None:
        other.fill_(1)
        work()

    return microseconds(after_flush, repeats) - microseconds(lambda: other.fill_(1), repeats)


def copy_rate() -> float:
    """Bytes/s read plus written by a copy of 1 GiB from device to device."""
    source = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (microseconds(lambda: target.copy_(source), 5) * 1e-6)


def run_benchmark(
    description: str | None,
    run: Callable[[Device, str], dict[str, Any]],
    dtypes: Iterable[str],
    arguments: list[str] | None = None,
) -> None:
    """A benchmark's command line: runs it, writes its JSON, and ends with the exit code of its error."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--dtype", choices=sorted(dtypes), default="f16")
    options = parser.parse_args(arguments)
    try:
        device = require_gpu()
        with torch.inference_mode():
            result = {"machine": machine(device), **run(device, options.dtype)}
    except ImpTrtError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")

# SPDX-License-Identifier: Apache-2.0
"""Versions, tools and the GPU of this machine, as JSON."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from imp_trt.cuda import nvrtc
from imp_trt.cuda.driver import device_info
from imp_trt.errors import ImpTrtError
from tests.gpu.steps.on_gpu import report

PACKAGES = (
    "numpy",
    "torch",
    "torchvision",
    "cuda-bindings",
    "opencv-python",
    "opencv-python-headless",
    "pytest",
    "hypothesis",
    "onnx",
    "onnxruntime",
    "safetensors",
    "tensorrt",
    "tensorrt-rtx",
    "torch-tensorrt",
    "pycuda",
)
TOOLS = ("nvcc", "cmake", "ninja", "g++", "compute-sanitizer")


def main() -> int:
    tools = {tool: _version(tool) for tool in TOOLS}
    found = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: version for name in PACKAGES if (version := _package(name))},
        "tools": tools,
        "tensorrt_root": os.environ.get("TENSORRT_ROOT", ""),
    }
    missing = [tool for tool, version in tools.items() if not version]
    without = f", without {', '.join(missing)}" if missing else ""
    report(machine=found)
    try:
        info = device_info()
    except ImpTrtError as error:
        report(machine={"gpu": ""}, verdict=f"no CUDA device: {error.what}: {error.got}{without}")
        return 0
    driver = ".".join(map(str, info.driver_version))
    try:
        target = nvrtc.target(info.compute_capability, info.driver_version)
        compiler = ".".join(map(str, target.library.version))
    except ImpTrtError as error:
        compiler = f"none: {error}"
    gpu = {
        "gpu": info.name,
        "compute_capability": ".".join(map(str, info.compute_capability)),
        "driver_cuda": driver,
        "driver": _kernel_module(),
        "nvrtc": compiler,
    }
    report(machine=gpu, verdict=f"{info.name}, driver for CUDA {driver}, NVRTC {compiler}{without}")
    return 0


def _package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _version(tool: str) -> str:
    """Last line that a tool says about its version; empty if it is not on the PATH."""
    path = shutil.which(tool)
    if path is None:
        return ""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return path
    lines = [line for line in done.stdout.splitlines() if any(c.isdigit() for c in line)]
    return lines[-1].strip() if lines else path


def _kernel_module() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())

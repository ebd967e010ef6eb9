# SPDX-License-Identifier: Apache-2.0
"""Description of the machine, and its load by other programs during a measurement."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import TypedDict

import imp_trt
from imp_trt.cuda.cpus import usable_cpus
from imp_trt.cuda.platform import Gpu, Platform, cpu_model, platform_name

MAX_OTHER_LOAD = 0.1
"""Fraction of the CPU time used by other programs above which a warning is reported."""

_PACKAGES = (
    *("numpy", "opencv-python", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("torch", "torchvision"),
)
_GPU_FIELDS = (
    "name",
    "driver_version",
    "pstate",
    "clocks.sm",
    "clocks.mem",
    "power.limit",
    "utilization.gpu",
)
_STAT = Path("/proc/stat")


class MachineInfo(TypedDict):
    """Hardware and software of a measurement, data for JSON."""

    platform: str
    cpu: str
    cpus: int
    threads: int | None
    governor: str | None
    load_average: float | None
    versions: dict[str, str]
    gpu: dict[str, str] | None


def describe(backend: str, threads: int | None, gpu: int | None) -> MachineInfo:
    """Describe the machine, for reports.

    Args:
        backend: the library that runs the network.
        threads: of the network; None if the backend selects their number.
        gpu: index of the GPU that runs it; None for the CPU.
    """
    info: MachineInfo = {
        "platform": platform_name(),
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "threads": threads,
        "governor": _line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "load_average": _load(),
        "versions": versions(),
        "gpu": None,
    }
    if gpu is not None:
        platform = Platform.detect(gpu)
        for name, version in (("tensorrt", platform.tensorrt), ("tensorrt-rtx", platform.tensorrt_rtx)):
            if version and name == backend:
                info["versions"][name] = version
        if isinstance(platform.gpu, Gpu):
            info["gpu"] = {
                "name": platform.gpu.name,
                "compute_capability": platform.gpu.compute_capability,
                "cuda_of_driver": "{}.{}".format(*platform.gpu.driver),
                **_gpu_state(gpu),
            }
    return info


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that affect a measurement."""
    installed = {"imp-trt": imp_trt.__version__, "python": python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


class CpuMonitor:
    """Measures the fraction of CPU time that other programs use, from construction on.

    Args:
        stat: returns the text of /proc/stat.
        own: returns the CPU seconds of this process and its children so far.
        clock_ticks: clock ticks of the kernel per second.
    """

    def __init__(
        self,
        stat: Callable[[], str] = lambda: _STAT.read_text(),
        own: Callable[[], float] = lambda: sum(os.times()[:4]),
        clock_ticks: int | None = None,
    ) -> None:
        self._stat, self._own = stat, own
        self._ticks = clock_ticks or os.sysconf("SC_CLK_TCK")
        self._start = self._read()

    def others(self) -> float | None:
        """Fraction of the CPU time, 0 to 1; None if it is not available, or no time has passed."""
        now = self._read()
        if self._start is None or now is None or now[1] <= self._start[1]:
            return None
        busy, total, own = (b - a for a, b in zip(self._start, now, strict=True))
        return min(max((busy - own) / total, 0.0), 1.0)

    def _read(self) -> tuple[float, float, float] | None:
        """Busy seconds of all CPUs, total seconds of all CPUs, and CPU seconds of this process."""
        try:
            fields = [int(value) for value in self._stat().splitlines()[0].split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None
        idle = sum(fields[3:5])
        return (sum(fields) - idle) / self._ticks, sum(fields) / self._ticks, self._own()


def busy_warning(load: float | None, cpus: int, others: float | None) -> str | None:
    """Return a warning if other programs used the CPUs during the measurement, otherwise None.

    Args:
        load: load average of the last minute before the measurement.
        others: fraction of the CPU time that other programs used during the measurement.
    """
    if others is not None and others > MAX_OTHER_LOAD:
        return f"busy machine: other programs used {others:.0%} of the CPU time; times may be too long"
    if others is None and load is not None and load > 0.5 * cpus:
        return f"busy machine: load average {load:.1f} on {cpus} CPUs before; times may be too long"
    return None


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _line(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _gpu_state(index: int) -> dict[str, str]:
    """Driver, clocks and power state as reported by nvidia-smi; empty without nvidia-smi (Jetson)."""
    program = shutil.which("nvidia-smi")
    # CUDA_VISIBLE_DEVICES renumbers the devices for CUDA but not for nvidia-smi.
    if program is None or "CUDA_VISIBLE_DEVICES" in os.environ:
        return {}
    query = [program, f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader", f"--id={index}"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")] if done.stdout else []
    return dict(zip(_GPU_FIELDS[1:], values[1:], strict=False))

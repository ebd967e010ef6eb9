"""The machine that a measurement belongs to, and how busy others kept it meanwhile."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import imp_trt
from imp_trt.cuda.platform import Gpu, Platform, cpu_model, platform_name, usable_cpus

BUSY_SHARE = 0.1
"""Share of the CPUs used by others from which a measurement is called disturbed."""

_PACKAGES = ("numpy", "opencv-python", "opencv-python-headless", "onnxruntime", "torch", "torchvision")
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


def describe(backend: str, threads: int | None, gpu: int | None) -> dict[str, Any]:
    """What a reader must know to repeat a measurement; plain data.

    Args:
        backend: the library that runs the network.
        threads: of the network; None if the backend chose.
        gpu: number of the GPU that runs it; None for the CPU.
    """
    found: dict[str, Any] = {
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
        here = Platform.detect(gpu)
        for name, version in (("tensorrt", here.tensorrt), ("tensorrt-rtx", here.tensorrt_rtx)):
            if version and name == backend:
                found["versions"][name] = version
        if isinstance(here.gpu, Gpu):
            found["gpu"] = {
                "name": here.gpu.name,
                "compute_capability": here.gpu.compute_capability,
                "cuda_of_driver": "{}.{}".format(*here.gpu.driver),
                **_gpu_state(gpu),
            }
    return found


def versions() -> dict[str, str]:
    """Name -> version of what takes part, as far as it is installed."""
    found = {"imp-trt": imp_trt.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class CpuWatch:
    """Which share of all CPUs other programs use, from its making until it is asked.

    Args:
        stat: text of /proc/stat.
        own: CPU seconds of this process and its children so far.
        clock_ticks: of the kernel, per second.
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
        """0 to 1; None where the system does not tell, or no time has passed."""
        now = self._read()
        if self._start is None or now is None or now[1] <= self._start[1]:
            return None
        busy, total, own = (b - a for a, b in zip(self._start, now, strict=True))
        return min(max((busy - own) / total, 0.0), 1.0)

    def _read(self) -> tuple[float, float, float] | None:
        """Busy and all seconds of the CPUs, and those of this process."""
        try:
            fields = [int(value) for value in self._stat().splitlines()[0].split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None
        idle = sum(fields[3:5])
        return (sum(fields) - idle) / self._ticks, sum(fields) / self._ticks, self._own()


def busy_warning(load: float | None, cpus: int, others: float | None) -> str | None:
    """One line if something else ran beside the measurement, else None.

    Args:
        load: load average of the minute before.
        others: share of all CPUs that other programs used meanwhile.
    """
    if others is not None and others > BUSY_SHARE:
        return f"busy machine: other programs used {others:.0%} of its CPUs meanwhile; an idle one is faster"
    if others is None and load is not None and load > 0.5 * cpus:
        return f"busy machine: load average {load:.1f} on {cpus} CPUs before; an idle one is faster"
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
    """Driver, clocks and power state as nvidia-smi tells them; nothing where there is none (Jetson)."""
    program = shutil.which("nvidia-smi")
    if program is None or "CUDA_VISIBLE_DEVICES" in os.environ:  # which changes CUDA's numbers alone
        return {}
    query = [program, f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader", f"--id={index}"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")] if done.stdout else []
    return dict(zip(_GPU_FIELDS[1:], values[1:], strict=False))

# SPDX-License-Identifier: Apache-2.0
"""Libraries, GPU and plugins of this machine, detected without importing TensorRT."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from imp_trt.errors import DependencyMissing, ImpTrtError

LIBRARY_VARIABLE = "IMP_TRT_PLUGIN_LIBRARY"
"""Environment variable with the path of the C++ plugin library."""

# Module -> distributions that contain it, newest naming first. JetPack and Debian's python3-libnvinfer
# register `tensorrt`; a container may have only the bindings.
_DISTRIBUTIONS = {
    "tensorrt": (
        "tensorrt",
        "tensorrt-cu13",
        "tensorrt-cu12",
        "tensorrt-cu13-bindings",
        "tensorrt-cu12-bindings",
    ),
    "tensorrt_rtx": (
        "tensorrt-rtx",
        "tensorrt-rtx-cu13",
        "tensorrt-rtx-cu12",
        "tensorrt-rtx-cu13-bindings",
        "tensorrt-rtx-cu12-bindings",
    ),
}
_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Gpu:
    """A GPU: name, compute capability ("8.9"), and newest CUDA version that its driver supports, (13, 0)."""

    name: str
    compute_capability: str
    driver: tuple[int, int]


@dataclass(frozen=True)
class Platform:
    """What is installed for engines; an error with its fix instead of what is missing.

    Attributes:
        name: operating system and architecture, e.g. "linux-x86_64".
        tensorrt, tensorrt_rtx: installed version, or None.
        gpu: the GPU that would be used.
        plugins: description of the plugins that would be used.
    """

    name: str
    tensorrt: str | None
    tensorrt_rtx: str | None
    gpu: Gpu | ImpTrtError
    plugins: str | ImpTrtError

    @classmethod
    def detect(cls, device: int = 0) -> Platform:
        """The platform of this machine, with GPU number device. Does not raise if something is missing."""
        gpu = _gpu(device)
        return cls(
            name=platform_name(),
            tensorrt=installed_version("tensorrt"),
            tensorrt_rtx=installed_version("tensorrt_rtx"),
            gpu=gpu,
            plugins=_plugins(gpu),
        )

    def version(self, backend: str) -> str | None:
        """Installed version of a backend's library, or None."""
        return self.tensorrt_rtx if backend == "tensorrt-rtx" else self.tensorrt


def platform_name() -> str:
    """Operating system and architecture as in manifests, e.g. "linux-x86_64"."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{_MACHINES.get(machine, machine)}"


def cpu_model() -> str:
    """Product name of the processor, for reports of measurements."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def installed_version(module: str) -> str | None:
    """Version of `tensorrt` or `tensorrt_rtx`, e.g. "10.3.0", or None; does not import it."""
    loaded = getattr(sys.modules.get(module), "__version__", None)
    if isinstance(loaded, str):
        return loaded
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    # The metadata may be left over, or belong to another Python: the module must exist.
    if spec is None or not spec.origin:
        return None
    for name in _DISTRIBUTIONS[module]:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return _version_in_source(Path(spec.origin))


def _version_in_source(source: Path) -> str | None:
    """``__version__`` in a module's source, for installations without metadata."""
    try:
        match = re.search(r"""^__version__ *= *["']([^"']+)["']""", source.read_text(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return match.group(1) if match else None


def _gpu(device: int) -> Gpu | ImpTrtError:
    from imp_trt.cuda import driver

    try:
        info = driver.device_info(device)
    except ImpTrtError as error:
        return error
    return Gpu(info.name, "{}.{}".format(*info.compute_capability), info.driver_version)


def _plugins(gpu: Gpu | ImpTrtError) -> str | ImpTrtError:
    library = os.environ.get(LIBRARY_VARIABLE)
    if library:
        if Path(library).is_file():
            return f"C++ library {library}"
        return DependencyMissing(
            f"C++ plugin library of ${LIBRARY_VARIABLE}",
            expected="a file",
            got=f"nothing at {library}",
            fix=f"correct the path, or unset {LIBRARY_VARIABLE}",
        )
    from imp_trt.cuda import nvrtc

    try:
        if isinstance(gpu, Gpu):
            major, minor = gpu.compute_capability.split(".")
            chosen = nvrtc.target((int(major), int(minor)), gpu.driver).library
        else:
            chosen = nvrtc.usable()[0]
        return "Python, NVRTC {}.{}".format(*chosen.version)
    except ImpTrtError as error:
        return error

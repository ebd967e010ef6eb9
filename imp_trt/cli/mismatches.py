# SPDX-License-Identifier: Apache-2.0
"""Versions of installed packages and the driver that do not fit together. Imports no package."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from imp_trt.cli.import_fixes import OPENCV, OPENCV_FOR_NUMPY_2
from imp_trt.cuda.extras import extra_for

Versions = Mapping[str, str | None]
"""Distribution -> installed version or None."""

TEGRA = Path("/etc/nv_tegra_release")
"""File that JetPack's Linux has."""

SYSTEM_PACKAGES = Path("/usr/lib")
"""Where Debian's packages for Python are, in python3*/dist-packages."""

LIBRARIES = tuple(
    f"{library}-{cuda}-{part}"
    for library in ("tensorrt", "tensorrt-rtx")
    for cuda in ("cu12", "cu13")
    for part in ("bindings", "libs")
)
"""Distributions that the packages tensorrt and tensorrt-rtx consist of."""

_TENSORRT = ((10, 3), (12, 0))
_BINDINGS = ((12, 9, 3), (14, 0, 0))


@dataclass(frozen=True)
class Mismatch:
    """Two things that do not fit.

    Attributes:
        what: the two.
        expected, got: required and actual version.
        fix: a command, if possible.
    """

    what: str
    expected: str
    got: str
    fix: str

    def to_dict(self) -> dict[str, str]:
        """Data for JSON."""
        return asdict(self)


def mismatches(versions: Versions, driver: tuple[int, int] | None) -> list[Mismatch]:
    """Everything that does not fit.

    Args:
        versions: of the packages of imp-doctor and of LIBRARIES.
        driver: newest CUDA version that the driver supports, (12, 6); None without a driver.
    """
    return [
        *_opencv(versions),
        *_onnxruntime(versions),
        *_bindings(versions, driver),
        *_tensorrt(versions, driver),
        *_torch(versions, driver),
        *_pins("torchvision"),
        *_system_tensorrt(versions),
    ]


def _opencv(versions: Versions) -> Iterator[Mismatch]:
    numpy = numbers(versions.get("numpy"))
    found = [name for name in OPENCV if versions.get(name)]
    if len(found) > 1:
        yield Mismatch(
            "OpenCV",
            expected="one distribution: they overwrite each other's files",
            got=" and ".join(found),
            fix=f"pip uninstall -y {' '.join(found)}; pip install {found[0]}",
        )
    for name in found:
        version = numbers(versions[name])
        if numpy >= (2,) and version < (4, 10, 0, 84):
            yield Mismatch(
                f"{name} and NumPy",
                expected=f"{name} {OPENCV_FOR_NUMPY_2} or newer for NumPy 2",
                got=f"{versions[name]} with NumPy {versions['numpy']}",
                fix=f"pip install --upgrade '{name}>={OPENCV_FOR_NUMPY_2}'",
            )
        if (0,) < numpy < (2,) and version >= (5,):
            yield Mismatch(
                f"{name} and NumPy",
                expected=f"NumPy 2 for {name} 5",
                got=f"{versions[name]} with NumPy {versions['numpy']}",
                fix=f"pip install --upgrade 'numpy>=2', or pip install '{name}<5'",
            )


def _onnxruntime(versions: Versions) -> Iterator[Mismatch]:
    version = versions.get("onnxruntime")
    if version and numbers(version) < (1, 19) and numbers(versions.get("numpy")) >= (2,):
        yield Mismatch(
            "onnxruntime and NumPy",
            expected="onnxruntime 1.20 or newer for NumPy 2",
            got=f"{version} with NumPy {versions['numpy']}",
            fix="pip install --upgrade 'onnxruntime>=1.20'",
        )
    if version and versions.get("onnxruntime-gpu"):
        yield Mismatch(
            "ONNX Runtime",
            expected="one distribution: they overwrite each other's files",
            got="onnxruntime and onnxruntime-gpu",
            fix="pip uninstall -y onnxruntime onnxruntime-gpu; pip install onnxruntime",
        )


def _bindings(versions: Versions, driver: tuple[int, int] | None) -> Iterator[Mismatch]:
    version = versions.get("cuda-bindings")
    if not version:
        return
    fix = f"pip install --upgrade 'imp-trt[{extra_for('cuda', driver)}]'"
    if not _BINDINGS[0] <= numbers(version) < _BINDINGS[1]:
        yield Mismatch("cuda-bindings", expected="12.9.3 or newer, below 14", got=version, fix=fix)
    if driver is not None and driver < (12, 0):
        yield Mismatch(
            "NVIDIA driver and cuda-bindings",
            expected="a driver for CUDA 12 or newer",
            got=f"one for CUDA {driver[0]}.{driver[1]} with cuda-bindings {version}",
            fix="update the NVIDIA driver",
        )


def _tensorrt(versions: Versions, driver: tuple[int, int] | None) -> Iterator[Mismatch]:
    version = versions.get("tensorrt")
    if version and not _TENSORRT[0] <= numbers(version)[:2] < _TENSORRT[1]:
        yield Mismatch(
            "TensorRT",
            expected="10.3 or newer, below 12",
            got=version,
            fix=f"pip install 'imp-trt[{extra_for('tensorrt', driver)}]'; JetPack and DriveOS have their own",
        )
    for library in ("tensorrt", "tensorrt-rtx"):
        for cuda in (12, 13):
            bindings, libs = (versions.get(f"{library}-cu{cuda}-{part}") for part in ("bindings", "libs"))
            if bindings and libs and numbers(bindings) != numbers(libs):
                yield Mismatch(
                    f"{library}-cu{cuda}: bindings and libraries",
                    expected="the same version",
                    got=f"bindings {bindings}, libraries {libs}",
                    fix=f"pip install --force-reinstall {library}-cu{cuda}=={libs}",
                )
            installed = libs or bindings
            if installed and driver is not None and driver[0] < cuda:
                yield Mismatch(
                    f"{library}-cu{cuda} and the NVIDIA driver",
                    expected=f"a driver for CUDA {cuda}",
                    got=f"one for CUDA {driver[0]}.{driver[1]}",
                    fix=f"pip uninstall -y {library} {library}-cu{cuda} {library}-cu{cuda}-bindings "
                    f"{library}-cu{cuda}-libs; pip install 'imp-trt[{extra_for(library, driver)}]'; "
                    "or update the driver",
                )


def _torch(versions: Versions, driver: tuple[int, int] | None) -> Iterator[Mismatch]:
    version = versions.get("torch")
    built = re.search(r"\+cu(\d+)(\d)$", version or "")
    if built and driver is not None and int(built[1]) > driver[0]:
        yield Mismatch(
            "PyTorch and the NVIDIA driver",
            expected=f"a driver for CUDA {built[1]}, or PyTorch for CUDA {driver[0]}",
            got=f"torch {version}, driver for CUDA {driver[0]}.{driver[1]}",
            fix="update the driver, or install PyTorch for its CUDA version (pytorch.org/get-started); on "
            "the CPU it works",
        )


def _pins(name: str) -> Iterator[Mismatch]:
    """Exact versions that a distribution requires of others."""
    try:
        required = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for line in required:
        pin = re.match(r"([\w.-]+) *\(?==([\w.]+)\)? *$", line)
        if pin is None:
            continue
        try:
            installed = metadata.version(pin[1])
        except metadata.PackageNotFoundError:
            continue
        if installed.partition("+")[0] != pin[2]:
            yield Mismatch(
                f"{name} and {pin[1]}",
                expected=f"{pin[1]} {pin[2]}",
                got=installed,
                fix=f"pip install --upgrade {pin[1]} {name}",
            )


def _system_tensorrt(versions: Versions) -> Iterator[Mismatch]:
    """On JetPack: the bindings of TensorRT are the system's, for the system's Python."""
    try:
        release = re.search(r"R(\d+)", TEGRA.read_text())
    except OSError:
        return
    # From JetPack 7 on, TensorRT is the same package as on servers.
    own = release is None or int(release[1]) < 38
    wheels = [name for name in LIBRARIES if name.startswith("tensorrt-cu") and versions.get(name)]
    if wheels and own:
        yield Mismatch(
            "TensorRT on this Jetson",
            expected="JetPack's own",
            got=f"pip's {wheels[0]}, which is for servers and desktops",
            fix=f"pip uninstall -y tensorrt {' '.join(wheels)}; apt install python3-libnvinfer",
        )
    if versions.get("tensorrt"):
        return
    places = sorted(SYSTEM_PACKAGES.glob("python3*/dist-packages/tensorrt/__init__.py"))
    if not places:
        return
    suffixes = {
        (int(found[1]), int(found[2]))
        for place in places
        for binary in place.parent.glob("tensorrt*.so")
        if (found := re.search(r"cpython-(\d)(\d+)-", binary.name))
    }
    here = sys.version_info[:2]
    other = ", ".join(f"{major}.{minor}" for major, minor in sorted(suffixes - {here}))
    yield Mismatch(
        "JetPack's TensorRT and this Python",
        expected=f"Python {other}" if other and here not in suffixes else "packages of the system",
        got=f"Python {here[0]}.{here[1]}" if other and here not in suffixes else "a venv without them",
        fix=f"/usr/bin/python3{'.' + other.partition('.')[2] if other and ',' not in other else ''} -m venv "
        "--system-site-packages VENV, and install imp-trt there",
    )


def numbers(version: str | None) -> tuple[int, ...]:
    """Numbers of a version such as "10.3.0.26-1+cuda12.5"; empty for none."""
    match = re.match(r"\d+(\.\d+)*", version or "")
    return tuple(int(part) for part in match[0].split(".")) if match else ()

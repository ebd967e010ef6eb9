# SPDX-License-Identifier: Apache-2.0
"""Compiles the CUDA sources in imp_trt.plugins with NVRTC: no nvcc, no CUDA header and no GPU needed.

On a machine with several NVRTCs, driver and GPU determine which one is used (`target`): its CUDA major must
not be newer than the driver's, and it must support the GPU. Machine code runs on every driver of the
compiler's CUDA major; PTX only on a driver that is at least as new as the compiler.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol

from imp_trt.cuda import nvrtc_library
from imp_trt.cuda.extras import extra_for
from imp_trt.cuda.nvrtc_library import Library
from imp_trt.errors import BuildError, DependencyMissing

FLAGS = ("-std=c++17", "--fmad=false")
"""Required by the kernels' contract: a fused multiply-add could move a sample to another pixel."""

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
_LAST_CUDA_12 = (12, 9)


class Folder(Protocol):
    """A folder or file of sources: a Path or a package resource."""

    def joinpath(self, child: str, /) -> Folder: ...
    def is_file(self) -> bool: ...
    def read_text(self, encoding: str) -> str: ...


class Program(NamedTuple):
    """A CUDA source and every header it includes with quotes.

    Attributes:
        name: of the source, relative to the folder.
        source: its text.
        headers: name as written in the include directive -> text.
    """

    name: str
    source: str
    headers: dict[str, str]


@lru_cache(maxsize=16)
def program(op: str) -> Program:
    """The source of an operator: plugins/<op>/<op>.cu and the headers it needs."""
    return read_program(files("imp_trt.plugins"), f"{op}/{op}.cu")


def read_program(root: Folder, name: str) -> Program:
    """Reads a source and the headers it includes, searched for in root, then next to the including file.

    Raises:
        BuildError: a file is missing, or an include name matches two different files.
    """
    headers: dict[str, tuple[str, str]] = {}  # name as written -> (path below root, text)
    source = _text(root, name, name)
    pending = [(name, source)]
    while pending:
        includer, text = pending.pop()
        for written in _INCLUDE.findall(text):
            path = written
            if not _below(root, written).is_file():
                path = str(PurePosixPath(includer).parent / written)
            if written not in headers:
                headers[written] = (path, _text(root, path, includer))
                pending.append((path, headers[written][1]))
            elif headers[written][0] != path:
                raise BuildError(
                    f'#include "{written}" in {name}', expected="one file", got=[headers[written][0], path]
                )
    return Program(name, source, {written: text for written, (_, text) in sorted(headers.items())})


def _below(root: Folder, path: str) -> Folder:
    for part in PurePosixPath(path).parts:
        root = root.joinpath(part)
    return root


def _text(root: Folder, path: str, includer: str) -> str:
    try:
        return str(_below(root, path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BuildError(
            f"CUDA source {path}, needed by {includer}, cannot be read",
            got=error.strerror or error,
            fix="install imp-trt again",
        ) from error


class Target(NamedTuple):
    """Compiler and architecture.

    Attributes:
        arch: "sm_90" for machine code, "compute_90" for PTX, which the driver compiles.
        library: the NVRTC.
    """

    arch: str
    library: Library


def version() -> tuple[int, int]:
    """Version of the newest NVRTC on this machine, (major, minor).

    Raises:
        DependencyMissing: there is none.
    """
    return usable()[0].version


def architectures() -> tuple[tuple[int, int], ...]:
    """The compute capabilities that the newest NVRTC of this machine compiles for, ascending.

    Raises:
        DependencyMissing: there is no NVRTC.
    """
    return usable()[0].architectures


def usable(driver: tuple[int, int] | None = None) -> tuple[Library, ...]:
    """The NVRTCs whose machine code the driver can run, best first.

    Best is the driver's own CUDA major, and of these the newest version that is not newer than the driver.

    Args:
        driver: newest CUDA version that the driver supports, (major, minor); None without a driver: newest
            first.

    Raises:
        DependencyMissing: there is no NVRTC, or only newer ones.
    """
    libraries = nvrtc_library.installed()
    if not libraries:
        broken = nvrtc_library.unusable()
        raise DependencyMissing(
            "NVRTC, the CUDA run-time compiler",
            expected="libnvrtc" if driver is None else f"libnvrtc of CUDA {driver[0]} or older",
            got=broken[0]
            if broken
            else "none in Python's packages, CUDA_HOME, /usr/local/cuda and the loader's path",
            fix=install_command(driver),
        )
    if driver is None:
        return tuple(sorted(libraries, key=lambda library: library.version, reverse=True))
    compatible = [library for library in libraries if library.version[0] <= driver[0]]
    if not compatible:
        oldest = min(library.version for library in libraries)
        raise DependencyMissing(
            f"NVRTC {_dotted(oldest)} is newer than the NVIDIA driver, which supports CUDA {_dotted(driver)}",
            expected=f"NVRTC of CUDA {driver[0]} or older",
            got=_dotted(oldest),
            fix=f"{install_command(driver)} (no need to remove the newer one), or update the driver"
            if driver[0] >= 12
            else "update the driver",
        )
    return tuple(sorted(compatible, key=lambda library: _distance(library.version, driver)))


def _distance(version: tuple[int, int], driver: tuple[int, int]) -> tuple[int, bool, int]:
    newer = version > driver
    return -version[0], newer, version[1] if newer else -version[1]


def install_command(driver: tuple[int, int] | None) -> str:
    """The command that installs an NVRTC for a driver; None means no driver."""
    if driver is not None and driver[0] < 12:
        return "update the NVIDIA driver to one for CUDA 12 or later"
    return f"pip install 'imp-trt[{extra_for('cuda', driver)}]'"


def target(capability: tuple[int, int], driver: tuple[int, int] | None = None) -> Target:
    """Compiler and architecture for a GPU.

    Args:
        capability: compute capability of the GPU.
        driver: newest CUDA version that the driver supports; None without a driver.

    Raises:
        DependencyMissing: no NVRTC, none for the driver, or none for that GPU.
    """
    libraries = usable(driver)
    for library in libraries:
        if capability in library.architectures:
            return Target(f"sm_{_digits(capability)}", library)
    for library in libraries:
        older = [arch for arch in library.architectures if arch < capability]
        if older and (driver is None or library.version <= driver):
            return Target(f"compute_{_digits(older[-1])}", library)
    raise _unknown_gpu(capability, libraries, driver)


def _unknown_gpu(
    capability: tuple[int, int], libraries: tuple[Library, ...], driver: tuple[int, int] | None
) -> DependencyMissing:
    newest = max(libraries, key=lambda library: library.version)
    supported = newest.architectures
    if capability > supported[0]:
        kind = "newer"
        if newest.version >= _LAST_CUDA_12 and driver is not None and driver[0] == 12:
            fix = "update the NVIDIA driver to one for CUDA 13, and pip install 'imp-trt[cuda13]'"
        else:
            package = (
                "nvidia-cuda-nvrtc-cu12" if driver is not None and driver[0] == 12 else "nvidia-cuda-nvrtc"
            )
            fix = f"a newer NVRTC: pip install -U {package}"
    else:
        kind = "older"
        fix = "also install an older NVRTC: pip install nvidia-cuda-nvrtc-cu12"
        if any(library.version[0] <= 12 for library in libraries):
            fix = "run on a newer GPU"
    return DependencyMissing(
        f"NVRTC {_dotted(newest.version)} does not compile for compute capability {_dotted(capability)}",
        expected=f"{_dotted(supported[0])} to {_dotted(supported[-1])}",
        got=f"a GPU that is {kind}",
        fix=fix,
    )


def compile_kernels(op: str, goal: str | tuple[int, int] | Target) -> bytes:
    """Compiles an operator's kernels.

    Args:
        op: folder in plugins/, "instance_mask_projection".
        goal: a `target`; "sm_90" or "compute_90", for the newest NVRTC; or a compute capability, (9, 0), for
            which `target` chooses.

    Returns:
        The cubin, or for "compute_*" the PTX.

    Raises:
        DependencyMissing: no NVRTC, or none for this architecture.
        BuildError: the source does not compile; has the compiler's messages.
    """
    return compile_program(program(op), goal)


def compile_program(source: Program, goal: str | tuple[int, int] | Target) -> bytes:
    """Compiles a program read by `read_program`; goal, result and errors as for `compile_kernels`."""
    if isinstance(goal, str):
        goal = Target(goal, usable()[0])
    elif not isinstance(goal, Target):
        goal = target(goal)
    options = (*FLAGS, f"--gpu-architecture={goal.arch}")
    kind = "PTX" if goal.arch.startswith("compute_") else "CUBIN"
    try:
        return goal.library.compile(source.name, source.source, source.headers, options, kind)
    except BuildError as error:
        raise BuildError(f"{error.what} for {goal.arch}", got=error.got) from error


def _digits(capability: tuple[int, int]) -> str:
    return f"{capability[0]}{capability[1]}"


def _dotted(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}.{numbers[1]}"

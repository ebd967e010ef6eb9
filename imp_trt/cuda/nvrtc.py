"""Compiles the CUDA sources in imp_trt.plugins with NVRTC: no nvcc, no CUDA header and no GPU needed."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import import_module
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol

from imp_trt.errors import BuildError, DependencyMissing

FLAGS = ("-std=c++17", "--fmad=false")
"""Part of what the kernels promise: a fused multiply-add would move a sample to another pixel."""

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
_LOG_LINES = 40


class Folder(Protocol):
    """A folder of sources: a Path, or a folder of package resources."""

    def joinpath(self, child: str, /) -> Any: ...


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
    """Reads a source and the headers it includes, which are looked for in root, then beside the includer.

    Raises:
        BuildError: a file is missing, or one include name means two files.
    """
    headers: dict[str, tuple[str, str]] = {}  # name as written -> (path below root, text)
    source = _text(root, name, name)
    waiting = [(name, source)]
    while waiting:
        includer, text = waiting.pop()
        for written in _INCLUDE.findall(text):
            path = written
            if not _below(root, written).is_file():
                path = str(PurePosixPath(includer).parent / written)
            if written not in headers:
                headers[written] = (path, _text(root, path, includer))
                waiting.append((path, headers[written][1]))
            elif headers[written][0] != path:
                raise BuildError(
                    f'#include "{written}" in {name}', expected="one file", got=[headers[written][0], path]
                )
    return Program(name, source, {written: text for written, (_, text) in sorted(headers.items())})


def _below(root: Folder, path: str) -> Any:
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


def _nvrtc() -> Any:
    try:
        module = import_module("cuda.bindings.nvrtc")
    except ImportError as error:
        raise DependencyMissing(
            "the Python package cuda-bindings", got=str(error), fix="pip install 'imp-trt[cuda]'"
        ) from error
    try:
        module.nvrtcVersion()  # the library is looked for on the first call
    except (RuntimeError, OSError) as error:
        major = _bindings_major()
        raise DependencyMissing(
            f"NVRTC {major}, the CUDA run-time compiler",
            got=str(error).split("\n")[0].rstrip("."),
            fix=f"pip install {_nvrtc_package(major)}",
        ) from error
    return module


def _bindings_major() -> int:
    return int(str(import_module("cuda.bindings").__version__).split(".")[0])


def _nvrtc_package(major: int) -> str:
    """The wheel that holds NVRTC of a CUDA major: its name carries the major up to 12."""
    return f"nvidia-cuda-nvrtc-cu{major}" if major < 13 else f"'nvidia-cuda-nvrtc=={major}.*'"


def _call(name: str, *args: Any) -> Any:
    module = _nvrtc()
    status, *rest = getattr(module, name)(*args)
    if status.name != "NVRTC_SUCCESS":
        raise BuildError(f"{name} failed", got=status.name)
    return rest[0] if len(rest) == 1 else tuple(rest)


def version() -> tuple[int, int]:
    """Version of the NVRTC library, (major, minor).

    Raises:
        DependencyMissing: there is none.
    """
    major, minor = _call("nvrtcVersion")
    return int(major), int(minor)


def architectures() -> tuple[tuple[int, int], ...]:
    """The compute capabilities this NVRTC compiles for, ascending.

    Raises:
        DependencyMissing: there is no NVRTC.
    """
    return tuple(divmod(int(arch), 10) for arch in sorted(_call("nvrtcGetSupportedArchs")))


def check_driver(driver: tuple[int, int]) -> None:
    """Refuses an NVRTC whose CUDA major the driver does not know.

    Args:
        driver: the newest CUDA the driver knows, (major, minor).

    Raises:
        DependencyMissing: no NVRTC, or one that is too new.
    """
    have = version()
    if have[0] > driver[0]:
        package = _nvrtc_package(driver[0])
        raise DependencyMissing(
            f"NVRTC {_dotted(have)} is newer than the NVIDIA driver, which knows CUDA {_dotted(driver)}",
            expected=f"NVRTC of CUDA {driver[0]} or older",
            got=_dotted(have),
            fix=f"pip install 'cuda-bindings=={driver[0]}.*' {package}, or update the driver",
        )


def target(capability: tuple[int, int], driver: tuple[int, int] | None = None) -> str:
    """What to compile for on a GPU: "sm_90" for machine code, "compute_90" for PTX the driver compiles on.

    Args:
        capability: compute capability of the GPU.
        driver: the newest CUDA the driver knows, if there is one: it must be able to read the PTX.

    Raises:
        DependencyMissing: this NVRTC cannot serve that GPU.
    """
    known = architectures()
    if capability in known:
        return f"sm_{_digits(capability)}"
    have = version()
    older = [arch for arch in known if arch < capability]
    if older and (driver is None or have <= driver):
        return f"compute_{_digits(older[-1])}"
    kind = "newer" if older else "older"
    change = "a newer" if older else "an older"
    major = (driver or have)[0] if older else max(have[0] - 1, 12)
    raise DependencyMissing(
        f"NVRTC {_dotted(have)} does not compile for compute capability {_dotted(capability)}",
        expected=f"{_dotted(known[0])} to {_dotted(known[-1])}",
        got=f"a GPU that is {kind}",
        fix=f"{change} NVRTC: pip install -U 'cuda-bindings=={major}.*' {_nvrtc_package(major)}",
    )


def compile_kernels(op: str, arch: str | tuple[int, int]) -> bytes:
    """Compiles an operator's kernels.

    Args:
        op: folder in plugins/, "instance_mask_projection".
        arch: "sm_90", "compute_90", or a compute capability, (9, 0), for which `target` chooses.

    Returns:
        The cubin, or for "compute_*" the PTX.

    Raises:
        DependencyMissing: no NVRTC, or not for this architecture.
        BuildError: the source does not compile; carries the compiler's messages.
    """
    return compile_program(program(op), arch if isinstance(arch, str) else target(arch))


def compile_program(source: Program, arch: str) -> bytes:
    """Compiles a program read by `read_program`; arch, result and errors as for `compile_kernels`."""
    names, texts = list(source.headers), list(source.headers.values())
    handle = _call(
        "nvrtcCreateProgram",
        source.source.encode(),
        source.name.encode(),
        len(names),
        [text.encode() for text in texts],
        [name.encode() for name in names],
    )
    try:
        options = [option.encode() for option in (*FLAGS, f"--gpu-architecture={arch}")]
        (status,) = _nvrtc().nvrtcCompileProgram(handle, len(options), options)
        if status.name != "NVRTC_SUCCESS":
            raise BuildError(
                f"NVRTC cannot compile {source.name} for {arch}", got=f"{status.name}\n{_log(handle)}"
            )
        kind = "PTX" if arch.startswith("compute_") else "CUBIN"
        image = _buffer(_call(f"nvrtcGet{kind}Size", handle))
        _call(f"nvrtcGet{kind}", handle, image)
        return image
    finally:
        _nvrtc().nvrtcDestroyProgram(handle)


def _log(handle: Any) -> str:
    text = _buffer(_call("nvrtcGetProgramLogSize", handle))
    _call("nvrtcGetProgramLog", handle, text)
    lines = text.rstrip(b"\0 \n").decode(errors="replace").split("\n")
    return "\n".join(lines[:_LOG_LINES])


def _buffer(size: int) -> bytes:
    """Bytes that NVRTC writes into; never of length 1, which Python shares between all its users."""
    return b" " * max(size, 2)


def _digits(capability: tuple[int, int]) -> str:
    return f"{capability[0]}{capability[1]}"


def _dotted(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}.{numbers[1]}"

# SPDX-License-Identifier: Apache-2.0
"""libnvrtc: the installed libraries, called with ctypes.

The driver determines which NVRTC can be used. cuda.bindings.nvrtc loads the first one that it finds, of any
CUDA major, and keeps it for the process. This module opens every library by its path; several majors can be
loaded at the same time.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from imp_trt.data.cached_property import cached_property
from imp_trt.errors import BuildError

_FILE = re.compile(r"libnvrtc\.so\.\d+")
_WHEELS = ("nvidia/cuda_nvrtc/lib", "nvidia/cu[0-9]*/lib")  # of CUDA 12; from 13
_SYSTEM = Path("/usr/local")
_TOOLKIT = ("lib64", "lib", "targets/*/lib")
_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12")  # for the search path of the loader
_BUILTINS = "libnvrtc-builtins.so.*"
_LOG_LINES = 40


class Library:
    """A loaded libnvrtc.

    Args:
        path: of the file, or a name that the loader searches for.

    Attributes:
        version: of its CUDA, (12, 9).
        architectures: compute capabilities that it compiles for, ascending.

    Raises:
        OSError: it cannot be loaded.
        AttributeError: it lacks a function; CUDA 11.2 and later have all of them.
        BuildError: a call failed.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        # NVRTC opens its builtins by name. In some wheels (13.0) it has no run path to its own folder, where
        # they are.
        builtins = Path(path).parent.glob(_BUILTINS) if os.path.isabs(path) else ()
        self._builtins = [ctypes.CDLL(str(file)) for file in builtins]
        self._library = ctypes.CDLL(path)
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        supported = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", supported)
        self.architectures = tuple(divmod(number, 10) for number in sorted(supported))

    @cached_property
    def build(self) -> str:
        """What an empty program is compiled to; its comments have the full version, which no function has.

        Raises:
            BuildError: it does not compile.
        """
        major, minor = self.architectures[0]
        options = (f"--gpu-architecture=compute_{major}{minor}",)
        return self.compile("empty.cu", "", {}, options, "PTX").decode(errors="replace")

    def compile(
        self, name: str, source: str, headers: Mapping[str, str], options: Sequence[str], kind: str
    ) -> bytes:
        """Compiles a program.

        Args:
            name: of the source, for messages.
            headers: name as written in an include directive -> text.
            options: as for nvcc.
            kind: "CUBIN" or "PTX".

        Raises:
            BuildError: it does not compile; has the compiler's messages.
        """
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            ctypes.c_char_p(source.encode()),
            ctypes.c_char_p(name.encode()),
            len(headers),
            _strings(headers.values()),
            _strings(headers),
        )
        try:
            status = self._library.nvrtcCompileProgram(program, len(options), _strings(options))
            if status:
                text = self._output(program, "ProgramLog").rstrip(b"\0 \n").decode(errors="replace")
                shown = "\n".join(text.split("\n")[:_LOG_LINES])
                raise BuildError(f"NVRTC cannot compile {name}", got=f"{self._text(status)}\n{shown}")
            return self._output(program, kind)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _output(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def _call(self, function: str, *args: object) -> None:
        status = getattr(self._library, function)(*args)
        if status:
            raise BuildError(f"{function} failed", got=self._text(status))

    def _text(self, status: int) -> str:
        text = self._library.nvrtcGetErrorString(status)
        return bytes(text).decode() if text else f"status {status}"


def _strings(texts: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [text.encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded)


def installed() -> tuple[Library, ...]:
    """The NVRTCs on this machine, one of each version; those in Python packages first."""
    return _open_all()[0]


def unusable() -> tuple[str, ...]:
    """NVRTC libraries that cannot be loaded: "path: reason"."""
    return _open_all()[1]


@lru_cache(maxsize=1)
def _open_all() -> tuple[tuple[Library, ...], tuple[str, ...]]:
    libraries: dict[tuple[int, int], Library] = {}
    reasons = []
    for path in (*_files(), *_NAMES):
        try:
            library = Library(path)
        except (OSError, AttributeError, BuildError) as error:
            if path not in _NAMES:
                reasons.append(f"{path}: {error}")
        else:
            libraries.setdefault(library.version, library)
    return tuple(libraries.values()), tuple(reasons)


def _files() -> list[str]:
    """Paths of the libraries in Python packages and in CUDA toolkits, each file once."""
    paths: dict[Path, str] = {}
    for folder in _folders():
        for path in sorted(folder.glob("libnvrtc.so.*")):
            if _FILE.fullmatch(path.name):
                paths.setdefault(path.resolve(), str(path.absolute()))
    return list(paths.values())


def _folders() -> Iterator[Path]:
    for entry in sys.path:
        for wheel in _WHEELS:
            yield from Path(entry or ".").glob(wheel)
    yield Path(sys.prefix, "lib")  # conda
    roots = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for root in (*roots, *sorted(_SYSTEM.glob("cuda*"), reverse=True)):
        for folder in _TOOLKIT:
            yield from root.glob(folder)

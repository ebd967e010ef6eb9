# SPDX-License-Identifier: Apache-2.0
"""Compiles the real text of a CUDA kernel with g++ and runs it in a child process under sanitizers.

The child reads launches and writes what the kernels wrote; a finding of a sanitizer ends it, and the next
call raises `HostKernelFault` with what it said.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PLUGINS = ROOT / "plugins"
FLAGS = ["-std=c++17", "-O1", "-g1", "-fno-omit-frame-pointer", "-ffp-contract=off", "-fno-strict-aliasing"]
SANITIZERS = {
    "address": [
        "-fsanitize=address,undefined,bounds-strict,float-cast-overflow",
        "-fsanitize-sections=imp_shared",
    ],
    "thread": ["-fsanitize=thread"],
}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


class HostKernelFault(AssertionError):
    """A sanitizer or the emulation found a fault; the message is what it printed."""


class Out(NamedTuple):
    """A buffer that the kernel writes: its content before the launch, and how far it is from 16 bytes."""

    before: NDArray[Any]
    offset: int = 0


class Long(NamedTuple):
    """An int64 scalar; plain Python ints are int32."""

    value: int


@functools.cache
def missing(sanitizer: str) -> str | None:
    """The capability without which this module cannot work, or None."""
    if shutil.which("g++") is None:
        return "g++ is missing"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("int main() { return 0; }\n")
        program = Path(folder) / "probe"
        done = subprocess.run(
            ["g++", *SANITIZERS[sanitizer], str(source), "-o", str(program)], capture_output=True, text=True
        )
        if done.returncode:
            return f"g++ has no runtime library for -fsanitize={sanitizer}"
        if subprocess.run(_command(program, sanitizer), capture_output=True).returncode:
            return f"programs built with -fsanitize={sanitizer} do not run here"
    return None


def _command(program: Path, sanitizer: str) -> list[str]:
    # ThreadSanitizer's shadow memory collides with some random address layouts.
    fixed = sanitizer == "thread" and shutil.which("setarch") is not None
    return ["setarch", platform.machine(), "-R", str(program)] if fixed else [str(program)]


class HostKernels:
    """The kernels of one .cu file, compiled and served by a child process.

    Args:
        source: the .cu file.
        entries: names of its kernels.
        folder: where the program is built.
        sanitizer: "address" (with undefined behavior) or "thread".
        include: folders searched before plugins/, for sources changed by a test.
        program: what `build` made of the same arguments, to be used instead of building again.
    """

    def __init__(
        self,
        source: Path,
        entries: Iterable[str],
        folder: Path,
        sanitizer: str = "address",
        include: Sequence[Path] = (),
        program: Path | None = None,
    ) -> None:
        if reason := missing(sanitizer):
            pytest.skip(reason)
        program = program or build(source, list(entries), folder, sanitizer, include)
        self._command = _command(program, sanitizer)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """Ends the child."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def run(
        self, entry: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]
    ) -> list[NDArray[Any]]:
        """One launch; what it wrote to the `Out` arguments, in their order.

        Args:
            entry: name of the kernel.
            grid, block: three extents each.
            arguments: arrays (copied), Out, None (a null pointer), int (int32), Long, float (float32).

        Raises:
            HostKernelFault: a sanitizer or the emulation found a fault.
        """
        outputs = [a.before for a in arguments if isinstance(a, Out)]
        process, log = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(_message(entry, grid, block, arguments))
            process.stdin.flush()
        except BrokenPipeError:
            pass
        results = []
        for before in outputs:
            data = process.stdout.read(before.nbytes)
            if len(data) < before.nbytes or (not data and process.poll() is not None):
                self._fault(process, log)
            results.append(np.frombuffer(data, before.dtype).reshape(before.shape))
        return results

    def _start(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        if self._process is None:
            self._log = (self._folder / "stderr").open("w+b")
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, **OPTIONS},
            )
        return self._process, self._log

    def _fault(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        process.wait()
        self.close()
        log.seek(0)
        raise HostKernelFault(log.read().decode(errors="replace")[:6000])


def _message(entry: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> bytes:
    name = entry.encode()
    parts = [struct.pack("<I", len(name)), name, struct.pack("<7I", *grid, *block, len(arguments))]
    for argument in arguments:
        parts.extend(_packed(argument))
    return b"".join(parts)


def _packed(argument: Any) -> list[bytes]:
    if argument is None:
        return [struct.pack("<B", 4)]
    if isinstance(argument, (Out, np.ndarray)):
        out = argument if isinstance(argument, Out) else Out(argument)
        returned = isinstance(argument, Out)
        return [struct.pack("<BBIQ", 0, returned, out.offset, out.before.nbytes), out.before.tobytes()]
    if isinstance(argument, Long):
        return [struct.pack("<Bq", 2, argument.value)]
    if isinstance(argument, float):
        return [struct.pack("<Bf", 3, argument)]
    return [struct.pack("<Bi", 1, argument)]


def build(
    source: Path, entries: Sequence[str], folder: Path, sanitizer: str, include: Sequence[Path] = ()
) -> Path:
    """The program of `HostKernels`, for the same arguments."""
    calls = " ||\n".join(f'call_if("{name}", name, {name}, grid, block, arguments)' for name in entries)
    main = folder / "main.cpp"
    main.write_text(
        f'#include "serve.h"\n#include "{source}"\n'
        "int main()\n{\n    using namespace cuda_on_host;\n"
        "    return serve([](const std::string& name, Dim3 grid, Dim3 block, "
        f"const std::vector<Argument>& arguments) {{\n    return {calls};\n    }});\n}}\n"
    )
    program = folder / "kernels"
    folders = [f"-I{path}" for path in (*include, HERE, PLUGINS)]
    command = ["g++", *FLAGS, *SANITIZERS[sanitizer], "-fno-sanitize-recover=all", "-Wall", "-Wextra"]
    command += [
        "-Werror",
        "-Wno-unknown-pragmas",
        "-Wno-unused-parameter",
        *folders,
        str(main),
        str(HERE / "fibers.cpp"),
    ]
    done = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True)
    if done.returncode:
        raise HostKernelFault(done.stderr[:6000])
    return program

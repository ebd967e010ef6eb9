# SPDX-License-Identifier: Apache-2.0
"""A libnvinfer for C++ programs on machines without TensorRT and CUDA: one engine whose answer is known.

Programs call TensorRT through classes of virtual functions (apiv::V... in NvInferImpl.h), which differ from
version to version. All of them are generated from the headers, ending the process; stand_in.cpp answers those
that a program needs. CUDA's runtime is cuda_runtime_api.h next to it.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.plugin_build import SANITIZERS, require_tools, run

HOME = Path(__file__).parent
_ANSWERED = {
    "IPluginRegistry": "NvInferRuntimeCommon.h",
    "VRuntime": "NvInferImpl.h",
    "VCudaEngine": "NvInferImpl.h",
    "VExecutionContext": "NvInferImpl.h",
}
_FUNCTION = re.compile(r"virtual\s+([^;{}~]*?)\s*=\s*0\s*;")


def engine(height: int, width: int, batch: int = 1, detections: int = 4, plugin: bool = False) -> bytes:
    """An engine of the stand-in: class of a pixel = blue level / 64, and two instances a frame."""
    return f"stand-in {batch} {height} {width} {detections} {int(plugin)}".encode()


def build(source: Path, include: Path, folder: Path) -> Path:
    """Compiles a program and links it with the stand-in, under ASan and UBSan; every warning is an error."""
    require_tools("g++")
    (folder / "silent.h").write_text(_silent(include))
    compiler = [
        "g++",
        "-std=c++17",
        "-g",
        "-O1",
        *SANITIZERS,
        f"-I{HOME}",
        f"-I{folder}",
        f"-isystem{include}",
    ]
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Wno-deprecated-declarations", "-Werror"]
    run(*compiler, *strict, "-c", source, "-o", folder / "program.o")
    run(
        *compiler,
        "-Wno-deprecated-declarations",
        HOME / "stand_in.cpp",
        folder / "program.o",
        "-o",
        folder / "program",
    )
    return folder / "program"


def _silent(include: Path) -> str:
    """A header with the classes SilentVRuntime and so on."""
    lines = [
        "#include <NvInferRuntime.h>",
        "#include <cstdlib>",
        "namespace nvinfer1 {",
        "using namespace apiv;",
    ]
    for name, header in _ANSWERED.items():
        text = re.sub(r"//[^\n]*", "", (include / header).read_text())
        found = re.search(rf"^class {name}\b[^;{{]*\{{(.*?)^\}};", text, re.DOTALL | re.MULTILINE)
        assert found is not None, f"no class {name} in {include}/{header}"
        lines.append(f"struct Silent{name} : {name} {{")
        for function in _FUNCTION.finditer(found[1]):
            lines.append(f"    {' '.join(function[1].split())} override {{ std::abort(); }}")
        lines.append("};")
    return "\n".join(["#pragma once", *lines, "}", ""])

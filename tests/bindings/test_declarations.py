# SPDX-License-Identifier: Apache-2.0
"""The stand-in's own declarations of TensorRT's interfaces, held against the real headers where they are."""

from __future__ import annotations

from pathlib import Path

from tests.support.bindings_stub import HOME
from tests.support.plugin_build import ROOT, header_major, require_tools, run, tensorrt_include


def layout(folder: Path, *flags: str) -> list[str]:
    program = folder / "layout"
    compiler = ["g++", "-std=c++17", "-Wno-deprecated-declarations", "-Wno-invalid-offsetof"]
    run(*compiler, *flags, HOME / "layout.cpp", "-o", program)
    return run(program).splitlines()


def test_members_and_virtual_functions_are_where_the_real_headers_have_them(tmp_path: Path) -> None:
    include = tensorrt_include()
    require_tools("g++")
    recursive = "getAllCreatorsRecursive" in (include / "NvInferRuntimeCommon.h").read_text()
    flags = ["-DHAS_RECURSIVE"] if recursive else []
    support = ROOT / "tests/support"
    cuda = [f"-I{support}", f"-I{support}/cuda_runtime_on_host"]
    real = layout(tmp_path, *flags, f"-isystem{include}", *cuda)
    ours = layout(tmp_path, *flags, f"-DSTAND_IN_MAJOR={header_major(include)}", f"-I{HOME}")
    assert ours == real
    assert len(ours) > 60, "layout.cpp prints less than it should"

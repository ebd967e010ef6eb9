# SPDX-License-Identifier: Apache-2.0
"""Libraries below NVIDIA's Python bindings on machines without TensorRT.

NVIDIA's wheels with the bindings alone link nine C functions of libnvinfer, libnvonnxparser and
libnvinfer_plugin. `build_stand_in` makes the three with a plugin registry and a driver of the plugins in it;
`build_forward` makes those of TensorRT 11, which hand each call on to TensorRT-RTX: there the bindings parse
and build.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from tests.support.plugin_build import ROOT, require_tools, run

HOME = Path(__file__).parent
_HARNESS = ROOT / "tests/gpu"
_FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-Wl,--no-undefined"]


def build_stand_in(folder: Path, major: int) -> Path:
    """The libraries of a major, made once in a folder below the given one; returns that folder.

    Skips the test without g++.
    """
    sources = [HOME / "registry.cpp", HOME / "driver.cpp"]
    headers = [HOME / "NvInferRuntime.h", _HARNESS / "harness_case.h", _HARNESS / "harness_checks.h"]
    return _build(folder, major, sources, headers, [f"-DSTAND_IN_MAJOR={major}", f"-I{HOME}", "-pthread"])


def build_forward(folder: Path) -> Path:
    """The libraries of TensorRT 11 over TensorRT-RTX; otherwise as `build_stand_in`."""
    return _build(folder, 11, [HOME / "forward.cpp"], [], ["-ldl"])


def _build(folder: Path, major: int, sources: list[Path], headers: list[Path], flags: list[str]) -> Path:
    require_tools("g++")
    digest = hashlib.sha256(repr((_FLAGS, flags, major)).encode())
    for path in (Path(__file__), *sources, *headers):
        digest.update(path.read_bytes())
    target = folder / f"{sources[0].stem}-{major}-{digest.hexdigest()[:16]}"
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        made = Path(name) / "made"
        made.mkdir()
        # All nine functions are in libnvinfer; the other two need only be there.
        for library, of in (("nvinfer", sources), ("nvonnxparser", []), ("nvinfer_plugin", [])):
            soname = f"lib{library}.so.{major}"
            inputs = [str(path) for path in of] or ["/dev/null"]
            run("g++", *_FLAGS, f"-Wl,-soname,{soname}", "-x", "c++", *inputs, *flags, "-o", made / soname)
        try:
            os.rename(made, target)
        except OSError:  # another process was faster
            if not target.is_dir():
                raise
    return target

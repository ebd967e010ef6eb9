# SPDX-License-Identifier: Apache-2.0
"""Builds the C++ plugin library for the tests; a skip names what is missing.

TENSORRT_ROOT names TensorRT's headers (plugins/tensorrt/README.md); nvcc is needed for the library itself,
but not for the build in which kernels run on the host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from imp_trt.cuda.driver import device_info

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


class Built(NamedTuple):
    """The shared library and the program that drives it."""

    plugin: Path
    harness: Path
    major: int


def tensorrt_include() -> Path:
    """The folder of TensorRT's headers; skips without."""
    root = os.environ.get("TENSORRT_ROOT")
    if not root:
        pytest.skip("needs TensorRT's headers: set TENSORRT_ROOT")
    folders = [Path(root) / "include", Path(root)]
    found = [folder for folder in folders if (folder / "NvInferRuntime.h").is_file()]
    assert found, f"TENSORRT_ROOT={root} holds no NvInferRuntime.h"
    return found[0]


def require_tools(*tools: str) -> None:
    """Skips unless the programs are on PATH."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Runs a program; its output. AssertionError with it if the program fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def own_architecture() -> str:
    """GPU 0 as CMake and nvcc call it, "90"."""
    return "{}{}".format(*device_info().compute_capability)


def build_with_cmake(folder: Path, *options: str, architectures: str = "87") -> Built:
    """Configures and builds the checkout's CMakeLists.txt in a folder, harness included."""
    include = tensorrt_include()
    require_tools("cmake", "nvcc", "g++")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    arguments = [f"-DTENSORRT_ROOT={include}", f"-DCMAKE_CUDA_ARCHITECTURES={architectures}", *options]
    run("cmake", "-S", ROOT, "-B", folder, *generator, "-DIMP_TRT_BUILD_HARNESS=ON", *arguments)
    run("cmake", "--build", folder, "--parallel", "2")
    return Built(folder / "libimp_trt_plugins.so", folder / "plugin_harness", header_major(include))


def build_on_host(folder: Path) -> Built:
    """The library and the harness over tests/support/cuda_on_host, under ASan and UBSan; needs no nvcc."""
    include = tensorrt_include()
    require_tools("g++")
    support = ROOT / "tests/support"
    flags = [
        "-std=c++17",
        "-g",
        "-O1",
        "-fPIC",
        "-ffp-contract=off",
        "-Wno-deprecated-declarations",
        *SANITIZERS,
    ]
    folders = [f"-I{path}" for path in (PLUGINS, support, support / "cuda_runtime_on_host")]
    compiler = ["g++", *flags, *folders, f"-isystem{include}"]
    kernels = ["-include", support / "cuda_on_host/cuda_on_host.h", "-Wno-unknown-pragmas", "-x", "c++"]
    sources = [
        *PLUGINS.glob("*/*_plugin.cpp"),
        *PLUGINS.glob("tensorrt/*.cpp"),
        support / "cuda_on_host/fibers.cpp",
    ]
    jobs = [(["-c", source], source) for source in sources]
    jobs += [([*kernels, "-c", source], source) for source in PLUGINS.glob("*/*_launch.cu")]
    commands = [[*compiler, *what, "-o", folder / f"{source.name}.o"] for what, source in jobs]
    built = Built(folder / "libimp_trt_plugins.so", folder / "plugin_harness", header_major(include))
    commands.append([*compiler, ROOT / "tests/gpu/plugin_harness.cpp", "-ldl", "-o", built.harness])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda command: run(*command), commands))
    run(
        "g++",
        *SANITIZERS,
        "-shared",
        *(folder / f"{source.name}.o" for _, source in jobs),
        "-o",
        built.plugin,
    )
    return built


def header_major(include: Path) -> int:
    """The major of TensorRT whose headers are in a folder."""
    for line in (include / "NvInferVersion.h").read_text().splitlines():
        words = line.split()
        if words[:1] == ["#define"] and words[1] in ("NV_TENSORRT_MAJOR", "TRT_MAJOR_ENTERPRISE"):
            if words[2].isdigit():
                return int(words[2])
    raise AssertionError(f"no major in {include}/NvInferVersion.h")

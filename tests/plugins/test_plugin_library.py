# SPDX-License-Identifier: Apache-2.0
"""The C++ plugin library: built by CMake, driven without TensorRT, loaded by TensorRT-RTX's registry."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.driver_session import build_stub
from tests.support.plugin_build import (
    ROOT,
    Built,
    build_on_host,
    build_with_cmake,
    require_tools,
    run,
    tensorrt_include,
)
from tests.support.plugin_cases import read_case, write_cases
from tests.support.stub_packages import need_rtx

IMP, ROI = "InstanceMaskProjection", "ImpMultilevelRoiAlign"
RTX_MAJOR = 11  # of the plugin interfaces of TensorRT-RTX 1.x


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_with_cmake(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_cases(tmp_path_factory.mktemp("cases") / "of")


def _configure(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    require_tools("cmake", "g++")
    command = ["cmake", "-S", str(ROOT), "-B", str(folder), *options]
    unset = ("TENSORRT_ROOT", "TensorRT_ROOT", "CUDAARCHS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def _words(text: str) -> str:
    return " ".join(text.split())


def test_without_headers_cmake_names_tensorrt_root(tmp_path: Path) -> None:
    if Path("/usr/include/x86_64-linux-gnu/NvInferRuntime.h").exists():
        pytest.skip("needs a machine without TensorRT's development package")
    done = _configure(tmp_path / "build")
    assert done.returncode != 0
    assert "-DTENSORRT_ROOT=FOLDER" in _words(done.stderr)
    assert "IMP_TRT_TENSORRT_VERSION" in done.stderr


def test_a_wrong_root_is_named(tmp_path: Path) -> None:
    done = _configure(tmp_path / "build", f"-DTENSORRT_ROOT={tmp_path}")
    assert done.returncode != 0
    assert f"TENSORRT_ROOT={tmp_path} has no NvInferRuntime.h" in _words(done.stderr)


@pytest.mark.slow
def test_tensorrt_8_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "NvInferRuntime.h").touch()
    (tmp_path / "NvInferVersion.h").write_text(
        "#define NV_TENSORRT_MAJOR 8 //!< .\n#define NV_TENSORRT_MINOR 6 //!< .\n"
    )
    done = _configure(tmp_path / "build", f"-DTENSORRT_ROOT={tmp_path}")
    assert done.returncode != 0
    assert "TensorRT 8, which has no IPluginV3" in _words(done.stderr)


def test_a_download_that_fails_names_the_other_way(tmp_path: Path) -> None:
    url = f"-DIMP_TRT_HEADERS_URL=file://{tmp_path}/nowhere"
    done = _configure(tmp_path / "build", "-DIMP_TRT_TENSORRT_VERSION=10.3.0", url)
    assert done.returncode != 0
    assert "Cannot download NvInferRuntime.h of TensorRT 10.3.0" in _words(done.stderr)
    assert "-DTENSORRT_ROOT=FOLDER" in _words(done.stderr)


def test_headers_are_downloaded_and_architectures_are_those_nvcc_knows(tmp_path: Path) -> None:
    require_tools("nvcc")
    # A version that is not pinned is fetched by its tag.
    shutil.copytree(tensorrt_include(), tmp_path / "mirror/v10.99/include")
    url = f"-DIMP_TRT_HEADERS_URL=file://{tmp_path}/mirror"
    build = tmp_path / "build"
    done = _configure(build, "-DIMP_TRT_TENSORRT_VERSION=10.99", url)
    assert done.returncode == 0, done.stderr
    assert (build / "tensorrt-headers-10.99/NvInferRuntime.h").is_file()
    assert not list((build / "tensorrt-headers-10.99").glob("*.part"))
    cache = (build / "CMakeCache.txt").read_text()
    line = next(line for line in cache.splitlines() if line.startswith("CMAKE_CUDA_ARCHITECTURES"))
    chosen = line.partition("=")[2].split(";")
    assert {"80-real", "87-real", "90-real"} <= set(chosen)
    assert chosen[-1].endswith("-virtual")


@pytest.mark.slow
def test_only_the_two_symbols_are_exported_and_no_tensorrt_library_is_needed(built: Built) -> None:
    require_tools("nm", "readelf")
    defined = run("nm", "-D", "--defined-only", built.plugin).split("\n")
    assert sorted(line.split()[-1] for line in defined if line) == ["getCreators", "setLoggerFinder"]
    undefined = run("nm", "-D", "--undefined-only", built.plugin)
    assert "nvinfer" not in undefined.lower()
    assert "cuda" not in undefined.lower()
    dynamic = run("readelf", "-d", built.plugin)
    assert f"libimp_trt_plugins.so.{built.major}]" in dynamic
    needed = [line for line in dynamic.splitlines() if "NEEDED" in line]
    assert not any("nvinfer" in line or "cudart" in line for line in needed)


def _listed(output: str, kind: str) -> dict[str, set[str]]:
    """Lines "kind OPERATOR fields" of plugin_harness."""
    found: dict[str, set[str]] = {}
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        if word == kind:
            name, _, fields = rest.partition(" ")
            found.setdefault(name, set()).add(fields)
    return found


@pytest.mark.slow
def test_the_interface_without_a_gpu_and_the_fields_are_those_of_python(
    built: Built, cases: list[Path]
) -> None:
    output = run(built.harness, built.plugin, *cases, "--no-gpu")
    assert f"{len(cases)} cases passed" in output
    need_rtx()
    from tests.support import rtx_plugins
    from tests.support.rtx import run_rtx

    declared, written = _listed(output, "declared"), _listed(output, "fields")
    python: dict[str, set[str]] = {IMP: set(), ROI: set()}
    for case in cases:
        given = read_case(case)
        result, _ = run_rtx(rtx_plugins.fields, None, given.operator, given.fields)
        assert declared[given.operator] == {result["declared"]}
        python[given.operator].add(result["written"])
    assert written == python
    assert len(written[IMP]) == 3  # sampling rules


@pytest.mark.slow
def test_tensorrt_rtx_loads_it_and_builds_the_same_plan_as_with_python(built: Built, tmp_path: Path) -> None:
    need_rtx()
    from tests.support import rtx_plugins
    from tests.support.plugin_models import mask_projection_model, roi_align_model
    from tests.support.rtx import run_rtx

    library = str(built.plugin)
    if built.major != RTX_MAJOR:
        (answer,), _ = run_rtx(rtx_plugins.register, [library])
        assert answer.startswith("EngineIncompatible")
        pytest.skip(f"needs TENSORRT_ROOT of TensorRT {RTX_MAJOR}, whose plugin interfaces TensorRT-RTX has")
    # A second call must not load it again, also where the Python plugins would be the default.
    answers, log = run_rtx(rtx_plugins.register, [library, library, None])
    assert answers == ["c++"] * 3
    assert "already" not in log

    on_load = {"IMP_TRT_REGISTER_ON_LOAD": "1"}
    assert run_rtx(rtx_plugins.open_library, library, environment=on_load)[0] == [ROI, IMP, "c++"]
    assert run_rtx(rtx_plugins.open_library, library)[0] == ["c++"]

    for name in (IMP, ROI):
        here, _ = run_rtx(rtx_plugins.fields, library, name, rtx_plugins.FIELDS[name])
        there, _ = run_rtx(rtx_plugins.fields, None, name, rtx_plugins.FIELDS[name])
        assert here == {key: there[key] for key in here}
        field = next(iter(rtx_plugins.FIELDS[name]))
        (missing, wrong), log = run_rtx(rtx_plugins.rejections, library, name, [(field, None), (field, 1.0)])
        assert not missing["made"]
        assert not wrong["made"]
        assert f"[E] {name}: field {field} is missing" in log  # through TensorRT's own logger
        assert f"{name}: field {field} has type FLOAT32" in log

    for model in (mask_projection_model("f16", "rect"), roi_align_model("f32")):
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        cpp, _ = run_rtx(rtx_plugins.build, str(path), True, library)
        python, _ = run_rtx(rtx_plugins.build, str(path), True, None)
        assert cpp["plugin_layers"] == 1
        assert cpp == python  # the sha256 of the plan among it


def test_a_driver_that_is_older_than_the_library_is_reported(
    built: Built, cases: list[Path], tmp_path: Path
) -> None:
    """The CUDA runtime says cudaErrorInsufficientDriver there, and also where no driver is installed."""
    release = run("nvcc", "--version").partition("release ")[2]
    if int(release.split(".")[0]) < 13:
        pytest.skip("needs nvcc of CUDA 13: its programs reject drivers for CUDA 12")
    build_stub(tmp_path)
    old = {"LD_LIBRARY_PATH": str(tmp_path), "STUB_LIBCUDA_VERSION": "12020", "STUB_LIBCUDA_LOG": os.devnull}
    command = [str(built.harness), str(built.plugin), str(cases[0]), "--no-gpu"]
    with_old = subprocess.run(command, env={**os.environ, **old}, capture_output=True, text=True, check=False)
    assert with_old.returncode == 1
    assert "onShapeChange: " in with_old.stderr
    assert "cudaErrorInsufficientDriver" in with_old.stderr
    assert "the NVIDIA driver knows CUDA 12.2, this library was built with CUDA 13." in with_old.stderr
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_no_gpu_and_no_driver_differ_from_a_driver_that_is_too_old(tmp_path: Path) -> None:
    require_tools("g++")
    source = tmp_path / "main.cpp"
    source.write_text(
        '#include "tensorrt/launch.h"\n#include <cstdio>\n'
        "int main(int, char** argv) {\n"
        "    const auto status = static_cast<cudaError_t>(std::atoi(argv[1]));\n"
        '    std::printf("%d", imp_trt::gpu_is_absent(status));\n}\n'
    )
    support = ROOT / "tests/support"
    folders = [f"-I{folder}" for folder in (ROOT / "plugins", support, support / "cuda_runtime_on_host")]
    run("g++", "-std=c++17", "-Wall", *folders, source, "-o", tmp_path / "main")

    def absent(status: int, driver: int) -> bool:
        return run(tmp_path / "main", str(status), env={"STAND_IN_CUDA_DRIVER": str(driver)}) == "1"

    no_device, insufficient_driver, invalid_value = 100, 35, 1
    assert absent(no_device, 13000)
    assert absent(insufficient_driver, 0)
    assert not absent(insufficient_driver, 12020)
    assert not absent(invalid_value, 13000)
    assert not absent(0, 13000)


@pytest.mark.slow
def test_the_whole_call_on_the_host_under_sanitizers(tmp_path: Path, cases: list[Path]) -> None:
    built = build_on_host(tmp_path)
    output = run(built.harness, built.plugin, *cases)
    assert f"{len(cases)} cases passed" in output
    assert output.count("from a graph") == 2 * len(cases)
    # Planted faults, to know that results are compared and that the sanitizers watch.
    wrong = shutil.copytree(cases[0], tmp_path / "wrong")
    expected = np.fromfile(wrong / "expected.bin")
    expected[-1] += 0.01
    expected.tofile(wrong / "expected.bin")
    different = subprocess.run(
        [built.harness, built.plugin, wrong], capture_output=True, text=True, check=False
    )
    assert different.returncode == 1
    assert f"from a graph: element {len(expected) - 1}: expected" in different.stderr
    command = [str(built.harness), str(built.plugin), str(cases[0]), "--short-output"]
    faulty = subprocess.run(command, capture_output=True, text=True, check=False)
    assert faulty.returncode != 0
    assert "heap-buffer-overflow" in faulty.stderr

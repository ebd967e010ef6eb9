# SPDX-License-Identifier: Apache-2.0
"""Target profiles: complete, dated, and strict about what cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imp_trt.artifacts.manifest import PRECISIONS
from imp_trt.cuda.platform import Gpu, Platform
from imp_trt.errors import DependencyMissing, UsageError
from imp_trt.export.options import EngineOptions, ExportOptions
from imp_trt.export.targets import (
    TARGETS,
    capabilities_for,
    check_target,
    default_engine_target,
    default_target,
    find_target,
    list_targets,
    version_pair,
)

NO_GPU = DependencyMissing("the NVIDIA driver library", got="libcuda.so.1 not found")


def machine(
    name: str = "linux-x86_64",
    tensorrt: str | None = None,
    rtx: str | None = None,
    capability: str | None = None,
) -> Platform:
    gpu = NO_GPU if capability is None else Gpu("a GPU", capability, (13, 0))
    return Platform(name=name, tensorrt=tensorrt, tensorrt_rtx=rtx, gpu=gpu, plugins="Python, NVRTC 13.0")


ORIN = machine("linux-aarch64", "10.3.0", capability="8.7")
THOR = machine("linux-aarch64", "10.13.3", capability="11.0")
H100 = machine(tensorrt="11.1.0.106", capability="9.0")
T4 = machine(tensorrt="10.16.1", capability="7.5")
LAPTOP = machine(rtx="1.7.1.116")
BARE = machine()

POSSIBLE = [
    ("onnxruntime", "fp32", BARE, {}),
    ("onnxruntime", "fp16", BARE, {}),
    ("onnxruntime", "int8", BARE, {}),
    ("tensorrt-rtx", "bf16", LAPTOP, {}),
    ("tensorrt-rtx", "fp8", LAPTOP, {}),
    ("rtx", "fp16", LAPTOP, {"compute_capabilities": ("8.9", "12.0"), "workspace": 1 << 30}),
    ("tensorrt", "fp16", ORIN, {"timing_cache": Path("cache"), "version_compatible": True}),
    ("tensorrt", "fp16", H100, {"hardware_compatibility": "ampere_plus"}),
    ("tensorrt", "int8", T4, {"hardware_compatibility": "same_compute_capability"}),
    ("drive-orin", "int8", ORIN, {}),
    ("jetson-orin", "fp16", machine("linux-aarch64", "11.4.1", capability="8.7"), {}),
    ("jetson-thor", "fp8", THOR, {}),
    ("drive-thor", "fp8", machine("linux-aarch64", "10.10.10", capability="10.1"), {}),
    ("data-center", "fp8", H100, {"plugin": True}),
    ("data-center", "fp8", H100, {"hardware_compatibility": "same_compute_capability"}),
    ("data-center", "fp16", T4, {"plugin": False}),
]


@pytest.mark.parametrize(("name", "precision", "here", "options"), POSSIBLE)
def test_possible_combinations(name, precision, here, options):
    check_target(TARGETS[name], precision, EngineOptions(**options), here)


IMPOSSIBLE = [
    ("onnxruntime", "bf16", BARE, {}, "no bfloat16"),
    ("onnxruntime", "fp16", BARE, {"plugin": True}, "no engine is built"),
    ("onnxruntime", "fp16", BARE, {"workspace": 1 << 30}, "no engine is built"),
    ("tensorrt", "bf16", T4, {}, r"bf16 needs Ampere \(8\.0\) or newer, and 7\.5"),
    ("tensorrt", "fp8", ORIN, {}, r"fp8 needs Ada \(8\.9\) or newer, and 8\.7"),
    ("tensorrt-rtx", "fp8", LAPTOP, {"compute_capabilities": ("8.9", "8.6")}, r"fp8 needs Ada .* 8\.6"),
    ("tensorrt-rtx", "fp16", LAPTOP, {"compute_capabilities": ("7.5",)}, "no float32 matrix products"),
    ("tensorrt-rtx", "fp16", LAPTOP, {"compute_capabilities": ("8.7",)}, r"does not support .* 8\.7"),
    ("tensorrt-rtx", "fp16", LAPTOP, {"compute_capabilities": ("x",)}, "such as"),
    ("tensorrt-rtx", "fp16", LAPTOP, {"timing_cache": Path("t")}, "its timing cache is empty"),
    ("tensorrt-rtx", "fp16", LAPTOP, {"version_compatible": True}, "no version-compatible engines"),
    ("rtx", "fp16", LAPTOP, {"hardware_compatibility": "ampere_plus"}, "run on every listed GPU"),
    (
        "tensorrt",
        "fp16",
        H100,
        {"compute_capabilities": ("8.6",)},
        "for this machine's GPU; only TensorRT-RTX",
    ),
    (
        "tensorrt",
        "fp16",
        T4,
        {"hardware_compatibility": "ampere_plus"},
        "built on Ampere or newer, not on 7.5",
    ),
    ("tensorrt", "fp16", H100, {"hardware_compatibility": "any"}, "one of none"),
    ("tensorrt", "fp8", H100, {"hardware_compatibility": "ampere_plus"}, "every GPU from 8.0 on, and fp8"),
    (
        "jetson-orin",
        "fp16",
        ORIN,
        {"hardware_compatibility": "same_compute_capability"},
        "DRIVE OS and JetPack",
    ),
    ("drive-thor", "fp16", THOR, {"hardware_compatibility": "ampere_plus"}, "DRIVE OS and JetPack"),
    ("tensorrt", "fp16", H100, {"plugin": False, "plugin_library": Path("x.so")}, "cannot be combined"),
    ("drive-orin", "fp16", ORIN, {"version_compatible": True}, "does not support .* on DRIVE"),
    ("drive-thor", "fp16", THOR, {"version_compatible": True}, "does not support .* on DRIVE"),
    ("drive-orin-6", "fp16", ORIN, {}, "no IPluginV3.*DriveOS 7"),
    ("drive-orin", "fp16", machine("linux-aarch64", "8.6.12", capability="8.7"), {}, "no IPluginV3"),
    ("drive-orin", "fp16", machine("linux-aarch64", "11.1.0", capability="8.7"), {}, r"never 11.*11\.1\.0"),
    ("jetson-orin", "fp16", machine("linux-aarch64", "12.0", capability="8.7"), {}, "below 12.0"),
    (
        "jetson-orin",
        "fp16",
        H100,
        {},
        r"built on the device itself.*this is linux-x86_64.*--target jetson-orin",
    ),
    ("jetson-orin", "fp16", THOR, {}, r"\(11\.0\), and this target has 8\.7"),
    ("data-center", "fp16", machine(tensorrt="11.1", capability="12.1"), {}, "this target has 7.5 or"),
]


@pytest.mark.parametrize(("name", "precision", "here", "options", "reason"), IMPOSSIBLE)
def test_impossible_combinations_are_rejected_with_the_reason(name, precision, here, options, reason):
    with pytest.raises(UsageError, match=reason) as raised:
        check_target(TARGETS[name], precision, EngineOptions(**options), here)
    assert ": got" not in str(raised.value), "a reason is a sentence, not what was passed"


@pytest.mark.parametrize(
    ("name", "here", "text"),
    [
        ("tensorrt", BARE, "Python package tensorrt.*pip install 'imp-trt.*; or stay with the ONNX file"),
        ("rtx", BARE, "Python package tensorrt_rtx.*pip install 'imp-trt"),
        ("tensorrt", machine(tensorrt="11.1"), "a GPU for target tensorrt.*libcuda"),
        ("jetson-orin", machine("linux-aarch64", "10.3"), "a GPU for target jetson-orin"),
    ],
)
def test_what_is_missing_is_not_called_impossible(name, here, text):
    with pytest.raises(DependencyMissing, match=text):
        check_target(TARGETS[name], "fp16", EngineOptions(), here)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantized_precisions_need_calibration(precision):
    with pytest.raises(UsageError, match="--calib DIR"):
        ExportOptions(precision=precision)
    with pytest.raises(UsageError, match="takes no calibration frames"):
        ExportOptions(precision="fp16", calibration="recorded")


def test_the_default_is_the_best_present():
    assert default_target(ORIN) == "tensorrt"
    assert default_target(machine(rtx="1.7", capability="8.9")) == "tensorrt-rtx"
    assert default_target(machine(tensorrt="10.3", rtx="1.7", capability="8.9")) == "tensorrt"
    assert default_target(machine(tensorrt="10.3")) == "onnxruntime"
    assert default_target(BARE) == "onnxruntime"


def test_the_default_runs_on_this_machine():
    assert default_target(LAPTOP) == "onnxruntime", "it builds here, and no GPU runs the engine"
    assert default_target(machine(rtx="1.7", capability="9.0")) == "onnxruntime", "not a GPU of TensorRT-RTX"


def test_the_default_of_an_onnx_file_is_an_engine():
    assert default_engine_target(ORIN) == "tensorrt"
    assert default_engine_target(machine(rtx="1.7", capability="8.9")) == "tensorrt-rtx"
    assert default_engine_target(LAPTOP) == "tensorrt-rtx", "it builds without a GPU"
    assert default_engine_target(BARE) == "tensorrt", "then what is missing is said"


@pytest.mark.parametrize("version", ["8.5.2", "10.2.0", "12.0.0"])
def test_a_tensorrt_that_is_not_supported_is_not_the_best(version):
    old = machine(tensorrt=version, capability="8.7")
    assert default_target(old) == "onnxruntime"
    assert default_target(machine(tensorrt=version, rtx="1.7", capability="8.9")) == "tensorrt-rtx"


def test_nothing_is_to_be_installed_where_the_engine_cannot_be_built():
    with pytest.raises(UsageError, match="built on the device itself"):
        check_target(TARGETS["jetson-orin"], "fp16", EngineOptions(), BARE)
    with pytest.raises(DependencyMissing, match=r"python3-libnvinfer.*--system-site-packages") as raised:
        check_target(TARGETS["jetson-orin"], "fp16", EngineOptions(), machine("linux-aarch64"))
    assert "pip install" not in str(raised.value), "pip's TensorRT is for servers"


def test_a_missing_plugin_library_is_reported_before_the_export():
    options = EngineOptions(plugin_library=Path("nowhere.so"))
    with pytest.raises(DependencyMissing, match=r"nowhere\.so.*no such file.*README"):
        check_target(TARGETS["rtx"], "fp16", options, LAPTOP)


def test_an_unknown_target_gets_the_list():
    with pytest.raises(UsageError, match=r"drive-orin.*--list-targets"):
        find_target("orin")


def test_capabilities_are_narrowed_to_those_that_have_the_type():
    rtx, desktop = TARGETS["tensorrt-rtx"], TARGETS["rtx"]
    assert capabilities_for(rtx, "fp16", EngineOptions()) == (), "its own default, which is its widest"
    assert capabilities_for(rtx, "fp8", EngineOptions()) == ("8.9", "12.0", "12.1")
    assert capabilities_for(desktop, "fp16", EngineOptions()) == ("8.6", "8.9", "12.0")
    assert capabilities_for(desktop, "fp16", EngineOptions(compute_capabilities=("8.0",))) == ("8.0",)
    assert capabilities_for(TARGETS["data-center"], "fp16", EngineOptions()) == ()


def test_every_profile_is_dated_and_sourced():
    for name, target in TARGETS.items():
        assert target.name == name
        assert target.backend in ("onnxruntime", "tensorrt", "tensorrt-rtx")
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", target.as_of)
        assert target.source
        assert target.note
        assert all(re.fullmatch(r"\d+\.\d", text) for text in target.capabilities)
        if target.backend == "tensorrt" and not target.unsupported:
            assert target.versions is not None
            assert (10, 3) <= target.versions[0] < target.versions[1] <= (12, 0)


def test_the_table_names_every_target_and_the_best():
    table = list_targets(LAPTOP)
    for name, target in TARGETS.items():
        assert f" {name} " in table
        assert target.as_of in table
    assert [line.split()[1] for line in table.splitlines() if line.startswith("* ")] == [
        "onnxruntime",
        "best",
    ]


def test_the_list_of_precisions_is_complete():
    for precision in PRECISIONS:
        check_target(TARGETS["data-center"], precision, EngineOptions(), H100)


@pytest.mark.parametrize(
    ("text", "pair"),
    [("10.3.0.26-1+cuda12.5", (10, 3)), ("11", (11, 0)), ("1.7.1.116", (1, 7)), ("dev", (0, 0))],
)
def test_versions_of_packages(text, pair):
    assert version_pair(text) == pair


def test_the_former_name_of_a_target_works_and_warns(caplog: pytest.LogCaptureFixture) -> None:
    assert find_target("data-centre") is TARGETS["data-center"]
    assert "data-centre is deprecated, use data-center" in caplog.text

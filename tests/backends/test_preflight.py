# SPDX-License-Identifier: Apache-2.0
"""Every way in which an engine may not fit: both values and a command are in the message."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from imp_trt.artifacts.canvas_part import CanvasPart
from imp_trt.artifacts.plan_header import PlanHeader, read_plan_header
from imp_trt.artifacts.reading import read_artifact
from imp_trt.backends import preflight
from imp_trt.backends.preflight import check, export_command, problems
from imp_trt.cli.export import parser
from imp_trt.cuda.platform import Gpu
from imp_trt.errors import ArtifactError, DependencyMissing, EngineIncompatible, InvalidInput
from tests.support import engines, tiny

ORIN = PlanHeader("tensorrt", "10.3.0.26")
RTX = PlanHeader("tensorrt-rtx", "1.7.1.116", ("8.6", "8.9"))
RTX_INFO = {
    "backend": "tensorrt-rtx",
    "version": "1.7.1.116",
    "compute_capabilities": ("8.6", "8.9"),
    "platform": "linux-x86_64",
    "operators": {"InstanceMaskProjection": "function"},
}
DESKTOP = {
    "name": "linux-x86_64",
    "tensorrt": None,
    "tensorrt_rtx": "1.7.1.116",
    "gpu": Gpu("RTX 4090", "8.9", (13, 2)),
}
HOPPER = Gpu("H200", "9.0", (13, 0))
NO_DRIVER = DependencyMissing(
    "the NVIDIA driver library", got="libcuda.so.1 not found", fix="install the driver"
)
NO_NVRTC = DependencyMissing(
    "NVRTC 12", got="libnvrtc.so.12 not found", fix="pip install nvidia-cuda-nvrtc-cu12"
)


def test_an_engine_on_the_machine_it_was_built_on() -> None:
    assert problems(engines.manifest(), ORIN, engines.orin()) == []
    assert problems(engines.manifest(engines.info(**RTX_INFO)), RTX, engines.orin(**DESKTOP)) == []


def test_an_engine_that_fits_needs_no_bundled_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "_is_bundled", lambda digest: pytest.fail("12 MB are read and hashed"))
    assert problems(engines.manifest(), ORIN, engines.orin()) == []


FITS = [
    ("package without the build number", {}, {"tensorrt": "10.3.0"}),
    ("package with the build number", {}, {"tensorrt": "10.3.0.26"}),
    ("Debian's version", {}, {"tensorrt": "10.3.0.26-1+cuda12.5"}),
    ("manifest without the build number", {"version": "10.3.0"}, {"tensorrt": "10.3.0.26"}),
    ("Ampere and later", {"hardware_compatibility": "ampere_plus"}, {"gpu": HOPPER}),
    ("same capability", {"hardware_compatibility": "same_compute_capability"}, {}),
    ("no plugin needed", {"operators": {"InstanceMaskProjection": "function"}}, {"plugins": NO_NVRTC}),
    ("C++ plugins", {}, {"plugins": "C++ library /opt/libimp_trt_plugins.so"}),
]


@pytest.mark.parametrize(("engine", "machine"), [f[1:] for f in FITS], ids=[f[0] for f in FITS])
def test_what_fits(engine: dict[str, object], machine: dict[str, object]) -> None:
    assert problems(engines.manifest(engines.info(**engine)), ORIN, engines.orin(**machine)) == []


# What changes: the engine, the machine; what the message says: expected, got, command; missing or not.
MISFITS = [
    ("older TensorRT", {}, {"tensorrt": "10.2.0"}, "10.3.0.26", "10.2.0", "--target tensorrt", False),
    ("later TensorRT", {}, {"tensorrt": "11.1.0"}, "10.3.0.26", "11.1.0", "--target tensorrt", False),
    ("other patch", {}, {"tensorrt": "10.3.1"}, "10.3.0.26", "10.3.1", "--target tensorrt", False),
    ("other build", {}, {"tensorrt": "10.3.0.30"}, "10.3.0.26", "10.3.0.30", "--target tensorrt", False),
    (
        "host code inside",
        {"version_compatible": True},
        {},
        "without host code",
        "--version-compatible",
        "--target tensorrt",
        False,
    ),
    ("no TensorRT", {}, {"tensorrt": None}, "10.3.0.26", "nothing installed", "JetPack", True),
    (
        "RTX instead of TensorRT",
        {},
        {"tensorrt": None, "tensorrt_rtx": "1.7.1.116"},
        "TensorRT 10.3.0.26",
        "only TensorRT-RTX 1.7.1.116",
        "--target tensorrt-rtx",
        True,
    ),
    ("other GPU", {}, {"gpu": HOPPER}, "8.7", "9.0 (H200)", "--target tensorrt", False),
    (
        "before Ampere",
        {"hardware_compatibility": "ampere_plus"},
        {"gpu": Gpu("T4", "7.5", (12, 6))},
        "8.0 or later",
        "7.5 (T4)",
        "--target tensorrt",
        False,
    ),
    (
        "same capability asked for",
        {"hardware_compatibility": "same_compute_capability"},
        {"gpu": HOPPER},
        "8.7",
        "9.0",
        "--target tensorrt",
        False,
    ),
    ("no GPU", {}, {"gpu": NO_DRIVER}, "capability 8.7", "libcuda.so.1", "--target onnxruntime", True),
    (
        "other machine",
        {},
        {"name": "linux-x86_64"},
        "linux-aarch64",
        "linux-x86_64",
        "--target tensorrt",
        False,
    ),
    (
        "no plugins",
        {},
        {"plugins": NO_NVRTC},
        "InstanceMaskProjection",
        "libnvrtc.so.12",
        "nvrtc-cu12; or build the C++ library",
        True,
    ),
]


@pytest.mark.parametrize(
    ("engine", "machine", "expected", "got", "command", "missing"),
    [m[1:] for m in MISFITS],
    ids=[m[0] for m in MISFITS],
)
def test_what_does_not_fit(
    engine: dict[str, object],
    machine: dict[str, object],
    expected: str,
    got: str,
    command: str,
    missing: bool,
) -> None:
    info = engines.info(**engine)
    header = PlanHeader("tensorrt", info.version)
    (problem,) = problems(engines.manifest(info), header, engines.orin(**machine))
    error = problem.error()
    assert type(error) is (DependencyMissing if missing else EngineIncompatible)
    assert error.exit_code == (5 if missing else 4)
    assert expected in str(error.expected)
    assert got in str(error.got)
    assert command in str(error.fix)


RTX_MISFITS = [
    ("other release", {"tensorrt_rtx": "1.6.1.120"}, "1.7.1.116", "1.6.1.120", "--target tensorrt-rtx"),
    (
        "later release",
        {"tensorrt_rtx": "1.8.0.5"},
        "1.7.1.116",
        "1.8.0.5",
        "pip install tensorrt-rtx==1.7.1.116",
    ),
    ("none", {"tensorrt_rtx": None}, "1.7.1.116", "nothing", "pip install tensorrt-rtx==1.7.1.116"),
    (
        "capability not in the list",
        {"gpu": Gpu("RTX 5090", "12.0", (13, 2))},
        "8.6 or 8.9",
        "12.0 (RTX 5090)",
        "--target tensorrt-rtx --weights CHECKPOINT --compute-capability 12.0",
    ),
    # TensorRT-RTX has no engines for it at all.
    ("capability unknown to RTX", {"gpu": HOPPER}, "8.6 or 8.9", "9.0 (H200)", "--target tensorrt --weights"),
]


@pytest.mark.parametrize(
    ("machine", "expected", "got", "command"), [m[1:] for m in RTX_MISFITS], ids=[m[0] for m in RTX_MISFITS]
)
def test_what_does_not_fit_rtx(machine: dict[str, object], expected: str, got: str, command: str) -> None:
    manifest = engines.manifest(engines.info(**RTX_INFO))
    (problem,) = problems(manifest, RTX, engines.orin(**(DESKTOP | machine)))
    assert expected in problem.expected
    assert got in problem.got
    assert command in problem.fix


HEADERS = [
    ("another engine's version", PlanHeader("tensorrt", "10.7.0.23"), "10.3.0.26", "10.7.0.23"),
    ("RTX", PlanHeader("tensorrt-rtx", "10.3.0.26"), "an engine of TensorRT,", "one of TensorRT-RTX"),
    ("no engine", PlanHeader(), "an engine of TensorRT,", "a file that is not an engine"),
]


@pytest.mark.parametrize(("header", "expected", "got"), [h[1:] for h in HEADERS], ids=[h[0] for h in HEADERS])
def test_header_against_manifest(header: PlanHeader, expected: str, got: str) -> None:
    (problem,) = problems(engines.manifest(), header, engines.orin())
    assert not problem.missing
    assert expected in problem.expected
    assert got in problem.got
    assert "imp-export --engine fp16 --target drive-orin" in problem.fix


def test_missing_plugins_can_be_built_without() -> None:
    (problem,) = problems(engines.manifest(), ORIN, engines.orin(plugins=NO_NVRTC))
    assert problem.fix.endswith("imp-export --engine fp16 --target tensorrt --weights CHECKPOINT --no-plugin")


def test_header_of_rtx_against_the_listed_capabilities() -> None:
    manifest = engines.manifest(engines.info(**RTX_INFO))
    narrow = PlanHeader("tensorrt-rtx", "1.7.1.116", ("8.6",))
    (problem,) = problems(manifest, narrow, engines.orin(**DESKTOP))
    assert ("8.6, 8.9" in problem.expected, problem.got) == (True, "8.6")
    wide = PlanHeader("tensorrt-rtx", "1.7.1.116", ("8.0", "8.6", "8.9"))
    assert problems(manifest, wide, engines.orin(**DESKTOP)) == []


def test_a_header_without_a_version_is_accepted() -> None:
    assert problems(engines.manifest(), PlanHeader("tensorrt"), engines.orin()) == []


def test_another_backend_than_the_engine_s() -> None:
    (problem,) = problems(engines.manifest(), ORIN, engines.orin(), backend="tensorrt-rtx")
    assert "'tensorrt'" in problem.expected
    assert problem.got == "'tensorrt-rtx'"
    assert problems(engines.manifest(), ORIN, engines.orin(), backend="tensorrt") == []


def test_what_no_installation_fixes_comes_first() -> None:
    nothing = engines.orin(name="linux-x86_64", tensorrt=None, gpu=NO_DRIVER, plugins=NO_NVRTC)
    found = problems(engines.manifest(), ORIN, nothing)
    assert [p.missing for p in found] == [False, True, True, True]
    assert found[1].fix == "pip install tensorrt==10.3.0"


@pytest.mark.parametrize(
    ("version", "package"),
    [
        ("10.0.1.6", "10.0.1"),
        ("10.7.0.23", "10.7.0"),
        ("10.8.0.43", "10.8.0.43"),
        ("11.4.0.106", "11.4.0.106"),
    ],
)
def test_the_package_that_is_named_exists(version: str, package: str) -> None:
    """Until 10.7 the Python packages have three numbers in their versions.

    The package `tensorrt` is for the newest CUDA of its release, which a driver for CUDA 12 may not know.
    """
    engine = engines.info(version=version, platform="linux-x86_64")
    here = engines.orin(name="linux-x86_64", tensorrt=None)
    found = problems(engines.manifest(engine), PlanHeader("tensorrt", version), here)
    assert [p.fix for p in found] == [f"pip install tensorrt-cu12=={package}"]
    here = engines.orin(name="linux-x86_64", tensorrt=None, gpu=Gpu("Orin", "8.7", (13, 0)))
    found = problems(engines.manifest(engine), PlanHeader("tensorrt", version), here)
    assert [p.fix for p in found] == [f"pip install tensorrt=={package}"]


def test_only_engines_have_a_preflight() -> None:
    with pytest.raises(InvalidInput, match="kind 'onnx'"):
        problems(tiny.manifest(), ORIN, engines.orin())


def test_check_raises_the_first_problem(tmp_path: Path) -> None:
    artifact = read_artifact(engines.artifact(tmp_path))
    check(artifact, engines.orin())
    with pytest.raises(EngineIncompatible, match=r"expected 8\.7, got 9\.0 \(H200\)\. Fix: build it"):
        check(artifact, engines.orin(gpu=HOPPER))
    with pytest.raises(DependencyMissing, match="nothing installed"):
        check(artifact, engines.orin(tensorrt=None))
    with pytest.raises(EngineIncompatible, match="backend"):
        check(artifact, engines.orin(), backend="tensorrt-rtx")


def test_check_reads_the_payload(tmp_path: Path) -> None:
    other = read_artifact(engines.artifact(tmp_path, engines.plan("10.7.0.23")))
    with pytest.raises(EngineIncompatible, match=r"10\.3\.0\.26.*10\.7\.0\.23"):
        check(other, engines.orin())
    cut = read_artifact(engines.artifact(tmp_path, b"ftrt"))
    with pytest.raises(ArtifactError, match="4 bytes"):
        check(cut, engines.orin())


def test_check_looks_at_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = read_artifact(engines.artifact(tmp_path))
    monkeypatch.setattr(
        preflight.Platform, "detect", classmethod(lambda cls: engines.orin(tensorrt="10.4.0"))
    )
    with pytest.raises(EngineIncompatible, match=r"10\.4\.0"):
        check(artifact)


def test_the_command_names_what_the_file_was_made_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = export_command(engines.manifest(input=tiny.InputContract(64, 96, batch=4)), "tensorrt")
    assert command == "imp-export --engine fp16 --target tensorrt --weights CHECKPOINT --batch 4"
    assert "--calib FOLDER" in export_command(engines.manifest(precision="int8"), "tensorrt")
    demo = tmp_path / "demo.safetensors"
    demo.write_bytes(b"demo")
    monkeypatch.setattr("imp_trt.weights.bundled", lambda: demo)
    digest = hashlib.sha256(b"demo").hexdigest()
    assert "--weights" not in export_command(engines.manifest(weights_sha256=digest), "tensorrt")


def test_the_command_keeps_layers_and_the_canvas_part() -> None:
    """An engine that was built by it would run no video with detect_every, or fail its gate."""
    kept = {"kept_float16": ["detector.mask_head.0.0", "network.semantic"]}
    part = CanvasPart((1, 2, 16, 24), engine=engines.info())
    manifest = engines.manifest(precision="int8", verification=kept, canvas_part=part)
    _, *arguments = shlex.split(export_command(manifest, "tensorrt"))
    options = parser().parse_args(arguments)
    assert options.parts
    assert options.keep_float16 == "detector.mask_head.0.0,network.semantic"
    assert "--keep-float16" not in export_command(replace(manifest, precision="fp16"), "tensorrt")
    for names in ([], ["a; rm -rf x"], "all", [1]):
        other = replace(manifest, verification={"kept_float16": names})
        assert "--keep-float16" not in export_command(other, "tensorrt")


OPTIONS = [
    ("tensorrt", {}, ""),
    ("tensorrt", {"operators": {}}, ""),
    ("tensorrt", {"operators": {"InstanceMaskProjection": "function"}}, "--no-plugin"),
    ("tensorrt", {"hardware_compatibility": "ampere_plus"}, "--hardware-compatible ampere_plus"),
    ("tensorrt", {"version_compatible": True}, ""),
    ("drive-orin", {}, ""),
    ("tensorrt-rtx", {"operators": {"InstanceMaskProjection": "function"}}, ""),
    ("tensorrt-rtx", {}, "--plugin"),
    ("tensorrt-rtx", {"version_compatible": True, "hardware_compatibility": "ampere_plus"}, "--plugin"),
    ("onnxruntime", {"version_compatible": True}, ""),
]


@pytest.mark.parametrize(("target", "engine", "options"), OPTIONS)
def test_the_command_builds_the_same_way(target: str, engine: dict[str, object], options: str) -> None:
    command = export_command(engines.manifest(engines.info(**engine)), target)
    assert command.partition("--weights CHECKPOINT")[2].strip() == options
    assert parser().parse_args(shlex.split(command)[1:]).target == target


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "onnxruntime"])
def test_the_command_is_one_that_imp_export_takes(precision: str, target: str) -> None:
    manifest = engines.manifest(precision=precision, input=tiny.InputContract(64, 96, batch=2))
    _, *arguments = shlex.split(export_command(manifest, target))
    options = parser().parse_args(arguments)
    wanted = "fp32" if target == "onnxruntime" else precision
    assert (options.engine, options.target, options.batch) == (wanted, target, 2)
    assert (options.calib is not None) == (wanted in ("int8", "fp8"))


def test_a_whole_rtx_artifact(tmp_path: Path) -> None:
    engine = engines.info(**RTX_INFO)
    path = engines.artifact(tmp_path, engines.rtx_plan(bits=0b1100), engine)
    artifact = read_artifact(path)
    assert read_plan_header(artifact.payload) == PlanHeader("tensorrt-rtx", "1.7.1.116", ("8.6", "8.9"), 164)
    check(artifact, engines.orin(**DESKTOP))

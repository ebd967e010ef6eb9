# SPDX-License-Identifier: Apache-2.0
"""Engines from ONNX artifacts: what is verified, what is written, and what is rejected."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from onnx.external_data_helper import set_external_data

from imp_trt.artifacts.artifact import golden_path
from imp_trt.artifacts.golden import read_golden
from imp_trt.artifacts.plan_header import read_plan_header
from imp_trt.artifacts.reading import read_artifact
from imp_trt.cli.export import main
from imp_trt.cuda.platform import platform_name
from imp_trt.errors import ArtifactError, DependencyMissing, UsageError, VerificationError
from imp_trt.export import from_onnx
from imp_trt.export.adopt import adopt_engine
from imp_trt.export.from_onnx import engine_from_onnx
from imp_trt.export.options import EngineOptions, ExportOptions
from imp_trt.export.tensorrt.engine import BuiltEngine
from imp_trt.export.verification.gates import Gate
from tests.support import engines, tiny
from tests.support.fake_tensorrt import CAPABILITY, VERSIONS, fake_gpu, plan
from tests.support.golden import golden, onnx_artifact, wrong_golden

DEVICE = {
    "compute_capabilities": ("{}.{}".format(*CAPABILITY),),
    "version": VERSIONS["tensorrt"],
    "platform": platform_name(),
    "operators": {},
}


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A builder that answers with an engine of tiny's network; returns the graphs that it got."""
    built: list[bytes] = []

    def make_engine(model, precision, target, options, platform, progress):
        built.append(model)
        payload = plan(tiny.graph())
        header = read_plan_header(payload)
        return BuiltEngine(
            payload, header, engines.info(**DEVICE, layer_precisions={"Half": 3}), "engine inspector"
        )

    monkeypatch.setattr(from_onnx, "make_engine", make_engine)
    return built


def test_where_the_engine_runs_it_is_verified(tmp_path: Path, builder: list[bytes]) -> None:
    path = onnx_artifact(tmp_path)
    with fake_gpu():
        report = engine_from_onnx(path, tmp_path / "out")
    assert report.path == tmp_path / "out" / "tiny.fp16.tensorrt.engine"
    assert builder == [path.read_bytes()]
    artifact = read_artifact(report.path)
    manifest = artifact.manifest
    assert (manifest.kind, manifest.precision, manifest.target) == ("engine", "fp16", "tensorrt")
    assert manifest.verification["verified_on"] == "engine"
    assert manifest.verification["source"] == "2 golden frames of tiny.fp16.onnx"
    assert manifest.verification["label_agreement"] == 1.0
    assert "skipped" not in manifest.verification
    assert manifest.benchmark["network_ms"] > 0
    assert manifest.engine is not None
    assert manifest.engine.layer_precisions == {"Half": 3}
    assert read_golden(report.path, manifest) == golden_path(path).read_bytes()
    assert not report.graph_only


def test_where_it_cannot_run_its_graph_is_verified(tmp_path: Path, no_gpu: None) -> None:
    report = engine_from_onnx(onnx_artifact(tmp_path), tmp_path / "out")
    assert report.manifest.verification["verified_on"] == "onnxruntime-cpu"
    assert report.manifest.benchmark == {}
    assert report.graph_only
    assert "no libcuda.so.1" in report.not_run_reason


def test_a_file_that_is_replaced_during_the_build(
    tmp_path: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph that was built is verified, not the one that is there now."""
    path = onnx_artifact(tmp_path)
    before = read_artifact(path).manifest.sha256
    build = from_onnx.make_engine

    def replace_it(*arguments: object) -> BuiltEngine:
        onnx_artifact(tmp_path, tiny.graph(num_detections=0), frames=golden(3))
        return build(*arguments)

    monkeypatch.setattr(from_onnx, "make_engine", replace_it)
    report = engine_from_onnx(path, tmp_path / "out")
    assert read_artifact(path).manifest.sha256 != before
    assert report.manifest.verification["instances"] == {"reference": 4, "candidate": 4, "matched": 4}


@pytest.mark.parametrize("here", ["engine", "graph"])
def test_other_answers_leave_nothing(tmp_path: Path, here: str, request: pytest.FixtureRequest) -> None:
    path = onnx_artifact(tmp_path, frames=wrong_golden())
    before = sorted(tmp_path.iterdir())
    machine = fake_gpu() if here == "engine" else nullcontext(request.getfixturevalue("no_gpu"))
    with machine, pytest.raises(VerificationError, match=r"labels equal on 50\.0000%"):
        engine_from_onnx(path, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_quantized_files_need_no_calibration(tmp_path: Path) -> None:
    path = onnx_artifact(tmp_path, precision="int8", verification={"calibration": "9 images of recorded"})
    with fake_gpu():
        report = engine_from_onnx(path, tmp_path, ExportOptions(precision="int8", calibrated=True))
    assert report.path.name == "tiny.int8.tensorrt.engine"
    assert report.manifest.verification["calibration"] == "9 images of recorded"


def test_unverified_only_on_request(tmp_path: Path, builder: list[bytes]) -> None:
    path = tiny.artifact(tmp_path, name="old.onnx", ops={})
    with fake_gpu():
        with pytest.raises(ArtifactError, match=r"golden_sha256.*--no-verify"):
            engine_from_onnx(path, tmp_path / "out")
        assert not builder, "said before the build"
        report = engine_from_onnx(path, tmp_path / "out", ExportOptions(verify=False))
    assert report.manifest.verification["verified_on"] is None
    assert not golden_path(report.path).exists()


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"batch": 2, "frames": "recorded"}, "--batch, --frames"),
        ({"gate": Gate(0.5, None, 1.0), "parts": True}, "--parts, --gate"),
        ({"engine": EngineOptions(keep_onnx=True)}, "--keep-onnx"),
    ],
)
def test_options_of_the_files_export_are_rejected(
    tmp_path: Path, builder: list[bytes], options: dict[str, Any], flags: str
) -> None:
    path = onnx_artifact(tmp_path)
    engine = tmp_path / "plan.engine"
    engine.write_bytes(plan(tiny.graph()))
    chosen = ExportOptions(precision="fp16", **options)
    with fake_gpu(), pytest.raises(UsageError, match=f"takes no {flags}.*exported already"):
        engine_from_onnx(path, tmp_path / "out", chosen)
    with fake_gpu(), pytest.raises(UsageError, match=f"takes no {flags}.*exported already"):
        adopt_engine(engine, path, tmp_path / "out", chosen)
    assert not builder


def test_nothing_to_verify_with_is_reported_before_the_build(
    tmp_path: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch, builder: list[bytes]
) -> None:
    monkeypatch.setattr(from_onnx, "find_spec", lambda name: None)
    with pytest.raises(DependencyMissing, match=r"imp-trt\[onnx\]"):
        engine_from_onnx(onnx_artifact(tmp_path), tmp_path / "out")
    assert not builder


def test_the_graph_must_be_that_of_the_manifest(tmp_path: Path) -> None:
    path = onnx_artifact(tmp_path, tiny.graph(2))
    with pytest.raises(ArtifactError, match=r"inputs of the graph differ.*\[1, 64.*\[2, 64"):
        engine_from_onnx(path, tmp_path / "out")
    path = onnx_artifact(tmp_path, ops={"ImpMultilevelRoiAlign": {"version": "1"}})
    with pytest.raises(ArtifactError, match="custom operators of the graph differ"):
        engine_from_onnx(path, tmp_path / "out")


def test_tensors_in_other_files_are_not_read(tmp_path: Path) -> None:
    """TensorRT's parser would read them from any file."""
    model = tiny.graph()
    set_external_data(model.graph.initializer[0], "/etc/hostname")
    model.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(ArtifactError, match="a tensor in another file"):
        engine_from_onnx(onnx_artifact(tmp_path, model), tmp_path / "out")


def test_targets_without_engines_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"which ONNX Runtime runs as it is\. Fix: use the file as it is"):
        engine_from_onnx(onnx_artifact(tmp_path), ".", ExportOptions(precision="fp16", target="onnxruntime"))


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--engine", "fp32"], 2, "a file in fp32, got one in fp16"),
        (["--engine", "fp32"], 2, "imp-export --precisions fp32 --weights CHECKPOINT"),
        (["--engine", "int8"], 2, "--precisions int8 --weights CHECKPOINT --calib FOLDER"),
        (["--engine", "bf16"], 2, "--keep-onnx"),
        (["--batch", "2"], 2, "takes no --batch"),
        (["--calib", "."], 2, "takes no --calib"),
        (["--frames", ".", "--keep-onnx"], 2, "takes no --frames, --keep-onnx"),
        (["--target", "jetson-orin"], 2, "built on the device itself"),
        (["-o", "other.onnx"], 2, "ends with .engine"),
    ],
)
def test_mistakes_on_the_command_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    builder: list[bytes],
    arguments: list[str],
    code: int,
    text: str,
) -> None:
    path = onnx_artifact(tmp_path)
    with fake_gpu():
        assert main([str(path), *arguments]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not builder


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = onnx_artifact(tmp_path, frames=golden(1))
    with fake_gpu():
        assert main([str(path), "--engine", "fp16", "-o", str(tmp_path / "a.engine"), "-q"]) == 0
        out = capsys.readouterr().out
        assert main([str(path), "-o", str(tmp_path / "b.engine"), "-q", "--json"]) == 0
    assert f"golden     {tmp_path / 'a.golden.npz'}" in out.splitlines()
    assert out.splitlines()[-1] == f"PASSED imp-export {tmp_path / 'a.engine'} verified_on=engine"
    assert json.loads(capsys.readouterr().out)["verification"]["frames"] == 1


def test_a_file_without_its_manifest_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.onnx")]) == 4
    assert "nothing at this path" in capsys.readouterr().err
    model = tiny.graph()
    model.producer_name = "imp_trt"
    (tmp_path / "lost.onnx").write_bytes(model.SerializeToString())
    assert main([str(tmp_path / "lost.onnx")]) == 4
    assert "lost.onnx.json" in capsys.readouterr().err

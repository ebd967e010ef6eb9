# SPDX-License-Identifier: Apache-2.0
"""imp-export, imp-inspect and imp-selftest for third-party ONNX files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_trt.artifacts.artifact import canvas_path, golden_path
from imp_trt.artifacts.reading import read_network
from imp_trt.artifacts.writing import write_artifact
from imp_trt.cli import export, inspect, selftest
from imp_trt.cuda.platform import Platform
from imp_trt.errors import DependencyMissing
from imp_trt.export import network
from imp_trt.export.verification.arrays import pack_call
from tests.support import engines, foreign, tiny_parts
from tests.support.stub_packages import needs_rtx

ONNX = ["--target", "onnxruntime", "-q"]


@pytest.fixture
def yours(tmp_path: Path) -> Path:
    return foreign.save(tmp_path, foreign.plain())


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = export.main([str(a) for a in arguments])
    return code, *capsys.readouterr()


def test_the_last_lines_say_how_to_use_it(
    tmp_path: Path, yours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, yours, "--engine", "fp16", *ONNX, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    path = tmp_path / "out" / "yours.fp16.onnx"
    lines = out.splitlines()
    assert lines[:3] == [f"artifact   {path}", f"manifest   {path}.json", f"golden     {golden_path(path)}"]
    assert "input      images: float32[1, 3, 16, 24]" in lines
    assert "output     classes: uint8[1, 16, 24]" in lines
    assert "compared   4 calls: 4 random inputs in [0, 1], seed 0" in lines
    rounded = [line for line in lines if "with float16 rounding, required 99.80%" in line]
    assert len(rounded) == 3
    assert "agreement  classes: 100.0000% equal, required 99.80%" in lines
    assert lines[-2] == f"PASSED imp-export {path} verified_on=onnxruntime-cpu"
    assert "imp_trt.Engine(PATH).run({name: array})" in lines[-1]


def test_golden_arrays_that_have_a_name_of_their_own_are_named(
    tmp_path: Path, yours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_artifact(tmp_path / "out" / "a.engine", b"x", engines.manifest(), golden=b"other")
    path = other.with_suffix(".onnx")
    code, out, _ = run(capsys, yours, *ONNX, "-o", path)
    assert (code, f"golden     {path}.golden.npz" in out.splitlines()) == (0, True)
    assert golden_path(other).read_bytes() == b"other"


def test_json(tmp_path: Path, yours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, yours, *ONNX, "-o", tmp_path / "out", "--json")
    data = json.loads(out)
    assert code == 0
    assert data["artifact"] == str(tmp_path / "out" / "yours.fp32.onnx")
    assert data["verification"]["outputs"]["logits"]["agreeing"] == 1.0
    assert data["engine"] is None


def test_shapes_and_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = foreign.save(tmp_path, foreign.plain(("B", 3, "H", "W")))
    code, _, err = run(capsys, path, *ONNX, "-o", tmp_path / "out")
    assert (code, "--shape images=1x3x1x1" in err) == (2, True)
    np.savez(tmp_path / "call.npz", **foreign.images(sides=(1, 3, 32, 32)))
    options = ["--shape", "images=1x3x32x32", "--frames", tmp_path / "call.npz"]
    code, out, _ = run(capsys, path, *ONNX, "-o", tmp_path / "out", *options)
    assert (code, "compared   1 call: call.npz" in out) == (0, True)


def test_an_unverified_file_never_says_passed(
    tmp_path: Path, yours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, yours, *ONNX, "-o", tmp_path / "out", "--no-verify")
    assert code == 0
    assert "PASSED" not in out
    assert out.splitlines()[-1] == f"UNVERIFIED imp-export {tmp_path / 'out' / 'yours.fp32.onnx'}"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--engine", "int8"], 2, "fp32 or fp16, got int8"),
        (["--precisions", "fp32", "fp16"], 2, "--precisions"),
        (["--classes", "x"], 2, "classes"),
        (["--batch", "2"], 2, "--batch"),
        (["--calib", "."], 2, "--calib"),
        (["--function-free"], 2, "--function-free"),
        (["--parts"], 2, "takes no --parts"),
        (["--bisect"], 2, "takes no --bisect"),
        (["--gate", "labels=0.9"], 2, "takes no --gate"),
        (["--frames", "f.npz", "--no-verify"], 2, "--no-verify takes no --frames"),
        (["--keep-float16", "auto"], 2, "takes no --keep-float16"),
        (["--shape", "images=1x3"], 2, "a shape like [1, 3, 16, 24]"),
        (["--shape", "images=1x3x16x24", "--shape", "images=1x3x16x24"], 2, "each input once"),
        (["--shape", "images"], 2, "images=1x3x512x1024"),
        (["--shape", "images=0x3"], 2, "images=1x3x512x1024"),
        (["--frames", "."], 2, "numpy.savez"),
        (["-o", "other.engine"], 2, "other.engine"),
    ],
)
def test_mistakes_on_the_command_line(
    tmp_path: Path,
    yours: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    try:
        found = export.main([str(yours), *ONNX, *arguments])
    except SystemExit as error:  # of argparse
        found = int(str(error.code))
    captured = capsys.readouterr()
    assert (found, text in captured.err) == (code, True), captured.err
    assert sorted(tmp_path.iterdir()) == before


def test_shapes_belong_to_files_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--weights", tmp_path / "x.safetensors", "--shape", "images=1x3")
    assert (code, "a third-party .onnx file" in err) == (2, True)


def test_a_canvas_part_is_no_third_party_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_parts.artifact(tmp_path)
    code, _, err = run(capsys, canvas_path(path), *ONNX, "-o", tmp_path / "out")
    assert (code, "the canvas part of an artifact" in err, f"pass {path}" in err) == (4, True, True)
    assert not (tmp_path / "out").exists()


def test_a_canvas_part_is_no_output(
    tmp_path: Path, yours: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "read_foreign", None)  # rejected before any work
    path = tiny_parts.artifact(tmp_path)
    code, _, err = run(capsys, yours, *ONNX, "-o", canvas_path(path))
    assert (code, f"the canvas part of {path}" in err) == (2, True)


def test_failed_verification_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = foreign.save(tmp_path, foreign.plain(scale=1e6))
    code, _, err = run(capsys, path, "--engine", "fp16", *ONNX, "-o", tmp_path / "out")
    assert (code, "--engine fp32" in err, len(err.splitlines())) == (3, True, 1)
    assert not (tmp_path / "out").exists()


# ---- what has been written ----


@pytest.fixture
def artifact(tmp_path: Path, yours: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(capsys, yours, "--engine", "fp16", *ONNX, "-o", tmp_path / "out")[0] == 0
    return tmp_path / "out" / "yours.fp16.onnx"


def test_inspect(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([str(artifact)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "kind        onnx, fp16, for onnxruntime" in lines
    assert "contract    arrays 1: imp_trt.Engine runs it" in lines
    assert "            pooled: float32[1, 4, 1, 1]" in lines
    assert "            logits: 100.0000% agree with float16 rounding" in lines
    assert lines[-1] == "loadable    yes"
    assert inspect.main([str(artifact), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["manifest"]["contract"], data["loads"]) == ("arrays", True)
    artifact.write_bytes(b"")
    assert inspect.main([str(artifact)]) == 4


def test_inspect_names_the_command_for_a_bare_file(yours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([str(yours)]) == 4
    assert "imp-export FILE.onnx" in capsys.readouterr().out


def test_selftest(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest.main([str(artifact)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"PASSED imp-selftest {artifact}: agreement logits 100.0000%")
    assert selftest.main([str(artifact), "--json", "--threads", "1"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["passed"], data["outputs"]["classes"]["agreeing"]) == (True, 1.0)
    found = read_network(artifact)
    inputs = foreign.images()
    wrong = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in found.manifest.outputs}
    write_artifact(artifact, found.payload, found.manifest, pack_call(inputs, wrong))
    assert selftest.main([str(artifact)]) == 3
    err = capsys.readouterr().err
    assert "'logits': 0.0000%" in err
    assert "--frames" not in err, "which imp-selftest does not take"
    assert selftest.main([str(artifact), "--json"]) == 3
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert (data["passed"], data["outputs"]["logits"]["agreeing"]) == (False, 0.0)
    assert data["failures"][0] in err
    golden_path(artifact).unlink()
    assert selftest.main([str(artifact)]) == 4


@pytest.mark.slow
@needs_rtx
def test_an_engine_of_tensorrt_rtx(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(Platform.detect(), tensorrt=None, gpu=DependencyMissing("driver", got="no libcuda"))
    monkeypatch.setattr(Platform, "detect", classmethod(lambda cls, device=0: here))
    path = foreign.save(tmp_path, foreign.projecting())
    options: list[Any] = ["--engine", "fp16", "--target", "tensorrt-rtx", "-q", "-o", tmp_path / "out"]
    code, out, _ = run(capsys, path, *options)
    engine = tmp_path / "out" / "yours.fp16.tensorrt-rtx.engine"
    lines = out.splitlines()
    assert code == 0
    assert "nodes      1 InstanceMaskProjection" in lines
    assert "operators  InstanceMaskProjection as function" in lines
    assert lines[-2] == f"PASSED (graph only) imp-export {engine} verified_on=onnxruntime-cpu"
    assert inspect.main([str(engine)]) == 5
    assert "operators   InstanceMaskProjection (function): 1" in capsys.readouterr().out
    assert selftest.main([str(engine)]) == 5

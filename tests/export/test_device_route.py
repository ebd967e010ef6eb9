# SPDX-License-Identifier: Apache-2.0
"""From an exported ONNX file to a verified engine without PyTorch and onnx, as on a device."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from imp_trt.artifacts.artifact import golden_path
from imp_trt.artifacts.golden import read_golden, unpack_golden
from imp_trt.artifacts.reading import read_artifact
from imp_trt.export import ExportOptions, export_network, pipeline
from imp_trt.export.pipeline import export_model
from tests.support import foreign, torch_free
from tests.support.networks import smooth_frames
from tests.support.stub_packages import need_rtx
from tests.support.typed_models import typed


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "recorded"
    folder.mkdir()
    for i, frame in enumerate(smooth_frames(2, (120, 180), seed=9).numpy()):
        cv2.imwrite(str(folder / f"frame{i}.png"), frame)
    return folder


@pytest.fixture
def exported(weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the workstation gives to the device, in its own folder."""
    monkeypatch.setattr(pipeline, "lower", lambda *arguments: typed("fp16"))
    options = ExportOptions(precision="fp16", target="onnxruntime", frames=images, frame_count=2)
    return export_model(weights, tmp_path / "device", options).path


@pytest.mark.slow
def test_the_whole_route(exported: Path, tmp_path: Path) -> None:
    manifest = read_artifact(exported).manifest
    golden = unpack_golden(read_golden(exported, manifest), manifest)
    assert len(golden) == 2
    assert golden.frames.any()
    assert (golden.outputs["num_detections"] > 0).any(), "a self-test without instances tests half"

    tested = torch_free.run(tmp_path, "imp_trt.cli.selftest", str(exported), "--json")
    assert tested.returncode == 0, tested.stderr
    assert json.loads(tested.stdout)["passed"]

    need_rtx()
    output = tmp_path / "device"
    built = torch_free.run(
        tmp_path, "imp_trt.cli.export", str(exported), "--target", "tensorrt-rtx", "-o", str(output), "--json"
    )
    assert built.returncode == 0, built.stderr
    engine = output / "small.fp16.tensorrt-rtx.engine"
    assert json.loads(built.stdout)["artifact"] == str(engine)
    found = read_artifact(engine).manifest
    assert found.engine is not None
    assert found.engine.layer_precisions.keys() == {"Half"}
    assert found.verification["verified_on"] in ("onnxruntime-cpu", "engine")
    assert found.verification["onnx"] == manifest.verification
    assert golden_path(engine).read_bytes() == golden_path(exported).read_bytes()


@pytest.mark.slow
def test_a_network_of_another_make(tmp_path: Path) -> None:
    yours = foreign.save(tmp_path, foreign.plain())
    output = ["-o", str(tmp_path / "device")]
    bare = torch_free.run(tmp_path, "imp_trt.cli.export", str(yours), "--target", "onnxruntime", *output)
    assert bare.returncode == 5, bare.stderr
    assert "pip install 'onnx>=" in bare.stderr
    artifact = export_network(
        yours, tmp_path / "device", ExportOptions(precision="fp16", target="onnxruntime")
    )
    tested = torch_free.run(tmp_path, "imp_trt.cli.selftest", str(artifact.path))
    assert tested.returncode == 0, tested.stderr
    need_rtx()
    built = torch_free.run(
        tmp_path, "imp_trt.cli.export", str(artifact.path), "--target", "tensorrt-rtx", *output
    )
    assert built.returncode == 0, built.stderr
    assert "1 call: golden arrays of yours.fp16.onnx" in built.stdout


def test_an_export_from_a_checkpoint_says_what_it_needs(weights: Path, tmp_path: Path) -> None:
    tried = torch_free.run(tmp_path, "imp_trt.cli.export", "--weights", str(weights), "-o", str(tmp_path))
    assert tried.returncode == 5
    assert "pip install 'imp-trt[export]'" in tried.stderr
    assert "imp-export FILE.onnx" in tried.stderr


@pytest.mark.slow
def test_the_doctor_there(tmp_path: Path) -> None:
    told = torch_free.run(tmp_path, "imp_trt.cli.doctor", "--json")
    assert told.returncode == 0, told.stderr
    abilities = {a["what"]: a for a in json.loads(told.stdout)["abilities"]}
    assert abilities["run ONNX artifacts"]["works"], abilities["run ONNX artifacts"]
    assert "torch" in abilities["train"]["missing"]
    assert "imp-trt[train]" in abilities["train"]["fix"]

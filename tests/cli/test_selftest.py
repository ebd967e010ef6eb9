# SPDX-License-Identifier: Apache-2.0
"""imp-selftest: its exit codes, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from imp_trt import backends
from imp_trt.artifacts.artifact import golden_path
from imp_trt.artifacts.golden import Golden, pack_golden
from imp_trt.artifacts.reading import read_artifact
from imp_trt.artifacts.writing import write_artifact
from imp_trt.cli.selftest import main
from tests.support import tiny
from tests.support.fake_tensorrt import VERSIONS, engine_manifest, fake_gpu, plan
from tests.support.golden import golden, onnx_artifact, wrong_golden


def test_an_artifact_with_the_right_answers_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = onnx_artifact(tmp_path)
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.startswith(
        f"PASSED imp-selftest {path}: 2 golden frames, labels 100.0000%"
    )
    assert main([str(path), "--json", "--threads", "1"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["passed"] is True
    assert data["failures"] == []
    assert (data["frames"], data["label_agreement"], data["instance_f1"]) == (2, 1.0, 1.0)
    assert data["instances"] == {"reference": 4, "candidate": 4, "matched": 4}
    assert data["gates"]["label_agreement"] == 0.998
    assert data["network_ms"] < 1000
    assert data["sha256"] == read_artifact(path).manifest.sha256


def test_a_suffix_in_capitals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As every other command reads it."""
    path = tmp_path / "TINY.ONNX"
    source = read_artifact(onnx_artifact(tmp_path))
    write_artifact(path, source.payload, source.manifest, pack_golden(golden()))
    assert main([str(path)]) == 0
    assert "PASSED" in capsys.readouterr().out


@pytest.mark.parametrize("batch", [2, 3])
def test_frames_fill_up_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str], batch: int) -> None:
    assert main([str(onnx_artifact(tmp_path, batch=batch, frames=golden(5))), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 5


@pytest.mark.parametrize("library", VERSIONS)
def test_an_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str], library: str) -> None:
    with fake_gpu(library):
        for frames, code in ((golden(), 0), (wrong_golden(), 3)):
            path = tmp_path / "tiny.fp16.engine"
            manifest = engine_manifest(tiny.manifest(ops={}, precision="fp16"), library)
            write_artifact(path, plan(tiny.graph(), library), manifest, pack_golden(frames))
            assert main([str(path)]) == code
    captured = capsys.readouterr()
    assert "PASSED" in captured.out
    assert "labels equal on 50.0000% of the pixels, gate 99.80%" in captured.err


def test_other_answers_exit_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = onnx_artifact(tmp_path, frames=wrong_golden())
    assert main([str(path)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "labels equal on 50.0000% of the pixels, gate 99.80%" in captured.err
    assert len(captured.err.splitlines()) == 1
    assert main([str(path), "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["passed"] is False
    assert data["failures"] == ["labels equal on 50.0000% of the pixels, gate 99.80%"]


def test_instances_that_are_missing_or_not_finite_exit_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(onnx_artifact(tmp_path, tiny.graph(num_detections=0)))]) == 3
    assert "instance F1 0.0000, gate 0.97" in capsys.readouterr().err


def test_other_masks_exit_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Class map, boxes and scores are right."""
    model = tiny.graph()
    masks = next(i for i in model.graph.initializer if i.name == "masks_value")
    masks.CopyFrom(numpy_helper.from_array(1 - numpy_helper.to_array(masks), masks.name))
    assert main([str(onnx_artifact(tmp_path, model))]) == 3
    assert "instance F1 0.0000, gate 0.97" in capsys.readouterr().err


def test_padding_is_not_compared(tmp_path: Path) -> None:
    right = golden()
    semantic = right.outputs["semantic"].copy()
    semantic[:, 60:, :] = 3 - semantic[:, 60:, :]
    semantic[:, :, 90:] = 3 - semantic[:, :, 90:]
    sizes = np.array([[60, 90], [60, 90]], np.int32)
    frames = Golden(right.frames, sizes, {**right.outputs, "semantic": semantic})
    assert main([str(onnx_artifact(tmp_path, frames=frames))]) == 0
    whole = Golden(right.frames, right.sizes, frames.outputs)
    assert main([str(onnx_artifact(tmp_path, frames=whole))]) == 3


def test_an_artifact_that_is_replaced_meanwhile_exits_with_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network that runs is not judged by the golden frames of another one."""
    path = onnx_artifact(tmp_path)
    opening = backends.open_backend

    def replace_it(*arguments: Any, **options: Any) -> backends.Backend:
        onnx_artifact(tmp_path, tiny.graph(num_detections=0))
        return opening(*arguments, **options)

    monkeypatch.setattr(backends, "open_backend", replace_it)
    assert main([str(path)]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "replaced during its self-test" in captured.err


@pytest.mark.parametrize(
    "damage", ["artifact", "no artifact", "manifest", "golden", "no golden", "never had golden", "graph"]
)
def test_what_is_damaged_exits_with_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = onnx_artifact(tmp_path)
    if damage == "artifact":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "no artifact":
        path.unlink()
    elif damage == "manifest":
        Path(f"{path}.json").write_text("{}")
    elif damage == "golden":
        golden_path(path).write_bytes(b"x")
    elif damage == "no golden":
        golden_path(path).unlink()
    elif damage == "never had golden":
        tiny.artifact(tmp_path, name=path.name)
    else:
        write_artifact(path, b"no graph", tiny.manifest(), pack_golden(golden()))
    assert main([str(path)]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Fix: " in captured.err
    assert len(captured.err.splitlines()) == 1


def test_an_engine_without_its_gpu_exits_with_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = engine_manifest(tiny.manifest(ops={}), "tensorrt")
    path = write_artifact(tmp_path / "a.engine", plan(tiny.graph()), manifest, pack_golden(golden()))
    assert main([str(path)]) in (4, 5)  # 5 where only TensorRT is missing
    assert "Fix: " in capsys.readouterr().err


def test_other_files_exit_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "model.safetensors")]) == 2
    assert "imp-export" in capsys.readouterr().err

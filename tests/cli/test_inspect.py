# SPDX-License-Identifier: Apache-2.0
"""imp-inspect shows what is in a file, and its exit code says whether it will load."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from imp_trt.artifacts.artifact import canvas_path
from imp_trt.artifacts.manifest import parse_manifest
from imp_trt.cli import inspect
from imp_trt.cuda.platform import Gpu, Platform
from imp_trt.errors import DependencyMissing
from tests.support import engines, tiny, tiny_parts

NO_DRIVER = DependencyMissing("the NVIDIA driver", got="no libcuda.so.1", fix="install the driver")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the machine that the command finds itself on."""

    def be(**changes: object) -> None:
        found = engines.orin(**changes)
        monkeypatch.setattr(Platform, "detect", classmethod(lambda cls, device=0: found))

    be()
    return be


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    code = inspect.main([str(a) for a in arguments])
    return code, capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_an_engine_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, engines.artifact(tmp_path))
    assert code == 0
    lines = {line[:12].strip(): line[12:] for line in text.splitlines() if line[:12].strip()}
    assert lines["header"] == "TensorRT 10.3.0.26"
    assert lines["kind"] == "engine, fp16, for drive-orin"
    assert lines["built for"] == "compute capability 8.7, linux-aarch64"
    assert lines["layers"] == "41 Half, 7 Float"
    assert lines["input"] == "frame: uint8[1, 64, 96, 3], BGR, letterbox padded with 114"
    assert lines["operators"] == "InstanceMaskProjection (plugin): version 1, sampling bilinear"
    assert lines["platform"] == "linux-aarch64, TensorRT 10.3.0, TensorRT-RTX -, Orin (8.7)"
    assert lines["loadable"] == "yes"
    assert "num_detections: int32[1]" in text


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("engine", [True, False])
def test_the_gpu_is_one_for_an_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: bool
) -> None:
    path = engines.artifact(tmp_path) if engine else tiny.artifact(tmp_path)
    assert inspect.main([str(path), "--device", "0"]) == 0
    assert ("--device has no effect" in capsys.readouterr().err) != engine


def test_an_engine_that_does_not_load(tmp_path: Path, capsys: pytest.CaptureFixture[str], here: Any) -> None:
    path = engines.artifact(tmp_path)
    here(gpu=Gpu("H200", "9.0", (13, 0)), tensorrt="10.4.0")
    code, text = run(capsys, path)
    assert code == 4
    assert "loadable    no" in text
    assert "reason    TensorRT version of the engine: expected 10.3.0.26, got 10.4.0 installed" in text
    assert "reason    compute capability of the engine: expected 8.7, got 9.0 (H200)" in text
    assert text.count("  fix") == 2
    assert "imp-export --engine fp16 --target tensorrt" in text


def test_what_is_missing_has_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], here: Any
) -> None:
    path = engines.artifact(tmp_path)
    here(gpu=NO_DRIVER)
    code, text = run(capsys, path)
    assert (code, "no usable GPU" in text) == (5, True)
    # Installing something would not make another machine's engine load.
    here(gpu=NO_DRIVER, name="linux-x86_64")
    assert run(capsys, path)[0] == 4


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], here: Any) -> None:
    path = engines.artifact(tmp_path)
    code, text = run(capsys, path, "--json")
    data = json.loads(text)
    assert (code, data["loads"], data["exit_code"], data["problems"]) == (0, True, 0, [])
    assert data["header"] == {
        "backend": "tensorrt",
        "version": "10.3.0.26",
        "compute_capabilities": [],
        "size": None,
    }
    assert parse_manifest(json.dumps(data["manifest"]).encode(), path).engine == engines.info()
    assert data["here"]["gpu"]["compute_capability"] == "8.7"
    here(gpu=NO_DRIVER, plugins=NO_DRIVER)
    code, text = run(capsys, path, "--json")
    data = json.loads(text)
    assert (code, data["loads"], data["exit_code"], data["here"]["gpu"]) == (5, False, 5, None)
    assert {p["exit_code"] for p in data["problems"]} == {5}
    assert all(p["expected"] and p["got"] and p["fix"] for p in data["problems"])


@pytest.mark.usefixtures("here")
def test_a_bare_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """trtexec writes plans without a manifest, under any name."""
    path = tmp_path / "model.plan"
    path.write_bytes(engines.plan("11.1.0.5"))
    code, text = run(capsys, path)
    assert code == 4
    assert "TensorRT 11.1.0.5" in text
    assert "manifest" in text


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "at least 28 bytes"),
        (b"ftrt\0\0", "got 6 bytes"),
        (b"\x7fELF" + bytes(100), "not an engine"),
        (engines.rtx_plan()[:-1], "164 bytes, as its header says"),
    ],
)
def test_damaged_engines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], payload: bytes, reason: str
) -> None:
    path = engines.artifact(tmp_path)
    path.write_bytes(payload)
    code, text = run(capsys, path)
    assert code == 4
    assert reason in text
    assert "does not match its manifest: sha256" in text


def test_a_malformed_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str], here: Any) -> None:
    here()
    path = engines.artifact(tmp_path)
    Path(f"{path}.json").write_text("{}")
    code, text = run(capsys, path)
    assert (code, "schema_version" in text, "TensorRT 10.3.0.26" in text) == (4, True, True)


def test_a_canvas_part_is_checked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_parts.artifact(tmp_path)
    code, text = run(capsys, path)
    assert (code, "canvas part canvas: float32[1, 2, 16, 24] as second input" in text) == (0, True)
    canvas_path(path).unlink()
    code, text = run(capsys, path)
    assert code == 4
    assert f"canvas part {canvas_path(path)}" in text


def test_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    figures = {"verified_on": "onnxruntime-cpu", "label_agreement": 0.99995, "instance_f1": 1.0}
    path = tiny.artifact(tmp_path, verification=figures, terms="research only")
    code, text = run(capsys, path)
    assert code == 0
    assert "on onnxruntime-cpu, labels 99.9950% equal to PyTorch, instances F1 1.0000" in text
    assert "research only" in text
    assert "header" not in text
    assert "measured" not in text
    assert "instances with scores" not in text
    path.write_bytes(b"damaged")
    code, text = run(capsys, path)
    assert (code, "4: road, sky, car, person" in text) == (4, True)


@pytest.mark.parametrize(
    ("gpu", "latency", "line"),
    [
        (None, {"p50": 12.34, "p99": None}, "p50 12.3 ms end to end, 41.3 frames/s on Some CPU"),
        ({"name": "Orin"}, {"p50": 5, "p99": 6.05}, "p50 5.0, p99 6.0 ms end to end, 41.3 frames/s on Orin"),
        (None, "of another release", None),
        (None, {"p50": 5, "p99": 6}, "frames/s on Some CPU by openvino, with the detector on 3 of 12 frames"),
    ],
)
def test_recorded_times_are_shown(
    gpu: Any, latency: Any, line: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    figures = {
        "machine": {"cpu": "Some CPU", "gpu": gpu},
        "latency": {"ms": {"end-to-end": latency}},
        "frames_per_second": 41.26,
    }
    if line and "openvino" in line:
        figures |= {"backend": "openvino", "canvas": {"detected": 3, "frames": 12}}
    code, text = run(capsys, tiny.artifact(tmp_path, benchmark={"imp_bench": figures}))
    assert code == 0
    assert line in text if line else "measured" not in text


def test_onnx_without_its_runtime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, text = run(capsys, tiny.artifact(tmp_path))
    assert (code, "pip install 'imp-trt[onnx]'" in text) == (5, True)


def test_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision")
    from imp_trt.models.checkpoint import save_checkpoint
    from imp_trt.models.network import ImpNetwork
    from tests.support import networks

    path = save_checkpoint(tmp_path / "a.safetensors", ImpNetwork(networks.small_config()), {})
    code, text = run(capsys, path)
    assert (code, "checkpoint, fp32, for pytorch" in text) == (0, True)
    assert "instances with scores above 0.05" in text
    path.write_bytes(b"damaged")
    code, text = run(capsys, path)
    assert (code, "complete safetensors file" in text) == (4, True)


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([str(tmp_path / "absent.engine")]) == 4
    assert "absent.engine" in capsys.readouterr().err


def test_a_file_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    assert inspect.main([str(tmp_path / "photo.jpg")]) == 2
    assert ".safetensors" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_control_characters_of_a_manifest_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = engines.artifact(tmp_path)
    manifest = Path(f"{path}.json")
    data = json.loads(manifest.read_text())
    data["terms"] = "free\x1b]0;owned\x07 \x1b[2J\u202e"
    manifest.write_text(json.dumps(data))
    _, text = run(capsys, path)
    assert "free?]0;owned? ?[2J?" in text
    assert all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("name", ["pipe.engine", "pipe.onnx"])
def test_a_pipe_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert inspect.main([str(tmp_path / name)]) == 4
    assert "a FIFO, not a regular file" in capsys.readouterr().err


def test_a_folder_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([str(tmp_path)]) == 4
    assert "got a folder" in capsys.readouterr().err

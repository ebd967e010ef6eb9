# SPDX-License-Identifier: Apache-2.0
"""What is rejected before anything is measured, and what goes into a manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from imp_trt.artifacts.artifact import manifest_path
from imp_trt.artifacts.reading import read_artifact, read_manifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends.opening import BackendName
from imp_trt.benchmark.gates import parse_gate
from imp_trt.benchmark.measure import WarmUp
from imp_trt.benchmark.run import Settings, _model, absent_stages, backend_of, gpu_of, record, run_benchmark
from imp_trt.benchmark.samples import STAGES
from imp_trt.errors import ArtifactError, UsageError
from tests.support import engines, tiny
from tests.support.fake_tensorrt import VERSIONS, engine_file, fake_gpu


def settings(path: Path, gates: tuple[str, ...] = (), **changes: Any) -> Settings:
    made = Settings(path, threads=1, frame_size=(48, 64), warmup=WarmUp(frames=1), frames=3)
    return replace(made, gates=tuple(parse_gate(gate) for gate in gates), **changes)


def silent(what: str, done: int, total: int | None) -> None:
    pass


@pytest.mark.parametrize(
    ("gates", "changes", "said"),
    [
        (("p99<1s",), {}, "at least 100"),
        (("pytorch.ratio>1",), {}, "--compare pytorch"),
        (("upload.mean<1s",), {}, "upload.mean"),
        ((), {"baselines": ("pytorch",)}, "--weights FILE"),
        ((), {"source": "x.mp4"}, "--frame-size"),
    ],
)
def test_what_cannot_be_judged_is_rejected_at_once(
    tmp_path: Path, gates: tuple[str, ...], changes: dict[str, Any], said: str
) -> None:
    reported: list[str] = []

    def progress(what: str, done: int, total: int | None) -> None:
        reported.append(what)

    with pytest.raises(UsageError, match=said):
        run_benchmark(settings(tiny.artifact(tmp_path), gates, **changes), progress)
    assert reported == []


def test_a_whole_measurement(tmp_path: Path) -> None:
    reported: list[tuple[str, int, int | None]] = []

    def progress(what: str, done: int, total: int | None) -> None:
        reported.append((what, done, total))

    found = run_benchmark(settings(tiny.artifact(tmp_path), ("mean<1000s", "fps<0.001")), progress)
    assert [verdict["held"] for verdict in found.verdicts] == [True, False]
    assert reported[:3] == [("latency", i, 3) for i in (1, 2, 3)]
    data = found.to_dict()
    assert data["latency"]["frames"] == 3
    assert data["warm_up"]["frames"] == 1
    assert data["model"]["backend"] == "onnxruntime"
    assert data["model"]["sha256"] == read_manifest(tmp_path / "tiny.fp32.onnx").sha256
    assert data["frames"]["size"] == [48, 64]
    measured = data["latency"]["ms"]
    assert set(measured) == {"decode", "pre", "infer", "post", "run", "draw", "end-to-end"}
    for name in ("decode", "run", "draw"):
        assert measured["end-to-end"]["max"] >= measured[name]["min"]
    assert measured["run"]["mean"] >= measured["infer"]["mean"]


def test_an_engine_has_every_stage_and_names_its_gpu(tmp_path: Path) -> None:
    with fake_gpu():
        path = engine_file(tmp_path)
        found = run_benchmark(settings(path, ("upload.mean<1000s",), threads=None), silent)
    data = found.to_dict()
    assert list(data["latency"]["ms"]) == list(STAGES)
    assert data["latency"]["not_measured"] == {}
    assert data["machine"]["gpu"]["compute_capability"] == "8.9"
    assert data["machine"]["versions"]["tensorrt"] == VERSIONS["tensorrt"]
    assert data["model"]["backend"] == "tensorrt"
    assert found.verdicts[0]["held"]


def test_the_manifest_gains_the_figures_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tiny.artifact(tmp_path, benchmark={"network_ms": 5.0})
    before, payload = read_manifest(path), path.read_bytes()
    data = run_benchmark(settings(path), silent).to_dict()
    data["frames"]["source"] = "/home/somebody/secret/drive.mp4"
    record(path, data)
    after = read_artifact(path).manifest
    assert replace(after, benchmark=before.benchmark) == before
    assert path.read_bytes() == payload
    figures = after.benchmark["imp_bench"]
    assert after.benchmark["network_ms"] == 5.0
    assert figures["frames"]["source"] == "drive.mp4"
    assert figures["latency"]["ms"]["infer"] == data["latency"]["ms"]["infer"]
    assert figures["machine"]["cpus"] >= 1
    record(path, data)
    assert list(read_manifest(path).benchmark) == ["network_ms", "imp_bench"]
    path.write_bytes(b"another file")
    with pytest.raises(ArtifactError, match="sha256"):
        record(path, data)
    assert json.loads(manifest_path(path).read_text())["benchmark"]["imp_bench"] == figures


def test_figures_of_another_file_are_not_recorded(tmp_path: Path) -> None:
    path = tiny.artifact(tmp_path)
    data = run_benchmark(settings(path), silent).to_dict()
    write_artifact(path, tiny.graph(num_detections=1).SerializeToString(), tiny.manifest())
    with pytest.raises(ArtifactError, match="the file that was measured"):
        record(path, data)
    assert read_manifest(path).benchmark == {}


def test_stages_that_a_backend_does_not_have() -> None:
    assert backend_of(tiny.manifest()) == "onnxruntime"
    assert set(absent_stages(tiny.manifest(), None)) == {"upload", "download"}
    assert absent_stages(engines.manifest(), None) == {}
    assert backend_of(engines.manifest()) == "tensorrt"
    weights = replace(tiny.manifest(), kind="checkpoint")
    assert backend_of(weights) == "pytorch"
    assert "CPU" in absent_stages(weights, "cpu")["upload"]
    assert gpu_of(engines.manifest(), "cuda:3") == 3
    assert gpu_of(engines.manifest(), None) == 0
    assert gpu_of(tiny.manifest(), None) is None
    assert gpu_of(weights, "cpu") is None


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_backend_that_was_asked_for_is_the_one_that_is_reported(
    tmp_path: Path, backend: BackendName
) -> None:
    pytest.importorskip(backend)
    path = tiny.artifact(tmp_path, ops={})
    data = run_benchmark(settings(path, backend=backend), silent).to_dict()
    assert data["model"]["backend"] == backend
    assert data["model"]["backend_version"] == version(backend)
    title = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[backend]
    assert data["latency"]["not_measured"]["upload"] == f"{title} uses host memory; nothing is copied"
    record(path, data)
    assert read_manifest(path).benchmark["imp_bench"]["backend"] == backend


def test_onnxruntime_on_a_gpu() -> None:
    assert gpu_of(tiny.manifest(), "cuda:1") == 1
    assert gpu_of(tiny.manifest(), "tensorrt-rtx") == 0
    assert gpu_of(tiny.manifest(), "cpu", "openvino") is None
    assert gpu_of(tiny.manifest(), None, "openvino") is None
    assert absent_stages(tiny.manifest(), "cuda")["upload"] == "included in infer with ONNX Runtime"


def test_a_checkpoint_is_named_by_the_bytes_that_ran(tmp_path: Path) -> None:
    """The file may have been replaced, or be gone, when the report is made."""
    weights = replace(tiny.manifest(), kind="checkpoint", sha256="", weights_sha256="ab" * 32)
    assert _model(tmp_path / "gone.safetensors", weights, "pytorch")["sha256"] == "ab" * 32

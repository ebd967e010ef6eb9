# SPDX-License-Identifier: Apache-2.0
"""Engines of third-party ONNX files."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.external_data_helper import set_external_data

from imp_trt import Engine
from imp_trt.artifacts.plan_header import read_plan_header
from imp_trt.artifacts.reading import read_network
from imp_trt.cuda.platform import Platform, platform_name
from imp_trt.errors import (
    ArtifactError,
    BuildError,
    DependencyMissing,
    UsageError,
    VerificationError,
)
from imp_trt.export import network
from imp_trt.export.options import EngineOptions
from imp_trt.export.tensorrt.engine import BuiltEngine
from tests.support import engines, foreign
from tests.support.fake_tensorrt import CAPABILITY, VERSIONS, fake_gpu, plan
from tests.support.foreign import export, images_of
from tests.support.stub_packages import needs_rtx


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> list[ModelProto]:
    """A builder whose engines hold the graph that it got; returns these graphs."""
    built: list[ModelProto] = []

    def make_engine(
        model: Any, precision: str, target: Any, *others: Any, foreign: bool = False
    ) -> BuiltEngine:
        assert foreign
        built.append(onnx.load_model_from_string(model))
        payload = plan(built[-1])
        info = engines.info(
            compute_capabilities=("{}.{}".format(*CAPABILITY),),
            version=VERSIONS["tensorrt"],
            platform=platform_name(),
            operators={},
            layer_precisions={"Half": 3},
        )
        return BuiltEngine(payload, read_plan_header(payload), info, "engine inspector")

    monkeypatch.setattr(network, "make_engine", make_engine)
    return built


@pytest.mark.slow
def test_where_the_engine_runs_it_is_verified(tmp_path: Path, builder: list[ModelProto]) -> None:
    path = foreign.save(tmp_path, foreign.plain())
    with fake_gpu():
        report = export(path, tmp_path / "out", precision="fp16", target="tensorrt")
        assert report.path.name == "yours.fp16.tensorrt.engine"
        with Engine(report.path) as engine:
            inputs, expected = images_of(path)
            found = engine.run(inputs)
            on_gpu = engine.run_on_device(inputs)
            assert np.array_equal(on_gpu["logits"].numpy(), found["logits"])
    assert np.abs(found["logits"] - expected["logits"]).max() < 5e-3 * np.abs(expected["logits"]).max()
    assert not any(node.op_type == "ArgMax" for node in builder[0].graph.node), "as in exports of checkpoints"
    manifest = read_network(report.path).manifest
    assert (manifest.kind, manifest.verification["verified_on"]) == ("engine", "engine")
    assert manifest.engine is not None
    assert manifest.engine.layer_precisions == {"Half": 3}
    assert manifest.benchmark["network_ms"] > 0  # type: ignore[operator]
    assert manifest.golden_sha256
    assert not report.graph_only


def test_where_it_cannot_run_its_graph_is_verified(
    tmp_path: Path, builder: list[ModelProto], no_gpu: None
) -> None:
    report = export(foreign.save(tmp_path, foreign.plain()), tmp_path / "out", target="tensorrt")
    assert report.graph_only
    assert report.manifest.verification["verified_on"] == "onnxruntime-cpu"
    assert report.manifest.benchmark == {}
    assert "no libcuda.so.1" in report.not_run_reason


def test_other_answers_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder answers with the engine of another network."""
    path = foreign.save(tmp_path, foreign.plain())
    info = engines.info(
        compute_capabilities=("{}.{}".format(*CAPABILITY),),
        version=VERSIONS["tensorrt"],
        platform=platform_name(),
        operators={},
    )
    payload = plan(foreign.plain(scale=1.5))
    other = BuiltEngine(payload, read_plan_header(payload), info, "engine inspector")
    monkeypatch.setattr(network, "make_engine", lambda *arguments, **options: other)
    before = sorted(tmp_path.iterdir())
    with fake_gpu(), pytest.raises(VerificationError, match=r"'logits': .*--frames FILE\.npz"):
        export(path, tmp_path / "out", target="tensorrt")
    assert sorted(tmp_path.iterdir()) == before


def test_an_artifact_becomes_an_engine_with_its_golden_arrays(
    tmp_path: Path, builder: list[ModelProto]
) -> None:
    path = foreign.save(tmp_path, foreign.plain())
    artifact = export(path, tmp_path / "out", precision="fp16").path
    with fake_gpu():
        report = export(artifact, tmp_path / "out", precision="fp16", target="tensorrt")
    assert report.path.name == "yours.fp16.tensorrt.engine"
    assert builder[0].SerializeToString() == artifact.read_bytes()
    assert report.manifest.verification["source"] == "golden arrays of yours.fp16.onnx"
    assert report.manifest.verification["calls"] == 1
    assert report.manifest.source_sha256 == read_network(artifact).manifest.source_sha256
    with pytest.raises(UsageError, match=r"keeps its precision.*--engine fp16"):
        export(artifact, tmp_path / "more", precision="fp32")
    with pytest.raises(UsageError, match=r"--frames for .*golden arrays"):
        export(artifact, tmp_path / "more", precision="fp16", frames=tmp_path / "call0.npz")
    with pytest.raises(UsageError, match="shapes are fixed"):
        export(artifact, tmp_path / "more", {"images": (1, 3, 16, 24)}, precision="fp16")
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("here", ["engine", "graph", "unverified"])
def test_an_engine_has_no_figures_of_its_onnx_file(
    tmp_path: Path, builder: list[ModelProto], here: str, request: pytest.FixtureRequest
) -> None:
    artifact = export(foreign.save(tmp_path, foreign.plain()), tmp_path / "out", precision="fp16")
    known = artifact.manifest
    assert {"outputs", "outputs_rounded"} <= set(known.verification)
    machine = nullcontext(request.getfixturevalue("no_gpu")) if here == "graph" else fake_gpu()
    with machine:
        report = export(
            artifact.path, tmp_path, precision="fp16", target="tensorrt", verify=here != "unverified"
        )
    found = report.manifest.verification
    assert found["onnx"] == known.verification
    if here == "unverified":
        assert (found["verified_on"], report.manifest.benchmark) == (None, {})
        assert report.manifest.golden_sha256, "imp-selftest replays it on the device"
    compared = {"engine": "outputs", "graph": "outputs_rounded", "unverified": ""}[here]
    assert [name for name in found if name.startswith("outputs")] == [compared][: bool(compared)]


def test_an_artifact_with_tensors_in_other_files(tmp_path: Path) -> None:
    model = foreign.plain()
    set_external_data(model.graph.initializer[0], "/etc/hostname")
    model.graph.initializer[0].ClearField("raw_data")
    path = foreign.artifact(tmp_path, model)
    with fake_gpu(), pytest.raises(ArtifactError, match="a tensor in another file"):
        export(path, tmp_path / "out", target="tensorrt")


@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_rtx_builds_it(tmp_path: Path, precision: str, no_driver: None) -> None:
    path = foreign.save(tmp_path, foreign.plain())
    report = export(path, tmp_path / "out", precision=precision, target="tensorrt-rtx")
    assert report.graph_only
    engine = report.manifest.engine
    assert engine is not None
    assert read_plan_header(report.path.read_bytes()).backend == engine.backend == "tensorrt-rtx"
    assert engine.layer_precisions == {"Float" if precision == "fp32" else "Half": 3}
    assert report.path.stat().st_size > 10_000


@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize("plugin", [False, True])
def test_tensorrt_rtx_builds_the_operator(tmp_path: Path, plugin: bool, no_driver: None) -> None:
    path = foreign.save(tmp_path, foreign.projecting())
    options = EngineOptions(plugin=plugin)
    report = export(path, tmp_path / "out", precision="fp16", target="tensorrt-rtx", engine=options)
    engine = report.manifest.engine
    assert engine is not None
    assert report.manifest.ops == {"InstanceMaskProjection": 1}
    assert engine.operators == {"InstanceMaskProjection": "plugin" if plugin else "function"}


@pytest.mark.slow
@needs_rtx
def test_what_the_builder_rejects_leaves_nothing(tmp_path: Path, no_driver: None) -> None:
    """ONNX Runtime knows the operator, TensorRT does not."""
    model = foreign.plain()
    model.graph.node.append(
        helper.make_node("BitShift", ["classes", "classes"], ["shifted"], name="shift", direction="LEFT")
    )
    model.graph.output.append(helper.make_tensor_value_info("shifted", TensorProto.UINT8, [1, 16, 24]))
    path = foreign.save(tmp_path, model)
    with pytest.raises(BuildError, match="BitShift"):
        export(path, tmp_path / "out", target="tensorrt-rtx")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with TensorRT-RTX and no GPU, whichever this is."""
    here = replace(Platform.detect(), tensorrt=None, gpu=DependencyMissing("driver", got="no libcuda"))
    monkeypatch.setattr(Platform, "detect", classmethod(lambda cls, device=0: here))


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_values_beyond_float16_are_found(
    tmp_path: Path, target: str, builder: list[ModelProto], no_gpu: None
) -> None:
    """ONNX Runtime computes float16 layers in float32 on a CPU, where nothing overflows; a GPU does not."""
    path = foreign.save(tmp_path, foreign.plain(scale=1e6))
    with pytest.raises(VerificationError, match=r"'logits': .*--engine fp32"):
        export(path, tmp_path / "out", precision="fp16", target=target)
    assert not (tmp_path / "out").exists()
    assert export(path, tmp_path / "out", target=target).manifest.precision == "fp32"

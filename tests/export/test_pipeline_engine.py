# SPDX-License-Identifier: Apache-2.0
"""Export to an engine: built, its graph verified where it cannot run, and only then written."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace

import cv2
import onnx
import pytest

from imp_trt.artifacts.reading import read_artifact
from imp_trt.cuda.platform import Gpu, Platform
from imp_trt.errors import CheckpointError, DependencyMissing, PrecisionError, UsageError, VerificationError
from imp_trt.export import ExportOptions, pipeline, plan
from imp_trt.export.pipeline import export_model
from imp_trt.export.targets import EngineOptions
from imp_trt.export.tensorrt import engine
from imp_trt.export.verification import compare as verification
from imp_trt.export.verification import gates as verify
from imp_trt.models.checkpoint import save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.segmenter import Segmenter
from tests.support.networks import small_config, smooth_frames
from tests.support.stub_packages import needs_rtx
from tests.support.typed_models import typed

pytestmark = needs_rtx

_engines = {}


@pytest.fixture
def lowered(monkeypatch):
    """The small network, lowered and built once for all tests; returns how to plant another in its place."""
    chosen = {}

    def lower(network, precision, batch, passes, calibration, progress):
        return chosen.get("instead") or typed(precision)

    def make_engine(model, precision, target, options, here, progress):
        key = (precision, target.name, options.plugin)
        if chosen or key not in _engines:
            _engines[key] = engine.make_engine(model, precision, target, options, here, progress)
        return _engines[key]

    monkeypatch.setattr(pipeline, "lower", lower)
    monkeypatch.setattr(pipeline, "make_engine", make_engine)
    # With or without a GPU: these tests are about the machine that has none.
    here = replace(Platform.detect(), tensorrt=None, gpu=DependencyMissing("driver", got="no libcuda"))
    monkeypatch.setattr(plan.Platform, "detect", lambda: here)
    return chosen


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "recorded"
    folder.mkdir()
    for i, frame in enumerate(smooth_frames(2, (120, 180), seed=9).numpy()):
        cv2.imwrite(str(folder / f"frame{i}.png"), frame)
    return folder


@pytest.mark.slow
def test_an_engine_whose_graph_was_verified(lowered, weights, images, tmp_path):
    out = tmp_path / "out"
    seen = []
    report = export_model(
        weights,
        out,
        ExportOptions(
            precision="fp16",
            target="tensorrt-rtx",
            frames=images,
            frame_count=2,
            engine=EngineOptions(keep_onnx=True),
        ),
        progress=lambda *step: seen.append(step),
    )
    assert report.path == out / "small.fp16.tensorrt-rtx.engine"
    assert report.also == (out / "small.fp16.tensorrt-rtx.onnx",)
    assert len(list(out.iterdir())) == 5, "one golden file for both"
    artifact = read_artifact(report.path)
    manifest = artifact.manifest
    assert artifact.payload[:4] == b"vtrt", "the raw engine"
    assert (manifest.kind, manifest.precision, manifest.target) == ("engine", "fp16", "tensorrt-rtx")
    assert manifest.engine is not None
    assert manifest.engine.backend == "tensorrt-rtx"
    assert set(manifest.engine.operators.values()) == {"function"}
    assert list(manifest.engine.layer_precisions) == ["Half"]
    assert manifest.verification["layer_precisions_from"] == "convolutions of the typed network"
    assert manifest.verification["verified_on"] == "onnxruntime-cpu"
    assert manifest.verification["label_agreement"] >= 0.998
    assert "skipped" not in manifest.verification
    assert manifest.benchmark == {}, "times of ONNX Runtime say nothing about an engine"
    assert manifest.producer["tensorrt-rtx"] == manifest.engine.version
    assert report.graph_only
    assert "no libcuda" in report.not_run_reason
    assert report.to_dict()["engine"]["backend"] == "tensorrt-rtx"
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["parse", "build", "verify"]
    graph = read_artifact(report.also[0])
    assert (graph.manifest.kind, graph.manifest.engine) == ("onnx", None)
    kept = onnx.load_from_string(graph.payload)
    assert "ArgMax" not in {node.op_type for node in kept.graph.node}, "the graph that was built"
    assert manifest.engine.onnx_sha256 == hashlib.sha256(graph.payload).hexdigest()
    with Segmenter(report.also[0], threads=1) as segmenter:
        assert segmenter.run(cv2.imread(str(images / "frame0.png"))).semantic.shape == (120, 180)


@pytest.mark.slow
def test_bfloat16_is_verified_in_pytorch(lowered, weights, images, tmp_path, monkeypatch):
    monkeypatch.setitem(verify.GATES, "bf16", verify.Gate(0.9, None, 100))
    report = export_model(
        weights, tmp_path / "out", ExportOptions(precision="bf16", target="rtx", frames=images, frame_count=2)
    )
    assert report.path.name == "small.bf16.rtx.engine"
    assert report.manifest.verification["verified_on"] == "pytorch"
    assert report.manifest.verification["frames"] == 2
    assert report.manifest.engine is not None
    assert report.manifest.engine.compute_capabilities == ("8.6", "8.9", "12.0")
    assert report.graph_only


@pytest.mark.slow
def test_where_the_engine_runs_the_engine_is_verified(lowered, weights, images, tmp_path, monkeypatch):
    opened = []

    def segmenter(path):
        opened.append(read_artifact(path))
        return Segmenter(weights, "pytorch", device="cpu")

    real = verification._open
    here = replace(plan.Platform.detect(), gpu=Gpu("RTX 4090", "8.9", (13, 0)))
    monkeypatch.setattr(plan.Platform, "detect", lambda: here)

    def watched(candidate):
        monkeypatch.setattr(verification, "Segmenter", segmenter)
        return real(candidate)

    monkeypatch.setattr(verification, "_open", watched)
    report = export_model(
        weights, tmp_path / "out", ExportOptions(precision="fp16", target="rtx", frames=images, frame_count=2)
    )
    assert [(a.manifest.kind, a.payload) for a in opened] == [("engine", report.path.read_bytes())]
    assert report.manifest.verification["verified_on"] == "engine"
    assert report.manifest.benchmark["machine"].startswith("RTX 4090, ")
    assert not report.graph_only
    assert report.not_run_reason == ""


@pytest.mark.slow
def test_a_failed_gate_leaves_nothing(lowered, weights, images, tmp_path, monkeypatch):
    monkeypatch.setitem(verify.GATES, "fp16", verify.Gate(1.5, 0.99, 0.1))
    options = EngineOptions(keep_onnx=True)
    with pytest.raises(VerificationError, match=r"gate 150\.00%"):
        export_model(
            weights,
            tmp_path / "out",
            ExportOptions(
                precision="fp16", target="tensorrt-rtx", frames=images, frame_count=1, engine=options
            ),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_graph_of_another_precision_leaves_nothing(lowered, weights, tmp_path):
    lowered["instead"] = typed("fp32")
    with pytest.raises(PrecisionError, match="does not compute in fp16"):
        export_model(weights, tmp_path / "out", ExportOptions(precision="fp16", target="rtx"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_plugin_engine_says_so(lowered, weights, tmp_path):
    options = EngineOptions(plugin=True)
    report = export_model(
        weights, tmp_path, ExportOptions(precision="fp16", target="rtx", verify=False, engine=options)
    )
    assert report.manifest.engine is not None
    assert set(report.manifest.engine.operators.values()) == {"plugin"}
    assert report.manifest.verification["verified_on"] is None
    assert not report.graph_only


def test_calibration_images_are_named_in_the_manifest(lowered, weights, images, tmp_path):
    lowered["instead"] = typed("fp16")  # what is asked for here is only the record
    report = export_model(
        weights,
        tmp_path,
        ExportOptions(precision="int8", target="onnxruntime", verify=False, calibration=images),
    )
    assert report.path.name == "small.int8.onnx"
    assert report.manifest.verification["calibration"] == "2 images of recorded"


def test_the_file_name_may_choose_the_target(lowered, weights, tmp_path):
    report = export_model(weights, tmp_path / "raw.onnx", ExportOptions(precision="fp16", verify=False))
    assert report.manifest.target == "onnxruntime"
    assert report.manifest.kind == "onnx"
    with pytest.raises(UsageError, match=r"ends with \.engine.*got \.onnx"):
        export_model(weights, tmp_path / "raw.onnx", ExportOptions(precision="fp16", target="rtx"))
    with pytest.raises(UsageError, match=r"ends with \.onnx"):
        export_model(weights, tmp_path / "raw.engine", ExportOptions(precision="fp16", target="onnxruntime"))


def test_what_is_impossible_is_reported_before_any_work(lowered, images):
    with pytest.raises(UsageError, match="takes no calibration frames"):
        export_model(
            "no/such.safetensors", ".", ExportOptions(precision="fp16", target="rtx", calibration=images)
        )
    with pytest.raises(DependencyMissing, match="Python package tensorrt"):
        export_model("no/such.safetensors", ".", ExportOptions(precision="fp16", target="tensorrt"))


def test_adaptive_roi_align_without_plugins_is_reported_before_the_network_is_lowered(
    lowered, tmp_path, monkeypatch
):
    config = small_config()
    config = replace(config, detector_config=replace(config.detector_config, roi_samples=0))
    path = save_checkpoint(tmp_path / "adaptive.safetensors", ImpNetwork(config), {})
    monkeypatch.setattr(pipeline, "lower", None)
    with pytest.raises(UsageError, match=r"RoIAlign with adaptive sampling for target rtx.*--plugin"):
        export_model(path, tmp_path, ExportOptions(precision="fp16", target="rtx"))
    assert list(tmp_path.iterdir()) == [path]


def test_a_builder_that_is_not_installed(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(DependencyMissing, match=r"tensorrt_rtx.*pip install 'imp-trt\[tensorrt-rtx\]'"):
        export_model(weights, tmp_path, ExportOptions(precision="fp16", target="rtx"))


@pytest.mark.parametrize(("precision", "warns"), [("int8", True), ("fp16", False)])
def test_limits_of_quantization_on_rtx_are_reported_before_the_work(
    lowered, images, tmp_path, caplog, precision, warns
):
    caplog.set_level("WARNING", logger="imp_trt")
    calibration = images if precision == "int8" else None
    with pytest.raises(CheckpointError):
        export_model(
            tmp_path / "none.pt",
            tmp_path,
            ExportOptions(precision=precision, target="rtx", calibration=calibration),
        )
    assert ("for weights only" in caplog.text) == warns


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("rtx", {"optimization_level": 5}, "same engine at every level"),
        ("rtx", {}, ""),
        ("tensorrt", {"optimization_level": 0, "timing_cache": "kept"}, "--timing-cache has no effect"),
        ("tensorrt", {"optimization_level": 1, "timing_cache": "kept"}, ""),
        ("tensorrt", {"optimization_level": 5}, ""),
    ],
)
def test_an_optimization_level_without_effect_is_reported(
    tmp_path, monkeypatch, caplog, target, options, said
):
    caplog.set_level("WARNING", logger="imp_trt")
    monkeypatch.setattr(plan, "check_target", lambda *arguments: None)
    monkeypatch.setattr(plan, "_check_plugins", lambda *arguments: None)
    if "timing_cache" in options:
        options = options | {"timing_cache": tmp_path / options["timing_cache"]}
    with pytest.raises(CheckpointError):
        export_model(
            tmp_path / "none.pt",
            tmp_path,
            ExportOptions(precision="fp16", target=target, engine=EngineOptions(**options)),
        )
    assert said in caplog.text
    assert ("optimization-level" in caplog.text) == bool(said)

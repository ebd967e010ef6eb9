# SPDX-License-Identifier: Apache-2.0
"""The canvas part of an export: the same layers, ranges and class maps as the whole network."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import torch

from imp_trt.artifacts.artifact import canvas_path, golden_path
from imp_trt.artifacts.reading import read_artifact
from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends import CanvasBackend, open_backend
from imp_trt.backends.canvas import project_detections
from imp_trt.cli import inspect, selftest
from imp_trt.cli.export import main
from imp_trt.errors import ArtifactError, UsageError, VerificationError
from imp_trt.export import ExportOptions, export_model
from imp_trt.export.from_onnx import engine_from_onnx
from imp_trt.export.onnx.from_model import onnx_from_canvas_module
from imp_trt.export.verification import canvas as verification
from imp_trt.export.verification.gates import GATES
from imp_trt.models.checkpoint import save_checkpoint
from imp_trt.models.deploy import CanvasModule, DeployModule
from tests.support.networks import canvas_reading_network, detecting_network, small_config, smooth_frames
from tests.support.stub_packages import needs_rtx
from tests.support.variants import variants

pytestmark = pytest.mark.slow

ITERATIONS = 16


@pytest.fixture(scope="module")
def network():
    return canvas_reading_network(small_config())


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors", network, {})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, frame in enumerate(smooth_frames(3, (64, 96), seed=9).numpy()):
        cv2.imwrite(str(folder / f"frame{i}.png"), frame)
    return folder


def options(images, **changes):
    values = {"parts": True, "frames": images, "frame_count": 3, "nms_iterations": ITERATIONS}
    return ExportOptions(**(values | changes))


@pytest.fixture(scope="module")
def exported(weights, images, tmp_path_factory):
    return export_model(
        weights, tmp_path_factory.mktemp("fp32") / "small.onnx", options(images, target="onnxruntime")
    )


def test_the_module_gives_the_class_map_of_the_whole_on_its_own_canvas(network):
    whole = DeployModule(network, ITERATIONS)
    part = CanvasModule(whole)
    frames = smooth_frames(2)
    seen = []
    project = whole._project
    whole._project = lambda *detections: seen.append(project(*detections)) or seen[-1]
    with torch.no_grad():
        semantic = whole(frames)[0]
        assert torch.equal(part(frames, seen[0]), semantic)
        empty = part(frames, torch.zeros(part.canvas_shape(2)))
    assert 0.02 < (empty != semantic).float().mean() < 0.98, "the canvas matters in these tests"


@pytest.mark.slow
def test_a_part_has_two_inputs_and_no_operator_of_its_own(network):
    model = onnx_from_canvas_module(CanvasModule(DeployModule(network, ITERATIONS)))
    assert [i.name for i in model.graph.input] == ["frame", "canvas"]
    assert [o.name for o in model.graph.output] == ["semantic"]
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}


def test_one_manifest_names_and_verifies_both_files(exported):
    names = sorted(p.name for p in exported.path.parent.iterdir())
    assert names == ["small.canvas.onnx", "small.golden.npz", "small.onnx", "small.onnx.json"]
    part = exported.manifest.canvas_part
    assert part is not None
    assert part.shape == (1, 2, 16, 24)
    figures = part.verification
    assert figures["verified_on"] == "onnxruntime-cpu"
    assert figures["frames"] == 3
    assert figures["equal_to_whole"] == 1.0
    assert figures["label_agreement"] >= 0.9999
    data = exported.to_dict()
    assert data["canvas"] == str(canvas_path(exported.path))
    assert data["bytes"]["canvas"] < data["bytes"]["whole"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_both_parts_together_are_the_whole(exported, name):
    if name == "openvino":
        pytest.importorskip("openvino", reason="the package openvino is not installed")
    backend = open_backend(exported.path, name, threads=1)
    assert isinstance(backend, CanvasBackend)
    if name == "openvino":
        backend.close()
        from imp_trt.backends.openvino import OpenVinoBackend

        backend = OpenVinoBackend(exported.path, threads=1, precision="float32")
    shape = backend.open_canvas()
    for frame in smooth_frames(3, seed=8).numpy():
        outputs = backend.infer(frame[None])
        canvas = project_detections(outputs, backend.manifest, shape)
        semantic = backend.infer_canvas(frame[None], canvas)
        if name == "onnxruntime":
            np.testing.assert_array_equal(semantic, outputs["semantic"])
        else:
            assert np.mean(semantic == outputs["semantic"]) > 0.999
        assert np.mean(backend.infer_canvas(frame[None], canvas * 0) == outputs["semantic"]) < 0.98
    backend.close()


def test_a_checkpoint_runs_from_a_canvas_too(weights):
    backend = open_backend(weights, device="cpu")
    assert isinstance(backend, CanvasBackend)
    shape = backend.open_canvas()
    frame = smooth_frames(1).numpy()
    outputs = backend.infer(frame)
    canvas = project_detections(outputs, backend.manifest, shape)
    np.testing.assert_array_equal(backend.infer_canvas(frame, canvas), outputs["semantic"])


@pytest.mark.slow
@pytest.mark.parametrize("precision", variants(["fp16", "int8", "fp8"], ["int8"]))
def test_typed_parts_are_those_of_the_whole(weights, images, tmp_path, precision):
    quantized = precision in ("int8", "fp8")
    report = export_model(
        weights,
        tmp_path / "small.onnx",
        options(
            images,
            precision=precision,
            target="onnxruntime",
            calibration=images if quantized else None,
            verify=precision == "fp16",  # random weights do not pass the gates of the others
        ),
    )
    backend = open_backend(report.path, threads=1)
    assert isinstance(backend, CanvasBackend)
    shape = backend.open_canvas()
    for frame in smooth_frames(3, seed=8).numpy():
        outputs = backend.infer(frame[None])
        canvas = project_detections(outputs, backend.manifest, shape)
        np.testing.assert_array_equal(backend.infer_canvas(frame[None], canvas), outputs["semantic"])
    if quantized:
        scales = [_scales(artifact) for artifact in _graphs(report.path)]
        shared = set(scales[0]) & set(scales[1])
        assert len(shared) > 10
        assert {name: scales[0][name] for name in shared} == {name: scales[1][name] for name in shared}


@pytest.mark.slow
def test_layers_that_stay_in_float16_do_so_in_both_parts(weights, images, tmp_path):
    found = []
    for keep in (None, "*.backbone.*"):
        chosen = options(
            images,
            precision="int8",
            target="onnxruntime",
            calibration=images,
            verify=False,
            keep_float16=keep,
        )
        report = export_model(weights, tmp_path / "small.onnx", chosen)
        found.append([set(_scales(model)) for model in _graphs(report.path)])
    for quantized, fewer in zip(*found, strict=True):
        assert fewer < quantized
        assert quantized - fewer == {name for name in quantized if ".backbone." in name}


def _graphs(path):
    artifact = read_artifact(path, canvas=True)
    return [onnx.load_from_string(data) for data in (artifact.payload, artifact.canvas)]


def _scales(model):
    """Layer -> scales of its input and of its weight."""
    tensors = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    writers = {node.output[0]: node for node in model.graph.node}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and writers.get(node.input[0], node).op_type == "DequantizeLinear":
            activation, weight = (writers[name].input[1] for name in node.input[:2])
            found[weight] = float(tensors[activation]), tensors[weight].tobytes()
    return found


@pytest.mark.slow
def test_a_batch_has_a_canvas_for_each_frame(weights, images, tmp_path):
    report = export_model(weights, tmp_path / "small.onnx", options(images, target="onnxruntime", batch=2))
    part = report.manifest.canvas_part
    assert part is not None
    assert part.shape == (2, 2, 16, 24)
    assert part.verification["equal_to_whole"] == 1.0


@pytest.mark.slow
def test_a_part_that_differs_fails_and_nothing_is_written(weights, images, tmp_path, monkeypatch):
    monkeypatch.setattr(
        verification, "project_detections", lambda *given: project_detections(*given) * np.float32(0)
    )
    with pytest.raises(VerificationError, match=r"canvas part.*equal to PyTorch.*the whole network"):
        export_model(weights, tmp_path / "out" / "small.onnx", options(images, target="onnxruntime"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_part_has_the_gate_of_the_whole(weights, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        verification, "project_detections", lambda *given: project_detections(*given) * np.float32(0)
    )
    lowered = options(images, target="onnxruntime", gate=replace(GATES["fp32"], labels=0.01))
    report = export_model(weights, tmp_path / "small.onnx", lowered)
    part = report.manifest.canvas_part
    assert part is not None
    assert part.verification["label_agreement"] < GATES["fp32"].labels
    assert part.verification["gates"] == {"label_agreement": 0.01, "equal_to_whole": 0.01}
    assert selftest.main([str(report.path)]) == 0
    assert "canvas part" in capsys.readouterr().out


def test_networks_without_a_canvas_have_no_part(images, tmp_path):
    for system in ("panoptic-fpn", "mask-rcnn-imp"):
        path = save_checkpoint(
            tmp_path / f"{system}.safetensors", detecting_network(small_config(system)), {}
        )
        with pytest.raises(UsageError, match="--parts"):
            export_model(path, tmp_path / "out.onnx", options(images, target="onnxruntime"))
    assert not (tmp_path / "out.onnx").exists()


def test_an_artifact_without_a_part_says_how_to_get_one(exported, tmp_path):
    alone = replace(read_artifact(exported.path).manifest, canvas_part=None)
    path = write_artifact(tmp_path / "alone.onnx", exported.path.read_bytes(), alone)
    backend = open_backend(path, threads=1)
    assert isinstance(backend, CanvasBackend)
    with pytest.raises(ArtifactError, match="imp-export --parts"):
        backend.open_canvas()


@needs_rtx
@pytest.mark.slow
def test_engines_of_both_parts_are_built_from_the_checkpoint_and_from_the_file(
    weights, images, exported, tmp_path
):
    direct = export_model(
        weights, tmp_path / "direct.engine", options(images, target="rtx", precision="fp32")
    )
    from_file = engine_from_onnx(
        exported.path,
        tmp_path / "from_file.engine",
        ExportOptions(target="rtx", precision="fp32", calibrated=True),
    )
    for report in (direct, from_file):
        artifact = read_artifact(report.path, canvas=True)
        assert artifact.canvas is not None
        assert artifact.canvas[:4] == b"vtrt", "the raw engine"
        part = artifact.manifest.canvas_part
        assert part is not None
        assert part.engine is not None
        assert part.engine.operators == {}
        assert part.verification["equal_to_whole"] == 1.0


def test_the_self_test_replays_both_parts(exported, tmp_path, capsys):
    assert selftest.main([str(exported.path)]) == 0
    assert "canvas part 100.0000%" in capsys.readouterr().out
    artifact = read_artifact(exported.path, canvas=True)
    model = onnx.load_from_string(artifact.canvas)
    for initializer in model.graph.initializer:
        if initializer.name.endswith("canvas_to_logits.weight"):
            initializer.CopyFrom(
                onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(initializer), initializer.name)
            )
    path = write_artifact(
        tmp_path / "other.onnx",
        artifact.payload,
        artifact.manifest,
        golden_path(exported.path).read_bytes(),
        model.SerializeToString(),
    )
    assert selftest.main([str(path)]) == 3
    assert "class maps of the canvas part equal to PyTorch on" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command(weights, images, tmp_path, capsys):
    path = tmp_path / "small.onnx"
    arguments = ["--weights", str(weights), "-o", str(path), "--parts", "--no-verify", "--quiet"]
    assert main([*arguments, "--nms-iterations", str(ITERATIONS)]) == 0
    out = capsys.readouterr().out
    sizes = [p.stat().st_size / 1e6 for p in (canvas_path(path), path)]
    assert f"canvas     {canvas_path(path)} ({sizes[0]:.1f} MB more than {sizes[1]:.1f} MB)" in out
    assert inspect.main([str(path)]) == 0
    assert "canvas part canvas: float32[1, 2, 16, 24] as second input" in capsys.readouterr().out
    assert read_artifact(path, canvas=True).canvas is not None

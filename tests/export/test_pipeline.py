# SPDX-License-Identifier: Apache-2.0
"""Export from weights to artifact: verified, or not written."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest

from imp_trt.artifacts.golden import read_golden
from imp_trt.artifacts.reading import read_artifact
from imp_trt.artifacts.writing import write_artifact
from imp_trt.errors import (
    ArtifactError,
    CheckpointError,
    ExportError,
    OutputError,
    SourceError,
    UsageError,
    VerificationError,
)
from imp_trt.export import ExportOptions, pipeline, plan
from imp_trt.export.onnx.class_map import without_argmax
from imp_trt.export.pipeline import export_model, export_onnx, export_plans
from imp_trt.export.plan import make_plan
from imp_trt.export.progress import silent
from imp_trt.export.quantization import lowering
from imp_trt.export.targets import EngineOptions
from imp_trt.export.verification import compare as verification
from imp_trt.export.verification import gates as verify
from imp_trt.export.verification.frames import VerificationFrames
from imp_trt.segmenter import Segmenter
from imp_trt.synthetic import SCENE_CLASSES
from tests.support import tiny
from tests.support.networks import CLASSES, smooth_frames


@pytest.fixture
def quick(monkeypatch, model):
    """The graph of the session's export instead of a new one."""
    monkeypatch.setattr(lowering, "onnx_from_module", lambda module, batch: model)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "recorded"
    folder.mkdir()
    for i, frame in enumerate(smooth_frames(3, (120, 180), seed=9).numpy()):
        cv2.imwrite(str(folder / f"frame{i}.png"), frame)
    return folder


def test_the_artifact_is_what_the_segmenter_runs(quick, weights, images, tmp_path):
    seen = []
    report = export_onnx(
        weights,
        tmp_path / "new" / "folder",
        ExportOptions(frames=images, frame_count=5),
        progress=lambda *step: seen.append(step),
    )
    assert report.path == tmp_path / "new" / "folder" / "small.fp32.onnx"
    names = ["small.fp32.golden.npz", "small.fp32.onnx", "small.fp32.onnx.json"]
    assert sorted(p.name for p in report.path.parent.iterdir()) == names
    manifest = read_artifact(report.path).manifest
    assert manifest == report.manifest
    assert (manifest.kind, manifest.precision, manifest.target, manifest.opset) == (
        "onnx",
        "fp32",
        "onnxruntime",
        18,
    )
    assert manifest.terms == "for tests only"
    assert manifest.sampling == "bilinear"
    assert manifest.ops["ImpMultilevelRoiAlign"] == {"version": "1"}
    assert set(manifest.producer) == {"imp_trt", "torch", "onnx", "onnxruntime"}
    figures = manifest.verification
    assert figures["verified_on"] == "onnxruntime-cpu"
    assert figures["source"] == "3 images of recorded, 2 synthetic street scenes 512x256, seed 3"
    assert (figures["frames"], figures["nms_unsettled"]) == (5, 0)
    assert figures["label_agreement"] >= 0.9999
    assert figures["instance_f1"] >= 0.99
    assert figures["instances"]["reference"] > 0
    assert "miou" not in figures, "the scenes' labels mean nothing for other classes"
    assert manifest.benchmark["network_ms"] > 0
    assert seen[0] == ("export", 0, 1)
    assert seen[-1] == ("verify", 5, 5)
    frame = cv2.imread(str(images / "frame0.png"))
    with Segmenter(report.path, threads=1) as exported, Segmenter(weights, device="cpu") as trained:
        a, b = exported.run(frame), trained.run(frame)
    assert a.semantic.shape == (120, 180)
    assert np.mean(a.semantic == b.semantic) >= 0.999
    assert len(a.instances) == len(b.instances)


@pytest.mark.slow
def test_a_failed_gate_leaves_nothing(quick, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(verify.GATES, "fp32", verify.Gate(1.5, 0.99, 0.1))
    with pytest.raises(VerificationError, match=r"gate 150\.00%"):
        export_onnx(weights, tmp_path / "out", ExportOptions(frame_count=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_failed_gate_keeps_the_artifact_that_was_there(quick, weights, tmp_path, monkeypatch):
    before = export_onnx(weights, tmp_path, ExportOptions(frame_count=1)).path.read_bytes()
    monkeypatch.setitem(verify.GATES, "fp32", verify.Gate(1.5, 0.99, 0.1))
    with pytest.raises(VerificationError):
        export_onnx(weights, tmp_path, ExportOptions(frame_count=1))
    assert read_artifact(tmp_path / "small.fp32.onnx").payload == before
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
def test_unconverged_nms_fails_the_export(quick, weights, images, tmp_path):
    with pytest.raises(
        VerificationError, match=r"one more iteration of NMS changes \d+ keep flags.*--nms-iterations"
    ):
        export_onnx(weights, tmp_path / "out", ExportOptions(frames=images, frame_count=3, nms_iterations=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_another_network_in_the_file_fails_the_gates(weights, images, tmp_path, monkeypatch, model):
    other = onnx.ModelProto()
    other.CopyFrom(model)
    bias = next(i for i in other.graph.initializer if i.name.endswith("classify.bias"))
    always_sky = onnx.numpy_helper.from_array(np.array([0, 1e6, 0, 0], np.float32), bias.name)
    bias.CopyFrom(always_sky)
    monkeypatch.setattr(lowering, "onnx_from_module", lambda module, batch: other)
    with pytest.raises(VerificationError, match="labels equal on"):
        export_onnx(weights, tmp_path / "out", ExportOptions(frames=images, frame_count=3))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_interruption_leaves_nothing(quick, weights, tmp_path, monkeypatch):
    def interrupt(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(verification.Agreement, "add", interrupt)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(KeyboardInterrupt):
        export_onnx(weights, tmp_path / "out", ExportOptions(frame_count=2))
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "scratch").iterdir())


def test_unverified_only_on_request_and_recorded(quick, weights, tmp_path):
    report = export_onnx(weights, tmp_path / "raw.onnx", ExportOptions(verify=False))
    assert report.path == tmp_path / "raw.onnx"
    figures = read_artifact(report.path).manifest.verification
    assert figures["verified_on"] is None
    assert "--no-verify" in figures["skipped"]
    assert report.to_dict()["verification"] == dict(figures)


@pytest.mark.slow
def test_scenes_of_the_same_classes_give_miou(quick, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("imp_trt.synthetic.SCENE_CLASSES", CLASSES, raising=False)
    blank = [(np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96), np.uint8))] * 2
    monkeypatch.setattr(VerificationFrames, "load", lambda self, classes: iter(blank))
    figures = export_onnx(weights, tmp_path, ExportOptions(frame_count=2)).manifest.verification
    assert figures["miou"]["reference"] == figures["miou"]["candidate"]


@pytest.mark.parametrize(
    ("precision", "target", "text"),
    [
        ("fp64", "onnxruntime", "expected one of fp32"),
        ("fp32", "coreml", "expected one of onnxruntime"),
        ("bf16", "onnxruntime", "no bfloat16"),
        ("int8", "onnxruntime", "--calib DIR"),
        ("fp16", "drive-orin-6", "no IPluginV3"),
    ],
)
def test_what_is_impossible_is_reported_before_any_work(precision, target, text):
    with pytest.raises(UsageError, match=text):
        export_model("no/such/weights.safetensors", ".", ExportOptions(precision=precision, target=target))


def test_missing_inputs_and_places_that_cannot_be_written(weights, tmp_path):
    with pytest.raises(CheckpointError, match="got no file"):
        export_onnx(tmp_path / "absent.safetensors", tmp_path)
    with pytest.raises(SourceError, match="nothing at this path"):
        export_onnx(weights, tmp_path, ExportOptions(frames=tmp_path / "absent"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="writable folder"):
        export_onnx(weights, tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="at most 238 bytes"):
        export_onnx(weights, tmp_path / f"{'x' * 240}.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OutputError, match="got a folder"):
        export_onnx(weights, tmp_path / "folder.onnx")


def test_an_export_error_leaves_nothing(weights, tmp_path, monkeypatch):
    def fail(module, batch):
        raise ExportError("graph")

    monkeypatch.setattr(lowering, "onnx_from_module", fail)
    with pytest.raises(ExportError):
        export_onnx(weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_many_images_are_thinned_out_evenly(tmp_path):
    for i in range(20):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((40, 40, 3), i, np.uint8))
    chosen = VerificationFrames(tmp_path, 5)
    assert [int(frame[0, 0, 0]) for frame, _ in chosen.load(CLASSES)] == [0, 4, 8, 12, 16]
    assert chosen.description == f"5 images of {tmp_path.name}"


def test_scenes_bring_their_labels_for_their_own_classes():
    frames = list(VerificationFrames(count=1).load(SCENE_CLASSES))
    assert frames[0][0].shape == (256, 512, 3)
    assert frames[0][1] is not None
    assert frames[0][1].shape == (256, 512)


def test_a_file_without_functions_for_old_parsers(quick, weights, tmp_path, model):
    report = export_onnx(weights, tmp_path, ExportOptions(verify=False, function_free=True))
    (bare,) = report.also
    assert bare == tmp_path / "small.fp32.function-free.onnx"
    names = {"small.fp32.onnx", "small.fp32.onnx.json", "small.fp32.function-free.onnx"}
    assert {p.name for p in tmp_path.iterdir()} == names, "no manifest: nothing here runs it"
    graph = onnx.load(bare)
    assert not graph.functions
    assert "ArgMax" not in {node.op_type for node in graph.graph.node}, "it is for TensorRT"
    assert graph.graph == without_argmax(model).graph, "else the graph that was verified, node by node"
    verified = onnx.load(report.path)
    assert verified.graph == model.graph
    assert "ArgMax" in {node.op_type for node in verified.graph.node}, "faster in ONNX Runtime"
    with pytest.raises(ArtifactError, match="manifest"):
        Segmenter(bare)


@pytest.fixture
def full(monkeypatch):
    """Makes the file whose name ends like this unwritable."""

    def fail_at(suffix, error=None):
        for name in ("write_artifact", "write_atomically"):
            write = getattr(pipeline, name)

            def stop(path, *arguments, write=write):
                if str(path).endswith(suffix):
                    raise error or OutputError("disk", got="full")
                return write(path, *arguments)

            monkeypatch.setattr(pipeline, name, stop)

    return fail_at


@pytest.mark.parametrize("there_before", [False, True])
def test_without_its_artifact_a_function_free_file_is_not_written(
    quick, weights, tmp_path, full, there_before
):
    path = tmp_path / "small.fp32.function-free.onnx"
    if there_before:
        path.write_bytes(b"earlier")
    full("fp32.onnx")
    with pytest.raises(OutputError, match=r"disk: got full$"):
        export_onnx(weights, tmp_path, ExportOptions(verify=False, function_free=True))
    assert list(tmp_path.iterdir()) == ([path] if there_before else [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "verified_before"),
    [
        ("fp32.onnx", False),
        pytest.param("fp32.onnx", True, marks=pytest.mark.exhaustive),
        pytest.param("fp16.function-free.onnx", False, marks=pytest.mark.exhaustive),
        ("fp16.function-free.onnx", True),
    ],
)
def test_a_later_file_that_cannot_be_written_takes_no_complete_artifact(
    quick, weights, tmp_path, full, suffix, verified_before
):
    plans = [
        make_plan(
            weights,
            tmp_path,
            ExportOptions(
                precision=precision, target="onnxruntime", frame_count=1, function_free=True, parts=True
            ),
            silent,
        )
        for precision in ("fp16", "fp32")
    ]
    earlier = ExportOptions(precision="fp16", frame_count=1, verify=verified_before)
    export_onnx(weights, tmp_path, earlier)
    full(suffix)
    with pytest.raises(OutputError, match=r"disk \(already written: .*small\.fp16\.onnx.*\): got full"):
        export_plans(plans)
    manifest = read_artifact(tmp_path / "small.fp16.onnx", canvas=True).manifest
    assert manifest.canvas_part is not None
    assert read_golden(tmp_path / "small.fp16.onnx", manifest)
    assert not (tmp_path / "small.fp32.onnx").exists()


def test_an_interrupt_between_two_precisions_keeps_the_first(quick, weights, tmp_path, full, caplog):
    plans = [
        make_plan(
            weights,
            tmp_path,
            ExportOptions(precision=precision, target="onnxruntime", verify=False),
            silent,
        )
        for precision in ("fp16", "fp32")
    ]
    full("fp32.onnx", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        export_plans(plans)
    read_artifact(tmp_path / "small.fp16.onnx")
    assert "written before the export ended: " in caplog.text
    assert "small.fp16.onnx" in caplog.text


def test_an_artifact_that_another_process_wrote_meanwhile_stays(quick, weights, tmp_path, monkeypatch):
    def late(path, *arguments):
        write_artifact(path, *arguments)  # the other process, which had the lock
        raise OutputError("disk", got="full")

    monkeypatch.setattr(pipeline, "write_artifact", late)
    with pytest.raises(OutputError, match="full"):
        export_onnx(weights, tmp_path, ExportOptions(verify=False))
    read_artifact(tmp_path / "small.fp32.onnx")


def test_a_manifest_that_lay_there_alone_survives_a_failed_export(quick, weights, tmp_path, monkeypatch):
    manifest = tmp_path / "small.fp32.onnx.json"
    manifest.write_text("of an artifact that was moved")

    def full(*arguments):
        raise OutputError("disk", got="full")

    monkeypatch.setattr(pipeline, "write_artifact", full)
    with pytest.raises(OutputError, match="full"):
        export_onnx(weights, tmp_path, ExportOptions(verify=False))
    assert list(tmp_path.iterdir()) == [manifest]
    assert manifest.read_text() == "of an artifact that was moved"


@pytest.mark.slow
@pytest.mark.parametrize(("drop", "said"), [(0.05, True), (verify.GATES["fp32"].miou_drop, False)])
def test_a_gate_for_miou_without_ground_truth_is_said(quick, weights, tmp_path, caplog, drop, said):
    """Only the synthetic scenes have ground truth, for a network of their classes."""
    gate = replace(verify.GATES["fp32"], miou_drop=drop)
    export_onnx(weights, tmp_path, ExportOptions(gate=gate, frame_count=1))
    assert ("the gate for mIoU has no effect" in caplog.text) == said


@pytest.mark.parametrize(("kind", "said"), [("same", 3), ("copies", 3), ("half", 2), ("others", 0)])
def test_frames_of_the_calibration_are_said(weights, images, tmp_path, caplog, kind, said):
    """The ranges were measured on them: they say nothing of other images."""
    other = tmp_path / "others"
    shutil.copytree(images, other)
    for path in sorted(other.iterdir())[said:]:
        cv2.imwrite(str(path), smooth_frames(1, (120, 180), seed=10).numpy()[0])
    frames = images / "." if kind == "same" else other
    options = ExportOptions(precision="int8", calibration=images, frames=frames, target="onnxruntime")
    pipeline._warn_of_frames([make_plan(weights, tmp_path, options, silent)], tiny.manifest())
    told = f"{said} of 3 images are calibration frames too"
    assert (told if said else "") in caplog.text
    assert ("calibration frames too" in caplog.text) == bool(said)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nms_iterations": 8}, "--nms-iterations: without effect, since the network has no detector"),
        ({"gate": replace(verify.GATES["fp32"], instances=0.5)}, "the gate for instances: without effect"),
        ({"gate": replace(verify.GATES["fp32"], labels=0.5)}, ""),
    ],
)
def test_options_about_a_detector_that_is_not_there(weights, tmp_path, caplog, changes, told):
    plan = make_plan(weights, tmp_path, ExportOptions(target="onnxruntime", **changes), silent)
    for detections in (0, 5):
        caplog.clear()
        pipeline._warn_of_detector_options([plan], tiny.manifest(detections=detections))
        assert ("without effect" in caplog.text) == (not detections and bool(told))
        assert detections or told in caplog.text


@pytest.mark.parametrize("copies", [0, 3])
def test_frames_that_are_copies_of_one_are_said(weights, images, tmp_path, caplog, copies):
    for number in range(copies):
        shutil.copy(images / "frame0.png", images / f"frame0 ({number}).png")
    plan = make_plan(weights, tmp_path, ExportOptions(frames=images, target="onnxruntime"), silent)
    pipeline._warn_of_frames([plan], tiny.manifest())
    assert (f"only 3 different ones among 6 verification frames in {images}" in caplog.text) == bool(copies)


@pytest.mark.slow
def test_a_network_that_finds_nothing_is_no_proof(quick, weights, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(verify, "MIN_SCORE", 2.0)
    caplog.set_level("WARNING", logger="imp_trt")
    report = export_onnx(weights, tmp_path, ExportOptions(frame_count=1))
    assert report.manifest.verification["instances"]["reference"] == 0
    assert "detects no instance on the verification frames" in caplog.text
    assert "--frames" in caplog.text


@pytest.mark.parametrize(("batch", "expected"), [(4097, "integer 1 to 4096"), (4096, "at most 1,048,576")])
def test_a_batch_that_no_manifest_may_have_is_rejected_before_any_work(
    weights, tmp_path, monkeypatch, batch, expected
):
    monkeypatch.setattr(pipeline, "_lower", lambda *_: pytest.fail("it is exported"))
    if batch == 4096:
        monkeypatch.setattr("imp_trt.artifacts.manifest.MAX_PIXELS", 1 << 20)
    with pytest.raises(UsageError, match=f"--batch {batch}: expected .*{expected}"):
        export_onnx(weights, tmp_path, ExportOptions(batch=batch))


def test_a_timing_cache_that_cannot_be_written_is_reported_before_any_work(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "check_target", lambda *arguments: None)
    options = EngineOptions(timing_cache=tmp_path)
    with pytest.raises(OutputError, match=r"timing cache .*got a folder"):
        export_model(weights, tmp_path, ExportOptions(precision="fp16", target="tensorrt", engine=options))


@pytest.mark.parametrize("name", ["model.onnx", "old.ENGINE", "weights.safetensors"])
def test_a_model_is_not_overwritten_as_a_timing_cache(weights, tmp_path, monkeypatch, name):
    """`--timing-cache` without its value takes the next argument, the file to export."""
    monkeypatch.setattr(plan, "check_target", lambda *arguments: None)
    options = EngineOptions(timing_cache=tmp_path / name)
    with pytest.raises(UsageError, match=r"timing cache .*--timing-cache timing\.cache"):
        export_model(weights, tmp_path, ExportOptions(precision="fp16", target="tensorrt", engine=options))


@pytest.mark.slow
def test_a_failed_set_of_files_leaves_the_golden_frames_of_others(quick, weights, tmp_path, monkeypatch):
    report = export_onnx(weights, tmp_path / "a.onnx", ExportOptions(frame_count=1, function_free=True))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert report.manifest.golden_sha256
    (tmp_path / "a.function-free.onnx").unlink()

    def full(*arguments):
        raise OutputError("disk", got="full")

    monkeypatch.setattr(pipeline, "write_artifact", full)
    with pytest.raises(OutputError, match="full"):
        export_onnx(weights, tmp_path / "a.onnx", ExportOptions(frame_count=1, function_free=True))
    del before["a.function-free.onnx"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

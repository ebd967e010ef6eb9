# SPDX-License-Identifier: Apache-2.0
"""imp-export to ONNX: what it prints, and its exit codes."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import cv2
import numpy as np
import pytest

from imp_trt.artifacts.reading import read_manifest
from imp_trt.cli.export import main, parser
from imp_trt.errors import CheckpointError
from imp_trt.export import pipeline, plan
from imp_trt.export.quantization import lowering
from imp_trt.export.verification import gates as verify
from imp_trt.export.verification.frames import VerificationFrames
from imp_trt.synthetic import SCENE_CLASSES
from tests.support.clips import write_clip

ONNX = ["--target", "onnxruntime"]


@pytest.fixture(autouse=True)
def quick(monkeypatch, model):
    """The session's export, and two frames to verify on."""
    frames = plan.VerificationFrames
    monkeypatch.setattr(lowering, "onnx_from_module", lambda module, batch: model)
    monkeypatch.setattr(plan, "VerificationFrames", lambda folder, count: frames(folder, 2))
    logger = logging.getLogger("imp_trt")
    handlers, propagate = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate


def test_last_line_says_passed_and_where(weights, tmp_path, capsys):
    assert main([*ONNX, "--engine", "fp32", "--weights", str(weights), "-o", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"PASSED imp-export {tmp_path / 'small.fp32.onnx'} verified_on=onnxruntime-cpu"
    assert any(line.startswith("labels     100.0000% equal") for line in lines)


def test_json_is_alone_on_stdout(weights, tmp_path, capsys):
    assert main([*ONNX, "--weights", str(weights), "-o", str(tmp_path), "--json", "-q"]) == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["artifact"] == str(tmp_path / "small.fp32.onnx")
    assert data["verification"]["verified_on"] == "onnxruntime-cpu"
    assert data["verification"]["frames"] == 2


def test_an_unverified_file_never_says_passed(weights, tmp_path, capsys):
    assert main([*ONNX, "--weights", str(weights), "-o", str(tmp_path), "--no-verify"]) == 0
    out = capsys.readouterr().out
    assert "PASSED" not in out
    assert out.splitlines()[-1].startswith("UNVERIFIED imp-export ")


def test_a_failed_gate_exits_with_3(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(verify.GATES, "fp32", verify.Gate(1.5, 0.99, 0.1))
    assert main([*ONNX, "--weights", str(weights), "-o", str(tmp_path)]) == 3
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: the exported network's results differ")
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--engine", "bf16"], "no bfloat16 convolutions"),
        (["--engine", "int8"], "--calib DIR"),
        (["--engine", "fp16", "--target", "orin"], "expected one of onnxruntime, tensorrt-rtx"),
        (["--engine", "fp16", "--target", "drive-orin-6"], "no IPluginV3"),
        (["--engine", "fp16", "--workspace", "2"], "no engine is built"),
        (["--engine", "fp16", "--calib", "."], "takes no calibration frames"),
        (["--target", "rtx", "--compute-capability", "8.7"], "does not support compute capability 8.7"),
        (["--target", "rtx", "--timing-cache", "x"], "its timing cache is empty"),
        (["--weights", "absent.safetensors"], "absent.safetensors"),
        (["--frames", "absent"], "absent"),
        (["--gate", "labels=0.5", "--no-verify"], "--no-verify takes no --gate"),
        (["--frames", ".", "--no-verify"], "--no-verify takes no --frames"),
        (["--bisect", "--gate", "labels=0.9"], "--bisect takes no --gate"),
        (["--bisect", "--no-verify"], "--bisect takes no --no-verify"),
        (["--bisect", "--engine", "bf16"], "Fix: --engine fp16 (see"),
        (["--bisect", "--engine", "bf16", "--target", "tensorrt-rtx"], "Fix: --engine fp16 (see"),
        (["--frames", "absent"], "--frames names a folder of images like those of the application"),
        (["--engine", "int8", "--calib", "absent"], "--calib names a folder of images"),
        (["--frames", __file__.replace(".py", ".mp4")], "--frames names a folder of images"),
    ],
)
def test_mistakes_exit_with_2_and_one_line(arguments, text, weights, tmp_path, capsys):
    if "--weights" not in arguments:
        arguments = [*arguments, "--weights", str(weights)]
    if "--target" not in arguments:
        arguments = [*ONNX, *arguments]
    assert main([*arguments, "-o", str(tmp_path), "-q"]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["model.plan", "model.trt", "model.ONNX", "model.engine", "new.safetensors"])
def test_a_file_of_another_kind_is_no_folder(name, weights, tmp_path, capsys):
    output = tmp_path / name
    assert main([*ONNX, "--weights", str(weights), "-o", str(output), "-q"]) == 2
    assert "a file name that ends with .onnx" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--engine", "fp12"],
        ["--batch", "0"],
        ["--nms-iterations", "x"],
        ["--compute-capability", "sm_86"],
        ["--workspace", "0"],
        ["--workspace", "1e-12"],
        ["--gate", "labels=0.9,labels=0.8"],
        ["--optimization-level", "6"],
        ["--hardware-compatible", "all"],
    ],
)
def test_unknown_options_exit_with_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_the_bundled_weights_are_the_default(tmp_path, capsys, monkeypatch, weights):
    def absent():
        raise CheckpointError("bundled weights", got="nothing")

    monkeypatch.setattr("imp_trt.weights.bundled", absent)
    assert main([*ONNX, "-o", str(tmp_path)]) == 2
    assert "bundled weights" in capsys.readouterr().err
    monkeypatch.setattr("imp_trt.weights.bundled", lambda: weights)
    assert main([*ONNX, "-o", str(tmp_path), "-q"]) == 0


def test_the_targets_are_listed(capsys):
    assert main(["--list-targets"]) == 0
    assert "drive-orin " in capsys.readouterr().out
    assert main(["--list-targets", "--json"]) == 0
    listed = {target["name"]: target for target in json.loads(capsys.readouterr().out)}
    assert listed["jetson-orin"]["capabilities"] == ["8.7"]


def test_instances_that_were_not_compared_are_not_called_equal(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verify, "MIN_SCORE", 2.0)
    assert main([*ONNX, "--weights", str(weights), "-o", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "instances  no detections on these frames" in captured.out.splitlines()
    assert "--frames" in captured.err


def test_drawn_streets_are_reported_to_be_unlike_the_training_set(weights, tmp_path, capsys):
    """Before and after the comparison; not for the network of synthetic street scenes."""
    assert main([*ONNX, "--weights", str(weights), "-o", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "WARNING: verification frames: 2 of 2 are synthetic street scenes" in captured.err
    assert "note       synthetic street scenes, which this network was not trained on: verify" in captured.out
    classes = read_manifest(tmp_path / "small.fp32.onnx").classes
    assert VerificationFrames(count=2).unlike(classes)
    assert not VerificationFrames(count=2).unlike(SCENE_CLASSES)
    cv2.imwrite(str(tmp_path / "street.png"), np.zeros((64, 96, 3), np.uint8))
    assert VerificationFrames(tmp_path, 2).unlike(classes).startswith("1 of 2 are synthetic")
    assert not VerificationFrames(tmp_path, 1).unlike(classes)


def test_a_video_is_no_folder_of_images(weights, tmp_path, capsys):
    clip = tmp_path / "drive.mp4"
    write_clip(clip, frames=2, size=(64, 96))
    assert main([*ONNX, "--weights", str(weights), "-o", str(tmp_path), "--frames", str(clip)]) == 2
    assert "ffmpeg -i VIDEO" in capsys.readouterr().err


def test_a_file_for_parsers_that_prefer_functions(weights, tmp_path, capsys):
    arguments = ["--weights", str(weights), "-o", str(tmp_path), "--no-verify", "--function-free"]
    assert main([*ONNX, *arguments]) == 0
    assert f"also       {tmp_path / 'small.fp32.function-free.onnx'}" in capsys.readouterr().out.splitlines()


def test_the_former_flag_of_nms_iterations_is_accepted_with_a_warning(capsys):
    assert parser().parse_args(["--nms-passes", "8"]).nms_iterations == 8
    assert "--nms-passes is deprecated, use --nms-iterations" in capsys.readouterr().err
    assert parser().parse_args([]).nms_iterations == 32
    assert "--nms-passes" not in parser().format_help()


@pytest.mark.slow
def test_a_set_of_precisions_in_one_run(weights, tmp_path, capsys, monkeypatch, calibration_folder):
    read, calibrated = [], []
    real_read, real_ranges = pipeline.read_checkpoint, lowering.collect_ranges
    monkeypatch.setattr(pipeline, "read_checkpoint", lambda path: read.append(path) or real_read(path))

    def ranges(module, frames, progress):
        calibrated.append(frames)
        return real_ranges(module, frames, progress)

    monkeypatch.setattr(lowering, "collect_ranges", ranges)
    monkeypatch.setattr(lowering, "quantize", lambda model, precision, ranges: model)
    monkeypatch.setattr(lowering, "_check_quantized", lambda model, precision: None)
    arguments = ["--precisions", "fp32", "int8", "fp8", "int8", "--calib", str(calibration_folder)]
    arguments += ["--weights", str(weights), "-o", str(tmp_path)]
    assert main([*arguments, "-q", "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [r["precision"] for r in reports] == ["fp32", "int8", "fp8"]
    assert {p.name for p in tmp_path.iterdir()} == {
        f"small.{precision}.{end}"
        for precision in ("fp32", "int8", "fp8")
        for end in ("onnx", "onnx.json", "golden.npz")
    }
    assert len(read) == len(calibrated) == 1
    assert "calibration" not in reports[0]["verification"]
    assert reports[2]["verification"]["calibration"].startswith("2 images of ")


@pytest.mark.slow
def test_of_a_set_none_is_written_if_one_misses_its_gate(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(verify.GATES, "fp16", verify.Gate(1.5, 0.99, 0.1))
    arguments = ["--precisions", "fp32", "fp16", "--weights", str(weights), "-o", str(tmp_path)]
    assert main(arguments) == 3
    assert "gate 150.00%" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--precisions", "fp16", "--engine", "fp16"], "cannot be combined"),
        (["--precisions", "fp32", "fp16", "--calib", "."], "takes no calibration frames"),
        (["--precisions", "fp32", "int8"], "--calib DIR"),
        (["--precisions", "fp16", "bf16"], "no bfloat16 convolutions"),
        (["--precisions", "fp16", "-o", "model.onnx"], "expected a folder"),
        (["a.pt", "--weights", "b.pt"], "a.pt and --weights b.pt"),
        (["--onnx", "a.onnx"], "pass the .onnx file alone"),
        (["a.onnx", "--target", "onnxruntime"], "a.onnx"),
    ],
)
def test_mistakes_are_reported_before_anything_heavy_is_imported(arguments, text, tmp_path):
    code = (
        "import sys; from imp_trt.cli.export import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'tensorrt', 'tensorrt_rtx'}; "
        "print(sorted(heavy & set(sys.modules))); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *arguments]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert child.returncode in (2, 4), child.stderr
    assert text in child.stderr
    assert child.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())

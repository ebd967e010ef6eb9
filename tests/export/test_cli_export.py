"""imp-export: what it prints, and its exit codes."""

from __future__ import annotations

import json
import logging

import pytest

from imp_trt.cli.export import main
from imp_trt.errors import CheckpointError
from imp_trt.export import pipeline, verify


@pytest.fixture(autouse=True)
def quick(monkeypatch, model):
    """The session's export, and two frames to verify on."""
    frames = pipeline.VerificationFrames
    monkeypatch.setattr(pipeline, "onnx_from_module", lambda module, batch: model)
    monkeypatch.setattr(pipeline, "VerificationFrames", lambda folder, count: frames(folder, 2))
    logger = logging.getLogger("imp_trt")
    handlers, propagate = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate


def test_last_line_says_passed_and_where(weights, tmp_path, capsys):
    assert main(["--engine", "fp32", "--weights", str(weights), "-o", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"PASSED imp-export {tmp_path / 'small.fp32.onnx'} verified_on=onnxruntime-cpu"
    assert any(line.startswith("labels     100.0000% equal") for line in lines)


def test_json_is_alone_on_stdout(weights, tmp_path, capsys):
    assert main(["--weights", str(weights), "-o", str(tmp_path), "--json", "-q"]) == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["artifact"] == str(tmp_path / "small.fp32.onnx")
    assert data["verification"]["verified_on"] == "onnxruntime-cpu"
    assert data["verification"]["frames"] == 2


def test_an_unverified_file_never_says_passed(weights, tmp_path, capsys):
    assert main(["--weights", str(weights), "-o", str(tmp_path), "--no-verify"]) == 0
    out = capsys.readouterr().out
    assert "PASSED" not in out
    assert out.splitlines()[-1].startswith("UNVERIFIED imp-export ")


def test_a_failed_gate_exits_with_3(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(verify.GATES, "fp32", verify.Gate(1.5, 0.99, 0.1))
    assert main(["--weights", str(weights), "-o", str(tmp_path)]) == 3
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: the exported network does not do")
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--engine", "fp16"], "precision fp16 is not available"),
        (["--engine", "int8", "--target", "tensorrt"], "target tensorrt is not available"),
        (["--weights", "absent.safetensors"], "absent.safetensors"),
        (["--frames", "absent"], "absent"),
    ],
)
def test_mistakes_exit_with_2_and_one_line(arguments, text, weights, tmp_path, capsys):
    if "--weights" not in arguments:
        arguments = [*arguments, "--weights", str(weights)]
    assert main([*arguments, "-o", str(tmp_path), "-q"]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--engine", "fp12"], ["--batch", "0"], ["--nms-passes", "x"]])
def test_unknown_options_exit_with_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_the_bundled_weights_are_the_default(tmp_path, capsys, monkeypatch, weights):
    def absent():
        raise CheckpointError("bundled weights", got="nothing")

    monkeypatch.setattr("imp_trt.weights.bundled", absent)
    assert main(["-o", str(tmp_path)]) == 2
    assert "bundled weights" in capsys.readouterr().err
    monkeypatch.setattr("imp_trt.weights.bundled", lambda: weights)
    assert main(["-o", str(tmp_path), "-q"]) == 0

# SPDX-License-Identifier: Apache-2.0
"""imp-export to an engine: from the command line to the artifact, and interrupted in between."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from imp_trt.artifacts.reading import read_artifact
from imp_trt.cli.export import main
from imp_trt.cuda.platform import Platform
from imp_trt.errors import DependencyMissing
from imp_trt.export import pipeline, plan
from tests.support.stub_packages import alive, needs_rtx, stub_package
from tests.support.typed_models import typed

RTX = ["--target", "tensorrt-rtx"]

HANGING = """
    import os, pathlib, time
    pathlib.Path(os.environ["STARTED"]).write_text(str(os.getpid()))
    time.sleep(300)
"""

# The checkpoint is real; the export, which the interruption is not about, is cut short.
INTERRUPTED = """
import sys
from imp_trt.cli.export import main
from imp_trt.export import pipeline, plan
from onnx import helper
class Lowered:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    kept = ()
pipeline.lower = lambda *arguments: Lowered
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def loggers():
    logger = logging.getLogger("imp_trt")
    handlers, propagate = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate


@pytest.fixture
def cpu_only(monkeypatch):
    """A machine with TensorRT-RTX and no GPU, two frames to verify on."""
    frames = plan.VerificationFrames
    here = replace(Platform.detect(), tensorrt=None, gpu=DependencyMissing("driver", got="no libcuda"))
    monkeypatch.setattr(plan.Platform, "detect", lambda: here)
    monkeypatch.setattr(plan, "VerificationFrames", lambda folder, count: frames(folder, 2))


@pytest.fixture
def planted(monkeypatch):
    """The small network in a precision, whatever is asked for."""
    return lambda precision: monkeypatch.setattr(pipeline, "lower", lambda *arguments: typed(precision))


@pytest.mark.slow
@needs_rtx
def test_the_last_line_says_that_only_the_graph_was_verified(cpu_only, planted, weights, tmp_path, capsys):
    planted("fp16")
    assert main([*RTX, "--engine", "fp16", "--weights", str(weights), "-o", str(tmp_path), "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    path = tmp_path / "small.fp16.tensorrt-rtx.engine"
    assert lines[-1] == f"PASSED (graph only) imp-export {path} verified_on=onnxruntime-cpu"
    assert any(line.startswith("built by   tensorrt-rtx 1.") for line in lines)
    assert any(line.startswith("layers ") and " in Half " in line for line in lines)
    assert any(line.startswith("not run ") and "no libcuda" in line for line in lines)
    assert not any(line.startswith("network ") for line in lines)


@pytest.mark.slow
@needs_rtx
def test_json_describes_the_engine(cpu_only, planted, weights, tmp_path, capsys):
    planted("fp16")
    arguments = [
        "--engine",
        "fp16",
        "--target",
        "rtx",
        "--compute-capability",
        "8.9",
        "--no-verify",
        "--json",
    ]
    assert main([*arguments, "--weights", str(weights), "-o", str(tmp_path), "-q"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["engine"]["compute_capabilities"] == ["8.9"]
    assert data["verification"]["verified_on"] is None


@pytest.mark.slow
@needs_rtx
def test_another_precision_exits_with_3(cpu_only, planted, weights, tmp_path, capsys):
    planted("fp32")
    assert main([*RTX, "--engine", "fp16", "--weights", str(weights), "-o", str(tmp_path), "-q"]) == 3
    captured = capsys.readouterr()
    assert "error: the graph does not compute in fp16" in captured.err
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["tensorrt-rtx", "tensorrt"])
def test_a_missing_builder_exits_with_5(target, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    arguments = ["--engine", "fp16", "--target", target, "--weights", str(weights), "-o", str(tmp_path)]
    assert main(arguments) == 5
    assert "pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@needs_rtx
def test_a_library_that_does_not_load_exits_with_5(cpu_only, planted, weights, tmp_path, capsys, monkeypatch):
    planted("fp16")
    stub_package(monkeypatch, tmp_path, "tensorrt_rtx", "raise ImportError('libcudart.so.13 is not here')")
    out = tmp_path / "out"
    assert main([*RTX, "--engine", "fp16", "--weights", str(weights), "-o", str(out), "-q"]) == 5
    assert "libcudart.so.13 is not here" in capsys.readouterr().err
    assert not out.exists()


@needs_rtx
@pytest.mark.slow
def test_ctrl_c_while_building_exits_with_130_and_leaves_nothing(weights, tmp_path, monkeypatch):
    stub_package(monkeypatch, tmp_path, "tensorrt_rtx", HANGING)
    scratch, out, started = tmp_path / "scratch", tmp_path / "out", tmp_path / "started"
    scratch.mkdir()
    out.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("STARTED", str(started))
    arguments = ["--engine", "fp16", "--target", "tensorrt-rtx", "--weights", str(weights), "-o", str(out)]
    command = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # Shells start background jobs, such as this test may be part of, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for _ in range(600):
            if started.exists() and started.read_text():
                break
            assert command.poll() is None, command.stderr.read()
            time.sleep(0.1)
        child = int(started.read_text())
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=30)
    finally:
        command.kill()
    assert command.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert not alive(child)
    assert not list(out.iterdir())
    assert not list(scratch.glob("imp_trt*"))


@needs_rtx
@pytest.mark.slow
def test_the_bundled_weights_with_no_other_argument(cpu_only, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--engine", "fp16"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    name = "scenes.fp16.onnx"
    assert last == f"PASSED imp-export {name} verified_on=onnxruntime-cpu", "what this machine runs"
    manifest = read_artifact(tmp_path / name).manifest
    assert manifest.verification["instances"]["reference"] > 0
    assert manifest.verification["miou"]["candidate"] > 0.5

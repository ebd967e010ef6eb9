# SPDX-License-Identifier: Apache-2.0
"""The command that verifies engines, plugins and kernels on a machine that has the GPU."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import logging
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import imp_trt
from imp_trt.backends import engine_core
from imp_trt.cli import export
from imp_trt.errors import DependencyMissing
from tests.gpu.conftest import missing
from tests.samples.conftest import SAMPLES
from tests.support.stub_packages import alive


def _on_target(tmp_path, *arguments):
    """The on-target command on this machine: exit code, report, what it printed."""
    report = tmp_path / "report.json"
    command = [sys.executable, str(SAMPLES / "on_target" / "on_target.py"), "-o", str(report), "--work"]
    done = subprocess.run(
        [*command, str(tmp_path / "work"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,  # not the checkout: the command finds it itself
    )
    return done.returncode, json.loads(report.read_text()), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(missing() is None, reason="has a GPU; run samples/on_target itself")
def test_the_on_target_command_skips_with_reasons_where_there_is_no_gpu(tmp_path):
    code, report, said = _on_target(tmp_path, "--precisions", "fp16")
    states = {step["name"]: (step["state"], step["stderr"]) for step in report["steps"]}
    assert code == 5, said
    assert report["complete"]
    assert "failed" not in {state for state, _ in states.values()}, said
    assert states["machine"][0] == "passed"
    assert states["fp16, plugin: build and verify"][0] == "skipped"
    assert "Fix:" in states["fp16, plugin: build and verify"][1]
    assert states["Torch-TensorRT compiles the operator"][0] == "skipped"
    assert "NO ENGINE RAN ON A GPU" in said


@pytest.mark.slow
def test_the_on_target_command_reports_a_step_that_fails(tmp_path):
    code, report, _ = _on_target(
        tmp_path, "--precisions", "fp16", "--target", "nowhere", "--only", "build and verify"
    )
    assert code == 1
    assert [step["state"] for step in report["steps"]] == ["failed"]
    assert "nowhere" in report["steps"][0]["stderr"]


@pytest.fixture
def on_target(monkeypatch):
    """The modules of the on-target command."""
    monkeypatch.syspath_prepend(str(SAMPLES / "on_target"))
    yield SimpleNamespace(
        **{name: importlib.import_module(name) for name in ("on_target", "steps", "run_engine")}
    )
    for name in ("on_target", "steps", "run_engine"):
        del sys.modules[name]


@pytest.mark.parametrize(("where", "ran", "code"), [("engine", "engine", 0), ("onnxruntime-cpu", "", 5)])
def test_an_engine_whose_graph_alone_was_verified_did_not_run(on_target, where, ran, code):
    said = json.dumps({"verification": {"verified_on": where}})
    step = on_target.steps.Step("build", (sys.executable, "-c", f"print({said!r})"), "engine")
    entry = on_target.on_target.run(step)
    assert (entry["state"], entry["ran_on_gpu"]) == ("passed", ran)
    assert on_target.on_target.verdict([entry], [step]) == code


def test_kernels_that_pass_are_no_engine_that_ran(on_target):
    kernels = on_target.steps.Step("kernels", (sys.executable, "-c", "pass"), "kernels")
    engine = on_target.steps.Step("engine", (sys.executable, "-c", "raise SystemExit(5)"), "engine")
    entries = [on_target.on_target.run(step) for step in (kernels, engine)]
    assert [entry["state"] for entry in entries] == ["passed", "skipped"]
    assert on_target.on_target.verdict(entries, [kernels, engine]) == 5
    assert on_target.on_target.verdict(entries[:1], [kernels]) == 0, "where only kernels were asked for"


@pytest.mark.slow
def test_a_step_without_end_ends_with_what_it_started(on_target, tmp_path):
    source = (
        "import pathlib, subprocess, sys, time\n"
        "helper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(helper.pid))\n"
        "time.sleep(60)\n"
    )
    pid = tmp_path / "pid"
    step = on_target.steps.Step("hangs", (sys.executable, "-c", source, str(pid)), timeout_s=2)
    entry = on_target.on_target.run(step)
    assert (entry["state"], entry["exit_code"], entry["stderr"]) == ("failed", 124, "timeout after 2 s")
    assert entry["seconds"] < 15
    for _ in range(50):
        if not alive(int(pid.read_text())):
            return
        time.sleep(0.1)
    raise AssertionError("what the step started still runs")


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_every_option_of_the_steps_exists(on_target, tmp_path, target):
    options = SimpleNamespace(
        work=tmp_path,
        target=target,
        weights=tmp_path / "w.pt",
        frames=tmp_path,
        calib=tmp_path,
        precisions=["fp16", "int8"],
    )
    steps = on_target.steps.plan(options)
    exports = [step.command[3:] for step in steps if "cli.export" in " ".join(step.command)]
    forms = {"tensorrt": 1, "tensorrt-rtx": 2}[target]
    assert len(exports) == 2 * forms + 1
    for arguments in exports:
        parsed = export.parser().parse_args(list(arguments))
        assert (parsed.calib is None) == (parsed.engine == "fp16")
        assert parsed.plugin is not None or parsed.plugin_library is not None
    for step in steps:
        if step.command[1] == "-m":
            assert importlib.util.find_spec(step.command[2]) is not None
            assert step.command[3] == "--json"
    accepted = inspect.signature(imp_trt.Segmenter).parameters
    assert "graph" in accepted, "run_engine passes it"


def test_an_engine_that_is_not_captured_is_noticed(on_target, monkeypatch, tmp_path):
    warning = "engine runs without a CUDA graph of its own: %s"
    assert warning in inspect.getsource(engine_core), "what the backend says"

    def answers(path, frames):
        logging.getLogger("imp_trt.backends.engine_core").warning(
            warning, "cudaErrorStreamCaptureInvalidated"
        )
        return {}

    monkeypatch.setattr(on_target.run_engine, "answers", answers)
    found, said = on_target.run_engine.answers_and_warnings(tmp_path, [])
    assert found == {}
    assert said == [warning % "cudaErrorStreamCaptureInvalidated"]


def test_the_engine_that_was_built_last_is_run(on_target, tmp_path):
    """By name an engine of another target, left by an earlier run, would come first."""
    old, new = tmp_path / "a.fp16.tensorrt-rtx.engine", tmp_path / "a.fp16.tensorrt.engine"
    for seconds, path in enumerate((old, new), 1):
        path.touch()
        os.utime(path, (seconds, seconds))
    assert on_target.run_engine.newest_engine(tmp_path) == new
    with pytest.raises(DependencyMissing, match="no engine in"):
        on_target.run_engine.newest_engine(tmp_path / "none")


def test_a_selection_of_no_step_is_an_error(on_target, tmp_path, capsys):
    """It said that a report was written."""
    arguments = ["--only", "kernals", "-o", str(tmp_path / "r.json"), "--work", str(tmp_path / "work")]
    with pytest.raises(SystemExit):
        on_target.on_target.main(arguments)
    assert "--only kernals: no step has it" in capsys.readouterr().err
    arguments += ["--minutes", "1", "--out", str(tmp_path / "out")]
    assert on_target.on_target.main(arguments) == 2
    assert "--only kernals: expected part of the name of a step" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

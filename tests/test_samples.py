"""Every sample runs."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from tests.gpu.conftest import missing
from tests.support import tiny

SAMPLES = Path(__file__).resolve().parents[1] / "samples"


def test_segment_image(tmp_path, monkeypatch, capsys):
    artifact = tiny.artifact(tmp_path)
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), tiny.frame())
    monkeypatch.setattr(sys, "argv", ["segment_image.py", str(artifact), str(picture)])
    runpy.run_path(str(SAMPLES / "segment_image.py"), run_name="__main__")
    for suffix in (".overlay.png", ".classes.png", ".json"):
        assert (tmp_path / f"photo{suffix}").stat().st_size > 0
    assert capsys.readouterr().out


def test_operator_in_a_foreign_network():
    reached = runpy.run_path(str(SAMPLES / "operator_in_your_network.py"))["main"]()
    assert reached > 0


@pytest.mark.parametrize("path", sorted(SAMPLES.rglob("*.py")), ids=lambda p: p.stem)
def test_samples_stay_short_enough_to_copy(path):
    assert len(path.read_text().splitlines()) < 150


def _on_target(tmp_path, *arguments):
    """The on-target command on this machine: exit code, report, what it printed."""
    report = tmp_path / "report.json"
    command = [sys.executable, str(SAMPLES / "on_target" / "on_target.py"), "-o", str(report), "--work"]
    done = subprocess.run(
        [*command, str(tmp_path / "work"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=SAMPLES.parent,
    )
    return done.returncode, json.loads(report.read_text()), done.stdout + done.stderr


@pytest.mark.skipif(missing() is None, reason="has a GPU; run samples/on_target itself")
def test_the_on_target_command_skips_with_reasons_where_there_is_no_gpu(tmp_path):
    code, report, said = _on_target(tmp_path, "--precisions", "fp16")
    states = {step["name"]: (step["state"], step["stderr"]) for step in report["steps"]}
    assert code == 5, said
    assert report["complete"]
    assert "failed" not in {state for state, _ in states.values()}, said
    assert states["machine"][0] == "passed"
    assert states["fp16: build and verify"][0] == "skipped"
    assert "Fix:" in states["fp16: build and verify"][1]
    assert states["Torch-TensorRT compiles the operator"][0] == "skipped"
    assert "NOTHING RAN ON A GPU" in said


def test_the_on_target_command_reports_a_step_that_fails(tmp_path):
    code, report, _ = _on_target(
        tmp_path, "--precisions", "fp16", "--target", "nowhere", "--only", "build and verify"
    )
    assert code == 1
    assert [step["state"] for step in report["steps"]] == ["failed"]
    assert "nowhere" in report["steps"][0]["stderr"]

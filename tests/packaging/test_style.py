# SPDX-License-Identifier: Apache-2.0
"""What a reviewer would otherwise have to say by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("imp_trt", "export", "train", "plugins", "research")


@pytest.mark.lint
@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=lambda c: c[0])
def test_ruff(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.lint
@pytest.mark.slow
def test_mypy_at_the_root():
    """Strict, and it sees the linked folders: an error planted there must be found."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sources = [p for f in FOLDERS for p in (ROOT / f).rglob("*.py")]
    checked = re.search(r"no issues found in (\d+) source files", done.stdout)
    assert checked is not None
    assert int(checked[1]) >= len(sources)


@pytest.mark.lint
@pytest.mark.slow
def test_pyright_at_the_root():
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert not report["generalDiagnostics"], [
        f"{d['file']}:{d['range']['start']['line'] + 1}: {d['message']}" for d in report["generalDiagnostics"]
    ]
    folders = (*FOLDERS, "samples")
    sources = [p for folder in folders for p in (ROOT / folder).rglob("*.py")]
    assert report["summary"]["filesAnalyzed"] >= len(sources)


MISUSE = """
import cv2, numpy as np, torch
from PIL import Image
import imp_trt
from imp_trt.video import open_source

segmenter, engine = imp_trt.Segmenter(""), imp_trt.Engine("")
frame = np.zeros((2, 2, 3), np.uint8)
segmenter.run(frame)
segmenter.run(torch.from_numpy(frame))
segmenter.run(Image.open(""))
segmenter.run(imp_trt.Nv12Frame(frame))
segmenter.run_batch([frame, torch.from_numpy(frame)])
segmenter.stream(open_source(""))
segmenter.stream([frame])
engine.run({"a": frame, "b": torch.from_numpy(frame)})
segmenter.run("frame.jpg")  # wrong
segmenter.run([frame])  # wrong
segmenter.run(None)  # wrong
segmenter.stream(["frame.jpg"])  # wrong
engine.run({"a": [1]})  # wrong
"""


@pytest.mark.lint
@pytest.mark.slow
def test_type_checkers_see_what_is_no_frame(tmp_path):
    pytest.importorskip("PIL")
    path = tmp_path / "misuse.py"
    path.write_text(MISUSE)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {int(line) for line in re.findall(r"misuse\.py:(\d+): error: ", done.stdout)}
    lines = MISUSE.splitlines()
    assert found == {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}, done.stdout


def test_every_relative_link_in_the_documents_leads_somewhere():
    broken = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("*/**/*.md")]:
        if ".venv" in page.parts:
            continue
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / link).exists():
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken


def test_version_is_stated_once_for_package_and_project():
    import imp_trt

    assert f'\nversion = "{imp_trt.__version__}"\n' in (ROOT / "pyproject.toml").read_text()
    assert f"[{imp_trt.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {imp_trt.__version__}\n" in (ROOT / "CITATION.cff").read_text()

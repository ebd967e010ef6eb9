# SPDX-License-Identifier: Apache-2.0
"""The commands in the documents work."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import cv2
import pytest

from tests.support import tiny

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "train/README.md",
    "CONTRIBUTING.md",
    "samples/on_target/README.md",
    "docs/on_device.md",
)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


# Command -> module, from the entry points.
MODULES = dict(re.findall(r'^(imp-[\w-]+) = "([\w.]+):main"$', (ROOT / "pyproject.toml").read_text(), re.M))


def commands() -> list[str]:
    found = [block.replace("\\\n", "") for page in PAGES for block in blocks(page, "bash")]
    lines = [line for block in found for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith("imp-")]


def test_there_are_commands_to_check():
    assert len(commands()) >= 8


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_in_the_documents_parses(command):
    name, *arguments = shlex.split(command)
    import_module(MODULES[name]).parser().parse_args(arguments)


def test_the_python_examples_run(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    tiny.artifact(tmp_path / "out", name="model.fp32.onnx")
    cv2.imwrite(str(tmp_path / "street.jpg"), tiny.frame(120, 200))
    monkeypatch.chdir(tmp_path)
    import torch

    space: dict[str, object] = {
        "boxes": torch.tensor([[[10.0, 10, 500, 300]]]),
        "scores": torch.ones(1, 1),
        "labels": torch.zeros(1, 1, dtype=torch.int64),
        "masks": torch.ones(1, 1, 28, 28),
    }
    found = blocks("README.md", "python")
    assert len(found) == 3
    for code in found:
        # No engine runs without a GPU; the calls are the same.
        code = code.replace("model.fp16.tensorrt-rtx.engine", "model.fp32.onnx")
        exec(compile(code, "README.md", "exec"), space)
    assert cv2.imread("overlay.png").shape == (120, 200, 3)
    assert tuple(space["canvas"].shape) == (1, 8, 256, 512)


def test_ci_runs_the_test_command_of_the_readme():
    (test,) = re.findall(r"<!-- tests -->\n```bash\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "pytest" in test
    assert "README.md" in (ROOT / ".ci" / "run").read_text()

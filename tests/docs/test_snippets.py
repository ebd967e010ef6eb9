# SPDX-License-Identifier: Apache-2.0
"""Commands and programs in the documents work, or say what they need."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import cv2
import pytest

from imp_trt.__main__ import COMMANDS
from tests.docs.snippets import NAMED, NEEDS, ROOT, Block, blocks, documents, run_pages
from tests.support import tiny
from tests.support.clips import write_clip

BLOCKS = [block for page in documents() for block in blocks(page)]
RUN = [block for page in run_pages() for block in blocks(page) if block.needs is None]


def _commands() -> list[str]:
    lines = [line for block in BLOCKS if block.language == "bash" for line in block.lines]
    found = [re.sub(r"^\S*/(?=imp-\w+( |$))", "", line) for line in lines]
    return sorted({line for line in found if re.match(r"imp-\w+( |$)", line)})


def test_there_is_something_to_check():
    assert len(_commands()) >= 45
    assert len({block.page for block in RUN}) >= 8
    assert sum(block.language == "python" for block in RUN) >= 6


@pytest.mark.parametrize("command", _commands())
def test_every_command_in_the_documents_parses(command):
    name, *arguments = shlex.split(command)
    import_module(COMMANDS[name]).parser().parse_args(arguments)


def test_markers_are_known():
    unknown = {b.marker for b in BLOCKS} - {None, *NAMED, *(f"needs: {name}" for name in NEEDS)}
    assert not unknown, "tests/docs/snippets.py lists what a block may need"


def test_blocks_have_a_language_that_says_what_they_are():
    known, pages = {"bash", "python", "json", "text"}, set(run_pages())
    assert not [(b.page, b.language) for b in BLOCKS if b.page in pages and b.language not in known]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """What the documents name: weights, an artifact, a video, an image, results as JSON Lines."""
    from imp_trt.models import save_checkpoint
    from tests.support.networks import detecting_network, small_config

    folder = tmp_path_factory.mktemp("newcomer")
    network = detecting_network(small_config())
    for name in ("samples/weights/camvid_imp.safetensors", "model.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(folder / name, network, {})
    (folder / "out").mkdir()
    tiny.artifact(folder / "out", name="camvid.fp32.onnx")
    write_clip(folder / "drive.mp4", frames=10, size=(96, 128))
    cv2.imwrite(str(folder / "street.jpg"), tiny.frame(120, 200))
    (folder / "drive.jsonl").write_text('{"time_s": 0, "instances": [{"class": "Car", "box": [0, 0, 9, 9]}]}')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({b.page for b in RUN if b.language == "python"}))
def test_python_blocks_run(page, workspace, monkeypatch):
    """The blocks of a page share their names, as if they were typed one after the other."""
    import torch

    monkeypatch.chdir(workspace)
    space: dict[str, object] = {}
    if page == "README.md":  # its second block says that these are the detections of a network of yours
        space |= {
            "boxes": torch.tensor([[[10.0, 10, 500, 300]]]),
            "scores": torch.ones(1, 1),
            "labels": torch.zeros(1, 1, dtype=torch.int64),
            "masks": torch.ones(1, 1, 28, 28),
        }
    for block in RUN:
        if block.page == page and block.language == "python":
            exec(compile(block.code, page, "exec"), space)
    if page == "README.md":
        assert cv2.imread("overlay.png").shape == (120, 200, 3)
        assert tuple(space["canvas"].shape) == (1, 8, 256, 512)


SHELL = sorted({line for block in RUN if block.language == "bash" for line in block.lines})


@pytest.mark.slow
def test_shell_commands_run(workspace, monkeypatch, capfd, one_thread):
    """Each once, exports first: the others read what they write."""
    monkeypatch.chdir(workspace)
    for folder in ("samples/triton",):
        (workspace / folder).parent.mkdir(exist_ok=True)
        (workspace / folder).symlink_to(ROOT / folder)
    order = {"imp-export": 0}
    for line in sorted(SHELL, key=lambda line: order.get(line.split()[0], 1)):
        name, *arguments = shlex.split(line)
        if "--track" in arguments and find_spec("trackers") is None:
            continue  # the tests of the lowest versions go without it
        if name == "imp-doctor":  # says what is missing, with exit code 5
            assert import_module(COMMANDS[name]).main(arguments) in (0, 5)
        elif name in COMMANDS:
            assert import_module(COMMANDS[name]).main(arguments) == 0, f"{line}\n{capfd.readouterr().err}"
        elif name == "python":
            subprocess.run([sys.executable, *arguments], check=True, env={"PYTHONPATH": str(ROOT)})
        else:
            pytest.fail(f"{line}: a test cannot run it; mark its block with <!-- needs: ... -->")
        capfd.readouterr()


def test_ci_runs_the_test_command_of_the_readme():
    (test,) = [block for block in blocks("README.md") if block.marker == "tests"]
    assert "pytest" in test.code
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_the_readme_fits_on_a_few_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_blocks_are_found_with_their_markers(tmp_path, monkeypatch):
    import tests.docs.snippets as snippets

    (tmp_path / "x.md").write_text(
        "<!-- needs: gpu -->\n```bash\nimp-doctor  # a\n```\n\n    ```python\n    x = 1\n    ```\n"
    )
    monkeypatch.setattr(snippets, "ROOT", tmp_path)
    shell, python = snippets.blocks("x.md")
    assert (shell.needs, shell.lines) == ("gpu", ["imp-doctor"])
    assert python == Block("x.md", "python", "x = 1\n", None)
    assert Path(ROOT).is_dir()

# SPDX-License-Identifier: Apache-2.0
"""Outputs that a program does not close: what was written is there, and a warning says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from imp_trt.video.sinks import JsonLines, OverlayVideo, PanopticMaps
from tests.support import clips
from tests.support.forks import in_child
from tests.video.serve.made import segmented

NAMES = ("new.mp4", "new.mkv", "new.avi", "old.mp4", "new.jsonl", "old.jsonl", "maps")

LEFT_OPEN = """
import os, sys, threading
from pathlib import Path
from imp_trt.video.sinks import JsonLines, OverlayVideo, PanopticMaps
from tests.video.serve.made import segmented
from tests.video.test_unclosed import write
folder = Path(sys.argv[1])
"""


def write(folder: Path) -> list[object]:
    """Ten frames to outputs that are not closed."""
    videos = [OverlayVideo(folder / name, 30) for name in NAMES if name.endswith(("mp4", "mkv", "avi"))]
    lines = [JsonLines(folder / name) for name in NAMES if name.endswith("jsonl")]
    opened = [*videos, *lines, PanopticMaps(folder / "maps")]
    for index in range(10):
        for sink in opened:
            sink.write(segmented(index))
    return [*opened]


def check(folder: Path, warnings: str) -> None:
    """All but what would have replaced an earlier file is complete."""
    assert [clips.played(folder / name) for name in NAMES[:3]] == [10, 10, 10]
    assert (folder / "old.mp4").read_text() == (folder / "old.jsonl").read_text() == "earlier"
    assert len((folder / "new.jsonl").read_text().splitlines()) == 10
    assert len(json.loads((folder / "maps" / "panoptic.json").read_text())["annotations"]) == 10
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert not list(folder.rglob(".*"))
    for name in NAMES:
        assert (f"{name} was not closed" in warnings or f"{name} were not" in warnings) == (
            name != "new.jsonl"
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("old.mp4", "old.jsonl"):
        (tmp_path / name).write_text("earlier")
    return tmp_path


def test_outputs_that_are_dropped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = write(folder)
    assert in_child(opened.clear) == 0  # they are the parent's
    opened.clear()
    check(folder, caplog.text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "opened = write(folder)",
        "opened = []\nthread = threading.Thread(target=lambda: opened.append(write(folder)))\nthread.start()",
    ],
)
def test_outputs_that_are_open_when_the_process_ends(folder: Path, program: str) -> None:
    code = LEFT_OPEN + program
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    check(folder, done.stderr)

# SPDX-License-Identifier: Apache-2.0
"""A run in a process of its own: Ctrl-C and a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from imp_trt.video import open_source
from tests.support import tiny

CHILD = """
    import resource, signal, sys, threading, time
    import numpy as np
    from imp_trt.segmenter import Segmenter
    from imp_trt.video import run_pipeline
    from imp_trt.video.sinks import JsonLines, OverlayVideo
    from imp_trt.video.sources import Frame

    def endless():
        index = 0
        while True:
            yield Frame(np.zeros((64, 96, 3), np.uint8), index, str(index), None)
            index += 1

    def tell(done, result):
        if done == 3:
            print("running", flush=True)

    segmenter = Segmenter(sys.argv[1], threads=1)
    if sys.argv[3] == "full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    sinks = [JsonLines(sys.argv[2] + "/r.jsonl"), OverlayVideo(sys.argv[2] + "/o.mp4", 25)]
    try:
        run_pipeline(segmenter, endless(), sinks, on_frame=tell)
    except BaseException as error:
        names = [t.name for t in threading.enumerate() if t.name.startswith("imp-trt")]
        print(type(error).__name__, error, names)
"""


def _child(tmp_path: Path, mode: str) -> subprocess.Popen[str]:
    (tmp_path / "out").mkdir()
    artifact = tiny.artifact(tmp_path)
    argv = [sys.executable, "-c", textwrap.dedent(CHILD), str(artifact), str(tmp_path / "out"), mode]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def test_ctrl_c_in_a_child_process(tmp_path: Path) -> None:
    with _child(tmp_path, "endless") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        begin = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=20)
    assert out == "KeyboardInterrupt  []\n"
    assert child.returncode == 0
    assert time.monotonic() - begin < 4
    assert sorted(os.listdir(tmp_path / "out")) == ["o.mp4", "r.jsonl"]
    with open_source(tmp_path / "out" / "o.mp4") as source:
        frames = len(list(source))
    assert frames == len((tmp_path / "out" / "r.jsonl").read_text().splitlines()) >= 3


def test_a_full_disk_in_a_child_process(tmp_path: Path) -> None:
    with _child(tmp_path, "full") as child:
        out, _ = child.communicate(timeout=20)
    assert out.splitlines()[-1].startswith("OutputError")
    assert out.endswith(" []\n")
    lines = (tmp_path / "out" / "r.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(len(lines)))
    assert len(lines) > 3

# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime sends nothing, and starts no more threads than there are CPUs for them."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import onnx
import pytest

from imp_trt import Segmenter
from imp_trt.backends import open_backend, runners
from imp_trt.backends.onnxruntime import open_session
from imp_trt.backends.onnxruntime_providers import OrtDevice
from imp_trt.errors import ArtifactError
from tests.support import tiny

ROOT = Path(__file__).resolve().parents[2]

RUN = """
import os, sys, time
import numpy as np, imp_trt
frame = np.zeros((64, 96, 3), np.uint8)
def tasks(): return len(os.listdir("/proc/self/task"))
def sockets():
    links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.lexists(link) and "socket" in os.readlink(link)]
before = tasks()
segmenter = imp_trt.Segmenter(sys.argv[1], threads=int(sys.argv[2]) or None)
segmenter.run(frame)
time.sleep(float(sys.argv[3]))
assert not sockets(), sockets()
print(tasks() - before)
"""


def run(path: Path, home: Path, threads: int = 0, wait: float = 0, **environment: str) -> int:
    """Threads that a Segmenter starts in a new process whose home folder is `home`."""
    kept = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path), str(threads), str(wait)],
        env={**kept, "HOME": str(home), "TMPDIR": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


@pytest.mark.slow
def test_a_run_leaves_no_file_and_no_connection(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run(tiny.artifact(tmp_path), home, threads=1, wait=0.5)
    assert [p for p in home.rglob("*") if "python" not in p.name.lower()] == []


def test_nothing_is_reported_where_the_home_folder_cannot_be_written(tmp_path: Path) -> None:
    # Telemetry warns there, whatever the session's log level.
    run(tiny.artifact(tmp_path), Path("/proc/no/such/home"), threads=1, TMPDIR=str(tmp_path))


@pytest.mark.parametrize(("value", "kept"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_the_users_own_setting_is_kept(value: str | None, kept: str) -> None:
    program = (
        "import os; from imp_trt.backends.onnxruntime_import import import_onnxruntime as f\n"
        "import sys; f(); print(os.environ['ORT_DISABLE_TELEMETRY'], 'onnxruntime' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    if value is not None:
        environment["ORT_DISABLE_TELEMETRY"] = value
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [kept, "True"]


@pytest.mark.slow
def test_one_place_imports_onnx_runtime() -> None:
    found = []
    folders = ("imp_trt", "export", "train", "plugins", "research", "samples")
    for path in sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        types_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if id(node) not in types_only and any(n.split(".")[0] == "onnxruntime" for n in names):
                found.append(str(path.relative_to(ROOT)))
    assert set(found) == {"imp_trt/backends/onnxruntime_import.py"}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_one_thread_on_one_cpu(tmp_path: Path) -> None:
    path, usable = tiny.artifact(tmp_path), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        assert run(path, tmp_path) == run(path, tmp_path, threads=1)
    finally:
        os.sched_setaffinity(0, usable)


def test_connections_would_be_seen() -> None:
    with socket.socket():
        links = [
            os.readlink(f"/proc/self/fd/{n}")
            for n in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{n}")
        ]
    assert any("socket" in link for link in links)


@pytest.mark.parametrize(
    ("version", "precision", "warned"),
    [("1.29.1", "int8", True), ("1.30.0", "int8", False), ("1.29.1", "fp16", False)],
)
def test_int8_on_a_version_that_rounds_wrongly_is_reported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str,
    precision: str,
    warned: bool,
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "__version__", version)
    path = tiny.artifact(tmp_path, precision=precision)
    with caplog.at_level("WARNING", logger="imp_trt"):
        open_backend(path).close()
    assert ("rounds wrongly" in caplog.text) == warned


@pytest.mark.parametrize("quota", [1, 2])
def test_opencv_keeps_to_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: int) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    monkeypatch.setattr(runners, "usable_cpus", lambda: quota)
    try:
        Segmenter(tiny.artifact(tmp_path)).close()
        assert cv2.getNumThreads() == quota
    finally:
        cv2.setNumThreads(before)


def test_old_versions_do_not_get_to_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    model = tiny.graph()
    open_backend(tiny.artifact(tmp_path)).close()
    tensor = next(t for t in model.graph.initializer if t.name == "boxes_value")
    onnx.external_data_helper.set_external_data(tensor, "/etc/hostname")
    tensor.ClearField("raw_data")
    with pytest.raises(ArtifactError, match="no tensors in other files"):
        open_session(model.SerializeToString(), "x.onnx", 1, OrtDevice())

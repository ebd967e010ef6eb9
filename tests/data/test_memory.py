# SPDX-License-Identifier: Apache-2.0
"""The memory that a process may still use, and files that need more."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from imp_trt.artifacts.reading import read_bounded
from imp_trt.data import memory
from imp_trt.data.files import read_regular
from imp_trt.data.images import read_image
from imp_trt.errors import ArtifactError, DatasetError, SourceError
from imp_trt.train.datasets.coco import open_coco
from imp_trt.video import open_source

GB = 1 << 30
MEMINFO = "MemTotal: 33554432 kB\nMemAvailable: 8388608 kB\nHugePages_Total: 0\n"


def process(folder: Path, cgroup: str, kind: str, controller: str) -> Path:
    """A folder as /proc/self, of a system with 8 GB available and a process of one page."""
    proc = folder / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(cgroup)
    mount = f"31 23 0:28 / {folder / 'cgroup'} rw,relatime - {kind} {kind} rw{controller}\n"
    (proc / "mountinfo").write_text(mount)
    (proc / "statm").write_text("1 1 1 1 0 1 0\n")
    (proc.parent / "meminfo").write_text(MEMINFO)
    return proc


@pytest.mark.parametrize(
    ("outer", "inner", "free"), [(4 * GB, "max", 2 * GB), ("max", 6 * GB, 4 * GB), ("max", "max", 8 * GB)]
)
def test_cgroups_of_version_2(tmp_path: Path, outer: object, inner: object, free: int) -> None:
    proc = process(tmp_path, "0::/a/b\n", "cgroup2", "")
    for folder, limit in (("a", outer), ("a/b", inner)):
        group = tmp_path / "cgroup" / folder
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{3 * GB}\n")
        (group / "memory.stat").write_text(f"anon {2 * GB}\ninactive_file {GB}\n")
    assert memory.free_memory(proc) == free


@pytest.mark.parametrize(("limit", "free"), [(3 * GB, 2 * GB), (0x7FFFFFFFFFFFF000, 8 * GB)])
def test_cgroups_of_version_1(tmp_path: Path, limit: int, free: int) -> None:
    proc = process(tmp_path, "3:cpu:/a\n4:memory:/a\n", "cgroup", ",memory")
    group = tmp_path / "cgroup" / "a"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory.usage_in_bytes").write_text(f"{2 * GB}\n")
    (group / "memory.stat").write_text(f"cache {GB}\ntotal_inactive_file {GB}\n")
    assert memory.free_memory(proc) == free


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    assert memory.free_memory(tmp_path / "proc" / "self") is None


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_process(limit: str) -> None:
    program = (
        f"import resource; resource.setrlimit(resource.{limit}, ({GB}, {GB}))\n"
        "from imp_trt.data.memory import free_memory\nprint(free_memory())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert GB // 2 < int(done.stdout) < GB


def test_a_large_file_is_compared_with_the_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.onnx"
    with file.open("wb") as opened:
        opened.truncate(1 << 25)
    assert len(read_regular(file)) == 1 << 25
    monkeypatch.setattr(memory, "free_memory", lambda: 1 << 24)
    with pytest.raises(OSError, match="too little memory for its 33,554,432 bytes") as caught:
        read_regular(file)
    assert caught.value.errno == errno.ENOMEM
    with pytest.raises(ArtifactError, match="expected enough memory, got too little") as typed:
        read_bounded(file, "ONNX file", 1 << 30)
    assert typed.value.fix == "free memory, or raise the limit of the process or container"


def test_a_coco_file_is_compared_with_what_it_becomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions = [{"id": i, "segmentation": [[float(k) for k in range(100)]]} for i in range(10_000)]
    (tmp_path / "a.json").write_text(json.dumps({"images": [], "categories": [], "annotations": regions}))
    size = (tmp_path / "a.json").stat().st_size
    assert size < 1 << 24
    monkeypatch.setattr(memory, "free_memory", lambda: 2 * size)
    with pytest.raises(DatasetError, match="too little memory for what is read from its") as caught:
        open_coco(f"{tmp_path}/a.json,{tmp_path}", "all")
    assert caught.value.fix is not None
    assert "free memory" in caught.value.fix


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_an_image_is_compared_with_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: type[np.generic]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2400, 2400, 3), depth))
    monkeypatch.setattr(memory, "free_memory", lambda: 1 << 24)
    with pytest.raises(SourceError, match="enough memory, got too little memory for its pixels") as caught:
        read_image(tmp_path / "a.png")
    assert caught.value.fix == memory.MEMORY_FIX


def test_an_image_for_which_a_decoder_gets_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 60, 3), np.uint8))

    def imdecode(*_: object) -> object:
        return cv2.copyMakeBorder(np.zeros((1, 1), np.uint8), 0, (1 << 31) - 8, 0, 1 << 24, 0)

    monkeypatch.setattr(cv2, "imdecode", imdecode)
    with pytest.raises(SourceError, match="expected enough memory, got too little") as caught:
        read_image(tmp_path / "a.png")
    assert caught.value.fix == memory.MEMORY_FIX


def test_a_video_that_does_not_open_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mkv").write_bytes(b"no video" * 100)
    with pytest.raises(SourceError, match="expected a video stream that can be decoded"):
        open_source(tmp_path / "a.mkv")
    monkeypatch.setattr(memory, "free_memory", lambda: 1 << 24)
    with pytest.raises(SourceError, match="expected enough memory to decode it, got too little"):
        open_source(tmp_path / "a.mkv")


def test_the_estimate_is_below_what_python_uses() -> None:
    program = (
        "import json, tracemalloc\nfrom imp_trt.train.datasets.reading import parsed_bytes\n"
        "regions = [{'id': i, 'segmentation': [[i + k / 8 for k in range(60)]]} for i in range(2000)]\n"
        "data = json.dumps({'annotations': regions}).encode()\ntracemalloc.start()\n"
        "kept = json.loads(data.decode())\nused = tracemalloc.get_traced_memory()[1]\n"
        "print(parsed_bytes(data) / used)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0.6 < float(done.stdout) < 1


def test_no_limit_is_taken_for_one() -> None:
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        pytest.skip("this process has a limit of its address space")
    free = memory.free_memory()
    assert free is None or free > 1 << 24

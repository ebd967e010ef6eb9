# SPDX-License-Identifier: Apache-2.0
"""Artifacts of two files: one manifest, and either both files of one export or none."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from imp_trt.artifacts.artifact import canvas_path, manifest_path
from imp_trt.artifacts.canvas_part import CanvasPart
from imp_trt.artifacts.reading import read_artifact, read_manifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.data import files
from imp_trt.errors import ArtifactError, InvalidInput, OutputError
from tests.support import engines, tiny

SHAPE = (1, 2, 16, 24)


def write(folder: Path, content: bytes = b"new", golden: bytes | None = None) -> Path:
    manifest = tiny.manifest(canvas_part=CanvasPart(SHAPE, verification={"verified_on": None}))
    return write_artifact(folder / "a.fp32.onnx", content * 1000, manifest, golden, content * 500)


def test_both_files_are_in_one_manifest(tmp_path: Path) -> None:
    path = write(tmp_path, golden=b"golden")
    names = ["a.fp32.canvas.onnx", "a.fp32.golden.npz", "a.fp32.onnx", "a.fp32.onnx.json"]
    assert sorted(os.listdir(tmp_path)) == names
    found = read_artifact(path, canvas=True)
    assert found.canvas == b"new" * 500
    part = found.manifest.canvas_part
    assert part is not None
    assert part.sha256 == hashlib.sha256(b"new" * 500).hexdigest()
    assert (part.spec.name, part.spec.dtype, part.spec.shape) == ("canvas", "float32", SHAPE)
    assert read_manifest(path) == found.manifest
    assert read_artifact(path).canvas is None, "read only on request"


def test_manifests_without_a_part_are_as_before(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "a.fp32.onnx", b"x", tiny.manifest())
    assert "canvas_part" not in json.loads(manifest_path(path).read_text())
    assert read_artifact(path, canvas=True).canvas is None


def test_files_that_the_new_artifact_does_not_have_are_removed(tmp_path: Path) -> None:
    path = write(tmp_path, golden=b"golden")
    write_artifact(path, b"x", tiny.manifest())
    assert sorted(os.listdir(tmp_path)) == ["a.fp32.onnx", "a.fp32.onnx.json"]


def test_files_that_are_not_the_old_artifacts_stay(tmp_path: Path) -> None:
    path = write(tmp_path, golden=b"golden")
    for name in ("a.fp32.canvas.onnx", "a.fp32.golden.npz"):
        (tmp_path / name).write_bytes(b"of somebody else")
    write_artifact(path, b"x", tiny.manifest())
    assert len(os.listdir(tmp_path)) == 4


def test_golden_frames_that_another_artifact_shares_stay(tmp_path: Path) -> None:
    path = write(tmp_path, golden=b"golden")
    write_artifact(path.with_suffix(".engine"), b"plan", engines.manifest(), b"golden")
    write_artifact(path, b"x", tiny.manifest())
    assert "a.fp32.golden.npz" in os.listdir(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_damaged_part_is_rejected_and_the_whole_still_runs(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path)
    place = canvas_path(path)
    if damage == "missing":
        place.unlink()
    else:
        data = bytearray(place.read_bytes())
        data[7] ^= 1
        place.write_bytes(data if damage == "flipped" else data[:-1])
    with pytest.raises(ArtifactError, match="canvas part") as caught:
        read_artifact(path, canvas=True)
    assert "imp-export" in str(caught.value)
    assert read_artifact(path).payload == b"new" * 1000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", [1, 2, 16]),
        ("shape", [1, 3, 16, 24]),
        ("shape", [2, 2, 16, 24]),
        ("shape", [1, 2, 65, 24]),
        ("shape", [1, 2, True, 24]),
        ("shape", "1x2x16x24"),
        ("sha256", ""),
        ("sha256", "0" * 63),
        ("verification", []),
        ("engine", {}),
        ("other", 1),
    ],
)
def test_malformed_parts_are_rejected(tmp_path: Path, field: str, value: object) -> None:
    path = write(tmp_path)
    data = json.loads(manifest_path(path).read_text())
    data["canvas_part"][field] = value
    manifest_path(path).write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=r"canvas_part|engine\."):
        read_manifest(path)


def test_an_entry_without_its_bytes_and_bytes_without_their_entry_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="canvas part"):
        write_artifact(tmp_path / "a.onnx", b"x", tiny.manifest(), canvas=b"y")
    with pytest.raises(InvalidInput, match="canvas part"):
        write_artifact(tmp_path / "a.onnx", b"x", tiny.manifest(canvas_part=CanvasPart(SHAPE)))
    with pytest.raises(InvalidInput, match=r"canvas_part\.engine"):
        tiny.manifest(canvas_part=CanvasPart(SHAPE, engine=engines.info()))
    assert os.listdir(tmp_path) == []


def test_an_artifact_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    other = write_artifact(tmp_path / "a.fp32.canvas.onnx", b"other", tiny.manifest())
    with pytest.raises(OutputError, match="an artifact of its own"):
        write(tmp_path)
    assert read_artifact(other).payload == b"other"
    assert len(os.listdir(tmp_path)) == 2


def test_a_part_is_not_overwritten_by_an_artifact_of_its_name(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(OutputError, match=f"the canvas part of {path}"):
        write_artifact(canvas_path(path), b"other", tiny.manifest())
    assert read_artifact(path, canvas=True).canvas == b"new" * 500
    alone = write_artifact(tmp_path / "b.onnx", b"whole", tiny.manifest())
    assert read_artifact(write_artifact(canvas_path(alone), b"other", tiny.manifest())).payload == b"other"


def test_a_part_is_not_taken_for_an_artifact(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ArtifactError, match=rf"a canvas part.*pass {path}"):
        read_artifact(canvas_path(path))


def killed_at(number: int, folder: Path) -> None:
    """Write the artifact in a process that is killed before the given rename."""
    process = os.fork()
    if process:
        assert os.waitpid(process, 0)[1] in (signal.SIGKILL, 0)
        return
    try:
        original, calls = os.replace, iter(range(1, 100))

        def killed(*args: Any) -> None:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            original(*args)

        os.replace = killed  # type: ignore[assignment]
        write(folder, b"new", golden=b"golden")
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("number", range(1, 9))
def test_a_killed_writer_leaves_both_files_of_one_export(tmp_path: Path, number: int) -> None:
    path = write(tmp_path, b"old")
    killed_at(number, tmp_path)
    found = read_artifact(path, canvas=True)
    kept = found.payload[:3]
    assert kept == (b"old" if number <= 4 else b"new")
    assert (found.payload, found.canvas) == (kept * 1000, kept * 500)
    files._next_scan.clear()  # a slow scan is not repeated at once
    write(tmp_path, b"again")
    found = read_artifact(path, canvas=True)
    assert (found.payload, found.canvas) == (b"again" * 1000, b"again" * 500)
    assert sorted(set(os.listdir(tmp_path)) - {"a.fp32.golden.npz"}) == [
        "a.fp32.canvas.onnx",
        "a.fp32.onnx",
        "a.fp32.onnx.json",
    ]


@pytest.mark.slow
def test_readers_never_see_parts_of_two_exports(tmp_path: Path) -> None:
    path = write(tmp_path, b"0")
    done = threading.Event()
    failures: list[object] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not done.is_set():
            try:
                found = read_artifact(path, canvas=True)
                reads += 1
                if found.canvas is None or set(found.payload) != set(found.canvas):
                    failures.append(found)
            except ArtifactError as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(40):
        write(tmp_path, bytes([i]) * 100)
    done.set()
    for reader in readers:
        reader.join(30)
    assert reads > 20
    assert failures == []

# SPDX-License-Identifier: Apache-2.0
"""Only regular files are opened, whatever a path from outside names."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from imp_trt.artifacts.artifact import manifest_path
from imp_trt.artifacts.reading import read_artifact, read_manifest
from imp_trt.data.files import (
    make_folder,
    open_regular,
    read_regular,
    temporary_folder,
    unwritable,
    write_atomically,
)
from imp_trt.errors import ArtifactError, CheckpointError, DatasetError, ImpTrtError, OutputError
from imp_trt.export.plan import check_writable
from imp_trt.train.datasets import open_dataset
from imp_trt.video.sinks import JsonLines, PanopticMaps
from tests.support import tiny


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))  # the socket's file stays


def to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to(path.with_name("fifo"))


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 << 40)


KINDS = [fifo, bound, to_zero, to_fifo, folder, sparse]


@pytest.mark.parametrize("make", KINDS)
def test_other_kinds_of_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    path = tmp_path / "x"
    make(path)
    for read in (open_regular, read_regular):
        with pytest.raises(OSError, match=r"not a regular file|more than"):
            read(path, 1 << 20)


def test_regular_files_and_links_to_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "b") == read_regular(tmp_path / "a", 7) == b"content"
    with pytest.raises(OSError, match="7 bytes, more than 6"):
        read_regular(tmp_path / "a", 6)


def test_a_file_that_does_not_report_its_size() -> None:
    with pytest.raises(OSError, match="more than 3"):
        read_regular("/proc/self/status", 3)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_paths_that_cannot_exist(name: str) -> None:
    with pytest.raises(OSError, match="not a valid path"):
        read_regular(name)


def _checkpoint(path: Path) -> object:
    from imp_trt.models.checkpoint import load_model

    return load_model(path)


def _json(path: Path) -> object:
    from imp_trt.train.datasets.reading import read_json

    return read_json(path, "anything")


def _state(path: Path) -> object:
    from imp_trt.train.state import read_state

    return read_state(path, "me")


def _backbone(path: Path) -> object:
    from imp_trt.models.efficientnet_lite_weights import read_state

    return read_state(path)


def _identity(path: Path) -> object:
    from imp_trt.train.identity import _weights_digest
    from imp_trt.train.run import Run

    run = SimpleNamespace(checkpoint=None, backbone_weights=path, initial="imagenet")
    return _weights_digest(cast(Run, run))


def _labels(path: Path) -> object:
    from imp_trt.train.datasets.reading import content_digest

    return content_digest({}, [path], [])


def _photos(path: Path) -> object:
    from imp_trt.train.datasets.reading import content_digest

    return content_digest({}, [], [path])


def _log(path: Path) -> object:
    from imp_trt.train.log import TrainingLog

    with TrainingLog(path, 1, 0, {}, quiet=True) as log:
        return log


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    ("name", "read", "error"),
    [
        ("x.onnx", read_artifact, ArtifactError),
        ("x.engine", read_artifact, ArtifactError),
        ("x.safetensors", _checkpoint, CheckpointError),
        ("x.pt", _checkpoint, CheckpointError),
        ("x.json", _json, DatasetError),
        ("state.pt", _state, CheckpointError),
        ("x.pth", _backbone, CheckpointError),
        ("backbone.pth", _identity, CheckpointError),
        ("labels.png", _labels, DatasetError),
        ("photo.jpg", _photos, DatasetError),
        ("stage_one.jsonl", _log, OutputError),
    ],
)
def test_every_reader(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    name: str,
    read: Callable[[Path], object],
    error: type[ImpTrtError],
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    with pytest.raises(error):
        read(tmp_path / name)


@pytest.mark.parametrize("make", KINDS)
def test_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]) -> None:
    monkeypatch.chdir(tmp_path)
    path = tiny.artifact(tmp_path)
    manifest_path(path).unlink()
    make(manifest_path(path))
    with pytest.raises(ArtifactError, match="manifest"):
        read_artifact(path)


LONG = "x" * 300


@pytest.mark.parametrize("name", ["a\0b", LONG])
def test_outputs_that_cannot_exist(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    writers: list[Callable[[], object]] = [
        lambda: write_atomically(path, b""),
        lambda: make_folder(path),
        lambda: JsonLines(path),
        lambda: PanopticMaps(path),
    ]
    if name == LONG:
        writers.append(lambda: check_writable(path / "out.onnx", "output", "choose another"))
    for write in writers:
        with pytest.raises(OutputError):
            write()
    for kind in ("camvid:", "coco:", "coco:a.json,", ""):
        with pytest.raises(DatasetError):
            open_dataset(f"{kind}{path}", "train")


@pytest.mark.parametrize("path", ["", "/", "."])
def test_the_manifest_of_a_path_without_a_name(path: str) -> None:
    with pytest.raises(ArtifactError):
        read_manifest(path)
    with pytest.raises(OutputError):
        write_atomically(path, b"")


def test_no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "_get_default_tempdir", none)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(OutputError, match="set TMPDIR"), temporary_folder("x"):
        pass


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert "TMPDIR" in str(unwritable(tmp_path / "a" / "b.onnx", OSError(28, "No space left on device")))
    assert "TMPDIR" not in str(unwritable(Path("/data/b.onnx"), OSError(28, "No space left on device")))

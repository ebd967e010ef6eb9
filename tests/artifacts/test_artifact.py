# SPDX-License-Identifier: Apache-2.0
"""Artifacts on disk: what is damaged is refused, what is written is whole."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imp_trt.artifacts import artifact as artifact_module
from imp_trt.artifacts.artifact import manifest_path, read_artifact, read_manifest, write_artifact
from imp_trt.errors import ArtifactError, InvalidInput, OutputError
from tests.support import tiny

PAYLOAD = bytes(range(256)) * 40


def write(folder: Path, payload: bytes = PAYLOAD, name: str = "a.fp32.onnx") -> Path:
    return write_artifact(folder / name, payload, tiny.manifest())


def test_round_trip(tmp_path: Path) -> None:
    path = write(tmp_path / "new" / "folder")
    found = read_artifact(path)
    assert found.payload == PAYLOAD == path.read_bytes()
    assert found.manifest.sha256 == hashlib.sha256(PAYLOAD).hexdigest()
    assert found.manifest.created.endswith("+00:00")
    assert found.manifest == read_manifest(path)
    assert sorted(os.listdir(path.parent)) == ["a.fp32.onnx", "a.fp32.onnx.json"]


def test_overwriting_replaces_both(tmp_path: Path) -> None:
    write(tmp_path)
    assert read_artifact(write(tmp_path, b"other")).payload == b"other"
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("kept", [0, 1, 16, 64, len(PAYLOAD) // 4, len(PAYLOAD) // 2, len(PAYLOAD) - 1])
def test_truncated_payload_is_refused(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path)
    path.write_bytes(PAYLOAD[:kept])
    with pytest.raises(ArtifactError, match="sha256") as caught:
        read_artifact(path)
    assert f"{kept} bytes" in str(caught.value)


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    generator = np.random.default_rng(0)
    for position, bit in zip(
        generator.integers(0, len(PAYLOAD), 200), generator.integers(0, 8, 200), strict=True
    ):
        damaged = bytearray(PAYLOAD)
        damaged[position] ^= 1 << int(bit)
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="does not match"):
            read_artifact(path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nothing at this path"):
        read_artifact(tmp_path / "absent.onnx")
    path = write(tmp_path)
    manifest_path(path).unlink()
    with pytest.raises(ArtifactError, match=r"manifest .*nothing at this path.*imp-export"):
        read_artifact(path)


def test_folders_and_pipes_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    for name in ("folder.onnx", "pipe.onnx"):
        with pytest.raises(ArtifactError, match="regular file"):
            read_artifact(tmp_path / name)
    path = write(tmp_path)
    manifest_path(path).unlink()
    os.mkfifo(manifest_path(path))
    with pytest.raises(ArtifactError, match="regular file"):
        read_artifact(path)


@pytest.mark.parametrize("name", ["with\0nul.onnx", "x" * 5000 + ".onnx"])
def test_impossible_names(name: str) -> None:
    with pytest.raises(ArtifactError):
        read_artifact(name)


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        "imp_trt.artifacts.artifact.open_regular", refuse
    )  # permissions do not bind the superuser
    with pytest.raises(ArtifactError, match="Permission denied"):
        read_artifact(path)


def test_a_huge_manifest_is_not_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path)
    with manifest_path(path).open("wb") as file:
        file.truncate(1 << 33)  # sparse: 8 GiB on paper
    with pytest.raises(ArtifactError, match="size"):
        read_artifact(path)


def test_manifest_of_another_kind_or_without_hash(tmp_path: Path) -> None:
    path = write(tmp_path)
    for changes, named in (({"kind": "engine"}, "kind"), ({"sha256": ""}, "sha256")):
        data = json.loads(manifest_path(write(tmp_path)).read_text()) | changes
        manifest_path(path).write_text(json.dumps(data))
        with pytest.raises(ArtifactError, match=named):
            read_artifact(path)


def test_kind_and_suffix_must_agree_when_writing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"\.onnx"):
        write_artifact(tmp_path / "a.engine", PAYLOAD, tiny.manifest())
    with pytest.raises(InvalidInput, match="file name"):
        write_artifact(tmp_path / "a.safetensors", PAYLOAD, tiny.manifest(kind="checkpoint"))
    with pytest.raises(InvalidInput, match="at most"):
        write_artifact(tmp_path / "a.onnx", PAYLOAD, tiny.manifest(verification={"x": "y" * (1 << 20)}))
    assert os.listdir(tmp_path) == []


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.onnx").mkdir()
    for path in (tmp_path / "file" / "a.onnx", tmp_path / "taken.onnx", Path("/proc/none/a.onnx")):
        with pytest.raises(OutputError, match="cannot be written"):
            write_artifact(path, PAYLOAD, tiny.manifest())
    assert sorted(os.listdir(tmp_path)) == ["file", "taken.onnx"]


Fault = Callable[[pytest.MonkeyPatch, BaseException], None]


def _fail_on(module: object, name: str, call: int) -> Fault:
    """Make the call-th call of module.name raise."""

    def plant(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        original = getattr(module, name)
        calls = iter(range(1, 100))

        def faulty(*args: object, **kwargs: object) -> object:
            if next(calls) == call:
                raise error
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, faulty)

    return plant


STAGES = {
    "payload written": _fail_on(artifact_module, "write_and_sync", 1),
    "payload synced": _fail_on(os, "fsync", 1),
    "manifest written": _fail_on(artifact_module, "write_and_sync", 2),
    "manifest synced": _fail_on(os, "fsync", 2),
    "payload in place": _fail_on(os, "replace", 1),
    "between payload and manifest": _fail_on(os, "replace", 2),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize("earlier", [False, True])
def test_interrupted_writes_leave_the_earlier_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException, earlier: bool
) -> None:
    path = tmp_path / "a.fp32.onnx"
    if earlier:
        write(tmp_path, b"earlier")
    expected = OutputError if isinstance(error, OSError) else type(error)
    with monkeypatch.context() as patch:
        STAGES[stage](patch, error)
        with pytest.raises(expected):
            write(tmp_path)
    if earlier:
        assert read_artifact(path).payload == b"earlier"
        assert len(os.listdir(tmp_path)) == 2
    else:
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("earlier", [False, True])
def test_an_interrupt_after_the_exchange_leaves_the_new_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, earlier: bool
) -> None:
    if earlier:
        write(tmp_path, b"earlier")
    replace, calls = os.replace, iter(range(1, 100))

    def late(*args: str) -> None:
        replace(*args)
        if next(calls) == 2:  # the signal arrives when the rename is done
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", late)
        with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
            write(tmp_path)
    assert read_artifact(tmp_path / "a.fp32.onnx").payload == PAYLOAD
    assert len(os.listdir(tmp_path)) == 2


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path, b"earlier")
    with monkeypatch.context() as patch:
        STAGES["between payload and manifest"](patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path)
    assert read_artifact(tmp_path / "a.fp32.onnx").payload == b"earlier"


def test_two_writers_of_one_path_leave_one_whole_winner(tmp_path: Path) -> None:
    payloads = [bytes([i]) * 1000 for i in range(4)]
    failures: list[BaseException] = []

    def work(payload: bytes) -> None:
        try:
            for _ in range(5):
                write(tmp_path, payload)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(p,)) for p in payloads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert read_artifact(tmp_path / "a.fp32.onnx").payload in payloads
    assert len(os.listdir(tmp_path)) == 2

# SPDX-License-Identifier: Apache-2.0
"""Artifacts on disk: what is damaged is rejected, what is written is whole."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_trt.artifacts.artifact import manifest_path
from imp_trt.artifacts.reading import read_artifact, read_manifest
from imp_trt.artifacts.writing import write_artifact, write_manifest
from imp_trt.data import files
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
def test_truncated_payload_is_rejected(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path)
    path.write_bytes(PAYLOAD[:kept])
    with pytest.raises(ArtifactError, match="sha256") as caught:
        read_artifact(path)
    assert f"{kept} bytes" in str(caught.value)


def test_every_flipped_bit_is_rejected(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("read", [read_artifact, read_manifest])
def test_missing_files(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for name in ("absent.onnx", "absent.engine"):
        with pytest.raises(ArtifactError, match=r"^artifact .*nothing at this path. Fix: check the path"):
            read(tmp_path / name)
    path = write(tmp_path)
    manifest_path(path).unlink()
    with pytest.raises(ArtifactError, match=r"manifest .*nothing at this path.*imp-export"):
        read(path)


def test_the_path_of_a_manifest_in_place_of_its_artifact(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ArtifactError, match=r"Fix: pass the artifact, a\.fp32\.onnx$"):
        read_manifest(manifest_path(path))


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

    def fail(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        "imp_trt.artifacts.reading.open_regular", fail
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


@pytest.mark.parametrize(("letters", "expected"), [(77, None), (78, "at most 238 bytes, got 239 bytes")])
def test_the_longest_name(tmp_path: Path, letters: int, expected: str | None) -> None:
    path = tmp_path / f"{'字' * letters}{'' if expected else 'xx'}.onnx"
    if expected is None:
        write_artifact(path, PAYLOAD, tiny.manifest(), golden=b"golden")
        write_artifact(path, PAYLOAD, tiny.manifest(), golden=b"golden")
        assert read_artifact(path).payload == PAYLOAD
    else:
        with pytest.raises(OutputError, match=expected):
            write_artifact(path, PAYLOAD, tiny.manifest())
        assert os.listdir(tmp_path) == []


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
    "manifest written": _fail_on(files, "write_data", 1),
    "manifest synced": _fail_on(os, "fsync", 1),
    "payload written": _fail_on(files, "write_data", 2),
    "payload synced": _fail_on(os, "fsync", 2),
    "manifest ready": _fail_on(os, "replace", 1),
    "payload in place": _fail_on(os, "replace", 2),
}


@pytest.mark.slow
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
@pytest.mark.parametrize(("call", "late"), [(2, True), (3, False), (3, True)])
def test_an_interrupt_after_the_exchange_leaves_the_new_pair(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: int,
    late: bool,
    earlier: bool,
    error: BaseException,
) -> None:
    """Late: the signal arrives when the rename is done."""
    if earlier:
        write(tmp_path, b"earlier")
    replace, calls = os.replace, iter(range(1, 100))

    def interrupted(*args: str) -> None:
        here = next(calls) == call
        if late or not here:
            replace(*args)
        if here:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
            write(tmp_path)
    assert read_artifact(tmp_path / "a.fp32.onnx").payload == PAYLOAD
    assert read_manifest(tmp_path / "a.fp32.onnx").sha256 == hashlib.sha256(PAYLOAD).hexdigest()
    write(tmp_path, b"latest")
    assert read_artifact(tmp_path / "a.fp32.onnx").payload == b"latest"
    assert len(os.listdir(tmp_path)) == 2


def killed_at(call: str, path: Path) -> None:
    """Write the artifact in a process that is killed before the given call of a function."""
    module_name, name, number = call.split()
    module = {"os": os, "files": files}[module_name]
    process = os.fork()
    if process:
        assert os.waitpid(process, 0)[1] == signal.SIGKILL
        return
    try:
        original, calls = getattr(module, name), iter(range(1, 100))

        def killed(*args: Any, **options: Any) -> object:
            if next(calls) == int(number):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(module, name, killed)
        write(path.parent, b"new" * 400_000)
    finally:
        os._exit(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "kept"),
    [
        ("files write_data 1", b"old"),
        ("os fsync 1", b"old"),
        ("files write_data 2", b"old"),
        ("os replace 1", b"old"),
        ("os replace 2", b"old"),
        ("os replace 3", b"new" * 400_000),
        ("os fsync 3", b"new" * 400_000),
    ],
)
@pytest.mark.parametrize("again", [b"again", b"old"])
def test_a_killed_writer_loses_neither_pair_and_leaves_no_litter(
    tmp_path: Path, call: str, kept: bytes, again: bytes
) -> None:
    path = write(tmp_path, b"old")
    for _ in range(2):
        killed_at(call, path)
        found = read_artifact(path)
        assert found.payload == kept
        assert found.manifest == read_manifest(path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 4_000_000
    descriptor = files._create_unnamed(tmp_path)
    if call.startswith("files") and descriptor is not None:
        os.close(descriptor)
        assert not list(tmp_path.glob(".*.onnx"))  # what is being written has no name
    files._next_scan.clear()  # a slow scan is not repeated at once
    write(tmp_path, again)
    assert read_artifact(path).payload == again
    assert sorted(os.listdir(tmp_path)) == ["a.fp32.onnx", "a.fp32.onnx.json"]


def test_the_first_export_that_is_killed_between_the_renames_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.fp32.onnx"
    killed_at("os replace 3", path)
    assert not manifest_path(path).exists()
    assert read_artifact(path).payload == b"new" * 400_000
    assert read_manifest(path).sha256 == hashlib.sha256(b"new" * 400_000).hexdigest()


@pytest.mark.slow
def test_readers_never_see_a_mixed_pair(tmp_path: Path) -> None:
    path = write(tmp_path, b"0" * 200_000)
    done = threading.Event()
    failures: list[Exception] = []
    reads: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            try:
                reads.append(read_artifact(path).payload[:1])
            except ArtifactError as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(40):
        write(tmp_path, bytes([i]) * 200_000)
    done.set()
    for reader in readers:
        reader.join(30)
    assert len(reads) > 20
    assert failures == []


def test_measurements_are_not_recorded_in_the_manifest_of_another_artifact(tmp_path: Path) -> None:
    measured = read_artifact(write(tmp_path, b"measured"))
    changed = replace(measured.manifest, benchmark={"imp_bench": {"x": 1}})
    write_manifest(measured, changed)
    assert read_artifact(measured.path).manifest.benchmark == {"imp_bench": {"x": 1}}
    write(tmp_path, b"replaced meanwhile")
    with pytest.raises(ArtifactError, match="another one"):
        write_manifest(measured, changed)
    assert read_artifact(measured.path).payload == b"replaced meanwhile"
    assert len(os.listdir(tmp_path)) == 2


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

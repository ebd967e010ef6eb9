# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: what a killed process leaves is removed, what a living one is writing is not."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from imp_trt.data import files
from imp_trt.data.files import (
    sweep,
    temporary_beside,
    temporary_folder,
    write_atomically,
    written_beside,
)
from imp_trt.errors import OutputError
from imp_trt.video.writer import VideoWriter
from tests.support.full_disk import full_disk


def leave_behind(folder: Path, name: str = "big.bin") -> None:
    """A process that is killed while it writes a file."""
    process = os.fork()
    if process:
        assert os.waitpid(process, 0)[1] == signal.SIGKILL
        return
    try:
        with temporary_beside(folder / name) as temporary:
            temporary.write_bytes(b"x" * 1000)
            os.kill(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(1)


@pytest.mark.slow
def test_the_next_write_removes_what_killed_processes_left(tmp_path: Path) -> None:
    for i in range(5):
        leave_behind(tmp_path, f"{i}.bin")
    assert len(os.listdir(tmp_path)) == 1  # each start removes what the one before left
    write_atomically(tmp_path / "other.json", b"{}")
    assert os.listdir(tmp_path) == ["other.json"]


def test_a_file_that_is_being_written_is_not_removed(tmp_path: Path) -> None:
    with temporary_beside(tmp_path / "a.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_bytes(b"half")
        files._next_scan.clear()
        sweep(tmp_path)
        assert temporary.read_bytes() == b"half"
        os.replace(temporary, tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == b"half"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_files_of_others_are_not_removed(tmp_path: Path) -> None:
    names = [".a.tmp", ".a.0123.part", "a.0123456789abcdef.part", ".a.0123456789abcdef.tmp.mp4", ".part"]
    for name in names:
        (tmp_path / name).write_text("")
    (tmp_path / ".folder.0123456789abcdef.part").mkdir()
    os.mkfifo(tmp_path / ".pipe.0123456789abcdef.part")
    files._next_scan.clear()
    sweep(tmp_path)
    assert set(names) <= set(os.listdir(tmp_path))
    assert (tmp_path / ".folder.0123456789abcdef.part").is_dir()


def test_a_new_file_that_was_swept_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = fcntl.flock, iter(range(100))

    def late(descriptor: int, operation: int) -> None:
        call = next(calls)
        if call == 0:
            (name,) = os.listdir(tmp_path)
            os.unlink(tmp_path / name)
        if call == 1:
            raise BlockingIOError(errno.EAGAIN, "held by the process that sweeps")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with temporary_beside(tmp_path / "a") as temporary:
        assert temporary.exists()
    assert next(calls) == 3


def test_without_locks_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_behind(tmp_path)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    write_atomically(tmp_path / "a", b"a")
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("supported", [True, False, "without /proc"])
def test_data_is_written_with_and_without_files_that_have_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool | str
) -> None:
    (tmp_path / "plain").write_bytes(b"")
    if supported is not True:

        def fail(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOENT, "No such file or directory")

        monkeypatch.setattr(os, "link", fail)
    if supported is False:
        real = os.open

        def named_only(path: Any, flags: int, *rest: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")
            return real(path, flags, *rest)

        monkeypatch.setattr(os, "open", named_only)
    data = bytes(range(256)) * 1000
    for sync in (True, False):
        write_atomically(tmp_path / "a", data, sync=sync)
        assert (tmp_path / "a").read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["a", "plain"]
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    "name",
    [
        "\U0001f600" * 60 + ".jsonl",
        "字" * 83 + ".json",
        "a" * 250 + ".json",
        "x." + "b" * 253,
        "\udcff" * 255,
    ],
    ids=["emoji", "cjk", "ascii", "suffix", "not utf-8"],
)
@pytest.mark.parametrize("unnamed", [True, False])
def test_every_name_that_the_file_system_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, unnamed: bool
) -> None:
    if not unnamed:
        monkeypatch.setattr(files, "_create_unnamed", lambda folder: None)
    write_atomically(tmp_path / name, b"data")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"data"}
    leave_behind(tmp_path, name)
    sweep(tmp_path)
    files._next_scan.clear()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("kind", ["FIFO", "device", "socket"])
def test_only_regular_files_are_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.mkv"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/null")  # not itself, which root could replace
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    before = path.lstat()
    with pytest.raises(OutputError, match=f"a {kind}, not a regular file"):
        write_atomically(path, b"x")
    with pytest.raises(OutputError, match=f"a {kind}, not a regular file"):
        VideoWriter(path, 25)
    assert os.path.samestat(path.lstat(), before)
    assert os.listdir(tmp_path) == ["a.mkv"]


@pytest.mark.parametrize("target", ["b", "missing"])
def test_links_to_regular_files_are_replaced(tmp_path: Path, target: str) -> None:
    (tmp_path / "b").write_bytes(b"b")
    (tmp_path / "a").symlink_to(target)
    write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert (tmp_path / "b").read_bytes() == b"b"


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with full_disk(1000), pytest.raises(OutputError, match="File too large"):
        write_atomically(tmp_path / "a", bytes(2000))

    def fail() -> None:
        with written_beside(tmp_path / "a", b"x") as temporary:
            assert temporary.read_bytes() == b"x"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(tmp_path) == []


def test_temporary_folders_of_killed_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "x_of_others").mkdir()
    for _ in range(3):
        process = os.fork()
        if not process:
            try:
                with temporary_folder("x_") as folder:
                    (folder / "large").write_bytes(b"x")
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        assert os.waitpid(process, 0)[1] == signal.SIGKILL
    assert len(list(tmp_path.glob("*/large"))) == 1
    with temporary_folder("x_") as folder, temporary_folder("x_") as other:
        assert folder != other
        assert folder.is_dir()
        assert not list(tmp_path.glob("*/large"))
    assert os.listdir(tmp_path) == ["x_of_others"]


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: temporary_beside(folder / "a"),
        lambda folder: written_beside(folder / "a", b"x"),
        lambda folder: temporary_folder("x_"),
    ],
)
def test_a_forked_process_removes_nothing_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    child = None
    with make(tmp_path) as made:
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            assert made.exists()
    if not child:
        os._exit(0)
    assert os.listdir(tmp_path) == []


def test_a_large_folder_is_not_scanned_for_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, scans = [0.0], []
    scandir = os.scandir

    def slow(folder: Path) -> Any:
        scans.append(now[0])
        now[0] += 0.05
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", slow)
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(files, "_next_scan", {})
    for _ in range(1000):
        now[0] += 0.01
        sweep(tmp_path)
    assert len(scans) == pytest.approx(2, abs=1)

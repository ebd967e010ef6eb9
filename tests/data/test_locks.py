# SPDX-License-Identifier: Apache-2.0
"""One worker for each piece of work, whatever happens to it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from imp_trt.data import files
from imp_trt.data.locks import Busy, LocksUnsupported, claim, only_temporary_beside
from imp_trt.errors import OutputError
from tests.support.forks import in_child, living_child

HOLDER = """
import sys, time
from pathlib import Path
from imp_trt.data.locks import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_claim_lasts_as_long_as_the_block(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "cell.lock"
    with claim(lock), pytest.raises(Busy), claim(lock):
        pytest.fail("two holders")
    with claim(lock):
        pass


def test_a_claim_ends_with_an_error_in_the_block(tmp_path: Path) -> None:
    lock = tmp_path / "cell.lock"
    with pytest.raises(ZeroDivisionError), claim(lock):
        raise ZeroDivisionError
    with claim(lock):
        pass


def test_a_killed_process_leaves_no_claim(tmp_path: Path) -> None:
    lock = tmp_path / "cell.lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy) as caught, claim(lock):
            pytest.fail("two holders")
        assert caught.value.holder == str(holder.pid)
        holder.kill()
        holder.wait()
        with claim(lock):
            pass


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), claim(tmp_path / "file" / "cell.lock"):
        pytest.fail("claimed")


def test_a_file_system_without_locks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(LocksUnsupported, match=r"No locks available.*local disk"), claim(tmp_path / "lock"):
        pytest.fail("claimed")


def test_a_path_has_one_writer_before_and_after_the_file_has_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"earlier")  # an existing file may be replaced
    for _ in range(2):
        with only_temporary_beside(path) as temporary:
            with pytest.raises(OutputError, match="nothing else is writing"), only_temporary_beside(path):
                pass
            files._next_scan.clear()
            files.sweep(tmp_path)
            os.replace(temporary, path)
            with pytest.raises(OutputError, match="nothing else is writing"), only_temporary_beside(path):
                pass
            with only_temporary_beside(tmp_path / "b.mp4"):
                pass
        assert os.listdir(tmp_path) == ["a.mp4"]


def test_what_a_killed_writer_leaves_does_not_keep_the_next_out(tmp_path: Path) -> None:
    process = os.fork()
    if not process:
        try:
            with only_temporary_beside(tmp_path / "a"):
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    files._next_scan[tmp_path] = float("inf")  # also without a sweep
    with only_temporary_beside(tmp_path / "a") as temporary:
        assert temporary.read_bytes() == b""
    assert os.listdir(tmp_path) == []


def test_a_forked_process_does_not_keep_a_closed_file_locked(tmp_path: Path) -> None:
    with only_temporary_beside(tmp_path / "a") as temporary:
        os.replace(temporary, tmp_path / "a")
        process = os.fork()
        if not process:
            time.sleep(60)
            os._exit(0)
    try:
        with only_temporary_beside(tmp_path / "a"):
            pass
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def test_a_forked_process_neither_keeps_nor_ends_a_claim(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with ExitStack() as stack:
        stack.enter_context(claim(lock))
        assert in_child(stack.close) == 0
        with pytest.raises(Busy), claim(lock):
            pytest.fail("claimed")
        with living_child():
            stack.close()
            with claim(lock):
                pass


def test_files_are_written_without_locks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with only_temporary_beside(tmp_path / "a") as one, only_temporary_beside(tmp_path / "a") as other:
        assert one != other
        os.replace(one, tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]

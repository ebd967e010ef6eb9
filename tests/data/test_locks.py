# SPDX-License-Identifier: Apache-2.0
"""One worker for each piece of work, whatever happens to it."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from imp_trt.data.locks import Busy, LocksUnsupported, claim
from imp_trt.errors import OutputError

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
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(LocksUnsupported, match=r"No locks available.*local disk"), claim(tmp_path / "lock"):
        pytest.fail("claimed")

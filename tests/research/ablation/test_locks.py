# SPDX-License-Identifier: Apache-2.0
"""One worker for each piece of work, whatever happens to it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from imp_trt.errors import OutputError
from research.ablation.locks import Busy, claim

HOLDER = """
import sys, time
from pathlib import Path
from research.ablation.locks import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_claim_lasts_as_long_as_the_block(tmp_path):
    lock = tmp_path / "locks" / "cell.lock"
    with claim(lock), pytest.raises(Busy), claim(lock):
        pytest.fail("two holders")
    with claim(lock):
        pass


def test_a_claim_ends_with_an_error_in_the_block(tmp_path):
    lock = tmp_path / "cell.lock"
    with pytest.raises(ZeroDivisionError), claim(lock):
        raise ZeroDivisionError
    with claim(lock):
        pass


def test_a_killed_process_leaves_no_claim(tmp_path):
    lock = tmp_path / "cell.lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy), claim(lock):
            pytest.fail("two holders")
        holder.kill()
        holder.wait()
        with claim(lock):
            pass


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), claim(tmp_path / "file" / "cell.lock"):
        pytest.fail("claimed")

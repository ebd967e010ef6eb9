# SPDX-License-Identifier: Apache-2.0
"""What the processes of a test run share."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from tests.support import once


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(once.VARIABLE, str(tmp_path))
    return tmp_path


def fill(folder: Path) -> None:
    time.sleep(0.2)
    (folder / "made by").write_text(str(os.getpid()))


def take(_: int) -> str:
    return (once.once("thing", fill) / "made by").read_text()


@pytest.mark.slow
def test_one_process_makes_it_for_all(home):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert len(set(pool.map(take, range(3), chunksize=1))) == 1


def test_what_failed_is_made_again(home):
    def failing(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        once.once("thing", failing)
    assert [path.name for path in once.once("thing", fill).iterdir()] == ["made by"]


def test_without_other_processes_nothing_is_shared(monkeypatch):
    monkeypatch.delenv(once.VARIABLE, raising=False)
    assert once.once("thing", fill) != once.once("thing", fill)


def in_the_middle(path: Path) -> None:
    with once.alone("gpu"):
        assert not path.exists(), "two processes at a time"
        path.touch()
        time.sleep(0.1)
        path.unlink()


def test_one_process_at_a_time(home):
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=in_the_middle, args=(home / "inside",)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]

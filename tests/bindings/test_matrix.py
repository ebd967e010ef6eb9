# SPDX-License-Identifier: Apache-2.0
"""What `make bindings` prints and returns, and what becomes of cells that cannot be run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bindings import __main__ as matrix
from tests.support import bindings_env, bindings_matrix
from tests.support.bindings_env import Unavailable
from tests.support.bindings_matrix import Outcome, skip_or_fail

GOOD = [Outcome("import", "", None), Outcome("api", "", None, "Some.NAME"), Outcome("create", "a", None)]
BAD = [*GOOD, Outcome("create", "b", "no\nplugin"), Outcome("clone", "b", "no plugin")]
NO_WHEEL = """ERROR: Could not find a version for it (from versions: 2.1.0, 2.2.0)
ERROR: No matching distribution found for numpy==1.26.4"""
NO_INDEX = """WARNING: Retrying after connection broken
ERROR: Could not find a version for it (from versions: none)
ERROR: No matching distribution found for numpy==1.26.4"""


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Exit code and output for the answers of the cells: outcomes or an exception."""

    def run(**cells: list[Outcome] | Unavailable) -> tuple[int, str]:
        def answer(version: str, numpy: str, folders: list[Path]) -> list[Outcome]:
            found = cells["v" + version.replace(".", "_")]
            if isinstance(found, Unavailable):
                raise found
            return list(found)

        monkeypatch.setattr(matrix, "run_plugins", answer)
        monkeypatch.setattr(matrix, "write_cases", lambda folder: [])
        versions = [name[1:].replace("_", ".") for name in cells]
        code = matrix.main(["--numpy", "2", "--version", *versions])
        return code, capsys.readouterr().out

    return run


def test_all_is_well(printed) -> None:
    code, text = printed(v10_3_0=GOOD)
    assert code == 0
    assert "failed" not in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert rows["create"] == ["ok"]
    assert rows["build"] == ["-"]
    assert "not in 10.3.0, and asked for before it is used: Some.NAME" in text


def test_a_failed_cell_fails_the_run_and_is_reported_once(printed) -> None:
    code, text = printed(v10_3_0=BAD, v10_7_0=BAD, v10_9_0=Unavailable("no wheel", excusable=True))
    assert code == 1
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert rows["create"] == ["1/2", "1/2", "skipped"]
    assert rows["clone"] == ["0/1", "0/1", "skipped"]
    assert text.count("failed: no plugin") == 1
    assert "steps: create, clone" in text
    assert "cells: 10.3.0 with NumPy 2, 10.7.0 with NumPy 2" in text
    assert "skipped: 10.9.0 with NumPy 2: no wheel" in text


def test_nothing_to_run_is_a_failure(printed) -> None:
    assert printed(v10_3_0=Unavailable("no wheel", excusable=True))[0] == 1
    code, text = printed(v10_3_0=GOOD, v10_7_0=Unavailable("no index", excusable=False))
    assert code == 1
    assert "failed: no index" in text


def test_a_missing_wheel_and_a_missing_index_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings_env, "_unreachable", [])
    wheel = bindings_env._unavailable("numpy", "1.26.4", NO_WHEEL)
    assert wheel.excusable
    assert "no wheel for cp" in str(wheel)
    index = bindings_env._unavailable("numpy", "1.26.4", NO_INDEX)
    assert not index.excusable
    assert bindings_env._unreachable == [index]


@pytest.mark.parametrize(
    ("ci", "excusable", "expected"),
    [("true", False, "Failed"), ("", False, "Skipped"), ("true", True, "Skipped")],
)
def test_in_ci_an_index_out_of_reach_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, ci: str, excusable: bool, expected: str
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(BaseException, match="why") as raised:
        skip_or_fail(Unavailable("why", excusable))
    assert type(raised.value).__name__ == expected


def test_steps_after_the_end_of_a_process_count_as_failed(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(
        "import os, signal, sys\n"
        'line = \'{"step": "import", "case": "", "error": null, "note": ""}\'\n'
        "open(sys.argv[1], 'a').write(line + chr(10))\n"
        "print('last words', file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    results = tmp_path / "results"
    environment = {"PYTHONPATH": str(tmp_path), "PATH": sys.exec_prefix}
    wanted = [("import", ""), ("create", "a")]
    passed, failed = bindings_matrix._run("dies", [results], environment, results, wanted)
    assert passed.error is None
    assert "SIGSEGV" in str(failed.error)
    assert "last words" in str(failed.error)

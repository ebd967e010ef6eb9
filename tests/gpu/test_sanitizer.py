# SPDX-License-Identifier: Apache-2.0
"""The plugin kernels under compute-sanitizer, after a planted fault has shown that it watches."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.plugin_build import ROOT, Built, build_with_cmake, own_architecture, require_tools, run
from tests.support.plugin_cases import write_cases

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

FOUND = 9


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    require_tools("compute-sanitizer", "nvcc")
    return build_with_cmake(tmp_path_factory.mktemp("build"), architectures=own_architecture())


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_cases(tmp_path_factory.mktemp("cases") / "of")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_tools("compute-sanitizer", "nvcc")
    program = tmp_path_factory.mktemp("faults") / "planted_faults"
    run("nvcc", f"-arch=sm_{own_architecture()}", ROOT / "tests/gpu/planted_faults.cu", "-o", program)
    return program


def _sanitize(tool: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    watched = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND), *map(str, command)]
    return subprocess.run(watched, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_the_plugins_are_clean_where_a_planted_fault_is_found(
    tool: str, built: Built, cases: list[Path], planted: Path
) -> None:
    fault = _sanitize(tool, planted, tool)
    assert fault.returncode == FOUND, fault.stdout + fault.stderr
    done = _sanitize(tool, built.harness, built.plugin, *cases)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(cases)} cases passed" in done.stdout


def test_a_plugin_that_writes_too_far_is_found(built: Built, cases: list[Path]) -> None:
    done = _sanitize("memcheck", built.harness, built.plugin, cases[0], "--short-output")
    # Not FOUND: that is for programs that end well, and this one sees its kernel fail.
    assert done.returncode != 0, done.stdout + done.stderr
    assert "Invalid __global__ write" in done.stdout

# SPDX-License-Identifier: Apache-2.0
"""The Python plugins on NVIDIA's own bindings: oldest, one in between, newest. `make bindings` runs all."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.support.bindings_cell import STEPS
from tests.support.bindings_env import Unavailable
from tests.support.bindings_matrix import Outcome, run_plugins, skip_or_fail
from tests.support.plugin_cases import write_cases

CELLS = (("10.3.0", "1.26.4"), ("10.3.0", "2"), ("10.13.3.9", "2"), ("11.4.0.106", "2"))

Run = Callable[[str, str], list[Outcome]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The outcomes of a cell, which is run when it is first asked for."""
    folders = write_cases(tmp_path_factory.mktemp("bindings") / "cases")

    @cache
    def outcomes(version: str, numpy: str) -> list[Outcome] | Unavailable:
        try:
            return run_plugins(version, numpy, folders)
        except Unavailable as error:
            return error

    def get(version: str, numpy: str) -> list[Outcome]:
        found = outcomes(version, numpy)
        if isinstance(found, Unavailable):
            skip_or_fail(found)
        return list(found)

    return get


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("version", "numpy"), CELLS)
def test_every_case_passes(run: Run, version: str, numpy: str, step: str) -> None:
    outcomes = [one for one in run(version, numpy) if one.step == step]
    assert outcomes
    failed = [f"{one.case}: {one.error}" for one in outcomes if one.error is not None]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(("version", "numpy"), CELLS)
def test_names_that_are_asked_for_first(run: Run, version: str, numpy: str) -> None:
    (note,) = (one.note for one in run(version, numpy) if one.step == "api")
    assert note == ("HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY" if version == "10.3.0" else "")


def test_a_wrong_result_would_be_found(tmp_path: Path) -> None:
    # Not the projection, which cannot be created with every NumPy.
    folder = write_cases(tmp_path / "cases")[-1]
    expected = np.fromfile(folder / "expected.bin")
    expected[-1] += 0.1
    expected.tofile(folder / "expected.bin")
    try:
        found = {one.step: one.error for one in run_plugins("11.4.0.106", "2", [folder])}
    except Unavailable as error:
        skip_or_fail(error)
    assert found["create"] is None
    assert "worst error" in str(found["enqueue"])


def test_a_missing_creator_is_named(tmp_path: Path) -> None:
    folder = write_cases(tmp_path / "cases")[-1]
    text = (folder / "case.txt").read_text()
    (folder / "case.txt").write_text(text.replace("ImpMultilevelRoiAlign", "Unknown"))
    try:
        found = {one.step: one.error for one in run_plugins("11.4.0.106", "2", [folder])}
    except Unavailable as error:
        skip_or_fail(error)
    assert found["shapes"] == "no creator of Unknown"

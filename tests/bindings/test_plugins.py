# SPDX-License-Identifier: Apache-2.0
"""The Python plugins on NVIDIA's own bindings: oldest, one in between, newest. `make bindings` runs all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.support.bindings_cell import STEPS
from tests.support.bindings_env import Unavailable
from tests.support.bindings_matrix import Outcome, run_plugins, skip_or_fail
from tests.support.plugin_cases import write_cases

pytestmark = pytest.mark.slow

# The oldest also with the NumPy whose array-to-number conversion it predates.
USUAL = (("10.3.0", "1.26.4"), ("11.4.0.106", "2"))
CELLS = [
    pytest.param(*cell, marks=() if cell in USUAL else pytest.mark.exhaustive)
    for cell in (*USUAL, ("10.3.0", "2"), ("10.13.3.9", "2"))
]

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


def test_a_wrong_result_and_a_missing_creator_would_be_found(tmp_path: Path) -> None:
    # Not the projection, which cannot be created with every NumPy.
    wrong = write_cases(tmp_path / "cases")[-1]
    unknown = Path(shutil.copytree(wrong, tmp_path / "cases" / "unknown"))
    expected = np.fromfile(wrong / "expected.bin")
    expected[-1] += 0.1
    expected.tofile(wrong / "expected.bin")
    text = (unknown / "case.txt").read_text()
    (unknown / "case.txt").write_text(text.replace("ImpMultilevelRoiAlign", "Unknown"))
    try:
        outcomes = run_plugins("11.4.0.106", "2", [wrong, unknown])
    except Unavailable as error:
        skip_or_fail(error)
    found = {(one.step, one.case): one.error for one in outcomes}
    assert found["create", wrong.name] is None
    assert "worst error" in str(found["enqueue", wrong.name])
    assert found["shapes", "unknown"] == "no creator of Unknown"

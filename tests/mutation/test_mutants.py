# SPDX-License-Identifier: Apache-2.0
"""The list of mutants fits the files; `python -m tests.mutation` runs them."""

from __future__ import annotations

from tests.mutation.__main__ import ROOT
from tests.mutation.mutants import MUTANTS, TESTS


def test_every_mutant_changes_its_file() -> None:
    for mutant in MUTANTS:
        assert mutant.before in (ROOT / mutant.path).read_text(encoding="utf-8"), mutant
        assert mutant.before != mutant.after
        assert all((ROOT / test).exists() for test in TESTS[mutant.path])
    assert len(set(MUTANTS)) == len(MUTANTS)

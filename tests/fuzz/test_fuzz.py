# SPDX-License-Identifier: Apache-2.0
"""Each target for a few seconds; `python -m tests.fuzz` takes as long as it is told."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import targets
from tests.fuzz.__main__ import fuzz
from tests.fuzz.mutator import mutate, mutate_json

SECONDS = 2.0


@pytest.mark.slow
@pytest.mark.parametrize("name", targets.NAMES)
def test_no_input_ends_in_another_error(name: str, tmp_path: Path) -> None:
    tried, _, findings = fuzz(name, SECONDS, seed=1, keep=tmp_path)
    assert tried
    assert not findings


def test_mutations_are_the_same_for_a_seed() -> None:
    for change, data in ((mutate, b"some bytes"), (mutate_json, b'{"a": [1, {"b": 2}]}')):
        one, again = ([change(data, random.Random(3)) for _ in range(20)] for _ in range(2))
        assert one == again
        assert len(set(change(data, random.Random(s)) for s in range(20))) > 10


def test_a_finding_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(data: bytes) -> None:
        if data != b"seed":
            raise KeyError("x")

    monkeypatch.setitem(targets._TARGETS, "plan", lambda folder: targets.Target(fails, [b"seed"]))
    tried, accepted, findings = fuzz("plan", 0.1, seed=0, keep=tmp_path / "kept")
    assert tried > accepted
    assert len(findings) == 1
    assert "KeyError in fails" in findings[0]
    assert len(list((tmp_path / "kept").iterdir())) == 1

# SPDX-License-Identifier: Apache-2.0
"""A short version of the soak with SIGKILL: one kill of each kind of work, or three."""

from __future__ import annotations

from pathlib import Path

import pytest

from imp_trt.errors import DependencyMissing
from imp_trt.video import writer_pyav
from tests.soak.kills import WORK, soak
from tests.support.variants import variants


@pytest.mark.slow
@pytest.mark.parametrize("kills", variants([1, 3], [1]))
@pytest.mark.parametrize("name", WORK)
def test_killed_work_loses_nothing(name: str, kills: int, tmp_path: Path) -> None:
    if name == "recording":
        try:
            writer_pyav.h264_encoder()
        except DependencyMissing:
            pytest.skip("needs PyAV with an H.264 encoder")
    outcome = soak(name, tmp_path, kills, 1)
    assert outcome.lost == []
    assert outcome.left == []
    assert outcome.passed
    assert outcome.kills == kills

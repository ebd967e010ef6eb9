# SPDX-License-Identifier: Apache-2.0
"""The soak in a few seconds: it counts what it should, and notices a planted leak."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.soak import soak
from tests.support import tiny


@pytest.mark.slow
@pytest.mark.parametrize("leak_bytes", [0, 2_000_000])
def test_a_short_soak(tmp_path: Path, leak_bytes: int) -> None:
    report = soak(
        tiny.artifact(tmp_path),
        [tiny.frame(seed=i) for i in range(3)],
        seconds=3,
        unplug_every_s=1,
        away_s=0.2,
        fps=50,
        warmup_s=0.5,
        leak_bytes=leak_bytes,
    )
    assert report["reconnects"] >= 1
    assert report["captured"] == report["frames"] + report["dropped"]
    assert report["frames"] > 30
    assert (report["threads_left"], report["files_left"], report["torn_accounts"]) == (0, 0, 0)
    # Tests before it leave the allocator of this process some megabytes of room for noise; the leak is 60 MB.
    assert (report["growth_mb"] > 20) == bool(leak_bytes)

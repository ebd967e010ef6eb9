# SPDX-License-Identifier: Apache-2.0
"""The comparison of run_pipeline with a plain loop: runs, and does not time ways whose outputs differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from imp_trt.segmenter import Segmenter
from tests.bench import bench_pipeline
from tests.support import clips, tiny


def test_each_kind_of_sink_is_measured(tmp_path: Path) -> None:
    clip = clips.write_clip(tmp_path / "clip.mp4", frames=4)
    with Segmenter(tiny.artifact(tmp_path), threads=1) as segmenter:
        rows = bench_pipeline.measure(segmenter, clip, frames=3, repeats=1)
    assert set(rows) == set(bench_pipeline.SINKS)
    assert all(row["one_by_one"] > 0 and row["ratio"] > 0 for row in rows.values())


@pytest.mark.parametrize("name", ["class maps", "overlay video, JSON lines"])
def test_ways_that_differ_are_not_timed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = clips.write_clip(tmp_path / "clip.mp4", frames=4)
    overlapping = bench_pipeline.overlapping
    monkeypatch.setattr(bench_pipeline, "overlapping", lambda s, c, k, n: overlapping(s, c, k, n - 1))
    with (
        Segmenter(tiny.artifact(tmp_path), threads=1) as segmenter,
        pytest.raises(SystemExit, match="differ"),
    ):
        bench_pipeline.check_equal(segmenter, clip, name, 3)

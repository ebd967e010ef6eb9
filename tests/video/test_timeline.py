# SPDX-License-Identifier: Apache-2.0
"""Times in a video file: exact rates, and presentation times that always go forward."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imp_trt.video.encoder import TICKS
from imp_trt.video.writer import Timeline, VideoWriter, frame_rate


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (29.97, Fraction(30000, 1001)),
        (30000 / 1001, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (25.0, Fraction(25)),
        (12.5, Fraction(25, 2)),
        (0.5, Fraction(1, 2)),
        (0.0003, Fraction(3, 10000)),
        (1 / 1800, Fraction(1, 1800)),
        (1 / 3600, Fraction(1, 3600)),
        (999.0, Fraction(999)),
        (1000.0, Fraction(1000)),
    ],
)
def test_rounded_rates_mean_exact_ones(fps: float, rate: Fraction) -> None:
    assert frame_rate(fps) == rate


def seconds(times: list[float | None], fps: int = 10) -> list[float]:
    timeline = Timeline(Fraction(fps))
    return [timeline.ticks(time_s) / TICKS for time_s in times]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([None, None, None], [0, 0.1, 0.2]),
        ([0.0, 0.5, 0.6], [0, 0.5, 0.6]),
        ([1e5, 1e5 + 0.25, 1e5 + 0.75], [0, 0.25, 0.75]),
        ([-3.0, -2.5], [0, 0.5]),
        ([5.0, None, 5.5], [0, 0.1, 0.5]),  # a frame without a time in between
        ([None, 5.0, 5.5], [0, 0.1, 0.6]),  # the clock is known from the second frame on
        ([3.0, 3.5, 0.0, 0.5], [0, 0.5, 0.6, 1.1]),  # played again, or the camera started anew
        ([3.0, 3.0, 3.5], [0, 0.1, 0.6]),  # a clock that stands still
        ([0.0, 1e9, 1e9 + 1], [0, 0.1, 1.1]),  # jumped ahead
        ([0.0, 600.0], [0, 600]),
        ([0.0, math.nan, math.inf, 0.5], [0, 0.1, 0.2, 0.5]),
        ([0.0, 1e-5, 2e-5, 0.1], [0, 0.001, 0.002, 0.1]),  # a burst after a stall
    ],
)
def test_timeline(times: list[float | None], expected: list[float]) -> None:
    assert seconds(times) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("times", "jump_s"),
    [
        ([0.0, 700.0], 700.0),
        ([3.0, None, 2.0], -1.0),
        ([0.0, 599.0], 0.0),
        ([3.0, 3.0], 0.0),
        ([0.0, 700.0, 701.0], 0.0),
        ([700.0], 0.0),
        ([None, 700.0], 0.0),
    ],
)
def test_a_jump_that_is_not_kept_is_known(times: list[float | None], jump_s: float) -> None:
    timeline = Timeline(Fraction(10))
    for time_s in times:
        timeline.ticks(time_s)
    assert timeline.jump_s == jump_s


def test_a_video_names_a_jump_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = VideoWriter(tmp_path / "x.mkv", 10)
    for time_s in (0.0, 0.1, 900.0, 900.1, 0.0):
        writer.write(np.zeros((16, 16, 3), np.uint8), time_s)
    writer.close()
    (message,) = [m for m in caplog.messages if "jump" in m]
    assert "x.mkv: at frame 2, times jump by +899.9 s" in message


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.one_of(st.none(), st.floats(), st.floats(0, 10)), min_size=2, max_size=30),
    st.sampled_from([0.5, 25.0, 29.97, 1000.0]),
)
def test_a_timeline_always_goes_forward(times: list[float | None], fps: float) -> None:
    timeline = Timeline(frame_rate(fps))
    found = [timeline.ticks(time_s) for time_s in times]
    gaps = np.diff(found)
    assert found[0] == 0
    assert gaps.min() >= TICKS // 1000
    assert gaps.max() <= 600 * TICKS


def test_an_hour_at_29_97_does_not_drift() -> None:
    timeline = Timeline(frame_rate(29.97))
    last = [timeline.ticks(None) for _ in range(107_893)][-1]
    assert last == 107_892 * 24_024

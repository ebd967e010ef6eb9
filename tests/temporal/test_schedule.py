# SPDX-License-Identifier: Apache-2.0
"""On which frames the detector runs; the times are simulated."""

from __future__ import annotations

import math

import pytest

from imp_trt.errors import InvalidInput
from imp_trt.temporal import TemporalOptions
from imp_trt.temporal.schedule import DetectionSchedule


def simulate(options: TemporalOptions, frames: int, full: float = 100, part: float = 40) -> list[bool]:
    schedule, age, detected = DetectionSchedule(options), 0, []
    for i in range(frames):
        detects = i == 0 or schedule.due(age + 1)
        age = 0 if detects else age + 1
        schedule.add(detects, full if detects else part)
        detected.append(detects)
    return detected


@pytest.mark.parametrize("every", [1, 2, 4, 45])
def test_every_kth_frame(every: int) -> None:
    assert simulate(TemporalOptions(every), 100) == [i % every == 0 for i in range(100)]


@pytest.mark.parametrize("budget", [45, 60, 80, 99])
def test_the_mean_time_keeps_to_the_budget(budget: float) -> None:
    detected = simulate(TemporalOptions(detect_budget_ms=budget, max_age=1000), 3000)
    mean = sum(100 if d else 40 for d in detected) / 3000
    assert budget - 1 < mean <= budget + 0.1


def test_a_budget_for_all_frames() -> None:
    assert all(simulate(TemporalOptions(detect_budget_ms=100), 50))


def test_a_budget_for_none_is_overrun_at_the_greatest_age() -> None:
    detected = simulate(TemporalOptions(detect_budget_ms=30, max_age=9), 100)
    # The first frame's time is not counted, so the second has the detector too.
    assert detected == [True, *[i % 10 == 0 for i in range(99)]]


def test_both_conditions_hold() -> None:
    detected = simulate(TemporalOptions(5, detect_budget_ms=1000), 50)
    assert detected == [i % 5 == 0 for i in range(50)]


def test_a_slow_first_call_does_not_count() -> None:
    schedule = DetectionSchedule(TemporalOptions(detect_budget_ms=120, max_age=5))
    schedule.add(True, 5000)
    assert schedule.due(1)
    schedule.add(True, 100)
    assert schedule.due(1, slack_ms=110)


def test_one_slow_call_among_others_does_not_count() -> None:
    schedule = DetectionSchedule(TemporalOptions(max_age=5))
    for milliseconds in (100, 100, 5000, 100, 100):
        schedule.add(True, milliseconds)
    assert schedule.due(1, slack_ms=110)


def test_a_late_frame_goes_without_until_the_greatest_age() -> None:
    schedule = DetectionSchedule(TemporalOptions(max_age=3))
    schedule.add(True, 100)
    schedule.add(True, 100)
    assert schedule.due(1, slack_ms=100)
    assert not schedule.due(1, slack_ms=99)
    assert not schedule.due(3, slack_ms=-5)
    assert schedule.due(4, slack_ms=-5)


@pytest.mark.parametrize(
    "values",
    [
        {"detect_every": 0},
        {"detect_every": 2.5},
        {"detect_every": True},
        {"detect_budget_ms": 0},
        {"detect_budget_ms": math.nan},
        {"carry": "tracker"},
        {"blend": 1},
        {"blend": math.nan},
        {"max_age": 0},
        {"max_gap_s": 0},
        {"cut_change": math.nan},
    ],
)
def test_options_out_of_their_range(values: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(values))):
        TemporalOptions(**values)  # type: ignore[arg-type]


def test_the_greatest_age_allows_the_interval() -> None:
    assert TemporalOptions(100).max_age == 99
    assert TemporalOptions(100, max_age=200).max_age == 200

# SPDX-License-Identifier: Apache-2.0
"""Percentiles in bounded memory, rates, ages and deadlines on a clock that the test moves."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from imp_trt.results.result import Instances, SegmentationResult
from imp_trt.video.queues import Counts
from imp_trt.video.statistics import Durations, SourceState, Statistics
from tests.support import tiny


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def result(score: float = 0.9) -> SegmentationResult:
    found = Instances(
        boxes=np.array([[0, 0, 4, 4]], np.float32),
        labels=np.array([2], np.int32),
        scores=np.array([score], np.float32),
        masks=np.ones((1, 8, 8), np.float32),
        size=(4, 8),
    )
    return SegmentationResult(np.zeros((4, 8), np.uint8), found, tiny.CLASSES)


def statistics(counts: list[Counts], clock: Clock, deadline_s: float | None = None) -> Statistics:
    sources = [
        SourceState(f"cam{i}", live=True, reconnects=lambda i=i: i, lost=lambda: 1)
        for i in range(len(counts))
    ]
    return Statistics(tiny.CLASSES, (64, 96), sources, lambda: counts, 0.5, deadline_s, clock)


@pytest.mark.parametrize("thousands", [1, 2, 3, 7, 20])
def test_one_of_a_thousand_is_beyond_p99_9(thousands: int) -> None:
    """99.9 / 100 * 1000 is a little more than 999, which must not count as a thousandth rank."""
    durations = Durations()
    for i in range(1000 * thousands):
        durations.add(1.0 if i % 1000 else 50.0)
    assert durations.percentiles([99.9]) == pytest.approx([1.0], rel=0.005)


@pytest.mark.parametrize("shape", ["lognormal", "uniform", "two humps"])
def test_percentiles_are_within_a_quarter_of_a_percent(shape: str) -> None:
    generator = np.random.default_rng(3)
    values = {
        "lognormal": generator.lognormal(3, 1, 20_000),
        "uniform": generator.uniform(0.01, 40, 20_000),
        "two humps": np.r_[generator.normal(5, 0.1, 19_000), generator.normal(900, 5, 1000)],
    }[shape]
    durations = Durations()
    for value in values:
        durations.add(float(value))
    shares = [1, 50, 90, 99, 99.9, 100]
    # Not numpy's percentile: it takes 99.9 % of 20000 for more than 19980.
    exact = np.sort(values)[[199, 9999, 17_999, 19_799, 19_979, 19_999]]
    assert durations.percentiles(shares) == pytest.approx(exact, rel=0.0026)
    assert durations.mean == pytest.approx(values.mean())
    assert (durations.maximum, durations.last) == (values.max(), values[-1])


def test_odd_durations() -> None:
    durations = Durations()
    assert np.isnan([durations.mean, *durations.percentiles([50])]).all()
    for value in (7.0, 7.0, 7.0):
        durations.add(value)
    assert durations.to_dict() == {"mean": 7.0, "p50": 7.0, "p90": 7.0, "p99": 7.0}
    for value in (-1.0, 0.0, 1e12):
        durations.add(value)
    assert durations.percentiles([1, 100]) == pytest.approx([0.001, 1e7], rel=0.01)
    assert durations.count == 6


def test_memory_does_not_grow_with_the_run() -> None:
    clock = Clock()
    stats = statistics([Counts(1, 1, 0, 0)], clock)

    def size() -> int:
        held = [d for d in stats._times.values()] + [stats._ages]
        return sum(sys.getsizeof(d._buckets) for d in held) + sys.getsizeof(stats._delivered_at)

    answer, pixels = result(), np.array([32, 0, 0, 0])
    sizes = []
    for i in range(1500):
        clock.now += 0.02
        stats.add(answer, pixels, 0.01, {"infer": i * 0.1})
        if i in (299, 1499):
            sizes.append(size())
    assert sizes[1] <= sizes[0] + 1024  # the deque trims in blocks


def test_snapshot() -> None:
    clock = Clock()
    counts = [Counts(10, 4, 3, 3), Counts(5, 5, 0, 0)]
    stats = statistics(counts, clock, deadline_s=0.05)
    empty = stats.snapshot()
    assert (empty["age_ms"], empty["timing_ms"], empty["frames_per_second"]) == ({}, {}, 0)
    for i in range(10):
        clock.now += 1
        stats.add(result(), np.array([32, 0, 0, 0]), 0.04 if i % 2 else 0.06, {"infer": 3.0 + i})
    seen = stats.snapshot()
    assert json.loads(json.dumps(seen, allow_nan=False)) == seen
    assert seen["seconds"] == 10
    assert [seen[key] for key in ("captured", "delivered", "dropped", "in_flight", "reconnects")] == [
        17, 9, 5, 3, 1,
    ]  # fmt: skip
    # Six frames came in the last five seconds, ends included.
    assert seen["frames_per_second"] == pytest.approx(6 / 5)
    assert (seen["deadline_ms"], seen["deadline_misses"]) == (50, 5)
    assert seen["age_ms"]["last"] == 40
    assert seen["age_ms"]["max"] == pytest.approx(60)
    assert seen["age_ms"]["p50"] == pytest.approx(40, rel=0.003)
    assert seen["age_ms"]["p99.9"] == pytest.approx(60, rel=0.003)
    assert seen["timing_ms"]["infer"]["last"] == 12
    assert seen["sources"][1] == {
        "name": "cam1", "live": True, "captured": 6, "delivered": 5, "dropped": 1, "in_flight": 0,
        "reconnects": 1,
    }  # fmt: skip
    clock.now += 60
    assert stats.snapshot()["frames_per_second"] == 0


def test_summary() -> None:
    clock = Clock()
    stats = statistics([Counts(3, 2, 1, 0)], clock)
    stats.add(result(0.9), np.array([24, 8, 0, 0]), 0.01, {"infer": 3.0})
    stats.add(result(0.4), np.array([24, 8, 0, 0]), 0.02, {"infer": 5.0})
    clock.now += 4
    summary = stats.summary()
    assert (summary.frames, summary.captured, summary.dropped, summary.seconds) == (2, 4, 2, 4)
    assert summary.pixels == {"road": 0.75, "sky": 0.25}
    assert summary.instances == {"car": 1}
    assert summary.deadline_misses == 0
    assert list(summary.age_ms) == ["mean", "p50", "p99", "p99.9", "max"]
    assert summary.timing_ms["infer"]["mean"] == 4
    data = summary.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["frames_per_second"] == 0.5

# SPDX-License-Identifier: Apache-2.0
"""The measurement on a simulated clock, and through the real pipeline for its counts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from imp_trt.benchmark.frames import StreetFeed
from imp_trt.benchmark.measure import (
    MIN_FRAMES,
    MIN_WARMUP_FRAMES,
    PIPELINE_FRAMES,
    Stepper,
    Throughput,
    WarmUp,
    measure_latency,
    measure_throughput,
    parse_warmup,
)
from imp_trt.benchmark.samples import END_TO_END, STAGES, Samples
from imp_trt.errors import UsageError
from imp_trt.segmenter import Segmenter as RealSegmenter
from tests.benchmark import simulated
from tests.benchmark.simulated import Clock, Feed, Segmenter
from tests.support import tiny
from tests.support.fake_tensorrt import engine_file, fake_gpu


def test_a_step_times_every_stage_and_the_whole() -> None:
    clock = Clock()
    stepper = Stepper(Segmenter(clock, [10.0], draw_ms=5.0), Feed(clock), clock)  # type: ignore[arg-type]
    row = stepper.step()
    wanted = {"decode": 4, "pre": 1, "infer": 10, "post": 2, "run": 13, "draw": 5, END_TO_END: 22}
    assert row == pytest.approx(wanted)
    assert list(row) == list(wanted)
    assert stepper.size == simulated.SIZE
    assert stepper.sizes == 1


def test_opening_a_file_again_is_no_frames_time() -> None:
    clock = Clock()
    stepper = Stepper(Segmenter(clock, [10.0]), Feed(clock, reopen_every=2), clock)  # type: ignore[arg-type]
    rows = [stepper.step() for _ in range(5)]
    assert [row["decode"] for row in rows] == pytest.approx([4.0] * 5)
    assert [row[END_TO_END] for row in rows] == pytest.approx([17.0] * 5)


def test_the_first_call_and_the_warm_up_do_not_count() -> None:
    clock = Clock()
    segmenter = Segmenter(clock, [900.0, 300.0, 120.0, 110.0, 10.0])
    stepper = Stepper(segmenter, Feed(clock), clock)  # type: ignore[arg-type]
    found = measure_latency(stepper.step, clock, warmup=WarmUp(frames=4), frames=6)
    assert found.first_ms == pytest.approx(907)
    assert found.warmup_frames == 4
    assert found.warmup_ms == pytest.approx(500 + 4 * 7 + 900 + 300 + 120 + 110)
    assert found.samples.values("infer") == [10.0] * 6
    assert found.seconds == pytest.approx(6 * 0.017)
    assert segmenter.runs == list(range(10))


def test_a_warm_up_by_time_ends_with_the_frame_that_reaches_it() -> None:
    clock = Clock()
    stepper = Stepper(Segmenter(clock, [93.0]), Feed(clock), clock)  # type: ignore[arg-type]
    found = measure_latency(stepper.step, clock, warmup=WarmUp(seconds=1.0), frames=1)
    assert found.warmup_frames == 5  # 500 ms to open, then 100 ms each
    slow = Clock()
    stepper = Stepper(Segmenter(slow, [5000.0]), Feed(slow), slow)  # type: ignore[arg-type]
    assert (
        measure_latency(stepper.step, slow, warmup=WarmUp(seconds=0.2), frames=1).warmup_frames
        == MIN_WARMUP_FRAMES
    )


@pytest.mark.parametrize(
    ("infer_ms", "seconds", "min_frames", "frames", "wanted"),
    [
        (93.0, 3.0, MIN_FRAMES, None, 30),  # 100 ms a frame
        (2993.0, 3.0, MIN_FRAMES, None, MIN_FRAMES),  # slow: ten frames nevertheless
        (93.0, 3.0, 100, None, 100),  # a gate on p99
        (93.0, 3.0, 100, 7, 7),  # exactly
    ],
)
def test_how_long_is_measured(
    infer_ms: float, seconds: float, min_frames: int, frames: int | None, wanted: int
) -> None:
    clock, reported = Clock(), []
    stepper = Stepper(Segmenter(clock, [infer_ms]), Feed(clock), clock)  # type: ignore[arg-type]
    found = measure_latency(
        stepper.step,
        clock,
        warmup=WarmUp(frames=1),
        seconds=seconds - 1e-6,
        frames=frames,
        min_frames=min_frames,
        progress=reported.append,
    )
    assert len(found.samples) == wanted
    assert reported == list(range(1, wanted + 1))


def test_throughput_leaves_out_what_fills_the_pipeline() -> None:
    times = [0.0, 5.0, 5.5, 5.6, 5.7]  # the last of these starts the clock
    assert len(times) == PIPELINE_FRAMES
    steady = [5.7 + 0.1 * i for i in range(1, 10)] + [7.6]
    stages = {"read": {"mean": 1.0, "p50": 1.0}, "infer": {"mean": 2.0}, "write": {"mean": 9.0}, "total": {}}
    found = Throughput.of(times + steady, stages, (50.0, 99.0))
    assert found.frames == 10
    assert found.per_second == pytest.approx(10 / 1.9)
    assert found.interval_ms["p50"] == pytest.approx(100)
    assert found.interval_ms["p99"] is None
    assert found.interval_ms["max"] == pytest.approx(1000)
    assert found.stages == {"decode": {"mean": 1.0, "p50": 1.0}, "infer": {"mean": 2.0}}


def test_the_real_pipeline_with_a_real_network(tmp_path: Path) -> None:
    with RealSegmenter(tiny.artifact(tmp_path), threads=1) as segmenter:
        found = measure_throughput(
            segmenter, StreetFeed((48, 64)), time.perf_counter, frames=12, percentiles=(50.0,)
        )
    assert found.frames == 12
    assert found.per_second > 0
    assert list(found.stages) == ["decode", "pre", "infer", "post", "draw"]
    assert found.interval_ms["min"] <= found.interval_ms["p50"] <= found.interval_ms["max"]  # type: ignore[operator]


@pytest.mark.slow
def test_an_engine_measures_uploads_and_downloads(tmp_path: Path) -> None:
    with fake_gpu(), RealSegmenter(engine_file(tmp_path)) as segmenter:
        stepper = Stepper(segmenter, StreetFeed((48, 64)), time.perf_counter)
        row = stepper.step()
        found = measure_throughput(
            segmenter, StreetFeed((48, 64)), time.perf_counter, frames=6, percentiles=(50.0,)
        )
    samples = Samples()
    samples.add(row)
    assert samples.stages == list(STAGES)
    assert set(found.stages) == set(STAGES) - {"run", END_TO_END}
    # The answer has been read when "run" ends.
    assert row["run"] >= row["download"] + row["post"]


def test_warm_ups_in_words() -> None:
    assert parse_warmup("200ms") == WarmUp(seconds=0.2)
    assert parse_warmup("1.5s") == WarmUp(seconds=1.5)
    assert parse_warmup("20") == parse_warmup("20frames") == parse_warmup("20 frames") == WarmUp(frames=20)
    for wrong in ("", "ms", "-1", "1.5", "fast", "200 ms frames"):
        with pytest.raises(UsageError, match="--warmup"):
            parse_warmup(wrong)

# SPDX-License-Identifier: Apache-2.0
"""The pipeline with a detector that runs on some frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.errors import ArtifactError
from imp_trt.segmenter import Segmenter
from imp_trt.temporal import TemporalOptions
from imp_trt.video import run_pipeline
from imp_trt.video.sinks import NullSink, SegmentedFrame
from imp_trt.video.sources import Frame
from tests.support import tiny
from tests.support.moving import CAR, Clock, SquareBackend, picture, segmenter_of


class Recorder(NullSink):
    def __init__(self) -> None:
        self.items: list[SegmentedFrame] = []
        self.aborted = False

    def write(self, item: SegmentedFrame) -> bool:
        self.items.append(item)
        return True

    def abort(self) -> None:
        self.aborted = True

    def ages(self, source: str = "") -> list[int | None]:
        return [item.result.canvas_age for item in self.items if item.source == source]


class Camera:
    """Frames that were captured every 50 ms."""

    live = True
    name = "camera"
    paths = ()

    def __init__(self, count: int, start: float) -> None:
        self.count, self.start = count, start

    def __iter__(self) -> Iterator[Frame]:
        for i in range(self.count):
            yield Frame(drive(i), i, str(i), i * 0.05, self.start + i * 0.05)


def drive(i: int) -> NDArray[np.uint8]:
    return picture([(20 + 2 * i, 40, 48, CAR)], shift=2 * i)


def clip(count: int, times: Sequence[float] | None = None) -> Iterator[Frame]:
    for i in range(count):
        yield Frame(drive(i), i, str(i), None if times is None else times[i])


def test_frames_with_and_without_the_detector() -> None:
    sink, backend = Recorder(), SquareBackend(clock := Clock())
    summary = run_pipeline(segmenter_of(backend), clip(8), [sink], temporal=TemporalOptions(4), clock=clock)
    assert sink.ages() == [0, 1, 2, 3] * 2
    assert backend.calls == ["whole", *["canvas"] * 3] * 2
    assert (summary.frames, summary.carried, summary.canvas_age) == (8, 6, 3)
    assert summary.timing_ms["detected"]["mean"] == pytest.approx(100, abs=1)
    assert summary.timing_ms["carried"]["mean"] == pytest.approx(40, abs=1)
    assert summary.to_dict()["carried"] == 6


def test_without_it_nothing_is_reported_about_a_canvas() -> None:
    sink = Recorder()
    summary = run_pipeline(segmenter_of(SquareBackend()), clip(3), [sink])
    assert (summary.carried, summary.canvas_age) == (0, None)
    assert sink.ages() == [None] * 3
    assert not {"detected", "carried"} & set(summary.timing_ms)


def test_the_state_of_a_source_is_its_own() -> None:
    class Named:
        def __init__(self, name: str, count: int) -> None:
            self.name, self.count = name, count

        def __iter__(self) -> Iterator[Frame]:
            return clip(self.count)

    sink = Recorder()
    run_pipeline(
        segmenter_of(SquareBackend()),
        [Named("a", 5), Named("b", 3)],  # type: ignore[list-item]
        [sink],
        temporal=TemporalOptions(3),
    )
    assert sink.ages("a") == [0, 1, 2, 0, 1]
    assert sink.ages("b") == [0, 1, 2]


def test_a_gap_in_the_times_of_a_source_resets() -> None:
    sink = Recorder()
    times = [0, 0.04, 5.0, 5.04, 5.08]
    run_pipeline(segmenter_of(SquareBackend()), clip(5, times), [sink], temporal=TemporalOptions(9))
    assert sink.ages() == [0, 1, 0, 1, 2]


def test_a_late_frame_skips_the_detector_and_is_not_dropped() -> None:
    clock = Clock()
    sink, backend = Recorder(), SquareBackend(clock)
    summary = run_pipeline(
        segmenter_of(backend),
        [Camera(20, clock.now)],  # type: ignore[list-item]
        [sink],
        temporal=TemporalOptions(max_age=10),
        deadline_s=0.13,
        queue_size=20,
        clock=clock,
    )
    assert summary.frames == 20
    assert summary.dropped == 0
    ages = sink.ages()
    assert ages[0] == 0
    assert 2 <= ages.count(0) < 12, "100 ms each do not fit into 50 ms a frame"
    assert max(age or 0 for age in ages) <= 10
    assert summary.deadline_misses < 8


def test_an_artifact_without_a_part_fails_before_the_sinks_begin(tmp_path: Path) -> None:
    sink = Recorder()
    with Segmenter(tiny.artifact(tmp_path), threads=1) as segmenter:
        with pytest.raises(ArtifactError, match="imp-export --parts"):
            run_pipeline(segmenter, clip(2), [sink], temporal=TemporalOptions(2))
    assert sink.aborted
    assert not sink.items

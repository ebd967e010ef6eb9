# SPDX-License-Identifier: Apache-2.0
"""Live sources in the pipeline: dropped frames, ages and deadlines, and cameras that give nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.video import run_pipeline
from imp_trt.video.sources import Frame
from tests.support import tiny
from tests.support.pipeline_ends import Camera, Recorder, frames


def test_a_camera_drops_its_oldest_frames_while_the_network_is_busy(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, seen = threading.Event(), threading.Event()

    def script() -> Iterator[Frame]:
        all_frames = list(frames(8))
        yield all_frames[0]
        assert seen.wait(5)
        yield from all_frames[1:]
        given.set()

    run = segmenter.run

    def slow(image: object) -> SegmentationResult:
        seen.set()
        assert given.wait(5)
        return run(image)

    monkeypatch.setattr(segmenter, "run", slow)
    camera, sink, snapshots = Camera(script), Recorder(), []
    summary = run_pipeline(segmenter, camera, [sink], on_progress=snapshots.append)
    assert [item.frame.index for item in sink.items] == [0, 6, 7]
    assert (summary.captured, summary.frames, summary.dropped, summary.reconnects) == (8, 3, 5, 2)
    assert snapshots[-1]["in_flight"] == 0
    assert snapshots[-1]["sources"][0]["name"] == "front_door"
    assert camera.closed == 0  # it ended by itself
    assert all(item.age_s is not None and item.frame.captured_s is not None for item in sink.items)


def test_a_camera_that_waits_keeps_every_frame_and_counts_what_it_lost_before(segmenter: Segmenter) -> None:
    camera = Camera(lambda: frames(6))
    camera.latest, camera.dropped = True, 4
    sink = Recorder()
    summary = run_pipeline(segmenter, camera, [sink], policy="wait", queue_size=1)
    assert camera.latest is False
    assert [item.frame.index for item in sink.items] == list(range(6))
    assert (summary.captured, summary.frames, summary.dropped) == (10, 6, 4)


def test_age_and_deadline_on_a_simulated_clock(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured at 0, 1, 2 s; the network takes 30, 80 and 30 ms; frames of a file have no age to show."""
    run, durations, now = segmenter.run, iter([0.03, 0.08, 0.03, 0]), [0.0]

    def timed(image: object) -> SegmentationResult:
        now[0] += next(durations)
        return run(image)

    def script() -> Iterator[Frame]:
        for frame in frames(3):
            while frame.index and len(sink.items) < frame.index:
                time.sleep(0.001)
            now[0] = float(frame.index)
            yield frame

    monkeypatch.setattr(segmenter, "run", timed)
    sink = Recorder()
    summary = run_pipeline(segmenter, Camera(script), [sink], deadline_s=0.05, clock=lambda: now[0])
    assert [item.age_s for item in sink.items] == pytest.approx([0.03, 0.08, 0.03])
    assert summary.deadline_misses == 1
    assert summary.age_ms["p50"] == pytest.approx(30, rel=0.01)
    assert summary.age_ms["max"] == pytest.approx(80)
    run_pipeline(segmenter, frames(1), [sink := Recorder()])
    assert [item.age_s for item in sink.items] == [None]


def test_the_age_is_that_of_the_cameras_where_a_file_waits_beside_them(segmenter: Segmenter) -> None:
    def file() -> Iterator[Frame]:
        for frame in frames(2):
            yield replace(frame, captured_s=time.monotonic() - 100)

    sink = Recorder()
    sources: Any = [file(), Camera(lambda: frames(2))]
    summary = run_pipeline(segmenter, sources, [sink], deadline_s=50)
    assert summary.frames == len(sink.items) == 4
    assert summary.age_ms["max"] < 50_000
    assert summary.deadline_misses == 0
    summary = run_pipeline(segmenter, file(), [], deadline_s=50)
    assert summary.deadline_misses == 2, "asked for of a file alone"


def test_a_camera_that_gives_nothing_more_is_closed_under_its_read(segmenter: Segmenter) -> None:
    pulled = threading.Event()

    def script() -> Iterator[Frame]:
        yield from frames(2)
        pulled.wait(20)
        raise OSError("read of a closed camera")

    camera = Camera(script)
    camera.close = pulled.set  # type: ignore[method-assign]
    before, begin = threading.active_count(), time.monotonic()
    assert run_pipeline(segmenter, camera, [], max_frames=2).frames == 2
    assert time.monotonic() - begin < 2
    assert threading.active_count() == before


def test_progress_can_end_the_run_and_what_is_begun_is_written(segmenter: Segmenter) -> None:
    def script() -> Iterator[Frame]:
        index = 0
        while True:
            time.sleep(0.002)
            yield Frame(tiny.frame(), index, str(index), None)
            index += 1

    sink = Recorder()
    summary = run_pipeline(
        segmenter, Camera(script), [sink], on_progress=lambda s: False if s["delivered"] > 3 else None
    )
    assert summary.frames == len(sink.items) > 3
    assert summary.captured == summary.frames + summary.dropped
    assert sink.ended == ["closed"]

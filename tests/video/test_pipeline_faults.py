# SPDX-License-Identifier: Apache-2.0
"""A fault at every stage: the caller gets the error, every thread ends in time, finished work is kept."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imp_trt.errors import InvalidInput, OutputError, SourceError
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.video import run_pipeline
from imp_trt.video.sinks import JsonLines, OverlayVideo, SegmentedFrame
from imp_trt.video.sources import Frame
from imp_trt.video.stages import RunState
from tests.support import tiny
from tests.support.pipeline_ends import Recorder, frames


@pytest.fixture(autouse=True)
def _no_thread_is_left_and_nothing_takes_long() -> Iterator[None]:
    before, begin = set(threading.enumerate()), time.monotonic()
    yield
    assert time.monotonic() - begin < 8  # what hangs here hangs for ten seconds
    assert set(threading.enumerate()) <= before


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that will not end are left behind sooner than after two seconds."""
    monkeypatch.setattr("imp_trt.video.pipeline.JOIN_TIMEOUT_S", 0.6)


def endless() -> Iterator[Frame]:
    image, index = tiny.frame(), 0
    while True:
        yield Frame(image, index, str(index), None)
        index += 1


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("drive.mp4", r"open_source\(path\)"),
        (["front.mp4", "rear.mp4"], r"open_source\(path\)"),
        ([Path("front.mp4")], r"open_source\(path\)"),
        ([tiny.frame(), tiny.frame()], "Segmenter.stream"),
        (iter([tiny.frame()]), "Segmenter.stream"),
    ],
    ids=["path", "paths", "Path", "images", "iterator of images"],
)
def test_what_is_no_source_is_rejected_with_a_fix(segmenter: Segmenter, source: Any, fix: str) -> None:
    sink = Recorder()
    with pytest.raises(InvalidInput, match=fix):
        run_pipeline(segmenter, source, [sink])
    assert sink.ended == ["aborted"]


class Failing(Recorder):
    """A sink that fails at a given call."""

    def __init__(self, where: str, error: BaseException) -> None:
        super().__init__()
        self._where, self._error = where, error

    def _at(self, where: str) -> None:
        if where == self._where:
            raise self._error

    def __enter__(self) -> Any:
        self._at("enter")
        return self

    def write(self, item: SegmentedFrame) -> bool:
        self._at("write" if item.frame.index == 2 else "")
        return super().write(item)

    def close(self) -> None:
        self._at("close")
        super().close()


STAGES = ["source", "network", "drawing", "enter", "write", "close", "on_frame", "on_progress", "next source"]
ERRORS = [OSError("No space left on device"), KeyboardInterrupt(), SourceError("dead"), SystemExit(3)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("stage", STAGES)
def test_the_caller_gets_the_error_whatever_raises_it(
    stage: str,
    error: BaseException,
    segmenter: Segmenter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at(here: str) -> None:
        if stage == here:
            raise error

    def source(here: str) -> Iterator[Frame]:
        yield from frames(3)
        at(here)
        yield from frames(40)

    run, calls = segmenter.run, []

    def counted(image: object) -> SegmentationResult:
        calls.append(1)
        at("network" if len(calls) == 3 else "")
        return run(image)

    monkeypatch.setattr(segmenter, "run", counted)
    monkeypatch.setattr(SegmentationResult, "plot", lambda *a, **k: (at("drawing"), a[1])[1])
    first, failing = Recorder(), Failing(stage, error)
    sinks = [first, OverlayVideo(tmp_path / "o.mp4", 25), JsonLines(tmp_path / "r.jsonl"), failing]
    with pytest.raises(type(error)) as caught:
        run_pipeline(
            segmenter,
            [source("source"), source("next source")],
            sinks,
            on_frame=lambda n, r: at("on_frame" if n == 2 else ""),
            on_progress=lambda s: at("on_progress"),
        )
    assert caught.value is error
    if first.ended == ["aborted"]:  # no frame was done
        assert os.listdir(tmp_path) == []
    else:
        assert first.ended == ["closed"]
        lines = (tmp_path / "r.jsonl").read_text().splitlines()
        assert len(lines) >= len(first.written) > 0
    if stage in ("close", "next source"):
        assert first.ended == ["closed"]
    if stage in ("enter", "on_progress"):
        assert first.ended == ["aborted"]


def test_the_frames_before_a_dead_file_are_segmented_as_one_after_the_other(segmenter: Segmenter) -> None:
    def source() -> Iterator[Frame]:
        yield from frames(3)
        raise SourceError("cut short")

    calls: list[int] = []
    with pytest.raises(SourceError):
        run_pipeline(segmenter, source(), [], max_frames=4, on_frame=lambda n, r: calls.append(n))
    assert run_pipeline(segmenter, source(), [], max_frames=3).frames == 3


@pytest.mark.parametrize("error", [None, OSError("gone")])
def test_a_source_that_cannot_be_iterated(segmenter: Segmenter, error: OSError | None) -> None:
    class Source:
        def __iter__(self) -> Iterator[Frame]:
            raise error or TypeError("not opened")

    sink = Recorder()
    with pytest.raises((OSError, TypeError)):
        run_pipeline(segmenter, Source(), [sink])
    assert sink.ended == ["aborted"]


def test_a_generator_is_closed_in_the_thread_that_ran_it(segmenter: Segmenter) -> None:
    seen: list[str] = []

    def source() -> Iterator[Frame]:
        try:
            yield from endless()
        finally:
            seen.append(threading.current_thread().name)

    class Enough(Recorder):
        def write(self, item: SegmentedFrame) -> bool:
            return item.frame.index < 1

    assert run_pipeline(segmenter, source(), [Enough()]).frames == 2
    assert seen == ["imp-trt capture 0"]


def test_every_frame_is_accounted_for_when_a_sink_stops_an_endless_source(segmenter: Segmenter) -> None:
    class Enough(Recorder):
        def write(self, item: SegmentedFrame) -> bool:
            super().write(item)
            return item.frame.index < 4

    sink, snapshots = Enough(), []
    summary = run_pipeline(segmenter, endless(), [sink], on_progress=snapshots.append)
    assert (summary.frames, sink.written, sink.ended) == (5, [0, 1, 2, 3, 4], ["closed"])
    assert summary.captured == summary.frames + summary.dropped
    for seen in snapshots:
        assert seen["captured"] == seen["delivered"] + seen["dropped"] + seen["in_flight"]
    assert snapshots[-1]["in_flight"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("where", ["write", "on_frame"])
def test_a_consumer_that_stops_taking_frames_is_an_error(
    segmenter: Segmenter, where: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    stuck, freed = threading.Event(), threading.Event()
    now = [0.0]

    def clock() -> float:
        now[0] += 8.0 * stuck.is_set()  # it goes on while the sink keeps the frame
        return now[0]

    def block(here: str) -> None:
        if here == where:
            stuck.set()
            freed.wait(10)

    class Stuck(Recorder):
        def write(self, item: SegmentedFrame) -> bool:
            block("write")
            return super().write(item)

    sink = Stuck()
    with pytest.raises(OutputError, match="stalls"):
        run_pipeline(segmenter, endless(), [sink], on_frame=lambda n, r: block("on_frame"), clock=clock)
    assert stuck.is_set()
    assert "writing did not end" in caplog.text
    assert sink.ended == []  # it is still in use there
    freed.set()
    _joined("imp-trt writing")
    assert sink.ended == ["closed"]  # it has taken the frame in the end


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_a_run_that_was_stopped_within_a_write_goes_on(segmenter: Segmenter) -> None:
    """As by Ctrl-Z: when it continues, the clock says that the sink took a minute for a frame."""
    now = [0.0]

    class Slow(Recorder):
        def write(self, item: SegmentedFrame) -> bool:
            now[0] += 100.0
            time.sleep(0.4)  # longer than the caller waits between two checks
            return super().write(item)

    sink = Slow()
    run_pipeline(segmenter, frames(2), [sink], clock=lambda: now[0])
    assert sink.written == [0, 1]
    assert sink.ended == ["closed"]


def test_a_failure_does_not_wait_for_a_sink_that_is_stuck(segmenter: Segmenter) -> None:
    stuck, freed = threading.Event(), threading.Event()

    class Stuck(Recorder):
        def write(self, item: SegmentedFrame) -> bool:
            stuck.set()
            freed.wait(10)
            return True

    def source() -> Iterator[Frame]:
        yield from frames(1)
        assert stuck.wait(5)
        raise SourceError("unplugged")

    with pytest.raises(SourceError, match="unplugged"):
        run_pipeline(segmenter, source(), [Stuck()])
    freed.set()
    _joined("imp-trt writing")


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_a_late_failure_does_not_wait_for_a_sink_that_is_stuck(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source has ended, and the caller waits for the last frames."""
    stuck, freed = threading.Event(), threading.Event()

    class Stuck(Recorder):
        draws = True

        def write(self, item: SegmentedFrame) -> bool:
            stuck.set()
            freed.wait(10)
            return True

    drawn: list[int] = []

    def plot(*args: Any, **options: Any) -> Any:
        drawn.append(1)
        if len(drawn) == 2:
            assert stuck.wait(5)
            time.sleep(0.1)
            raise OSError("unreadable")
        return tiny.frame()

    monkeypatch.setattr(SegmentationResult, "plot", plot)
    begin = time.monotonic()
    with pytest.raises(OSError, match="unreadable"):
        run_pipeline(segmenter, frames(2), [Stuck()])
    assert time.monotonic() - begin < 3
    freed.set()
    _joined("imp-trt writing")


def test_the_first_of_two_errors_is_the_one(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    running = threading.Event()

    class Full(Recorder):
        def write(self, item: SegmentedFrame) -> bool:
            assert running.wait(5)
            raise OutputError("disk full")

    run, calls = segmenter.run, []

    def second(image: object) -> SegmentationResult:
        calls.append(1)
        if len(calls) < 2:
            return run(image)
        running.set()
        while not any("disk full" in str(e) for e in given):
            time.sleep(0.001)
        raise RuntimeError("because of that")

    given: list[BaseException] = []
    fail = RunState.fail
    monkeypatch.setattr(RunState, "fail", lambda self, error: (fail(self, error), given.append(error))[0])
    monkeypatch.setattr(segmenter, "run", second)
    with pytest.raises(OutputError, match="disk full"):
        run_pipeline(segmenter, frames(9), [Full()])
    assert len(given) == 2


@pytest.mark.slow
def test_a_source_that_is_stuck_does_not_hold_up_the_end(segmenter: Segmenter) -> None:
    freed = threading.Event()

    def source() -> Iterator[Frame]:
        yield from frames(1)
        freed.wait(10)

    class Full(Recorder):
        def write(self, item: SegmentedFrame) -> bool:
            raise OutputError("disk full")

    begin = time.monotonic()
    with pytest.raises(OutputError, match="disk full"):
        run_pipeline(segmenter, source(), [Full()])
    assert time.monotonic() - begin < 3  # two for the thread
    freed.set()
    _joined("imp-trt capture")


def test_a_thread_that_cannot_start_leaves_nothing(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start: Callable[[threading.Thread], None] = threading.Thread.start
    for rejected in ("writing", "drawing", "capture"):

        def limited(self: threading.Thread, rejected: str = rejected) -> None:
            if rejected in self.name:
                raise RuntimeError("can't start new thread")
            start(self)

        monkeypatch.setattr(threading.Thread, "start", limited)
        sink = Recorder()
        with pytest.raises(RuntimeError, match="new thread"):
            run_pipeline(segmenter, frames(3), [sink, JsonLines(tmp_path / "r.jsonl")])
        assert sink.ended == ["aborted"]
        assert os.listdir(tmp_path) == []


def test_a_closed_segmenter(tmp_path: Path) -> None:
    opened = Segmenter(tiny.artifact(tmp_path), threads=1)
    opened.close()
    with pytest.raises(InvalidInput, match="closed"):
        run_pipeline(opened, endless(), [])


def _joined(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith(name):
            thread.join(2)
            assert not thread.is_alive()

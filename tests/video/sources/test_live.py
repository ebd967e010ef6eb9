# SPDX-License-Identifier: Apache-2.0
"""Live sources: reconnection, time-outs, closing, by scripted cameras and a simulated clock."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

from imp_trt.errors import DependencyMissing, SourceError
from imp_trt.video.sources import LiveSource
from tests.support.scripted_camera import ScriptedCamera, SimulatedClock, absent


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(1.0)
        assert not thread.is_alive(), thread


def opened(camera: Callable[[], Any], clock: SimulatedClock, **options: Any) -> LiveSource:
    """Every image is delivered, and back-off takes simulated time."""
    return LiveSource("cam", camera, latest=False, clock=clock, sleep=clock.sleep, **options)


def levels(source: LiveSource, count: int | None = None) -> list[int]:
    return [int(frame.image[0, 0, 0]) for frame in islice(source, count)]


def test_frames_of_a_camera(caplog: pytest.LogCaptureFixture) -> None:
    clock = SimulatedClock()

    def tick() -> None:
        clock.now += 0.04

    with opened(ScriptedCamera([10, 20, 30], before_read=tick), clock) as source:
        assert (source.live, source.frames, source.paths, source.fps) == (True, None, (), None)
        frames = list(islice(source, 3))
    assert [f.index for f in frames] == [0, 1, 2]
    assert [f.name for f in frames] == ["000000", "000001", "000002"]
    assert [f.captured_s for f in frames] == pytest.approx([100.04, 100.08, 100.12])
    assert [f.time_s for f in frames] == pytest.approx([0, 0.04, 0.08])
    assert [int(f.image[0, 0, 0]) for f in frames] == [10, 20, 30]
    assert source.reconnects == source.dropped == 0
    assert "is closed" not in caplog.text
    assert list(source) == []
    assert "is closed and gives no more frames" in caplog.text


def test_unplugged_and_plugged_in_again() -> None:
    clock, events = SimulatedClock(), []
    camera = ScriptedCamera([10, 11, None], *[absent() for _ in range(7)], [50, 51])
    source = opened(camera, clock, on_event=lambda kind, text: events.append((kind, text)))
    with source:
        frames = list(islice(source, 4))
    assert [int(f.image[0, 0, 0]) for f in frames] == [10, 11, 50, 51]
    assert [f.index for f in frames] == [0, 1, 2, 3]
    assert clock.slept[:8] == [0.5, 1, 2, 4, 8, 10, 10, 10]
    assert frames[2].time_s == frames[3].time_s == 45.5  # goes on over the gap
    assert source.reconnects == 1
    assert [kind for kind, _ in events[:3]] == ["connected", "lost", "retry"]
    assert events[0][1] == "8x6"
    assert "next attempt in 0.5 s" in events[2][1]
    assert [kind for kind, _ in events].count("reconnected") == 1
    assert all(capture.released.is_set() for capture in camera.opened)


def test_delays_start_anew_after_a_frame_only() -> None:
    clock = SimulatedClock()
    with opened(ScriptedCamera([1, None], [], [], [2, None], [3]), clock) as source:
        assert levels(source, 3) == [1, 2, 3]
        assert source.reconnects == 2
    assert clock.slept[:4] == [0.5, 1, 2, 0.5]  # two connections in between opened but gave nothing


def test_reconnect_timeout() -> None:
    clock, kinds = SimulatedClock(), []
    camera = ScriptedCamera([1, 2])
    source = opened(camera, clock, reconnect_timeout_s=20.0, on_event=lambda kind, _: kinds.append(kind))
    frames = iter(source)
    assert [next(frames).index, next(frames).index] == [0, 1]
    with pytest.raises(SourceError, match="no frame for 20 s"):
        next(frames)
    assert clock.slept == [0.5, 1, 2, 4, 8, 4.5]  # the last attempt is at the limit
    assert camera.attempts == 7
    assert kinds[-1] == "gone"
    assert list(source) == []


@pytest.mark.parametrize(
    ("connection", "message"),
    [(absent(), "no such device"), ([], "none, although it opens"), ([None], "none, although it opens")],
)
def test_what_never_gives_a_frame_is_rejected_on_opening(connection: Any, message: str) -> None:
    camera = ScriptedCamera(connection, [1, 2, 3])
    with pytest.raises(SourceError, match=message):
        opened(camera, SimulatedClock())
    assert camera.attempts == 1  # a typing error is not tried again and again


def test_another_size_after_a_reconnection() -> None:
    with opened(ScriptedCamera([1], [np.zeros((4, 10, 3), np.uint8)]), SimulatedClock()) as source:
        assert [frame.image.shape for frame in islice(source, 2)] == [(6, 8, 3), (4, 10, 3)]


@pytest.mark.parametrize("error", [RuntimeError("driver"), MemoryError(), SourceError("torn")])
def test_errors_of_a_read_reach_the_caller_after_the_frames(error: BaseException) -> None:
    camera = ScriptedCamera([1, error])
    frames = iter(opened(camera, SimulatedClock()))
    assert next(frames).index == 0
    with pytest.raises(type(error)):
        next(frames)
    assert camera.opened[0].released.wait(1.0)


def test_a_missing_package_is_not_waited_for() -> None:
    clock = SimulatedClock()
    frames = iter(opened(ScriptedCamera([1], DependencyMissing("GStreamer")), clock))
    next(frames)
    with pytest.raises(DependencyMissing):
        next(frames)
    assert clock.slept == [0.5]


@pytest.mark.parametrize("kind", ["connected", "lost", "reconnected"])
def test_what_on_event_raises_reaches_the_caller(kind: str) -> None:
    def on_event(now: str, text: str) -> None:
        if now == kind:
            raise ValueError(now)

    with pytest.raises(ValueError, match=kind):
        levels(opened(ScriptedCamera([1], [2, 3]), SimulatedClock(), on_event=on_event), 3)


def test_a_slow_consumer_gets_the_newest_frame() -> None:
    turn = threading.Semaphore(1)
    camera = ScriptedCamera([0, 1, 2, 3, 4, 5, 6], before_read=turn.acquire)
    with LiveSource("cam", camera) as source:
        frames = iter(source)
        first = next(frames)
        for _ in range(4):
            turn.release()
        _until(lambda: source.dropped == 3)
        second = next(frames)
        turn.release()
        third = next(frames)
        turn.release(10)
    assert [f.index for f in (first, second, third)] == [0, 4, 5]
    assert [int(f.image[0, 0, 0]) for f in (first, second, third)] == [0, 4, 5]
    assert source.dropped == 3


def test_counting_begins_with_the_first_frame_that_is_taken() -> None:
    clock, turn = SimulatedClock(), threading.Semaphore(1)

    def tick() -> None:
        turn.acquire()
        clock.now += 1

    camera = ScriptedCamera([0, 1, 2, 3, 4], before_read=tick)
    with LiveSource("cam", camera, clock=clock) as source:  # a model is loaded meanwhile
        turn.release(2)
        _until(lambda: clock.now == 103)
        time.sleep(0.02)
        frames = iter(source)
        first = next(frames)
        turn.release()
        second = next(frames)
        turn.release(10)
    assert [int(f.image[0, 0, 0]) for f in (first, second)] == [2, 3]
    assert [(f.index, f.time_s, f.captured_s) for f in (first, second)] == [(0, 0.0, 103.0), (1, 1.0, 104.0)]
    assert source.dropped == 0


def test_nothing_is_replaced_when_the_reading_waits() -> None:
    turn = threading.Semaphore(1)
    with LiveSource("cam", ScriptedCamera([*range(50)], before_read=turn.acquire)) as source:
        source.latest = False
        turn.release(100)
        assert levels(source, 40) == [*range(40)]
    assert source.dropped == 0


@pytest.mark.slow
def test_closing_while_a_read_stalls() -> None:
    hang = threading.Event()
    camera = ScriptedCamera([1, lambda: hang.wait(5), 2])
    source = LiveSource("cam", camera)
    threading.Timer(0.05, source.close).start()
    start = time.monotonic()
    assert levels(source) == [1]
    assert time.monotonic() - start < 1.0
    source.close()
    assert time.monotonic() - start < 2.5
    assert not camera.opened[0].released.is_set()
    hang.set()
    assert camera.opened[0].released.wait(1.0)  # by the reader, when the call has returned


def test_closing_while_it_waits_for_the_next_attempt() -> None:
    lost = threading.Event()
    source = LiveSource("cam", ScriptedCamera([1]), on_event=lambda kind, _: kind == "lost" and lost.set())
    frames = iter(source)
    next(frames)
    assert lost.wait(1.0)
    start = time.monotonic()
    source.close()
    assert list(frames) == []
    assert time.monotonic() - start < 0.4


def test_closing_in_on_event() -> None:
    source: LiveSource | None = None

    def on_event(kind: str, text: str) -> None:
        if kind == "lost" and source is not None:
            source.close()

    source = opened(ScriptedCamera([1, 2, None], [3]), SimulatedClock(), on_event=on_event)
    assert levels(source) in ([1, 2], [1])  # closing discards what was not taken


def test_leaving_the_loop_and_the_block_releases_the_camera() -> None:
    camera = ScriptedCamera([*range(100)])
    with opened(camera, SimulatedClock()) as source:
        next(iter(source))
    assert camera.opened[0].released.is_set()


def test_a_read_that_stalls_is_abandoned() -> None:
    hang, events = threading.Event(), []
    camera = ScriptedCamera([1, lambda: hang.wait(5), 66], [2, 3])
    source = LiveSource(
        "cam",
        camera,
        latest=False,
        stall_s=0.1,
        sleep=lambda _: None,
        on_event=lambda kind, text: events.append((kind, text)),
    )
    frames = iter(source)
    assert [int(next(frames).image[0, 0, 0]) for _ in range(2)] == [1, 2]
    assert ("stalled", "no response for 0.1 s") in events
    hang.set()
    assert camera.opened[0].released.wait(1.0)
    assert int(next(frames).image[0, 0, 0]) == 3  # 66 came too late
    assert source.reconnects == 1
    source.close()


@pytest.mark.slow
def test_a_read_that_was_stopped_along_with_the_process_is_waited_for() -> None:
    camera = ScriptedCamera([1, lambda: time.sleep(1.2), 2])
    with LiveSource("cam", camera, latest=False, stall_s=1.0, reconnect_timeout_s=0) as source:
        assert [next(iter(source)).index for _ in range(2)] == [0, 1]
        assert source.reconnects == 0


@pytest.mark.slow
@pytest.mark.parametrize("where", ["opening", "reading"])
def test_hanging_from_the_start_is_rejected(where: str) -> None:
    hang = threading.Event()
    camera = ScriptedCamera([lambda: hang.wait(5), 1])

    def connect() -> Any:
        if where == "opening":
            hang.wait(5)
        return camera()

    with pytest.raises(SourceError, match=r"no response for 0\.05 s"):
        LiveSource("cam", connect, stall_s=0.05)
    hang.set()


def test_credentials_are_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    url, events = "rtsp://admin:s3cret@cam/1", []
    clock = SimulatedClock()
    camera = ScriptedCamera([1], SourceError(f"stream {url}"), [2])
    with caplog.at_level(logging.DEBUG, "imp_trt"):
        source = LiveSource(url, camera, latest=False, clock=clock, sleep=clock.sleep, reconnect_timeout_s=5,
                            on_event=lambda *event: events.append(event))  # fmt: skip
        with pytest.raises(SourceError) as caught:
            levels(source)
    assert source.name == "rtsp://***@cam/1"
    shown = " ".join([caplog.text, str(events), str(caught.value), source.name, str(threading.enumerate())])
    assert "retry" in shown
    assert "s3cret" not in shown
    assert "admin" not in shown
    levels_seen = {record.levelno for record in caplog.records}
    assert levels_seen == {logging.INFO, logging.WARNING}


def _until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 2
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)

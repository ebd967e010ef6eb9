# SPDX-License-Identifier: Apache-2.0
"""Streams whose frames arrive in bursts: their own times, at their own pace, without losses."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.errors import SourceError
from imp_trt.video.sources import LiveSource
from imp_trt.video.sources.pacing import MAX_LAG_S, StreamClock
from imp_trt.video.sources.reader import StreamEnded
from tests.support.scripted_camera import SimulatedClock

PERIOD_S = 0.1
SEGMENT = 20  # frames


class SegmentedStream:
    """One connection to an HLS stream: a segment is there when all of its frames have been produced."""

    def __init__(self, clock: SimulatedClock, frames: int, start: float = 0.0, delay_s: float = 0.0) -> None:
        self._clock, self._frames, self._start_s = clock, frames, start
        self._begin_s = clock.now + delay_s
        self._next = 0

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        if self._next == self._frames:
            return False, None
        available_s = self._begin_s + (self._next // SEGMENT + 1) * SEGMENT * PERIOD_S
        self._clock.now = max(self._clock.now, available_s) + 0.001
        self._next += 1
        return True, np.full((4, 4, 3), self._next % 250, np.uint8)

    def get(self, prop: int, /) -> float:
        if prop == cv2.CAP_PROP_POS_MSEC:
            return 1e3 * (self._start_s + (self._next - 1) * PERIOD_S)
        return 0.0

    def release(self) -> None: ...


class Stream:
    """A stream of several connections; it ends after the last."""

    def __init__(self, clock: SimulatedClock, connections: Sequence[tuple[int, float]]) -> None:
        self._clock, self._connections = clock, list(connections)

    def __call__(self) -> SegmentedStream:
        if not self._connections:
            raise StreamEnded
        frames, start = self._connections.pop(0)
        return SegmentedStream(self._clock, frames, start)


def test_frames_keep_the_times_of_the_stream_and_are_handed_over_at_its_pace() -> None:
    clock = SimulatedClock()
    source = LiveSource(
        "hls", Stream(clock, [(100, 7.0)]), latest=False, clock=clock, sleep=clock.sleep, paced=True
    )
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(100))
    assert [frame.time_s for frame in frames] == pytest.approx([i * PERIOD_S for i in range(100)])
    gaps = np.diff([frame.captured_s or 0.0 for frame in frames])
    assert gaps.max() < 1.3 * PERIOD_S
    assert gaps.min() > 0.7 * PERIOD_S
    assert source.dropped == 0


def test_without_pacing_the_times_are_those_of_the_bursts() -> None:
    """What the test above is about."""
    clock = SimulatedClock()
    source = LiveSource("hls", Stream(clock, [(100, 7.0)]), latest=False, clock=clock, sleep=clock.sleep)
    gaps = np.diff([frame.time_s or 0.0 for frame in source])
    assert (gaps < 0.05).mean() > 0.9


def test_a_stream_that_comes_back_goes_on_with_the_time_that_passed() -> None:
    clock = SimulatedClock()
    source = LiveSource(
        "hls",
        Stream(clock, [(20, 900.0), (20, 3.0)]),
        latest=False,
        clock=clock,
        sleep=clock.sleep,
        paced=True,
    )
    times = [frame.time_s or 0.0 for frame in source]
    assert source.reconnects == 1
    assert len(times) == 40
    assert times == sorted(times)
    assert 0.5 < times[20] - times[19] < 3.0  # the delay of the attempt, and the next segment
    assert np.diff(times[20:]) == pytest.approx(PERIOD_S)


def test_a_slow_consumer_loses_nothing_until_it_is_seconds_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """All segments are there. The consumer takes a frame every 0.15 s, the stream has one every 0.1 s."""
    now = [0.0]
    turn = threading.Condition()

    class There:
        count = 0

        def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
            self.count += 1
            return self.count <= 600, np.zeros((2, 2, 3), np.uint8)

        def get(self, prop: int, /) -> float:
            return 100.0 * self.count if prop == cv2.CAP_PROP_POS_MSEC else 0.0

        def release(self) -> None: ...

    opened = [There()]

    def connect() -> There:
        if not opened:
            raise StreamEnded
        return opened.pop()

    def sleep(seconds: float) -> None:
        until = now[0] + seconds
        with turn:
            turn.wait_for(lambda: now[0] >= until, 5)

    def advance(seconds: float) -> None:
        with turn:
            now[0] += seconds
            turn.notify_all()

    source = LiveSource("hls", connect, clock=lambda: now[0], sleep=sleep, paced=True)
    frames = iter(source)
    taken, dropped_at = [next(frames)], None
    for _ in range(300):
        advance(0.15)
        frame = next(frames)
        taken.append(frame)
        if dropped_at is None and source.dropped:
            dropped_at = now[0]
    source.close()
    # The lag grows by 0.05 s per frame and reaches the limit after 200 frames, 30 s.
    assert dropped_at is not None
    assert dropped_at > 0.8 * MAX_LAG_S * 0.15 / 0.05
    steps = np.diff([frame.index for frame in taken])
    assert (steps[:150] == 1).all()
    for frame in taken:
        assert frame.time_s == pytest.approx(frame.index * PERIOD_S)


def test_waiting_for_the_stream_shifts_the_schedule_and_waiting_for_the_consumer_does_not() -> None:
    clock = StreamClock()
    assert clock.place(5.0, 10.0, 10.0) == (0.0, 10.0)
    assert clock.place(5.1, 10.0, 10.01) == pytest.approx((0.1, 10.1), abs=1e-3)
    # The next segment is two seconds late: everything after it is later.
    assert clock.place(5.2, 10.1, 12.2) == pytest.approx((0.2, 12.2), abs=1e-3)
    assert clock.place(5.3, 12.2, 12.21) == pytest.approx((0.3, 12.3), abs=1e-3)
    # The consumer took two seconds: the frames after it are due, but not later.
    assert clock.place(5.4, 14.3, 14.31) == pytest.approx((0.4, 12.41), abs=1e-2)
    assert clock.place(5.5, 14.31, 14.32) == pytest.approx((0.5, 12.52), abs=1e-2)


@pytest.mark.parametrize("position", [math.nan, 0.0, -3.0, 1e9])
def test_positions_that_jump_become_the_time_that_passed(position: float) -> None:
    clock = StreamClock()
    clock.place(5.0, 10.0, 10.0)
    assert clock.place(position, 10.0, 11.5) == pytest.approx((1.5, 11.5), abs=5e-3)


def test_a_camera_that_is_gone_is_still_an_error_when_paced() -> None:
    clock = SimulatedClock()
    connections = [SegmentedStream(clock, 20)]

    def connect() -> SegmentedStream:
        if not connections:
            raise SourceError("gone")
        return connections.pop()

    source = LiveSource("hls", connect, latest=False, clock=clock, sleep=clock.sleep, paced=True)
    with pytest.raises(SourceError, match="no frame for 300 s"):
        list(source)

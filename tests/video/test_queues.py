# SPDX-License-Identifier: Apache-2.0
"""The frame queue: blocking, drop policies, and consistent counts at every moment."""

from __future__ import annotations

import heapq
import time
from threading import Thread
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imp_trt.errors import InvalidInput
from imp_trt.video.queues import POLICIES, Counts, FrameQueue, Policy


def total(frame_queue: FrameQueue[int]) -> Counts:
    counts = frame_queue.counts()
    for one in counts:
        assert one.captured == one.delivered + one.dropped + one.in_flight
        assert min(vars(one).values()) >= 0
    return Counts(*(sum(getattr(c, name) for c in counts) for name in vars(counts[0])))


def drain(frame_queue: FrameQueue[int]) -> list[int]:
    taken = []
    while (item := frame_queue.get(0)) is not None:
        taken.append(item[1])
        frame_queue.complete(item[0])
    return taken


@pytest.mark.parametrize(("policy", "kept"), [("drop-oldest", [4, 5]), ("drop-newest", [0, 1])])
def test_full_channel_applies_its_policy(policy: Policy, kept: list[int]) -> None:
    frame_queue: FrameQueue[int] = FrameQueue([policy], size=2, max_outstanding=1)
    assert all(frame_queue.put(0, i) for i in range(6))
    assert total(frame_queue) == Counts(6, 0, 4, 2)
    assert drain(frame_queue) == kept
    assert total(frame_queue) == Counts(6, 2, 4, 0)


def test_full_channel_with_policy_wait_blocks_put() -> None:
    frame_queue: FrameQueue[int] = FrameQueue(["wait"], size=2, max_outstanding=9)
    source = Thread(target=lambda: [frame_queue.put(0, i) for i in range(5)], daemon=True)
    source.start()
    taken = []
    for _ in range(5):
        item = frame_queue.get(2)
        assert item is not None
        taken.append(item[1])
        # Two are queued in the channel, one is in a blocked put().
        assert total(frame_queue).in_flight - len(taken) <= 3
    source.join(2)
    assert taken == [0, 1, 2, 3, 4]
    assert total(frame_queue) == Counts(5, 0, 0, 5)


def test_stop_unblocks_put_and_drops_queued_frames() -> None:
    frame_queue: FrameQueue[int] = FrameQueue(["wait"], size=1, max_outstanding=9)
    answers: list[bool] = []
    source = Thread(target=lambda: answers.extend(frame_queue.put(0, i) for i in range(3)), daemon=True)
    source.start()
    while total(frame_queue).captured < 2:
        time.sleep(0.001)
    frame_queue.stop()
    source.join(2)
    assert not source.is_alive()
    assert answers == [True, False, False]
    assert total(frame_queue) == Counts(2, 0, 2, 0)
    assert frame_queue.exhausted()
    assert frame_queue.get(0) is None


def test_only_so_many_frames_are_out_and_the_next_is_the_freshest() -> None:
    frame_queue: FrameQueue[int] = FrameQueue(["drop-oldest"], size=1, max_outstanding=2)
    for i in range(2):
        frame_queue.put(0, i)
        assert frame_queue.get(0) == (0, i)
    frame_queue.put(0, 2)
    assert frame_queue.get(0) is None
    frame_queue.put(0, 3)
    frame_queue.complete(0)
    assert frame_queue.get(0) == (0, 3)
    frame_queue.drop(0)
    assert total(frame_queue) == Counts(4, 1, 2, 1)


def test_take_waits_for_a_frame_and_for_the_end() -> None:
    frame_queue: FrameQueue[int] = FrameQueue(["wait"], size=1, max_outstanding=1)
    assert frame_queue.get(0.01) is None
    assert not frame_queue.exhausted()
    begin = time.monotonic()
    Thread(target=frame_queue.close, args=[0], daemon=True).start()
    assert frame_queue.get(5) is None
    assert time.monotonic() - begin < 2
    assert frame_queue.exhausted()


def test_waiting_sources_are_read_in_turn_whichever_is_faster() -> None:
    frame_queue: FrameQueue[str] = FrameQueue(["wait"] * 3, size=9, max_outstanding=99, round_robin=True)
    for name in ("c0", "c1", "c2"):
        frame_queue.put(2, name)
    assert frame_queue.get(0) is None  # the turn is the first source's
    for name in ("a0", "a1"):
        frame_queue.put(0, name)
    frame_queue.put(1, "b0")
    frame_queue.close(1)
    order = [item[1] for _ in range(5) if (item := frame_queue.get(0))]
    assert order == ["a0", "b0", "c0", "a1", "c1"]
    assert frame_queue.get(0) is None  # the first source may have more
    frame_queue.close(0)
    assert frame_queue.get(0) == (2, "c2")


def test_sources_that_drop_do_not_wait_for_each_other() -> None:
    frame_queue: FrameQueue[str] = FrameQueue(["drop-oldest"] * 2, size=2, max_outstanding=99)
    for name in ("b0", "b1"):
        frame_queue.put(1, name)
    assert frame_queue.get(0) == (1, "b0")
    frame_queue.put(0, "a0")
    assert [frame_queue.get(0), frame_queue.get(0)] == [(0, "a0"), (1, "b1")]


def test_expired_frames_are_dropped() -> None:
    now = 0.0
    frame_queue: FrameQueue[float] = FrameQueue(
        ["drop-oldest"], size=3, max_outstanding=9, expired=lambda at: now - at > 0.05
    )
    for at in (0.0, 0.03, 0.06):
        frame_queue.put(0, at)
    now = 0.085
    assert frame_queue.get(0) == (0, 0.06)
    assert frame_queue.counts() == [Counts(3, 0, 2, 1)]
    waits: FrameQueue[float] = FrameQueue(["wait"], size=3, max_outstanding=9, expired=lambda at: True)
    waits.put(0, 0.0)
    assert waits.get(0) == (0, 0.0)


@pytest.mark.parametrize("round_robin", [False, True])
def test_error_of_a_source_is_raised_after_its_frames(round_robin: bool) -> None:
    frame_queue: FrameQueue[int] = FrameQueue(
        ["wait", "wait"], size=3, max_outstanding=9, round_robin=round_robin
    )
    frame_queue.put(0, 1)
    frame_queue.close(0, OSError("unplugged"))
    frame_queue.close(1)
    assert frame_queue.get(0) == (0, 1)
    assert not frame_queue.exhausted()
    with pytest.raises(OSError, match="unplugged"):
        frame_queue.get(0)
    assert frame_queue.exhausted()
    stopped: FrameQueue[int] = FrameQueue(["wait"], size=3, max_outstanding=9)
    stopped.stop()
    stopped.close(0, OSError("closed"))
    assert stopped.get(0) is None


@pytest.mark.parametrize(("policies", "size", "limit"), [(["later"], 1, 1), ([], 1, 1), (["wait"], 0, 1)])
def test_invalid_arguments_are_rejected(policies: list[Policy], size: int, limit: int) -> None:
    with pytest.raises(InvalidInput):
        FrameQueue(policies, size, limit)


@pytest.mark.parametrize("interval_ms", [10, 40, 100])
@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_against_slow_equal_and_fast_sources(policy: Policy, interval_ms: int) -> None:
    """Simulated source with a fixed interval and network with 40 ms: dropped frames and age of results."""
    events: list[tuple[int, int, Literal["frame", "done"], int]] = [
        (i * interval_ms, 1, "frame", i) for i in range(60)
    ]
    frame_queue: FrameQueue[int] = FrameQueue([policy], size=2, max_outstanding=1)
    pending: list[int] = []  # a source that is held up keeps its frames
    ages, busy, results = [], False, []
    while events:
        now, _, kind, index = heapq.heappop(events)
        if kind == "frame":
            pending.append(index)
        else:
            busy = False
            frame_queue.complete(0)
            ages.append(now - index * interval_ms)
            results.append(index)
        while pending and (policy != "wait" or total(frame_queue).in_flight - busy < 2):
            assert frame_queue.put(0, pending.pop(0))
        if not busy and (item := frame_queue.get(0)) is not None:
            busy = True
            heapq.heappush(events, (now + 40, 0, "done", item[1]))
        assert total(frame_queue).in_flight <= 3
    assert not pending
    assert results == sorted(results)
    assert total(frame_queue).in_flight == 0
    if policy == "wait" or interval_ms >= 40:
        assert results == list(range(60))
    else:
        # Four frames arrive while one is segmented: about one in four is delivered.
        assert 15 <= len(results) <= 18
        assert total(frame_queue).dropped == 60 - len(results)
    if policy != "wait":
        # At most two frames are queued before it; with drop-oldest, one interval less.
        assert max(ages) <= 120
    if policy == "drop-oldest":
        # The last two are not replaced by newer frames.
        assert max(ages[:-2]) <= 40 + 2 * interval_ms


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(POLICIES), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from(["put", "get", "complete", "drop", "close", "stop"]), st.integers(0, 2))
    ),
)
def test_every_frame_is_counted_exactly_once(
    policies: list[Policy], size: int, limit: int, round_robin: bool, steps: list[tuple[str, int]]
) -> None:
    frame_queue: FrameQueue[int] = FrameQueue(policies, size, limit, round_robin)
    captured = 0
    last = [-1] * len(policies)
    out: list[int] = []
    waiting = [0] * len(policies)
    for kind, number in steps:
        channel = number % len(policies)
        if kind == "put" and (policies[channel] != "wait" or waiting[channel] < size):
            frame_queue.put(channel, captured)
            captured += 1
        elif kind == "get" and (item := frame_queue.get(0)) is not None:
            assert item[1] > last[item[0]]  # order within a source
            last[item[0]] = item[1]
            out.append(item[0])
        elif kind in ("complete", "drop") and out:
            getattr(frame_queue, kind)(out.pop(0))
        elif kind == "close":
            frame_queue.close(channel)
        elif kind == "stop":
            frame_queue.stop()
        counts = total(frame_queue)
        waiting = [c.in_flight - out.count(i) for i, c in enumerate(frame_queue.counts())]
        assert len(out) <= limit
        assert all(0 <= n <= size for n in waiting)
        assert counts.captured <= captured
    frame_queue.stop()
    for channel in out:
        frame_queue.drop(channel)
    assert total(frame_queue).in_flight == 0

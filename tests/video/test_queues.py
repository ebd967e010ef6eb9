"""Who waits, what is dropped, and that every frame is accounted for at every moment."""

from __future__ import annotations

import heapq
import time
from threading import Thread
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imp_trt.errors import InvalidInput
from imp_trt.video.queues import POLICIES, Counts, Intake, Policy


def total(intake: Intake[int]) -> Counts:
    counts = intake.counts()
    for one in counts:
        assert one.captured == one.delivered + one.dropped + one.in_flight
        assert min(vars(one).values()) >= 0
    return Counts(*(sum(getattr(c, name) for c in counts) for name in vars(counts[0])))


def drain(intake: Intake[int]) -> list[int]:
    taken = []
    while (got := intake.take(0)) is not None:
        taken.append(got[1])
        intake.deliver(got[0])
    return taken


@pytest.mark.parametrize(("policy", "kept"), [("drop-oldest", [4, 5]), ("drop-newest", [0, 1])])
def test_a_full_lane_drops_by_its_policy(policy: Policy, kept: list[int]) -> None:
    intake: Intake[int] = Intake([policy], size=2, limit=1)
    assert all(intake.offer(0, i) for i in range(6))
    assert total(intake) == Counts(6, 0, 4, 2)
    assert drain(intake) == kept
    assert total(intake) == Counts(6, 2, 4, 0)


def test_a_full_lane_that_waits_holds_its_source_up() -> None:
    intake: Intake[int] = Intake(["wait"], size=2, limit=9)
    source = Thread(target=lambda: [intake.offer(0, i) for i in range(5)], daemon=True)
    source.start()
    taken = []
    for _ in range(5):
        got = intake.take(2)
        assert got is not None
        taken.append(got[1])
        # Two wait in the lane, one at the door.
        assert total(intake).in_flight - len(taken) <= 3
    source.join(2)
    assert taken == [0, 1, 2, 3, 4]
    assert total(intake) == Counts(5, 0, 0, 5)


def test_stop_frees_a_source_that_waits_and_drops_what_waits() -> None:
    intake: Intake[int] = Intake(["wait"], size=1, limit=9)
    answers: list[bool] = []
    source = Thread(target=lambda: answers.extend(intake.offer(0, i) for i in range(3)), daemon=True)
    source.start()
    while total(intake).captured < 2:
        time.sleep(0.001)
    intake.stop()
    source.join(2)
    assert not source.is_alive()
    assert answers == [True, False, False]
    assert total(intake) == Counts(2, 0, 2, 0)
    assert intake.over()
    assert intake.take(0) is None


def test_only_so_many_frames_are_out_and_the_next_is_the_freshest() -> None:
    intake: Intake[int] = Intake(["drop-oldest"], size=1, limit=2)
    for i in range(2):
        intake.offer(0, i)
        assert intake.take(0) == (0, i)
    intake.offer(0, 2)
    assert intake.take(0) is None
    intake.offer(0, 3)
    intake.deliver(0)
    assert intake.take(0) == (0, 3)
    intake.drop(0)
    assert total(intake) == Counts(4, 1, 2, 1)


def test_take_waits_for_a_frame_and_for_the_end() -> None:
    intake: Intake[int] = Intake(["wait"], size=1, limit=1)
    assert intake.take(0.01) is None
    assert not intake.over()
    begin = time.monotonic()
    Thread(target=intake.end, args=[0], daemon=True).start()
    assert intake.take(5) is None
    assert time.monotonic() - begin < 2
    assert intake.over()


def test_waiting_sources_are_read_in_turn_whichever_is_faster() -> None:
    intake: Intake[str] = Intake(["wait"] * 3, size=9, limit=99, in_turn=True)
    for name in ("c0", "c1", "c2"):
        intake.offer(2, name)
    assert intake.take(0) is None  # the turn is the first source's
    for name in ("a0", "a1"):
        intake.offer(0, name)
    intake.offer(1, "b0")
    intake.end(1)
    order = [got[1] for _ in range(5) if (got := intake.take(0))]
    assert order == ["a0", "b0", "c0", "a1", "c1"]
    assert intake.take(0) is None  # the first source may have more
    intake.end(0)
    assert intake.take(0) == (2, "c2")


def test_sources_that_drop_do_not_wait_for_each_other() -> None:
    intake: Intake[str] = Intake(["drop-oldest"] * 2, size=2, limit=99)
    for name in ("b0", "b1"):
        intake.offer(1, name)
    assert intake.take(0) == (1, "b0")
    intake.offer(0, "a0")
    assert [intake.take(0), intake.take(0)] == [(0, "a0"), (1, "b1")]


def test_frames_past_their_deadline_are_dropped_when_their_turn_comes() -> None:
    now = 0.0
    intake: Intake[float] = Intake(["drop-oldest"], size=3, limit=9, expired=lambda at: now - at > 0.05)
    for at in (0.0, 0.03, 0.06):
        intake.offer(0, at)
    now = 0.085
    assert intake.take(0) == (0, 0.06)
    assert intake.counts() == [Counts(3, 0, 2, 1)]
    waits: Intake[float] = Intake(["wait"], size=3, limit=9, expired=lambda at: True)
    waits.offer(0, 0.0)
    assert waits.take(0) == (0, 0.0)


@pytest.mark.parametrize("in_turn", [False, True])
def test_the_error_of_a_source_comes_after_its_frames(in_turn: bool) -> None:
    intake: Intake[int] = Intake(["wait", "wait"], size=3, limit=9, in_turn=in_turn)
    intake.offer(0, 1)
    intake.end(0, OSError("unplugged"))
    intake.end(1)
    assert intake.take(0) == (0, 1)
    assert not intake.over()
    with pytest.raises(OSError, match="unplugged"):
        intake.take(0)
    assert intake.over()
    stopped: Intake[int] = Intake(["wait"], size=3, limit=9)
    stopped.stop()
    stopped.end(0, OSError("closed"))
    assert stopped.take(0) is None


@pytest.mark.parametrize(("policies", "size", "limit"), [(["later"], 1, 1), ([], 1, 1), (["wait"], 0, 1)])
def test_nonsense_is_refused(policies: list[Policy], size: int, limit: int) -> None:
    with pytest.raises(InvalidInput):
        Intake(policies, size, limit)


@pytest.mark.parametrize("interval_ms", [10, 40, 100])
@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_against_slow_equal_and_fast_sources(policy: Policy, interval_ms: int) -> None:
    """A source with a rhythm, a network that takes 40 ms, simulated: what is lost and how old results are."""
    events: list[tuple[int, int, Literal["frame", "done"], int]] = [
        (i * interval_ms, 1, "frame", i) for i in range(60)
    ]
    intake: Intake[int] = Intake([policy], size=2, limit=1)
    pending: list[int] = []  # a source that is held up keeps its frames
    ages, busy, results = [], False, []
    while events:
        now, _, kind, index = heapq.heappop(events)
        if kind == "frame":
            pending.append(index)
        else:
            busy = False
            intake.deliver(0)
            ages.append(now - index * interval_ms)
            results.append(index)
        while pending and (policy != "wait" or total(intake).in_flight - busy < 2):
            assert intake.offer(0, pending.pop(0))
        if not busy and (got := intake.take(0)) is not None:
            busy = True
            heapq.heappush(events, (now + 40, 0, "done", got[1]))
        assert total(intake).in_flight <= 3
    assert not pending
    assert results == sorted(results)
    assert total(intake).in_flight == 0
    if policy == "wait" or interval_ms >= 40:
        assert results == list(range(60))
    else:
        # Four frames come while one is segmented: about one in four gets through.
        assert 15 <= len(results) <= 18
        assert total(intake).dropped == 60 - len(results)
    if policy != "wait":
        # At most two frames wait before it, or one interval less than that with the oldest dropped.
        assert max(ages) <= 120
    if policy == "drop-oldest":
        # The last two have nothing behind them that makes them go.
        assert max(ages[:-2]) <= 40 + 2 * interval_ms


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(POLICIES), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from(["offer", "take", "deliver", "drop", "end", "stop"]), st.integers(0, 2))
    ),
)
def test_nothing_is_ever_lost_or_counted_twice(
    policies: list[Policy], size: int, limit: int, in_turn: bool, steps: list[tuple[str, int]]
) -> None:
    intake: Intake[int] = Intake(policies, size, limit, in_turn)
    offered = 0
    last = [-1] * len(policies)
    out: list[int] = []
    waiting = [0] * len(policies)
    for kind, number in steps:
        lane = number % len(policies)
        if kind == "offer" and (policies[lane] != "wait" or waiting[lane] < size):
            intake.offer(lane, offered)
            offered += 1
        elif kind == "take" and (got := intake.take(0)) is not None:
            assert got[1] > last[got[0]]  # order within a source
            last[got[0]] = got[1]
            out.append(got[0])
        elif kind in ("deliver", "drop") and out:
            getattr(intake, kind)(out.pop(0))
        elif kind == "end":
            intake.end(lane)
        elif kind == "stop":
            intake.stop()
        counts = total(intake)
        waiting = [c.in_flight - out.count(i) for i, c in enumerate(intake.counts())]
        assert len(out) <= limit
        assert all(0 <= n <= size for n in waiting)
        assert counts.captured <= offered
    intake.stop()
    for lane in out:
        intake.drop(lane)
    assert total(intake).in_flight == 0

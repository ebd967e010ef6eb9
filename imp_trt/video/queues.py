"""Frames that wait for the network: bounded, by policy, and an account of what became of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import Generic, Literal, TypeVar

from imp_trt.errors import InvalidInput

Policy = Literal["wait", "drop-oldest", "drop-newest"]
POLICIES: tuple[Policy, ...] = ("wait", "drop-oldest", "drop-newest")

_T = TypeVar("_T")

# Every wait ends by an event; this is how often it looks again in case an event was lost.
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Counts:
    """What became of the frames of one source: captured = delivered + dropped + in_flight.

    Attributes:
        captured: frames that the source gave.
        delivered: frames that every sink has taken.
        dropped: frames that made room for others, came too late, or were left when the run ended.
        in_flight: frames that wait or are worked on.
    """

    captured: int
    delivered: int
    dropped: int
    in_flight: int


@dataclass
class _Lane(Generic[_T]):
    policy: Policy
    waiting: deque[_T] = field(default_factory=deque)
    ended: bool = False
    error: BaseException | None = None
    captured: int = 0
    delivered: int = 0
    dropped: int = 0
    in_flight: int = 0

    def drop(self, count: int = 1) -> None:
        self.dropped += count
        self.in_flight -= count


class Intake(Generic[_T]):
    """Where capture threads leave frames and one consumer takes them.

    Each source has a lane of its own, in which order is kept. One lock guards frames and counts, so that
    a snapshot is never torn. A frame that was taken stays in flight until deliver() or drop() says what
    became of it; at most ``limit`` are out at a time, and the next is chosen when one of them is done, so
    that the freshest goes to the network instead of ageing behind it.

    Args:
        policies: one per lane. "wait": a full lane holds up its source. "drop-oldest" and "drop-newest":
            a full lane drops the frame that waits longest, or the one that comes.
        size: frames that may wait in a lane.
        limit: frames that may be out.
        in_turn: take from the lanes strictly in turn, waiting for each: the order of the frames then does
            not depend on which source is faster.
        expired: a frame for which this is true is dropped when its turn comes; not in lanes that wait.

    Raises:
        InvalidInput: an unknown policy, no lane, or a size or limit below 1.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        size: int,
        limit: int,
        in_turn: bool = False,
        expired: Callable[[_T], bool] | None = None,
    ) -> None:
        for policy in policies:
            if policy not in POLICIES:
                raise InvalidInput("policy", expected=" or ".join(POLICIES), got=policy)
        if not policies or size < 1 or limit < 1:
            raise InvalidInput(
                "pipeline", expected="a source, and room for a frame", got=(len(policies), size, limit)
            )
        self._lanes: list[_Lane[_T]] = [_Lane(policy) for policy in policies]
        self._size = size
        self._limit = limit
        self._in_turn = in_turn
        self._expired = expired
        self._out = 0
        self._next = 0
        self._stopped = False
        self._changed = Condition()

    def offer(self, lane: int, item: _T) -> bool:
        """Leave a captured frame; returns when there is room for it, or it or another was dropped.

        Returns:
            False if no more frames are wanted.
        """
        with self._changed:
            if self._stopped:
                return False
            to = self._lanes[lane]
            to.captured += 1
            to.in_flight += 1
            while to.policy == "wait" and len(to.waiting) >= self._size and not self._stopped:
                self._changed.wait(_LOOK_AGAIN_S)
            if self._stopped:
                to.drop()
                return False
            if len(to.waiting) >= self._size:
                to.drop()
                if to.policy == "drop-newest":
                    return True
                to.waiting.popleft()
            to.waiting.append(item)
            self._changed.notify_all()
            return True

    def end(self, lane: int, error: BaseException | None = None) -> None:
        """No more frames come from this source; take() raises error after the last of them.

        Not after stop(): a read that fails then only says that its camera was closed.
        """
        with self._changed:
            self._lanes[lane].ended = True
            self._lanes[lane].error = None if self._stopped else error
            self._changed.notify_all()

    def take(self, timeout_s: float) -> tuple[int, _T] | None:
        """The next frame and its lane; None if there is none within timeout_s or ever again.

        Raises:
            BaseException: the error that ended a lane, when it is that lane's turn.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready() is not None or self._over(), timeout_s)
            lane = self._ready()
            if lane is None:
                return None
            taken = self._lanes[lane]
            if not taken.waiting and taken.error is not None:
                error, taken.error = taken.error, None
                raise error
            self._next = (lane + 1) % len(self._lanes)
            self._out += 1
            item = taken.waiting.popleft()
            self._changed.notify_all()
            return lane, item

    def deliver(self, lane: int) -> None:
        """A frame that was taken has reached every sink."""
        with self._changed:
            self._lanes[lane].delivered += 1
            self._lanes[lane].in_flight -= 1
            self._out -= 1
            self._changed.notify_all()

    def drop(self, lane: int) -> None:
        """A frame that was taken is given up."""
        with self._changed:
            self._lanes[lane].drop()
            self._out -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Take no more frames and drop those that wait; idempotent."""
        with self._changed:
            self._stopped = True
            for lane in self._lanes:
                lane.drop(len(lane.waiting))
                lane.waiting.clear()
                lane.error = None
            self._changed.notify_all()

    def over(self) -> bool:
        """Whether no frame will ever be taken again."""
        with self._changed:
            return self._over()

    def counts(self) -> list[Counts]:
        """One account per lane, all of the same moment."""
        with self._changed:
            return [Counts(x.captured, x.delivered, x.dropped, x.in_flight) for x in self._lanes]

    def _over(self) -> bool:
        return self._stopped or all(
            lane.ended and not lane.waiting and lane.error is None for lane in self._lanes
        )

    def _ready(self) -> int | None:
        """The lane whose frame, or error, is next; None if nobody may take one now."""
        if self._out >= self._limit:
            return None
        for step in range(len(self._lanes)):
            index = (self._next + step) % len(self._lanes)
            lane = self._lanes[index]
            while lane.policy != "wait" and lane.waiting and self._is_expired(lane.waiting[0]):
                lane.waiting.popleft()
                lane.drop()
            if lane.waiting or lane.error is not None:
                return index
            if self._in_turn and not lane.ended:
                return None
        return None

    def _is_expired(self, item: _T) -> bool:
        return self._expired is not None and self._expired(item)

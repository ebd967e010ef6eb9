# SPDX-License-Identifier: Apache-2.0
"""Bounded queues of captured frames with a drop policy, and counts of what happened to each frame."""

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

# Every wait ends with a notification. The condition is also polled, in case a notification was lost.
_POLL_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Counts:
    """Frame counts of one source: captured = delivered + dropped + in_flight.

    Attributes:
        captured: frames that the source produced.
        delivered: frames that every sink has taken.
        dropped: frames that were replaced by others, expired, or were left when the run ended.
        in_flight: frames that are queued or being processed.
    """

    captured: int
    delivered: int
    dropped: int
    in_flight: int


@dataclass
class _Channel(Generic[_T]):
    policy: Policy
    queued: deque[_T] = field(default_factory=deque)
    closed: bool = False
    error: BaseException | None = None
    captured: int = 0
    delivered: int = 0
    dropped: int = 0
    in_flight: int = 0

    def drop(self, count: int = 1) -> None:
        self.dropped += count
        self.in_flight -= count


class FrameQueue(Generic[_T]):
    """Queue between capture threads (producers) and the thread that runs the network (consumer).

    Each source has a channel of its own, which keeps the order of its frames. One lock guards frames and
    counts, so that a snapshot is consistent. A frame returned by get() stays in flight until complete() or
    drop() is called for it. At most ``max_outstanding`` frames are in that state. The next frame is chosen
    when one of them is finished, so that the network gets the newest frame rather than one that was chosen
    early and has aged since.

    Args:
        policies: one per channel. "wait": put() blocks while the channel is full. "drop-oldest" and
            "drop-newest": a full channel drops its oldest frame, or the new one.
        size: maximum number of queued frames per channel.
        max_outstanding: maximum number of frames between get() and complete() or drop().
        round_robin: get() visits the channels strictly in turn and waits for each, so that the order of
            the frames does not depend on which source is faster.
        expired: predicate; a queued frame for which it is true is dropped instead of being returned. Not
            applied to channels with the policy "wait".

    Raises:
        InvalidInput: an unknown policy, no channel, or a size or max_outstanding below 1.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        size: int,
        max_outstanding: int,
        round_robin: bool = False,
        expired: Callable[[_T], bool] | None = None,
    ) -> None:
        for policy in policies:
            if policy not in POLICIES:
                raise InvalidInput("policy", expected=" or ".join(POLICIES), got=policy)
        if not policies or size < 1 or max_outstanding < 1:
            raise InvalidInput(
                "pipeline",
                expected="at least one source and a queue size of at least 1",
                got=(len(policies), size, max_outstanding),
            )
        self._channels: list[_Channel[_T]] = [_Channel(policy) for policy in policies]
        self._size = size
        self._max_outstanding = max_outstanding
        self._round_robin = round_robin
        self._expired = expired
        self._outstanding = 0
        self._next = 0
        self._stopped = False
        self._changed = Condition()

    def put(self, channel: int, item: _T) -> bool:
        """Add a captured frame. Blocks only under the policy "wait".

        Returns:
            False if the queue was stopped and takes no more frames.
        """
        with self._changed:
            if self._stopped:
                return False
            target = self._channels[channel]
            target.captured += 1
            target.in_flight += 1
            while target.policy == "wait" and len(target.queued) >= self._size and not self._stopped:
                self._changed.wait(_POLL_INTERVAL_S)
            if self._stopped:
                target.drop()
                return False
            if len(target.queued) >= self._size:
                target.drop()
                if target.policy == "drop-newest":
                    return True
                target.queued.popleft()
            target.queued.append(item)
            self._changed.notify_all()
            return True

    def close(self, channel: int, error: BaseException | None = None) -> None:
        """Mark the end of a source. get() raises error after the last queued frame of the channel.

        After stop(), error is ignored: a read that fails then is the result of closing the camera.
        """
        with self._changed:
            self._channels[channel].closed = True
            self._channels[channel].error = None if self._stopped else error
            self._changed.notify_all()

    def get(self, timeout_s: float) -> tuple[int, _T] | None:
        """Return the next frame and its channel; None after timeout_s, or if the queue is exhausted.

        Raises:
            BaseException: the error that a channel was closed with, when it is that channel's turn.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready() is not None or self._exhausted(), timeout_s)
            index = self._ready()
            if index is None:
                return None
            channel = self._channels[index]
            if not channel.queued and channel.error is not None:
                error, channel.error = channel.error, None
                raise error
            self._next = (index + 1) % len(self._channels)
            self._outstanding += 1
            item = channel.queued.popleft()
            self._changed.notify_all()
            return index, item

    def complete(self, channel: int) -> None:
        """Report that every sink has taken a frame that get() returned."""
        with self._changed:
            self._channels[channel].delivered += 1
            self._channels[channel].in_flight -= 1
            self._outstanding -= 1
            self._changed.notify_all()

    def drop(self, channel: int) -> None:
        """Report that a frame that get() returned was discarded."""
        with self._changed:
            self._channels[channel].drop()
            self._outstanding -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Drop all queued frames and accept no more; idempotent."""
        with self._changed:
            self._stopped = True
            for channel in self._channels:
                channel.drop(len(channel.queued))
                channel.queued.clear()
                channel.error = None
            self._changed.notify_all()

    def exhausted(self) -> bool:
        """Whether get() can never return a frame again."""
        with self._changed:
            return self._exhausted()

    def counts(self) -> list[Counts]:
        """Counts per channel, all taken at the same moment."""
        with self._changed:
            return [Counts(c.captured, c.delivered, c.dropped, c.in_flight) for c in self._channels]

    def _exhausted(self) -> bool:
        return self._stopped or all(c.closed and not c.queued and c.error is None for c in self._channels)

    def _ready(self) -> int | None:
        """Index of the channel whose frame or error is next; None if there is none at the moment."""
        if self._outstanding >= self._max_outstanding:
            return None
        for step in range(len(self._channels)):
            index = (self._next + step) % len(self._channels)
            channel = self._channels[index]
            while channel.policy != "wait" and channel.queued and self._is_expired(channel.queued[0]):
                channel.queued.popleft()
                channel.drop()
            if channel.queued or channel.error is not None:
                return index
            if self._round_robin and not channel.closed:
                return None
        return None

    def _is_expired(self, item: _T) -> bool:
        return self._expired is not None and self._expired(item)

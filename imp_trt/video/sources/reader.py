# SPDX-License-Identifier: Apache-2.0
"""Reader thread of a live source, and the single-frame slot between reader and consumer."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import SourceError
from imp_trt.video.sources.captures import Capture
from imp_trt.video.sources.frame import Frame
from imp_trt.video.sources.pacing import MAX_LAG_S, StreamClock

INITIAL_DELAY_S = 0.5
MAX_DELAY_S = 10.0

Event = Literal["connected", "lost", "retry", "reconnected", "stalled", "gone"]

T = TypeVar("T")


class StreamEnded(Exception):
    """A live stream has ended, and opening it again would play it from its start."""


class Backoff:
    """Exponential backoff between connection attempts: 0.5 s, 1 s, 2 s, ... 10 s.

    Args:
        timeout_s: seconds without a frame after which there is no further attempt.
        clock: monotonic clock in seconds.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float]) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._lost_s: float | None = None
        self._delay_s = INITIAL_DELAY_S

    @property
    def lost(self) -> bool:
        """Whether the connection was lost since the last frame."""
        return self._lost_s is not None

    def start(self) -> None:
        """Record the loss of the connection; no effect if it is already lost."""
        if self._lost_s is None:
            self._lost_s = self._clock()

    def reset(self) -> None:
        """Record a frame. Opening alone does not count, because a failing camera may open repeatedly."""
        self._lost_s, self._delay_s = None, INITIAL_DELAY_S

    def next_delay(self) -> float | None:
        """Seconds to wait before the next attempt; None after the timeout. The last attempt is at it."""
        left = math.inf if self._lost_s is None else self._lost_s + self.timeout_s - self._clock()
        if left <= 0:
            return None
        delay = min(self._delay_s, left)
        self._delay_s = min(2 * self._delay_s, MAX_DELAY_S)
        return delay


class FrameSlot:
    """Single-frame buffer between the reader thread and the consumer.

    Only the owner, the current reader, may put frames. A reader that was abandoned in a native call and
    returns later is no longer the owner and ends.

    Args:
        latest: a newer frame replaces one that was not taken; False: the reader waits.

    Attributes:
        dropped: number of frames that were replaced. This number, frame indices and frame times start with
            the first frame that is taken, because a model may be loaded after its camera is opened.
        count: number of frames put so far.
    """

    def __init__(self, latest: bool) -> None:
        self.latest = latest
        self.dropped = 0
        self.count = 0
        self.owner: Reader | None = None
        self.closed = threading.Event()
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._first_s = 0.0
        self._taken = False

    def is_owned_by(self, reader: Reader) -> bool:
        """Whether reader is the owner and the slot is open."""
        return self.owner is reader and not self.closed.is_set()

    def put(
        self,
        reader: Reader,
        image: NDArray[np.uint8],
        captured_s: float,
        stream_s: float | None = None,
        until: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Store an image [h, w, 3] uint8 BGR; False if the reader must end.

        Args:
            stream_s: time of the frame in the stream; default: captured_s.
            until: whether the image may replace one that was not taken; polled while waiting.
        """
        stamp_s = captured_s if stream_s is None else stream_s
        with self._changed:
            while self._frame is not None and self.is_owned_by(reader) and self._must_wait(until):
                self._changed.wait(0.1)
            if not self.is_owned_by(reader):
                return False
            if self._frame is not None and self._taken:
                self.dropped += 1
            elif self._frame is not None:
                self.count = 0
            if not self.count:
                self._first_s = stamp_s
            index, self.count = self.count, self.count + 1
            time_s = stamp_s - self._first_s
            self._frame = Frame(image, index, f"{index:06d}", time_s, captured_s)
            self._changed.notify_all()
            return True

    def _must_wait(self, until: Callable[[], bool]) -> bool:
        return not self.latest or (self._taken and not until())

    def end(self, reader: Reader) -> None:
        """End the iteration after the stored frame."""
        with self._changed:
            if self.is_owned_by(reader):
                self._ended = True
                self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether there are no more frames."""
        with self._changed:
            return self.closed.is_set() or (self._ended and self._frame is None)

    def fail(self, reader: Reader, error: BaseException) -> None:
        """Raise error in the consumer's wait(), after the stored frame."""
        with self._changed:
            if self.is_owned_by(reader):
                self._error = error
                self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until there is a frame or the slot has ended; False on timeout.

        Raises:
            BaseException: the error that the reader failed with.
        """
        with self._changed:
            if not (self._frame is not None or self._error is not None or self._is_over()):
                self._changed.wait(seconds)
            if self._frame is not None or self._is_over():
                return True
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            return False

    def _is_over(self) -> bool:
        return self._ended or self.closed.is_set()

    def get(self) -> Frame | None:
        """Remove and return the frame; None if there is none."""
        with self._changed:
            frame, self._frame = self._frame, None
            self._taken = self._taken or frame is not None
            self._changed.notify_all()
            return frame

    def close(self) -> None:
        """Discard the frame, accept no more, and wake all waiting threads."""
        with self._changed:
            self.closed.set()
            self._frame = None
            self._changed.notify_all()


class Reader(threading.Thread):
    """Opens, reads and reopens a device as long as it owns the slot.

    A daemon thread, because OpenCV's calls cannot be interrupted and may outlast the program.

    Args:
        notify: called with events, see LiveSource.
        stalled: message of the first event, if this reader replaces one whose call stalled.
        pace: clock of a stream whose frames are handed over when they are due; None: as they arrive.

    Attributes:
        fps: frames per second as reported by the device or stream, None if unknown.
    """

    def __init__(
        self,
        name: str,
        slot: FrameSlot,
        connect: Callable[[], Capture],
        backoff: Backoff,
        *,
        notify: Callable[[Event, str], None],
        clock: Callable[[], float],
        sleep: Callable[[float], object],
        stalled: str | None = None,
        pace: StreamClock | None = None,
    ) -> None:
        super().__init__(name=f"read {name}", daemon=True)
        self._source, self._slot, self._connect, self._backoff = name, slot, connect, backoff
        self._notify, self._clock, self._sleep = notify, clock, sleep
        self._stalled = stalled
        self._pace = pace
        self._since: float | None = None
        self.fps: float | None = None

    def time_left(self, limit_s: float) -> float:
        """Seconds until the native call in progress, if any, has taken limit_s."""
        since = self._since
        return limit_s if since is None else since + limit_s - self._clock()

    def run(self) -> None:
        """Body of the thread."""
        try:
            if self._stalled is not None:
                self._mark_lost("stalled", self._stalled)
            while (capture := self._open()) is not None:
                try:
                    self._read_frames(capture)
                finally:
                    capture.release()
        except StreamEnded:
            self._slot.end(self)
        except BaseException as error:
            self._slot.fail(self, error)

    def _open(self) -> Capture | None:
        """Connect, with backoff after failures; None if the reader must end."""
        while self._slot.is_owned_by(self):
            if self._backoff.lost and not self._wait_for_retry():
                break
            try:
                return self._call(self._connect)
            except SourceError as error:
                if not self._slot.count:
                    raise
                self._mark_lost("lost", str(error))
        return None

    def _wait_for_retry(self) -> bool:
        delay = self._backoff.next_delay()
        if delay is None:
            text = f"no frame for {self._backoff.timeout_s:g} s"
            self._notify("gone", text)
            raise SourceError(
                f"source {self._source}", expected="a camera or stream that can be reconnected", got=text
            )
        self._notify("retry", f"next attempt in {delay:g} s")
        self._sleep(delay)
        return self._slot.is_owned_by(self)

    def _read_frames(self, capture: Capture) -> None:
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else None
        if self._pace is not None:
            self._pace.restart()
        while self._slot.is_owned_by(self):
            ready_s = self._clock()
            done, image = self._call(capture.read)
            read_s = self._clock()
            if not done or image is None:
                self._handle_read_failure()
                return
            if self._backoff.lost or not self._slot.count:
                self._mark_connected(image)
            if not self._put(image, capture, ready_s, read_s):
                return

    def _put(self, image: NDArray[np.uint8], capture: Capture, ready_s: float, read_s: float) -> bool:
        if self._pace is None:
            return self._slot.put(self, image, read_s)
        milliseconds = capture.get(cv2.CAP_PROP_POS_MSEC)
        stream_s, due_s = self._pace.place(milliseconds / 1e3, ready_s, read_s)
        if due_s > read_s:
            self._sleep(due_s - read_s)
        latest_s = due_s + MAX_LAG_S
        return self._slot.put(self, image, max(due_s, read_s), stream_s, lambda: self._clock() > latest_s)

    def _handle_read_failure(self) -> None:
        if not self._slot.count:
            raise SourceError(
                f"source {self._source}",
                expected="a frame",
                got="none, although it opens",
                fix="test it with another program; a camera that is in use may deliver none, and a stream "
                "with a frame every few seconds needs a longer read timeout (read_timeout_s of open_source, "
                "imp-segment --read-timeout)",
            )
        self._mark_lost("lost", "no more frames")

    def _mark_connected(self, image: NDArray[np.uint8]) -> None:
        if not self._slot.is_owned_by(self):
            return
        event: Event = "reconnected" if self._backoff.lost else "connected"
        self._backoff.reset()
        height, width = image.shape[:2]
        self._notify(event, f"{width}x{height}" + (f" at {self.fps:g} frames/s" if self.fps else ""))

    def _mark_lost(self, event: Event, text: str) -> None:
        if self._slot.is_owned_by(self):
            already_lost = self._backoff.lost
            self._backoff.start()
            self._notify("retry" if already_lost else event, text)

    def _call(self, native: Callable[[], T]) -> T:
        self._since = self._clock()
        try:
            return native()
        finally:
            self._since = None

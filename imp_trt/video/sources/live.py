# SPDX-License-Identifier: Apache-2.0
"""Cameras and streams, read in a background thread and reconnected after failures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imp_trt._deprecated import renamed_parameters
from imp_trt.data.native_calls import call_after_fork
from imp_trt.errors import SourceError, printable
from imp_trt.video.sources.addresses import redacted
from imp_trt.video.sources.captures import Capture, inherited
from imp_trt.video.sources.frame import Frame
from imp_trt.video.sources.pacing import StreamClock
from imp_trt.video.sources.reader import Backoff, Event, FrameSlot, Reader
from imp_trt.video.sources.source import ClosingSource, Source, warn_of_no_frames

RECONNECT_TIMEOUT_S = 300.0
# Longer than OpenCV's own timeouts: 5 s set for streams, 10 s in its V4L2 backend.
STALL_TIMEOUT_S = 15.0
_JOIN_TIMEOUT_S = 0.5
_RESUME_S = 1.0

OnEvent = Callable[[Event, str], None]

_log = logging.getLogger(__name__)


class LiveSource(ClosingSource):
    """Frames of a camera or stream; reconnects after failures. See :class:`Source`.

    Opening waits for the first frame, so that a device that delivers none fails early. When a read fails
    later, the device is reopened after 0.5 s, 1 s, 2 s, ... 10 s until it delivers a frame. Frame indices
    continue after a reconnection; the size of the frames may change. ``time_s`` is seconds since the first
    frame. ``captured_s`` is the time at which the read returned; the latency of camera, network and decoder
    before that is unknown.

    Streams such as HLS hand over seconds of video at once. Paced, their frames keep the times of the stream,
    and each is handed over when it is due: reading waits in between, and for the consumer, so that the rest
    stays compressed in the stream's own buffer and memory does not grow. A consumer that is fast enough on
    average loses no frame. Behind one that is not, frames are dropped once it is MAX_LAG_S late.

    Native reads cannot be interrupted, so they run in a daemon thread. Closing, from any thread, ends the
    iteration immediately. A read that takes longer than stall_s counts as a failure and is abandoned.
    The end of the process waits for a read in progress, at most LONGEST_WAIT_S of
    :mod:`imp_trt.data.native_calls`.

    Args:
        name: name or address; credentials are removed.
        connect: opens the device, or raises SourceError. Called in the reading thread.
        latest: a slow consumer gets the newest frame, and the others are counted in ``dropped`` (their
            indices are missing). False: reading waits for the consumer, and the stream's own buffer fills.
        reconnect_timeout_s: raise SourceError after this time without a frame; 0 does so at once, math.inf
            retries indefinitely.
        stall_s: maximum duration of one native call.
        paced: see above.
        on_event: called in the reading thread with an event ("connected", "lost", "retry", "reconnected",
            "stalled", "gone") and a message. An exception that it raises propagates to the iteration.
        clock: monotonic clock in seconds.
        sleep: waits between attempts; default: until the time is over or the source is closed.

    Attributes:
        reconnects: number of reconnections.
        paced: whether the frames are handed over at the stream's own pace.

    Raises:
        SourceError: it cannot be opened, or delivers no frame; during iteration: reconnecting timed out.
    """

    live = True
    frames: int | None = None
    paths: tuple[Path, ...] = ()

    @renamed_parameters(give_up_s="reconnect_timeout_s")
    def __init__(
        self,
        name: str,
        connect: Callable[[], Capture],
        *,
        latest: bool = True,
        reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
        stall_s: float = STALL_TIMEOUT_S,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        paced: bool = False,
    ) -> None:
        self.paced = paced
        self._pace = StreamClock() if paced else None
        self.name = redacted(name)
        self.reconnects = 0
        self._connect, self._on_event, self._clock, self._stall_s = connect, on_event, clock, stall_s
        self._slot = FrameSlot(latest)
        self._sleep = sleep or self._slot.closed.wait
        self._backoff = Backoff(reconnect_timeout_s, clock)
        self._reader = self._start_reader()
        call_after_fork(self)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def after_fork(self) -> None:
        """See :class:`imp_trt.data.native_calls.Inherited`: the reader is a thread of the parent."""
        self._slot = FrameSlot(self._slot.latest)
        self._slot.owner = self._reader
        self._slot.fail(self._reader, inherited(self.name))

    @property
    def fps(self) -> float | None:
        """Frames per second as reported by the device or stream; None if unknown."""
        return self._reader.fps

    @property
    def dropped(self) -> int:
        """Number of frames that were replaced by newer ones before they were taken."""
        return self._slot.dropped

    @property
    def latest(self) -> bool:
        """Whether newer frames replace those that were not taken."""
        return self._slot.latest

    @latest.setter
    def latest(self, value: bool) -> None:
        self._slot.latest = value

    def __enter__(self) -> Source:
        return self

    def __iter__(self) -> Iterator[Frame]:
        if self._slot.ended:
            warn_of_no_frames(self.name, self._slot.closed.is_set())
        while not self._slot.ended:
            try:
                self._wait()
            except BaseException:
                self.close()
                raise
            frame = self._slot.get()
            if frame is not None:
                yield frame

    def close(self) -> None:
        """End the iteration immediately and release the device; idempotent, thread-safe.

        If a native read is still running, the device is released when it returns.
        """
        self._slot.close()
        if self._reader is not threading.current_thread():
            self._reader.join(_JOIN_TIMEOUT_S)

    def _start_reader(self, stalled: str | None = None) -> Reader:
        reader = Reader(
            self.name,
            self._slot,
            self._connect,
            self._backoff,
            notify=self._notify,
            clock=self._clock,
            sleep=self._sleep,
            stalled=stalled,
            pace=self._pace,
        )
        self._slot.owner = reader
        reader.start()
        return reader

    def _wait(self) -> None:
        """Wait until there is a frame, or the source is closed."""
        while not self._slot.wait(max(self._reader.time_left(self._stall_s), 0.0)):
            if self._reader.time_left(self._stall_s) > 0:
                continue
            # If the process was stopped meanwhile, as by Ctrl-Z, the read ends now.
            if self._slot.wait(min(self._stall_s, _RESUME_S)):
                return
            text = f"no response for {self._stall_s:g} s"
            if not self._slot.count:
                what = f"source {self.name}"
                raise SourceError(what, expected="a frame", got=text, fix="test it with another program")
            self._reader = self._start_reader(stalled=text)

    def _notify(self, event: Event, text: str) -> None:
        text = printable(redacted(text))
        self.reconnects += event == "reconnected"
        level = logging.WARNING if event in ("lost", "stalled", "gone") else logging.INFO
        _log.log(level, "%s: %s", self.name, text)
        if self._on_event is not None:
            self._on_event(event, text)

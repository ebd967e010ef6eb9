"""Cameras and streams: read beside the program, and reconnected when they fail."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imp_trt.errors import SourceError
from imp_trt.video.sources.addresses import redacted
from imp_trt.video.sources.captures import Capture
from imp_trt.video.sources.frame import Frame
from imp_trt.video.sources.reader import BackOff, Reader, Slot
from imp_trt.video.sources.source import ClosingSource, Source

GIVE_UP_S = 300.0
# Longer than the time-outs of OpenCV's own: 5 s set for streams, 10 s in its V4L2 reader.
STALL_S = 15.0
_JOIN_S = 0.5

OnEvent = Callable[[str, str], None]

_log = logging.getLogger(__name__)


class LiveSource(ClosingSource):
    """Pictures of a camera or stream; reconnects when it fails. See :class:`Source`.

    Opening waits for the first picture, so that what never gives one is refused there. Later, when a read
    fails, it is opened again after 0.5 s, 1 s, 2 s, ... 10 s, until a picture has come. Frames count on
    after a reconnection; they may then have another size. ``time_s`` is seconds since the first picture,
    ``captured_s`` the clock when the read returned: the time before, in camera, network and decoder, is
    unknown.

    Native reads cannot be interrupted, so they run in a daemon thread: closing, from any thread, ends the
    iteration at once, and a read that hangs longer than stall_s counts as a failure and is left behind.

    Args:
        name: what is opened; credentials are removed.
        connect: opens it, or raises SourceError. Called in the reading thread.
        latest: whoever takes frames slowly gets the newest picture, the others are counted in ``dropped``
            (their indices are missing); False: the reading waits, and the stream's own buffer fills.
        give_up_s: raise SourceError when there was no picture for so long; math.inf to try for ever.
        stall_s: longest time for one native call.
        on_event: called in the reading thread with what happened ("connected", "lost", "retry",
            "reconnected", "stalled", "gone") and a text; what it raises reaches whoever iterates.
        clock: monotonic seconds.
        sleep: waits between attempts; default: until the time is over or the source is closed.

    Attributes:
        reconnects: how often it came back.

    Raises:
        SourceError: it cannot be opened, or gives no picture; while iterating: it stayed away.
    """

    live = True
    frames: int | None = None
    paths: tuple[Path, ...] = ()

    def __init__(
        self,
        name: str,
        connect: Callable[[], Capture],
        *,
        latest: bool = True,
        give_up_s: float = GIVE_UP_S,
        stall_s: float = STALL_S,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.name = redacted(name)
        self.reconnects = 0
        self._connect, self._on_event, self._clock, self._stall_s = connect, on_event, clock, stall_s
        self._slot = Slot(latest)
        self._sleep = sleep or self._slot.closed.wait
        self._back_off = BackOff(give_up_s, clock)
        self._reader = self._start_reader()
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def fps(self) -> float | None:
        """Frames per second as the device or stream says; None if it does not."""
        return self._reader.fps

    @property
    def dropped(self) -> int:
        """How many pictures were replaced by newer ones before they were taken."""
        return self._slot.dropped

    @property
    def latest(self) -> bool:
        """Whether newer pictures replace those that were not taken."""
        return self._slot.latest

    @latest.setter
    def latest(self, value: bool) -> None:
        self._slot.latest = value

    def __enter__(self) -> Source:
        return self

    def __iter__(self) -> Iterator[Frame]:
        while not self._slot.closed.is_set():
            try:
                self._wait()
            except BaseException:
                self.close()
                raise
            frame = self._slot.take()
            if frame is not None:
                yield frame

    def close(self) -> None:
        """End the iteration at once and release the device; idempotent, from any thread.

        A read that hangs releases it when it returns.
        """
        self._slot.close()
        if self._reader is not threading.current_thread():
            self._reader.join(_JOIN_S)

    def _start_reader(self, stalled: str | None = None) -> Reader:
        reader = Reader(
            self.name,
            self._slot,
            self._connect,
            self._back_off,
            tell=self._tell,
            clock=self._clock,
            sleep=self._sleep,
            stalled=stalled,
        )
        self._slot.owner = reader
        reader.start()
        return reader

    def _wait(self) -> None:
        """Until there is a frame, or the source is closed."""
        while not self._slot.wait(max(self._reader.time_left(self._stall_s), 0.0)):
            if self._reader.time_left(self._stall_s) > 0:
                continue
            text = f"no answer for {self._stall_s:g} s"
            if not self._slot.filled:
                what = f"source {self.name}"
                raise SourceError(what, expected="a picture", got=text, fix="see if another program shows it")
            self._reader = self._start_reader(stalled=text)

    def _tell(self, kind: str, text: str) -> None:
        text = redacted(text)
        self.reconnects += kind == "reconnected"
        grave = kind in ("lost", "stalled", "gone")
        _log.log(logging.WARNING if grave else logging.INFO, "%s: %s", self.name, text)
        if self._on_event is not None:
            self._on_event(kind, text)

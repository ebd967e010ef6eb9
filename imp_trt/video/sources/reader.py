"""The thread that reads a live source, and the slot it hands pictures over in."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import SourceError
from imp_trt.video.sources.captures import Capture
from imp_trt.video.sources.frame import Frame

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0

T = TypeVar("T")


class BackOff:
    """How long to wait before the next attempt: 0.5 s, 1 s, 2 s, ... 10 s.

    Args:
        give_up_s: seconds without a picture after which there is no further attempt.
        clock: monotonic seconds.
    """

    def __init__(self, give_up_s: float, clock: Callable[[], float]) -> None:
        self.give_up_s = give_up_s
        self._clock = clock
        self._lost_s: float | None = None
        self._delay_s = FIRST_DELAY_S

    @property
    def lost(self) -> bool:
        """Whether there was a loss since the last picture."""
        return self._lost_s is not None

    def lose(self) -> None:
        """No picture from now on; further failures until the next picture change nothing."""
        if self._lost_s is None:
            self._lost_s = self._clock()

    def found(self) -> None:
        """A picture came. Opening alone does not count: a dying camera may open again and again."""
        self._lost_s, self._delay_s = None, FIRST_DELAY_S

    def next_delay(self) -> float | None:
        """Seconds to wait before the next attempt; None to give up. The last attempt is at the limit."""
        left = math.inf if self._lost_s is None else self._lost_s + self.give_up_s - self._clock()
        if left <= 0:
            return None
        delay = min(self._delay_s, left)
        self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
        return delay


class Slot:
    """Room for one frame between the reader and whoever takes frames.

    Only the owner, the reader in charge, may fill it: one that was left behind in a native call and comes
    back later finds that it no longer counts.

    Args:
        latest: a newer frame replaces one that was not taken; False: the reader waits.

    Attributes:
        dropped: frames that were replaced. Counting, of these and of indices and seconds, begins with the
            first frame that is taken: a model may be loaded after its camera is opened.
        filled: frames put in so far.
    """

    def __init__(self, latest: bool) -> None:
        self.latest = latest
        self.dropped = 0
        self.filled = 0
        self.owner: Reader | None = None
        self.closed = threading.Event()
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._error: BaseException | None = None
        self._first_s = 0.0
        self._taken = False

    def belongs_to(self, reader: Reader) -> bool:
        """Whether reader shall go on."""
        return self.owner is reader and not self.closed.is_set()

    def put(self, reader: Reader, image: NDArray[np.uint8], captured_s: float) -> bool:
        """Hand image [h, w, 3] over; False when the reader shall end."""
        with self._changed:
            while not self.latest and self._frame is not None and self.belongs_to(reader):
                self._changed.wait(1.0)
            if not self.belongs_to(reader):
                return False
            if self._frame is not None and self._taken:
                self.dropped += 1
            elif self._frame is not None:
                self.filled = 0
            if not self.filled:
                self._first_s = captured_s
            index, self.filled = self.filled, self.filled + 1
            time_s = captured_s - self._first_s
            self._frame = Frame(image, index, f"{index:06d}", time_s, captured_s)
            self._changed.notify_all()
            return True

    def fail(self, reader: Reader, error: BaseException) -> None:
        """Have error raised where frames are taken, after the frame that lies here."""
        with self._changed:
            if self.belongs_to(reader):
                self._error = error
                self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Until there is a frame to take, at most so long; also True when the slot is closed.

        Raises:
            What the reader failed with.
        """
        with self._changed:
            if self._frame is None and self._error is None and not self.closed.is_set():
                self._changed.wait(seconds)
            if self._frame is not None or self.closed.is_set():
                return True
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            return False

    def take(self) -> Frame | None:
        """The frame, which leaves the slot."""
        with self._changed:
            frame, self._frame = self._frame, None
            self._taken = self._taken or frame is not None
            self._changed.notify_all()
            return frame

    def close(self) -> None:
        """Nothing goes in or out any more; whoever waits is woken."""
        with self._changed:
            self.closed.set()
            self._frame = None
            self._changed.notify_all()


class Reader(threading.Thread):
    """Opens, reads, and opens again, as long as the slot belongs to it.

    A daemon: OpenCV's calls cannot be interrupted, and one may last longer than the program.

    Args:
        tell: called with what happens, see LiveSource.
        stalled: what to tell first, if this reader comes in the place of one whose call hangs.

    Attributes:
        fps: frames per second as the device or stream says, None if it does not.
    """

    def __init__(
        self,
        name: str,
        slot: Slot,
        connect: Callable[[], Capture],
        back_off: BackOff,
        *,
        tell: Callable[[str, str], None],
        clock: Callable[[], float],
        sleep: Callable[[float], object],
        stalled: str | None = None,
    ) -> None:
        super().__init__(name=f"read {name}", daemon=True)
        self._source, self._slot, self._connect, self._back_off = name, slot, connect, back_off
        self._tell, self._clock, self._sleep = tell, clock, sleep
        self._stalled = stalled
        self._since: float | None = None
        self.fps: float | None = None

    def time_left(self, limit_s: float) -> float:
        """Seconds until the native call under way, if any, has lasted limit_s."""
        since = self._since
        return limit_s if since is None else since + limit_s - self._clock()

    def run(self) -> None:
        """The thread."""
        try:
            if self._stalled is not None:
                self._lose("stalled", self._stalled)
            while (capture := self._opened()) is not None:
                try:
                    self._pump(capture)
                finally:
                    capture.release()
        except BaseException as error:
            self._slot.fail(self, error)

    def _opened(self) -> Capture | None:
        """The next connection; None when the reader shall end."""
        while self._slot.belongs_to(self):
            if self._back_off.lost and not self._waited():
                break
            try:
                return self._call(self._connect)
            except SourceError as error:
                if not self._slot.filled:
                    raise
                self._lose("lost", str(error))
        return None

    def _waited(self) -> bool:
        delay = self._back_off.next_delay()
        if delay is None:
            text = f"no picture for {self._back_off.give_up_s:g} s"
            self._tell("gone", text)
            raise SourceError(
                f"source {self._source}", expected="a camera or stream that comes back", got=text
            )
        self._tell("retry", f"next attempt in {delay:g} s")
        self._sleep(delay)
        return self._slot.belongs_to(self)

    def _pump(self, capture: Capture) -> None:
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else None
        while self._slot.belongs_to(self):
            done, image = self._call(capture.read)
            now = self._clock()
            if not done or image is None:
                self._end_of_pictures()
                return
            if self._back_off.lost or not self._slot.filled:
                self._welcome(image)
            if not self._slot.put(self, image, now):
                return

    def _end_of_pictures(self) -> None:
        if not self._slot.filled:
            raise SourceError(
                f"source {self._source}",
                expected="a picture",
                got="none, though it opens",
                fix="see if another program shows it; a camera may give none while it is in use",
            )
        self._lose("lost", "no picture any more")

    def _welcome(self, image: NDArray[np.uint8]) -> None:
        if not self._slot.belongs_to(self):
            return
        kind = "reconnected" if self._back_off.lost else "connected"
        self._back_off.found()
        height, width = image.shape[:2]
        self._tell(kind, f"{width}x{height}" + (f" at {self.fps:g} frames/s" if self.fps else ""))

    def _lose(self, kind: str, text: str) -> None:
        if self._slot.belongs_to(self):
            again = self._back_off.lost
            self._back_off.lose()
            self._tell("retry" if again else kind, text)

    def _call(self, native: Callable[[], T]) -> T:
        self._since = self._clock()
        try:
            return native()
        finally:
            self._since = None

"""The newest picture of every source, and what each picture took: all that viewers can ask for."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from typing import NamedTuple

from imp_trt.video.sinks import Segmented

MAX_SAMPLES = 3600
"""Pictures whose times are kept: two minutes at 30 a second."""

MAX_HELD = 4
"""Pictures that paused viewers look at and that are kept for them; the one unasked for longest goes first."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture with its number, which counts from 1 over all sources."""

    sequence: int
    item: Segmented


class Sample(NamedTuple):
    """What one picture took, in milliseconds; None where nobody measured.

    `seconds` count from the beginning of the view; `infer` is the network, `total` the whole call of the
    segmenter, `age` the way from the camera to the result.
    """

    sequence: int
    seconds: float
    source: str
    infer: float | None
    total: float | None
    age: float | None


class Latest:
    """Written by one thread, which is never made to wait; read by any number.

    Args:
        clock: monotonic, in seconds.

    Attributes:
        run: "live", then "ended" or "failed".
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._changed = Condition()
        self._sequence = 0
        self._newest: dict[str, Shown] = {}
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        self._held: OrderedDict[int, Shown] = OrderedDict()
        self.run = "live"

    def seconds(self) -> float:
        """Since the beginning of the view."""
        return self._clock() - self._start

    def put(self, item: Segmented) -> None:
        """Take a picture in place of the source's last one."""
        timing, age, now = item.result.timing, item.age_s, self._clock()
        if age is None and item.frame.captured_s is not None:
            age = now - item.frame.captured_s  # of a file nobody else tells it
        with self._changed:
            self._sequence += 1
            self._newest[item.source] = Shown(self._sequence, item)
            self._samples.append(
                Sample(
                    self._sequence,
                    now - self._start,
                    item.source,
                    timing.get("infer"),
                    timing.get("total"),
                    None if age is None else age * 1e3,
                )
            )
            self._changed.notify_all()

    def end(self, run: str) -> None:
        """No more pictures come; everyone who waits goes home."""
        with self._changed:
            self.run = run
            self._changed.notify_all()

    def sources(self) -> list[str]:
        """Names of the sources that have sent a picture, the first one first."""
        with self._changed:
            return list(self._newest)

    def newest(self, source: str) -> Shown | None:
        """The newest picture of a source; of the first one if there is none of that name."""
        with self._changed:
            return self._find(source)

    def newer(self, after: int, source: str, timeout: float) -> Shown | None:
        """A picture with a higher number; None if none comes within timeout seconds, or no more come."""

        def there() -> bool:
            shown = self._find(source)
            return self.run != "live" or (shown is not None and shown.sequence > after)

        with self._changed:
            self._changed.wait_for(there, timeout)
            shown = self._find(source)
        return shown if shown is not None and shown.sequence > after else None

    def _find(self, source: str) -> Shown | None:
        return self._newest.get(source) or next(iter(self._newest.values()), None)

    def samples(self, after: int) -> list[Sample]:
        """Those with a higher number than after, oldest first."""
        with self._changed:
            return [sample for sample in self._samples if sample.sequence > after]

    def hold(self, shown: Shown) -> None:
        """Keep a picture for a viewer who has paused."""
        with self._changed:
            self._held[shown.sequence] = shown
            self._held.move_to_end(shown.sequence)
            while len(self._held) > MAX_HELD:
                self._held.popitem(last=False)

    def held(self, sequence: int) -> Shown | None:
        """A picture that was kept; None if it had to go."""
        with self._changed:
            if sequence in self._held:
                self._held.move_to_end(sequence)
            return self._held.get(sequence)

# SPDX-License-Identifier: Apache-2.0
"""Store of the newest frame of each source, and of the timing of recent frames, for the viewers."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from typing import NamedTuple

from imp_trt.video.sinks import SegmentedFrame

MAX_SAMPLES = 3600
"""Number of frames whose timing is kept: two minutes at 30 frames/s."""

MAX_HELD = 4
"""Maximum number of frames kept for paused viewers; the least recently requested is evicted first."""


@dataclass(frozen=True, eq=False)
class StoredFrame:
    """A frame with its sequence number, which counts from 1 over all sources."""

    sequence: int
    item: SegmentedFrame


class Sample(NamedTuple):
    """Timing of one frame in milliseconds; None if not measured.

    `seconds` is the time since the start of the view, `infer` that of the network, `total` that of the call
    of the segmenter, and `age` that from capture to result.
    """

    sequence: int
    seconds: float
    source: str
    infer: float | None
    total: float | None
    age: float | None


class FrameStore:
    """Thread-safe store with one writer, which is never blocked, and any number of readers.

    Args:
        clock: monotonic clock in seconds.

    Attributes:
        run: "live", then "ended" or "failed".
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._changed = Condition()
        self._sequence = 0
        self._newest: dict[str, StoredFrame] = {}
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        self._held: OrderedDict[int, StoredFrame] = OrderedDict()
        self.run = "live"

    def seconds(self) -> float:
        """Seconds since the start of the view."""
        return self._clock() - self._start

    def put(self, item: SegmentedFrame) -> None:
        """Store a frame as the newest of its source."""
        timing, age, now = item.result.timing, item.age_s, self._clock()
        if age is None and item.frame.captured_s is not None:
            age = now - item.frame.captured_s  # the pipeline reports no age for files
        with self._changed:
            self._sequence += 1
            self._newest[item.source] = StoredFrame(self._sequence, item)
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
        """Record the end of the run and wake all waiting readers."""
        with self._changed:
            self.run = run
            self._changed.notify_all()

    def sources(self) -> list[str]:
        """Names of the sources that have delivered a frame, in the order of their first frames."""
        with self._changed:
            return list(self._newest)

    def newest(self, source: str) -> StoredFrame | None:
        """Return the newest frame of a source; of the first source if the name is unknown."""
        with self._changed:
            return self._find(source)

    def newer(self, after: int, source: str, timeout: float) -> StoredFrame | None:
        """Wait for a frame with a number above after; None on timeout, or if the run has ended."""

        def available() -> bool:
            shown = self._find(source)
            return self.run != "live" or (shown is not None and shown.sequence > after)

        with self._changed:
            self._changed.wait_for(available, timeout)
            shown = self._find(source)
        return shown if shown is not None and shown.sequence > after else None

    def _find(self, source: str) -> StoredFrame | None:
        return self._newest.get(source) or next(iter(self._newest.values()), None)

    def samples(self, after: int) -> list[Sample]:
        """Return the samples with numbers above after, oldest first."""
        with self._changed:
            return [sample for sample in self._samples if sample.sequence > after]

    def hold(self, shown: StoredFrame) -> None:
        """Keep a frame for a paused viewer."""
        with self._changed:
            self._held[shown.sequence] = shown
            self._held.move_to_end(shown.sequence)
            while len(self._held) > MAX_HELD:
                self._held.popitem(last=False)

    def held(self, sequence: int) -> StoredFrame | None:
        """Return a kept frame; None if it was evicted."""
        with self._changed:
            if sequence in self._held:
                self._held.move_to_end(sequence)
            return self._held.get(sequence)

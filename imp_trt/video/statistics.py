# SPDX-License-Identifier: Apache-2.0
"""Statistics of a run: counts, durations and frame ages, in memory that does not grow with its length."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.results.result import SegmentationResult
from imp_trt.video.queues import Counts

PERCENTILES = (50, 90, 99)
AGE_PERCENTILES = (50, 99, 99.9)

_LOWEST_MS, _HIGHEST_MS, _GROWTH = 1e-3, 1e7, 1.005
_BUCKETS = math.ceil(math.log(_HIGHEST_MS / _LOWEST_MS, _GROWTH)) + 1
_RATE_WINDOW_S = 5.0


class SourceSnapshot(TypedDict):
    """Counts of one source; see :class:`imp_trt.video.queues.Counts`."""

    name: str
    live: bool
    captured: int
    delivered: int
    dropped: int
    in_flight: int
    reconnects: int


class SkippedImage(TypedDict):
    """An image that could not be read."""

    path: str
    reason: str


class Snapshot(TypedDict):
    """State of a run at one moment, as data for JSON; see :meth:`Statistics.snapshot`."""

    seconds: float
    captured: int
    delivered: int
    dropped: int
    in_flight: int
    reconnects: int
    frames_per_second: float
    deadline_ms: float | None
    deadline_misses: int
    age_ms: dict[str, float]
    carried: int
    canvas_age: int | None
    timing_ms: dict[str, dict[str, float]]
    sources: list[SourceSnapshot]


class Durations:
    """Histogram of milliseconds with logarithmic buckets: percentiles are exact within 0.25%.

    The range is one microsecond to three hours. Mean, last and maximum are exact.
    """

    def __init__(self) -> None:
        self._buckets = np.zeros(_BUCKETS, np.int64)
        self._sum = 0.0
        self._minimum = math.inf
        self.maximum = 0.0
        self.last = 0.0
        self.count = 0

    def add(self, milliseconds: float) -> None:
        """Add one duration; negative values count as zero."""
        value = max(milliseconds, 0.0)
        bucket = math.log(max(value, _LOWEST_MS) / _LOWEST_MS, _GROWTH)
        self._buckets[min(int(bucket), _BUCKETS - 1)] += 1
        self._sum += value
        self._minimum = min(self._minimum, value)
        self.maximum = max(self.maximum, value)
        self.last = value
        self.count += 1

    @property
    def mean(self) -> float:
        """NaN without values."""
        return self._sum / self.count if self.count else math.nan

    def percentiles(self, percentages: Sequence[float]) -> list[float]:
        """Return the requested percentiles (0 to 100); NaN without values."""
        if not self.count:
            return [math.nan for _ in percentages]
        # Rounded, because 99.9 / 100 * 1000 is more than 999 in binary floating point.
        ranks = [max(math.ceil(round(p / 100 * self.count, 6)), 1) for p in percentages]
        buckets = np.searchsorted(np.cumsum(self._buckets), ranks)
        centers = _LOWEST_MS * _GROWTH ** (buckets + 0.5)
        return [float(np.clip(center, self._minimum, self.maximum)) for center in centers]

    def to_dict(self, percentages: Sequence[float] = PERCENTILES) -> dict[str, float]:
        """Return mean and percentiles, rounded to microseconds."""
        values = {"mean": self.mean} | {
            f"p{p}": value for p, value in zip(percentages, self.percentiles(percentages), strict=True)
        }
        return {name: round(value, 3) for name, value in values.items()}


@dataclass(frozen=True)
class RunSummary:
    """Summary of a finished run.

    Attributes:
        frames: frames that were segmented and taken by every sink.
        seconds: wall time from the first read until the last sink was closed.
        network_size: input size (H, W) of the network.
        timing_ms: step -> {"mean", "p50", "p90", "p99"}. The steps "read", "draw" and "write" belong to
            source, drawing and sinks, the others to SegmentationResult.timing. Steps of different frames
            overlap, so their sum exceeds the time per frame. Where the detector runs on some frames only,
            "detected" and "carried" are the "total" of those with and without it.
        pixels: class name -> fraction of all pixels.
        instances: class name -> number of detections with at least the drawn score, over all frames.
        captured: frames that the sources produced; frames + dropped.
        dropped: frames that were replaced by newer ones, expired, or were left when the run ended.
        age_ms: {"mean", "p50", "p99", "p99.9", "max"} of the time from capture to result; empty without
            frames. With cameras or streams, those of their frames alone: frames of files wait.
        deadline_misses: frames, of those with an age, whose result was later than the deadline.
        reconnects: number of times that cameras and streams were reopened.
        sources: counts of each source.
        skipped: images of folders and patterns that could not be read.
        carried: frames without the detector, on a canvas that was carried over.
        canvas_age: the greatest age of a canvas, in frames; None if the detector ran on all.
    """

    frames: int
    seconds: float
    network_size: tuple[int, int]
    timing_ms: dict[str, dict[str, float]]
    pixels: dict[str, float]
    instances: dict[str, int]
    captured: int = 0
    dropped: int = 0
    age_ms: dict[str, float] = field(default_factory=dict)
    deadline_misses: int = 0
    reconnects: int = 0
    sources: tuple[SourceSnapshot, ...] = ()
    skipped: tuple[SkippedImage, ...] = ()
    carried: int = 0
    canvas_age: int | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the summary as data for JSON."""
        return {
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "frames_per_second": round(self.frames / self.seconds, 3) if self.seconds else 0.0,
            "network_size": list(self.network_size),
            "captured": self.captured,
            "dropped": self.dropped,
            "deadline_misses": self.deadline_misses,
            "reconnects": self.reconnects,
            "age_ms": self.age_ms,
            "carried": self.carried,
            "canvas_age": self.canvas_age,
            "timing_ms": self.timing_ms,
            "pixels": self.pixels,
            "instances": self.instances,
            "sources": list(self.sources),
            "skipped": list(self.skipped),
        }


@dataclass(frozen=True)
class SourceState:
    """Description of a source for the statistics; the callables are called during the run.

    Attributes:
        name: short and unique among the sources of the run.
        live: whether it is a camera or stream.
        reconnects: returns the number of reconnections so far.
        lost: returns the number of frames that the source itself has dropped so far.
        skipped: returns the images that the source could not read so far, with the reason.
    """

    name: str
    live: bool = False
    reconnects: Callable[[], int] = lambda: 0
    lost: Callable[[], int] = lambda: 0
    skipped: Callable[[], Sequence[tuple[Path, str]]] = lambda: ()


class Statistics:
    """Statistics of one run. Thread-safe.

    Args:
        classes: of the network.
        network_size: input size (H, W) of the network.
        sources: one per channel of counts.
        counts: returns the frame counts, as :meth:`imp_trt.video.queues.FrameQueue.counts`.
        min_score: minimum score of an instance that is counted.
        deadline_s: a frame that is older than this when its result is available is a deadline miss.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        classes: ClassTable,
        network_size: tuple[int, int],
        sources: Sequence[SourceState],
        counts: Callable[[], Sequence[Counts]],
        min_score: float,
        deadline_s: float | None,
        clock: Callable[[], float],
    ) -> None:
        self._classes = classes
        self._network_size = network_size
        self._sources = sources
        self._counts = counts
        self._min_score = min_score
        self._deadline_s = deadline_s
        self._clock = clock
        self._start = clock()
        self._times: dict[str, Durations] = {}
        self._ages = Durations()
        self._frames = 0
        self._misses = 0
        self._carried = 0
        self._canvas_ages: tuple[int, int] | None = None  # the last and the greatest
        self._pixels = np.zeros(len(classes), np.int64)
        self._instance_counts = np.zeros(len(classes), np.int64)
        self._delivered_at: deque[float] = deque()
        self._lock = Lock()

    def add(
        self,
        result: SegmentationResult,
        pixels: NDArray[np.int64],
        age_s: float | None,
        steps_ms: Mapping[str, float],
    ) -> None:
        """Add a delivered frame.

        Args:
            pixels: [K] int64, the result's pixel_counts().
            age_s: from capture to result; None for a frame whose age means nothing, such as one of a file
                that waits while cameras are segmented.
            steps_ms: duration of each step, in the order in which they are reported.
        """
        labels = result.instances.labels[result.instances.scores >= self._min_score]  # [N] int32
        instances = np.bincount(labels, minlength=len(self._classes))  # [K]
        with self._lock:
            self._pixels += pixels
            self._instance_counts += instances
            self._frames += 1
            if age_s is not None:
                self._ages.add(age_s * 1e3)
                self._misses += self._deadline_s is not None and age_s > self._deadline_s
            self._delivered_at.append(self._clock())
            self._discard_old()
            age = result.canvas_age
            if age is not None:
                greatest = max(age, self._canvas_ages[1] if self._canvas_ages else 0)
                self._canvas_ages = age, greatest
                self._carried += age > 0
                steps_ms = {**steps_ms, "carried" if age else "detected": steps_ms["total"]}
            for name, value in steps_ms.items():
                self._times.setdefault(name, Durations()).add(value)

    def snapshot(self) -> Snapshot:
        """Return the state of the run so far.

        Returns:
            "seconds" since the start; "captured", "delivered", "dropped" and "in_flight" over all sources,
            taken at the same moment; "frames_per_second" over the last five seconds; "reconnects";
            "deadline_ms" and "deadline_misses"; "age_ms" {"last", "mean", "p50", "p99", "p99.9", "max"},
            empty before the first result; "carried", the frames without the detector, and "canvas_age" of the
            last frame in frames, None if the detector runs on all; "timing_ms" step -> {"last", "mean",
            "p50", "p90", "p99"}; "sources", the counts of each with its "name", "live" and "reconnects".
        """
        sources, total = self._source_counts()
        with self._lock:
            seconds = self._clock() - self._start
            self._discard_old()
            rate = len(self._delivered_at) / max(min(seconds, _RATE_WINDOW_S), 1e-3)
            times = {name: {"last": round(d.last, 3)} | d.to_dict() for name, d in self._times.items()}
            ages, misses = self._age_dict(), self._misses
            carried, canvas_ages = self._carried, self._canvas_ages
            if ages:
                ages = {"last": round(self._ages.last, 3)} | ages
        return {
            "seconds": round(seconds, 3),
            "captured": total["captured"],
            "delivered": total["delivered"],
            "dropped": total["dropped"],
            "in_flight": total["in_flight"],
            "reconnects": total["reconnects"],
            "frames_per_second": round(rate, 3),
            "deadline_ms": None if self._deadline_s is None else round(self._deadline_s * 1e3, 3),
            "deadline_misses": misses,
            "age_ms": ages,
            "carried": carried,
            "canvas_age": canvas_ages[0] if canvas_ages else None,
            "timing_ms": times,
            "sources": sources,
        }

    def summary(self) -> RunSummary:
        """Return the summary of the finished run."""
        sources, total = self._source_counts()
        names = self._classes.names
        with self._lock:
            all_pixels = max(int(self._pixels.sum()), 1)
            fractions = {
                n: round(int(c) / all_pixels, 6) for n, c in zip(names, self._pixels, strict=True) if c
            }
            return RunSummary(
                frames=self._frames,
                seconds=self._clock() - self._start,
                network_size=self._network_size,
                timing_ms={name: durations.to_dict() for name, durations in self._times.items()},
                pixels=fractions,
                instances={n: int(c) for n, c in zip(names, self._instance_counts, strict=True) if c},
                captured=total["captured"],
                dropped=total["dropped"],
                age_ms=self._age_dict(),
                deadline_misses=self._misses,
                reconnects=total["reconnects"],
                sources=tuple(sources),
                skipped=tuple(
                    SkippedImage(path=str(path), reason=reason)
                    for source in self._sources
                    for path, reason in source.skipped()
                ),
                carried=self._carried,
                canvas_age=self._canvas_ages[1] if self._canvas_ages else None,
            )

    def _source_counts(self) -> tuple[list[SourceSnapshot], dict[str, int]]:
        """Counts per source, and their sums."""
        sources: list[SourceSnapshot] = []
        for source, counts in zip(self._sources, self._counts(), strict=True):
            lost = source.lost()  # dropped by the source itself, before the queue
            sources.append(
                {
                    "name": source.name,
                    "live": source.live,
                    "captured": counts.captured + lost,
                    "delivered": counts.delivered,
                    "dropped": counts.dropped + lost,
                    "in_flight": counts.in_flight,
                    "reconnects": source.reconnects(),
                }
            )
        totals = {
            "captured": sum(source["captured"] for source in sources),
            "delivered": sum(source["delivered"] for source in sources),
            "dropped": sum(source["dropped"] for source in sources),
            "in_flight": sum(source["in_flight"] for source in sources),
            "reconnects": sum(source["reconnects"] for source in sources),
        }
        return sources, totals

    def _age_dict(self) -> dict[str, float]:
        if not self._ages.count:
            return {}
        return self._ages.to_dict(AGE_PERCENTILES) | {"max": round(self._ages.maximum, 3)}

    def _discard_old(self) -> None:
        oldest = self._clock() - _RATE_WINDOW_S
        while self._delivered_at and self._delivered_at[0] < oldest:
            self._delivered_at.popleft()

"""What a run did and does: counts, times and frame ages, in memory that does not grow with its length."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.results.result import SegmentationResult
from imp_trt.video.queues import Counts

PERCENTILES = (50, 90, 99)
AGE_PERCENTILES = (50, 99, 99.9)

_LOWEST_MS, _HIGHEST_MS, _GROWTH = 1e-3, 1e7, 1.005
_BUCKETS = math.ceil(math.log(_HIGHEST_MS / _LOWEST_MS, _GROWTH)) + 1
_RATE_OVER_S = 5.0


class Durations:
    """Milliseconds in buckets of a constant ratio: percentiles within 0.25 % whatever the number of values.

    From a microsecond to three hours; mean, last and greatest are exact.
    """

    def __init__(self) -> None:
        self._buckets = np.zeros(_BUCKETS, np.int64)
        self._sum = 0.0
        self._least = math.inf
        self.greatest = 0.0
        self.last = 0.0
        self.count = 0

    def add(self, milliseconds: float) -> None:
        """Count one duration; one below zero counts as zero."""
        value = max(milliseconds, 0.0)
        place = math.log(max(value, _LOWEST_MS) / _LOWEST_MS, _GROWTH)
        self._buckets[min(int(place), _BUCKETS - 1)] += 1
        self._sum += value
        self._least = min(self._least, value)
        self.greatest = max(self.greatest, value)
        self.last = value
        self.count += 1

    @property
    def mean(self) -> float:
        """NaN without values."""
        return self._sum / self.count if self.count else math.nan

    def percentiles(self, shares: Sequence[float]) -> list[float]:
        """For each share in percent, the duration that this share of the values does not exceed."""
        if not self.count:
            return [math.nan for _ in shares]
        # Rounded, because 99.9 / 100 * 1000 is more than 999.
        ranks = [max(math.ceil(round(share / 100 * self.count, 6)), 1) for share in shares]
        places = np.searchsorted(np.cumsum(self._buckets), ranks)
        middles = _LOWEST_MS * _GROWTH ** (places + 0.5)
        return [float(np.clip(middle, self._least, self.greatest)) for middle in middles]

    def to_dict(self, shares: Sequence[float] = PERCENTILES) -> dict[str, float]:
        """mean and percentiles, rounded to microseconds."""
        values = {"mean": self.mean} | {
            f"p{share}": value for share, value in zip(shares, self.percentiles(shares), strict=True)
        }
        return {name: round(value, 3) for name, value in values.items()}


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        frames: frames segmented and taken by every sink.
        seconds: wall time from the first read to the last sink's closing.
        network_size: (H, W) the network ran at.
        timing_ms: step -> {"mean", "p50", "p90", "p99"}; read, draw and write are the shares of source,
            drawing and sinks, the others those of SegmentationResult.timing. Steps of different frames
            overlap: their sum is more than the time a frame takes from the others.
        pixels: class name -> share of all pixels.
        instances: class name -> how many were found, over all frames, at the drawn score.
        captured: frames that the sources gave; frames + dropped.
        dropped: frames that made room for newer ones, came too late, or were left when the run ended.
        age_ms: {"mean", "p50", "p99", "p99.9", "max"} of the time from capture to result; empty without
            frames.
        deadline_misses: frames whose result came later than the deadline.
        reconnects: how often cameras and streams were opened again.
        sources: per source its name and its own counts.
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
    sources: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
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
            "timing_ms": self.timing_ms,
            "pixels": self.pixels,
            "instances": self.instances,
            "sources": list(self.sources),
        }


@dataclass(frozen=True)
class SourceState:
    """What statistics ask of a source; called while the run goes on.

    Attributes:
        name: short and unique among the sources of the run.
        live: a camera or stream.
        reconnects: how often it was opened again so far.
        lost: frames that it dropped by itself so far, before anyone could take them.
    """

    name: str
    live: bool = False
    reconnects: Callable[[], int] = lambda: 0
    lost: Callable[[], int] = lambda: 0


class Statistics:
    """The numbers of one run; every method may be called from any thread.

    Args:
        classes: of the network.
        network_size: (H, W).
        sources: one per lane of counts.
        counts: the account of the frames, as :meth:`imp_trt.video.queues.Intake.counts`.
        min_score: lowest score of an instance that is counted.
        deadline_s: a frame that is older when its result is there has missed it.
        clock: seconds, monotonic.
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
        self._misses = 0
        self._pixels = np.zeros(len(classes), np.int64)
        self._found = np.zeros(len(classes), np.int64)
        self._delivered_at: deque[float] = deque()
        self._lock = Lock()

    def add(
        self,
        result: SegmentationResult,
        pixels: NDArray[np.int64],
        age_s: float,
        steps_ms: Mapping[str, float],
    ) -> None:
        """Count a delivered frame.

        Args:
            pixels: [K] int64, the result's pixel_counts().
            age_s: from capture to result.
            steps_ms: duration of each step, in the order in which they are listed.
        """
        labels = result.instances.labels[result.instances.scores >= self._min_score]
        found = np.bincount(labels, minlength=len(self._classes))
        with self._lock:
            self._pixels += pixels
            self._found += found
            self._ages.add(age_s * 1e3)
            self._misses += self._deadline_s is not None and age_s > self._deadline_s
            self._delivered_at.append(self._clock())
            self._forget()
            for name, value in steps_ms.items():
                self._times.setdefault(name, Durations()).add(value)

    def snapshot(self) -> dict[str, Any]:
        """The run so far as plain data.

        Returns:
            "seconds" since the start; "captured", "delivered", "dropped" and "in_flight" of all sources,
            of one moment; "frames_per_second" over the last five seconds; "reconnects"; "deadline_ms" and
            "deadline_misses"; "age_ms" {"last", "mean", "p50", "p99", "p99.9", "max"}, empty before the
            first result; "timing_ms" step -> {"last", "mean", "p50", "p90", "p99"}; "sources", one account
            each with its "name", "live" and "reconnects".
        """
        sources, total = self._accounts()
        with self._lock:
            seconds = self._clock() - self._start
            self._forget()
            rate = len(self._delivered_at) / max(min(seconds, _RATE_OVER_S), 1e-3)
            times = {name: {"last": round(d.last, 3)} | d.to_dict() for name, d in self._times.items()}
            ages, misses = self._age_dict(), self._misses
            if ages:
                ages = {"last": round(self._ages.last, 3)} | ages
        return {
            "seconds": round(seconds, 3),
            **total,
            "frames_per_second": round(rate, 3),
            "deadline_ms": None if self._deadline_s is None else round(self._deadline_s * 1e3, 3),
            "deadline_misses": misses,
            "age_ms": ages,
            "timing_ms": times,
            "sources": sources,
        }

    def summary(self) -> RunSummary:
        """The whole run, once it is over."""
        sources, total = self._accounts()
        names = self._classes.names
        with self._lock:
            all_pixels = max(int(self._pixels.sum()), 1)
            shares = {n: round(int(c) / all_pixels, 6) for n, c in zip(names, self._pixels, strict=True) if c}
            return RunSummary(
                frames=self._ages.count,
                seconds=self._clock() - self._start,
                network_size=self._network_size,
                timing_ms={name: durations.to_dict() for name, durations in self._times.items()},
                pixels=shares,
                instances={n: int(c) for n, c in zip(names, self._found, strict=True) if c},
                captured=total["captured"],
                dropped=total["dropped"],
                age_ms=self._age_dict(),
                deadline_misses=self._misses,
                reconnects=total["reconnects"],
                sources=tuple(sources),
            )

    def _accounts(self) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Per source, and over all of them."""
        sources: list[dict[str, Any]] = []
        for source, counts in zip(self._sources, self._counts(), strict=True):
            account = {"name": source.name, "live": source.live, **vars(counts)}
            lost = source.lost()
            account["captured"] += lost
            account["dropped"] += lost
            sources.append(account | {"reconnects": source.reconnects()})
        keys = ("captured", "delivered", "dropped", "in_flight", "reconnects")
        return sources, {key: sum(source[key] for source in sources) for key in keys}

    def _age_dict(self) -> dict[str, float]:
        if not self._ages.count:
            return {}
        return self._ages.to_dict(AGE_PERCENTILES) | {"max": round(self._ages.greatest, 3)}

    def _forget(self) -> None:
        oldest = self._clock() - _RATE_OVER_S
        while self._delivered_at and self._delivered_at[0] < oldest:
            self._delivered_at.popleft()

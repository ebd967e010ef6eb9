"""The measurement itself: frames one at a time for latency, and through the pipeline for throughput.

Both run Segmenter.run on frames that were just decoded, and draw what it finds. Every clock is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from imp_trt.benchmark.frames import Feed, only_frames
from imp_trt.benchmark.samples import END_TO_END, STAGES, Samples, figures
from imp_trt.errors import UsageError
from imp_trt.segmenter import Segmenter
from imp_trt.video.pipeline import run_pipeline
from imp_trt.video.sinks import Base, DrawOptions, Segmented
from imp_trt.video.sources.frame import Frame

Clock = Callable[[], float]
Progress = Callable[[int], None]

LEAST_FRAMES = 10
"""Measured even if they take longer than was asked for."""

LEAST_WARM_UP = 3
"""Frames of a warm-up that is given as a time: memory is still being asked for in the second call."""

PIPELINE_FRAMES = 5
"""What the pipeline holds at once: the frames that fill it do not count."""


@dataclass(frozen=True)
class WarmUp:
    """How long to run before anything counts: so many frames, or so many seconds and LEAST_WARM_UP frames."""

    frames: int | None = None
    seconds: float | None = None


def parse_warmup(text: str) -> WarmUp:
    """From 200ms, 2s, or a number of frames: 20.

    Raises:
        UsageError: something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(ms|s)|(\d+)(?: ?frames?)?", text.strip())
    if found is None:
        raise UsageError("--warmup", expected="a time or frames, such as 200ms, 2s or 20frames", got=text)
    if found[3] is not None:
        return WarmUp(frames=int(found[3]))
    return WarmUp(seconds=float(found[1]) * (1.0 if found[2] == "s" else 1e-3))


class Stepper:
    """Takes one frame all the way, again and again.

    Attributes:
        size: (h, w) of the latest frame.
        sizes: how many different ones there were.
    """

    def __init__(
        self, segmenter: Segmenter, feed: Feed, clock: Clock, draw: DrawOptions | None = None
    ) -> None:
        self._segmenter = segmenter
        self._frames = iter(feed)
        self._clock = clock
        self._draw = draw or DrawOptions()
        self._sizes: set[tuple[int, int]] = set()
        self.size = (0, 0)

    @property
    def sizes(self) -> int:
        """How many sizes the frames had."""
        return len(self._sizes)

    def step(self) -> dict[str, float]:
        """Milliseconds of each stage of one frame; those of the Segmenter are its own figures."""
        clock = self._clock
        frame: Frame | None = None
        start = decoded = 0.0
        while frame is None:
            start = clock()
            frame = next(self._frames)
            decoded = clock()
        result = self._segmenter.run(frame.image)
        _ = result.semantic, result.instances  # from an engine the answer comes when it is read
        answered = clock()
        _ = Segmented(frame, result, self._draw).overlay
        end = clock()
        self.size = (frame.image.shape[0], frame.image.shape[1])
        self._sizes.add(self.size)
        # The Segmenter's total ends where the GPU is done; "run" ends where the answer can be used.
        inside = {name: value for name, value in result.timing.items() if name != "total"}
        return {
            "decode": (decoded - start) * 1e3,
            **inside,
            "run": (answered - decoded) * 1e3,
            "draw": (end - answered) * 1e3,
            END_TO_END: (end - start) * 1e3,
        }


@dataclass(frozen=True)
class Latency:
    """Frames one after the other, each waited for.

    Attributes:
        first_ms: decode to drawn result of the very first frame.
        warmup_frames, warmup_ms: what came before anything counted, the first frame included.
        samples: what counted.
        seconds: how long that took.
    """

    first_ms: float
    warmup_frames: int
    warmup_ms: float
    samples: Samples
    seconds: float


def measure_latency(
    step: Callable[[], dict[str, float]],
    clock: Clock,
    *,
    warmup: WarmUp,
    seconds: float = 3.0,
    frames: int | None = None,
    least: int = LEAST_FRAMES,
    progress: Progress | None = None,
) -> Latency:
    """Warm up, then measure.

    Args:
        step: takes one frame and gives the milliseconds of its stages.
        seconds: measure so long, and least frames at least.
        frames: measure exactly so many instead.
        progress: called after each frame with how many count so far.
    """
    start = clock()
    first_ms = step()[END_TO_END]
    warmed = 1
    while not _warm(warmup, warmed, clock() - start):
        step()
        warmed += 1
    begin = clock()
    samples = Samples()
    while len(samples) < frames if frames else (len(samples) < least or clock() - begin < seconds):
        samples.add(step())
        if progress is not None:
            progress(len(samples))
    return Latency(first_ms, warmed, (begin - start) * 1e3, samples, clock() - begin)


def _warm(warmup: WarmUp, frames: int, seconds: float) -> bool:
    if warmup.frames is not None:
        return frames >= warmup.frames
    return frames >= LEAST_WARM_UP and seconds >= (warmup.seconds or 0.0)


@dataclass(frozen=True)
class Throughput:
    """Frames through the pipeline of imp-segment, whose stages overlap.

    Attributes:
        frames: how many.
        per_second: from the first drawn frame to the last.
        interval_ms: figures of the time between two of them.
        stages: stage -> {"mean", "p50", "p90", "p99"}, milliseconds, while the others worked, too;
            percentiles within 0.25 %, and "draw" with the counting of pixels.
    """

    frames: int
    per_second: float
    interval_ms: dict[str, float | None]
    stages: dict[str, dict[str, float]]

    @classmethod
    def of(
        cls, times: Sequence[float], stages: Mapping[str, Mapping[str, float]], shares: Sequence[float]
    ) -> Throughput:
        """From the moments at which frames were drawn, in seconds; those that filled the pipeline come first.

        Args:
            stages: RunSummary.timing_ms.
            shares: percentiles of the intervals.
        """
        counted = times[PIPELINE_FRAMES - 1 :]
        intervals = [(b - a) * 1e3 for a, b in pairwise(counted)]
        # "run" and "end-to-end" are sums of these, and nothing is written.
        names = {"read": "decode"} | {stage: stage for stage in STAGES}
        return cls(
            len(intervals),
            len(intervals) / (counted[-1] - counted[0]),
            figures(intervals, shares),
            {names[name]: dict(values) for name, values in stages.items() if name in names},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "frames": self.frames,
            "frames_per_second": self.per_second,
            "interval_ms": self.interval_ms,
            "stages": self.stages,
        }


class _Drawn(Base):
    """Takes drawn frames and keeps when they came."""

    draws = True

    def __init__(self, clock: Clock) -> None:
        self.times: list[float] = []
        self._clock = clock

    def write(self, item: Segmented) -> bool:
        _ = item.overlay
        self.times.append(self._clock())
        return True


def measure_throughput(
    segmenter: Segmenter,
    feed: Feed,
    clock: Clock,
    *,
    frames: int,
    shares: Sequence[float],
    progress: Progress | None = None,
) -> Throughput:
    """Decode, segment and draw frames with run_pipeline.

    Args:
        frames: how many; what fills the pipeline comes on top and does not count.
        shares: percentiles of the intervals.
        progress: called with how many frames are done.
    """
    sink = _Drawn(clock)

    def show(snapshot: dict[str, Any]) -> None:
        if progress is not None:
            progress(snapshot["delivered"])

    summary = run_pipeline(
        segmenter,
        only_frames(feed),
        [sink],
        max_frames=frames + PIPELINE_FRAMES,
        on_progress=show,
        clock=clock,
    )
    return Throughput.of(sink.times, summary.timing_ms, shares)

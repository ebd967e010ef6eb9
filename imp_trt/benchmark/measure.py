# SPDX-License-Identifier: Apache-2.0
"""Measurement of latency (one frame at a time) and throughput (frames through the pipeline).

Both decode frames, run Segmenter.run and draw the result. All clocks are parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from imp_trt._deprecated import renamed_parameters
from imp_trt.benchmark.frames import Feed, only_frames
from imp_trt.benchmark.samples import END_TO_END, STAGES, TEMPORAL_STAGES, Samples, figures
from imp_trt.errors import UsageError
from imp_trt.segmenter import Segmenter
from imp_trt.temporal import TemporalOptions, TemporalState
from imp_trt.video.pipeline import run_pipeline
from imp_trt.video.sinks import BaseSink, DrawOptions, SegmentedFrame
from imp_trt.video.sources.frame import Frame
from imp_trt.video.statistics import Snapshot

Clock = Callable[[], float]
Progress = Callable[[int], None]

MIN_FRAMES = 10
"""Minimum number of measured frames, even if they take longer than requested."""

MIN_WARMUP_FRAMES = 3
"""Minimum number of frames of a warm-up that is given as a time: the second call still allocates memory."""

PIPELINE_FRAMES = 5
"""Capacity of the pipeline; the frames that fill it are not counted."""


@dataclass(frozen=True)
class WarmUp:
    """Length of the warm-up: a number of frames, or a time in seconds with MIN_WARMUP_FRAMES frames."""

    frames: int | None = None
    seconds: float | None = None


def parse_warmup(text: str) -> WarmUp:
    """Parse 200ms, 2s, or a number of frames such as 20.

    Raises:
        UsageError: it is invalid.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(ms|s)|(\d+)(?: ?frames?)?", text.strip())
    if match is None:
        raise UsageError("--warmup", expected="a time or frames, such as 200ms, 2s or 20frames", got=text)
    if match[3] is not None:
        return WarmUp(frames=int(match[3]))
    return WarmUp(seconds=float(match[1]) * (1.0 if match[2] == "s" else 1e-3))


class Stepper:
    """Processes frames end to end, one per call of step().

    Args:
        temporal: runs the detector on some frames; None on all.

    Attributes:
        size: (h, w) of the latest frame.
        sizes: number of different frame sizes.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        feed: Feed,
        clock: Clock,
        draw: DrawOptions | None = None,
        temporal: TemporalOptions | None = None,
    ) -> None:
        self._state = None if temporal is None else TemporalState(temporal, clock)
        self._segmenter = segmenter
        self._frames = iter(feed)
        self._clock = clock
        self._draw = draw or DrawOptions()
        self._sizes: set[tuple[int, int]] = set()
        self.size = (0, 0)

    @property
    def sizes(self) -> int:
        """Number of different frame sizes."""
        return len(self._sizes)

    def step(self) -> dict[str, float]:
        """Process one frame; returns the milliseconds of each stage."""
        clock = self._clock
        frame: Frame | None = None
        start = decoded = 0.0
        while frame is None:
            start = clock()
            frame = next(self._frames)
            decoded = clock()
        if self._state is None:
            result = self._segmenter.run(frame.image)
        else:
            result = self._segmenter.run_next(frame.image, self._state, time_s=frame.time_s)
        _ = result.semantic, result.instances  # results of engines are downloaded when they are read
        received = clock()
        _ = SegmentedFrame(frame, result, self._draw).overlay
        end = clock()
        self.size = (frame.image.shape[0], frame.image.shape[1])
        self._sizes.add(self.size)
        # The Segmenter's total ends when the GPU has finished; "run" ends when the result is available.
        inside = {name: value for name, value in result.timing.items() if name != "total"}
        if result.canvas_age is not None:
            inside["carried" if result.canvas_age else "detected"] = (received - decoded) * 1e3
        return {
            "decode": (decoded - start) * 1e3,
            **inside,
            "run": (received - decoded) * 1e3,
            "draw": (end - received) * 1e3,
            END_TO_END: (end - start) * 1e3,
        }


@dataclass(frozen=True)
class Latency:
    """Latency of frames processed one at a time.

    Attributes:
        first_ms: end-to-end time of the first frame.
        warmup_frames, warmup_ms: length of the warm-up, including the first frame.
        samples: the measured frames.
        seconds: duration of the measurement.
    """

    first_ms: float
    warmup_frames: int
    warmup_ms: float
    samples: Samples
    seconds: float


@renamed_parameters(least="min_frames")
def measure_latency(
    step: Callable[[], dict[str, float]],
    clock: Clock,
    *,
    warmup: WarmUp,
    seconds: float = 3.0,
    frames: int | None = None,
    min_frames: int = MIN_FRAMES,
    progress: Progress | None = None,
) -> Latency:
    """Warm up, then measure.

    Args:
        step: processes one frame and returns the milliseconds of its stages.
        clock: monotonic clock in seconds.
        warmup: length of the warm-up.
        seconds: measure so long, and min_frames frames at least.
        frames: measure exactly this number of frames instead.
        min_frames: minimum number of measured frames.
        progress: called after each measured frame with their number so far.
    """
    start = clock()
    first_ms = step()[END_TO_END]
    warmed = 1
    while not _warm(warmup, warmed, clock() - start):
        step()
        warmed += 1
    begin = clock()
    samples = Samples()
    while len(samples) < frames if frames else (len(samples) < min_frames or clock() - begin < seconds):
        samples.add(step())
        if progress is not None:
            progress(len(samples))
    return Latency(first_ms, warmed, (begin - start) * 1e3, samples, clock() - begin)


def _warm(warmup: WarmUp, frames: int, seconds: float) -> bool:
    if warmup.frames is not None:
        return frames >= warmup.frames
    return frames >= MIN_WARMUP_FRAMES and seconds >= (warmup.seconds or 0.0)


@dataclass(frozen=True)
class Throughput:
    """Throughput of the pipeline of imp-segment, whose stages overlap.

    Attributes:
        frames: number of counted frames.
        per_second: frames per second, from the first drawn frame to the last.
        interval_ms: statistics of the time between two frames.
        stages: stage -> {"mean", "p50", "p90", "p99"} in milliseconds while the other stages run.
            Percentiles are exact within 0.25 %; "draw" includes the counting of pixels.
    """

    frames: int
    per_second: float
    interval_ms: dict[str, float | None]
    stages: dict[str, dict[str, float]]

    @classmethod
    def of(
        cls, times: Sequence[float], stages: Mapping[str, Mapping[str, float]], percentiles: Sequence[float]
    ) -> Throughput:
        """Compute the throughput.

        Args:
            times: completion times of the drawn frames in seconds, first those that filled the pipeline.
            stages: RunSummary.timing_ms.
            percentiles: percentiles of the intervals, 0 to 100.
        """
        counted = times[PIPELINE_FRAMES - 1 :]
        intervals = [(b - a) * 1e3 for a, b in pairwise(counted)]
        # "run" and "end-to-end" are sums of other stages, and nothing is written.
        names = {"read": "decode"} | {stage: stage for stage in (*STAGES, *TEMPORAL_STAGES)}
        return cls(
            len(intervals),
            len(intervals) / (counted[-1] - counted[0]),
            figures(intervals, percentiles),
            {names[name]: dict(values) for name, values in stages.items() if name in names},
        )

    def to_dict(self) -> dict[str, object]:
        """Return the throughput as data for JSON."""
        return {
            "frames": self.frames,
            "frames_per_second": self.per_second,
            "interval_ms": self.interval_ms,
            "stages": self.stages,
        }


class _TimestampSink(BaseSink):
    """Records the completion times of drawn frames."""

    draws = True

    def __init__(self, clock: Clock) -> None:
        self.times: list[float] = []
        self._clock = clock

    def write(self, item: SegmentedFrame) -> bool:
        _ = item.overlay
        self.times.append(self._clock())
        return True


@renamed_parameters(shares="percentiles")
def measure_throughput(
    segmenter: Segmenter,
    feed: Feed,
    clock: Clock,
    *,
    frames: int,
    percentiles: Sequence[float],
    progress: Progress | None = None,
    temporal: TemporalOptions | None = None,
) -> Throughput:
    """Decode, segment and draw frames with run_pipeline.

    Args:
        temporal: runs the detector on some frames; None on all.
        frames: number of counted frames, in addition to those that fill the pipeline.
        percentiles: percentiles of the intervals, 0 to 100.
        progress: called with the number of frames done.
    """
    sink = _TimestampSink(clock)

    def show(snapshot: Snapshot) -> None:
        if progress is not None:
            progress(snapshot["delivered"])

    summary = run_pipeline(
        segmenter,
        only_frames(feed),
        [sink],
        max_frames=frames + PIPELINE_FRAMES,
        on_progress=show,
        clock=clock,
        temporal=temporal,
    )
    return Throughput.of(sink.times, summary.timing_ms, percentiles)

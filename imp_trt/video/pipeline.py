"""From a source through a segmenter into sinks, one frame after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np

from imp_trt.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.video.sinks import DrawOptions, Segmented, Sink
from imp_trt.video.sources import Frame

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        frames: frames segmented.
        seconds: wall time from the first read to the last sink's closing.
        network_size: (H, W) the network ran at.
        timing_ms: step -> {"mean", "p50", "p90", "p99"}; read and write are the source's and the
            sinks' share, the others those of SegmentationResult.timing.
        pixels: class name -> share of all pixels.
        instances: class name -> how many were found, over all frames, at the drawn score.
    """

    frames: int
    seconds: float
    network_size: tuple[int, int]
    timing_ms: dict[str, dict[str, float]]
    pixels: dict[str, float]
    instances: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "frames_per_second": round(self.frames / self.seconds, 3) if self.seconds else 0.0,
            "network_size": list(self.network_size),
            "timing_ms": self.timing_ms,
            "pixels": self.pixels,
            "instances": self.instances,
        }


def run_pipeline(
    segmenter: Segmenter,
    source: Iterable[Frame],
    sinks: Sequence[Sink],
    *,
    max_frames: int | None = None,
    draw: DrawOptions | None = None,
    on_frame: Callable[[int, SegmentationResult], None] | None = None,
) -> RunSummary:
    """Segment every frame of source and hand it to every sink.

    Sinks are closed at the end; after an exception, KeyboardInterrupt included, they are aborted and
    the exception goes on to the caller.

    Args:
        max_frames: stop after this many.
        draw: how overlays look.
        on_frame: called after each frame with the number done and its result.
    """
    draw = draw or DrawOptions()
    statistics = _Statistics(segmenter, draw.min_score)
    start = perf_counter()
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        before = start
        for frame in islice(source, max_frames):
            read = perf_counter()
            result = segmenter.run(frame.image)
            segmented = perf_counter()
            item = Segmented(frame, result, draw)
            # Every sink gets the frame, even if one of them asks to stop.
            going = all([sink.write(item) for sink in sinks])
            written = perf_counter()
            statistics.add(result, (read - before) * 1e3, (written - segmented) * 1e3)
            if on_frame is not None:
                on_frame(statistics.frames, result)
            before = perf_counter()
            if not going:
                break
    return statistics.summary(perf_counter() - start)


class _Statistics:
    def __init__(self, segmenter: Segmenter, min_score: float) -> None:
        self._classes = segmenter.classes
        contract = segmenter.manifest.input
        self._network_size = (contract.height, contract.width)
        self._min_score = min_score
        self._times: dict[str, list[float]] = {}
        self._pixels = np.zeros(len(self._classes), np.int64)
        self._found = np.zeros(len(self._classes), np.int64)
        self.frames = 0

    def add(self, result: SegmentationResult, read_ms: float, write_ms: float) -> None:
        self.frames += 1
        self._pixels += result.pixel_counts()
        labels = result.instances.labels[result.instances.scores >= self._min_score]
        self._found += np.bincount(labels, minlength=len(self._classes))
        # Last, because an engine's result takes the time of its download when it is read.
        for name, value in (("read", read_ms), *result.timing.items(), ("write", write_ms)):
            self._times.setdefault(name, []).append(value)

    def summary(self, seconds: float) -> RunSummary:
        names = self._classes.names
        total = max(int(self._pixels.sum()), 1)
        timing = {}
        for name, values in self._times.items():
            quantiles = np.percentile(values, PERCENTILES)
            timing[name] = {"mean": round(float(np.mean(values)), 3)}
            timing[name] |= {f"p{p}": round(float(q), 3) for p, q in zip(PERCENTILES, quantiles, strict=True)}
        pixels = {name: round(int(n) / total, 6) for name, n in zip(names, self._pixels, strict=True) if n}
        found = {name: int(n) for name, n in zip(names, self._found, strict=True) if n}
        return RunSummary(self.frames, seconds, self._network_size, timing, pixels, found)

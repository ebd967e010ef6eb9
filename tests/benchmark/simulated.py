# SPDX-License-Identifier: Apache-2.0
"""A clock that is advanced by hand, and a segmenter and frames whose times are scripted on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.results.instances import Instances
from imp_trt.results.result import SegmentationResult
from imp_trt.video.sources.frame import Frame
from tests.support import tiny

SIZE = (tiny.HEIGHT, tiny.WIDTH)


class Clock:
    """Seconds; starts anywhere but at zero."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def spend(self, milliseconds: float) -> None:
        self.now += milliseconds / 1e3


class Result(SegmentationResult):
    """An empty answer that takes its time to be drawn."""

    def plot(self, *args: Any, **options: Any) -> NDArray[np.uint8]:
        clock, milliseconds = self.__dict__["drawing"]
        clock.spend(milliseconds)
        return np.zeros((*SIZE, 3), np.uint8)


def _nothing() -> Instances:
    return Instances(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.int32),
        np.zeros(0, np.float32),
        np.zeros((0, 8, 8), np.float32),
        SIZE,
    )


class Segmenter:
    """Spends the scripted milliseconds of "pre", "infer" and "post", frame after frame; the last goes on.

    Attributes:
        runs: index of every frame that came, as its pixels tell.
    """

    def __init__(
        self, clock: Clock, infer_ms: Sequence[float], draw_ms: float = 0.0, manifest: Manifest | None = None
    ) -> None:
        self.clock, self.infer_ms, self.draw_ms = clock, list(infer_ms), draw_ms
        self.manifest = manifest or tiny.manifest()
        self.classes = self.manifest.classes
        self.runs: list[int] = []

    def run(self, frame: NDArray[np.uint8]) -> SegmentationResult:
        infer = self.infer_ms[min(len(self.runs), len(self.infer_ms) - 1)]
        self.runs.append(int(frame[0, 0, 0]))
        timing = {"pre": 1.0, "infer": infer, "post": 2.0, "total": infer + 3}
        self.clock.spend(timing["total"])
        result = Result(np.zeros(SIZE, np.uint8), _nothing(), self.classes, timing)
        result.__dict__["drawing"] = (self.clock, self.draw_ms)
        return result


class Feed:
    """Frames whose pixels hold their index; each takes 4 ms to decode, and opening takes 500 ms."""

    name, decoder = "script", "none"

    def __init__(self, clock: Clock, reopen_every: int = 1000) -> None:
        self.clock, self.every = clock, reopen_every

    def __iter__(self) -> Iterator[Frame | None]:
        index = 0
        while True:
            if index % self.every == 0:
                self.clock.spend(500)
                yield None
            self.clock.spend(4)
            yield Frame(np.full((*SIZE, 3), index % 256, np.uint8), index, str(index), None)
            index += 1

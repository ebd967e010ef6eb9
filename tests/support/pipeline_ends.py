# SPDX-License-Identifier: Apache-2.0
"""What tests of the pipeline put at its two ends: frames, a live source and a sink."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from imp_trt.video.sinks import NullSink, SegmentedFrame
from imp_trt.video.sources import Frame
from tests.support import tiny


def frames(count: int) -> Iterator[Frame]:
    """Frames of the tiny network's size, each another."""
    for i in range(count):
        yield Frame(tiny.frame(seed=i), i, f"{i:06d}", None)


class Recorder(NullSink):
    """Keeps what it gets, and asks to stop after so many frames."""

    def __init__(self, stop_after: int = 100) -> None:
        self.items: list[SegmentedFrame] = []
        self.ended: list[str] = []
        self._stop_after = stop_after

    @property
    def written(self) -> list[int]:
        """Indices of the frames."""
        return [item.frame.index for item in self.items]

    def write(self, item: SegmentedFrame) -> bool:
        self.items.append(item)
        return len(self.items) < self._stop_after

    def close(self) -> None:
        self.ended.append("closed")

    def abort(self) -> None:
        self.ended.append("aborted")


class Camera:
    """A live source that gives what a script says."""

    live = True
    paths = ()
    frames = fps = None
    reconnects, dropped, latest = 2, 0, True

    def __init__(
        self, script: Callable[[], Iterator[Frame]], name: str = "rtsp://***@host/front door"
    ) -> None:
        self._script = script
        self.name = name
        self.closed = 0

    def __iter__(self) -> Iterator[Frame]:
        return self._script()

    def close(self) -> None:
        self.closed += 1

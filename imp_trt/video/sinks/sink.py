# SPDX-License-Identifier: Apache-2.0
"""Interface of the sinks, and the items that are passed to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imp_trt.data.cached_property import cached_property
from imp_trt.errors import InvalidInput
from imp_trt.results.drawing import DEFAULT_ALPHA, STYLES, Style
from imp_trt.results.instances import check_min_score
from imp_trt.results.result import DEFAULT_SCORE_THRESHOLD, SegmentationResult
from imp_trt.video.sources.frame import Frame


@dataclass(frozen=True)
class DrawOptions:
    """Drawing options for overlays; see :meth:`imp_trt.SegmentationResult.plot`.

    Raises:
        InvalidInput: a value is out of its range, or the style is unknown.
    """

    alpha: float | None = None
    min_score: float = DEFAULT_SCORE_THRESHOLD
    labels: bool = True
    legend: bool = False
    style: Style = "instances"

    def __post_init__(self) -> None:
        check_min_score(self.min_score)
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise InvalidInput("alpha", expected="0 to 1", got=self.alpha)
        if self.style not in STYLES:
            raise InvalidInput("style", expected=f"one of {', '.join(STYLES)}", got=self.style)

    @property
    def opacity(self) -> float:
        """Weight of the class colors, 0-1: alpha, or the default of the style."""
        return DEFAULT_ALPHA[self.style] if self.alpha is None else self.alpha


class LegendHistory:
    """The classes that the legend of a video has listed so far, so that rows stay once they appear.

    Thread-safe. One per source.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._listed: dict[int, None] = {}  # in the order of their appearance

    def update(self, classes: Iterable[int]) -> tuple[int, ...]:
        """Add the classes of a frame; returns all classes so far."""
        with self._lock:
            self._listed.update(dict.fromkeys(classes))
            return tuple(self._listed)


@dataclass(frozen=True, eq=False)
class SegmentedFrame:
    """A frame with its result. The overlay is drawn once, when it is first read.

    Attributes:
        age_s: seconds from the capture of the frame to its result; None if not measured.
        source: short name of the source if there are several, otherwise ""; default: that of the frame.
        legends: the classes listed in the frames of this source before it; None for a single frame.
    """

    frame: Frame
    result: SegmentationResult
    draw: DrawOptions = field(default_factory=DrawOptions)
    age_s: float | None = None
    source: str = ""
    legends: LegendHistory | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.source or self.frame.source)

    @cached_property
    def overlay(self) -> NDArray[np.uint8]:
        """[h, w, 3] uint8 BGR. Shared by all sinks; do not modify it."""
        draw = self.draw
        legend: bool | tuple[int, ...] = draw.legend
        if draw.legend and self.legends is not None:
            legend = self.legends.update(self.result.legend_classes(draw.min_score))
        return self.result.plot(
            self.frame.image,
            style=draw.style,
            alpha=draw.alpha,
            min_score=draw.min_score,
            labels=draw.labels,
            legend=legend,
        )


class Sink(Protocol):
    """Interface of a sink. As a context manager it is closed, or aborted after an exception.

    Calls come from one thread at a time. A window belongs to the thread that first writes to it. If a sink
    has an attribute ``statistics`` that is None, run_pipeline sets it to the run's Statistics.snapshot.

    Attributes:
        draws: reads the overlay of every frame, so that it is drawn in the drawing thread.
        keeps: closed rather than aborted when a run fails, because its output so far is useful. False for
            sinks that only display the run; their abort() reports the failure to the viewer.
        recovers: after a failed write(), close() keeps the previous output if it is complete, or raises.
    """

    draws: bool
    keeps: bool
    recovers: bool

    def write(self, item: SegmentedFrame) -> bool:
        """Write one result.

        Returns:
            False to stop the run (the user closed the window).

        Raises:
            OutputError: it cannot be written.
        """
        ...

    def close(self) -> None:
        """Complete the files. Idempotent."""
        ...

    def abort(self) -> None:
        """End after a failure: what can be used without its end is kept, the rest removed. Idempotent."""
        ...

    def __enter__(self) -> Sink: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BaseSink:
    """Base class of sinks, with default implementations that do nothing."""

    draws = False
    keeps = True
    recovers = False

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, item: SegmentedFrame) -> bool:
        """See :meth:`Sink.write`."""
        return True

    def close(self) -> None:
        """See :meth:`Sink.close`."""

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""


class NullSink(BaseSink):
    """Discards all results; for measurements."""

"""What every sink is, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imp_trt.results.result import DEFAULT_SCORE_THRESHOLD, SegmentationResult
from imp_trt.video.sources.frame import Frame


@dataclass(frozen=True)
class DrawOptions:
    """How overlays look; see :meth:`imp_trt.SegmentationResult.plot`."""

    alpha: float = 0.5
    min_score: float = DEFAULT_SCORE_THRESHOLD
    labels: bool = True
    legend: bool = False


@dataclass(frozen=True, eq=False)
class Segmented:
    """A frame with its result; the overlay is drawn once, when the first sink asks for it.

    Attributes:
        age_s: seconds from the capture of the frame to its result; None if nobody measured.
        source: short name of the source where several are read at once, else ""; the frame's if not given.
    """

    frame: Frame
    result: SegmentationResult
    draw: DrawOptions = field(default_factory=DrawOptions)
    age_s: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.source or self.frame.source)

    @cached_property
    def overlay(self) -> NDArray[np.uint8]:
        """[h, w, 3] uint8 BGR; not to be changed, sinks share it."""
        d = self.draw
        return self.result.plot(
            self.frame.image, alpha=d.alpha, min_score=d.min_score, labels=d.labels, legend=d.legend
        )


class Sink(Protocol):
    """A context manager: closes after a clean end, aborts after an exception.

    One thread at a time calls it. A window belongs to the thread that first writes to it. Of a sink that has
    an attribute ``statistics`` which is None, run_pipeline sets it to the run's Statistics.snapshot.

    Attributes:
        draws: asks for the overlay of every frame, which is therefore best drawn ahead.
        keeps: closed, not aborted, when the run of a camera fails, because what it took is worth keeping.
            False for what only shows the run: abort() tells the viewer of the failure.
        recovers: after a write() that failed, close() keeps what came before if it is whole, or raises.
    """

    draws: bool
    keeps: bool
    recovers: bool

    def write(self, item: Segmented) -> bool:
        """Take one result; False asks the caller to stop (someone closed the window).

        Raises:
            OutputError: it cannot be written.
        """
        ...

    def close(self) -> None:
        """Finish; the files are whole and in place afterwards. Idempotent."""
        ...

    def abort(self) -> None:
        """Give up; nothing half-written stays. Idempotent."""
        ...

    def __enter__(self) -> Sink: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Base:
    """A sink that keeps nothing; the others override what they need."""

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

    def write(self, item: Segmented) -> bool:
        """See :meth:`Sink.write`."""
        return True

    def close(self) -> None:
        """See :meth:`Sink.close`."""

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""


class NullSink(Base):
    """Takes everything, keeps nothing: for measuring."""

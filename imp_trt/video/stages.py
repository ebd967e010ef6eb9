# SPDX-License-Identifier: Apache-2.0
"""Worker threads of a run (capture, drawing, writing) and the state that they share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Event, Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import InvalidInput
from imp_trt.results.result import SegmentationResult
from imp_trt.video.queues import FrameQueue
from imp_trt.video.sinks import LegendHistory, SegmentedFrame, Sink
from imp_trt.video.sources.frame import Frame
from imp_trt.video.statistics import Statistics

if TYPE_CHECKING:
    from imp_trt.video.tracking import Tracker

_log = logging.getLogger(__name__)

_POLL_INTERVAL_S = 1.0


@dataclass(frozen=True)
class CapturedFrame:
    """A frame in the queue before the network.

    Attributes:
        read_ms: time its source took to read it.
    """

    frame: Frame
    captured_s: float
    read_ms: float


@dataclass(frozen=True)
class Job:
    """A segmented frame between the network and the sinks.

    Attributes:
        channel: of its source.
        age_s: from capture to result; None if it is not counted.
        pixels: [K] int64, pixel count of each class; empty before drawing.
    """

    channel: int
    captured: CapturedFrame
    item: SegmentedFrame
    age_s: float | None
    pixels: NDArray[np.int64]
    draw_ms: float = 0.0


class RunState:
    """State that the threads of a run share: its frames, its clock, and how it ends.

    Attributes:
        to_draw, to_write: jobs in order, None as the last. Unbounded, because the frame queue bounds the
            number of jobs.
        cancelled: remaining results are discarded: the run failed, or a sink asked to stop.
        written: the sinks are closed or aborted.
        closing: a sink is finishing its files, which may take longer than a thread has to end.
        stopped: the run was ended by on_progress, possibly before its first frame.
        error: the first failure, or the interrupt that followed it.
        busy_since: when the call of a sink or callback began that is still running.
    """

    def __init__(self, queue: FrameQueue[CapturedFrame], clock: Callable[[], float]) -> None:
        self.queue = queue
        self.clock = clock
        self.to_draw: SimpleQueue[Job | None] = SimpleQueue()
        self.to_write: SimpleQueue[Job | None] = SimpleQueue()
        self.cancelled = Event()
        self.written = Event()
        self.closing = False
        self.stopped = False
        self.error: BaseException | None = None
        self.busy_since: float | None = None
        self._lock = Lock()

    def fail(self, error: BaseException, *, finish: bool = False) -> None:
        """Record an error and cancel the run.

        Args:
            finish: write the frames that are already being processed.
        """
        with self._lock:
            interrupts = isinstance(self.error, Exception) and not isinstance(error, Exception)
            if self.error is None or interrupts:
                self.error = error
        if not finish:
            self.cancel()

    def cancel(self) -> None:
        """Accept no more frames and drop those being processed."""
        self.cancelled.set()
        self.queue.stop()


def capture(state: RunState, channel: int, source: Iterable[Frame], name: str, limit: int | None) -> None:
    """Read a source to its end, up to limit frames, or until the queue is stopped.

    Args:
        name: set as the source of the frames; "" leaves theirs unchanged.
    """
    failure: BaseException | None = None
    try:
        frames = iter(source)
        try:
            _read(state, channel, frames, name, limit)
        finally:
            # A generator must be closed in the thread that ran it.
            if isinstance(frames, Generator):
                frames.close()
    except BaseException as error:
        failure = error
    # Raised in the caller's thread, after the frames that were read before.
    state.queue.close(channel, failure)


def _read(state: RunState, channel: int, frames: Iterator[Frame], name: str, limit: int | None) -> None:
    read = 0
    while limit is None or read < limit:
        before = state.clock()
        frame = next(frames, None)
        if frame is None:
            return
        if not hasattr(frame, "captured_s"):
            raise InvalidInput(
                "source of run_pipeline",
                expected="an iterable of imp_trt.video.Frame",
                got=f"one of {type(frame).__name__}",
                fix="Frame(image, index, name, time_s) for each image, or Segmenter.stream(images)",
            )
        read += 1
        now = state.clock()
        captured_s = now if frame.captured_s is None else frame.captured_s
        frame = replace(frame, captured_s=captured_s, source=name or frame.source)
        if not state.queue.put(channel, CapturedFrame(frame, captured_s, (now - before) * 1e3)):
            return


@dataclass(frozen=True)
class History:
    """What is remembered of the earlier frames of one source.

    Attributes:
        legends: the classes listed so far.
        tracker: None without tracking.
    """

    legends: LegendHistory
    tracker: Tracker | None

    def add(self, item: SegmentedFrame) -> SegmentedFrame:
        """The next frame of the source, with what is remembered."""
        result = item.result
        if self.tracker is not None:
            result = self.tracker.update(result, item.frame.time_s)
        return replace(item, result=result, legends=self.legends)


def draw_all(state: RunState, histories: Sequence[History], draw_overlays: bool) -> None:
    """Download each result and, if requested, track its instances and draw its overlay.

    Args:
        histories: one for each source.
        draw_overlays: False leaves drawing to the sink that asks for an overlay.
    """
    for job in _until_none(state.to_draw):
        if state.cancelled.is_set():
            state.queue.drop(job.channel)
            continue
        try:
            before = state.clock()
            # The result of an engine is downloaded here, while the network runs on the next frame.
            pixels = job.item.result.pixel_counts()
            item = histories[job.channel].add(job.item)
            _ = item.overlay if draw_overlays else item.result.instances
            draw_ms = (state.clock() - before) * 1e3
            state.to_write.put(replace(job, item=item, pixels=pixels, draw_ms=draw_ms))
        except BaseException as error:
            state.queue.drop(job.channel)
            state.fail(error)
    state.to_write.put(None)


class SinkWriter:
    """Passes jobs to the sinks and ends them.

    Finished work is kept however the run ends: sinks are closed. They are aborted if the run failed, or was
    stopped, before its first frame; and if they failed themselves and do not recover.

    Args:
        on_frame: called after each frame with the number of frames done and its result.
    """

    def __init__(
        self,
        state: RunState,
        sinks: Sequence[Sink],
        statistics: Statistics,
        on_frame: Callable[[int, SegmentationResult], None] | None,
    ) -> None:
        self._state = state
        self._sinks = sinks
        self._statistics = statistics
        self._on_frame = on_frame
        self._done = 0
        self._failed: Sink | None = None

    def run(self) -> None:
        """Body of the writing thread."""
        state = self._state
        entered: list[Sink] = []
        try:
            for sink in self._sinks:
                sink.__enter__()
                entered.append(sink)
        except BaseException as error:
            state.fail(error)
            for sink in self._sinks[len(entered) :]:
                abort_sink(sink)
        for job in _until_none(state.to_write):
            self._write(job)
        state.closing = True
        for sink in reversed(entered):
            self._end(sink)
        if state.error is not None and self._done:
            how = "failed" if isinstance(state.error, Exception) else "was interrupted"
            _log.warning("the run %s after %d frames; the outputs written so far are kept", how, self._done)
        state.written.set()

    def _end(self, sink: Sink) -> None:
        state = self._state
        error = state.error
        # After a failed write(), only the sink itself knows whether its earlier output is complete.
        intact = sink is not self._failed or getattr(sink, "recovers", False)
        if self._done:
            close = error is None or (intact and getattr(sink, "keeps", True))
        else:
            close = error is None and not state.stopped
        try:
            state.busy_since = state.clock()
            if close:
                sink.__exit__(None, None, None)
            elif error is None:
                sink.abort()
            else:
                sink.__exit__(type(error), error, error.__traceback__)
        except BaseException as failure:
            if state.error is not None:
                _log.warning("%s", failure)
            state.fail(failure)
            abort_sink(sink)
        finally:
            state.busy_since = None

    def _write(self, job: Job) -> None:
        state = self._state
        if state.cancelled.is_set():
            state.queue.drop(job.channel)
            return
        try:
            state.busy_since = before = state.clock()
            proceed = True
            for sink in self._sinks:  # all of them get the frame, even if one asks to stop
                self._failed = sink
                proceed = sink.write(job.item) is not False and proceed
            self._failed = None
            write_ms = (state.clock() - before) * 1e3
            result = job.item.result
            # Last, because an engine's result measures its download when it is read.
            steps = {"read": job.captured.read_ms, **result.timing, "draw": job.draw_ms, "write": write_ms}
            self._statistics.add(result, job.pixels, job.age_s, steps)
        except BaseException as error:
            state.queue.drop(job.channel)
            state.fail(error)
            return
        finally:
            state.busy_since = None
        state.queue.complete(job.channel)
        self._done += 1
        self._notify(result)
        if not proceed:
            state.cancel()

    def _notify(self, result: SegmentationResult) -> None:
        if self._on_frame is None:
            return
        try:
            self._state.busy_since = self._state.clock()
            self._on_frame(self._done, result)
        except BaseException as error:
            self._state.fail(error)
        finally:
            self._state.busy_since = None


def abort_sink(sink: Sink) -> None:
    """Abort a sink. A failure is logged, so that the other sinks are still ended."""
    try:
        sink.abort()
    except BaseException as error:
        _log.warning("a sink could not be aborted: %s", error)


def _until_none(queue: SimpleQueue[Job | None]) -> Iterator[Job]:
    while True:
        try:
            job = queue.get(timeout=_POLL_INTERVAL_S)
        except Empty:
            continue
        if job is None:
            return
        yield job

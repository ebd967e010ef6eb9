"""The threads of a run beside the caller's: capture, drawing, writing, and what they share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Event, Lock

import numpy as np
from numpy.typing import NDArray

from imp_trt.results.result import SegmentationResult
from imp_trt.video.queues import Intake
from imp_trt.video.sinks import Segmented, Sink
from imp_trt.video.sources.frame import Frame
from imp_trt.video.statistics import Statistics

_log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Captured:
    """A frame that waits for the network.

    Attributes:
        read_ms: what its source took to give it.
    """

    frame: Frame
    captured_s: float
    read_ms: float


@dataclass(frozen=True)
class Job:
    """A segmented frame on its way to the sinks.

    Attributes:
        lane: of its source.
        age_s: from capture to result.
        pixels: [K] int64, pixels of each class; empty before drawing.
    """

    lane: int
    captured: Captured
    item: Segmented
    age_s: float
    pixels: NDArray[np.int64]
    draw_ms: float = 0.0


class Shared:
    """What the threads of a run share: its frames, its clock, and how it ends.

    Args:
        recording: a source is live. Its frames cannot be had again, so that what sinks have of them outlives
            a failure; of files, an output that only looks complete is worse than none.

    Attributes:
        to_draw, to_write: jobs in order, None as the last. Unbounded, because the intake bounds the jobs.
        given_up: results are no longer wanted: the run failed, or a sink asked to stop.
        written: the sinks are closed or aborted.
        closing: a sink finishes its files, which may take longer than a thread has to end.
        error: the first failure, or the interrupt that came after it.
        busy_since: when a sink or callback was given what it still works on.
    """

    def __init__(self, intake: Intake[Captured], clock: Callable[[], float], recording: bool) -> None:
        self.intake = intake
        self.clock = clock
        self.recording = recording
        self.to_draw: SimpleQueue[Job | None] = SimpleQueue()
        self.to_write: SimpleQueue[Job | None] = SimpleQueue()
        self.given_up = Event()
        self.written = Event()
        self.closing = False
        self.error: BaseException | None = None
        self.busy_since: float | None = None
        self._lock = Lock()

    @property
    def keeps(self) -> bool:
        """Whether sinks are closed at the end, and not aborted."""
        return self.error is None or (self.recording and isinstance(self.error, Exception))

    def fail(self, error: BaseException, *, finish: bool = False) -> None:
        """Note an error and give up what is under way; finish: leave it to be written."""
        with self._lock:
            interrupts = isinstance(self.error, Exception) and not isinstance(error, Exception)
            if self.error is None or interrupts:
                self.error = error
        if not finish:
            self.give_up()

    def give_up(self) -> None:
        """Want no more frames, and drop those under way."""
        self.given_up.set()
        self.intake.stop()


def capture(shared: Shared, lane: int, source: Iterable[Frame], name: str, limit: int | None) -> None:
    """Read a source to its end, to limit frames, or until no more are wanted.

    Args:
        name: put into the frames as their source; "" leaves them as they are.
    """
    failure: BaseException | None = None
    try:
        frames = iter(source)
        try:
            _read(shared, lane, frames, name, limit)
        finally:
            # A generator ends in the thread that ran it.
            if isinstance(frames, Generator):
                frames.close()
    except BaseException as error:
        failure = error
    # Raised in the caller's thread when the turn comes to it.
    shared.intake.end(lane, failure)


def _read(shared: Shared, lane: int, frames: Iterator[Frame], name: str, limit: int | None) -> None:
    read = 0
    while read != limit:
        before = shared.clock()
        frame = next(frames, None)
        if frame is None:
            return
        read += 1
        now = shared.clock()
        at = now if frame.captured_s is None else frame.captured_s
        frame = replace(frame, captured_s=at, source=name or frame.source)
        if not shared.intake.offer(lane, Captured(frame, at, (now - before) * 1e3)):
            return


def draw_all(shared: Shared, ahead: bool) -> None:
    """Fetch each result and, if a sink draws, its overlay.

    Args:
        ahead: draw; else a sink that asks for an overlay draws it itself.
    """
    for job in _until_none(shared.to_draw):
        if shared.given_up.is_set():
            shared.intake.drop(job.lane)
            continue
        try:
            before = shared.clock()
            # An engine's answer is fetched from the GPU here, beside the network's next frame.
            pixels = job.item.result.pixel_counts()
            _ = job.item.overlay if ahead else job.item.result.instances
            draw_ms = (shared.clock() - before) * 1e3
            shared.to_write.put(replace(job, pixels=pixels, draw_ms=draw_ms))
        except BaseException as error:
            shared.intake.drop(job.lane)
            shared.fail(error)
    shared.to_write.put(None)


class Writing:
    """Hands jobs to the sinks and ends them: closed where Shared.keeps says so, else aborted.

    Args:
        on_frame: called after each frame with the number done and its result.
    """

    def __init__(
        self,
        shared: Shared,
        sinks: Sequence[Sink],
        statistics: Statistics,
        on_frame: Callable[[int, SegmentationResult], None] | None,
    ) -> None:
        self._shared = shared
        self._sinks = sinks
        self._statistics = statistics
        self._on_frame = on_frame
        self._done = 0
        self._failed: Sink | None = None

    def run(self) -> None:
        """The thread."""
        shared = self._shared
        entered: list[Sink] = []
        try:
            for sink in self._sinks:
                sink.__enter__()
                entered.append(sink)
        except BaseException as error:
            shared.fail(error)
            for sink in self._sinks[len(entered) :]:
                abort_sink(sink)
        for job in _until_none(shared.to_write):
            self._write(job)
        shared.closing = True
        for sink in reversed(entered):
            self._end(sink)
        if shared.error is not None and shared.keeps and self._done:
            _log.warning("the run failed after %d frames; what was written of them is kept", self._done)
        shared.written.set()

    def _end(self, sink: Sink) -> None:
        shared = self._shared
        # Of a sink whose write() failed, it alone can tell whether what it has is whole.
        sound = sink is not self._failed or getattr(sink, "recovers", False)
        kept = shared.keeps and getattr(sink, "keeps", True)
        whole = shared.error is None or (kept and sound and self._done)
        error = None if whole else shared.error
        try:
            shared.busy_since = shared.clock()
            sink.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        except BaseException as failure:
            if shared.error is not None:
                _log.warning("%s", failure)
            shared.fail(failure)
            abort_sink(sink)
        finally:
            shared.busy_since = None

    def _write(self, job: Job) -> None:
        shared = self._shared
        if shared.given_up.is_set():
            shared.intake.drop(job.lane)
            return
        try:
            shared.busy_since = before = shared.clock()
            going = True
            for sink in self._sinks:  # every one gets the frame, even if one of them asks to stop
                self._failed = sink
                going = sink.write(job.item) is not False and going
            self._failed = None
            write_ms = (shared.clock() - before) * 1e3
            result = job.item.result
            # Last, because an engine's result takes the time of its download when it is read.
            steps = {"read": job.captured.read_ms, **result.timing, "draw": job.draw_ms, "write": write_ms}
            self._statistics.add(result, job.pixels, job.age_s, steps)
        except BaseException as error:
            shared.intake.drop(job.lane)
            shared.fail(error)
            return
        finally:
            shared.busy_since = None
        shared.intake.deliver(job.lane)
        self._done += 1
        self._tell(result)
        if not going:
            shared.give_up()

    def _tell(self, result: SegmentationResult) -> None:
        if self._on_frame is None:
            return
        try:
            self._shared.busy_since = self._shared.clock()
            self._on_frame(self._done, result)
        except BaseException as error:
            self._shared.fail(error)
        finally:
            self._shared.busy_since = None


def abort_sink(sink: Sink) -> None:
    """Abort a sink; that it cannot even do that changes nothing for the others."""
    try:
        sink.abort()
    except BaseException as error:
        _log.warning("a sink could not be aborted: %s", error)


def _until_none(queue: SimpleQueue[Job | None]) -> Iterator[Job]:
    while True:
        try:
            job = queue.get(timeout=_LOOK_AGAIN_S)
        except Empty:
            continue
        if job is None:
            return
        yield job

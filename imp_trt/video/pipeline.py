# SPDX-License-Identifier: Apache-2.0
"""Sources through a segmenter into sinks; capture, inference, drawing and writing overlap."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np

from imp_trt.errors import InvalidInput, OutputError
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.temporal import TemporalOptions, TemporalState
from imp_trt.video.queues import FrameQueue, Policy
from imp_trt.video.sinks import DrawOptions, LegendHistory, SegmentedFrame, Sink
from imp_trt.video.source_names import short_names
from imp_trt.video.sources import Source
from imp_trt.video.sources.frame import Frame
from imp_trt.video.stages import (
    CapturedFrame,
    History,
    Job,
    RunState,
    SinkWriter,
    abort_sink,
    capture,
    draw_all,
)
from imp_trt.video.statistics import RunSummary, Snapshot, SourceState, Statistics

__all__ = ["RunSummary", "run_pipeline"]

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from imp_trt.video.tracking import Tracker

DEFAULT_TRACKED_FPS = 30.0
"""Frame rate for tracking where a source has none and its frames have no times."""

JOIN_TIMEOUT_S = 2.0
"""How long a run waits for its threads to end."""

STALL_TIMEOUT_S = 60.0
"""How long a sink or callback may take for one frame before the run fails."""

_PROGRESS_INTERVAL_S = 0.25
_NO_PIXELS = np.zeros(0, np.int64)
_CLOSE_AFTER_S = 0.5  # a capture thread ends with its next frame; a camera that delivers none is closed

_Frames: TypeAlias = Iterable[Frame]
_ProgressCallback: TypeAlias = Callable[[Snapshot], "bool | None"]


@runtime_checkable
class _LatestFrameSource(Protocol):
    """A source that can replace frames that were not taken, such as LiveSource."""

    latest: bool


@runtime_checkable
class _StatisticsSink(Protocol):
    """A sink that shows the statistics of the run, such as BrowserView."""

    statistics: Callable[[], Snapshot] | None


def run_pipeline(
    segmenter: Segmenter,
    source: Iterable[Frame] | Sequence[Source],
    sinks: Sequence[Sink],
    *,
    max_frames: int | None = None,
    draw: DrawOptions | None = None,
    on_frame: Callable[[int, SegmentationResult], None] | None = None,
    policy: Policy | None = None,
    queue_size: int = 2,
    deadline_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    on_progress: _ProgressCallback | None = None,
    stall_s: float = STALL_TIMEOUT_S,
    track: bool = False,
    temporal: TemporalOptions | None = None,
) -> RunSummary:
    """Segment the frames of one or several sources and pass each result to every sink.

    Each source is read in a thread of its own; results are drawn in a second thread and written in a third,
    which enters, writes and ends every sink. The network runs in the caller's thread, because an engine may
    already belong to it. Several files are read round-robin. The order within a source is always kept.

    If anything fails, KeyboardInterrupt included, every thread is joined within two seconds, and the
    exception propagates to the caller. Finished work is kept: the sinks are closed, which may take longer,
    unless no frame was done or the sink failed itself (see Sink.recovers). A thread that is still inside a
    native call is left running. :func:`imp_trt.video.stop_on_interrupt` makes Ctrl-C a regular end.

    Args:
        source: the result of open_source, any iterable of frames, or a list of sources. With a list, frames
            carry the short name of their source.
        max_frames: stop after this many frames, over all sources; a fraction, such as 10 * 29.97, counts as
            a frame.
        draw: options for overlays.
        on_frame: called in the writing thread with the number of frames done and the result.
        policy: what happens to a frame when the queue is full: "wait" (the source blocks), "drop-oldest" or
            "drop-newest". None: cameras and streams drop the oldest frame; files, and streams that are
            paced (see LiveSource), wait.
        queue_size: maximum number of queued frames per source.
        deadline_s: a result older than this, measured from the capture of its frame, is a deadline miss;
            frames of a file that is read along with cameras are not counted. Where frames may be dropped,
            frames that have already expired are not segmented.
        clock: monotonic clock in seconds, the same that Frame.captured_s is measured with.
        on_progress: called in the caller's thread with Statistics.snapshot(), at most four times a second
            and at the end. False ends the run; frames that the network has started are still written.
        stall_s: fail if a sink or on_frame takes longer than this for one frame, or a sink to close.
        track: give instances track ids over the frames of each source, see :class:`imp_trt.video.Tracker`.
        temporal: run the detector on some frames only, see :meth:`imp_trt.Segmenter.run_next`; None runs it
            on all. With a deadline, a late frame then skips the detector, and no frame is dropped because it
            has expired.

    Returns:
        The summary. Frames of files are never dropped, except those read ahead when the run was ended by a
        sink, by on_progress, or by max_frames with several sources.

    Raises:
        InvalidInput: an argument is invalid.
        DependencyMissing: track without the package trackers.
        ArtifactError: temporal, and the artifact has no canvas part.
        OutputError: a sink stalls.
        Exception: the first exception raised by a source, the segmenter, a sink or a callback.
    """
    if not isinstance(sinks, Sequence):
        abort_sink(sinks)
        raise InvalidInput("sinks", expected="a list", got=type(sinks).__name__, fix="[sink]")
    options = _Options(
        max_frames, draw or DrawOptions(), on_frame, deadline_s, clock, on_progress, stall_s, track, temporal
    )
    try:
        options.check()
        _reject_path(segmenter, "segmenter", "a Segmenter", "Segmenter(path)")
        for sink in sinks:
            _reject_path(sink, "sinks", "sinks", "overlay_sink(path, source.fps)")
        if temporal is not None:
            segmenter.open_canvas()
        run = _Run(segmenter, _as_list(source), sinks, policy, queue_size, options)
    except BaseException:
        for sink in sinks:
            if not isinstance(sink, str | os.PathLike):
                abort_sink(sink)
        raise
    return run.run()


def _as_list(source: Iterable[Frame] | Sequence[Source]) -> Sequence[_Frames]:
    several = isinstance(source, list | tuple) and bool(source) and not isinstance(source[0], Frame)
    sources = cast("Sequence[_Frames]", source if several else [source])
    for one in sources:
        _reject_path(one, "source of run_pipeline", "an opened source", "open_source(path)")
    return sources


def _reject_path(given: object, what: str, expected: str, fix: str) -> None:
    if isinstance(given, str | os.PathLike):
        raise InvalidInput(what, expected=expected, got="a path", fix=fix)


@dataclass(frozen=True)
class _Options:
    max_frames: int | None
    draw: DrawOptions
    on_frame: Callable[[int, SegmentationResult], None] | None
    deadline_s: float | None
    clock: Callable[[], float]
    on_progress: _ProgressCallback | None
    stall_s: float
    track: bool
    temporal: TemporalOptions | None

    def check(self) -> None:
        """Raise InvalidInput for a limit that is not positive."""
        for name in ("max_frames", "deadline_s", "stall_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInput(name, expected="above 0", got=value)


class _Run:
    """One run, controlled from the caller's thread."""

    def __init__(
        self,
        segmenter: Segmenter,
        sources: Sequence[_Frames],
        sinks: Sequence[Sink],
        policy: Policy | None,
        queue_size: int,
        options: _Options,
    ) -> None:
        self._segmenter = segmenter
        self._sources = sources
        self._sinks = sinks
        self._options = options
        self._names = short_names(sources)
        for live_source in sources if policy == "wait" else ():
            if isinstance(live_source, _LatestFrameSource):
                live_source.latest = False  # otherwise the source itself would drop frames
        self._live = [bool(getattr(source, "live", False)) for source in sources]
        policies: list[Policy] = [policy or _default_policy(source) for source in sources]
        # Frames of files wait until they are needed, so their age means nothing and is not reported.
        self._has_age = [live or kind != "wait" for live, kind in zip(self._live, policies, strict=True)]
        # One frame each in inference, drawing and writing. For files, more frames even out the stages.
        max_outstanding = 3 if any(self._has_age) else 3 + queue_size
        round_robin = not any(self._has_age)
        queue = FrameQueue(policies, queue_size, max_outstanding, round_robin, self._is_expired)
        self._state = RunState(queue, options.clock)
        # Without dropping, exactly max_frames are read.
        self._read_limit = options.max_frames if len(sources) == 1 and round_robin else None
        self._statistics = self._new_statistics()
        for sink in sinks:
            if isinstance(sink, _StatisticsSink) and sink.statistics is None:
                sink.statistics = self._statistics.snapshot
        self._histories = [History(LegendHistory(), self._new_tracker(source)) for source in sources]
        temporal = options.temporal
        self._states = [None if temporal is None else TemporalState(temporal, options.clock) for _ in sources]
        self._reported = -math.inf
        # Of the call of a sink or callback: when it began, how long it takes, and when that was checked.
        self._watched_s, self._busy_s, self._checked_s = math.nan, 0.0, 0.0

    def run(self) -> RunSummary:
        """See :func:`run_pipeline`."""
        state, several = self._state, len(self._sources) > 1
        writer = SinkWriter(state, self._sinks, self._statistics, self._options.on_frame)
        limit = self._read_limit
        draw_overlays = any(getattr(sink, "draws", False) for sink in self._sinks)
        workers = [
            _thread("writing", writer.run),
            _thread("drawing", draw_all, state, self._histories, draw_overlays),
        ]
        captures = [
            _thread(f"capture {name}", capture, state, channel, source, name if several else "", limit)
            for channel, (name, source) in enumerate(zip(self._names, self._sources, strict=True))
        ]
        try:
            for thread in (*workers, *captures):
                thread.start()
            self._segment_all()
            state.queue.stop()
            state.to_draw.put(None)
            while state.error is None and not state.written.wait(_PROGRESS_INTERVAL_S):
                self._check_progress()
        except BaseException as error:
            state.fail(error)
        try:
            self._join_all(captures, workers)
        except BaseException as error:  # a second interrupt while joining
            state.fail(error)
            self._join_all(captures, workers, finalize=False)
        if state.error is not None:
            raise state.error
        self._report(last=True)
        return self._statistics.summary()

    def _segment_all(self) -> None:
        queue, count = self._state.queue, 0
        limit = math.inf if self._options.max_frames is None else self._options.max_frames
        while not queue.exhausted() and count < limit:
            self._check_progress()
            try:
                queued = queue.get(_PROGRESS_INTERVAL_S)
            except Exception as error:  # raised by a source
                self._state.fail(error, finish=True)
                return
            if queued is None:
                continue
            count += 1
            channel, captured = queued
            try:
                result = self._result(channel, captured)
                age_s = max(self._options.clock() - captured.captured_s, 0.0)
                reported_age_s = age_s if self._has_age[channel] else None
                item = SegmentedFrame(captured.frame, result, self._options.draw, age_s=reported_age_s)
            except BaseException:
                queue.drop(channel)
                raise
            counted_s = reported_age_s if any(self._has_age) else age_s
            self._state.to_draw.put(Job(channel, captured, item, counted_s, _NO_PIXELS))

    def _result(self, channel: int, captured: CapturedFrame) -> SegmentationResult:
        frame, state, deadline_s = captured.frame, self._states[channel], self._options.deadline_s
        if state is None:
            return self._segmenter.run(frame.image)
        slack_ms = None
        if deadline_s is not None and self._has_age[channel]:
            slack_ms = (deadline_s - (self._options.clock() - captured.captured_s)) * 1e3
        return self._segmenter.run_next(frame.image, state, time_s=frame.time_s, slack_ms=slack_ms)

    def _check_progress(self) -> None:
        """Report progress; raise if a sink or callback stalls."""
        if self._state.error is None:
            self._report()
        if self._is_stalled():
            raise OutputError(
                "a sink or callback stalls",
                expected=f"it to take a frame, or to close, within {self._options.stall_s:g} s",
                fix="check what it waits for, or increase stall_s",
            )

    def _is_stalled(self) -> bool:
        since, now, limit_s = self._state.busy_since, self._options.clock(), self._options.stall_s
        before, self._checked_s = self._checked_s, now
        if since is None:
            return False
        if self._watched_s != since:
            self._watched_s, self._busy_s, before = since, 0.0, since
        # A longer time without a check was probably no time to write either: Ctrl-Z, a paused container.
        self._busy_s += min(now - before, limit_s / 4)
        return self._busy_s > limit_s

    def _report(self, last: bool = False) -> None:
        now = self._options.clock()
        if self._options.on_progress is None or (now - self._reported < _PROGRESS_INTERVAL_S and not last):
            return
        self._reported = now
        if self._options.on_progress(self._statistics.snapshot()) is False:
            self._state.stopped = True
            self._state.queue.stop()

    def _join_all(
        self, captures: Sequence[Thread], workers: Sequence[Thread], *, finalize: bool = True
    ) -> None:
        """Join every thread; those that do not end in time are left running.

        Args:
            finalize: give sinks the time that they need to finish their files.
        """
        state, start = self._state, time.monotonic()
        state.queue.stop()
        state.to_draw.put(None)
        writing, drawing = workers
        if drawing.ident is None:
            state.to_write.put(None)  # the drawing thread would have done it
        for thread in captures:
            _join_until(thread, start + _CLOSE_AFTER_S)
        closers = [
            _thread(f"closing {name}", _close, state, source)
            for name, source, live, thread in zip(
                self._names, self._sources, self._live, captures, strict=True
            )
            if live and thread.is_alive()
        ]
        for thread in closers:
            thread.start()
        _join_until(writing, start + JOIN_TIMEOUT_S / 2)
        state.cancel()  # discard what the writing thread has not written by now
        for thread in (*closers, *captures, drawing, writing):
            _join_until(thread, start + JOIN_TIMEOUT_S)
            while thread is writing and finalize and self._is_finalizing():
                _join_until(thread, time.monotonic() + _PROGRESS_INTERVAL_S)
            if thread.is_alive():
                _log.warning("the thread %s did not end and is left running", thread.name)
        if writing.ident is None:
            for sink in self._sinks:
                abort_sink(sink)

    def _is_finalizing(self) -> bool:
        """Whether a sink is finishing its files."""
        state = self._state
        return state.closing and not state.written.is_set() and not self._is_stalled()

    def _is_expired(self, captured: CapturedFrame) -> bool:
        deadline = self._options.deadline_s
        if self._options.temporal is not None:
            return False  # a late frame skips the detector
        return deadline is not None and self._options.clock() - captured.captured_s > deadline

    def _new_tracker(self, source: _Frames) -> Tracker | None:
        if not self._options.track:
            return None
        from imp_trt.video.tracking import Tracker

        return Tracker(getattr(source, "fps", None) or DEFAULT_TRACKED_FPS)

    def _new_statistics(self) -> Statistics:
        contract = self._segmenter.manifest.input
        states = [
            SourceState(
                name,
                live,
                reconnects=partial(getattr, source, "reconnects", 0),
                lost=partial(getattr, source, "dropped", 0),
                skipped=partial(getattr, source, "skipped", ()),
            )
            for name, live, source in zip(self._names, self._live, self._sources, strict=True)
        ]
        return Statistics(
            self._segmenter.classes,
            (contract.height, contract.width),
            states,
            self._state.queue.counts,
            self._options.draw.min_score,
            self._options.deadline_s,
            self._options.clock,
        )


def _default_policy(source: _Frames) -> Policy:
    waits = not getattr(source, "live", False) or getattr(source, "paced", False)
    return "wait" if waits else "drop-oldest"


def _thread(name: str, work: Callable[..., None], *args: object) -> Thread:
    """A daemon thread, because a native call (read, download, write) cannot be interrupted."""
    return Thread(target=work, args=args, name=f"imp-trt {name}", daemon=True)


def _close(state: RunState, source: _Frames) -> None:
    try:
        cast("Source", source).close()  # only sources that are live are closed here
    except Exception as error:
        state.fail(error)


def _join_until(thread: Thread, until: float) -> None:
    if thread.ident is not None:  # a thread that was never started cannot be joined
        thread.join(max(until - time.monotonic(), 0.0))

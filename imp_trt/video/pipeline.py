"""From sources through a segmenter into sinks: capture, inference, drawing and writing overlap."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from threading import Thread
from typing import Any

import numpy as np

from imp_trt.errors import InvalidInput, OutputError
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.video.queues import Intake, Policy
from imp_trt.video.sinks import DrawOptions, Segmented, Sink
from imp_trt.video.sources import Source
from imp_trt.video.sources.frame import Frame
from imp_trt.video.stages import Captured, Job, Shared, Writing, abort_sink, capture, draw_all
from imp_trt.video.statistics import RunSummary, SourceState, Statistics

__all__ = ["RunSummary", "run_pipeline", "short_names"]

_log = logging.getLogger(__name__)

JOIN_S = 2.0
"""How long a failed run waits for its threads."""

STALL_S = 60.0
"""How long a sink or callback may keep one frame before the run fails."""

_PROGRESS_S = 0.25
_NOTHING = np.zeros(0, np.int64)
_CLOSE_AFTER_S = 0.5  # a camera's next frame ends its thread; one that gives none is closed under it


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
    on_progress: Callable[[dict[str, Any]], bool | None] | None = None,
    stall_s: float = STALL_S,
) -> RunSummary:
    """Segment the frames of one or several sources and hand each to every sink.

    Each source is read in a thread of its own; results are drawn in another, and written in a third, in
    which every sink is entered, written, closed and aborted. The network runs in the caller's thread, to
    which an engine may already belong. Frames of files are never dropped and come in an order that does
    not depend on the threads, several files in turn; order within a source is always kept.

    Sinks are closed at the end. If anything fails, KeyboardInterrupt included, they are aborted, every
    thread is joined within two seconds, and the exception goes on to the caller. A thread that a native
    call holds for longer is left behind with a warning; a camera or stream is closed to free it.

    Frames of a camera or stream cannot be had again. Where one is among the sources, a failure ends the run
    as well, also that of one source of several, but then sinks are closed and their files kept: all but
    the sink that failed itself (see Sink.recovers), and nothing after KeyboardInterrupt. That they finish
    their files may take longer than two seconds. :func:`imp_trt.video.interrupt_ends` makes Ctrl-C an
    ordinary end.

    Args:
        source: what open_source gives, any iterable of frames, or a list of sources, whose frames get a short
            name of their source.
        max_frames: stop after this many frames, of all sources together.
        draw: how overlays look.
        on_frame: called in the writing thread after each frame, with the number done and its result.
        policy: what happens to a frame that finds the queue full: "wait" (the source is held up),
            "drop-oldest" or "drop-newest". None: cameras and streams drop the oldest, others wait.
        queue_size: frames of each source that may wait for the network.
        deadline_s: a result that is older than this, counted from its frame's capture, is a deadline
            miss. Where frames may be dropped, those that are too old already are not segmented.
        clock: seconds, monotonic; what Frame.captured_s was taken from.
        on_progress: called in the caller's thread with Statistics.snapshot(), four times a second at most
            and at the end; False ends the run: what the network has begun is still written.
        stall_s: fail if a sink, or on_frame, keeps one frame for longer, or closing a sink takes longer.

    Returns:
        The summary; frames of files are never dropped, except what was read ahead when the run was ended
        by a sink, by on_progress, or by max_frames with several sources.

    Raises:
        InvalidInput: an argument makes no sense.
        OutputError: a sink stalls.
        Exception: whatever a source, the segmenter, a sink or a callback raised first.
    """
    several = isinstance(source, list | tuple) and bool(source) and not isinstance(source[0], Frame)
    sources: Sequence[Any] = source if several else [source]  # type: ignore[assignment]
    options = _Options(max_frames, draw or DrawOptions(), on_frame, deadline_s, clock, on_progress, stall_s)
    try:
        for name in ("max_frames", "deadline_s"):
            value = getattr(options, name)
            if value is not None and not value > 0:
                raise InvalidInput(name, expected="above 0", got=value)
        run = _Run(segmenter, sources, sinks, policy, queue_size, options)
    except BaseException:
        for sink in sinks:
            abort_sink(sink)
        raise
    return run.run()


@dataclass(frozen=True)
class _Options:
    max_frames: int | None
    draw: DrawOptions
    on_frame: Callable[[int, SegmentationResult], None] | None
    deadline_s: float | None
    clock: Callable[[], float]
    on_progress: Callable[[dict[str, Any]], bool | None] | None
    stall_s: float


class _Run:
    """One run, in the caller's thread."""

    def __init__(
        self,
        segmenter: Segmenter,
        sources: Sequence[Any],
        sinks: Sequence[Sink],
        policy: Policy | None,
        queue_size: int,
        options: _Options,
    ) -> None:
        self._segmenter = segmenter
        self._sources = sources
        self._sinks = sinks
        self._o = options
        self._names = short_names(sources)
        for live_source in sources if policy == "wait" else ():
            if hasattr(live_source, "latest"):
                live_source.latest = False  # it too waits
        self._live = [bool(getattr(source, "live", False)) for source in sources]
        policies: list[Policy] = [policy or ("drop-oldest" if live else "wait") for live in self._live]
        # A file's frames wait until they are asked for: how old they are says nothing to a reader.
        self._ageing = [live or kind != "wait" for live, kind in zip(self._live, policies, strict=True)]
        # One frame in each of inference, drawing and writing; files add some slack for uneven steps.
        limit = 3 if any(self._ageing) else 3 + queue_size
        in_turn = not any(self._ageing)
        intake = Intake(policies, queue_size, limit, in_turn, self._too_old)
        self._shared = Shared(intake, options.clock, recording=any(self._live))
        # Where nothing is dropped, nothing is read that will not be needed.
        self._read_limit = options.max_frames if len(sources) == 1 and in_turn else None
        self._statistics = self._new_statistics()
        watching: Any
        for watching in sinks:
            if hasattr(watching, "statistics") and watching.statistics is None:
                watching.statistics = self._statistics.snapshot
        self._reported = -math.inf

    def run(self) -> RunSummary:
        """See :func:`run_pipeline`."""
        shared, several = self._shared, len(self._sources) > 1
        writing = Writing(shared, self._sinks, self._statistics, self._o.on_frame)
        limit = self._read_limit
        ahead = any(getattr(sink, "draws", False) for sink in self._sinks)
        workers = [
            _thread("writing", writing.run),
            _thread("drawing", draw_all, shared, ahead),
        ]
        captures = [
            _thread(f"capture {name}", capture, shared, lane, source, name if several else "", limit)
            for lane, (name, source) in enumerate(zip(self._names, self._sources, strict=True))
        ]
        try:
            for thread in (*workers, *captures):
                thread.start()
            self._segment_all()
            shared.intake.stop()
            shared.to_draw.put(None)
            while shared.error is None and not shared.written.wait(_PROGRESS_S):
                self._watch()
        except BaseException as error:
            shared.fail(error)
        try:
            self._end(captures, workers)
        except BaseException as error:  # the caller wants to wait no longer
            shared.fail(error)
            self._end(captures, workers)
        if shared.error is not None:
            raise shared.error
        self._report(last=True)
        return self._statistics.summary()

    def _segment_all(self) -> None:
        intake, taken = self._shared.intake, 0
        while not intake.over() and taken != self._o.max_frames:
            self._watch()
            try:
                got = intake.take(_PROGRESS_S)
            except Exception as error:  # of a source
                self._shared.fail(error, finish=self._shared.recording)
                return
            if got is None:
                continue
            taken += 1
            lane, captured = got
            try:
                result = self._segmenter.run(captured.frame.image)
                age_s = max(self._o.clock() - captured.captured_s, 0.0)
                shown = age_s if self._ageing[lane] else None
                item = Segmented(captured.frame, result, self._o.draw, age_s=shown)
            except BaseException:
                intake.drop(lane)
                raise
            self._shared.to_draw.put(Job(lane, captured, item, age_s, _NOTHING))

    def _watch(self) -> None:
        """Report progress; see that the sinks go on."""
        if self._shared.error is None:
            self._report()
        if self._stalls():
            raise OutputError(
                "a sink or callback stalls",
                expected=f"it to take a frame, or to close, within {self._o.stall_s:g} s",
                fix="find out what it waits for; a larger stall_s gives it more time",
            )

    def _stalls(self) -> bool:
        busy = self._shared.busy_since
        return busy is not None and self._o.clock() - busy > self._o.stall_s

    def _report(self, last: bool = False) -> None:
        now = self._o.clock()
        if self._o.on_progress is None or (now - self._reported < _PROGRESS_S and not last):
            return
        self._reported = now
        if self._o.on_progress(self._statistics.snapshot()) is False:
            self._shared.intake.stop()

    def _end(self, captures: Sequence[Thread], workers: Sequence[Thread]) -> None:
        """Join every thread, as far as it ends."""
        shared, start = self._shared, time.monotonic()
        shared.intake.stop()
        shared.to_draw.put(None)
        writing, drawing = workers
        if drawing.ident is None:
            shared.to_write.put(None)  # nobody else will
        for thread in captures:
            _wait_for(thread, start + _CLOSE_AFTER_S)
        closers = [
            _thread(f"closing {name}", _close, self._shared, source)
            for name, source, live, thread in zip(
                self._names, self._sources, self._live, captures, strict=True
            )
            if live and thread.is_alive()
        ]
        for thread in closers:
            thread.start()
        _wait_for(writing, start + JOIN_S / 2)
        shared.give_up()  # if it has not written by now what was under way
        for thread in (*closers, *captures, drawing, writing):
            _wait_for(thread, start + JOIN_S)
            while thread is writing and self._finishes_files():
                _wait_for(thread, time.monotonic() + _PROGRESS_S)
            if thread.is_alive():
                _log.warning("the thread %s does not end; it is left behind", thread.name)
        if writing.ident is None:
            for sink in self._sinks:
                abort_sink(sink)

    def _finishes_files(self) -> bool:
        shared = self._shared
        return shared.closing and shared.keeps and not shared.written.is_set() and not self._stalls()

    def _too_old(self, captured: Captured) -> bool:
        deadline = self._o.deadline_s
        return deadline is not None and self._o.clock() - captured.captured_s > deadline

    def _new_statistics(self) -> Statistics:
        contract = self._segmenter.manifest.input
        states = [
            SourceState(
                name,
                live,
                reconnects=partial(getattr, source, "reconnects", 0),
                lost=partial(getattr, source, "dropped", 0),
            )
            for name, live, source in zip(self._names, self._live, self._sources, strict=True)
        ]
        return Statistics(
            self._segmenter.classes,
            (contract.height, contract.width),
            states,
            self._shared.intake.counts,
            self._o.draw.min_score,
            self._o.deadline_s,
            self._o.clock,
        )


def _thread(name: str, work: Callable[..., None], *args: object) -> Thread:
    """A daemon, because it may sit in a native call that nothing interrupts: a read, a fetch, a write."""
    return Thread(target=work, args=args, name=f"imp-trt {name}", daemon=True)


def _close(shared: Shared, source: Source) -> None:
    try:
        source.close()
    except Exception as error:
        shared.fail(error)


def _wait_for(thread: Thread, until: float) -> None:
    if thread.ident is not None:  # one that never started cannot be joined
        thread.join(max(until - time.monotonic(), 0.0))


def short_names(sources: Sequence[Any]) -> list[str]:
    """A name per source that may stand in a path: the file's stem, or what is left of an address."""
    names: list[str] = []
    for index, source in enumerate(sources):
        text = PurePath(str(getattr(source, "name", ""))).stem
        name = re.sub(r"[^\w-]+", "_", text)[:64].strip("_") or str(index)
        while name in names:
            name = f"{name}-{index}"
        names.append(name)
    return names

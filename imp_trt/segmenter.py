# SPDX-License-Identifier: Apache-2.0
"""The main class: opens a network, runs it on frames, and returns results in the frames' pixels."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from numbers import Real
from types import TracebackType
from typing import cast

from imp_trt.artifacts.manifest import Manifest
from imp_trt.backends import Backend, CanvasBackend, DeviceBackend, open_backend
from imp_trt.backends.futures import ResultFuture
from imp_trt.backends.opening import BackendName
from imp_trt.backends.runners import DeviceRunner, HostRunner
from imp_trt.classes import ClassTable
from imp_trt.data.native_calls import CallLock
from imp_trt.errors import InvalidInput, printable
from imp_trt.preprocessing.frame_like import FrameLike, TimedFrame
from imp_trt.preprocessing.frames import ColorOrder
from imp_trt.results.result import SegmentationResult
from imp_trt.temporal import TemporalOptions, TemporalState
from imp_trt.temporal.options import Carry
from imp_trt.temporal.runner import TemporalRunner

_log = logging.getLogger(__name__)


class Segmenter:
    """A segmentation network that takes frames of any size.

    >>> with Segmenter("street.fp32.onnx") as segmenter:
    ...     frame = cv2.imread("street.jpg")
    ...     cv2.imwrite("overlay.png", segmenter.run(frame).plot(frame))

    On the CPU, calls from several threads run one after the other, and a forked process opens the network
    again when it first runs it. An engine can be run only by the first
    thread that runs it: open one Segmenter per thread. Its results stay on the GPU until they are read, in
    any thread and also after close(); a later run changes no earlier result. The outputs of at most
    imp_trt.backends.device_slots.MAX_SLOTS calls stay there unread, then the oldest are moved to host
    memory.

    Args:
        path: an ONNX artifact or engine made by imp-export, or a checkpoint (.safetensors, .pt).
        backend: None chooses by the file.
        threads: CPU threads of the network; None leaves the choice to the backend. Not supported for engines.
        device: "cpu", "cuda" or "cuda:<index>". None: the CPU for .onnx files, the GPU for engines, and for
            checkpoints a GPU if PyTorch finds one.
        graph: replay an engine as one CUDA graph if it can be captured; ignored for other files.
        score_threshold: instances with a lower score are left out of the results, 0-1. The default keeps
            all that the network returns: at most 50 to 100 a frame, with scores from 0.05 up, as average
            precision needs them. plot() and to_dict() show those from 0.3 up. The network has a threshold
            of its own, ``manifest.score_threshold``; a warning is logged if this one is lower.

    Raises:
        ArtifactError, CheckpointError: the file is missing or damaged.
        EngineIncompatible: the engine was built for another TensorRT, GPU or platform.
        DependencyMissing: the backend's package or device is missing.
        DeviceError: the GPU has too little memory, or failed.
        InvalidInput: an argument is invalid.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        backend: BackendName | None = None,
        threads: int | None = None,
        device: str | None = None,
        graph: bool = True,
        score_threshold: float = 0.0,
    ) -> None:
        number: object = score_threshold
        if not (isinstance(number, Real) and 0 <= float(number) <= 1):
            raise InvalidInput("score_threshold", expected="a number, 0 to 1", got=repr(number))
        opened = open_backend(path, backend, threads=threads, device=device, graph=graph)
        self._runner: HostRunner | DeviceRunner | None = (
            DeviceRunner(opened, score_threshold)
            if isinstance(opened, DeviceBackend)
            else HostRunner(opened, score_threshold)
        )
        self._temporal: TemporalRunner | None = None
        self._min_score = score_threshold
        self._manifest = opened.manifest
        name = printable(os.fspath(path))
        if self._manifest.terms:
            _log.warning("%s: %s", name, printable(self._manifest.terms))
        reason = self._manifest.without_effect(score_threshold)
        if reason:
            _log.warning("%s: score_threshold=%g has no effect: %s", name, score_threshold, reason)
        self._lock = CallLock()

    @property
    def manifest(self) -> Manifest:
        """The network's inputs, outputs and origin."""
        return self._manifest

    @property
    def classes(self) -> ClassTable:
        """Names, colors and things of the classes."""
        return self._manifest.classes

    def run(self, frame: FrameLike, color: ColorOrder | None = None) -> SegmentationResult:
        """Segment one frame.

        Args:
            frame: [h, w, 3] uint8 BGR array of any size and strides, a PyTorch tensor of that form on the
                CPU, a PIL image, or an imp_trt.Nv12Frame (a decoder's planes); not changed. For an engine
                also an array or an Nv12Frame on its GPU with packed pixels (PyTorch, CuPy, PyCUDA, anything
                with DLPack or __cuda_array_interface__), which is read in place.
            color: order of the channels; None means BGR for arrays and RGB for PIL images. Not for NV12.

        Returns:
            The result, after the network is done.

        Raises:
            InvalidInput: the frame is invalid, the segmenter is closed, or an engine is run in another
                thread or process than before.
            DeviceError: the GPU failed.
        """
        return self._run([frame], color)[0]

    __call__ = run

    def run_batch(
        self, frames: Sequence[FrameLike], color: ColorOrder | None = None
    ) -> list[SegmentationResult]:
        """Segment frames of any sizes, in batches of the network's size; the last batch is padded.

        The timing of each result is that of the network call it came from.

        Raises:
            InvalidInput: frames has no length and order, such as a generator; else see :meth:`run`.
        """
        if not (hasattr(frames, "__len__") and hasattr(frames, "__getitem__")) or isinstance(frames, Mapping):
            raise InvalidInput(
                "frames",
                expected="a list, or another sequence of frames",
                got=type(frames).__name__,
                fix="run_batch(list(frames)), or stream(frames)",
            )
        batch = self._manifest.input.batch
        results: list[SegmentationResult] = []
        for start in range(0, len(frames), batch):
            # One by one: of a deque, and of many sequences that load their frames, there are no slices.
            chunk = [frames[i] for i in range(start, min(start + batch, len(frames)))]
            results += self._run(chunk, color)
        return results

    def submit(self, frame: FrameLike, color: ColorOrder | None = None) -> ResultFuture:
        """Segment one frame without waiting for the network.

        An engine enqueues the work; frames finish in the order in which they were submitted. A frame in
        host memory may be changed when this returns, one on the GPU when the result is done. On the CPU
        the result is computed before this returns: a coroutine calls ``asyncio.to_thread(segmenter.run,
        frame)`` there, and ``await segmenter.submit(frame)`` with an engine.

        Args:
            frame, color: as for :meth:`run`.
        """
        runner = self._open_runner()
        with self._lock:
            return runner.submit(frame, color)

    def run_next(
        self,
        frame: FrameLike,
        state: TemporalState,
        *,
        color: ColorOrder | None = None,
        time_s: float | None = None,
        slack_ms: float | None = None,
        keep: bool = False,
    ) -> SegmentationResult:
        """Segment the next frame of a video, with the detector only if it is due.

        One network call of one frame, whatever the network's batch. From an engine, the result is read at
        once.

        Args:
            frame, color: as for :meth:`run`.
            state: of the video; changed. Its options say when the detector is due.
            time_s: time of the frame in the video; None if it has none.
            slack_ms: time that is left for this frame: if one with the detector takes longer, it runs
                without, unless the canvas would get older than max_age.
            keep: the result holds the frame, so that ``plot()`` needs no argument.

        Returns:
            The result, with ``canvas_age``; its instances have ``ages`` and ``track_ids``: a detection that
            overlaps a carried instance of its class takes its id. (:class:`imp_trt.video.Tracker` also finds
            objects again that were lost for a while.) Its ``timing`` has "carry", the time of the flow and
            of moving canvas and instances.

        Raises:
            ArtifactError: the artifact has no canvas part; see imp-export --parts.
            InvalidInput: as for :meth:`run`; or the network has no canvas.
        """
        self._open_runner()
        with self._lock:
            return self._open_temporal().run(frame, state, color, time_s, slack_ms, keep)

    def open_canvas(self) -> None:
        """Load the canvas part now rather than with the first call of :meth:`run_next`; idempotent.

        Raises:
            ArtifactError: the artifact has no canvas part; see imp-export --parts.
            InvalidInput: the network has no canvas.
        """
        self._open_runner()
        with self._lock:
            self._open_temporal()

    def stream(
        self,
        source: str | os.PathLike[str] | Iterable[FrameLike | TimedFrame],
        color: ColorOrder | None = None,
        *,
        detect_every: int | None = None,
        detect_budget_ms: float | None = None,
        carry: Carry = "flow",
        blend: float = 0.0,
        state: TemporalState | None = None,
    ) -> Iterator[SegmentationResult]:
        """Segment frames lazily, one network call at a time.

        By default each frame is segmented on its own. With one of detect_every, detect_budget_ms, blend and
        state the frames are those of one video: see :meth:`run_next`.

        Args:
            source: an iterable of frames, or a source of imp_trt.video.open_source. Results hold their frame
                rather than a copy, so an array must not be filled again. A camera or stream
                yields its newest frame each time, without end; imp_trt.video.run_pipeline records them.
                A path or address is deprecated: open it with open_source.
            detect_every, detect_budget_ms, carry, blend: see :class:`imp_trt.TemporalOptions`.
            state: of the video so far, with its own options; it can be reset between two frames.

        Yields:
            One result per frame, in order; its ``frame`` is set, so that ``plot()`` needs no argument
            (except for frames on the GPU).
        """
        if isinstance(source, str | os.PathLike):
            warnings.warn(
                "Segmenter.stream(path) is deprecated and will be removed in version 0.3: "
                "pass imp_trt.video.open_source(path)",
                DeprecationWarning,
                stacklevel=2,
            )
            from imp_trt.video.sources import open_source

            with open_source(source) as opened:
                yield from self.stream(
                    opened,
                    color,
                    detect_every=detect_every,
                    detect_budget_ms=detect_budget_ms,
                    carry=carry,
                    blend=blend,
                    state=state,
                )
            return
        temporal = detect_every is not None or detect_budget_ms is not None or blend != 0
        if state is not None and (temporal or carry != "flow"):
            raise InvalidInput(
                "stream", expected="a state, which has its own options, or options", got="both"
            )
        if carry != "flow" and not temporal and state is None:
            raise InvalidInput("carry", expected="detect_every or detect_budget_ms with it", got=repr(carry))
        if temporal:
            every = 1 if detect_every is None else detect_every
            state = TemporalState(TemporalOptions(every, detect_budget_ms, carry, blend))
        if state is not None:
            for item in source:
                image, time_s = _image(item), getattr(item, "time_s", None)
                yield self.run_next(image, state, color=color, time_s=time_s, keep=True)
            return
        frames = map(_image, source)
        while chunk := list(islice(frames, self._manifest.input.batch)):
            yield from self._run(chunk, color, keep=True)

    def warmup(self, calls: int = 1) -> None:
        """Run the network, and the canvas part if it is open, on blank frames: the first real frame is fast.

        These are in host memory. The first frame on the GPU loads the kernels that resize it, and compiles
        them once per machine: before measuring time, run one such frame too.
        """
        runner = self._open_runner()
        with self._lock:
            for _ in range(calls):
                runner.warmup()
                if self._temporal is not None:
                    self._temporal.warmup()

    def close(self) -> None:
        """Release the network; idempotent. Results can still be read."""
        with self._lock:
            runner, self._runner = self._runner, None
            self._temporal = None
            if runner is not None:
                runner.backend.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        m = self._manifest
        state = "closed" if self._runner is None else f"{m.input.width}x{m.input.height} {m.precision}"
        return f"Segmenter({m.kind}, {state}, {len(m.classes)} classes)"

    def _open_backend(self) -> Backend:
        return self._open_runner().backend

    def _open_runner(self) -> HostRunner | DeviceRunner:
        runner = self._runner
        if runner is None:
            raise InvalidInput("segmenter is closed", fix="open a new Segmenter")
        runner.check_caller()
        return runner

    def _open_temporal(self) -> TemporalRunner:
        """With the lock held."""
        if self._temporal is None:
            self._temporal = TemporalRunner(_with_canvas(self._open_backend()), self._min_score)
        return self._temporal

    def _run(
        self, frames: Sequence[FrameLike], color: ColorOrder | None, keep: bool = False
    ) -> list[SegmentationResult]:
        """Segment at most B frames with one network call."""
        runner = self._open_runner()
        with self._lock:
            return runner.run(frames, color, keep)


def _image(item: FrameLike | TimedFrame) -> FrameLike:
    return cast(FrameLike, getattr(item, "image", item))


def _with_canvas(backend: Backend) -> CanvasBackend:
    if not isinstance(backend, CanvasBackend):
        raise InvalidInput(
            "run_next", expected="a backend that runs the canvas part", got=type(backend).__name__
        )
    return backend

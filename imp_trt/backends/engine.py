# SPDX-License-Identifier: Apache-2.0
"""The common base of TensorRT and TensorRT-RTX: one engine, one execution context, one stream.

Everything is allocated once, when the engine is opened. A call fills pinned memory (or resizes a frame that
is already on the GPU), replays the network as one CUDA graph, and copies the outputs to their own slot.
"""

from __future__ import annotations

import logging
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from threading import get_ident
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.artifact import Artifact, read_artifact
from imp_trt.artifacts.manifest import Manifest
from imp_trt.backends import preflight
from imp_trt.backends.canvas import CanvasShape, read_canvas_part
from imp_trt.backends.decoding import HostOutputs
from imp_trt.backends.device_outputs import DeviceOutputs
from imp_trt.backends.device_slots import Slot, SlotPool, closed_by
from imp_trt.backends.engine_canvas import CanvasEngine
from imp_trt.backends.engine_lifetime import (
    CurrentContext,
    Handles,
    device_index,
    open_device,
    release_all,
    resize_mask,
)
from imp_trt.backends.engine_loading import check_tensors, deserialize, message_log
from imp_trt.backends.uploads import Frame, Uploader
from imp_trt.cuda import driver
from imp_trt.cuda.driver import DeviceBuffer, Event, Graph, Stream
from imp_trt.cuda.platform import Platform
from imp_trt.errors import DeviceError, ImpTrtError, InvalidInput
from imp_trt.plugins.tensorrt_types import ICudaEngine, IExecutionContext, TensorRT
from imp_trt.preprocessing import letterbox_cuda
from imp_trt.preprocessing.device_arrays import DeviceFrame, device_frame
from imp_trt.preprocessing.frames import ColorOrder
from imp_trt.preprocessing.letterbox import LetterboxTransform

_log = logging.getLogger(__name__)


class EngineBackend(ABC):
    """An engine on one GPU. See :class:`imp_trt.backends.DeviceBackend`.

    The first thread that runs it owns it. `close`, and reading outputs, work in any thread.

    Args:
        path: the .engine file; its manifest is next to it.
        threads: must be None; an engine uses no CPU threads.
        device: None, "cuda" or "cuda:<index>".
        graph: replay the network as a CUDA graph if it can be captured.

    Attributes:
        manifest: the network's inputs and outputs.
        graph: the captured graph, or None.

    Raises:
        ArtifactError: the file is missing or damaged, or its tensors are not those of the manifest.
        EngineIncompatible: it was built for another TensorRT, GPU or platform.
        DependencyMissing: TensorRT, cuda-bindings or a GPU is missing.
        DeviceError: the GPU has too little memory, or failed.
        InvalidInput: an argument is invalid.
    """

    name: str
    """The backend's name, as in EngineInfo.backend."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        device: str | None = None,
        graph: bool = True,
    ) -> None:
        if threads is not None:
            raise InvalidInput("threads", expected="None: an engine runs on the GPU", got=threads)
        index = device_index(device)
        # A bad file is reported as such even if everything else is missing.
        self._artifact: Artifact | None = read_artifact(path)
        self.manifest: Manifest = self._artifact.manifest
        preflight.check(self._artifact, Platform.detect(index), self.name)
        self._trt = self._import()
        self._messages = message_log(self._trt)
        self._pid = os.getpid()
        self._thread: int | None = None
        self._handles = Handles()
        self.graph: Graph | None = None
        self._device = open_device(index)
        # The finalizer's arguments must not refer to this object.
        self._current = CurrentContext(self._device).current
        try:
            with self._current(), ExitStack() as stack:
                self._allocate(stack)
                stack.callback(self._handles.release)
                engine = self._load()
                self._prepare(engine, graph, stack)
                closer = stack.pop_all()
        except BaseException:
            self._device.close()
            raise
        self._closer = closer
        self._path = os.path.abspath(path)
        self._canvas: CanvasEngine | None = None
        held = (closer, self._device, self._stream, self._handles, self._pid)
        # Also runs when the object is dropped without close(), and at exit while the driver still works.
        self._finish = weakref.finalize(self, release_all, *held)
        self._artifact = None  # its bytes are as large as the engine

    # ---- implemented by the two libraries ----

    @abstractmethod
    def _import(self) -> TensorRT:
        """The library's module. Raises DependencyMissing."""

    @abstractmethod
    def _create_context(self, engine: ICudaEngine) -> IExecutionContext | None:
        """An execution context that owns its scratch memory, or None."""

    def _may_capture(self, context: IExecutionContext) -> bool:
        """Whether to try to capture the context's work."""
        return True

    def _context_without_capture(self, engine: ICudaEngine) -> IExecutionContext | None:
        """A better context if capture is impossible; None to keep the current one.

        It may release the current one first: no work is pending.
        """
        return None

    def _ran(self) -> None:  # noqa: B027 - optional
        """Called when the engine has run."""

    # ---- for the segmenter ----

    def infer(self, frames: NDArray[np.uint8]) -> HostOutputs:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        contract = self.manifest.input
        transform = LetterboxTransform.of((contract.height, contract.width), contract)
        outputs = self.start([(frame, "bgr") for frame in frames], [transform] * len(frames))
        maps = [outputs.semantic(i, transform, False, {}) for i in range(len(frames))]
        arrays = {"semantic": np.stack(maps)} | outputs.detections({})
        return {spec.name: arrays[spec.name] for spec in self.manifest.outputs}

    def accept(self, frame: object) -> DeviceFrame:
        """See :meth:`imp_trt.backends.DeviceBackend.accept`."""
        self.check_caller()
        with self._current():
            if self._pool.invert_mask is None:
                letterbox_cuda.prepare(self._device)
                self._pool.invert_mask = partial(resize_mask, self._pool.stream.handle, self._device)
            return device_frame(frame, self._device.index, self._stream.handle, self._wait_for)

    def start(
        self, frames: Sequence[Frame], transforms: Sequence[LetterboxTransform], wait: bool = False
    ) -> DeviceOutputs:
        """See :meth:`imp_trt.backends.DeviceBackend.start`."""
        self.check_caller()
        stream = self._stream.handle
        with self._current():
            slot = self._pool.take()
            try:
                stage = self._uploader.fill(frames, transforms)
                filled_at = perf_counter()
                slot.frames.extend(frame.owner for frame, _ in frames if isinstance(frame, DeviceFrame))
                slot.started.record(stream)
                self._uploader.enqueue(stage, frames, transforms, stream)
                slot.uploaded.record(stream)
                self._enqueue()
                driver.copy_on_device(slot.buffer.pointer, self._outputs.pointer, slot.buffer.nbytes, stream)
                slot.done.record(stream)
            except BaseException:
                self._abandon(slot)
                raise
            outputs = DeviceOutputs(self._pool, slot, len(frames), filled_at)
            if wait:
                outputs.gpu_ms()
            return outputs

    def open_canvas(self) -> CanvasShape:
        """See :meth:`imp_trt.backends.CanvasBackend.open_canvas`."""
        return self._open_canvas().shape

    def infer_canvas(self, frames: NDArray[np.uint8], canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See :meth:`imp_trt.backends.CanvasBackend.infer_canvas`."""
        contract = self.manifest.input
        transform = LetterboxTransform.of((contract.height, contract.width), contract)
        return self.run_canvas([(frame, "bgr") for frame in frames], [transform] * len(frames), canvas)

    def run_canvas(
        self, frames: Sequence[Frame], transforms: Sequence[LetterboxTransform], canvas: NDArray[np.float32]
    ) -> NDArray[np.uint8]:
        """See :meth:`imp_trt.backends.DeviceCanvasBackend.run_canvas`."""
        part = self._open_canvas()
        with self._current():
            try:
                stage = self._uploader.fill(frames, transforms)
                self._uploader.enqueue(stage, frames, transforms, self._stream.handle)
                return part.run(canvas)
            except BaseException:
                with suppress(ImpTrtError):  # until no enqueued work can read the frames
                    self._stream.synchronize()
                raise

    def thumbnail(
        self, frame: tuple[DeviceFrame, ColorOrder], small: LetterboxTransform
    ) -> NDArray[np.uint8]:
        """See :meth:`imp_trt.backends.DeviceCanvasBackend.thumbnail`."""
        part = self._open_canvas()
        with self._current():
            return part.thumbnail(frame, small)

    def _open_canvas(self) -> CanvasEngine:
        self.check_caller()
        if self._canvas is None:
            with self._current():
                self._canvas = CanvasEngine(
                    *read_canvas_part(self._path, self.manifest)[:2],
                    trt=self._trt,
                    device=self._device,
                    stream=self._stream,
                    frames=self._uploader.input.pointer,
                    handles=self._handles,
                    create_context=self._create_context,
                    capture=self.graph is not None,
                )
                self._closer.callback(self._canvas.close)
                self._ran()
        return self._canvas

    def check_caller(self) -> None:
        """See :meth:`imp_trt.backends.DeviceBackend.check_caller`."""
        if not self._finish.alive:
            raise InvalidInput("backend is closed", fix="open the engine again")
        if os.getpid() != self._pid:
            raise InvalidInput(
                "Segmenter of an engine, used in a forked process",
                expected=f"process {self._pid}, which opened it",
                got=f"process {os.getpid()}",
                fix="open a Segmenter in each process, and start the processes with the method 'spawn'",
            )
        thread = get_ident()
        if self._thread is None:
            self._thread = thread
        elif thread != self._thread:
            raise InvalidInput(
                "Segmenter of an engine, used in a second thread",
                expected="the thread that ran it first",
                fix="open one Segmenter per thread",
            )

    def close(self) -> None:
        """Release the engine and the GPU's memory; idempotent, in any thread.

        Unread outputs are moved to host memory first.
        """
        if self._finish.alive and os.getpid() == self._pid:
            self._pool.move_all()
        self._finish()

    # ---- opening ----

    def _allocate(self, stack: ExitStack) -> None:
        self._stream: Stream = closed_by(stack, Stream(self._device))
        self._arrival: Event = closed_by(stack, Event())
        self._uploader: Uploader = closed_by(stack, Uploader(self._device, self.manifest.input))
        self._pool: SlotPool = closed_by(stack, SlotPool(self._device, self.manifest, self._current))
        self._outputs: DeviceBuffer = closed_by(stack, DeviceBuffer(self._pool.layout.nbytes))

    def _load(self) -> ICudaEngine:
        engine_info, artifact = self.manifest.engine, self._artifact
        if engine_info is None or artifact is None:  # preflight has checked this
            raise InvalidInput("artifact", expected="an engine", got=self.manifest.kind)
        if engine_info.plugins:
            from imp_trt.plugins.registration import prepare_kernels, register_plugins

            if register_plugins(self._trt) == "python":
                prepare_kernels(engine_info.plugins)
        engine = deserialize(self._trt, self._messages, artifact, self._handles.kept)
        check_tensors(engine, artifact.path, (self.manifest.input.spec,), self.manifest.outputs)
        self._use(self._create_context(engine))
        return engine

    def _use(self, context: IExecutionContext | None) -> None:
        """Run with this context, on our buffers."""
        if context is None:
            raise self._failed("TensorRT cannot make an execution context")
        self._handles.context = context
        addresses = {name: self._outputs.pointer + begin for name, begin in self._pool.layout.offsets.items()}
        addresses[self.manifest.input.spec.name] = self._uploader.input.pointer
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._failed(f"TensorRT rejects the address of tensor {name!r}")

    def _prepare(self, engine: ICudaEngine, graph: bool, stack: ExitStack) -> None:
        """Warm up and capture, so that the first frame takes no longer than later ones."""
        self._warm_up()
        if graph:
            reason = self._capture(stack)
            if reason is not None:
                _log.warning("engine runs without a CUDA graph of its own: %s", reason)
                # The CUDA runtime inside of TensorRT may report the failed capture again, here.
                with suppress(DeviceError):
                    self._warm_up()
                self._messages.pop_errors()  # logged above; not part of a later error
                other = self._context_without_capture(engine)
                if other is not None:
                    self._use(other)
                    self._warm_up()
            self._warm_up()
        self._ran()

    def _capture(self, stack: ExitStack) -> str | None:
        """None, or the reason why there is no graph."""
        context = self._handles.context
        if context is None or not self._may_capture(context):
            return "TensorRT reports that this engine cannot be captured"
        try:
            self.graph = closed_by(stack, Graph.capture(self._stream.handle, self._execute))
        except DeviceError as error:
            return str(error)
        return None

    def _warm_up(self) -> None:
        stream = self._stream.handle
        self._uploader.enqueue(self._uploader.fill([], []), [], [], stream)
        self._enqueue()
        self._stream.synchronize()

    # ---- running ----

    def _enqueue(self) -> None:
        if self.graph is None:
            self._execute()
        else:
            self.graph.launch(self._stream.handle)

    def _execute(self) -> None:
        context = self._handles.context
        if context is None or not context.execute_async_v3(self._stream.handle):
            raise self._failed("TensorRT cannot run the network")

    def _wait_for(self, stream: int) -> None:
        """Make our stream wait for all work enqueued on another."""
        self._arrival.record(stream)
        driver.call("cuStreamWaitEvent", self._stream.handle, self._arrival.handle, 0)

    def _abandon(self, slot: Slot) -> None:
        """After a failure: wait until no enqueued work can read the frames, and return the slot."""
        with suppress(ImpTrtError):
            self._stream.synchronize()
        slot.frames.clear()
        self._pool.give_back(slot)

    def _failed(self, what: str) -> DeviceError:
        return DeviceError(
            what,
            got=self._messages.pop_errors(),
            fix="free GPU memory: close other programs, or use a smaller frame or batch; else report it",
        )

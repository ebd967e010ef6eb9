"""What TensorRT and TensorRT-RTX have in common: one engine, one execution context, one stream.

Everything is allocated once, when the engine is opened. A call fills pinned memory (or resizes a frame that
is on the GPU already), replays the network as one CUDA graph, and copies its outputs to a slot of their own.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from threading import get_ident, local
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.artifact import Artifact, read_artifact
from imp_trt.artifacts.manifest import Manifest
from imp_trt.backends import preflight
from imp_trt.backends.device_outputs import DeviceOutputs
from imp_trt.backends.device_slots import Slot, SlotPool, closing
from imp_trt.backends.engine_loading import check_tensors, deserialize, messages_of
from imp_trt.backends.uploads import Frame, Uploader
from imp_trt.cuda import driver
from imp_trt.cuda.driver import Device, DeviceBuffer, Event, Graph, Stream
from imp_trt.cuda.platform import Platform
from imp_trt.errors import DeviceError, ImpTrtError, InvalidInput
from imp_trt.preprocessing import letterbox_cuda
from imp_trt.preprocessing.device_arrays import DeviceFrame, device_frame
from imp_trt.preprocessing.letterbox import Fit

_log = logging.getLogger(__name__)


class EngineBackend(ABC):
    """An engine on one GPU. See :class:`imp_trt.backends.DeviceBackend`.

    The first thread that runs it owns it. `close`, and reading outputs, work in any thread.

    Args:
        path: the .engine file; its manifest lies beside it.
        threads: None; an engine takes no CPU threads.
        device: None, "cuda" or "cuda:<index>".
        graph: replay the network as a CUDA graph; where that cannot be captured, it is enqueued.

    Attributes:
        manifest: what the network takes and gives.
        graph: the captured graph, or None.

    Raises:
        ArtifactError: the file is missing or damaged, or its tensors are not those of the manifest.
        EngineIncompatible: it was built for another TensorRT, GPU or platform.
        DependencyMissing: TensorRT, cuda-bindings or a GPU is missing.
        DeviceError: the GPU has too little memory, or failed.
        InvalidInput: an argument makes no sense.
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
        index = _device_index(device)
        # Bad files are reported as such even where everything else is absent.
        self._artifact: Artifact | None = read_artifact(path)
        self.manifest: Manifest = self._artifact.manifest
        preflight.check(self._artifact, Platform.detect(index), self.name)
        self._trt = self._import()
        self._messages = messages_of(self._trt)
        self._pid = os.getpid()
        self._thread: int | None = None
        self._handles = _Handles()
        self.graph: Graph | None = None
        self._device = _open_device(index)
        # What the finalizer holds must not hold this object.
        self._current = _Context(self._device).current
        try:
            with self._current(), ExitStack() as stack:
                self._allocate(stack)
                stack.callback(self._handles.release)
                self._load()
                self._prepare(graph, stack)
                closer = stack.pop_all()
        except BaseException:
            self._device.close()
            raise
        held = (closer, self._device, self._stream, self._handles, self._pid)
        # Also runs when the object is dropped without close(), and at exit, while there is still a driver.
        self._finish = weakref.finalize(self, _shut, *held)
        self._artifact = None  # its bytes are as large as the engine

    # ---- what differs between the two libraries ----

    @abstractmethod
    def _import(self) -> Any:
        """The library's module. Raises DependencyMissing."""

    @abstractmethod
    def _create_context(self, engine: Any) -> Any:
        """An execution context that owns its scratch memory, or None."""

    def _may_capture(self, context: Any) -> bool:
        """Whether it is worth trying to capture the context's work."""
        return True

    def _context_without_capture(self, engine: Any) -> Any | None:
        """A better context where capture is impossible; None to go on with the one there is.

        It may let the earlier one go first: nothing is under way.
        """
        return None

    def _ran(self) -> None:  # noqa: B027 - most need nothing
        """Called when the engine has run."""

    # ---- for the segmenter ----

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        contract = self.manifest.input
        fit = Fit.of((contract.height, contract.width), contract)
        outputs = self.start([(frame, "bgr") for frame in frames], [fit] * len(frames))
        maps = [outputs.semantic(i, fit, False, {}) for i in range(len(frames))]
        arrays = {"semantic": np.stack(maps)} | outputs.detections({})
        return {spec.name: arrays[spec.name] for spec in self.manifest.outputs}

    def accept(self, frame: object) -> DeviceFrame:
        """See :meth:`imp_trt.backends.DeviceBackend.accept`."""
        self.check_caller()
        with self._current():
            if self._pool.semantic_back is None:
                letterbox_cuda.prepare(self._device)
                self._pool.semantic_back = partial(_semantic_back, self._pool.stream.handle, self._device)
            return device_frame(frame, self._device.index, self._stream.handle, self._wait_for)

    def start(self, frames: Sequence[Frame], fits: Sequence[Fit], wait: bool = False) -> DeviceOutputs:
        """See :meth:`imp_trt.backends.DeviceBackend.start`."""
        self.check_caller()
        stream = self._stream.handle
        with self._current():
            slot = self._pool.take()
            try:
                stage = self._uploader.fill(frames, fits)
                filled_at = perf_counter()
                slot.frames.extend(frame.owner for frame, _ in frames if isinstance(frame, DeviceFrame))
                slot.started.record(stream)
                self._uploader.enqueue(stage, frames, fits, stream)
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

        Outputs that nobody has read yet are taken to host memory first.
        """
        if self._finish.alive and os.getpid() == self._pid:
            self._pool.move_all()
        self._finish()

    # ---- opening ----

    def _allocate(self, stack: ExitStack) -> None:
        self._stream: Stream = closing(stack, Stream(self._device))
        self._arrival: Event = closing(stack, Event())
        self._uploader: Uploader = closing(stack, Uploader(self._device, self.manifest.input))
        self._pool: SlotPool = closing(stack, SlotPool(self._device, self.manifest, self._current))
        self._outputs: DeviceBuffer = closing(stack, DeviceBuffer(self._pool.layout.nbytes))

    def _load(self) -> None:
        engine_info, artifact = self.manifest.engine, self._artifact
        if engine_info is None or artifact is None:  # preflight has seen to that
            raise InvalidInput("artifact", expected="an engine", got=self.manifest.kind)
        if engine_info.plugins:
            from imp_trt.plugins.registration import prepare_kernels, register_plugins

            if register_plugins(self._trt) == "python":
                prepare_kernels(engine_info.plugins)
        engine = deserialize(self._trt, self._messages, artifact, self._handles.kept)
        check_tensors(engine, artifact)
        self._use(self._create_context(engine))

    def _use(self, context: Any) -> None:
        """Make this the context that runs, on our buffers."""
        if context is None:
            raise self._failed("TensorRT cannot make an execution context")
        self._handles.context = context
        addresses = {name: self._outputs.pointer + at for name, at in self._pool.layout.offsets.items()}
        addresses[self.manifest.input.spec.name] = self._uploader.input.pointer
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._failed(f"TensorRT refuses the address of tensor {name!r}")

    def _prepare(self, graph: bool, stack: ExitStack) -> None:
        """Warm up and capture, so that the first frame takes no longer than the next."""
        self._warm_up()
        if graph:
            reason = self._capture(stack)
            if reason is not None:
                _log.warning("engine runs without a CUDA graph of its own: %s", reason)
                # The CUDA runtime inside TensorRT may report the failed recording once more, here.
                with suppress(DeviceError):
                    self._warm_up()
                self._messages.taken()  # said above; they belong to no later error
                other = self._context_without_capture(self._handles.kept[1])
                if other is not None:
                    self._use(other)
                    self._warm_up()
            self._warm_up()
        self._ran()

    def _capture(self, stack: ExitStack) -> str | None:
        """None, or the reason why there is no graph."""
        if not self._may_capture(self._handles.context):
            return "TensorRT says that this engine cannot be captured"
        try:
            self.graph = closing(stack, Graph.capture(self._stream.handle, self._execute))
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
        if not self._handles.context.execute_async_v3(self._stream.handle):
            raise self._failed("TensorRT cannot run the network")

    def _wait_for(self, stream: int) -> None:
        """Our stream waits for all that is enqueued on another."""
        self._arrival.record(stream)
        driver.call("cuStreamWaitEvent", self._stream.handle, self._arrival.handle, 0)

    def _abandon(self, slot: Slot) -> None:
        """After a failure nothing that was enqueued may still touch the frames."""
        with suppress(ImpTrtError):
            self._stream.synchronize()
        slot.frames.clear()
        self._pool.give_back(slot)

    def _failed(self, what: str) -> DeviceError:
        return DeviceError(
            what,
            got=self._messages.taken(),
            fix="free GPU memory: close other programs, or use a smaller frame or batch; else report it",
        )


class _Handles:
    """TensorRT's objects, released in the order that it asks for: context, engine, runtime."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.context: Any = None

    def release(self) -> None:
        self.context = None
        while self.kept:
            self.kept.pop()

    def leak(self) -> None:
        """Keep them alive for ever: their destructors would call CUDA in a process that has none."""
        for handle in (*self.kept, self.context):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))


def _open_device(index: int) -> Device:
    """The device; what is current in this thread stays so."""
    driver.device_info(index)  # starts the driver
    before = driver.call("cuCtxGetCurrent")
    try:
        return Device.open(index)
    finally:
        driver.call("cuCtxSetCurrent", before)


def _semantic_back(stream: int, device: Device, fit: Fit, semantic: int, out: int) -> None:
    letterbox_cuda.launch_semantic_back(fit, semantic, out, stream, device)


class _Context(local):
    """The device's context in the calling thread; one object per thread."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._inside = False

    @contextmanager
    def current(self) -> Iterator[None]:
        """Current inside; afterwards the caller's again, e.g. PyTorch's on another GPU."""
        if self._inside:  # three calls of the driver saved
            yield
            return
        before = driver.call("cuCtxGetCurrent")
        self._device.activate()
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
            driver.call("cuCtxSetCurrent", before)


def _shut(closer: ExitStack, device: Device, stream: Stream, handles: _Handles, pid: int) -> None:
    """Give everything back, in whatever thread and state."""
    if os.getpid() != pid:
        handles.leak()
        return
    before = None
    with suppress(ImpTrtError):
        before = driver.call("cuCtxGetCurrent")
        device.activate()
        stream.synchronize()
    closer.close()
    device.close()
    with suppress(ImpTrtError):
        driver.call("cuCtxSetCurrent", before)


def _device_index(device: object) -> int:
    if device is None:
        return 0
    found = re.fullmatch(r"cuda(?::(0|[1-9][0-9]{0,3}))?", device) if isinstance(device, str) else None
    if found is None:
        raise InvalidInput(
            "device of an engine",
            expected="cuda or cuda:<index>",
            got=repr(device),
            fix="for the CPU export with --target onnxruntime",
        )
    return int(found[1] or 0)

# SPDX-License-Identifier: Apache-2.0
"""One engine on one GPU: opened, warmed up, captured as a CUDA graph, run, released.

What goes in and out is a subclass's: frames (:mod:`imp_trt.backends.engine`) or named arrays
(:mod:`imp_trt.backends.engine_arrays`). What TensorRT and TensorRT-RTX do differently is a mixin's of each.
Everything is allocated once, when the engine is opened.
"""

from __future__ import annotations

import logging
import os
import weakref
from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress
from threading import get_ident

from imp_trt.artifacts.artifact import Artifact, NetworkArtifact
from imp_trt.backends import preflight
from imp_trt.backends.device_slots import closed_by
from imp_trt.backends.engine_lifetime import (
    CurrentContext,
    Handles,
    device_index,
    open_device,
    release_all,
)
from imp_trt.backends.engine_loading import check_tensors, deserialize, message_log
from imp_trt.cuda import driver
from imp_trt.cuda.driver import Event, Graph, Stream
from imp_trt.cuda.platform import Platform
from imp_trt.errors import DeviceError, InvalidInput
from imp_trt.plugins.tensorrt_types import ICudaEngine, IExecutionContext, TensorRT

_log = logging.getLogger(__name__)


class EngineCore(ABC):
    """An engine, one execution context and one stream.

    The first thread that runs it owns it. `close` works in any thread.

    Args:
        path: the .engine file; its manifest is next to it.
        threads: must be None; an engine uses no CPU threads.
        device: None, "cuda" or "cuda:<index>".
        graph: replay the network as a CUDA graph if it can be captured.

    Attributes:
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

    opened_as: str
    """The class that users open it with, for errors."""

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
        artifact = self._read(path)
        self._sha256 = artifact.manifest.sha256
        preflight.check(artifact, Platform.detect(index), self.name)
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
                self._stream: Stream = closed_by(stack, Stream(self._device))
                self._arrival: Event = closed_by(stack, Event())
                self._allocate(stack)
                stack.callback(self._handles.release)
                engine = self._load(artifact)
                del artifact  # its bytes are as large as the engine
                self._prepare(engine, graph, stack)
                closer = stack.pop_all()
        except BaseException:
            self._device.close()
            raise
        self._closer = closer
        held = (closer, self._device, self._stream, self._handles, self._pid)
        # Also runs when the object is dropped without close(), and at exit while the driver still works.
        self._finish = weakref.finalize(self, release_all, *held)

    # ---- implemented for frames, and for arrays ----

    @abstractmethod
    def _read(self, path: str | os.PathLike[str]) -> Artifact | NetworkArtifact:
        """The artifact; its manifest is kept. Raises ArtifactError."""

    @abstractmethod
    def _allocate(self, stack: ExitStack) -> None:
        """Allocate what the calls use; the stack releases it."""

    @abstractmethod
    def _addresses(self) -> dict[str, int]:
        """Device addresses of all inputs and outputs, which do not change."""

    @abstractmethod
    def _enqueue_blank(self) -> None:
        """Enqueue what a call does before the network runs, on blank inputs."""

    @abstractmethod
    def _before_close(self) -> None:
        """Called by close(), in the process that opened it, while the GPU's memory still exists."""

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

    # ---- for the caller ----

    def check_caller(self) -> None:
        """Check that this thread may run the network.

        Raises:
            InvalidInput: closed, or another thread or process than before.
        """
        if not self._finish.alive:
            raise InvalidInput("backend is closed", fix="open the engine again")
        if os.getpid() != self._pid:
            raise InvalidInput(
                f"{self.opened_as} of an engine, used in a forked process",
                expected=f"process {self._pid}, which opened it",
                got=f"process {os.getpid()}",
                fix="open one in each process, and start the processes with the method 'spawn'",
            )
        thread = get_ident()
        if self._thread is None:
            self._thread = thread
        elif thread != self._thread:
            raise InvalidInput(
                f"{self.opened_as} of an engine, used in a second thread",
                expected="the thread that ran it first",
                fix=f"open one {self.opened_as} per thread",
            )

    def close(self) -> None:
        """Release the engine and the GPU's memory; idempotent, in any thread."""
        if self._finish.alive and os.getpid() == self._pid:
            self._before_close()
        self._finish()

    # ---- opening ----

    def _load(self, artifact: Artifact | NetworkArtifact) -> ICudaEngine:
        engine_info = artifact.manifest.engine
        if engine_info is None:  # preflight has checked this
            raise InvalidInput("artifact", expected="an engine", got=artifact.manifest.kind)
        if engine_info.plugins:
            from imp_trt.plugins.registration import prepare_kernels, register_plugins

            if register_plugins(self._trt) == "python":
                prepare_kernels(engine_info.plugins)
        engine = deserialize(self._trt, self._messages, artifact, self._handles.kept)
        manifest = artifact.manifest
        check_tensors(engine, artifact.path, manifest.inputs, manifest.outputs)
        self._use(self._create_context(engine))
        return engine

    def _use(self, context: IExecutionContext | None) -> None:
        """Run with this context, on our buffers."""
        if context is None:
            raise self._failed("TensorRT cannot make an execution context")
        self._handles.context = context
        for name, address in self._addresses().items():
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
        self._enqueue_blank()
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

    def _failed(self, what: str) -> DeviceError:
        return DeviceError(
            what,
            got=self._messages.pop_errors(),
            fix="free GPU memory: close other programs, or use a smaller frame or batch; else report it",
        )

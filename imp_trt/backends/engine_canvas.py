# SPDX-License-Identifier: Apache-2.0
"""The canvas part of an engine: in the stream of the whole network, on the same input."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.artifact import Artifact, canvas_path
from imp_trt.artifacts.canvas_part import CanvasPart
from imp_trt.backends import preflight
from imp_trt.backends.canvas import CanvasShape
from imp_trt.backends.device_slots import closed_by, tensor_bytes
from imp_trt.backends.engine_lifetime import Handles
from imp_trt.backends.engine_loading import check_tensors, deserialize, message_log
from imp_trt.backends.uploads import resize_on_device
from imp_trt.cuda import driver
from imp_trt.cuda.driver import Device, DeviceBuffer, Graph, PinnedBuffer, Stream
from imp_trt.cuda.platform import Platform
from imp_trt.errors import ArtifactError, DeviceError
from imp_trt.plugins.tensorrt_types import ICudaEngine, IExecutionContext, TensorRT
from imp_trt.preprocessing.device_arrays import DeviceFrame
from imp_trt.preprocessing.frames import ColorOrder
from imp_trt.preprocessing.letterbox import LetterboxTransform

_log = logging.getLogger(__name__)


class CanvasEngine:
    """The canvas part of an open engine.

    The device's context must be current wherever this is used.

    Args:
        artifact: with the bytes of its canvas part.
        part: its entry in the manifest.
        trt: the library's module.
        device: the GPU.
        stream: of the whole network.
        frames: address of the input that the whole network reads too.
        handles: keep TensorRT's objects.
        create_context: of the backend.
        capture: replay the part as a CUDA graph if it can be captured.

    Attributes:
        shape: of the canvas.

    Raises:
        ArtifactError: its tensors are not those of the manifest.
        EngineIncompatible: it was built for another TensorRT, GPU or platform.
        DeviceError: the GPU has too little memory, or failed.
    """

    def __init__(
        self,
        artifact: Artifact,
        part: CanvasPart,
        *,
        trt: TensorRT,
        device: Device,
        stream: Stream,
        frames: int,
        handles: Handles,
        create_context: Callable[[ICudaEngine], IExecutionContext | None],
        capture: bool,
    ) -> None:
        self.shape: CanvasShape = part.shape
        self._device, self._stream = device, stream
        self._messages = message_log(trt)
        self._graph: Graph | None = None
        own = _as_artifact(artifact, part)
        preflight.check(own, Platform.detect(device.index))
        semantic = artifact.manifest.outputs[0]
        self._map_shape = semantic.shape
        engine = deserialize(trt, self._messages, own, handles.kept)
        check_tensors(engine, own.path, (artifact.manifest.input.spec, part.spec), (semantic,))
        context = create_context(engine)
        if context is None:
            raise self._failed("TensorRT cannot make an execution context for the canvas part")
        handles.kept.append(context)
        self._context: IExecutionContext | None = context
        with ExitStack() as stack:
            self._canvas = closed_by(stack, DeviceBuffer(tensor_bytes(part.spec)))
            self._semantic = closed_by(stack, DeviceBuffer(tensor_bytes(semantic)))
            self._small = closed_by(stack, DeviceBuffer(3 * self.shape[2] * self.shape[3]))
            self._canvas_memory = closed_by(stack, PinnedBuffer(self._canvas.nbytes))
            self._semantic_memory = closed_by(stack, PinnedBuffer(self._semantic.nbytes))
            self._small_memory = closed_by(stack, PinnedBuffer(self._small.nbytes))
            addresses = {artifact.manifest.input.spec.name: frames, part.spec.name: self._canvas.pointer}
            for name, address in (addresses | {semantic.name: self._semantic.pointer}).items():
                if not context.set_tensor_address(name, address):
                    raise self._failed(f"TensorRT rejects the address of tensor {name!r}")
            self.run(np.zeros(self.shape, np.float32))
            if capture:
                self._graph = self._captured(stack)
            self._closer = stack.pop_all()

    def run(self, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Class maps [B, H, W] of the frames in the input, a new array; waits for the GPU."""
        stream = self._stream.handle
        self._canvas_memory.array[...] = np.ascontiguousarray(canvas, np.float32).view(np.uint8).ravel()
        driver.copy_in(self._canvas.pointer, self._canvas_memory.pointer, self._canvas.nbytes, stream)
        if self._graph is None:
            self._execute()
        else:
            self._graph.launch(stream)
        driver.copy_out(self._semantic_memory.pointer, self._semantic.pointer, self._semantic.nbytes, stream)
        self._stream.synchronize()
        return np.array(self._semantic_memory.array.reshape(self._map_shape), np.uint8)

    def thumbnail(
        self, frame: tuple[DeviceFrame, ColorOrder], small: LetterboxTransform
    ) -> NDArray[np.uint8]:
        """See :meth:`imp_trt.backends.DeviceCanvasBackend.thumbnail`."""
        stream = self._stream.handle
        resize_on_device(frame, small, self._small.pointer, small.pad_value, stream, self._device)
        driver.copy_out(self._small_memory.pointer, self._small.pointer, self._small.nbytes, stream)
        self._stream.synchronize()
        return np.array(self._small_memory.array.reshape(*small.network, 3), np.uint8)

    def close(self) -> None:
        """Free the buffers; TensorRT's objects are released with the whole network's."""
        self._context = None
        self._closer.close()

    def _execute(self) -> None:
        if self._context is None or not self._context.execute_async_v3(self._stream.handle):
            raise self._failed("TensorRT cannot run the canvas part")

    def _captured(self, stack: ExitStack) -> Graph | None:
        try:
            return closed_by(stack, Graph.capture(self._stream.handle, self._execute))
        except DeviceError as error:
            _log.warning("the canvas part runs without a CUDA graph: %s", error)
        # The CUDA runtime inside of TensorRT may report the failed capture again, here.
        with suppress(DeviceError):
            self.run(np.zeros(self.shape, np.float32))
        self._messages.pop_errors()
        return None

    def _failed(self, what: str) -> DeviceError:
        return DeviceError(what, got=self._messages.pop_errors(), fix="free GPU memory, or else report it")


def _as_artifact(artifact: Artifact, part: CanvasPart) -> Artifact:
    """The canvas part as an engine of its own."""
    path = canvas_path(artifact.path)
    if part.engine is None or artifact.canvas is None:
        raise ArtifactError(f"canvas part {path}", expected="what it was built for", got="nothing")
    manifest = replace(artifact.manifest, sha256=part.sha256, engine=part.engine, ops={}, canvas_part=None)
    return Artifact(path, artifact.canvas, manifest)

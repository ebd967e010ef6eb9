# SPDX-License-Identifier: Apache-2.0
"""A segmentation network as an engine.

A call fills pinned memory (or resizes a frame that is already on the GPU), replays the network as one CUDA
graph, and copies the outputs to their own slot.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.artifact import Artifact
from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.reading import read_artifact
from imp_trt.backends.canvas import CanvasShape, read_canvas_part
from imp_trt.backends.decoding import HostOutputs
from imp_trt.backends.device_outputs import DeviceOutputs
from imp_trt.backends.device_slots import Slot, SlotPool, closed_by
from imp_trt.backends.engine_canvas import CanvasEngine
from imp_trt.backends.engine_core import EngineCore
from imp_trt.backends.engine_lifetime import resize_mask
from imp_trt.backends.uploads import Frame, Uploader
from imp_trt.cuda import driver
from imp_trt.cuda.driver import DeviceBuffer
from imp_trt.errors import ImpTrtError
from imp_trt.preprocessing import letterbox_cuda
from imp_trt.preprocessing.device_arrays import DeviceFrame, device_frame
from imp_trt.preprocessing.frame_like import FrameLike
from imp_trt.preprocessing.frames import ColorOrder
from imp_trt.preprocessing.letterbox import LetterboxTransform


class EngineBackend(EngineCore):
    """An engine that segments frames. See :class:`imp_trt.backends.DeviceBackend` and :class:`EngineCore`.

    Outputs may be read in any thread; those that are unread when it is closed are moved to host memory.

    Attributes:
        manifest: the network's inputs and outputs.
    """

    manifest: Manifest
    opened_as = "Segmenter"
    _canvas: CanvasEngine | None

    # ---- for the segmenter ----

    def infer(self, frames: NDArray[np.uint8]) -> HostOutputs:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        contract = self.manifest.input
        transform = LetterboxTransform.of((contract.height, contract.width), contract)
        outputs = self.start([(frame, "bgr") for frame in frames], [transform] * len(frames))
        maps = [outputs.semantic(i, transform, False, {}) for i in range(len(frames))]
        arrays = {"semantic": np.stack(maps)} | outputs.detections({})
        return {spec.name: arrays[spec.name] for spec in self.manifest.outputs}

    def accept(self, frame: FrameLike) -> DeviceFrame:
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
                kept = len(self._handles.kept)
                try:
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
                except BaseException:
                    with suppress(ImpTrtError):
                        self._stream.synchronize()
                    self._handles.release_after(kept)  # the caller may try again
                    raise
                self._closer.callback(self._canvas.close)
                self._ran()
        return self._canvas

    # ---- see EngineCore ----

    def _read(self, path: str | os.PathLike[str]) -> Artifact:
        artifact = read_artifact(path)
        self.manifest = artifact.manifest
        self._path = os.path.abspath(path)
        self._canvas = None
        return artifact

    def _allocate(self, stack: ExitStack) -> None:
        self._uploader: Uploader = closed_by(stack, Uploader(self._device, self.manifest.input))
        self._pool: SlotPool = closed_by(stack, SlotPool(self._device, self.manifest, self._current))
        self._outputs: DeviceBuffer = closed_by(stack, DeviceBuffer(self._pool.layout.nbytes))

    def _addresses(self) -> dict[str, int]:
        begin = self._outputs.pointer
        addresses = {name: begin + offset for name, offset in self._pool.layout.offsets.items()}
        addresses[self.manifest.input.spec.name] = self._uploader.input.pointer
        return addresses

    def _enqueue_blank(self) -> None:
        self._uploader.enqueue(self._uploader.fill([], []), [], [], self._stream.handle)

    def _before_close(self) -> None:
        self._pool.move_all()

    def _abandon(self, slot: Slot) -> None:
        """After a failure: wait until no enqueued work can read the frames, and return the slot."""
        with suppress(ImpTrtError):
            self._stream.synchronize()
        slot.frames.clear()
        self._pool.give_back(slot)

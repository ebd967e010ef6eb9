# SPDX-License-Identifier: Apache-2.0
"""Upload of frames to an engine's input: through pinned memory, or resized on the GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import InputContract, TensorSpec
from imp_trt.backends.device_slots import MAX_SLOTS, closed_by, tensor_bytes
from imp_trt.cuda import driver
from imp_trt.cuda.driver import Device, DeviceBuffer, Event, PinnedBuffer
from imp_trt.preprocessing import letterbox_cuda
from imp_trt.preprocessing.batch import preprocess_batch
from imp_trt.preprocessing.device_arrays import DeviceFrame
from imp_trt.preprocessing.frames import ColorOrder
from imp_trt.preprocessing.letterbox import LetterboxTransform

Frame = tuple[NDArray[np.uint8] | DeviceFrame, ColorOrder]
"""Pixels, uint8 [h, w, 3] contiguous or on the GPU (there also NV12), and the order of their channels."""


class StagingBuffer:
    """Pinned memory for one batch, and the event after its copy to the GPU.

    Attributes:
        array: the memory as uint8 [B, H, W, 3].
    """

    def __init__(self, spec: TensorSpec) -> None:
        with ExitStack() as stack:
            self.buffer: PinnedBuffer = closed_by(stack, PinnedBuffer(tensor_bytes(spec)))
            self.copied: Event = closed_by(stack, Event())
            self._closer = stack.pop_all()
        self.array = self.buffer.array.reshape(spec.shape)

    def close(self) -> None:
        self._closer.close()


class Uploader:
    """The input tensor and the buffers that it is filled from.

    Attributes:
        input: the tensor uint8 [B, H, W, 3] on the GPU.
    """

    def __init__(self, device: Device, contract: InputContract) -> None:
        self._device = device
        self._spec = contract.spec
        self._pad_value = contract.pad_value
        self._batch = contract.batch
        # In the order in which they are copied. Synchronous calls need only one.
        self._stages: deque[StagingBuffer] = deque()
        with ExitStack() as stack:
            self.input: DeviceBuffer = closed_by(stack, DeviceBuffer(tensor_bytes(contract.spec)))
            stack.callback(self._close_stages)
            self._stages.append(StagingBuffer(self._spec))
            self._closer = stack.pop_all()
        self._item = self.input.nbytes // contract.batch

    def fill(self, frames: Sequence[Frame], transforms: Sequence[LetterboxTransform]) -> StagingBuffer:
        """The host's part: frames in host memory at the network's size, gray where there is no frame."""
        stage = self._next_stage()
        for i, ((pixels, order), transform) in enumerate(zip(frames, transforms, strict=True)):
            if not isinstance(pixels, DeviceFrame):
                preprocess_batch(stage.array[i : i + 1], [(pixels, order)], [transform], self._pad_value)
        if len(frames) < self._batch:
            stage.array[len(frames) :] = self._pad_value
        return stage

    def enqueue(
        self,
        stage: StagingBuffer,
        frames: Sequence[Frame],
        transforms: Sequence[LetterboxTransform],
        stream: int,
    ) -> None:
        """The GPU's part: one copy for each run of host frames, one kernel for each device frame."""
        begin = 0
        for i, ((pixels, order), transform) in enumerate(zip(frames, transforms, strict=True)):
            if isinstance(pixels, DeviceFrame):
                self._copy(stage, begin, i, stream)
                begin = i + 1
                out = self.input.pointer + i * self._item
                resize_on_device((pixels, order), transform, out, self._pad_value, stream, self._device)
        self._copy(stage, begin, self._batch, stream)
        stage.copied.record(stream)

    def close(self) -> None:
        self._closer.close()

    def _next_stage(self) -> StagingBuffer:
        """A buffer that is not being copied; waits only if MAX_SLOTS copies are pending."""
        stage = self._stages[0]
        if not stage.copied.query():
            if len(self._stages) < MAX_SLOTS:
                self._stages.append(StagingBuffer(self._spec))
                return self._stages[-1]
            stage.copied.synchronize()
        self._stages.rotate(-1)
        return stage

    def _close_stages(self) -> None:
        while self._stages:
            self._stages.pop().close()

    def _copy(self, stage: StagingBuffer, begin: int, end: int, stream: int) -> None:
        if begin < end:
            offset = begin * self._item
            nbytes = (end - begin) * self._item
            driver.copy_in(self.input.pointer + offset, stage.buffer.pointer + offset, nbytes, stream)


def resize_on_device(
    frame: tuple[DeviceFrame, ColorOrder],
    transform: LetterboxTransform,
    out: int,
    pad_value: int,
    stream: int,
    device: Device,
) -> None:
    """Enqueue the kernel that resizes a frame on the GPU, in BGR.

    Args:
        frame: its pixels, and the order of their channels.
        transform: to the size of the output.
        out: address of the output uint8 [H, W, 3].
        pad_value: gray level outside the image.
        stream: handle of a stream of device.
        device: made current in this thread.
    """
    pixels, order = frame
    if pixels.chroma is None:
        letterbox_cuda.launch_letterbox(
            transform, pixels.pointer, pixels.row_pitch, order == "rgb", out, pad_value, stream, device
        )
    else:
        letterbox_cuda.launch_letterbox_nv12(transform, pixels, out, pad_value, stream, device)

# SPDX-License-Identifier: Apache-2.0
"""Arrays in the memory of the fake GPU, as PyTorch, CuPy, PyCUDA and decoders present theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.support.fake_tensorrt import FakeGpu


def on_gpu(cuda: FakeGpu, pixels: NDArray[Any], row_pitch: int | None = None) -> NDArray[Any]:
    """The same array in the fake's device memory, with a row pitch in bytes."""
    row = pixels[0].nbytes
    pitch = row_pitch or row
    pointer = cuda._allocate(len(pixels) * pitch, cuda._memory)
    memory = cuda.array(pointer, (len(pixels), pitch), np.uint8)
    memory[:, :row] = pixels.reshape(len(pixels), -1).view(np.uint8)
    strides = (pitch, *np.ascontiguousarray(pixels).strides[1:])
    return np.lib.stride_tricks.as_strided(memory.view(pixels.dtype), pixels.shape, strides)


class Interface:
    """An object with __cuda_array_interface__, as CuPy and PyCUDA have it."""

    def __init__(self, array: NDArray[Any], **changes: Any) -> None:
        self.array = array
        contiguous = array.flags.c_contiguous
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": None if contiguous else array.strides,
            "version": 3,
            "stream": None,
        } | changes


class Dlpack:
    """An object with DLPack, as PyTorch and CuPy have it."""

    def __init__(self, array: NDArray[Any], cuda: FakeGpu | None = None, work: Any = None) -> None:
        self.tensor = torch.from_numpy(array)
        self.device = (2, 0)
        self.streams: list[int] = []
        self._cuda, self._work = cuda, work

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        assert stream is not None
        self.streams.append(stream)
        if self._cuda is not None:  # what PyTorch does with an event
            self._cuda.enqueue(stream, self._work)
        return self.tensor.__dlpack__()


def late(cuda: FakeGpu, frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Any]:
    """Device memory, and the work that will fill it."""
    there = on_gpu(cuda, np.zeros_like(frame))

    def fill() -> None:
        there[...] = frame

    return there, fill

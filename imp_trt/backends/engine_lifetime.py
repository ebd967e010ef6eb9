# SPDX-License-Identifier: Apache-2.0
"""What an engine holds on a GPU, the context that it is used in, and how it is released."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import local

from imp_trt.cuda import driver
from imp_trt.cuda.driver import Device, Stream
from imp_trt.errors import ImpTrtError, InvalidInput
from imp_trt.plugins.tensorrt_types import IExecutionContext
from imp_trt.preprocessing import letterbox_cuda
from imp_trt.preprocessing.letterbox import LetterboxTransform


class Handles:
    """TensorRT's objects, released in the required order: context, engine, runtime."""

    def __init__(self) -> None:
        self.kept: list[object] = []
        self.context: IExecutionContext | None = None

    def release(self) -> None:
        """Release them in this order."""
        self.context = None
        self.release_after(0)

    def release_after(self, count: int) -> None:
        """Release those that were kept after the first count, the newest first."""
        while len(self.kept) > count:
            self.kept.pop()

    def leak(self) -> None:
        """Never release them: their destructors would call CUDA, which does not work in a forked process."""
        for handle in (*self.kept, self.context):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))


def open_device(index: int) -> Device:
    """The device; the current context of this thread does not change."""
    driver.device_info(index)  # initializes the driver
    before = driver.call("cuCtxGetCurrent")
    try:
        return Device.open(index)
    finally:
        driver.call("cuCtxSetCurrent", before)


def resize_mask(stream: int, device: Device, transform: LetterboxTransform, semantic: int, out: int) -> None:
    """letterbox_cuda.launch_invert_mask with the arguments that stay the same first."""
    letterbox_cuda.launch_invert_mask(transform, semantic, out, stream, device)


class CurrentContext(local):
    """The device's context in the calling thread; one object per thread."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._inside = False

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes it current and then restores the caller's, e.g. PyTorch's on another GPU."""
        if self._inside:  # saves three driver calls
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


def release_all(closer: ExitStack, device: Device, stream: Stream, handles: Handles, pid: int) -> None:
    """Release everything, in any thread and state."""
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


def device_index(device: object) -> int:
    """The index of a GPU's name: None, "cuda" or "cuda:<index>"; InvalidInput for another."""
    if device is None:
        return 0
    match = re.fullmatch(r"cuda(?::(0|[1-9][0-9]{0,3}))?", device) if isinstance(device, str) else None
    if match is None:
        raise InvalidInput(
            "device of an engine",
            expected="cuda or cuda:<index>",
            got=repr(device),
            fix="for the CPU, export with --target onnxruntime",
        )
    return int(match[1] or 0)

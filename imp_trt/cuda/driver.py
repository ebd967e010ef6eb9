# SPDX-License-Identifier: Apache-2.0
"""Wrappers of the CUDA driver API: device, stream, event, memory, graph.

Every call goes through imp_trt.cuda.calls, which turns a status into an error. Pointers and stream handles
are ints. Objects must be used in a thread whose current context is their device's (`Device.activate`);
`close` is idempotent.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from imp_trt.cuda.calls import bindings as bindings
from imp_trt.cuda.calls import call as call
from imp_trt.cuda.calls import explain, failure, invoke, release
from imp_trt.cuda.calls import set_bindings as set_bindings
from imp_trt.errors import DependencyMissing, DeviceError, InvalidInput

_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no implicit synchronization with the default stream
_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_NOT_READY = "CUDA_ERROR_NOT_READY"
_NO_FLAGS = 0
_CUDA_12_0 = 12000  # version of cuEventElapsedTime that every driver for CUDA 12 has
_NO_DEVICE = ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INVALID_DEVICE")

_ElapsedTime = Callable[[int, int, int], int]
_driver_elapsed: dict[ModuleType, _ElapsedTime] = {}  # bindings that cannot call cuEventElapsedTime -> it


@dataclass(frozen=True)
class DeviceInfo:
    """Properties of a GPU that need no context.

    Attributes:
        index: number of the GPU.
        name: of the product.
        compute_capability: (8, 9).
        driver_version: newest CUDA version that the driver supports, (13, 0).
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    driver_version: tuple[int, int]


def device_info(index: int = 0) -> DeviceInfo:
    """Properties of GPU number index.

    Raises:
        DependencyMissing: no driver, a driver that cannot be initialized, or no such GPU.
    """
    status, _ = invoke("cuInit", 0)
    if status != "CUDA_SUCCESS":
        raise DependencyMissing(
            "an NVIDIA GPU",
            got=f"cuInit returned {status} ({explain(status)})",
            fix="check that nvidia-smi lists a GPU and CUDA_VISIBLE_DEVICES does not hide it",
        )
    status, device = invoke("cuDeviceGet", index)
    if status in _NO_DEVICE:
        raise DependencyMissing(f"GPU number {index}", got=f"{call('cuDeviceGetCount')} GPUs")
    if status != "CUDA_SUCCESS":
        raise failure("cuDeviceGet", status)
    name = call("cuDeviceGetName", 128, device).split(b"\0")[0].decode()
    attribute = bindings().CUdevice_attribute
    major = call("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = call("cuDeviceGetAttribute", attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    return DeviceInfo(index, name, (int(major), int(minor)), driver_version())


def driver_version() -> tuple[int, int]:
    """The newest CUDA version that the driver supports, (major, minor)."""
    version = int(call("cuDriverGetVersion"))
    return version // 1000, version % 1000 // 10


class Device:
    """A GPU and one of its contexts: the primary one (PyTorch's, TensorRT's), or another.

    Attributes:
        info: properties of the GPU.
        modules: loaded kernels; filled by imp_trt.cuda.kernels.
    """

    def __init__(self, info: DeviceInfo, context: object, retained: object = None) -> None:
        self.info = info
        self._context = context
        self._retained = retained  # the GPU whose primary context close() releases
        self.modules: dict[str, Module] = {}

    @classmethod
    def open(cls, index: int = 0) -> Device:
        """Retains the primary context of GPU number index and makes it current in this thread.

        Raises:
            DependencyMissing: no driver or no such GPU.
        """
        info = device_info(index)
        handle = call("cuDeviceGet", index)
        device = cls(info, call("cuDevicePrimaryCtxRetain", handle), retained=handle)
        device.activate()
        return device

    @classmethod
    def current(cls) -> Device:
        """The current context of this thread, which this object does not keep alive.

        Raises:
            DependencyMissing: no driver.
            DeviceError: no context is current.
        """
        return cls(device_info(int(call("cuCtxGetDevice"))), call("cuCtxGetCurrent"))

    @property
    def index(self) -> int:
        return self.info.index

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def compute_capability(self) -> tuple[int, int]:
        return self.info.compute_capability

    @property
    def driver_version(self) -> tuple[int, int]:
        return self.info.driver_version

    def activate(self) -> None:
        """Makes the context current in the calling thread."""
        if self._context is None:
            raise InvalidInput("the device is closed")
        call("cuCtxSetCurrent", self._context)

    @contextmanager
    def activated(self) -> Iterator[None]:
        """Makes the context current in the calling thread, and then restores the previous one.

        Raises:
            InvalidInput: the device is closed.
        """
        before = call("cuCtxGetCurrent")
        self.activate()
        try:
            yield
        finally:
            call("cuCtxSetCurrent", before)

    def close(self) -> None:
        """Unloads its kernels and releases the context, which exists until its last user releases it."""
        if self._context is not None:
            if self.modules:
                self.activate()
                while self.modules:
                    self.modules.popitem()[1].close()
            self._context = None
            if self._retained is not None:
                release("cuDevicePrimaryCtxRelease", self._retained)


class Module:
    """Compiled kernels loaded into the current context.

    Args:
        image: a cubin, or PTX for the driver to compile.
        entries: names of the entry points.

    Attributes:
        functions: entry point -> its handle, for cuLaunchKernel.
    """

    def __init__(self, image: bytes, entries: Sequence[str]) -> None:
        self._handle = call("cuModuleLoadData", image)
        self.functions: dict[str, object] = {}
        # Reading this attribute loads the function now, so that no launch has to.
        threads = bindings().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
        try:
            for entry in entries:
                self.functions[entry] = call("cuModuleGetFunction", self._handle, entry.encode())
                call("cuFuncGetAttribute", threads, self.functions[entry])
        except DeviceError:
            self.close()
            raise

    def close(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self.functions.clear()
            release("cuModuleUnload", handle)


class Stream:
    """A non-blocking stream. Makes its device current in this thread."""

    def __init__(self, device: Device) -> None:
        device.activate()
        self.handle = int(call("cuStreamCreate", _NON_BLOCKING))

    def synchronize(self) -> None:
        """Waits until all work enqueued so far is done."""
        call("cuStreamSynchronize", self.handle)

    def close(self) -> None:
        if self.handle:
            handle, self.handle = self.handle, 0
            release("cuStreamDestroy", handle)


class Event:
    """An event; elapsed_ms needs timing=True."""

    def __init__(self, timing: bool = False) -> None:
        self.handle = int(call("cuEventCreate", 0 if timing else _DISABLE_TIMING))

    def record(self, stream_handle: int) -> None:
        call("cuEventRecord", self.handle, stream_handle)

    def synchronize(self) -> None:
        """Waits until the work before the event is done."""
        call("cuEventSynchronize", self.handle)

    def query(self) -> bool:
        """Whether the work before the event is done."""
        status, _ = invoke("cuEventQuery", self.handle)
        if status not in ("CUDA_SUCCESS", _NOT_READY):
            raise failure("cuEventQuery", status)
        return status != _NOT_READY

    def elapsed_ms(self, earlier: Event) -> float:
        """Milliseconds from an earlier event to this one; both with timing=True and done.

        Raises:
            DeviceError: an event is not done or has no timing.
        """
        function = _driver_elapsed.get(bindings())
        if function is None:
            try:
                return float(call("cuEventElapsedTime", earlier.handle, self.handle))
            except DependencyMissing:
                function = _driver_elapsed[bindings()] = _elapsed_of_cuda_12()
        milliseconds = ctypes.c_float()
        code = function(ctypes.addressof(milliseconds), earlier.handle, self.handle)
        if code:
            raise failure("cuEventElapsedTime", bindings().CUresult(code).name)
        return milliseconds.value

    def close(self) -> None:
        if self.handle:
            handle, self.handle = self.handle, 0
            release("cuEventDestroy", handle)


def _elapsed_of_cuda_12() -> _ElapsedTime:
    """cuEventElapsedTime of drivers before CUDA 12.8; cuda-bindings 13 call only its successor."""
    address, _ = call("cuGetProcAddress", b"cuEventElapsedTime", _CUDA_12_0, _NO_FLAGS)
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(address)


class DeviceBuffer:
    """nbytes of uninitialized GPU memory; the pointer is valid for 0 bytes too."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.pointer = int(call("cuMemAlloc", max(nbytes, 1)))

    def close(self) -> None:
        if self.pointer:
            pointer, self.pointer = self.pointer, 0
            release("cuMemFree", pointer)


class PinnedBuffer:
    """nbytes of page-locked host memory, as a pointer and as an array uint8 [nbytes] of the same memory.

    close() frees the memory: views of array must not be used after it.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.pointer = int(call("cuMemHostAlloc", max(nbytes, 1), _PORTABLE))
        memory = (ctypes.c_uint8 * nbytes).from_address(self.pointer)
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(memory)

    def close(self) -> None:
        if self.pointer:
            pointer, self.pointer = self.pointer, 0
            self.array = np.empty(0, np.uint8)
            release("cuMemFreeHost", pointer)


def copy_in(dst: int, src_host_pointer: int, n: int, stream: int) -> None:
    """Enqueues a copy of n bytes from the host; asynchronous if the host memory is pinned."""
    call("cuMemcpyHtoDAsync", dst, src_host_pointer, n, stream)


def copy_out(dst_host_pointer: int, src: int, n: int, stream: int) -> None:
    """Enqueues a copy of n bytes to the host; asynchronous if the host memory is pinned."""
    call("cuMemcpyDtoHAsync", dst_host_pointer, src, n, stream)


def copy_on_device(dst: int, src: int, n: int, stream: int) -> None:
    """Enqueues a copy of n bytes within the GPU."""
    call("cuMemcpyDtoDAsync", dst, src, n, stream)


def is_capturing(stream_handle: int) -> bool:
    """Whether the stream is being captured into a graph."""
    status = call("cuStreamIsCapturing", stream_handle)
    return bool(status.name != "CU_STREAM_CAPTURE_STATUS_NONE")


class Graph:
    """A CUDA graph: work captured from a stream, which one call launches."""

    def __init__(self, executable: object) -> None:
        self._executable: object | None = executable

    @classmethod
    def capture(cls, stream_handle: int, body: Callable[[], None]) -> Graph:
        """Captures the work that body enqueues on the stream, which must not be the default stream.

        The capture restricts this thread only; other threads may call CUDA.

        Raises:
            DeviceError: body did something that cannot be captured.
            Exception: what body raised. The capture is ended in both cases.
        """
        mode = bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        # A finalizer that frees GPU memory during the capture would invalidate it.
        collecting = gc.isenabled()
        gc.disable()
        try:
            call("cuStreamBeginCapture", stream_handle, mode)
            try:
                body()
            except BaseException:
                status, graph = invoke("cuStreamEndCapture", stream_handle)
                if status == "CUDA_SUCCESS":
                    release("cuGraphDestroy", graph)
                raise
        finally:
            if collecting:
                gc.enable()
        graph = call("cuStreamEndCapture", stream_handle)
        try:
            return cls(call("cuGraphInstantiate", graph, 0))
        finally:
            release("cuGraphDestroy", graph)

    def launch(self, stream_handle: int) -> None:
        """Enqueues the captured work."""
        call("cuGraphLaunch", self._executable, stream_handle)

    def close(self) -> None:
        if self._executable is not None:
            executable, self._executable = self._executable, None
            release("cuGraphExecDestroy", executable)

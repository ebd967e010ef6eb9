"""The CUDA driver API as small Python objects: device, stream, event, memory, graph.

Every call goes through imp_trt.cuda.calls, which turns a status into an error. Pointers and stream handles
are plain ints. Objects are used in a thread whose current context is their device's (`Device.activate`);
`close` may be called any number of times.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.cuda.calls import bindings as bindings
from imp_trt.cuda.calls import call as call
from imp_trt.cuda.calls import explain, failure, invoke, release
from imp_trt.cuda.calls import set_bindings as set_bindings
from imp_trt.errors import DependencyMissing, DeviceError, InvalidInput

_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no implicit wait for the default stream
_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_NOT_READY = "CUDA_ERROR_NOT_READY"
_NO_FLAGS = 0
_CUDA_12_0 = 12000  # the version of CUDA whose cuEventElapsedTime every driver for CUDA 12 has
_NO_DEVICE = ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INVALID_DEVICE")

_own_elapsed: dict[Any, Any] = {}  # bindings that lack cuEventElapsedTime on this driver -> the driver's own


@dataclass(frozen=True)
class DeviceInfo:
    """What is known of a GPU without making a context on it."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    driver_version: tuple[int, int]  # the newest CUDA the driver knows, (13, 0)


def device_info(index: int = 0) -> DeviceInfo:
    """Asks the driver about GPU number index.

    Raises:
        DependencyMissing: no driver, a driver that does not start, or no such GPU.
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
    """The newest CUDA version the driver knows, (major, minor)."""
    version = int(call("cuDriverGetVersion"))
    return version // 1000, version % 1000 // 10


class Device:
    """A GPU and one of its contexts: the primary one (PyTorch's, TensorRT's), or one that a program made."""

    def __init__(self, info: DeviceInfo, context: Any, retained: Any = None) -> None:
        self.info = info
        self._context = context
        self._retained = retained  # the GPU whose primary context this object holds on to
        self.modules: dict[str, Module] = {}  # filled by imp_trt.cuda.kernels

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
        """The context that is current in this thread, which this object does not keep alive.

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
        """Makes the context current in the calling thread, and afterwards the one that was current before.

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
        """Unloads its kernels and gives the context back, which lives on while anybody else holds it."""
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
        self.functions: dict[str, Any] = {}
        # Of the attributes, one that only a loaded function has: asked now, so that no launch has to load.
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
    """A stream that does not wait for the default stream. Makes its device current in this thread."""

    def __init__(self, device: Device) -> None:
        device.activate()
        self.handle = int(call("cuStreamCreate", _NON_BLOCKING))

    def synchronize(self) -> None:
        """Waits until everything enqueued so far is done."""
        call("cuStreamSynchronize", self.handle)

    def close(self) -> None:
        if self.handle:
            handle, self.handle = self.handle, 0
            release("cuStreamDestroy", handle)


class Event:
    """A mark in a stream; with timing, marks can be subtracted."""

    def __init__(self, timing: bool = False) -> None:
        self.handle = int(call("cuEventCreate", 0 if timing else _DISABLE_TIMING))

    def record(self, stream_handle: int) -> None:
        call("cuEventRecord", self.handle, stream_handle)

    def synchronize(self) -> None:
        """Waits until the stream has reached the mark."""
        call("cuEventSynchronize", self.handle)

    def query(self) -> bool:
        """Whether the stream has reached the mark."""
        status, _ = invoke("cuEventQuery", self.handle)
        if status not in ("CUDA_SUCCESS", _NOT_READY):
            raise failure("cuEventQuery", status)
        return status != _NOT_READY

    def elapsed_ms(self, earlier: Event) -> float:
        """Milliseconds from an earlier mark to this one; both made with timing=True and reached.

        Raises:
            DeviceError: a mark has not been reached or has no timing.
        """
        own = _own_elapsed.get(bindings())
        if own is None:
            try:
                return float(call("cuEventElapsedTime", earlier.handle, self.handle))
            except DependencyMissing:
                own = _own_elapsed[bindings()] = _elapsed_of_cuda_12()
        milliseconds = ctypes.c_float()
        code = own(ctypes.addressof(milliseconds), earlier.handle, self.handle)
        if code:
            raise failure("cuEventElapsedTime", bindings().CUresult(code).name)
        return milliseconds.value

    def close(self) -> None:
        if self.handle:
            handle, self.handle = self.handle, 0
            release("cuEventDestroy", handle)


def _elapsed_of_cuda_12() -> Any:
    """cuEventElapsedTime as drivers before CUDA 12.8 have it; cuda-bindings 13 call its successor only."""
    address, _ = call("cuGetProcAddress", b"cuEventElapsedTime", _CUDA_12_0, _NO_FLAGS)
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(address)


class DeviceBuffer:
    """nbytes of uninitialized GPU memory; no bytes still give a valid pointer."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.pointer = int(call("cuMemAlloc", max(nbytes, 1)))

    def close(self) -> None:
        if self.pointer:
            pointer, self.pointer = self.pointer, 0
            release("cuMemFree", pointer)


class PinnedBuffer:
    """nbytes of page-locked host memory, as a pointer and as array uint8 [nbytes] of the same memory.

    After close the memory is gone: views of array must not be used any more.
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
    """Enqueues a copy of n bytes from the host; the host memory must be pinned to make it asynchronous."""
    call("cuMemcpyHtoDAsync", dst, src_host_pointer, n, stream)


def copy_out(dst_host_pointer: int, src: int, n: int, stream: int) -> None:
    """Enqueues a copy of n bytes to the host; the host memory must be pinned to make it asynchronous."""
    call("cuMemcpyDtoHAsync", dst_host_pointer, src, n, stream)


def copy_on_device(dst: int, src: int, n: int, stream: int) -> None:
    """Enqueues a copy of n bytes within the GPU."""
    call("cuMemcpyDtoDAsync", dst, src, n, stream)


def is_capturing(stream_handle: int) -> bool:
    """Whether work enqueued on the stream is recorded in a graph instead of run."""
    status = call("cuStreamIsCapturing", stream_handle)
    return bool(status.name != "CU_STREAM_CAPTURE_STATUS_NONE")


class Graph:
    """Work recorded once on a stream, and launched as often as wanted with one call."""

    def __init__(self, executable: Any) -> None:
        self._executable = executable

    @classmethod
    def capture(cls, stream_handle: int, body: Callable[[], None]) -> Graph:
        """Records what body enqueues on the stream, which must not be the default stream.

        Only this thread is restricted while it records; the rest of the program may go on calling CUDA.

        Raises:
            DeviceError: body did something that cannot be recorded.
            Exception: whatever body raised. The recording is ended in both cases.
        """
        mode = bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        # A finalizer that frees GPU memory in the middle of it would spoil the recording.
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
        """Enqueues the recorded work."""
        call("cuGraphLaunch", self._executable, stream_handle)

    def close(self) -> None:
        if self._executable is not None:
            executable, self._executable = self._executable, None
            release("cuGraphExecDestroy", executable)

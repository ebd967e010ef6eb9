"""The CUDA driver API as small Python objects: device, stream, event, memory, graph.

Every call goes through `call`, which turns a status into an error and looks the bindings up each time, so
that a test can put a fake in their place. Pointers and stream handles are plain ints. Objects are used in a
thread whose current context is their device's (`Device.activate`); `close` may be called any number of times.
"""

from __future__ import annotations

import ctypes
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import DependencyMissing, DeviceError, InvalidInput

_log = logging.getLogger(__name__)

_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no implicit wait for the default stream
_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_NOT_READY = "CUDA_ERROR_NOT_READY"
_NO_DEVICE = ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INVALID_DEVICE")

_bindings: Any = None


def bindings() -> Any:
    """The module cuda.bindings.driver, with a driver library behind it.

    Raises:
        DependencyMissing: the package cuda-bindings or the driver's library is missing.
    """
    global _bindings
    if _bindings is None:
        try:
            module = import_module("cuda.bindings.driver")
        except ImportError as error:
            raise DependencyMissing(
                "the Python package cuda-bindings", got=str(error), fix="pip install 'imp-trt[cuda]'"
            ) from error
        try:
            module.cuDriverGetVersion()  # the library is looked for on the first call
        except (RuntimeError, OSError) as error:
            absent = type(error).__name__ == "DynamicLibNotFoundError"  # of cuda.pathfinder, no public name
            raise DependencyMissing(
                "the NVIDIA driver",
                got="no libcuda.so.1" if absent else str(error).rstrip("."),
                fix="install the NVIDIA driver, or run on a machine with an NVIDIA GPU",
            ) from error
        _bindings = module
    return _bindings


def set_bindings(module: Any) -> None:
    """Puts another module in the place of cuda.bindings.driver; None brings the real one back. For tests."""
    global _bindings
    _bindings = module


def _invoke(name: str, *args: Any) -> tuple[str, Any]:
    """The status' name, and the rest of the results: None, a value or a tuple."""
    status, *rest = getattr(bindings(), name)(*args)
    return status.name, None if not rest else rest[0] if len(rest) == 1 else tuple(rest)


def call(name: str, *args: Any) -> Any:
    """Calls a driver function; None, its one result, or the tuple of them.

    Raises:
        DeviceError: the function returned an error.
        DependencyMissing: there is no driver.
    """
    status, result = _invoke(name, *args)
    if status != "CUDA_SUCCESS":
        raise _error(name, status)
    return result


def _error(function: str, status: str) -> DeviceError:
    fix = None
    if status == "CUDA_ERROR_OUT_OF_MEMORY":
        fix = "free GPU memory: close other programs, or use a smaller frame or batch"
    return DeviceError(f"{function} failed", got=f"{status} ({_explain(status)})", fix=fix)


def _explain(status: str) -> str:
    module = bindings()
    _, text = module.cuGetErrorString(getattr(module.CUresult, status))
    return text.decode() if text else "no description"


def _release(name: str, *args: Any) -> None:
    """Gives something back. A failure is logged: at this point nobody could do anything about it."""
    status, _ = _invoke(name, *args)
    if status not in ("CUDA_SUCCESS", "CUDA_ERROR_DEINITIALIZED"):
        _log.warning("%s failed: %s", name, status)


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
    status, _ = _invoke("cuInit", 0)
    if status != "CUDA_SUCCESS":
        raise DependencyMissing(
            "an NVIDIA GPU",
            got=f"cuInit returned {status} ({_explain(status)})",
            fix="check that nvidia-smi lists a GPU and CUDA_VISIBLE_DEVICES does not hide it",
        )
    status, device = _invoke("cuDeviceGet", index)
    if status in _NO_DEVICE:
        raise DependencyMissing(f"GPU number {index}", got=f"{call('cuDeviceGetCount')} GPUs")
    if status != "CUDA_SUCCESS":
        raise _error("cuDeviceGet", status)
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
    """A GPU whose primary context (the one PyTorch and TensorRT use) this object holds on to."""

    def __init__(self, info: DeviceInfo, handle: Any, context: Any) -> None:
        self.info = info
        self._handle = handle
        self._context = context
        self.modules: dict[str, Module] = {}  # filled by imp_trt.cuda.kernels

    @classmethod
    def open(cls, index: int = 0) -> Device:
        """Retains the primary context of GPU number index and makes it current in this thread.

        Raises:
            DependencyMissing: no driver or no such GPU.
        """
        info = device_info(index)
        handle = call("cuDeviceGet", index)
        device = cls(info, handle, call("cuDevicePrimaryCtxRetain", handle))
        device.activate()
        return device

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
            _release("cuDevicePrimaryCtxRelease", self._handle)


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
            _release("cuModuleUnload", handle)


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
            _release("cuStreamDestroy", handle)


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
        status, _ = _invoke("cuEventQuery", self.handle)
        if status not in ("CUDA_SUCCESS", _NOT_READY):
            raise _error("cuEventQuery", status)
        return status != _NOT_READY

    def elapsed_ms(self, earlier: Event) -> float:
        """Milliseconds from an earlier mark to this one; both made with timing=True and reached."""
        return float(call("cuEventElapsedTime", earlier.handle, self.handle))

    def close(self) -> None:
        if self.handle:
            handle, self.handle = self.handle, 0
            _release("cuEventDestroy", handle)


class DeviceBuffer:
    """nbytes of uninitialised GPU memory; no bytes still give a valid pointer."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.pointer = int(call("cuMemAlloc", max(nbytes, 1)))

    def close(self) -> None:
        if self.pointer:
            pointer, self.pointer = self.pointer, 0
            _release("cuMemFree", pointer)


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
            _release("cuMemFreeHost", pointer)


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
        # A finaliser that frees GPU memory in the middle of it would spoil the recording.
        collecting = gc.isenabled()
        gc.disable()
        try:
            call("cuStreamBeginCapture", stream_handle, mode)
            try:
                body()
            except BaseException:
                status, graph = _invoke("cuStreamEndCapture", stream_handle)
                if status == "CUDA_SUCCESS":
                    _release("cuGraphDestroy", graph)
                raise
        finally:
            if collecting:
                gc.enable()
        graph = call("cuStreamEndCapture", stream_handle)
        try:
            return cls(call("cuGraphInstantiate", graph, 0))
        finally:
            _release("cuGraphDestroy", graph)

    def launch(self, stream_handle: int) -> None:
        """Enqueues the recorded work."""
        call("cuGraphLaunch", self._executable, stream_handle)

    def close(self) -> None:
        if self._executable is not None:
            executable, self._executable = self._executable, None
            _release("cuGraphExecDestroy", executable)

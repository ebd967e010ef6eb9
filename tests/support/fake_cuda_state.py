# SPDX-License-Identifier: Apache-2.0
"""What fake_cuda.py keeps behind the driver's functions: memory, queues, events, and failures to come."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imp_trt.cuda import driver

JUNK = 0xA5

CUresult = IntEnum(
    "CUresult",
    {
        "CUDA_SUCCESS": 0,
        "CUDA_ERROR_INVALID_VALUE": 1,
        "CUDA_ERROR_OUT_OF_MEMORY": 2,
        "CUDA_ERROR_DEINITIALIZED": 4,
        "CUDA_ERROR_NO_DEVICE": 100,
        "CUDA_ERROR_INVALID_DEVICE": 101,
        "CUDA_ERROR_INVALID_IMAGE": 200,
        "CUDA_ERROR_INVALID_CONTEXT": 201,
        "CUDA_ERROR_INVALID_HANDLE": 400,
        "CUDA_ERROR_NOT_FOUND": 500,
        "CUDA_ERROR_NOT_READY": 600,
        "CUDA_ERROR_ILLEGAL_ADDRESS": 700,
        "CUDA_ERROR_LAUNCH_FAILED": 719,
        "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": 900,
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": 901,
        "CUDA_ERROR_STREAM_CAPTURE_ISOLATION": 905,
    },
)
CUdevice_attribute = IntEnum(
    "CUdevice_attribute",
    {
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": 75,
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": 76,
    },
)
CUfunction_attribute = IntEnum(
    "CUfunction_attribute",
    {
        "CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK": 0,
        "CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES": 1,
        "CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES": 3,
        "CU_FUNC_ATTRIBUTE_NUM_REGS": 4,
    },
)
CUpointer_attribute = IntEnum(
    "CUpointer_attribute",
    {
        "CU_POINTER_ATTRIBUTE_CONTEXT": 1,
        "CU_POINTER_ATTRIBUTE_MEMORY_TYPE": 2,
        "CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL": 9,
    },
)
CUstreamCaptureMode = IntEnum(
    "CUstreamCaptureMode",
    {
        "CU_STREAM_CAPTURE_MODE_GLOBAL": 0,
        "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1,
        "CU_STREAM_CAPTURE_MODE_RELAXED": 2,
    },
)
CUstreamCaptureStatus = IntEnum(
    "CUstreamCaptureStatus",
    {
        "CU_STREAM_CAPTURE_STATUS_NONE": 0,
        "CU_STREAM_CAPTURE_STATUS_ACTIVE": 1,
        "CU_STREAM_CAPTURE_STATUS_INVALIDATED": 2,
    },
)
OK = CUresult.CUDA_SUCCESS

Work = Callable[[], None]


class Launch(NamedTuple):
    """One kernel launch: values and ctypes of the arguments as given to cuLaunchKernel."""

    entry: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    stream: int
    values: tuple[Any, ...]
    types: tuple[Any, ...]


@dataclass
class Stream:
    waiting: deque[Work] = field(default_factory=deque)
    capture: list[Work] | None = None
    broken: bool = False  # the capture met something that cannot be recorded
    thread: int = 0  # the one that captures
    context: int = 0  # the one it was created in; 0 for the default streams, which every context has


@dataclass
class Event:
    timing: bool
    stream: Stream | None = None  # where it was recorded last
    mark: Work | None = None
    reached_at: float = 0.0

    @property
    def pending(self) -> bool:
        return self.stream is not None and self.mark in self.stream.waiting


class FakeState:
    """State and test interface of FakeCuda.

    Attributes:
        kernels: entry point -> function(grid, block, *arguments), run when the stream gets there. Those of
            imp_trt that are missing can be loaded, not launched.
        calls: the name of every driver function called, in order.
        launches: every kernel launch, in order of enqueueing; captured ones once.
    """

    CUresult = CUresult
    CUdevice_attribute = CUdevice_attribute
    CUfunction_attribute = CUfunction_attribute
    CUpointer_attribute = CUpointer_attribute
    CUstreamCaptureMode = CUstreamCaptureMode
    CUstreamCaptureStatus = CUstreamCaptureStatus

    def __init__(
        self,
        compute_capability: tuple[int, int] = (9, 0),
        driver_version: tuple[int, int] = (13, 2),
        devices: int = 1,
        kernels: Mapping[str, Callable[..., None]] | None = None,
        eager: bool = False,
    ) -> None:
        self.kernels = dict(kernels or {})
        self.calls: list[str] = []
        self.launches: list[Launch] = []
        self._eager = eager  # work is done as soon as it is enqueued
        self._version = driver_version[0] * 1000 + driver_version[1] * 10
        self._capability = compute_capability
        self._devices = devices
        self._memory: dict[int, NDArray[np.uint8]] = {}
        self._pinned: dict[int, NDArray[np.uint8]] = {}
        self._streams: dict[int, Stream] = {0: Stream(), 1: Stream(), 2: Stream()}
        self._events: dict[int, Event] = {}
        self._objects: dict[int, Any] = {}  # modules, functions, graphs, executable graphs
        self._loaded: set[int] = set()  # functions whose code is on the GPU; the others are loaded on launch
        self._retained = [0] * devices
        self._others: dict[int, int] = {}  # contexts other than the primary ones -> their devices
        self._next = 1000
        self._failures: dict[str, CUresult] = {}
        self._thread = threading.local()
        self._lock = threading.RLock()

    # ---- for tests ----

    @contextmanager
    def installed(self) -> Iterator[FakeState]:
        """Takes the place of cuda.bindings.driver."""
        driver.set_bindings(self)
        try:
            yield self
        finally:
            driver.set_bindings(None)

    def fail(self, function: str, status: str) -> None:
        """The next call of the function returns this status and does nothing."""
        self._failures[function] = CUresult[status]

    def create_context(self, device: int = 0) -> int:
        """A context that is not the device's primary one, as PyCUDA's autoinit or cuCtxCreate make."""
        context = 100 + len(self._others)
        self._others[context] = device
        return context

    def array(self, pointer: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Device or pinned memory as an array: what a kernel's stand-in reads and writes."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = self._find(pointer, nbytes, {**self._memory, **self._pinned})
        if memory is None:
            raise AssertionError(f"{nbytes} bytes at {pointer:#x} are no live allocation")
        return memory.view(dtype).reshape(shape)

    def enqueue(self, stream: int, work: Work) -> CUresult:
        """Puts work on a stream as a kernel launch would: queued, or recorded while capturing."""
        with self._lock:
            target = self._streams.get(int(stream))
            if target is None:
                return CUresult.CUDA_ERROR_INVALID_HANDLE
            (target.waiting if target.capture is None else target.capture).append(work)
            if self._eager:
                self._run(target)
            return OK

    @property
    def alive(self) -> dict[str, int]:
        """What has been made and not given back."""
        counts = {"memory": len(self._memory), "pinned": len(self._pinned), "events": len(self._events)}
        graphs = sum(isinstance(thing, list) for thing in self._objects.values())
        return {
            **counts,
            "streams": len(self._streams) - 3,
            "graphs": graphs,
            "contexts": sum(self._retained),
        }

    # ---- machinery ----

    def _begin(self, function: str, context: bool = True, recordable: bool = True) -> CUresult:
        """What every call does first; a status other than OK is returned to the caller as it is."""
        self.calls.append(function)
        if function in self._failures:
            return self._failures.pop(function)
        if context and not getattr(self._thread, "context", 0):
            return CUresult.CUDA_ERROR_INVALID_CONTEXT
        if not recordable:
            mine = [s for s in self._streams.values() if s.capture is not None]
            mine = [s for s in mine if s.thread == threading.get_ident()]
            for stream in mine:
                stream.broken = True
            if mine:
                return CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        return OK

    def _new(self, thing: Any) -> int:
        self._next += 8
        self._objects[self._next] = thing
        return self._next

    @staticmethod
    def _find(pointer: int, nbytes: int, blocks: Mapping[int, NDArray[np.uint8]]) -> Any:
        for start, block in blocks.items():
            offset = int(pointer) - start
            if 0 <= offset and offset + nbytes <= len(block):
                return block[offset : offset + nbytes]
        return None

    def _run(self, stream: Stream, until: Work | None = None) -> None:
        while stream.waiting and (until is None or until in stream.waiting):
            stream.waiting.popleft()()

    def _allocate(self, nbytes: int, blocks: dict[int, NDArray[np.uint8]]) -> int:
        whole = np.full(int(nbytes) + 256, JUNK, np.uint8)
        offset = -whole.ctypes.data % 256
        block = whole[offset : offset + int(nbytes)]
        blocks[block.ctypes.data] = block
        return int(block.ctypes.data)

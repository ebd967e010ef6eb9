# SPDX-License-Identifier: Apache-2.0
"""A stand-in for cuda.bindings.driver on machines without a GPU, strict where programs go wrong.

Device memory is host memory filled with junk. Work on a stream stays in a queue until it is synchronized
(cuStreamSynchronize, cuEventSynchronize) or looks (cuEventQuery does one piece at a time), so that a missing
synchronization shows. A capturing stream records instead, and rejects what CUDA rejects there. Every
function has the parameters of the real one (tests/cuda/test_fake_cuda.py); `fail` makes one return an error.

    fake = FakeCuda(kernels={"imp_frame_fit": function})  # function(grid, block, *arguments)
    with fake.installed(): ...
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.cuda.kernels import ENTRIES
from tests.support.fake_cuda_state import (
    JUNK,
    OK,
    CUdevice_attribute,
    CUfunction_attribute,
    CUpointer_attribute,
    CUresult,
    CUstreamCaptureStatus,
    Event,
    FakeState,
    Launch,
    Stream,
)

__all__ = ["JUNK", "FakeCuda", "Launch"]


MEMORY = 1 << 30  # the most that one allocation can have


class FakeCuda(FakeState):
    """The functions and enumerations of cuda.bindings.driver that imp_trt uses."""

    def cuInit(self, Flags: int) -> tuple[Any, ...]:
        status = self._begin("cuInit", context=False)
        return (status if status or self._devices else CUresult.CUDA_ERROR_NO_DEVICE,)

    def cuDriverGetVersion(self) -> tuple[Any, ...]:
        return self._begin("cuDriverGetVersion", context=False), self._version

    def cuDeviceGetCount(self) -> tuple[Any, ...]:
        return self._begin("cuDeviceGetCount", context=False), self._devices

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        status = self._begin("cuDeviceGet", context=False)
        if not 0 <= ordinal < self._devices:
            return CUresult.CUDA_ERROR_INVALID_DEVICE, None
        return status, ordinal

    def cuDeviceGetName(self, length: int, dev: int) -> tuple[Any, ...]:
        return self._begin("cuDeviceGetName", context=False), b"Fake GPU\0".ljust(length)

    def cuDeviceGetAttribute(self, attrib: Any, dev: int) -> tuple[Any, ...]:
        status = self._begin("cuDeviceGetAttribute", context=False)
        return status, self._capability[attrib - CUdevice_attribute(75)]

    def cuDevicePrimaryCtxRetain(self, dev: int) -> tuple[Any, ...]:
        status = self._begin("cuDevicePrimaryCtxRetain", context=False)
        if status == OK:
            self._retained[dev] += 1
        return status, 1 + dev

    def cuDevicePrimaryCtxRelease(self, dev: int) -> tuple[Any, ...]:
        status = self._begin("cuDevicePrimaryCtxRelease", context=False)
        if not self._retained[dev]:
            return (CUresult.CUDA_ERROR_INVALID_CONTEXT,)
        self._retained[dev] -= 1
        return (status,)

    def cuCtxSetCurrent(self, ctx: Any) -> tuple[Any, ...]:
        status = self._begin("cuCtxSetCurrent", context=False)
        if ctx and ctx not in self._others and not self._retained[ctx - 1]:
            return (CUresult.CUDA_ERROR_INVALID_CONTEXT,)
        self._thread.context = ctx
        return (status,)

    def cuCtxGetCurrent(self) -> tuple[Any, ...]:
        return self._begin("cuCtxGetCurrent", context=False), getattr(self._thread, "context", 0)

    def cuCtxGetId(self, ctx: Any) -> tuple[Any, ...]:
        status = self._begin("cuCtxGetId")
        return status, None if status else int(ctx or self._thread.context)

    def cuCtxGetDevice(self) -> tuple[Any, ...]:
        status = self._begin("cuCtxGetDevice")
        if status:
            return status, None
        context = self._thread.context
        return OK, self._others.get(context, context - 1)

    def cuGetErrorName(self, error: Any) -> tuple[Any, ...]:
        return OK, error.name.encode()

    def cuGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return OK, error.name.lower().replace("_", " ").encode()

    def cuMemAlloc(self, bytesize: int) -> tuple[Any, ...]:
        status = self._begin("cuMemAlloc", recordable=False)
        if status or bytesize < 1:
            return status or CUresult.CUDA_ERROR_INVALID_VALUE, None
        if bytesize > MEMORY:
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
        return OK, self._allocate(bytesize, self._memory)

    def cuMemFree(self, dptr: int) -> tuple[Any, ...]:
        return self._free("cuMemFree", dptr, self._memory)

    def cuPointerGetAttribute(self, attribute: Any, ptr: int) -> tuple[Any, ...]:
        status = self._begin("cuPointerGetAttribute")
        on_device = self._find(ptr, 1, self._memory) is not None
        if status or not (on_device or self._find(ptr, 1, self._pinned) is not None):
            return status or CUresult.CUDA_ERROR_INVALID_VALUE, None
        if attribute == CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
            return OK, 0
        return OK, 2 if on_device else 1

    def cuMemHostAlloc(self, bytesize: int, Flags: int) -> tuple[Any, ...]:
        status = self._begin("cuMemHostAlloc", recordable=False)
        if status or bytesize < 1:
            return status or CUresult.CUDA_ERROR_INVALID_VALUE, None
        return OK, self._allocate(bytesize, self._pinned)

    def cuMemFreeHost(self, p: int) -> tuple[Any, ...]:
        return self._free("cuMemFreeHost", p, self._pinned)

    def _free(self, function: str, pointer: int, blocks: dict[int, NDArray[np.uint8]]) -> tuple[Any, ...]:
        status = self._begin(function, recordable=False)
        if status:
            return (status,)
        for stream in self._streams.values():  # freeing waits for the GPU
            self._run(stream)
        block = blocks.pop(int(pointer), None)
        if block is None:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        block.fill(JUNK)
        return (OK,)

    def cuMemcpyHtoDAsync(
        self, dstDevice: int, srcHost: int, ByteCount: int, hStream: int
    ) -> tuple[Any, ...]:
        status = self._begin("cuMemcpyHtoDAsync")
        target = self._find(dstDevice, ByteCount, self._memory)
        if status or target is None:
            return (status or CUresult.CUDA_ERROR_INVALID_VALUE,)
        source = self._find(srcHost, ByteCount, self._pinned)
        if source is None:  # CUDA takes a copy of pageable memory before it returns
            source = np.frombuffer(ctypes.string_at(srcHost, ByteCount), np.uint8)
        return (self.enqueue(hStream, lambda: np.copyto(target, source)),)

    def cuMemcpyDtoHAsync(
        self, dstHost: int, srcDevice: int, ByteCount: int, hStream: int
    ) -> tuple[Any, ...]:
        status = self._begin("cuMemcpyDtoHAsync")
        source = self._find(srcDevice, ByteCount, self._memory)
        if status or source is None:
            return (status or CUresult.CUDA_ERROR_INVALID_VALUE,)
        return (self.enqueue(hStream, lambda: _move(int(dstHost), source)),)

    def cuMemcpyDtoDAsync(
        self, dstDevice: int, srcDevice: int, ByteCount: int, hStream: int
    ) -> tuple[Any, ...]:
        status = self._begin("cuMemcpyDtoDAsync")
        target, source = (self._find(p, ByteCount, self._memory) for p in (dstDevice, srcDevice))
        if status or target is None or source is None:
            return (status or CUresult.CUDA_ERROR_INVALID_VALUE,)
        return (self.enqueue(hStream, lambda: np.copyto(target, source)),)

    def cuMemsetD8Async(self, dstDevice: int, uc: int, N: int, hStream: int) -> tuple[Any, ...]:
        status = self._begin("cuMemsetD8Async")
        target = self._find(dstDevice, N, self._memory)
        if status or target is None:
            return (status or CUresult.CUDA_ERROR_INVALID_VALUE,)
        return (self.enqueue(hStream, lambda: target.fill(uc)),)

    def cuStreamCreate(self, Flags: int) -> tuple[Any, ...]:
        status = self._begin("cuStreamCreate")
        if status:
            return status, None
        self._next += 8
        self._streams[self._next] = Stream(context=self._thread.context)
        return OK, self._next

    def cuStreamDestroy(self, hStream: int) -> tuple[Any, ...]:
        status = self._begin("cuStreamDestroy")
        stream = self._streams.pop(int(hStream), None)
        if status or stream is None:
            return (status or CUresult.CUDA_ERROR_INVALID_HANDLE,)
        self._run(stream)
        return (OK,)

    def cuStreamSynchronize(self, hStream: int) -> tuple[Any, ...]:
        with self._lock:
            status = self._begin("cuStreamSynchronize")
            stream = self._streams.get(int(hStream))
            if status or stream is None:
                return (status or CUresult.CUDA_ERROR_INVALID_HANDLE,)
            if stream.capture is not None:
                stream.broken = True
                return (CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
            self._run(stream)
            return (OK,)

    def cuStreamWaitEvent(self, hStream: int, hEvent: int, Flags: int) -> tuple[Any, ...]:
        status = self._begin("cuStreamWaitEvent")
        stream, event = self._streams.get(int(hStream)), self._events.get(int(hEvent))
        if status or stream is None or event is None:
            return (status or CUresult.CUDA_ERROR_INVALID_HANDLE,)
        if stream.capture is not None:  # a graph cannot depend on work outside it
            stream.broken = True
            return (CUresult.CUDA_ERROR_STREAM_CAPTURE_ISOLATION,)
        source, mark = event.stream, event.mark
        if source is not None:
            stream.waiting.append(lambda: self._run(source, mark))
        return (OK,)

    def cuStreamIsCapturing(self, hStream: int) -> tuple[Any, ...]:
        status = self._begin("cuStreamIsCapturing")
        stream = self._streams.get(int(hStream))
        if status or stream is None:
            return status or CUresult.CUDA_ERROR_INVALID_HANDLE, None
        return OK, CUstreamCaptureStatus(0 if stream.capture is None else 1 + stream.broken)

    def cuStreamBeginCapture(self, hStream: int, mode: Any) -> tuple[Any, ...]:
        status = self._begin("cuStreamBeginCapture")
        stream = self._streams.get(int(hStream))
        if status or stream is None or int(hStream) == 0 or stream.capture is not None:
            return (status or CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        stream.capture, stream.broken, stream.thread = [], False, threading.get_ident()
        return (OK,)

    def cuStreamEndCapture(self, hStream: int) -> tuple[Any, ...]:
        status = self._begin("cuStreamEndCapture")
        stream = self._streams.get(int(hStream))
        if stream is None or stream.capture is None:
            return CUresult.CUDA_ERROR_INVALID_VALUE, None
        work, stream.capture = stream.capture, None
        if status or stream.broken:
            return status or CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
        return OK, self._new(work)

    def cuGraphInstantiate(self, hGraph: int, flags: int) -> tuple[Any, ...]:
        status = self._begin("cuGraphInstantiate")
        return (status, None) if status else (OK, self._new(list(self._objects[hGraph])))

    def cuGraphLaunch(self, hGraphExec: int, hStream: int) -> tuple[Any, ...]:
        status = self._begin("cuGraphLaunch")
        work = self._objects.get(hGraphExec)
        if status or work is None:
            return (status or CUresult.CUDA_ERROR_INVALID_VALUE,)
        return (self.enqueue(hStream, lambda: [piece() for piece in work] and None),)

    def cuGraphDestroy(self, hGraph: int) -> tuple[Any, ...]:
        return self._drop("cuGraphDestroy", hGraph)

    def cuGraphExecDestroy(self, hGraphExec: int) -> tuple[Any, ...]:
        return self._drop("cuGraphExecDestroy", hGraphExec)

    def _drop(self, function: str, handle: int) -> tuple[Any, ...]:
        status = self._begin(function)
        known = self._objects.pop(int(handle), None) is not None
        return (status or (OK if known else CUresult.CUDA_ERROR_INVALID_VALUE),)

    def cuEventCreate(self, Flags: int) -> tuple[Any, ...]:
        status = self._begin("cuEventCreate")
        if status:
            return status, None
        self._next += 8
        self._events[self._next] = Event(timing=not Flags & 2)
        return OK, self._next

    def cuEventDestroy(self, hEvent: int) -> tuple[Any, ...]:
        status = self._begin("cuEventDestroy")
        known = self._events.pop(int(hEvent), None) is not None
        return (status or (OK if known else CUresult.CUDA_ERROR_INVALID_HANDLE),)

    def cuEventRecord(self, hEvent: int, hStream: int) -> tuple[Any, ...]:
        status = self._begin("cuEventRecord")
        event, stream = self._events.get(int(hEvent)), self._streams.get(int(hStream))
        if status or event is None or stream is None:
            return (status or CUresult.CUDA_ERROR_INVALID_HANDLE,)

        def mark() -> None:
            event.reached_at = time.perf_counter()

        event.stream, event.mark = stream, mark
        return (self.enqueue(hStream, mark),)

    def cuEventSynchronize(self, hEvent: int) -> tuple[Any, ...]:
        with self._lock:
            status = self._begin("cuEventSynchronize")
            event = self._events.get(int(hEvent))
            if status or event is None:
                return (status or CUresult.CUDA_ERROR_INVALID_HANDLE,)
            if event.stream is not None:
                self._run(event.stream, event.mark)
            return (OK,)

    def cuEventQuery(self, hEvent: int) -> tuple[Any, ...]:
        with self._lock:
            status = self._begin("cuEventQuery")
            event = self._events.get(int(hEvent))
            if status or event is None:
                return (status or CUresult.CUDA_ERROR_INVALID_HANDLE,)
            if event.stream is not None and event.pending:
                event.stream.waiting.popleft()()
                return (CUresult.CUDA_ERROR_NOT_READY,)
            return (OK,)

    def cuEventElapsedTime(self, hStart: int, hEnd: int) -> tuple[Any, ...]:
        status = self._begin("cuEventElapsedTime")
        start, end = self._events[int(hStart)], self._events[int(hEnd)]
        if status or not (start.timing and end.timing):
            return status or CUresult.CUDA_ERROR_INVALID_HANDLE, None
        if start.pending or end.pending:
            return CUresult.CUDA_ERROR_NOT_READY, None
        return OK, (end.reached_at - start.reached_at) * 1e3

    def cuModuleLoadData(self, image: bytes) -> tuple[Any, ...]:
        status = self._begin("cuModuleLoadData", recordable=False)
        if status or not image:
            return status or CUresult.CUDA_ERROR_INVALID_IMAGE, None
        return OK, self._new(bytes(image))

    def cuModuleUnload(self, hmod: int) -> tuple[Any, ...]:
        return self._drop("cuModuleUnload", hmod)

    def cuModuleGetFunction(self, hmod: int, name: bytes) -> tuple[Any, ...]:
        status = self._begin("cuModuleGetFunction", recordable=False)
        entry = name.decode()
        known = entry in self.kernels or any(entry in entries for entries in ENTRIES.values())
        if status or hmod not in self._objects or not known:
            return status or CUresult.CUDA_ERROR_NOT_FOUND, None
        return OK, self._new(entry)

    def cuFuncGetAttribute(self, attrib: Any, hfunc: int) -> tuple[Any, ...]:
        status = self._begin("cuFuncGetAttribute", recordable=False)
        if status or not isinstance(self._objects.get(hfunc), str):
            return status or CUresult.CUDA_ERROR_INVALID_HANDLE, None
        if attrib == CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
            self._loaded.add(hfunc)  # others are answered from the module
        return OK, 32

    def cuLaunchKernel(
        self,
        f: int,
        gridDimX: int,
        gridDimY: int,
        gridDimZ: int,
        blockDimX: int,
        blockDimY: int,
        blockDimZ: int,
        sharedMemBytes: int,
        hStream: int,
        kernelParams: Any,
        extra: Any,
    ) -> tuple[Any, ...]:
        status = self._begin("cuLaunchKernel")
        grid, block = (gridDimX, gridDimY, gridDimZ), (blockDimX, blockDimY, blockDimZ)
        fits = all(1 <= g <= m for g, m in zip(grid, (2**31 - 1, 65535, 65535), strict=True))
        if status or not fits or not 1 <= blockDimX * blockDimY * blockDimZ <= 1024:
            return (status or CUresult.CUDA_ERROR_INVALID_VALUE,)
        stream = self._streams.get(int(hStream))
        if stream is not None and stream.context not in (0, self._thread.context):
            return (CUresult.CUDA_ERROR_INVALID_HANDLE,)
        if stream is not None and stream.capture is not None and int(f) not in self._loaded:
            stream.broken = True
            return (CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        self._loaded.add(int(f))
        values, types = kernelParams
        entry = self._objects[int(f)]
        self.launches.append(Launch(entry, grid, block, int(hStream), tuple(values), tuple(types)))
        function = self.kernels.get(entry)
        assert function is not None, f"FakeCuda was given no stand-in for {entry}"
        return (self.enqueue(hStream, lambda: function(grid, block, *values)),)


def _move(pointer: int, source: NDArray[np.uint8]) -> None:
    ctypes.memmove(pointer, source.ctypes.data, len(source))

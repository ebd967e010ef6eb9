# SPDX-License-Identifier: Apache-2.0
"""GPU memory in which the outputs of an engine stay until they are read.

The outputs of each call are copied into their own slot, so that a later call changes no earlier result. A
slot returns to the pool when everything in it has been read, or is no longer referenced. The pool grows on
demand to MAX_SLOTS; then the oldest outputs are moved to host memory. None are lost.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Condition, RLock
from typing import Generic, Protocol, TypeVar
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest, TensorSpec
from imp_trt.backends.decoding import DETECTION_NAMES, HostOutputs
from imp_trt.cuda import driver
from imp_trt.cuda.driver import Device, DeviceBuffer, Event, PinnedBuffer, Stream
from imp_trt.preprocessing.letterbox import LetterboxTransform

MAX_SLOTS = 16
"""Maximum number of network calls whose outputs stay on the GPU unread, per Segmenter."""

_CLOSE_TIMEOUT_S = 5.0
_ALIGNMENT = 256  # that of cuMemAlloc; enough for TensorRT and for vectorized stores

InvertMask = Callable[[LetterboxTransform, int, int], None]
"""Called with a transform and the device addresses of class map and output; enqueues the resize."""


class OutputLayout:
    """Offsets of the outputs of one call in one block of memory; the detections come first, contiguous.

    Attributes:
        offsets: output name -> bytes from the start.
        detections: bytes from the start that hold everything but the class maps.
        nbytes: size of the block.
        map_shape: (H, W) of one class map.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._specs = {spec.name: spec for spec in manifest.outputs}
        self.offsets: dict[str, int] = {}
        end = 0
        for name in (*DETECTION_NAMES, "semantic"):
            self.offsets[name] = end
            # TensorRT requires a distinct address for every tensor, also for empty ones (no detector).
            end += -(-max(1, tensor_bytes(self._specs[name])) // _ALIGNMENT) * _ALIGNMENT
        self.nbytes = end
        self.detections = self.offsets["semantic"]
        _, height, width = self._specs["semantic"].shape
        self.map_shape = (height, width)

    def views(self, memory: NDArray[np.uint8], names: tuple[str, ...] = DETECTION_NAMES) -> HostOutputs:
        """The tensors in a copy of the memory, as views of it."""
        arrays: HostOutputs = {}
        for name in names:
            spec, begin = self._specs[name], self.offsets[name]
            arrays[name] = memory[begin : begin + tensor_bytes(spec)].view(spec.dtype).reshape(spec.shape)
        return arrays


class Slot:
    """Memory for the outputs of one call, and the events in the stream around it.

    Attributes:
        frames: owners of device frames that the GPU may still have to read.
    """

    def __init__(self, nbytes: int) -> None:
        self.frames: list[object] = []
        with ExitStack() as stack:
            self.buffer = closed_by(stack, DeviceBuffer(nbytes))
            self.started = closed_by(stack, Event(timing=True))
            self.uploaded = closed_by(stack, Event(timing=True))
            self.done = closed_by(stack, Event(timing=True))
            self._closer = stack.pop_all()

    def close(self) -> None:
        self._closer.close()


class MovableOutputs(Protocol):
    """Outputs in a slot that can be moved to the host."""

    def move(self) -> None:
        """Move them to host memory and release the slot."""
        ...


class SlotPool:
    """Slots and the means to read them. Downloads have their own stream, so that they wait for no later call.

    Outputs may be read in any thread. Returning a slot takes no lock and makes no CUDA call, because it also
    happens during garbage collection.

    Args:
        device: the GPU.
        manifest: of the network.
        current: context manager that makes the device's context current in the calling thread.

    Attributes:
        lock: held while the download buffers are in use.
        stream: of the downloads.
        pid: the process that owns the GPU memory.
        invert_mask: resizes class maps on the GPU; set on the first device frame.
    """

    def __init__(
        self, device: Device, manifest: Manifest, current: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.layout = OutputLayout(manifest)
        self.current = current
        self.lock = RLock()
        self.pid = os.getpid()
        self.invert_mask: InvertMask | None = None
        self._free: deque[Slot] = deque()
        self._slots: list[Slot] = []
        self._waiting: OrderedDict[int, ref[MovableOutputs]] = OrderedDict()
        self._watched = Condition()
        self._watchers = 0
        with ExitStack() as stack:
            self.stream = closed_by(stack, Stream(device))
            self._pinned = closed_by(stack, _GrowingBuffer(PinnedBuffer))
            self._resized = closed_by(stack, _GrowingBuffer(DeviceBuffer))
            stack.callback(self._close_slots)
            self._pinned.get(self.layout.nbytes)
            self._free.append(self._new_slot())
            self._closer = stack.pop_all()

    def take(self) -> Slot:
        """A free slot; moves the oldest outputs to the host if there is none."""
        with self.lock:
            for slot in self._slots:
                if slot.frames and slot.uploaded.query():
                    slot.frames.clear()
            while not self._free:
                if len(self._slots) < MAX_SLOTS:
                    return self._new_slot()
                self._move_oldest()
            slot = self._free.popleft()
            if slot.frames:
                # The outputs of that call were dropped: the GPU may still have to read its frames.
                slot.uploaded.synchronize()
                slot.frames.clear()
            return slot

    def register(self, slot: Slot, outputs: MovableOutputs) -> None:
        """Note that these outputs are in the slot."""
        with self.lock:
            self._waiting[id(slot)] = ref(outputs)
            self._waiting.move_to_end(id(slot))

    def give_back(self, slot: Slot) -> None:
        """Return a slot whose content is no longer needed."""
        self._free.append(slot)

    def release(self, slot: Slot) -> None:
        """Return a slot whose content is on the host. Hold the lock."""
        self._waiting.pop(id(slot), None)
        self.give_back(slot)

    def move_all(self) -> None:
        """Move all unread outputs that are still referenced to the host, before the GPU memory is freed."""
        with self.lock:
            for waiting in list(self._waiting.values()):
                outputs = waiting()
                if outputs is not None:
                    outputs.move()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Context in which no event of the pool is destroyed; for waits without the lock."""
        with self._watched:
            self._watchers += 1
        try:
            yield
        finally:
            with self._watched:
                self._watchers -= 1
                self._watched.notify_all()

    def download(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Bytes of GPU memory as a view of pinned memory, valid until the next call. Hold the lock."""
        pinned = self._pinned.get(nbytes)
        driver.copy_out(pinned.pointer, address, nbytes, self.stream.handle)
        self.stream.synchronize()
        view: NDArray[np.uint8] = pinned.array[:nbytes]
        return view

    def download_resized(
        self, address: int, transform: LetterboxTransform, invert_mask: InvertMask
    ) -> NDArray[np.uint8]:
        """A class map, resized to the frame's size by the GPU, as such a view. Hold the lock."""
        nbytes = transform.frame[0] * transform.frame[1]
        resized = self._resized.get(nbytes)
        invert_mask(transform, address, resized.pointer)
        return self.download(resized.pointer, nbytes).reshape(transform.frame)

    def close(self) -> None:
        """Free the GPU memory; idempotent. The GPU must be done, so that all waiting threads return."""
        with self._watched:
            self._watched.wait_for(lambda: self._watchers == 0, _CLOSE_TIMEOUT_S)
        self._closer.close()

    def _new_slot(self) -> Slot:
        slot = Slot(self.layout.nbytes)
        self._slots.append(slot)
        return slot

    def _move_oldest(self) -> None:
        _, waiting = self._waiting.popitem(last=False)
        outputs = waiting()
        if outputs is not None:
            outputs.move()

    def _close_slots(self) -> None:
        self._free.clear()
        while self._slots:
            self._slots.pop().close()


class _Buffer(Protocol):
    nbytes: int

    def close(self) -> None: ...


_B = TypeVar("_B", bound=_Buffer)


class _GrowingBuffer(Generic[_B]):
    """A buffer that is allocated again when a larger one is needed."""

    def __init__(self, make: Callable[[int], _B]) -> None:
        self._make = make
        self._buffer: _B | None = None

    def get(self, nbytes: int) -> _B:
        """A buffer of at least nbytes; its content is undefined."""
        if self._buffer is None or self._buffer.nbytes < nbytes:
            larger = self._make(nbytes)
            self.close()
            self._buffer = larger
        return self._buffer

    def close(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer.close()


def tensor_bytes(spec: TensorSpec) -> int:
    """Size of a tensor in bytes."""
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


class _Closable(Protocol):
    def close(self) -> None: ...


_C = TypeVar("_C", bound=_Closable)


def closed_by(stack: ExitStack, resource: _C) -> _C:
    """The resource, which the stack will close."""
    stack.callback(resource.close)
    return resource

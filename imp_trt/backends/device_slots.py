"""Room on the GPU where the outputs of an engine wait until they are read.

Each call's outputs are copied into a slot of their own, so that a later call changes no earlier result. A
slot goes back to the pool when everything in it has been read, or nobody can read it any more. The pool grows
on demand to MAX_SLOTS; then the outputs that have waited longest are moved to host memory. None are lost.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Condition, RLock
from typing import Any, Protocol
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest, TensorSpec
from imp_trt.backends.decoding import DETECTION_NAMES
from imp_trt.cuda import driver
from imp_trt.cuda.driver import Device, DeviceBuffer, Event, PinnedBuffer, Stream
from imp_trt.preprocessing.letterbox import Fit

MAX_SLOTS = 16
"""Unread network calls that may wait on the GPU at a time, per Segmenter."""

_PATIENCE_S = 5.0
_ALIGNMENT = 256  # what cuMemAlloc gives, and all that TensorRT or a vectorized store may want

SemanticBack = Callable[[Fit, int, int], None]
"""(fit, device address of a class map, device address of the answer): enqueues the resize on pool.stream."""


class Layout:
    """Where each output of one call lies in one piece of memory; all but the class maps are neighbors.

    Attributes:
        offsets: output name -> bytes from the beginning.
        detections: bytes from the beginning that hold all but the class maps.
        nbytes: of the whole.
        map_shape: (H, W) of one class map.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._specs = {spec.name: spec for spec in manifest.outputs}
        self.offsets: dict[str, int] = {}
        end = 0
        for name in (*DETECTION_NAMES, "semantic"):
            self.offsets[name] = end
            # TensorRT wants an address of its own for every tensor, those without a value (no detector) too.
            end += -(-max(1, tensor_bytes(self._specs[name])) // _ALIGNMENT) * _ALIGNMENT
        self.nbytes = end
        self.detections = self.offsets["semantic"]
        _, height, width = self._specs["semantic"].shape
        self.map_shape = (height, width)

    def views(
        self, memory: NDArray[np.uint8], names: tuple[str, ...] = DETECTION_NAMES
    ) -> dict[str, NDArray[Any]]:
        """The tensors in a copy of the memory, as views of it."""
        found = {}
        for name in names:
            spec, begin = self._specs[name], self.offsets[name]
            found[name] = memory[begin : begin + tensor_bytes(spec)].view(spec.dtype).reshape(spec.shape)
        return found


class Slot:
    """Room for the outputs of one call, and the marks in the stream around it.

    Attributes:
        frames: owners of device frames that the GPU may still have to read.
    """

    def __init__(self, nbytes: int) -> None:
        self.frames: list[object] = []
        with ExitStack() as stack:
            self.buffer = closing(stack, DeviceBuffer(nbytes))
            self.started = closing(stack, Event(timing=True))
            self.uploaded = closing(stack, Event(timing=True))
            self.done = closing(stack, Event(timing=True))
            self._closer = stack.pop_all()

    def close(self) -> None:
        self._closer.close()


class Movable(Protocol):
    """Outputs in a slot."""

    def move(self) -> None:
        """Take them to host memory and release the slot."""
        ...


class SlotPool:
    """Slots, and what it takes to read them: a stream of its own, so that reading waits for no later call.

    Outputs may be read in any thread. Giving a slot back takes no lock and calls no CUDA, because that also
    happens while objects are collected.

    Args:
        current: makes the device's context current in this thread, and after it the earlier one.

    Attributes:
        lock: held while the download buffers are in use.
        stream: downloads run here.
        pid: the process whose GPU memory this is.
        semantic_back: resizes class maps on the GPU; set when the first device frame has come.
    """

    def __init__(
        self, device: Device, manifest: Manifest, current: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.layout = Layout(manifest)
        self.current = current
        self.lock = RLock()
        self.pid = os.getpid()
        self.semantic_back: SemanticBack | None = None
        self._free: deque[Slot] = deque()
        self._slots: list[Slot] = []
        self._waiting: OrderedDict[int, ref[Movable]] = OrderedDict()
        self._watched = Condition()
        self._watchers = 0
        with ExitStack() as stack:
            self.stream = closing(stack, Stream(device))
            self._pinned = closing(stack, _Growing(PinnedBuffer))
            self._fitted = closing(stack, _Growing(DeviceBuffer))
            stack.callback(self._close_slots)
            self._pinned.get(self.layout.nbytes)
            self._free.append(self._new_slot())
            self._closer = stack.pop_all()

    def take(self) -> Slot:
        """A slot that nobody uses; moves the oldest outputs to the host if there is none left."""
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
                # Nobody kept the outputs of that call: the GPU may still have to read its frames.
                slot.uploaded.synchronize()
                slot.frames.clear()
            return slot

    def register(self, slot: Slot, outputs: Movable) -> None:
        """These outputs wait in the slot."""
        with self.lock:
            self._waiting[id(slot)] = ref(outputs)
            self._waiting.move_to_end(id(slot))

    def give_back(self, slot: Slot) -> None:
        """Nobody needs what is in the slot."""
        self._free.append(slot)

    def release(self, slot: Slot) -> None:
        """Everything in the slot has come to the host. Hold the lock."""
        self._waiting.pop(id(slot), None)
        self.give_back(slot)

    def move_all(self) -> None:
        """Move all unread outputs that somebody can still read to the host, before the GPU is let go."""
        with self.lock:
            for waiting in list(self._waiting.values()):
                outputs = waiting()
                if outputs is not None:
                    outputs.move()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, no event of the pool is destroyed. For waits without the lock."""
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

    def download_fitted(self, address: int, fit: Fit, back: SemanticBack) -> NDArray[np.uint8]:
        """A class map brought to the frame's size by the GPU, as such a view. Hold the lock."""
        nbytes = fit.frame[0] * fit.frame[1]
        fitted = self._fitted.get(nbytes)
        back(fit, address, fitted.pointer)
        return self.download(fitted.pointer, nbytes).reshape(fit.frame)

    def close(self) -> None:
        """Give the GPU's memory back; idempotent. The GPU is done, so that whoever waits for it returns."""
        with self._watched:
            self._watched.wait_for(lambda: self._watchers == 0, _PATIENCE_S)
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


class _Growing:
    """A buffer that is made anew when more is asked for than it holds."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make
        self._buffer: Any = None

    def get(self, nbytes: int) -> Any:
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
    """Size of a tensor."""
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def closing(stack: ExitStack, thing: Any) -> Any:
    """The thing, closed when the stack is."""
    stack.callback(thing.close)
    return thing

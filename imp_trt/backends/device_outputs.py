# SPDX-License-Identifier: Apache-2.0
"""The outputs of one call of an engine: on the GPU until they are read."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.backends.decoding import HostOutputs, decode_instances
from imp_trt.backends.device_slots import Slot, SlotPool
from imp_trt.errors import DependencyMissing, ImpTrtError, InvalidInput
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.results.instances import Instances

_log = logging.getLogger(__name__)
_POLL_S = 50e-6


class DeviceOutputs:
    """The outputs of one call, in their slot. Each part may be read in any thread.

    Args:
        pool: the pool of the slot.
        slot: its events are recorded, the copy of the outputs into it is enqueued.
        count: frames in the batch, padding excluded.
        filled_at: time.perf_counter() when the host's part of the call was done.
    """

    def __init__(self, pool: SlotPool, slot: Slot, count: int, filled_at: float) -> None:
        self.filled_at = filled_at
        self._pool = pool
        self._slot: Slot | None = slot
        self._unread = set(range(count))  # class maps
        self._moved: NDArray[np.uint8] | None = None  # class maps on the host, [B, H, W]
        self._detections: HostOutputs | None = None
        self._gpu_ms: tuple[float, float] | None = None
        self._error: ImpTrtError | None = None
        pool.register(slot, self)

    def __del__(self) -> None:
        # Cleared first: another thread can reach these outputs through the pool until they are collected.
        slot, self._slot = getattr(self, "_slot", None), None
        if slot is not None:
            self._pool.give_back(slot)

    def done(self) -> bool:
        """Whether the GPU is done."""
        with self._on_gpu(wait=False) as slot:
            return slot is None or slot.done.query()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the GPU is done.

        Args:
            timeout: seconds; None waits without limit.

        Raises:
            TimeoutError: it is not done in time.
            DeviceError: the GPU failed.
        """
        if timeout is not None:
            self._poll(timeout)
        if self._slot is None:
            return
        self._check_process()
        # Without the lock: a wait in one thread must not keep others from reading what is ready.
        with self._pool.watching():
            slot = self._slot
            if slot is None:  # moved in the meantime
                return
            with self._pool.current():
                slot.done.synchronize()
        if slot.frames:
            with self._pool.lock:
                if self._slot is slot:  # else the frames are those of a later call
                    slot.frames.clear()

    def gpu_ms(self) -> tuple[float, float]:
        """Milliseconds of the upload and of the network, measured by the GPU; waits for it.

        Zeros if the driver lacks the function that measures them.
        """
        if self._gpu_ms is None:
            with self._on_gpu() as slot:
                self._measure(slot)
        return self._gpu_ms or (0.0, 0.0)

    def semantic(
        self, i: int, transform: LetterboxTransform, on_gpu: bool, timing: dict[str, float]
    ) -> NDArray[np.uint8]:
        """Class map [h, w] of frame i in that frame's pixels, an array of its own.

        Args:
            i: index in the batch.
            transform: of frame i.
            on_gpu: resize on the GPU; the result is the same.
            timing: its "download" and "post" grow by the milliseconds that this takes.
        """
        with self._on_gpu() as slot:
            start = perf_counter()
            if slot is None:
                raw, on_gpu = self._moved_map(i), False
            else:
                raw, on_gpu = self._download_map(slot, i, transform, on_gpu)
            raw = raw.copy()  # the pinned memory will be reused
            downloaded = perf_counter()
            self._unread.discard(i)
            self._release_if_read()
        # Without the lock: while one thread resizes, another can start the next frame.
        resized = raw if on_gpu else transform.invert_mask(raw)
        _add(timing, downloaded - start, perf_counter() - downloaded)
        return resized

    def detections(self, timing: dict[str, float]) -> HostOutputs:
        """The outputs other than the class maps, [B, ...] each, downloaded once for all frames."""
        with self._on_gpu() as slot:
            if self._detections is None:
                if slot is None:
                    raise self._missing_part()
                start = perf_counter()
                memory = self._pool.download(slot.buffer.pointer, self._pool.layout.detections)
                self._detections = self._pool.layout.views(memory.copy())
                _add(timing, perf_counter() - start, 0.0)
                self._release_if_read()
            return self._detections

    def move(self) -> None:
        """Move everything to host memory and release the slot.

        If the GPU has failed, its error is kept, and raised when something is read.
        """
        try:
            with self._on_gpu() as slot:
                if slot is None:
                    return
                self._measure(slot)
                layout = self._pool.layout
                memory = self._pool.download(slot.buffer.pointer, layout.nbytes).copy()
                self._moved = layout.views(memory, ("semantic",))["semantic"]
                self._detections = layout.views(memory)
        except ImpTrtError as error:
            self._error = error
        self._release()

    def _poll(self, timeout: float) -> None:
        deadline = perf_counter() + timeout
        while not self.done():
            if perf_counter() >= deadline:
                raise TimeoutError(f"no result after {timeout} s")
            time.sleep(_POLL_S)

    def _download_map(
        self, slot: Slot, i: int, transform: LetterboxTransform, on_gpu: bool
    ) -> tuple[NDArray[np.uint8], bool]:
        """A class map in pinned memory, and whether it has the frame's size."""
        height, width = self._pool.layout.map_shape
        address = slot.buffer.pointer + self._pool.layout.offsets["semantic"] + i * height * width
        invert_mask = self._pool.invert_mask
        if on_gpu and invert_mask is not None and transform.frame != transform.network:
            return self._pool.download_resized(address, transform, invert_mask), True
        return self._pool.download(address, height * width).reshape(height, width), False

    def _moved_map(self, i: int) -> NDArray[np.uint8]:
        if self._moved is None:
            raise self._missing_part()
        return np.asarray(self._moved[i], np.uint8)

    def _missing_part(self) -> ImpTrtError:
        return self._error or InvalidInput("result", got="a part that was read and released")

    def _measure(self, slot: Slot | None) -> None:
        if self._gpu_ms is None and slot is not None:
            try:
                upload = slot.uploaded.elapsed_ms(slot.started)
                self._gpu_ms = (upload, slot.done.elapsed_ms(slot.uploaded))
            except DependencyMissing as error:  # the result is valid without its timing
                _log.debug("the GPU's times are unknown: %s", error)
                self._gpu_ms = (0.0, 0.0)

    def _release_if_read(self) -> None:
        if not self._unread and self._detections is not None and self._slot is not None:
            self._measure(self._slot)
            self._release()

    def _release(self) -> None:
        with self._pool.lock:
            slot, self._slot = self._slot, None
            if slot is not None:
                self._pool.release(slot)

    def _check_process(self) -> None:
        if os.getpid() != self._pool.pid:
            raise InvalidInput(
                "result on the GPU, read in a forked process",
                fix="read result.semantic and result.instances before the fork, or pickle the result",
            )

    @contextmanager
    def _on_gpu(self, wait: bool = True) -> Iterator[Slot | None]:
        """The slot, after its work is done, with lock and context held; None if everything is on the host."""
        if self._slot is None:
            yield None
            return
        self._check_process()
        with self._pool.current():
            if wait:
                self.wait()
            with self._pool.lock:
                yield self._slot


class DeviceLazyOutputs:
    """The outputs for one frame. See :class:`imp_trt.results.result.LazyOutputs`.

    Args:
        outputs: of the call.
        i: index of the frame in the batch.
        transform: of the frame.
        manifest: of the network.
        timing: the result's; grows as parts are read.
        on_gpu: the frame was on the GPU, so its class map is resized there.
        keep_open: kept alive until everything has been read.
        min_score: instances with a lower score are left out.
    """

    def __init__(
        self,
        outputs: DeviceOutputs,
        i: int,
        transform: LetterboxTransform,
        manifest: Manifest,
        timing: dict[str, float],
        on_gpu: bool,
        keep_open: object,
        min_score: float = 0.0,
    ) -> None:
        self.size = transform.frame
        self._source: tuple[DeviceOutputs, object] | None = (outputs, keep_open)
        self._i = i
        self._transform = transform
        self._manifest = manifest
        self._timing = timing
        self._on_gpu = on_gpu
        self._min_score = min_score
        self._lock = Lock()
        self._semantic: NDArray[np.uint8] | None = None
        self._instances: Instances | None = None

    def semantic(self) -> NDArray[np.uint8]:
        """See :meth:`imp_trt.results.result.LazyOutputs.semantic`."""
        with self._lock:
            semantic = self._semantic
            if semantic is None:
                semantic = self._outputs().semantic(self._i, self._transform, self._on_gpu, self._timing)
                self._semantic = semantic
                self._release()
            return semantic

    def instances(self) -> Instances:
        """See :meth:`imp_trt.results.result.LazyOutputs.instances`."""
        with self._lock:
            instances = self._instances
            if instances is None:
                arrays = self._outputs().detections(self._timing)
                start = perf_counter()
                instances = decode_instances(
                    arrays, self._i, self._transform, self._manifest, self._min_score
                )
                _add(self._timing, 0.0, perf_counter() - start)
                self._instances = instances
                self._release()
            return instances

    def _outputs(self) -> DeviceOutputs:
        if self._source is None:
            raise InvalidInput("result", got="nothing on the GPU")
        return self._source[0]

    def _release(self) -> None:
        """Drop the references to outputs and engine once both parts are on the host."""
        if self._semantic is not None and self._instances is not None:
            self._source = None


def _add(timing: dict[str, float], download_s: float, post_s: float) -> None:
    for name, seconds in (("download", download_s), ("post", post_s)):
        timing[name] = timing.get(name, 0.0) + seconds * 1e3

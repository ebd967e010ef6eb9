# SPDX-License-Identifier: Apache-2.0
"""An engine that takes and returns named arrays, in host memory or on the GPU.

Inputs lie in one block of device memory, outputs in another, at addresses that never change: the network is
replayed as one CUDA graph. Arrays of the host go through pinned memory, all in one copy.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from weakref import WeakSet, finalize

import numpy as np

from imp_trt.artifacts.artifact import NetworkArtifact
from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.artifacts.network_manifest import NetworkManifest, spec_bytes
from imp_trt.artifacts.reading import read_network
from imp_trt.backends.device_array import DeviceArray
from imp_trt.backends.device_slots import closed_by
from imp_trt.backends.engine_core import EngineCore
from imp_trt.backends.network_calls import HostArray
from imp_trt.cuda import driver
from imp_trt.cuda.driver import DeviceBuffer, Event, PinnedBuffer
from imp_trt.data.native_calls import CallLock
from imp_trt.errors import ImpTrtError, InvalidInput
from imp_trt.preprocessing.device_arrays import DeviceView, device_view

_ALIGNMENT = 256  # that of cuMemAlloc
_LEGACY_STREAM = 1


class _Block:
    """Offsets of tensors in one block of memory.

    Attributes:
        offsets: name -> bytes from the start.
        nbytes: size of the block.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.offsets: dict[str, int] = {}
        end = 0
        for spec in specs:
            self.offsets[spec.name] = end
            # TensorRT requires an address of its own for every tensor, also for empty ones.
            end += -(-max(1, spec_bytes(spec)) // _ALIGNMENT) * _ALIGNMENT
        self.nbytes = end

    def views(self, memory: HostArray) -> dict[str, HostArray]:
        """The tensors in the host's copy of the block, as views of it."""
        found: dict[str, HostArray] = {}
        for name, spec in self.specs.items():
            begin = self.offsets[name]
            part = memory[begin : begin + spec_bytes(spec)]
            found[name] = part.view(spec.dtype).reshape(spec.shape)
        return found


class EngineArrays(EngineCore):
    """An engine of named arrays. See :class:`imp_trt.backends.network_calls.NetworkBackend`.

    Attributes:
        manifest: the network's inputs and outputs.
    """

    manifest: NetworkManifest
    opened_as = "Engine"

    def run(self, inputs: Mapping[str, object]) -> dict[str, HostArray]:
        """See :meth:`imp_trt.backends.network_calls.NetworkBackend.run`."""
        with self._current():
            self._start(inputs)
            stream = self._stream.handle
            driver.copy_out(self._read_back.pointer, self._results.pointer, self._outputs.nbytes, stream)
            self._stream.synchronize()
            self._in_use.clear()
            copied = self._read_back.array[: self._outputs.nbytes].copy()
        return self._outputs.views(copied)

    def run_on_device(self, inputs: Mapping[str, object]) -> dict[str, DeviceArray]:
        """See :meth:`imp_trt.backends.network_calls.DeviceNetworkBackend.run_on_device`."""
        with self._current():
            self._start(inputs)
            buffer = self._free_buffer()
            driver.copy_on_device(
                buffer.pointer, self._results.pointer, self._outputs.nbytes, self._stream.handle
            )
        lease = _Lease()
        # Takes no lock and calls no CUDA: it also happens during garbage collection.
        finalize(lease, self._free.append, buffer)
        arrays = {
            name: DeviceArray(
                spec, buffer.pointer + self._outputs.offsets[name], self._stream.handle, lease, self._download
            )
            for name, spec in self._outputs.specs.items()
        }
        self._handed_out.update(arrays.values())
        return arrays

    def close(self) -> None:
        """See :meth:`EngineCore.close`; waits for a download of another thread."""
        with self._downloading:
            super().close()

    def _start(self, inputs: Mapping[str, object]) -> None:
        """Copy the inputs, which have been checked if they are in host memory, and run the network."""
        self.check_caller()
        self._copied.synchronize()  # the pinned memory and the arrays of the last call are free
        self._in_use.clear()
        try:
            on_gpu = self._fill(inputs)
            self._upload(on_gpu)
            self._copied.record(self._stream.handle)
            self._enqueue()
        except BaseException:
            with suppress(ImpTrtError):
                self._stream.synchronize()
            self._in_use.clear()
            raise

    def _fill(self, inputs: Mapping[str, object]) -> dict[str, DeviceView]:
        """Copy the host's arrays to pinned memory; the others are returned."""
        on_gpu: dict[str, DeviceView] = {}
        for name, spec in self._inputs.specs.items():
            value = inputs[name]
            if isinstance(value, np.ndarray):
                np.copyto(self._staged[name], value)
            else:
                on_gpu[name] = self._view(value, spec)
        self._in_use.extend(view.owner for view in on_gpu.values())
        return on_gpu

    def _view(self, value: object, spec: TensorSpec) -> DeviceView:
        def check(view: DeviceView) -> None:
            if (view.dtype, view.shape) != (spec.dtype, spec.shape):
                raise InvalidInput(
                    f"input {spec.name!r}", expected=spec, got=f"{view.dtype}{list(view.shape)} on the GPU"
                )
            if not view.in_c_order(np.dtype(spec.dtype).itemsize):
                raise InvalidInput(
                    f"input {spec.name!r}",
                    expected="an array in C order",
                    got=f"strides {view.strides} for shape {view.shape}",
                    fix="pass array.contiguous() (PyTorch) or cupy.ascontiguousarray(array)",
                )

        return device_view(
            value,
            self._device.index,
            self._stream.handle,
            self._wait_for,
            check,
            f"input {spec.name!r}",
            f"{spec} on the GPU",
        )

    def _upload(self, on_gpu: Mapping[str, DeviceView]) -> None:
        """One copy if all arrays are the host's, else one for each."""
        stream, block = self._stream.handle, self._feeds.pointer
        if not on_gpu:
            driver.copy_in(block, self._staging.pointer, self._inputs.nbytes, stream)
            return
        for name, offset in self._inputs.offsets.items():
            nbytes = spec_bytes(self._inputs.specs[name])
            if not nbytes:
                continue
            if name in on_gpu:
                driver.copy_on_device(block + offset, on_gpu[name].pointer, nbytes, stream)
            else:
                driver.copy_in(block + offset, self._staging.pointer + offset, nbytes, stream)

    def _free_buffer(self) -> DeviceBuffer:
        """Memory for the outputs of a call whose arrays stay on the GPU."""
        try:
            buffer = self._free.popleft()
        except IndexError:
            buffer = DeviceBuffer(self._outputs.nbytes)
            self._buffers.append(buffer)
            return buffer
        # Reads of the former arrays may be enqueued: wait for all streams that do not opt out of it.
        self._wait_for(_LEGACY_STREAM)
        return buffer

    def _download(self, array: DeviceArray) -> HostArray:
        """The array in host memory."""
        spec = array.spec
        with self._downloading:
            self.check_caller()
            with self._current():
                nbytes = spec_bytes(spec)
                if nbytes:
                    driver.copy_out(self._read_back.pointer, array.pointer, nbytes, self._stream.handle)
                    self._stream.synchronize()
                copied = self._read_back.array[:nbytes].copy()
        view: HostArray = copied.view(spec.dtype).reshape(spec.shape)
        return view

    # ---- see EngineCore ----

    def _read(self, path: str | os.PathLike[str]) -> NetworkArtifact:
        artifact = read_network(path)
        self.manifest = artifact.manifest
        return artifact

    def _allocate(self, stack: ExitStack) -> None:
        self._inputs, self._outputs = _Block(self.manifest.inputs), _Block(self.manifest.outputs)
        self._copied: Event = closed_by(stack, Event())
        self._feeds: DeviceBuffer = closed_by(stack, DeviceBuffer(self._inputs.nbytes))
        self._results: DeviceBuffer = closed_by(stack, DeviceBuffer(self._outputs.nbytes))
        self._staging: PinnedBuffer = closed_by(stack, PinnedBuffer(self._inputs.nbytes))
        self._read_back: PinnedBuffer = closed_by(stack, PinnedBuffer(self._outputs.nbytes))
        self._staged = self._inputs.views(self._staging.array)
        self._downloading = CallLock()
        self._in_use: list[object] = []
        self._free: deque[DeviceBuffer] = deque()
        self._buffers: list[DeviceBuffer] = []
        self._handed_out: WeakSet[DeviceArray] = WeakSet()
        stack.callback(_close_all, self._buffers)

    def _addresses(self) -> dict[str, int]:
        addresses = {name: self._feeds.pointer + begin for name, begin in self._inputs.offsets.items()}
        results = {name: self._results.pointer + begin for name, begin in self._outputs.offsets.items()}
        return addresses | results

    def _enqueue_blank(self) -> None:
        self._staging.array[...] = 0
        self._upload({})
        self._copied.record(self._stream.handle)

    def _before_close(self) -> None:
        for array in list(self._handed_out):
            array.invalidate()


class _Lease:
    """Kept by the arrays of one call; its memory is free when they are gone."""


def _close_all(buffers: list[DeviceBuffer]) -> None:
    while buffers:
        buffers.pop().close()

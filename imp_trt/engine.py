# SPDX-License-Identifier: Apache-2.0
"""Third-party networks: arrays in, arrays out, with the same runtimes as Segmenter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.artifacts.network_manifest import NetworkManifest
from imp_trt.backends.network_calls import DeviceNetworkBackend, NetworkBackend, checked_inputs
from imp_trt.backends.opening import NetworkBackendName, open_network
from imp_trt.data.native_calls import CallLock
from imp_trt.errors import InvalidInput
from imp_trt.preprocessing.array_input import ArrayInput

if TYPE_CHECKING:
    from imp_trt.backends.device_array import DeviceArray


class Engine:
    """A network that imp-export made from a third-party ONNX file.

    >>> with Engine("detector.fp16.tensorrt.engine") as engine:
    ...     outputs = engine.run({"images": images})

    Shapes and types are fixed, and nothing is resized or converted. An .onnx file runs in ONNX Runtime, an
    engine in TensorRT or TensorRT-RTX, replayed as one CUDA graph. On the CPU, calls of several threads run
    one after the other. An engine can be run only by the first thread that runs it, and closed by any.

    Args:
        path: an .onnx or .engine artifact of imp-export, with its manifest.
        backend: None chooses by the file.
        threads: CPU threads of the network; None leaves the choice to the backend. Not supported for engines.
        device: "cpu" or "cuda", "cuda:<index>". None: the CPU for .onnx files, the GPU for engines.
        graph: replay an engine as one CUDA graph if it can be captured; ignored for .onnx files.

    Raises:
        ArtifactError: a file is missing or damaged, or belongs to Segmenter.
        EngineIncompatible: the engine was built for another TensorRT, GPU or platform.
        DependencyMissing: the backend's package or device is missing.
        DeviceError: the GPU has too little memory, or failed.
        InvalidInput: an argument is invalid.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        backend: NetworkBackendName | None = None,
        threads: int | None = None,
        device: str | None = None,
        graph: bool = True,
    ) -> None:
        opened = open_network(path, backend, threads=threads, device=device, graph=graph)
        self._backend: NetworkBackend | None = opened
        self._manifest = opened.manifest
        self._on_gpu = isinstance(opened, DeviceNetworkBackend)
        self._lock = CallLock()

    @property
    def manifest(self) -> NetworkManifest:
        """Manifest of the artifact."""
        return self._manifest

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, type and shape of each input."""
        return self._manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, type and shape of each output."""
        return self._manifest.outputs

    def run(self, inputs: Mapping[str, ArrayInput]) -> dict[str, NDArray[Any]]:
        """Run the network once, and wait for it.

        Args:
            inputs: name -> array of exactly the type and shape in :attr:`inputs`; not changed. NumPy arrays
                and CPU tensors; for an engine also arrays on its GPU in C order (PyTorch, CuPy and others, by
                DLPack or __cuda_array_interface__), which are not copied to the host.

        Returns:
            name -> new array in host memory.

        Raises:
            InvalidInput: a name is missing or unknown, an array has another type, shape or device, the engine
                is closed, or this is not the thread that ran it first.
            DeviceError: the GPU failed, or is out of memory.
            ImpTrtError: the network failed.
        """
        backend, checked = self._checked(inputs)
        with self._lock:
            return backend.run(checked)

    def run_on_device(self, inputs: Mapping[str, ArrayInput]) -> dict[str, DeviceArray]:
        """Run an engine without waiting for it; the outputs stay on the GPU.

        Args:
            inputs: see :meth:`run`. Those on the GPU may be changed on a stream that waits for this call's
                outputs.

        Returns:
            name -> array that PyTorch, CuPy and others read without a copy. Later calls do not change it; it
            is valid until the engine is closed.

        Raises:
            InvalidInput: as for :meth:`run`, or the network is not an engine.
            DeviceError: the GPU failed, or is out of memory.
        """
        backend, checked = self._checked(inputs)
        if not isinstance(backend, DeviceNetworkBackend):
            raise InvalidInput(
                "outputs on the GPU",
                expected="an engine",
                got="an ONNX file, whose outputs are in host memory",
                fix="call run(), or build an engine: imp-export FILE.onnx --target tensorrt",
            )
        with self._lock:
            return backend.run_on_device(checked)

    def warmup(self) -> None:
        """One call on zeros."""
        self.run({spec.name: np.zeros(spec.shape, spec.dtype) for spec in self.inputs})

    def close(self) -> None:
        """Release the network; idempotent, in any thread. Waits for a call of another one."""
        with self._lock:
            if self._backend is not None:
                self._backend.close()
                self._backend = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return f"Engine({self._manifest.kind}, {self._manifest.precision}, {inputs} -> {outputs})"

    def _checked(self, inputs: Mapping[str, ArrayInput]) -> tuple[NetworkBackend, dict[str, object]]:
        backend = self._backend
        if backend is None:
            raise InvalidInput("engine is closed", fix="open the artifact again")
        return backend, checked_inputs(inputs, self.inputs, self._on_gpu)

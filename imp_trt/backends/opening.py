# SPDX-License-Identifier: Apache-2.0
"""Choice of the backend that runs a file."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Literal

from imp_trt.backends.base import Backend
from imp_trt.backends.network_calls import NetworkBackend
from imp_trt.errors import InvalidInput

BackendName = Literal["onnxruntime", "openvino", "pytorch", "tensorrt", "tensorrt-rtx"]

# Name -> module, class, and the suffixes it runs; the first that supports a file is its default.
_BACKENDS: dict[BackendName, tuple[str, str, tuple[str, ...]]] = {
    "onnxruntime": ("imp_trt.backends.onnxruntime", "OnnxRuntimeBackend", (".onnx",)),
    "openvino": ("imp_trt.backends.openvino", "OpenVinoBackend", (".onnx",)),
    "pytorch": ("imp_trt.backends.pytorch", "PyTorchBackend", (".safetensors", ".pt", ".pth")),
    "tensorrt": ("imp_trt.backends.tensorrt", "TensorRtBackend", (".engine",)),
    "tensorrt-rtx": ("imp_trt.backends.tensorrt_rtx", "TensorRtRtxBackend", (".engine",)),
}

MAX_THREADS = 1024
"""Largest number of CPU threads of a network; tens of thousands use up the memory."""

NetworkBackendName = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]

_NETWORK_BACKENDS: dict[NetworkBackendName, tuple[str, str]] = {
    "onnxruntime": ("imp_trt.backends.onnxruntime_arrays", "OnnxRuntimeArrays"),
    "tensorrt": ("imp_trt.backends.tensorrt", "TensorRtArrays"),
    "tensorrt-rtx": ("imp_trt.backends.tensorrt_rtx", "TensorRtRtxArrays"),
}

BACKEND_NAMES = tuple(_BACKENDS)
_ENGINE = ".engine"


def open_backend(
    path: str | os.PathLike[str],
    backend: BackendName | None = None,
    *,
    threads: int | None = None,
    device: str | None = None,
    graph: bool = True,
) -> Backend:
    """Load a file with the backend that runs it.

    Args:
        path: an artifact (.onnx or .engine with its manifest) or a checkpoint (.safetensors, .pt, .pth).
        backend: None chooses by the file.
        threads: CPU threads of the network; None leaves the choice to the backend. Not supported for engines.
        device: "cpu" or "cuda", "cuda:<index>". None: the CPU for .onnx files, the GPU for engines, and for
            checkpoints a GPU if PyTorch finds one.
        graph: replay an engine as a CUDA graph; ignored for other files.

    Raises:
        InvalidInput: unknown backend, or one that does not run this type of file.
        ArtifactError, CheckpointError: the file is missing, damaged or of another type.
        EngineIncompatible: the engine was built for another TensorRT, GPU or platform.
        DependencyMissing: the backend's package or the GPU is missing.
    """
    suffix = Path(path).suffix.lower()
    _check_options(backend, BACKEND_NAMES, threads)
    name = _choose(path, suffix, backend)
    options: dict[str, object] = {"threads": threads, "device": device}
    if suffix == _ENGINE:
        options["graph"] = graph
    module, kind, _ = _BACKENDS[name]
    loaded: Backend = getattr(import_module(module), kind)(path, **options)
    return loaded


def open_network(
    path: str | os.PathLike[str],
    backend: NetworkBackendName | None = None,
    *,
    threads: int | None = None,
    device: str | None = None,
    graph: bool = True,
) -> NetworkBackend:
    """Load a third-party network with the backend that runs it; see :func:`open_backend`.

    Raises:
        InvalidInput, ArtifactError, EngineIncompatible, DependencyMissing: as :func:`open_backend`.
    """
    _check_options(backend, tuple(_NETWORK_BACKENDS), threads)
    suffix = Path(path).suffix.lower()
    if suffix not in (".onnx", _ENGINE):
        raise InvalidInput(
            f"model file {path}",
            expected="a file that ends with .onnx or .engine",
            got=suffix or "no suffix",
            fix="pass an artifact made by imp-export from an ONNX file; Segmenter opens checkpoints",
        )
    name: NetworkBackendName = "onnxruntime"
    if suffix == _ENGINE:
        from imp_trt.artifacts.reading import read_network_manifest

        engine = read_network_manifest(path).engine
        name = engine.backend if engine is not None else "tensorrt"
    if backend not in (None, name):
        raise InvalidInput(
            f"backend {backend!r} for {path}",
            expected=repr(name),
            got=repr(backend),
            fix="leave the backend out",
        )
    options: dict[str, object] = {"threads": threads, "device": device}
    if suffix == _ENGINE:
        options["graph"] = graph
    module, kind = _NETWORK_BACKENDS[name]
    loaded: NetworkBackend = getattr(import_module(module), kind)(path, **options)
    return loaded


def _check_options(backend: str | None, names: tuple[str, ...], threads: object) -> None:
    if backend is not None and backend not in names:
        raise InvalidInput("backend", expected=f"one of {', '.join(names)}", got=repr(backend))
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise InvalidInput("threads", expected=f"an integer from 1 to {MAX_THREADS}", got=repr(threads))


def _choose(path: str | os.PathLike[str], suffix: str, backend: BackendName | None) -> BackendName:
    """The requested backend, if it runs the file, else the default of the file."""
    supported: list[BackendName] = [
        name for name, (_, _, suffixes) in _BACKENDS.items() if suffix in suffixes
    ]
    if not supported:
        known = sorted({s for _, _, suffixes in _BACKENDS.values() for s in suffixes})
        raise InvalidInput(
            f"model file {path}",
            expected=f"a file that ends with {', '.join(known)}",
            got=suffix or "no suffix",
            fix="pass an artifact made by imp-export, or a checkpoint made by imp-train",
        )
    if suffix == _ENGINE:
        # Two libraries have engines; only the manifest says which one built this.
        from imp_trt.artifacts.reading import read_manifest

        engine = read_manifest(path).engine
        supported = [engine.backend] if engine is not None else supported
    if backend is not None and backend not in supported:
        raise InvalidInput(
            f"backend {backend!r} for {path}",
            expected=f"a file that ends with {' or '.join(_BACKENDS[backend][2])}"
            if suffix not in _BACKENDS[backend][2]
            else f"an engine built for {backend}",
            got=f"one built for {supported[0]}" if suffix in _BACKENDS[backend][2] else suffix,
            fix=f"leave the backend out, or pass {supported[0]!r}",
        )
    return backend or supported[0]

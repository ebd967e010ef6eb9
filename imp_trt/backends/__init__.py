"""Ways to execute a network: one module per way, one protocol for all."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from imp_trt.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from imp_trt.artifacts.manifest import Manifest
    from imp_trt.backends.device_outputs import DeviceOutputs
    from imp_trt.backends.uploads import Frame
    from imp_trt.preprocessing.device_arrays import DeviceFrame
    from imp_trt.preprocessing.letterbox import Fit

# Name -> module, class, and the suffixes it runs; the first that fits a file is its default.
_BACKENDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "onnxruntime": ("imp_trt.backends.onnxruntime", "OnnxRuntimeBackend", (".onnx",)),
    "pytorch": ("imp_trt.backends.pytorch", "PyTorchBackend", (".safetensors", ".pt", ".pth")),
    "tensorrt": ("imp_trt.backends.tensorrt", "TensorRtBackend", (".engine",)),
    "tensorrt-rtx": ("imp_trt.backends.tensorrt_rtx", "TensorRtRtxBackend", (".engine",)),
}

BACKEND_NAMES = tuple(_BACKENDS)
_ENGINE = ".engine"


class Backend(Protocol):
    """A loaded network.

    Attributes:
        manifest: what the network takes and gives, and who made it.
    """

    manifest: Manifest

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Run the network on one full batch.

        Args:
            frames: [B, H, W, 3] uint8 BGR, contiguous, at the network's size; not changed.

        Returns:
            semantic [B, H, W] uint8; boxes [B, N, 4] float32, xyxy, network pixels; scores [B, N]
            float32, descending, padding 0; labels [B, N] int32 class indices; masks [B, N, P, P]
            float32 probabilities; num_detections [B] int32. The arrays are new with every call.
        """
        ...

    def close(self) -> None:
        """Release the network; idempotent."""
        ...


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A network on a GPU, which takes frames of any size and leaves its outputs there until they are read.

    One thread runs it, the first that comes. Outputs may be read, and the backend closed, in any thread.
    """

    def check_caller(self) -> None:
        """Whether this thread may run the network.

        Raises:
            InvalidInput: closed, or another thread or process than before.
        """
        ...

    def accept(self, frame: object) -> DeviceFrame:
        """A frame on the GPU, checked; nothing is copied, and its producer's work is waited for on the GPU.

        Raises:
            InvalidInput: it is no uint8 [h, w, 3] array with packed pixels on this GPU.
        """
        ...

    def start(self, frames: Sequence[Frame], fits: Sequence[Fit], wait: bool = False) -> DeviceOutputs:
        """Enqueue one call on at most B frames.

        Args:
            wait: until the network is done; otherwise nothing is waited for.
            frames: of any size. Those in host memory may be changed when this returns, those on the GPU
                when the outputs are done.
            fits: the geometry of each.

        Raises:
            InvalidInput: as check_caller.
            DeviceError: the GPU failed, or has no memory left.
        """
        ...


def open_backend(
    path: str | os.PathLike[str],
    backend: str | None = None,
    *,
    threads: int | None = None,
    device: str | None = None,
    graph: bool = True,
) -> Backend:
    """Load a file with the backend that runs it.

    Args:
        path: an artifact (.onnx or .engine with its manifest) or a checkpoint (.safetensors, .pt, .pth).
        backend: one of BACKEND_NAMES; None chooses by the file.
        threads: CPU threads of the network; None leaves the choice to the backend. Not for engines.
        device: "cpu" or "cuda", "cuda:<index>"; None takes the best that the backend finds.
        graph: replay an engine as a CUDA graph; without meaning for other files.

    Raises:
        InvalidInput: unknown backend, or one that does not run this kind of file.
        ArtifactError, CheckpointError: the file is missing, damaged or of another kind.
        EngineIncompatible: the engine was built for another TensorRT, GPU or platform.
        DependencyMissing: the backend's package or GPU is not there.
    """
    suffix = Path(path).suffix.lower()
    if backend is not None and backend not in _BACKENDS:
        raise InvalidInput("backend", expected=f"one of {', '.join(BACKEND_NAMES)}", got=repr(backend))
    if threads is not None and (type(threads) is not int or threads < 1):
        raise InvalidInput("threads", expected="an integer of at least 1", got=repr(threads))
    name = _choose(path, suffix, backend)
    options: dict[str, Any] = {"threads": threads, "device": device}
    if suffix == _ENGINE:
        options["graph"] = graph
    module, kind, _ = _BACKENDS[name]
    loaded: Backend = getattr(import_module(module), kind)(path, **options)
    return loaded


def _choose(path: str | os.PathLike[str], suffix: str, backend: str | None) -> str:
    """The backend's name: what was asked for, if it can be, else what the file needs."""
    fitting = [name for name, (_, _, suffixes) in _BACKENDS.items() if suffix in suffixes]
    if not fitting:
        known = sorted({s for _, _, suffixes in _BACKENDS.values() for s in suffixes})
        raise InvalidInput(
            f"model file {path}",
            expected=f"a file that ends with {', '.join(known)}",
            got=suffix or "no suffix",
            fix="pass an artifact made by imp-export, or a checkpoint made by imp-train",
        )
    if suffix == _ENGINE:
        # Two libraries have engines; only the manifest tells whose this is.
        from imp_trt.artifacts.artifact import read_manifest

        engine = read_manifest(path).engine
        fitting = [engine.backend] if engine is not None else fitting
    if backend is not None and backend not in fitting:
        raise InvalidInput(
            f"backend {backend!r} for {path}",
            expected=f"a file that ends with {' or '.join(_BACKENDS[backend][2])}"
            if suffix not in _BACKENDS[backend][2]
            else f"an engine built for {backend}",
            got=f"one built for {fitting[0]}" if suffix in _BACKENDS[backend][2] else suffix,
            fix=f"leave the backend out, or pass {fitting[0]!r}",
        )
    return backend or fitting[0]

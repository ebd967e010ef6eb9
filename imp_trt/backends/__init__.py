"""Ways to execute a network: one module per way, one protocol for all."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from imp_trt.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imp_trt.manifest import Manifest

OUTPUT_NAMES = ("semantic", "boxes", "scores", "labels", "masks", "num_detections")

# Name -> module, class, and the suffixes it runs; the first that fits a file is its default.
_BACKENDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "onnxruntime": ("imp_trt.backends.onnxruntime", "OnnxRuntimeBackend", (".onnx",)),
    "pytorch": ("imp_trt.backends.pytorch", "PyTorchBackend", (".safetensors", ".pt", ".pth")),
}

BACKEND_NAMES = tuple(_BACKENDS)


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


def open_backend(
    path: str | os.PathLike[str],
    backend: str | None = None,
    *,
    threads: int | None = None,
    device: str | None = None,
) -> Backend:
    """Load a file with the backend that runs it.

    Args:
        path: an artifact (.onnx with its manifest) or a checkpoint (.safetensors, .pt, .pth).
        backend: one of BACKEND_NAMES; None chooses by the file's suffix.
        threads: CPU threads of the network; None leaves the choice to the backend.
        device: "cpu" or "cuda"; None takes the best that the backend finds.

    Raises:
        InvalidInput: unknown backend, or one that does not run this kind of file.
        ArtifactError, CheckpointError: the file is missing, damaged or of another kind.
        DependencyMissing: the backend's package or GPU is not there.
    """
    suffix = Path(path).suffix.lower()
    if backend is not None and backend not in _BACKENDS:
        raise InvalidInput("backend", expected=f"one of {', '.join(BACKEND_NAMES)}", got=repr(backend))
    fitting = [name for name, (_, _, suffixes) in _BACKENDS.items() if suffix in suffixes]
    if not fitting:
        known = sorted({s for _, _, suffixes in _BACKENDS.values() for s in suffixes})
        raise InvalidInput(
            f"model file {path}",
            expected=f"a file that ends with {', '.join(known)}",
            got=suffix or "no suffix",
            fix="pass an ONNX artifact made by imp-export, or a checkpoint made by imp-train",
        )
    if backend is not None and backend not in fitting:
        raise InvalidInput(
            f"backend {backend!r} for {path}",
            expected=f"a file that ends with {' or '.join(_BACKENDS[backend][2])}",
            got=suffix,
            fix=f"leave the backend out, or pass {fitting[0]!r}",
        )
    if threads is not None and (type(threads) is not int or threads < 1):
        raise InvalidInput("threads", expected="an integer of at least 1", got=repr(threads))
    module, name, _ = _BACKENDS[backend or fitting[0]]
    loaded: Backend = getattr(import_module(module), name)(path, threads=threads, device=device)
    return loaded

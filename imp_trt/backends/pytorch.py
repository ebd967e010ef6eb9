"""PyTorch: runs a checkpoint as it was trained; the reference that exports are verified against."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import CheckpointError, DependencyMissing, InvalidInput
from imp_trt.manifest import IMP_OP, InputContract, Manifest

_log = logging.getLogger(__name__)


class PyTorchBackend:
    """A checkpoint in PyTorch. See :class:`imp_trt.backends.Backend`.

    Args:
        path: .safetensors, or .pt/.pth read with weights_only; no code in it is executed.
        threads: CPU threads of PyTorch, for the whole process; None leaves them as they are.
        device: "cpu", "cuda" or "cuda:<index>"; None takes CUDA if PyTorch finds it.

    Raises:
        CheckpointError: the file is missing, damaged or of another architecture.
        DependencyMissing: torch is not installed, or has no such device.
        InvalidInput: the device is no device name.
    """

    manifest: Manifest

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int | None = None, device: str | None = None
    ) -> None:
        try:
            import torch

            from imp_trt.models.checkpoint import load_model
        except ImportError as error:
            raise DependencyMissing(
                "PyTorch is not installed", got=error, fix="pip install 'imp-trt[torch]'"
            ) from error
        self._torch = torch
        self._device = _device(torch, device)
        if threads is not None:
            torch.set_num_threads(threads)
        network, metadata = load_model(Path(path))
        self._network: Any = network.to(self._device)
        self.manifest = _manifest(Path(path), network.config, metadata, torch.__version__)
        if self.manifest.terms:
            _log.warning("%s: %s", path, self.manifest.terms)

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        if self._network is None:
            raise InvalidInput("backend is closed", fix="open the checkpoint again")
        if not frames.flags.writeable:
            # torch.from_numpy warns about read-only memory even where nothing writes to it.
            frames = frames.copy()
        outputs = self._network.forward_frames(self._torch.from_numpy(frames).to(self._device))
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}

    def close(self) -> None:
        """Release the network; idempotent."""
        self._network = None


def _device(torch: Any, name: str | None) -> Any:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput("device", expected="cpu, cuda or cuda:<index>", got=repr(name)) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DependencyMissing(
            f"device {name}",
            expected="a CUDA GPU that PyTorch sees",
            got=f"{torch.cuda.device_count()} of them",
            fix="pass device='cpu'; imp-doctor shows the GPU and driver",
        )
    return device


def _manifest(path: Path, config: Any, metadata: dict[str, Any], version: str) -> Manifest:
    height, width = config.input_size
    detector = config.detector_config
    try:
        return Manifest(
            kind="checkpoint",
            classes=config.classes,
            input=InputContract(height=height, width=width),
            detections=detector.detections if config.detector else 0,
            mask_size=detector.mask_size,
            precision="fp32",
            target="pytorch",
            ops={IMP_OP: {"version": "1", "sampling": config.sampling}} if config.imp else {},
            weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            producer={"torch": version},
            terms=metadata.get("terms"),
        )
    except InvalidInput as error:
        raise CheckpointError(f"checkpoint {path}", got=error, fix="train again with imp-train") from error

# SPDX-License-Identifier: Apache-2.0
"""PyTorch: runs a checkpoint without conversion; exports are verified against it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import IMP_OP, InputContract, Manifest
from imp_trt.backends.decoding import HostOutputs
from imp_trt.errors import CheckpointError, DependencyMissing, InvalidInput

if TYPE_CHECKING:
    import torch

    from imp_trt.models.checkpoint import Checkpoint
    from imp_trt.models.network import ImpNetwork


class PyTorchBackend:
    """A checkpoint in PyTorch. See :class:`imp_trt.backends.Backend`.

    Args:
        path: .safetensors, or .pt/.pth read with weights_only; no code from it is executed.
        threads: CPU threads of PyTorch, for the whole process; None leaves them as they are.
        device: "cpu", "cuda" or "cuda:<index>"; None uses CUDA if available.

    Raises:
        CheckpointError: the file is missing, damaged or of another architecture.
        DependencyMissing: torch is not installed, or the device does not exist.
        InvalidInput: the device is neither cpu nor cuda.
    """

    manifest: Manifest

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int | None = None, device: str | None = None
    ) -> None:
        try:
            import torch

            from imp_trt.models.checkpoint import read_checkpoint
        except ImportError as error:
            raise _not_installed(error) from error
        chosen = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        self._set(read_checkpoint(path), chosen, f"checkpoint {os.fspath(path)}")

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: str | None = None) -> PyTorchBackend:
        """A backend for a checkpoint in memory; the network is moved to the device."""
        backend = cls.__new__(cls)
        backend._set(checkpoint, choose_device(device), "checkpoint")
        return backend

    def _set(self, checkpoint: Checkpoint, device: torch.device, name: str) -> None:
        self._device = device
        self._network: ImpNetwork | None = checkpoint.network.to(device)
        self.manifest = _manifest(checkpoint, name)

    def infer(self, frames: NDArray[np.uint8]) -> HostOutputs:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        if self._network is None:
            raise InvalidInput("backend is closed", fix="open the checkpoint again")
        if not frames.flags.writeable:
            # torch.from_numpy warns about read-only memory even if nothing writes to it.
            frames = frames.copy()
        import torch

        outputs = self._network.forward_frames(torch.from_numpy(frames).to(self._device))
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}

    def close(self) -> None:
        """Release the network; idempotent."""
        self._network = None


def choose_device(name: str | None) -> torch.device:
    """The torch.device of a name.

    Args:
        name: "cpu", "cuda" or "cuda:<index>"; None uses CUDA if available, else the CPU.

    Raises:
        InvalidInput: any other name; other devices are not supported.
        DependencyMissing: torch is not installed, or finds no such GPU.
    """
    try:
        import torch
    except ImportError as error:
        raise _not_installed(error) from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        name = "cuda" if count else "cpu"
    # Not parsed by torch.device, which keeps 8 bits of an index: "cuda:256" would be GPU 0.
    match = re.fullmatch(r"cpu|cuda(?::(0|[1-9][0-9]*))?", name) if isinstance(name, str) else None
    if match is None:
        raise InvalidInput("device", expected="cpu, cuda or cuda:<index>", got=repr(name))
    if name != "cpu" and int(match[1] or 0) >= count:
        raise DependencyMissing(
            f"device {name}",
            expected="a CUDA GPU that PyTorch finds",
            got=f"{count} GPUs",
            fix="pass device='cpu'; imp-doctor shows the GPU and driver",
        )
    return torch.device(name)


def _not_installed(error: ImportError) -> DependencyMissing:
    if not isinstance(error, ModuleNotFoundError):  # installed, but its libraries cannot be mapped
        return DependencyMissing(
            "PyTorch cannot be loaded",
            got=error,
            fix="raise the limit of the address space (ulimit -v), free memory, or install it again",
        )
    return DependencyMissing("PyTorch is not installed", got=error, fix="pip install 'imp-trt[torch]'")


def _manifest(checkpoint: Checkpoint, name: str) -> Manifest:
    import torch

    config = checkpoint.network.config
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
            weights_sha256=checkpoint.sha256,
            producer={"torch": torch.__version__},
            terms=checkpoint.metadata.get("terms") or None,
        )
    except InvalidInput as error:
        raise CheckpointError(name, got=error, fix="train again with imp-train") from error

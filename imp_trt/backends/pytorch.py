# SPDX-License-Identifier: Apache-2.0
"""PyTorch: runs a checkpoint without conversion; exports are verified against it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import IMP_OP, InputContract, Manifest
from imp_trt.backends.canvas import CanvasShape
from imp_trt.backends.decoding import HostOutputs
from imp_trt.cuda.cpus import usable_cpus
from imp_trt.data.native_calls import call_after_fork, native_call
from imp_trt.errors import CheckpointError, DependencyMissing, InvalidInput

if TYPE_CHECKING:
    import torch

    from imp_trt.models.checkpoint import Checkpoint
    from imp_trt.models.network import ImpNetwork


class PyTorchBackend:
    """A checkpoint in PyTorch. See :class:`imp_trt.backends.Backend`.

    In a forked process a network on the CPU runs with one thread, and one on a GPU does not run.

    Args:
        path: .safetensors, or .pt/.pth read with weights_only; no code from it is executed.
        threads: CPU threads of PyTorch, for the whole process; None leaves them as they are, but at most one
            per CPU that this process may use.
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
        # PyTorch knows the process's affinity, but no quota.
        threads = threads or min(torch.get_num_threads(), usable_cpus())
        if threads != torch.get_num_threads():
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
        self._forked = False
        call_after_fork(self)

    def infer(self, frames: NDArray[np.uint8]) -> HostOutputs:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        network = self._ready()
        import torch

        with native_call():
            outputs = network.forward_frames(torch.from_numpy(_writable(frames)).to(self._device))
            return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}

    def open_canvas(self) -> CanvasShape:
        """See :meth:`imp_trt.backends.CanvasBackend.open_canvas`."""
        from imp_trt.models.deploy import has_canvas_part
        from imp_trt.models.network import CANVAS_STRIDE

        config = self._ready().config
        if not has_canvas_part(config):
            raise InvalidInput(
                "network",
                expected="one with IMP, whose class map depends on a canvas",
                got=f"{'IMP' if config.imp else 'no IMP'}, semantic head {config.semantic_head!r}",
                fix="detect_every=1",
            )
        height, width = config.input_size
        return 1, config.num_things, height // CANVAS_STRIDE, width // CANVAS_STRIDE

    def infer_canvas(self, frames: NDArray[np.uint8], canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See :meth:`imp_trt.backends.CanvasBackend.infer_canvas`."""
        network = self._ready()
        import torch

        with native_call(), torch.no_grad():
            images = network.preprocess(torch.from_numpy(_writable(frames)).to(self._device))
            given = torch.from_numpy(_writable(canvas)).to(self._device)
            logits = network.segment(network.backbone(images), given)
            return np.asarray(logits.argmax(dim=1).to(torch.uint8).cpu().numpy(), np.uint8)

    def _ready(self) -> ImpNetwork:
        """The network, in a state to run it."""
        network = self._network
        if network is None:
            raise InvalidInput("backend is closed", fix="open the checkpoint again")
        if self._forked:
            self._continue_after_fork()
        return network

    def close(self) -> None:
        """Release the network; idempotent."""
        self._network = None

    def after_fork(self) -> None:
        """OpenMP's threads do not exist in a forked process, and CUDA does not work there."""
        self._forked = True

    def _continue_after_fork(self) -> None:
        import torch

        if self._device.type != "cpu":
            raise InvalidInput(
                "Segmenter of a network on a GPU, used in a forked process",
                expected="the process that opened it",
                got=f"process {os.getpid()}",
                fix="open a Segmenter in each process, and start the processes with the method 'spawn'",
            )
        torch.set_num_threads(1)  # with more, OpenMP would wait for the threads that are missing
        self._forked = False


_A = TypeVar("_A", bound="NDArray[Any]")


def _writable(array: _A) -> _A:
    """The array, or a copy: torch.from_numpy warns about read-only memory even if nothing writes to it."""
    return array if array.flags.writeable else array.copy()


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
            score_threshold=float(detector.score_threshold) if config.detector else None,
        )
    except InvalidInput as error:
        raise CheckpointError(name, got=error, fix="train again with imp-train") from error

# SPDX-License-Identifier: Apache-2.0
"""Execution providers of ONNX Runtime: which one runs a network on a device, and what it needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from imp_trt.errors import DependencyMissing, DeviceError, InvalidInput

CPU_PROVIDER = "CPUExecutionProvider"

_GPU_PROVIDERS = {  # device -> provider, and what to install
    "cuda": ("CUDAExecutionProvider", "pip install onnxruntime-gpu instead of onnxruntime"),
    "tensorrt-rtx": (
        "NvTensorRTRTXExecutionProvider",
        "install an onnxruntime that was built with TensorRT-RTX",
    ),
}


class _Session(Protocol):
    def get_providers(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class OrtDevice:
    """A device that ONNX Runtime runs a network on.

    Attributes:
        name: "cpu", "cuda" or "tensorrt-rtx".
        index: of the GPU; 0 for the CPU.
    """

    name: str = "cpu"
    index: int = 0

    @classmethod
    def parse(cls, text: str | None) -> OrtDevice:
        """The device of ``cpu``, ``cuda``, ``cuda:1``, ``tensorrt-rtx`` ...; None is the CPU.

        Raises:
            InvalidInput: anything else.
        """
        if text in (None, "cpu"):
            return cls()
        match = re.fullmatch(r"(cuda|tensorrt-rtx)(?::(\d{1,3}))?", text or "")
        if match is None:
            raise InvalidInput(
                "device of the ONNX Runtime backend",
                expected="cpu, cuda, cuda:<index>, tensorrt-rtx or tensorrt-rtx:<index>",
                got=text,
            )
        return cls(match[1], int(match[2] or 0))

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.name != "cpu"

    def providers(self, available: Sequence[str]) -> list[str | tuple[str, dict[str, int]]]:
        """The argument ``providers`` of an InferenceSession; operators without a GPU kernel run on the CPU.

        Args:
            available: onnxruntime.get_available_providers().

        Raises:
            DependencyMissing: this onnxruntime lacks the provider.
        """
        if not self.on_gpu:
            return [CPU_PROVIDER]
        provider, fix = _GPU_PROVIDERS[self.name]
        if provider not in available:
            raise DependencyMissing(
                f"device {self.name} of the ONNX Runtime backend",
                expected=f"an ONNX Runtime with {provider}",
                got=", ".join(available),
                fix=f"{fix}, or build an engine: imp-export FILE.onnx --target tensorrt-rtx",
            )
        return [(provider, {"device_id": self.index}), CPU_PROVIDER]

    def check(self, session: _Session) -> None:
        """Check that a session uses the device: ONNX Runtime falls back to the CPU without an error.

        Raises:
            DeviceError: it does not.
        """
        if not self.on_gpu:
            return
        provider, _ = _GPU_PROVIDERS[self.name]
        used = list(session.get_providers())
        if not used or used[0] != provider:
            raise DeviceError(
                f"device {self.name}:{self.index} of the ONNX Runtime backend",
                expected=f"a network on {provider}",
                got=f"one on {', '.join(used)}: the GPU or its libraries cannot be used",
                fix="imp-doctor checks the driver; onnxruntime-gpu needs CUDA and cuDNN of its own version",
            )

# SPDX-License-Identifier: Apache-2.0
"""The types of arrays that are read without a copy: NumPy arrays, and those with one of two protocols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray


class SupportsDLPack(Protocol):
    """An array with the DLPack protocol: PyTorch, CuPy, PyAV, NumPy."""

    def __dlpack__(self, *, stream: Any = ...) -> object: ...
    def __dlpack_device__(self) -> tuple[Any, int]: ...


class SupportsCudaArrayInterface(Protocol):
    """An array on the GPU with __cuda_array_interface__: PyCUDA, Numba, CuPy."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]: ...


ArrayInput = NDArray[Any] | SupportsDLPack | SupportsCudaArrayInterface
"""An input of :meth:`imp_trt.Engine.run`, or a plane of :class:`imp_trt.Nv12Frame`."""

# SPDX-License-Identifier: Apache-2.0
"""An output of an engine that stays on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.errors import InvalidInput


class DeviceArray:
    """An array on the GPU, in C order, for PyTorch, CuPy and others without a copy.

    ``torch.as_tensor(array, device="cuda")`` and ``cupy.asarray(array)`` wait for the network on the GPU, and
    keep the memory. It is used again once this object and what was made from it are gone: until then the
    work that reads it must have been enqueued, on a stream that waits for the default stream or is
    synchronized. The array is valid until the engine is closed.

    Attributes:
        spec: name, type and shape.
    """

    def __init__(
        self,
        spec: TensorSpec,
        pointer: int,
        stream: int,
        lease: object,
        download: Callable[[DeviceArray], NDArray[Any]],
    ) -> None:
        self.spec = spec
        self._pointer: int | None = pointer
        self._stream = stream
        self._lease = lease
        self._download = download

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides of the array."""
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of the elements."""
        return np.dtype(self.spec.dtype)

    @property
    def pointer(self) -> int:
        """Device address of the first element.

        Raises:
            InvalidInput: the engine has been closed.
        """
        if self._pointer is None:
            raise InvalidInput(
                f"output {self.spec.name!r} on the GPU",
                got="an array of an engine that has been closed",
                fix="call numpy() or copy it before the engine is closed",
            )
        return self._pointer

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        """Version 3 of the protocol; the consumer waits for the engine's stream.

        Raises:
            InvalidInput: the engine has been closed.
        """
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": self._stream,
        }

    def numpy(self) -> NDArray[Any]:
        """A copy in host memory; in the thread that runs the engine.

        Raises:
            InvalidInput: the engine has been closed, or this is another thread.
            DeviceError: the GPU failed.
        """
        return self._download(self)

    def invalidate(self) -> None:
        """The memory is about to be released."""
        self._pointer = None

    def __repr__(self) -> str:
        return f"DeviceArray({self.spec})"

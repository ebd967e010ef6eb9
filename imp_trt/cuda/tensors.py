# SPDX-License-Identifier: Apache-2.0
"""Helpers of the operators to launch their kernels on PyTorch tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from imp_trt.cuda import kernels
from imp_trt.cuda.driver import Device
from imp_trt.errors import DependencyMissing

DTYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
"""Element types of the kernels -> their names in entry points."""

_ALIGNMENT = 16  # bytes: kernels use vector loads
_unavailable: set[int] = set()  # devices without kernels


@contextmanager
def launching(tensor: Tensor, prepare: Callable[[Device], None]) -> Iterator[Device | None]:
    """Makes the device of a CUDA tensor current and loads an operator's kernels on it.

    Yields None if the kernels are not available, or not for this element type. The first time they are not
    available, a RuntimeWarning has the reason and the fix.
    """
    if tensor.dtype not in DTYPES:
        yield None
        return
    # PyTorch switches first, or it would restore the device that the driver has switched to.
    with torch.cuda.device(tensor.device):
        yield _device(tensor.get_device(), prepare)


def _device(index: int, prepare: Callable[[Device], None]) -> Device | None:
    if index in _unavailable:
        return None
    try:
        device = kernels.shared_device(index)
        # Nothing may be loaded during a capture; the launch raises if the kernels are missing.
        if not torch.cuda.is_current_stream_capturing():
            prepare(device)
    except DependencyMissing as error:
        if not _unavailable:
            text = f"imp_trt's operators run without their CUDA kernels, which is slower: {error}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        _unavailable.add(index)
        return None
    return device


def stream_of(tensor: Tensor) -> int:
    """Handle of PyTorch's current stream on the tensor's device."""
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def pointers(*tensors: Tensor) -> tuple[int, ...]:
    """Addresses of the tensors; 0 for an empty one."""
    return tuple(tensor.data_ptr() for tensor in tensors)


def ready(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor as a contiguous, aligned tensor of a dtype; itself if it already is one."""
    tensor = tensor.to(dtype or tensor.dtype).contiguous()
    return tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor

"""What the operators need to launch their kernels on PyTorch tensors."""

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
"""Element types of the kernels, and what their entry points call them."""

_ALIGNMENT = 16  # bytes: kernels read vectors
_missing: set[int] = set()  # devices that get no kernels


@contextmanager
def launching(tensor: Tensor, prepare: Callable[[Device], None]) -> Iterator[Device | None]:
    """Makes the device of a CUDA tensor the current one, and loads an operator's kernels on it.

    None where they cannot be had, and for element types they do not have. The first time they cannot be
    had, a RuntimeWarning says why and how to mend it.
    """
    if tensor.dtype not in DTYPES:
        yield None
        return
    # PyTorch switches first: the driver's switch would be taken for the device to come back to.
    with torch.cuda.device(tensor.device):
        yield _device(tensor.get_device(), prepare)


def _device(index: int, prepare: Callable[[Device], None]) -> Device | None:
    if index in _missing:
        return None
    try:
        device = kernels.shared_device(index)
        # While a graph is recorded nothing may be loaded; the launch says so if something is missing.
        if not torch.cuda.is_current_stream_capturing():
            prepare(device)
    except DependencyMissing as error:
        if not _missing:
            text = f"imp_trt's operators run without their CUDA kernels, and slower: {error}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        _missing.add(index)
        return None
    return device


def stream_of(tensor: Tensor) -> int:
    """Handle of the stream that PyTorch is using on the tensor's device."""
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def pointers(*tensors: Tensor) -> tuple[int, ...]:
    """Where the tensors lie; 0 for one without elements."""
    return tuple(tensor.data_ptr() for tensor in tensors)


def ready(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor contiguous, aligned and in a dtype; itself if it is all that."""
    tensor = tensor.to(dtype or tensor.dtype).contiguous()
    return tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor

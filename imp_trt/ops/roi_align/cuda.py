# SPDX-License-Identifier: Apache-2.0
"""Multilevel RoIAlign with the kernel of imp_trt.plugins, on device pointers and on PyTorch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int, c_void_p
from typing import TYPE_CHECKING

from imp_trt.cuda import kernels
from imp_trt.cuda.driver import Device
from imp_trt.errors import InvalidInput

MAX_SAMPLING_RATIO = 64
"""Samples per bin and axis that a call may ask for: the number comes from files, and bounds the time."""

if TYPE_CHECKING:
    from torch import Tensor

_OP = "multilevel_roi_align"
_DTYPES = {"linear": ("f32", "f16", "bf16"), "hwc8": ("f16", "bf16")}


def prepare(device: Device) -> None:
    """Compiles and loads the kernels; raises what `imp_trt.cuda.kernels.prepare` raises."""
    kernels.prepare(_OP, device)


def launch_multilevel_roi_align(
    p2: int,
    p3: int,
    p4: int,
    p5: int,
    boxes: int,
    out: int,
    *,
    batch: int,
    boxes_per_image: int,
    channels: int,
    sizes: Sequence[tuple[int, int]],
    output_size: int,
    sampling_ratio: int,
    canonical_level: int,
    canonical_size: int,
    dtype: str,
    stream: int,
    device: Device,
    layout: str = "linear",
    aligned: bool = False,
) -> None:
    """Enqueues the pooling; arguments are device pointers to contiguous arrays, 16-byte aligned.

    Args:
        p2, p3, p4, p5: [batch, channels, h, w] of dtype, features at strides 4, 8, 16 and 32.
        boxes: [batch, boxes_per_image, 4] float32 xyxy in input pixels.
        out: [batch * boxes_per_image, channels, output_size, output_size] of dtype; every element is written.
        sizes: (h, w) of p2..p5.
        output_size, sampling_ratio, canonical_level, canonical_size: as for `pyramid_roi_align`.
        dtype: element type of features and output.
        stream: handle of a stream of device.
        device: made current in this thread.
        layout: of p2..p5, "linear" as above or "hwc8": [batch, h, w, channels rounded up to 8], TensorRT's
            HWC8; not for "f32".
        aligned: as for `pyramid_roi_align`.
    """
    if layout not in _DTYPES:
        raise InvalidInput("layout", expected=" or ".join(_DTYPES), got=repr(layout))
    if dtype not in _DTYPES[layout]:
        raise InvalidInput("dtype", expected=" or ".join(_DTYPES[layout]), got=repr(dtype))
    if not 0 <= sampling_ratio <= MAX_SAMPLING_RATIO:
        raise InvalidInput(
            "sampling_ratio", expected=f"0 (adaptive) to {MAX_SAMPLING_RATIO}", got=sampling_ratio
        )
    constants = kernels.geometry(_OP)
    grid = (batch * boxes_per_image, -(-channels // constants["IMP_RA_CHANNELS"]), 1)
    block = (constants["IMP_RA_THREADS"], 1, 1)
    integers = [batch, boxes_per_image, channels, *(side for size in sizes for side in size)]
    integers += [output_size, sampling_ratio, canonical_level, canonical_size, int(aligned)]
    args = [
        *((pointer, c_void_p) for pointer in (p2, p3, p4, p5, boxes, out)),
        *((value, c_int) for value in integers),
    ]
    if 0 not in grid:  # no box, nothing to write
        name = dtype if layout == "linear" else f"{layout}_{dtype}"
        kernels.load(_OP, f"imp_multilevel_roi_align_{name}", device, stream).launch(
            grid, block, stream, args
        )


def forward(
    p2: Tensor,
    p3: Tensor,
    p4: Tensor,
    p5: Tensor,
    boxes: Tensor,
    output_size: int,
    sampling_ratio: int,
    canonical_level: int,
    canonical_size: int,
    aligned: bool = False,
) -> Tensor | None:
    """`pyramid_roi_align` of CUDA tensors, enqueued on PyTorch's current stream.

    None if the kernel is not available, or not for this element type.
    """
    import torch

    from imp_trt.cuda import tensors

    levels = (p2, p3, p4, p5)
    _check(levels, boxes)
    if any(level.dtype != p2.dtype for level in levels):
        return None
    batch, count = boxes.shape[:2]
    with tensors.launching(p2, prepare) as device:
        if device is None:
            return None
        inputs = [tensors.ready(tensor) for tensor in levels]
        inputs.append(tensors.ready(boxes, torch.float32))
        out = p2.new_empty(batch * count, p2.shape[1], output_size, output_size)
        launch_multilevel_roi_align(
            *tensors.pointers(*inputs, out),
            batch=batch,
            boxes_per_image=count,
            channels=p2.shape[1],
            sizes=[(level.shape[2], level.shape[3]) for level in levels],
            output_size=output_size,
            sampling_ratio=sampling_ratio,
            canonical_level=canonical_level,
            canonical_size=canonical_size,
            dtype=tensors.DTYPES[p2.dtype],
            stream=tensors.stream_of(p2),
            device=device,
            aligned=aligned,
        )
        return out


def _check(levels: Sequence[Tensor], boxes: Tensor) -> None:
    """InvalidInput for shapes and devices with which the kernel would read out of bounds."""
    p2 = levels[0]
    for name, tensor, shape, rank in (
        *((f"p{k}", level, p2.shape[:2], 4) for k, level in enumerate(levels, 2)),
        ("boxes", boxes, (p2.shape[0], boxes.shape[-2], 4), 3),
    ):
        if tensor.ndim != rank or tuple(tensor.shape[: len(shape)]) != tuple(shape):
            raise InvalidInput(
                name, expected=f"rank {rank}, beginning with {list(shape)}", got=list(tensor.shape)
            )
        if tensor.device != p2.device:
            raise InvalidInput(name, expected=f"on {p2.device} as p2", got=tensor.device)

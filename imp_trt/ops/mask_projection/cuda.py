# SPDX-License-Identifier: Apache-2.0
"""Instance mask projection with the kernels of imp_trt.plugins, on device pointers and on PyTorch tensors."""

from __future__ import annotations

from ctypes import c_float, c_int, c_void_p
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from imp_trt.cuda import kernels
from imp_trt.cuda.driver import Device
from imp_trt.errors import InvalidInput
from imp_trt.ops.mask_projection.options import SAMPLING_RULES

if TYPE_CHECKING:
    from torch import Tensor

_OP = "instance_mask_projection"
_DTYPES = ("f32", "f16", "bf16")
_MAX_GRID = 65535  # blocks along y and z; the kernels loop over the rest


class Call(NamedTuple):
    """The sizes and options of one call; see `launch_mask_projection`."""

    label_bytes: int
    batch: int
    instances: int
    classes: int
    height: int
    width: int
    cells: int
    spatial_scale: float
    sampling: str
    dtype: str


def prepare(device: Device, sampling: str | None = None, dtype: str | None = None) -> None:
    """Compiles and loads the kernels, of one rule or type if given; errors as `kernels.prepare`."""
    rules, dtypes = [sampling] if sampling else SAMPLING_RULES, [dtype] if dtype else _DTYPES
    kernels.prepare(_OP, device, [f"{rule}_{kind}" for rule in rules for kind in dtypes])


def launch_mask_projection(
    boxes: int,
    scores: int,
    labels: int,
    masks: int,
    canvas: int,
    *,
    label_bytes: int,
    batch: int,
    instances: int,
    classes: int,
    height: int,
    width: int,
    cells: int,
    spatial_scale: float,
    sampling: str,
    dtype: str,
    stream: int,
    device: Device,
) -> None:
    """Enqueues the projection; arguments are device pointers to contiguous arrays, 16-byte aligned.

    Args:
        boxes: [batch, instances, 4] float32 xyxy in image pixels.
        scores: [batch, instances] float32.
        labels: [batch, instances] int32 or int64.
        masks: [batch, instances, cells, cells] of dtype.
        canvas: [batch, classes, height, width] of dtype; every element is written.
        label_bytes: 4 or 8, the size of a label.
        spatial_scale: canvas pixels per image pixel.
        sampling: "bilinear", "nearest" or "rect".
        dtype: "f32", "f16" or "bf16", of masks and canvas.
        stream: handle of a stream of device.
        device: made current in this thread.
    """
    call = Call(label_bytes, batch, instances, classes, height, width, cells, spatial_scale, sampling, dtype)
    _launch_tiles("imp_mask_projection", (boxes, scores, labels, masks, canvas), call, stream, device)


def _launch_tiles(name: str, arrays: tuple[int, ...], call: Call, stream: int, device: Device) -> None:
    """A kernel whose blocks are tiles of the canvas' planes."""
    constants = kernels.geometry(_OP)
    columns = -(-call.width // constants["IMP_MP_TILE_W"])
    rows = -(-call.height // constants["IMP_MP_TILE_H"])
    grid = (columns, rows, min(call.batch * call.classes, _MAX_GRID))
    _launch(name, arrays, call, grid, constants["IMP_MP_THREADS"], stream, device)


def _launch_backward(arrays: tuple[int, ...], call: Call, stream: int, device: Device) -> None:
    """A kernel whose blocks are instances."""
    grid = (call.instances, min(call.batch, _MAX_GRID), 1)
    threads = kernels.geometry(_OP)["IMP_MP_BACKWARD_THREADS"]
    _launch("imp_mask_projection_backward", arrays, call, grid, threads, stream, device)


def _launch(
    name: str,
    arrays: tuple[int, ...],
    call: Call,
    grid: kernels.Dim3,
    threads: int,
    stream: int,
    device: Device,
) -> None:
    for what, value, allowed in (
        ("sampling", call.sampling, SAMPLING_RULES),
        ("dtype", call.dtype, _DTYPES),
        ("label_bytes", call.label_bytes, (4, 8)),
    ):
        if value not in allowed:
            raise InvalidInput(what, expected=" or ".join(map(str, allowed)), got=repr(value))
    if 0 in grid:  # an empty batch has nothing to write
        return
    args = [
        *((pointer, c_void_p) for pointer in arrays),
        *((size, c_int) for size in call[:7]),
        (call.spatial_scale, c_float),
    ]
    kernel = kernels.load(_OP, f"{name}_{call.sampling}_{call.dtype}", device, stream)
    kernel.launch(grid, (threads, 1, 1), stream, args)


def forward(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    num_classes: int,
    canvas_h: int,
    canvas_w: int,
    spatial_scale: float,
    sampling: str,
) -> Tensor | None:
    """`instance_mask_projection` of CUDA tensors, enqueued on PyTorch's current stream.

    None if the kernels are not available, or not for this element type.
    """
    from imp_trt.cuda import tensors

    with tensors.launching(masks, partial(prepare, sampling=sampling, dtype=_dtype(masks))) as device:
        if device is None:
            return None
        inputs = _prepare_inputs(boxes, scores, labels, masks)
        shape = (masks.shape[0], num_classes, canvas_h, canvas_w)
        canvas = masks.new_empty(shape)
        call = _call(inputs, shape, spatial_scale, sampling)
        arrays = tensors.pointers(*inputs, canvas)
        _launch_tiles("imp_mask_projection", arrays, call, tensors.stream_of(masks), device)
        return canvas


def backward(
    grad: Tensor,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    spatial_scale: float,
    sampling: str,
) -> tuple[Tensor, Tensor] | None:
    """Gradients of scores [B, N] and masks [B, N, P, P] for a gradient [B, C, H, W] of the canvas.

    None as for `forward`.
    """
    import torch

    from imp_trt.cuda import tensors

    with tensors.launching(masks, partial(prepare, sampling=sampling, dtype=_dtype(masks))) as device:
        if device is None:
            return None
        inputs = _prepare_inputs(boxes, scores, labels, masks)
        grad = tensors.ready(grad, masks.dtype)
        call = _call(inputs, tuple(grad.shape), spatial_scale, sampling)
        winner = grad.new_empty(grad.shape, dtype=torch.int32)  # index of the visible instance, or -1
        grad_scores = masks.new_empty(scores.shape, dtype=torch.float32)
        grad_masks = masks.new_empty(masks.shape)
        stream = tensors.stream_of(masks)
        arrays = tensors.pointers(*inputs, winner)
        _launch_tiles("imp_mask_projection_winner", arrays, call, stream, device)
        arrays = tensors.pointers(*inputs, winner, grad, grad_scores, grad_masks)
        _launch_backward(arrays, call, stream, device)
        return grad_scores.to(scores.dtype), grad_masks


def _dtype(masks: Tensor) -> str | None:
    from imp_trt.cuda import tensors

    return tensors.DTYPES.get(masks.dtype)


def _prepare_inputs(boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor) -> list[Tensor]:
    """The inputs as the kernels read them."""
    import torch

    from imp_trt.cuda import tensors

    integer = labels.dtype if labels.dtype in (torch.int32, torch.int64) else torch.int64
    return [
        tensors.ready(boxes, torch.float32),
        tensors.ready(scores, torch.float32),
        tensors.ready(labels, integer),
        tensors.ready(masks),
    ]


def _call(inputs: list[Tensor], shape: tuple[int, ...], spatial_scale: float, sampling: str) -> Call:
    """The Call for prepared inputs and a canvas of shape [B, C, H, W]."""
    from imp_trt.cuda import tensors

    _, _, labels, masks = inputs
    return Call(
        label_bytes=labels.element_size(),
        batch=masks.shape[0],
        instances=masks.shape[1],
        classes=shape[1],
        height=shape[2],
        width=shape[3],
        cells=masks.shape[2],
        spatial_scale=spatial_scale,
        sampling=sampling,
        dtype=tensors.DTYPES[masks.dtype],
    )

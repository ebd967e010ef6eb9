# SPDX-License-Identifier: Apache-2.0
"""Instance mask projection in PyTorch: `torch.ops.imp_trt.instance_mask_projection` and its wrapper.

The operator draws every instance's small mask into the plane of its class and keeps the maximum of
score * mask at each pixel (Fu, Berg and Berg, "IMP: Instance Mask Projection for High Accuracy Semantic
Segmentation of Things", ICCV 2019). `plugins/instance_mask_projection/README.md` is the contract,
`reference.py` the reference implementation.

On a GPU the operator runs the kernels of imp_trt.plugins (`cuda.py`). This file has the implementation for
other devices, for float64, and for a GPU without NVRTC. It computes only the crop of the canvas that an
instance covers. Large crops on the CPU are drawn one after the other; small ones, and all on a GPU, in one
list of pixels. Both read the same taps with the same arithmetic, so that they are bit-identical. Sums and
maxima have a fixed order, without floating-point atomics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, library

from imp_trt.errors import InvalidInput
from imp_trt.ops.mask_projection import cuda as mask_projection_cuda
from imp_trt.ops.mask_projection.options import Sampling, check_options
from imp_trt.ops.mask_projection.plan import Plan, expand_ranges, make_plan, range_table

_CHUNK_PIXELS = 1 << 22  # of the pixel list, 100 bytes per pixel
_LOOP_PIXELS = 800  # per instance; above, a loop over crops is faster than the list (measured on x86)

__all__ = ["instance_mask_projection"]


def _sample_columns(plan: Plan) -> Tensor:
    """Masks sampled along x at every covered column: [R, P], for rect [R, L * P] range maxima along y."""
    axis, rect = plan.columns, plan.sampling == "rect"
    table = (range_table(plan.cells) if rect else plan.cells).transpose(1, 2)
    lines, base = table.reshape(-1, table.shape[2]), axis.instance * table.shape[1]
    first, second = lines.index_select(0, base + axis.tap0), lines.index_select(0, base + axis.tap1)
    if rect:
        return range_table(torch.maximum(first, second))
    return first.mul_(axis.weight0[:, None]).add_(second.mul_(axis.weight1[:, None]))


def _chunks(plan: Plan) -> Iterator[tuple[int, int]]:
    """Runs of instances whose crops have at most _CHUNK_PIXELS pixels, or a single instance."""
    begin, total = 0, 0
    for k, pixels in enumerate((plan.rows.pixels * plan.columns.pixels).tolist()):
        if k > begin and total + pixels > _CHUNK_PIXELS:
            yield begin, k
            begin, total = k, 0
        total += pixels
    if begin < len(plan.scores):
        yield begin, len(plan.scores)


def _sample_list(
    plan: Plan, columns: Tensor, chunk: tuple[int, int], extent: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Every crop pixel of the instances of a chunk: (instance, index in the flat canvas, value), each [T]."""
    rows, cols = plan.rows, plan.columns
    owner, line = expand_ranges(rows.offset[slice(*chunk)], rows.pixels[slice(*chunk)])
    owner = owner + chunk[0]
    y = line - rows.offset[owner] + rows.first[owner]
    entry, pair = expand_ranges(cols.offset[owner], cols.pixels[owner])
    start = (plan.planes[owner] * extent[0] + y) * extent[1] + cols.first[owner] - cols.offset[owner]
    sample = _sample_pairs(plan, columns, line[entry], pair)
    owner = owner[entry]
    return owner, start[entry] + pair, sample.mul_(plan.scores[owner])


def _sample_pairs(plan: Plan, columns: Tensor, line: Tensor, pair: Tensor) -> Tensor:
    """Sampled masks at (row pair, column pair), each [T]."""
    rows, values, base = plan.rows, columns.flatten(), pair * columns.shape[1]
    first = values.index_select(0, base + rows.tap0[line])
    second = values.index_select(0, base + rows.tap1[line])
    if plan.sampling == "rect":
        return torch.maximum(first, second)
    return first.mul_(rows.weight0[line]).add_(second.mul_(rows.weight1[line]))


def _reduce(values: Tensor, index: Tensor, size: int, how: str, initial: float) -> Tensor:
    """Maximum ("amax") or sum ("sum") of the values at each index, in their order: [size]."""
    if values.device.type == "cpu":
        return values.new_full((size,), initial).scatter_reduce_(0, index, values, how)
    return _sorted_reduce(values, index, size, how, initial)


def _sorted_reduce(values: Tensor, index: Tensor, size: int, how: str, initial: float) -> Tensor:
    """_reduce without atomics, for devices whose scatter_reduce has no fixed order."""
    if not len(values):
        return values.new_full((size,), initial)
    order = index.argsort(stable=True)
    lengths = torch.bincount(index, minlength=size)
    name = {"amax": "max", "sum": "sum"}[how]
    return torch.segment_reduce(values[order], name, lengths=lengths, initial=initial)


def _project_list(plan: Plan, planes: int, extent: tuple[int, int]) -> Tensor:
    size = planes * extent[0] * extent[1]
    out, columns = plan.cells.new_zeros(size), _sample_columns(plan)
    for chunk in _chunks(plan):
        _, pixel, value = _sample_list(plan, columns, chunk, extent)
        out = torch.maximum(out, _reduce(value, pixel, size, "amax", 0.0))
    return out


def _project_loop(plan: Plan, planes: int, extent: tuple[int, int]) -> Tensor:
    out = plan.cells.new_zeros(planes, *extent)
    columns, rect = _sample_columns(plan), plan.sampling == "rect"
    rows, cols = plan.rows, plan.columns
    spans = torch.stack([plan.planes, *rows[:3], *cols[:3]], 1).tolist()
    for (plane, y, h, row, x, w, column), score in zip(spans, plan.scores.tolist(), strict=True):
        lines = columns[column : column + w].t().contiguous()
        first = lines.index_select(0, rows.tap0[row : row + h])
        second = lines.index_select(0, rows.tap1[row : row + h])
        if rect:
            sample = torch.maximum(first, second)
        else:
            second.mul_(rows.weight1[row : row + h, None])
            sample = first.mul_(rows.weight0[row : row + h, None]).add_(second)
        region = out[plane, y : y + h, x : x + w]
        torch.maximum(region, sample.mul_(score), out=region)
    return out


def _project(plan: Plan, planes: int, extent: tuple[int, int]) -> Tensor:
    """Canvas before saturation, flat [planes * H * W] or [planes, H, W], in the compute dtype."""
    if plan.cells.device.type == "cpu":
        pixels = int((plan.rows.pixels * plan.columns.pixels).sum())
        if pixels > _LOOP_PIXELS * len(plan.scores):
            return _project_loop(plan, planes, extent)
    return _project_list(plan, planes, extent)


def _winners(plan: Plan, planes: int, extent: tuple[int, int], limit: float) -> Tensor:
    """The visible instance of each canvas pixel, flat [planes * H * W] int64; -1: none, or saturated."""
    size = planes * extent[0] * extent[1]
    best, columns = plan.cells.new_zeros(size), _sample_columns(plan)
    winner = torch.full_like(best, -1, dtype=torch.int64)
    for chunk in _chunks(plan):
        owner, pixel, value = _sample_list(plan, columns, chunk, extent)
        top = _reduce(value, pixel, size, "amax", 0.0)
        ties = ((value == top[pixel]) & (value > best[pixel])).nonzero()[:, 0]
        lowest = -_reduce(-owner[ties].to(torch.float64), pixel[ties], size, "amax", -float(len(plan.scores)))
        winner = torch.where(top > best, lowest.to(torch.int64), winner)
        best = torch.maximum(best, top)
    return winner.masked_fill_(best > limit, -1)


def _cell_gradients(plan: Plan, winner: Tensor, grad: Tensor, extent: tuple[int, int]) -> Tensor:
    """Sum of grad * d sample / d cell over the pixels where an instance is visible: [K, P, P]."""
    rows, cols = plan.rows, plan.columns
    pixel = (winner >= 0).nonzero()[:, 0]
    owner, grad = winner[pixel], grad[pixel]
    line = rows.offset[owner] - rows.first[owner] + pixel // extent[1] % extent[0]
    pair = cols.offset[owner] - cols.first[owner] + pixel % extent[1]
    side = plan.cells.shape[1]
    if plan.sampling == "rect":
        cell, value = owner * side**2 + _visible_cells(plan, owner, line, pair), grad
    else:
        base = owner * side
        taps = [(rows.tap0[line], rows.weight0[line]), (rows.tap1[line], rows.weight1[line])]
        across = [(cols.tap0[pair], cols.weight0[pair]), (cols.tap1[pair], cols.weight1[pair])]
        cell = torch.cat([(base + i) * side + j for i, _ in taps for j, _ in across])
        value = torch.cat([grad * wy * wx for _, wy in taps for _, wx in across])
    return _reduce(value, cell, plan.cells.numel(), "sum", 0.0).view(plan.cells.shape)


def _visible_cells(plan: Plan, owner: Tensor, line: Tensor, pair: Tensor) -> Tensor:
    """The cell [T] in [0, P * P) whose value rule rect reads, the lowest of equal ones.

    Ranks are sampled instead of values: they are unique and exact in float64.
    """
    cells = plan.cells.flatten(1)
    last = cells.shape[1] - 1
    ascending = last - cells.flip(1).argsort(dim=1, stable=True)  # of equal cells the lowest comes last
    ranks = ascending.argsort(dim=1).to(torch.float64).view(plan.cells.shape)
    ranked = plan._replace(cells=ranks)
    rank = _sample_pairs(ranked, _sample_columns(ranked), line, pair)
    return ascending[owner, rank.to(torch.int64)]


def _composed(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    num_classes: int,
    canvas_h: int,
    canvas_w: int,
    spatial_scale: float,
    sampling: str,
) -> Tensor:
    extent, batch = (canvas_h, canvas_w), boxes.shape[0]
    plan = make_plan(boxes, scores, labels, masks, num_classes, extent, spatial_scale, sampling)
    out = _project(plan, batch * num_classes, extent).clamp_(max=torch.finfo(masks.dtype).max)
    return out.to(masks.dtype).view(batch, num_classes, canvas_h, canvas_w)


# The types of these functions are the schema of the operators: sampling is str, torch has no Literal.
_forward = library.custom_op("imp_trt::instance_mask_projection", _composed, mutates_args=())


@_forward.register_kernel("cuda")
def _forward_cuda(*arguments: Any) -> Tensor:
    _check_tensors(*arguments[:4])  # with other shapes the kernel would read out of bounds
    canvas = mask_projection_cuda.forward(*arguments)
    return _composed(*arguments) if canvas is None else canvas


@_forward.register_fake
def _forward_fake(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    num_classes: int,
    canvas_h: int,
    canvas_w: int,
    spatial_scale: float,
    sampling: str,
) -> Tensor:
    return masks.new_empty(boxes.shape[0], num_classes, canvas_h, canvas_w)


def _composed_backward(
    grad: Tensor,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    spatial_scale: float,
    sampling: str,
) -> tuple[Tensor, Tensor]:
    planes, extent = grad.shape[0] * grad.shape[1], (grad.shape[2], grad.shape[3])
    plan = make_plan(boxes, scores, labels, masks, grad.shape[1], extent, spatial_scale, sampling)
    winner = _winners(plan, planes, extent, torch.finfo(masks.dtype).max)
    per_cell = _cell_gradients(plan, winner, grad.to(plan.cells.dtype).flatten(), extent)

    grad_scores, grad_masks = scores.new_zeros(scores.shape), masks.new_zeros(masks.shape)
    grad_scores.view(-1)[plan.instance] = (per_cell * plan.cells).sum((1, 2)).to(scores.dtype)
    finite = masks.flatten(0, 1)[plan.instance].isfinite()
    per_cell = torch.where(finite, per_cell * plan.scores[:, None, None], 0)
    grad_masks.flatten(0, 1)[plan.instance] = per_cell.to(masks.dtype)
    return grad_scores, grad_masks


_backward = library.custom_op(
    "imp_trt::instance_mask_projection_backward", _composed_backward, mutates_args=()
)


@_backward.register_kernel("cuda")
def _backward_cuda(*arguments: Any) -> tuple[Tensor, Tensor]:
    grad, *tensors = arguments[:5]
    _check_tensors(*tensors)
    if grad.shape[0] != tensors[0].shape[0] or grad.device != tensors[0].device:
        expected = f"{tensors[0].shape[0]} images on {tensors[0].device}"
        raise InvalidInput("grad", expected=expected, got=f"{list(grad.shape)} on {grad.device}")
    return mask_projection_cuda.backward(*arguments) or _composed_backward(*arguments)


@_backward.register_fake
def _backward_fake(
    grad: Tensor,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    spatial_scale: float,
    sampling: str,
) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape), masks.new_empty(masks.shape)


class _Context(Protocol):
    """The context of an autograd function, with what _setup_context adds."""

    spatial_scale: float
    sampling: str

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...
    def save_for_backward(self, *tensors: Tensor) -> None: ...


def _setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _num_classes, _height, _width, ctx.spatial_scale, ctx.sampling = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_scores, grad_masks = _backward(grad, *ctx.saved_tensors, ctx.spatial_scale, ctx.sampling)
    return None, grad_scores, None, grad_masks, None, None, None, None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)


def instance_mask_projection(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    num_classes: int,
    canvas_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling: Sampling = "bilinear",
) -> Tensor:
    """Projects instance masks onto one plane per class: the maximum of score * mask at each pixel.

    Args:
        boxes: [B, N, 4] floating point, used as float32; xyxy in image pixels, pixel x covers [x, x + 1).
        scores: [B, N] floating point.
        labels: [B, N] integer; an instance whose label is outside [0, num_classes) contributes nothing.
        masks: [B, N, P, P] float16, bfloat16, float32 or float64 probabilities, P >= 1.
        num_classes: C, the planes of the canvas, >= 1.
        canvas_size: (H, W), each 1 to 65536.
        spatial_scale: canvas pixels per image pixel.
        sampling: how masks are sampled.

    Returns:
        canvas [B, C, H, W], dtype of masks, finite and >= 0. Differentiable in scores and masks.

    Raises:
        InvalidInput: a shape, dtype, device or option is invalid.
    """
    _check_tensors(boxes, scores, labels, masks)
    height, width = check_options(num_classes, canvas_size, spatial_scale, sampling)
    canvas: Tensor = _forward(
        boxes, scores, labels, masks, int(num_classes), height, width, float(spatial_scale), sampling
    )
    return canvas


def _check_tensors(boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor) -> None:
    shape = tuple(masks.shape)
    if len(shape) != 4 or shape[2] != shape[3] or shape[2] < 1:
        raise InvalidInput("masks", expected="shape [B, N, P, P] with P >= 1", got=list(shape))
    for name, tensor, expected in (
        ("boxes", boxes, (*shape[:2], 4)),
        ("scores", scores, shape[:2]),
        ("labels", labels, shape[:2]),
    ):
        if tuple(tensor.shape) != expected:
            raise InvalidInput(
                name, expected=f"shape {list(expected)} to match the masks", got=list(tensor.shape)
            )
        if tensor.device != masks.device:
            raise InvalidInput(name, expected=f"on {masks.device} as the masks", got=tensor.device)
    for name, tensor in (("boxes", boxes), ("scores", scores), ("masks", masks)):
        if not tensor.dtype.is_floating_point:
            raise InvalidInput(name, expected="floating point", got=tensor.dtype)
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise InvalidInput("labels", expected="an integer dtype", got=labels.dtype)

# SPDX-License-Identifier: Apache-2.0
"""Kernels for FakeCuda: the same parameters as those in plugins/, the work done by NumPy and PyTorch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imp_trt.ops.mask_projection import torch as mask_projection
from imp_trt.ops.mask_projection.options import SAMPLING_RULES
from imp_trt.ops.roi_align import torch as multilevel_roi_align
from imp_trt.preprocessing.letterbox import LetterboxTransform
from tests.support.nv12 import nv12_reference

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
Kernel = Callable[..., None]


def kernels() -> dict[str, Kernel]:
    """Every entry point that imp_trt launches."""
    table: dict[str, Kernel] = {
        "imp_frame_fit": _frame_fit,
        "imp_frame_fit_nv12": _frame_fit_nv12,
        "imp_semantic_back": _launch_invert_mask,
    }
    for dtype in DTYPES:
        table[f"imp_multilevel_roi_align_{dtype}"] = _roi_align(dtype)
        if dtype != "f32":
            table[f"imp_multilevel_roi_align_hwc8_{dtype}"] = _roi_align(dtype, hwc8=True)
        for rule in SAMPLING_RULES:
            for kind, make in (("", _forward), ("_winner", _winner), ("_backward", _backward)):
                table[f"imp_mask_projection{kind}_{rule}_{dtype}"] = make(rule, dtype)
    return table


def _memory(pointer: int, nbytes: int) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(pointer))


def _tensor(pointer: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """What lies at a pointer, to read and to write."""
    count = int(np.prod(shape))
    if not count:
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(_memory(pointer, count * dtype.itemsize)).view(dtype).view(shape)


def _inputs(pointers: tuple[int, ...], sizes: tuple[Any, ...], dtype: str) -> list[Tensor]:
    label_bytes, batch, instances, _, _, _, cells, _ = sizes
    integer = {4: torch.int32, 8: torch.int64}[label_bytes]
    shapes = [(4,), (), (), (cells, cells)]
    types = [torch.float32, torch.float32, integer, DTYPES[dtype]]
    return [
        _tensor(pointer, (batch, instances, *shape), kind)
        for pointer, shape, kind in zip(pointers, shapes, types, strict=True)
    ]


def _forward(rule: str, dtype: str) -> Kernel:
    def run(_grid: Any, _block: Any, *args: Any) -> None:
        (*arrays, canvas), sizes = args[:5], args[5:]
        _, batch, _, classes, height, width, _, scale = sizes
        out = _tensor(canvas, (batch, classes, height, width), DTYPES[dtype])
        inputs = _inputs(tuple(arrays), sizes, dtype)
        out.copy_(mask_projection._composed(*inputs, classes, height, width, scale, rule))

    return run


def _winner(rule: str, dtype: str) -> Kernel:
    def run(_grid: Any, _block: Any, *args: Any) -> None:
        _, batch, _, classes, height, width, _, _ = args[5:]
        _tensor(args[4], (batch, classes, height, width), torch.int32).fill_(7)

    return run


def _backward(rule: str, dtype: str) -> Kernel:
    def run(_grid: Any, _block: Any, *args: Any) -> None:
        (*arrays, winner, grad, grad_scores, grad_masks), sizes = args[:8], args[8:]
        _, batch, instances, classes, height, width, cells, scale = sizes
        canvas = (batch, classes, height, width)
        assert (_tensor(winner, canvas, torch.int32) == 7).all(), "the winners were not searched before"
        results = mask_projection._composed_backward(
            _tensor(grad, canvas, DTYPES[dtype]), *_inputs(tuple(arrays), sizes, dtype), scale, rule
        )
        _tensor(grad_scores, (batch, instances), torch.float32).copy_(results[0])
        _tensor(grad_masks, (batch, instances, cells, cells), DTYPES[dtype]).copy_(results[1])

    return run


def _roi_align(dtype: str, hwc8: bool = False) -> Kernel:
    def run(_grid: Any, _block: Any, *args: Any) -> None:
        (*levels, boxes, out), sizes = args[:6], args[6:]
        batch, count, channels, *sides = sizes[:11]
        size, *options = sizes[11:]
        features = []
        for k, pointer in enumerate(levels):
            h, w = sides[2 * k : 2 * k + 2]
            if hwc8:
                level = _tensor(pointer, (batch, h, w, -(-channels // 8) * 8), DTYPES[dtype])
                features.append(level[..., :channels].permute(0, 3, 1, 2).contiguous())
            else:
                features.append(_tensor(pointer, (batch, channels, h, w), DTYPES[dtype]))
        rois = _tensor(boxes, (batch, count, 4), torch.float32)
        pooled = multilevel_roi_align._composed(*features, rois, size, *options)
        _tensor(out, (batch * count, channels, size, size), DTYPES[dtype]).copy_(pooled)

    return run


def _frame_fit(_grid: Any, _block: Any, *args: Any) -> None:
    frame, out, pitch, h, w, rh, rw, height, width, swap, pad = args
    rows = _memory(frame, (h - 1) * pitch + 3 * w)
    picture = np.lib.stride_tricks.as_strided(rows, (h, w, 3), (pitch, 3, 1))
    picture = np.ascontiguousarray(picture[..., ::-1] if swap else picture)
    target = _memory(out, height * width * 3).reshape(height, width, 3)
    LetterboxTransform((h, w), (height, width), (rh, rw), pad).apply(picture, target)


def _frame_fit_nv12(_grid: Any, _block: Any, *args: Any) -> None:
    luma, chroma, out, luma_pitch, chroma_pitch, h, w, rh, rw, height, width, pad, *numbers = args
    rows = _memory(luma, (h - 1) * luma_pitch + w)
    pairs = _memory(chroma, (h // 2 - 1) * chroma_pitch + w)
    y = np.lib.stride_tricks.as_strided(rows, (h, w), (luma_pitch, 1))
    uv = np.lib.stride_tricks.as_strided(pairs, (h // 2, w // 2, 2), (chroma_pitch, 2, 1))
    target = _memory(out, height * width * 3).reshape(height, width, 3)
    picture = nv12_reference(y, uv, tuple(numbers))
    LetterboxTransform((h, w), (height, width), (rh, rw), pad).apply(picture, target)


def _launch_invert_mask(_grid: Any, _block: Any, *args: Any) -> None:
    semantic, out, height, width, rh, rw, h, w = args
    source = _memory(semantic, height * width).reshape(height, width)
    _memory(out, h * w).reshape(h, w)[...] = LetterboxTransform(
        (h, w), (height, width), (rh, rw), 0
    ).invert_mask(source)

# SPDX-License-Identifier: Apache-2.0
"""The project's operators through their real kernels on the host: each built once per test run."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from imp_trt.cuda.kernels import geometry
from tests.ops.mask_projection_cases import RULES, Case
from tests.support.cuda_on_host.host_kernels import PLUGINS, HostKernels, Out, build, missing
from tests.support.once import once

DTYPES = ("f32", "f16", "bf16")
TORCH_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
NUMPY_DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
ENTRIES = {
    "instance_mask_projection": [
        f"imp_mask_projection_{kind}{rule}_{dtype}"
        for kind in ("", "winner_", "backward_")
        for rule in RULES
        for dtype in DTYPES
    ],
    "multilevel_roi_align": [
        f"imp_multilevel_roi_align_{kind}" for kind in (*DTYPES, "hwc8_f16", "hwc8_bf16")
    ],
    "frame_fit": ["imp_frame_fit", "imp_frame_fit_nv12", "imp_semantic_back"],
}
GARBAGE = 0xFF  # in every byte before a launch: NaN or -1, so that an element that is not written shows


@functools.cache
def kernels(op: str, sanitizer: str = "address") -> HostKernels:
    """An operator's kernels; ends with the test run."""
    folder = Path(tempfile.mkdtemp(prefix="imp_trt_kernels_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if reason := missing(sanitizer):
        pytest.skip(reason)
    source, entries = PLUGINS / op / f"{op}.cu", ENTRIES[op]
    shared = once(f"{op}.{sanitizer}", lambda where: build(source, entries, where, sanitizer))
    built = HostKernels(source, entries, folder, sanitizer, program=shared / "kernels")
    atexit.register(built.close)
    return built


def stored(array: Any, dtype: str) -> NDArray[Any]:
    """Numbers as the kernel stores them; bfloat16 as uint16."""
    tensor = torch.as_tensor(np.asarray(array)).to(TORCH_DTYPES[dtype]).contiguous()
    if dtype == "bf16":
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def as_tensor(array: NDArray[Any], dtype: str) -> torch.Tensor:
    """The tensor that `stored` was made from."""
    if dtype == "bf16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def garbage(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    return np.frombuffer(bytes([GARBAGE]) * (int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(
        shape
    )


class Projection:
    """One call's sizes: what the kernels of instance mask projection have in common.

    Attributes:
        case: masks are converted to `dtype`; labels stay int32 or int64.
        planes: blocks along z, or None for as many as planes.
    """

    def __init__(
        self,
        case: Case,
        classes: int,
        canvas: tuple[int, int],
        scale: float = 1.0,
        rule: str = "bilinear",
        dtype: str = "f32",
        sanitizer: str = "address",
        planes: int | None = None,
    ) -> None:
        self.batch, self.count, self.cells = case.masks.shape[:3]
        self.shape = (self.batch, classes, *canvas)
        self.rule, self.dtype = rule, dtype
        self.case = case._replace(masks=stored(case.masks, dtype))
        self._kernels = kernels("instance_mask_projection", sanitizer)
        self._constants = geometry("instance_mask_projection")
        wide, high = self._constants["IMP_MP_TILE_W"], self._constants["IMP_MP_TILE_H"]
        self._grid = (-(-canvas[1] // wide), -(-canvas[0] // high), planes or self.batch * classes)
        self._sizes = [
            case.labels.dtype.itemsize,
            self.batch,
            self.count,
            classes,
            *canvas,
            self.cells,
            float(scale),
        ]

    def _inputs(self) -> list[Any]:
        return [np.ascontiguousarray(array) if array.size else None for array in self.case]

    def canvas(self, offset: int = 0) -> NDArray[Any]:
        """[B, C, H, W] as stored; `offset` bytes from an address that divides by 16."""
        out = Out(garbage(self.shape, NUMPY_DTYPES[self.dtype]), offset)
        entry = f"imp_mask_projection_{self.rule}_{self.dtype}"
        return self._tiles(entry, out)

    def winner(self) -> NDArray[np.int32]:
        """[B, C, H, W] int32."""
        entry = f"imp_mask_projection_winner_{self.rule}_{self.dtype}"
        return self._tiles(entry, Out(garbage(self.shape, np.int32)))

    def _tiles(self, entry: str, out: Out) -> NDArray[Any]:
        block = (self._constants["IMP_MP_THREADS"], 1, 1)
        (result,) = self._kernels.run(entry, self._grid, block, [*self._inputs(), out, *self._sizes])
        return result

    def backward(
        self, winner: NDArray[np.int32], grad: NDArray[Any], images: int | None = None
    ) -> tuple[NDArray[Any], ...]:
        """(grad_scores [B, N] float32, grad_masks [B, N, P, P] as stored); grad as stored."""
        outputs = [
            Out(garbage((self.batch, self.count), np.float32)),
            Out(garbage(self.case.masks.shape, NUMPY_DTYPES[self.dtype])),
        ]
        arguments = [*self._inputs(), winner, grad, *outputs, *self._sizes]
        entry = f"imp_mask_projection_backward_{self.rule}_{self.dtype}"
        block = (self._constants["IMP_MP_BACKWARD_THREADS"], 1, 1)
        return tuple(self._kernels.run(entry, (self.count, images or self.batch, 1), block, arguments))

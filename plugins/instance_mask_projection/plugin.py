# SPDX-License-Identifier: Apache-2.0
"""``InstanceMaskProjection`` as a TensorRT plugin in Python; README.md is the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from imp_trt.cuda.driver import Device
from imp_trt.errors import InvalidInput
from imp_trt.ops.mask_projection.cuda import launch_mask_projection, prepare
from imp_trt.ops.mask_projection.options import MAX_CANVAS_SIDE, check_options
from imp_trt.plugins.python_plugin import FLOATING, PluginOperator, ShapeBuilder, Tensor
from imp_trt.plugins.tensorrt_types import DimsExprs, IDimensionExpr

_BOXES, _SCORES, _LABELS, _MASKS = range(4)


@dataclass(frozen=True)
class InstanceMaskProjection(PluginOperator):
    """Inputs boxes [B, N, 4], scores [B, N], labels [B, N], masks [B, N, P, P]; output [B, C, H, W]."""

    NAME: ClassVar[str] = "InstanceMaskProjection"
    RANKS: ClassVar[tuple[int, ...]] = (3, 2, 2, 4)
    OUTPUT_LIKE: ClassVar[int] = _MASKS

    num_classes: int
    canvas_h: int
    canvas_w: int
    spatial_scale: float
    sampling: str

    def __post_init__(self) -> None:
        for name in ("canvas_h", "canvas_w"):  # check_options reports both as canvas_size
            if not 1 <= getattr(self, name) <= MAX_CANVAS_SIDE:
                raise InvalidInput(name, expected=f"1 to {MAX_CANVAS_SIDE}", got=getattr(self, name))
        check_options(self.num_classes, (self.canvas_h, self.canvas_w), self.spatial_scale, self.sampling)

    @staticmethod
    def accepts(position: int, elements: Sequence[str]) -> bool:
        allowed = {_LABELS: ("i32", "i64"), _MASKS: FLOATING}.get(position, ("f32",))
        return elements[position] in allowed

    def output_shape(self, inputs: Sequence[DimsExprs], builder: ShapeBuilder) -> list[IDimensionExpr]:
        sizes = (self.num_classes, self.canvas_h, self.canvas_w)
        return [inputs[_MASKS][0], *(builder.constant(size) for size in sizes)]

    def check_shapes(self, shapes: Sequence[tuple[int, ...]]) -> None:
        masks = shapes[_MASKS]
        if masks[2] != masks[3] or masks[2] < 1:
            raise InvalidInput("masks", expected="[B, N, P, P] with P >= 1", got=masks)
        expected = [(*masks[:2], 4), masks[:2], masks[:2]]
        if list(shapes[:_MASKS]) != expected:
            raise InvalidInput("boxes, scores and labels", expected=expected, got=list(shapes[:_MASKS]))

    def prepare(self, device: Device, elements: Sequence[str] | None) -> None:
        prepare(device, self.sampling, elements[_MASKS] if elements else None)

    @staticmethod
    def try_kernels(device: Device) -> None:
        prepare(device, "bilinear", "f16")

    def launch(self, inputs: Sequence[Tensor], output: int, stream: int, device: Device) -> None:
        boxes, scores, labels, masks = inputs
        batch, instances, cells = masks.shape[:3]
        launch_mask_projection(
            boxes.pointer,
            scores.pointer,
            labels.pointer,
            masks.pointer,
            output,
            label_bytes=8 if labels.element == "i64" else 4,
            batch=batch,
            instances=instances,
            classes=self.num_classes,
            height=self.canvas_h,
            width=self.canvas_w,
            cells=cells,
            spatial_scale=self.spatial_scale,
            sampling=self.sampling,
            dtype=masks.element,
            stream=stream,
            device=device,
        )

# SPDX-License-Identifier: Apache-2.0
"""``ImpMultilevelRoiAlign`` as a TensorRT plugin in Python; README.md is the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from imp_trt.cuda.driver import Device
from imp_trt.errors import InvalidInput
from imp_trt.ops.roi_align.cuda import MAX_SAMPLING_RATIO, launch_multilevel_roi_align, prepare
from imp_trt.plugins.python_plugin import FLOATING, PluginOperator, ShapeBuilder, Tensor
from imp_trt.plugins.tensorrt_types import DimsExprs, IDimensionExpr

_BOXES = 4


@dataclass(frozen=True)
class MultilevelRoiAlign(PluginOperator):
    """Inputs p2..p5 [B, C, H_l, W_l] and boxes [B, N, 4]; output [B * N, C, output_size, output_size]."""

    NAME: ClassVar[str] = "ImpMultilevelRoiAlign"
    RANKS: ClassVar[tuple[int, ...]] = (4, 4, 4, 4, 3)
    OUTPUT_LIKE: ClassVar[int] = 0

    output_size: int
    sampling_ratio: int
    canonical_level: int
    canonical_size: int
    aligned: int = 0

    def __post_init__(self) -> None:
        for name in ("output_size", "canonical_size"):
            if getattr(self, name) < 1:
                raise InvalidInput(name, expected="an integer >= 1", got=getattr(self, name))
        if not 0 <= self.sampling_ratio <= MAX_SAMPLING_RATIO:
            raise InvalidInput(
                "sampling_ratio", expected=f"0 (adaptive) to {MAX_SAMPLING_RATIO}", got=self.sampling_ratio
            )
        if self.aligned not in (0, 1):
            raise InvalidInput("aligned", expected="0 or 1", got=self.aligned)

    @staticmethod
    def accepts(position: int, elements: Sequence[str]) -> bool:
        if position == _BOXES:
            return elements[_BOXES] == "f32"
        return elements[position] in FLOATING and elements[position] == elements[0]

    @staticmethod
    def accepts_layout(position: int, elements: Sequence[str], layouts: Sequence[str]) -> bool:
        if position == _BOXES or elements[position] == "f32":
            return layouts[position] == "LINEAR"
        return layouts[position] in ("LINEAR", "HWC8") and layouts[position] == layouts[0]

    def output_shape(self, inputs: Sequence[DimsExprs], builder: ShapeBuilder) -> list[IDimensionExpr]:
        boxes, side = inputs[_BOXES], builder.constant(self.output_size)
        return [builder.product(boxes[0], boxes[1]), inputs[0][1], side, side]

    def check_shapes(self, shapes: Sequence[tuple[int, ...]]) -> None:
        *levels, boxes = shapes
        if boxes[2] != 4:
            raise InvalidInput("boxes", expected="[B, N, 4]", got=boxes)
        if any(level[:2] != (boxes[0], shapes[0][1]) or min(level[2:]) < 1 for level in levels):
            expected = "[B, C, H, W] with the B of boxes, one C and at least one cell"
            raise InvalidInput("p2..p5", expected=expected, got=levels)

    def prepare(self, device: Device, elements: Sequence[str] | None) -> None:
        prepare(device)

    @staticmethod
    def try_kernels(device: Device) -> None:
        prepare(device)

    def launch(self, inputs: Sequence[Tensor], output: int, stream: int, device: Device) -> None:
        *levels, boxes = inputs
        p2, p3, p4, p5 = (level.pointer for level in levels)
        launch_multilevel_roi_align(
            p2,
            p3,
            p4,
            p5,
            boxes.pointer,
            output,
            batch=boxes.shape[0],
            boxes_per_image=boxes.shape[1],
            channels=levels[0].shape[1],
            sizes=tuple((level.shape[2], level.shape[3]) for level in levels),
            output_size=self.output_size,
            sampling_ratio=self.sampling_ratio,
            canonical_level=self.canonical_level,
            canonical_size=self.canonical_size,
            dtype=levels[0].element,
            layout=levels[0].layout.lower(),
            stream=stream,
            device=device,
            aligned=bool(self.aligned),
        )

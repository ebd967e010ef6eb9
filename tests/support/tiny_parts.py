# SPDX-License-Identifier: Apache-2.0
"""tests.support.tiny's network with a canvas part, whose answer is known too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from imp_trt.artifacts.canvas_part import CanvasPart
from imp_trt.artifacts.writing import write_artifact
from tests.support import tiny

SHAPE = (2, tiny.HEIGHT // 4, tiny.WIDTH // 4)
"""[T, h, w] of the canvas."""


def graph(batch: int = 1, inputs: tuple[str, str] = ("frame", "canvas")) -> onnx.ModelProto:
    """frame and canvas -> semantic: blue / 64, plus 1 (mod 4) where the sum of the planes is above 0.3."""
    float32, int32, uint8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8
    frame, canvas = inputs
    make = helper.make_node
    nodes = [
        make("Gather", [frame, "blue"], ["plane"], axis=3),
        make("Cast", ["plane"], ["wide"], to=int32),
        make("Div", ["wide", "step"], ["class"]),
        make("Resize", [canvas, "", "scales"], ["large"], mode="nearest"),
        make("ReduceSum", ["large", "planes"], ["sum"], keepdims=0),
        make("Greater", ["sum", "least"], ["there"]),
        make("Cast", ["there"], ["one"], to=int32),
        make("Add", ["class", "one"], ["both"]),
        make("Mod", ["both", "classes"], ["found"]),
        make("Cast", ["found"], ["semantic"], to=uint8),
    ]
    values = {
        "blue": np.array(0, np.int64),
        "step": np.array(64, np.int32),
        "scales": np.array([1, 1, 4, 4], np.float32),
        "planes": np.array([1], np.int64),
        "least": np.array(0.3, np.float32),
        "classes": np.array(4, np.int32),
    }
    body = helper.make_graph(
        nodes,
        "tiny_canvas",
        [
            helper.make_tensor_value_info(frame, uint8, [batch, tiny.HEIGHT, tiny.WIDTH, 3]),
            helper.make_tensor_value_info(canvas, float32, [batch, *SHAPE]),
        ],
        [helper.make_tensor_value_info("semantic", uint8, [batch, tiny.HEIGHT, tiny.WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def artifact(
    folder: Path, whole: onnx.ModelProto | None = None, batch: int = 1, name: str = "tiny_parts.onnx"
) -> Path:
    """An artifact of two files; the whole network is tests.support.tiny unless another is given."""
    return write_artifact(
        folder / name,
        (whole or tiny.graph(batch)).SerializeToString(),
        tiny.manifest(batch, canvas_part=CanvasPart((batch, *SHAPE))),
        canvas=graph(batch).SerializeToString(),
    )

# SPDX-License-Identifier: Apache-2.0
"""The class map without ArgMax: PyTorch's indices to the bit, and what is left alone."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

from imp_trt.export.onnx.class_map import without_argmax
from imp_trt.export.onnx.graph_checks import check

TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}


def class_map(
    classes: int, kind: int = TensorProto.FLOAT, axis: int = 1, to: int = TensorProto.UINT8
) -> ModelProto:
    """logits [2, classes, 5, 7] -> ArgMax -> Cast -> semantic."""
    shape, out = [2, classes, 5, 7], [2, 5, 7]
    nodes = [
        helper.make_node("ArgMax", ["logits"], ["index"], name="argmax", axis=axis, keepdims=0),
        helper.make_node("Cast", ["index"], ["semantic"], name="cast", to=to),
    ]
    out = [side for at, side in enumerate(shape) if at != axis]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("logits", kind, shape)],
        [helper.make_tensor_value_info("semantic", to, out)],
        value_info=[helper.make_tensor_value_info("index", TensorProto.INT64, out)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: ModelProto, logits: torch.Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    result: np.ndarray = session.run(None, {"logits": logits.numpy()})[0]
    return result


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("classes", [2, 3, 19, 128, 254, 255, 256])
def test_it_is_bit_equal_to_pytorchs_argmax(classes: int, dtype: torch.dtype) -> None:
    model = without_argmax(class_map(classes, TYPES[dtype]))
    assert operators(model) == ["ReduceMax", "Equal", "Where", "ReduceMin", "Cast"]
    check(model)
    generator = torch.Generator().manual_seed(classes)
    smooth = torch.randn(2, classes, 5, 7, generator=generator).to(dtype)
    coarse = torch.randint(0, 2, smooth.shape, generator=generator).to(dtype)  # nearly every pixel is a tie
    last = torch.zeros_like(smooth)
    last[:, -1] = 1
    for logits in (smooth, coarse, last, torch.zeros_like(smooth), torch.full_like(smooth, -torch.inf)):
        assert np.array_equal(run(model, logits), logits.argmax(1).to(torch.uint8).numpy())


def test_infinite_logits_have_a_maximum() -> None:
    logits = torch.zeros(2, 4, 5, 7)
    logits[:, 2] = torch.inf
    logits[0, 3] = torch.inf
    assert (run(without_argmax(class_map(4)), logits) == 2).all()


def test_a_pixel_that_is_not_a_number_has_a_class() -> None:
    logits = torch.randn(2, 5, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = logits.argmax(1).numpy()
    logits[0, :, 0, 0] = torch.nan
    logits[1, 3, 1, 1] = torch.nan
    found = run(without_argmax(class_map(5)), logits)
    assert found.max() < 5
    expected[0, 0, 0], expected[1, 1, 1] = found[0, 0, 0], found[1, 1, 1]
    assert np.array_equal(found, expected), "other pixels are not affected"


@pytest.mark.parametrize(
    "model",
    [
        class_map(257),
        class_map(4, axis=2),
        class_map(4, to=TensorProto.INT32),
        class_map(4, TensorProto.INT64),
    ],
    ids=["more classes than uint8 has", "another axis", "another type", "integers"],
)
def test_any_other_argmax_stays(model: ModelProto) -> None:
    assert without_argmax(model) == model


def test_an_argmax_that_is_an_output_stays() -> None:
    model = class_map(4)
    model.graph.output.append(helper.make_tensor_value_info("index", TensorProto.INT64, [2, 5, 7]))
    assert without_argmax(model) == model


def test_the_given_model_is_not_changed() -> None:
    model = class_map(4)
    before = model.SerializeToString(deterministic=True)
    again = without_argmax(without_argmax(model))
    assert model.SerializeToString(deterministic=True) == before
    assert operators(again).count("ReduceMax") == 1

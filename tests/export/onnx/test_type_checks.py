# SPDX-License-Identifier: Apache-2.0
"""Types that a target would reject, or that would move boxes, are found."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from imp_trt.export.onnx.function_builder import build_function
from imp_trt.export.onnx.graph_checks import check, graph_problems
from imp_trt.export.onnx.type_checks import residual_additions

FLOAT, FLOAT16, BFLOAT16, INT8 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.INT8,
)


def graph(nodes, inputs, outputs, constants=(), opset=19, values=(), functions=()):
    for index, node in enumerate(nodes):
        node.name = node.name or f"n{index}"
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants],
        value_info=[helper.make_tensor_value_info(*v) for v in values],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("imp_trt", 1)] if functions else [])
    return helper.make_model(body, opset_imports=opsets, functions=functions, ir_version=10)


def convolution(opset=19, **changes):
    """x -> Q -> DQ -> Conv(weight through DQ) -> y; changes replace constants."""
    constants = {
        "scale": np.float16(0.1),
        "zero": np.int8(0),
        "w": np.ones((4, 3, 1, 1), np.int8),
        "w_scale": np.full(4, 0.01, np.float16),
        "w_zero": np.zeros(4, np.int8),
        "b": np.zeros(4, np.float16),
    } | changes
    axis = constants.pop("axis", 0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], axis=axis),
        helper.make_node("Conv", ["d", "wd", "b"], ["y"]),
    ]
    shapes = [("x", FLOAT16, [1, 3, 5, 5])], [("y", FLOAT16, [1, 4, 5, 5])]
    return graph(nodes, *shapes, list(constants.items()), opset)


def test_a_layer_between_pairs_is_fine():
    check(convolution())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"opset": 18}, "QuantizeLinear needs opset 19, the model has 18"),
        ({"zero": np.int8(3)}, "is not symmetric"),
        ({"zero": np.uint8(0)}, "has type UINT8, not INT8 or FLOAT8E4M3FN"),
        ({"scale": np.float16(0)}, "scale that is not positive"),
        ({"scale": np.float16("inf")}, "scale that is not positive"),
        ({"w_scale": np.float16(0.1), "w_zero": np.int8(0)}, "one scale per channel of axis 0"),
        ({"w": np.ones((4, 4, 1, 1), np.int8), "axis": 1}, "has scales along axis 1 of its weight"),
        ({"scale": np.full(3, 0.1, np.float16), "zero": np.zeros(3, np.int8)}, "more than one scale"),
    ],
)
def test_other_forms_of_quantization(changes, problem):
    assert any(problem in p for p in graph_problems(convolution(**changes)))


def test_a_quantized_bias():
    constants = {
        "b": np.zeros(4, np.int32),
        "b_scale": np.ones(4, np.float16),
        "b_zero": np.zeros(4, np.int32),
    }
    model = convolution(**constants)
    conv = model.graph.node.pop()
    model.graph.node.append(
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["bd"], axis=0, name="bias")
    )
    conv.input[2] = "bd"
    model.graph.node.append(conv)
    problems = graph_problems(model)
    assert any("has type INT32" in p for p in problems)
    assert any("reads a quantized tensor as input 2" in p for p in problems)


def test_a_quantized_projection():
    def pool(op, t):
        t.b = op.Relu(t.a)

    def bad(op, t):
        t.b = op.QuantizeLinear(t.a, t.s, t.z)

    body = build_function("Pool", (), ("a",), "b", pool)
    body.opset_import[0].version = 19
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node(
            "Pool", ["d"], ["y"], domain="imp_trt", plugin_version="1", plugin_namespace="imp_trt"
        ),
    ]
    constants = [("scale", np.float32(0.1)), ("zero", np.int8(0))]
    model = graph(nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])], constants, functions=[body])
    assert any("Pool n2 reads a quantized tensor" in p for p in graph_problems(model))
    inside = build_function("Bad", (), ("a", "s", "z"), "b", bad)
    model.functions.append(inside)
    assert any("function Bad is quantized" in p for p in graph_problems(model))


@pytest.mark.parametrize("kind", [FLOAT16, BFLOAT16])
@pytest.mark.parametrize("operator", ["Softmax", "Sigmoid", "Exp"])
def test_scores_in_a_low_type(operator, kind):
    model = graph([helper.make_node(operator, ["x"], ["y"])], [("x", kind, [4])], [("y", kind, [4])])
    assert any(f"{operator} uses " in p for p in graph_problems(model))
    fine = graph([helper.make_node(operator, ["x"], ["y"])], [("x", FLOAT, [4])], [("y", FLOAT, [4])])
    assert graph_problems(fine) == []


def test_boxes_in_a_low_type():
    inputs = [
        ("boxes", FLOAT16, [1, 2, 4]),
        ("scores", FLOAT, [1, 2]),
        ("labels", TensorProto.INT64, [1, 2]),
        ("masks", FLOAT16, [1, 2, 3, 3]),
    ]
    node = helper.make_node("InstanceMaskProjection", [i[0] for i in inputs], ["y"], domain="imp_trt")
    model = graph([node], inputs, [("y", FLOAT16, [1, 2, 8, 8])])
    problems = [p for p in graph_problems(model) if "instead of FLOAT" in p]
    assert problems == ["InstanceMaskProjection uses FLOAT16 tensor boxes instead of FLOAT"]


def test_bfloat16_is_checked_as_if_it_were_float16():
    def model(**attributes):
        node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
        shapes = (
            [("x", BFLOAT16, [1, 1, 5, 5]), ("w", BFLOAT16, [1, 1, 3, 3])],
            [("y", BFLOAT16, [1, 1, 3, 3])],
        )
        return graph([node], *shapes, opset=18)

    check(model())
    with pytest.raises(Exception, match="valid ONNX"):
        check(model(strides=[2, 2]))


def block(shortcut_first: bool = False, activation: str = "Relu") -> onnx.ModelProto:
    """A convolution between pairs, whose output is added to a dequantized shortcut before an activation."""
    model = convolution()
    pair = ["q", "scale", "zero"]
    model.graph.node.append(helper.make_node("DequantizeLinear", pair, ["shortcut"], name="shortcut"))
    inputs = ["shortcut", "y"] if shortcut_first else ["y", "shortcut"]
    model.graph.node.append(helper.make_node("Add", inputs, ["sum"], name="sum"))
    model.graph.node.append(helper.make_node(activation, ["sum"], ["out"], name="activation"))
    model.graph.output[0].name = "out"
    return model


def test_the_shortcut_of_a_residual_block_may_be_quantized():
    assert list(residual_additions(block())) == ["sum"]
    assert graph_problems(block()) == []


@pytest.mark.parametrize("model", [block(shortcut_first=True), block(activation="Sigmoid")])
def test_another_sum_of_a_quantized_tensor(model):
    assert list(residual_additions(model)) == []
    assert any("Add sum reads a quantized tensor" in problem for problem in graph_problems(model))

# SPDX-License-Identifier: Apache-2.0
"""Each thing that some target could not run or could misread is rejected."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from imp_trt.errors import ExportError
from imp_trt.export.onnx.function_builder import build_function
from imp_trt.export.onnx.graph_checks import check, graph_problems


def graph(
    nodes,
    inputs=(("x", [2, 5]),),
    outputs=(("y", [2, 5]),),
    initializers=(),
    functions=(),
    kind=TensorProto.FLOAT,
):
    for index, node in enumerate(nodes):
        node.name = node.name or f"n{index}"
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid("imp_trt", 1)] if functions else [])
    return helper.make_model(body, opset_imports=opsets, functions=list(functions), ir_version=10)


def double(name="Double"):
    def write(op, t):
        t.b = op.Add(t.a, t.a)

    return build_function(name, (), ("a",), "b", write)


def call(name="Double", **attributes):
    given = {"plugin_version": "1", "plugin_namespace": "imp_trt", **attributes}
    return helper.make_node(name, ["x"], ["y"], domain="imp_trt", **given)


def test_a_good_graph_passes():
    check(graph([helper.make_node("Relu", ["x"], ["y"])]))
    check(graph([call()], functions=[double()]))


@pytest.mark.parametrize(
    "name", ["NonZero", "NonMaxSuppression", "ScatterND", "RoiAlign", "GroupNormalization", "Unique"]
)
def test_operators_outside_the_list(name):
    problems = graph_problems(graph([helper.make_node(name, ["x"], ["y"])]))
    assert any(f"{name} is not supported by every target" in p for p in problems)


def test_control_flow():
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])])
    problems = graph_problems(
        graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)])
    )
    assert any("subgraph" in p for p in problems)


def test_the_same_in_a_function_body():
    def write(op, t):
        t.b = op.NonZero(t.a)

    body = build_function("Bad", (), ("a",), "b", write)
    assert any("function Bad: NonZero" in p for p in graph_problems(graph([call("Bad")], functions=[body])))


@pytest.mark.parametrize(("k", "fine"), [(3840, True), (3841, False)])
def test_topk_limit(k, fine):
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"])
    constant = numpy_helper.from_array(np.array([k], np.int64), "k")
    problems = graph_problems(graph([node], [("x", [2, 5000])], [("y", [2, k])], [constant]))
    assert (problems == []) == fine


def test_dynamic_dimensions():
    problems = graph_problems(graph([helper.make_node("Relu", ["x"], ["y"])], [("x", ["batch", 5])]))
    assert any("dynamic dimension batch" in p for p in problems)


def test_uint8_between_input_and_output():
    transpose = helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])
    problems = graph_problems(graph([transpose], [("x", [2, 5])], [("y", [5, 2])], kind=TensorProto.UINT8))
    assert any("Transpose uses uint8" in p for p in problems)


def test_resize_with_antialias():
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1)
    constant = numpy_helper.from_array(np.ones(2, np.float32), "s")
    assert any("antialias" in p for p in graph_problems(graph([node], initializers=[constant])))


@pytest.mark.parametrize(
    ("functions", "node", "text"),
    [
        ([], call(), "no function body"),
        ([double(), double()], call(), "two functions Double"),
        ([double("Relu")], call("Relu"), "the name of an ONNX operator"),
        ([double()], call(plugin_version="2"), "plugin_version='2' instead of '1'"),
        ([double()], helper.make_node("Double", ["x"], ["y"], domain="imp_trt"), "plugin_namespace=None"),
    ],
)
def test_custom_operators(functions, node, text):
    assert any(text in p for p in graph_problems(graph([node], functions=functions)))


def test_a_function_of_another_opset():
    other = double()
    other.opset_import[0].version = 17
    assert any("has opset 17, the model 18" in p for p in graph_problems(graph([call()], functions=[other])))


def test_roi_align_in_the_body_of_the_operator_that_has_a_plugin():
    body = helper.make_function(
        "imp_trt",
        "ImpMultilevelRoiAlign",
        ["a"],
        ["b"],
        [helper.make_node("RoiAlign", ["a"], ["b"], name="n")],
        [helper.make_opsetid("", 18)],
    )
    other = helper.make_function(
        "imp_trt", "Other", ["c"], ["d"], [helper.make_node("RoiAlign", ["c"], ["d"], name="m")], []
    )
    model = graph([helper.make_node("Relu", ["x"], ["y"], name="r")], functions=[body, other])
    found = [problem for problem in graph_problems(model) if "RoiAlign is not" in problem]
    assert found == ["function Other: RoiAlign is not supported by every target"]


def test_names_used_twice():
    clash = double()
    clash.node[0].output[0] = clash.output[0] = "x"
    assert any("tensor x is defined twice" in p for p in graph_problems(graph([call()], functions=[clash])))
    nodes = [
        helper.make_node("Relu", ["x"], ["t"], name="same"),
        helper.make_node("Relu", ["t"], ["y"], name="same"),
    ]
    assert any("'same' is not unique" in p for p in graph_problems(graph(nodes)))


def test_problems_are_one_typed_error():
    with pytest.raises(ExportError, match=r"NonZero is not supported by every target"):
        check(graph([helper.make_node("NonZero", ["x"], ["y"])]))
    with pytest.raises(ExportError, match="valid ONNX"):
        check(graph([helper.make_node("Relu", ["missing"], ["y"])]))


def test_function_tensors_carry_the_functions_name():
    function = double()
    assert list(function.input) == ["Double.a"]
    assert list(function.output) == ["Double.b"]
    assert list(function.node[0].input) == ["Double.a", "Double.a"]
    assert onnx.printer.to_text(function).count("Double.") >= 5


def test_an_initializer_without_elements():
    empty = numpy_helper.from_array(np.zeros((1, 0, 4), np.float32), "boxes")
    problems = graph_problems(graph([helper.make_node("Relu", ["x"], ["y"])], initializers=[empty]))
    assert problems == ["initializer boxes has no elements"]

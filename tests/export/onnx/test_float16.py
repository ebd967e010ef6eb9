# SPDX-License-Identifier: Apache-2.0
"""float16 layers in third-party files: which become float16, which stay float32, and how they round."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from imp_trt.export.onnx.float16 import to_float16
from imp_trt.export.onnx.float16_rounding import with_float16_rounding
from tests.support import foreign

make, info = helper.make_node, helper.make_tensor_value_info
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def inferred(model: ModelProto) -> ModelProto:
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def network(nodes: Sequence[NodeProto], outputs: dict[str, tuple[int, Sequence[int]]]) -> ModelProto:
    """x [1, 4, 8, 8] float32, a kernel w [4, 4, 1, 1], then these nodes."""
    random = np.random.default_rng(1)
    kernel = numpy_helper.from_array(random.standard_normal((4, 4, 1, 1)).astype(np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "network",
        [info("x", FLOAT, [1, 4, 8, 8])],
        [info(name, *kind) for name, kind in outputs.items()],
        [kernel, numpy_helper.from_array(np.array([3], np.int64), "three")],
    )
    return inferred(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))


def types(model: ModelProto) -> dict[str, set[int]]:
    """Operator -> types of its first inputs."""
    known = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.input)}
    known |= {i.name: i.data_type for i in model.graph.initializer}
    found: dict[str, set[int]] = {}
    for node in model.graph.node:
        found.setdefault(node.op_type, set()).add(known[node.input[0]])
    return found


def outputs(model: ModelProto, inputs: Any) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def test_layers_and_what_is_between_them() -> None:
    model = inferred(foreign.plain())
    before = model.SerializeToString()
    lowered = to_float16(model)
    onnx.checker.check_model(lowered, full_check=True)
    assert model.SerializeToString() == before
    found = types(lowered)
    for op in ("Conv", "Relu", "Add", "Sigmoid", "Resize", "ArgMax", "GlobalAveragePool"):
        assert found[op] == {HALF}, op
    assert found["Sub"] == {FLOAT}, "pixels before the first layer"
    assert found["Mul"] == {FLOAT, HALF}, "the normalization, and the activation"
    assert [o.type.tensor_type.elem_type for o in lowered.graph.output] == [FLOAT, TensorProto.UINT8, FLOAT]
    stored = {i.name: i.data_type for i in lowered.graph.initializer}
    assert {name for name, kind in stored.items() if kind == HALF} == {
        "w0.float16",
        "w1.float16",
        "w2.float16",
    }
    assert "w0" not in stored, "weights are not stored twice"


@pytest.mark.slow
def test_it_is_the_same_every_time() -> None:
    model = inferred(foreign.plain())
    files = set()
    for _ in range(20):
        files.add(to_float16(model).SerializeToString(deterministic=True))
        gc.collect()
    assert len(files) == 1


def test_what_decides_is_exact() -> None:
    """Scores that are sorted and compared: the arithmetic behind the last layer is float32."""
    lowered = to_float16(
        network(
            [
                make("Conv", ["x", "w"], ["c"], name="conv"),
                make("Flatten", ["c"], ["flat"], name="flatten"),
                make("Softmax", ["flat"], ["scores"], name="softmax", axis=1),
                make("Mul", ["scores", "scores"], ["squared"], name="square"),
                make("TopK", ["squared", "three"], ["best", "index"], name="topk"),
            ],
            {"best": (FLOAT, [1, 3]), "index": (TensorProto.INT64, [1, 3])},
        )
    )
    onnx.checker.check_model(lowered, full_check=True)
    found = types(lowered)
    assert found["Conv"] == {HALF}
    assert [found[op] for op in ("Flatten", "Softmax", "Mul", "TopK")] == [{FLOAT}] * 4


def test_sums_over_many_values_are_exact() -> None:
    lowered = to_float16(
        network(
            [
                make("Conv", ["x", "w"], ["c"], name="conv"),
                make("ReduceMean", ["c", "three"], ["mean"], name="mean"),
                make("Sub", ["c", "mean"], ["centered"], name="center"),
                make("Conv", ["centered", "w"], ["y"], name="conv2"),
            ],
            {"y": (FLOAT, [1, 4, 8, 8])},
        )
    )
    found = types(lowered)
    assert (found["Conv"], found["ReduceMean"]) == ({HALF}, {FLOAT})


@pytest.mark.slow
def test_boxes_are_exact_and_masks_are_not() -> None:
    lowered = to_float16(inferred(foreign.projecting()))
    (node,) = [n for n in lowered.graph.node if n.op_type == "InstanceMaskProjection"]
    known = {v.name: v.type.tensor_type.elem_type for v in (*lowered.graph.value_info, *lowered.graph.output)}
    known |= {i.name: i.data_type for i in lowered.graph.initializer}
    assert [known[name] for name in node.input[:2]] == [FLOAT, FLOAT]
    assert known[node.input[3]] == HALF
    onnx.checker.check_model(lowered, full_check=True)


def test_functions_of_others_are_expanded() -> None:
    model = foreign.plain()
    body = helper.make_function(
        "theirs",
        "Silu",
        ["X"],
        ["Y"],
        [make("Sigmoid", ["X"], ["S"]), make("Mul", ["X", "S"], ["Y"])],
        [helper.make_opsetid("", 18)],
    )
    nodes = [n for n in model.graph.node if n.name not in ("gate", "silu")]
    index = next(i for i, n in enumerate(nodes) if n.name == "shortcut")
    nodes.insert(index + 1, make("Silu", ["s1"], ["a1"], domain="theirs"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    lowered = to_float16(inferred(model))
    assert not lowered.functions
    assert types(lowered)["Sigmoid"] == {HALF}
    for a, b in zip(
        outputs(foreign.plain(), foreign.images()), outputs(lowered, foreign.images()), strict=True
    ):
        assert np.abs(a.astype(np.float64) - b).max() <= 1e-3 * np.abs(a).max()


def test_names_that_are_taken() -> None:
    model = foreign.plain()
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            if name == "c1":
                node.output[i] = "r0.float16"
        for i, name in enumerate(node.input):
            if name == "c1":
                node.input[i] = "r0.float16"
    lowered = to_float16(inferred(model))
    onnx.checker.check_model(lowered, full_check=True)
    written = [name for n in lowered.graph.node for name in n.output]
    assert len(written) == len(set(written))


def test_an_output_that_is_read_as_well() -> None:
    lowered = to_float16(
        network(
            [
                make("Conv", ["x", "w"], ["features"], name="conv"),
                make("Conv", ["features", "w"], ["y"], name="conv2"),
            ],
            {"features": (FLOAT, [1, 4, 8, 8]), "y": (FLOAT, [1, 4, 8, 8])},
        )
    )
    onnx.checker.check_model(lowered, full_check=True)
    assert [o.type.tensor_type.elem_type for o in lowered.graph.output] == [FLOAT, FLOAT]
    assert types(lowered)["Conv"] == {HALF}


# ---- rounding ----


@pytest.mark.parametrize("source", [foreign.plain, foreign.projecting])
def test_rounding_is_that_of_float16(source: Any) -> None:
    """Every tensor that is float16 in the graph holds values of float16 in its rounded form."""
    lowered = to_float16(inferred(source()))
    rounded = with_float16_rounding(lowered)
    onnx.checker.check_model(rounded, full_check=True)
    low = [v for v in lowered.graph.value_info if v.type.tensor_type.elem_type == HALF]
    known = {v.name: v for v in inferred(rounded).graph.value_info}
    assert [known[v.name].type.tensor_type.elem_type for v in low] == [FLOAT] * len(low)
    shown = ModelProto()
    shown.CopyFrom(rounded)
    shown.graph.output.extend(known[v.name] for v in low)
    values = outputs(shown, foreign.images())[len(rounded.graph.output) :]
    for v, array in zip(low, values, strict=True):
        assert np.array_equal(array, array.astype(np.float16).astype(np.float32)), v.name
    exact = outputs(source(), foreign.images())
    for a, b in zip(exact, outputs(rounded, foreign.images()), strict=True):
        assert np.abs(a.astype(np.float64) - b).max() <= 2e-3 * np.abs(a).max()


def test_rounding_overflows() -> None:
    """What ONNX Runtime does not show of the float16 graph itself, since it computes in float32."""
    lowered = to_float16(inferred(foreign.plain(scale=1e6)))
    assert all(np.isfinite(array).all() for array in outputs(lowered, foreign.images()))
    assert not np.isfinite(outputs(with_float16_rounding(lowered), foreign.images())[0]).all()

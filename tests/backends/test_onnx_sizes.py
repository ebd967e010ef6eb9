# SPDX-License-Identifier: Apache-2.0
"""The sizes in the check before loading are those that a runtime computes, or the file is rejected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from imp_trt.backends.onnx_bounds import Sizes, check_bounds
from imp_trt.backends.onnx_file import parse
from imp_trt.errors import ArtifactError
from tests.backends.test_onnx_bounds import NODE, rejected, with_nodes
from tests.support import tiny

BIG = 1 << 28
F32 = np.float32


def field(number: int, content: bytes) -> bytes:
    """A field with a message as protobuf encodes it."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


# ---- files that protobuf reads in another way ----


def merged_graphs() -> bytes:
    """Protobuf appends the nodes of the second graph to those of the first."""
    return tiny.graph().SerializeToString() + field(7, b"")


def constant(*attributes: bytes) -> bytes:
    """A file with another node, whose attributes are given in bytes."""
    node = NODE("Constant", [], ["c"]).SerializeToString() + b"".join(field(5, a) for a in attributes)
    model = tiny.graph()
    graph = model.graph.SerializeToString() + field(1, node)
    model.ClearField("graph")
    return model.SerializeToString() + field(7, graph)


def int64s(*values: int) -> bytes:
    return TensorProto(data_type=TensorProto.INT64, int64_data=values).SerializeToString()


VALUE = AttributeProto(name="value", type=AttributeProto.TENSOR).SerializeToString()
INT = helper.make_attribute("value_int", 1).SerializeToString()


def stored(**fields: Any) -> bytes:
    """A file with another initializer."""
    model = tiny.graph()
    model.graph.initializer.append(TensorProto(name="t", **fields))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (merged_graphs(), "field 7 of another type, or twice"),
        (constant(VALUE + field(5, int64s(1)) + field(5, int64s(2))), "field 5 of another type, or twice"),
        (constant(INT, INT), "an attribute twice"),
        (constant(INT + helper.make_attribute("x", 1.5).SerializeToString()), "twice"),
        (constant(field(1, b"value") + b"\xa0\x01\x02" + field(5, int64s(1))), "another type than its own"),
        (constant(field(1, b"value_int") + b"\xa0\x01\x02" + field(3, b"\1")), "field 3 of another type"),
        (constant(field(1, b"value_int") + b"\x18\x01"), "another type than its own"),
        (constant(field(1, b"\xff") + b"\x18\x01\xa0\x01\x02"), "utf-8"),
        (b"\xba\x80\x80\x80\x10\x00" + tiny.graph().SerializeToString(), "a field with the number"),
        (stored(data_type=7, dims=[1], int64_data=[BIG], float_data=[1]), "data of two types"),
        (stored(data_type=7, dims=[1], float_data=[1]), "data of another type"),
        (stored(data_type=2, dims=[1], int32_data=[256]), "values that its type does not have"),
        (stored(data_type=1, dims=[1 << 20, 1 << 20]), "data is not that of its shape"),
        (stored(data_type=1, dims=[2], raw_data=bytes(4)), "data is not that of its shape"),
    ],
)
def test_files_that_can_be_read_in_two_ways(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check_bounds(data, "x.onnx")


def test_initializers_and_results_have_names_of_their_own() -> None:
    model = with_nodes([NODE("Relu", ["n"], ["y"]), NODE("Abs", ["n"], ["y"])], n=[1.0])
    rejected(model, "'y' twice")
    model.graph.initializer.append(model.graph.initializer[-1])
    rejected(model, "two initializers of the same name")


def identity(domain: str, name: str) -> onnx.FunctionProto:
    return helper.make_function(
        domain, name, ["x", "r"], ["y"], [NODE("Identity", ["x"], ["y"])], [helper.make_opsetid("", 18)]
    )


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_a_function_does_not_hide_a_standard_operator(domain: str) -> None:
    model = with_nodes([NODE("Tile", ["v", "n"], ["y"])], n=[BIG], v=[1.0])
    model.functions.append(identity(domain, "Tile"))
    rejected(model, "functions of other domains.*'Tile'")


def test_a_function_does_not_hide_another() -> None:
    model = with_nodes([])
    model.functions.extend([identity("d", "F"), identity("d", "F")])
    rejected(model, "each once.*'F'")


def test_defaults_of_a_function() -> None:
    node = NODE("ConvTranspose", ["x", "w"], ["y"])
    node.attribute.append(AttributeProto(name="strides", ref_attr_name="s", type=AttributeProto.INTS))
    function = helper.make_function("d", "F", ["x", "w"], ["y"], [node], [helper.make_opsetid("", 18)])
    function.attribute_proto.append(helper.make_attribute("s", [1 << 14, 1 << 14]))
    ones = {"x": np.ones((1, 1, 4, 4), F32), "w": np.ones((1, 1, 1, 1), F32)}
    model = with_nodes([helper.make_node("F", ["x", "w"], ["y"], domain="d")], **ones)
    model.functions.append(function)
    rejected(model, "elements")


# ---- large outputs ----


def from_cast(to: int, whole: int) -> tuple[list[NodeProto], dict[str, object]]:
    """A size of 2^28 if the cast number is less than the one in the file."""
    nodes = [
        NODE("Cast", ["k"], ["c"], to=to),
        NODE("Cast", ["c"], ["i"], to=TensorProto.INT64),
        NODE("Sub", ["n", "i"], ["s"]),
        NODE("ConstantOfShape", ["s"], ["y"]),
    ]
    return nodes, {"k": [BIG], "n": [BIG + whole]}


IMAGE = np.ones((1, 1, 2, 2), F32)
LONG = np.ones(1 << 16, F32)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        from_cast(TensorProto.BOOL, 1),
        from_cast(TensorProto.UINT8, 0),
        ([NODE("ConvTranspose", ["x", "w"], ["y"], strides=[1 << 14] * 2)], {"x": IMAGE, "w": IMAGE}),
        ([NODE("Einsum", ["v", "v"], ["y"], equation="i,j->ij")], {"v": LONG}),
        ([NODE("CenterCropPad", ["v", "n"], ["y"])], {"v": LONG, "n": [BIG]}),
        ([NODE("RoiAlign", ["x", "r", "b"], ["y"], output_height=1 << 14, output_width=1 << 14)],
         {"x": IMAGE, "r": np.ones((1, 4), F32), "b": [0]}),
        ([NODE("RoiAlign", ["x", "r", "b"], ["y"], sampling_ratio=1 << 16)],
         {"x": IMAGE, "r": np.ones((1, 4), F32), "b": [0]}),
        ([NODE("GatherND", ["x", "i"], ["y"])], {"x": LONG[None], "i": np.zeros((1 << 14, 1), np.int64)}),
        ([NODE("MaxUnpool", ["x", "i", "n"], ["y"], kernel_shape=[1, 1])],
         {"x": IMAGE, "i": np.zeros((1, 1, 2, 2), np.int64), "n": [1, 1, 1 << 14, 1 << 14]}),
        ([NODE("AffineGrid", ["t", "n"], ["y"])],
         {"t": np.ones((1, 2, 3), F32), "n": [1, 1, 1 << 14, 1 << 14]}),
        ([NODE("Upsample", ["x", "s"], ["y"])], {"x": IMAGE, "s": np.array([1, 1, 1e5, 1e5], F32)}),
        ([NODE("MaxPool", ["x"], ["y"], kernel_shape=[1, 1], pads=[1 << 14] * 4)], {"x": IMAGE}),
        # A sum over a side of 0 is larger than what is summed, also where its axes are not known.
        ([NODE("NonZero", ["x"], ["i"]), NODE("ConstantOfShape", ["n"], ["e"]),
          NODE("ReduceMin", ["i"], ["a"], keepdims=0), NODE("ReduceSum", ["e", "a"], ["y"])],
         {"x": IMAGE, "n": [1 << 31, 0]}),
    ],
)  # fmt: skip
def test_small_files_with_large_outputs(nodes: list[NodeProto], constants: dict[str, object]) -> None:
    rejected(with_nodes(nodes, **constants), "elements|of a size that is not known")


def test_a_policy_of_resize_decides_the_size() -> None:
    node = NODE("Resize", ["x", "", "", "n"], ["y"], keep_aspect_ratio_policy="not_smaller")
    rejected(with_nodes([node], x=np.ones((1, 1, 128, 1), F32), n=[1, 1, 1, 2048]), "Resize of a size")


@pytest.mark.parametrize(
    "nodes",
    [
        [NODE("SequenceConstruct", ["frame"] * 2, ["s"]), NODE("ConcatFromSequence", ["s"], ["y"], axis=0)],
        [NODE("Multinomial", ["frame"], ["y"], sample_size=1 << 30)],
        [NODE("STFT", ["frame", "step"], ["y"])],
        [helper.make_node("Gelu", ["frame"], ["y"], domain="com.microsoft")],
    ],
)
def test_operators_that_are_not_listed(nodes: list[NodeProto]) -> None:
    rejected(with_nodes(nodes), f"got the operator {nodes[0].op_type}")


# ---- the same as in ONNX Runtime ----

X = np.arange(24, dtype=F32).reshape(1, 2, 3, 4)
N = np.array([7, -7, 5], np.int64)
I32 = np.array([1 << 30, -(1 << 31), 77], np.int32)
SAME: list[tuple[Callable[..., NodeProto], Sequence[object]]] = [
    (lambda *x: NODE("Cast", x, ["y"], to=TensorProto.BOOL), [N]),
    (lambda *x: NODE("Cast", x, ["y"], to=TensorProto.UINT8), [np.array([300, 256, 1], np.int32)]),
    (lambda *x: NODE("Cast", x, ["y"], to=TensorProto.INT32), [np.array([1 << 32, (1 << 31) + 1], np.int64)]),
    (lambda *x: NODE("Cast", x, ["y"], to=TensorProto.FLOAT), [np.array([(1 << 24) + 1], np.int64)]),
    (lambda *x: NODE("Cast", x, ["y"], to=TensorProto.INT64), [np.array([-1.5, 2.7], F32)]),
    (lambda *x: NODE("Mul", x, ["y"]), [I32, I32]),
    (lambda *x: NODE("Div", x, ["y"]), [N, np.array([2, 2, -3])]),
    (lambda *x: NODE("Div", x, ["y"]), [np.array([1, 7], F32), np.array([3, 9], F32)]),
    (lambda *x: NODE("Pow", x, ["y"]), [N, np.array([2, 3, 0])]),
    (lambda *x: NODE("Neg", x, ["y"]), [I32]),
    (lambda *x: NODE("ReduceSum", x, ["y"], keepdims=0), [I32]),
    (lambda *x: NODE("ReduceSum", x, ["y"], noop_with_empty_axes=1), [N]),
    (lambda *x: NODE("ReduceProd", x, ["y"]), [N]),
    (lambda *x: NODE("Range", x, ["y"]), [np.array(3), np.array(-9), np.array(-5)]),
    (lambda *x: NODE("Range", x, ["y"]), [np.array(0, F32), np.array(1, F32), np.array(0.1, F32)]),
    (lambda *x: NODE("Slice", x, ["y"]), [N, *np.array([[-1], [-(1 << 63)], [0], [-2]])]),
    (lambda *x: NODE("Slice", (*x[:3], "", x[3]), ["y"]), [N, np.array([0]), np.array([9]), np.array([2])]),
    (lambda *x: NODE("Split", x, ["y", "z"], num_outputs=2), [N]),
    (lambda *x: NODE("TopK", x, ["y", "z"]), [X, np.array([2])]),
    (lambda *x: NODE("MatMul", x, ["y"]), [X, X[0, 0, 0]]),
    (lambda *x: NODE("Reshape", x, ["y"]), [X, np.array([0, -1, 4])]),
    (lambda *x: NODE("Resize", (x[0], "", x[1]), ["y"]), [X, np.array([1, 1, 1.4, 0.34], F32)]),
    (lambda *x: NODE("Resize", (x[0], "", "", x[1]), ["y"], axes=[2, 3]), [X, np.array([5, 6])]),
    (lambda *x: NODE("Conv", x, ["y"], auto_pad="SAME_UPPER", strides=[2, 2]),
     [X, np.ones((5, 2, 3, 3), F32)]),
    (lambda *x: NODE("MaxPool", x, ["y"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), [X]),
    (lambda *x: NODE("ConvTranspose", x, ["y"], strides=[3, 2], pads=[1, 0, 0, 1], output_padding=[1, 0]),
     [X, np.ones((2, 3, 3, 2), F32)]),
    (lambda *x: NODE("GridSample", x, ["y"]), [X, np.zeros((1, 5, 6, 2), F32)]),
    (lambda *x: NODE("RoiAlign", x, ["y"], output_height=5),
     [X, np.ones((3, 4), F32), np.zeros(3, np.int64)]),
    (lambda *x: NODE("Einsum", x, ["y"], equation="bchw,bdhw->bcd"), [X, X]),
    (lambda *x: NODE("GatherND", x, ["y"], batch_dims=1), [X, np.zeros((1, 3, 1), np.int64)]),
    (lambda *x: NODE("DepthToSpace", x, ["y"], blocksize=2), [np.ones((1, 8, 2, 3), F32)]),
    (lambda *x: NODE("LSTM", x, ["y", "z"], hidden_size=2),
     [np.ones((5, 1, 3), F32), np.ones((1, 8, 3), F32), np.ones((1, 8, 2), F32)]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "arrays"), SAME)
def test_shapes_and_values_are_those_of_onnxruntime(
    make: Callable[..., NodeProto], arrays: Sequence[np.ndarray]
) -> None:
    names = [f"x{i}" for i in range(len(arrays))]
    node = make(*names)
    stored = [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "one", [], outputs, stored)
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    data = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except RuntimeException:
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} cannot evaluate this {node.op_type}")
    known = Sizes({}, "x").follow(parse(data))
    for name, wanted in zip(node.output, session.run(None, {}), strict=True):
        assert known[name].shape == wanted.shape
        values = known[name].values
        assert values is None or (values.dtype == wanted.dtype and np.array_equal(values, wanted))


def test_float16_in_integers() -> None:
    """They are bit patterns."""
    data = stored(data_type=TensorProto.FLOAT16, dims=[1], int32_data=[0x7BFF])
    (tensor,) = (t for t in parse(data).initializers if t.name == "t")
    assert tensor.values is not None
    assert tensor.values.tolist() == [65504]


def test_positions_are_bounded() -> None:
    """Their number is not known, and what is gathered by them is not large."""
    nodes = [
        NODE("NonZero", ["scores"], ["i"]),
        NODE("Transpose", ["i"], ["t"]),
        NODE("GatherND", ["scores", "t"], ["g"]),
        NODE("Reshape", ["g", "flat"], ["y"]),
    ]
    check_bounds(with_nodes(nodes, flat=[-1]).SerializeToString(), "x.onnx")
    rejected(with_nodes([NODE("NonZero", ["frame"], ["i"]), NODE("MatMul", ["i", "i"], ["y"])]), "elements")

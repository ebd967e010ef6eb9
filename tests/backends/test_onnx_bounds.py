# SPDX-License-Identifier: Apache-2.0
"""ONNX files of some kilobytes that would take gigabytes or never end are rejected before they are loaded."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends import Backend
from imp_trt.backends.onnx_bounds import check_bounds
from imp_trt.backends.onnxruntime import OnnxRuntimeBackend, open_session
from imp_trt.backends.onnxruntime_providers import OrtDevice
from imp_trt.backends.openvino import OpenVinoBackend
from imp_trt.errors import ArtifactError
from tests.support import tiny

NODE = helper.make_node


def with_nodes(nodes: Sequence[NodeProto], **constants: object) -> ModelProto:
    """The tiny graph with other nodes, whose results nothing reads, and int64 or float constants."""
    model = tiny.graph()
    model.graph.node.extend(nodes)
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def rejected(model: ModelProto, match: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ArtifactError, match=match):
        check_bounds(model.SerializeToString(), "x.onnx")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([NODE("ConstantOfShape", ["n"], ["y"])], {"n": [30_000, 30_000]}),
        ([NODE("Expand", ["v", "n"], ["y"])], {"n": [1 << 40], "v": [1.0]}),
        ([NODE("Tile", ["v", "n"], ["y"])], {"n": [1 << 30], "v": [1.0]}),
        ([NODE("Range", ["a", "b", "c"], ["y"])], {"a": 0, "b": 1 << 31, "c": 1}),
        ([NODE("Pad", ["v", "n"], ["y"])], {"n": [0, 1 << 31], "v": [1.0]}),
        ([NODE("Resize", ["v", "", "s"], ["y"])], {"s": [1.0, 1.0, 1e5, 1e5], "v": np.ones((1, 1, 2, 2))}),
        ([NODE("OneHot", ["i", "d", "v"], ["y"])], {"i": [1], "d": [1 << 31], "v": [0.0, 1.0]}),
        # The size is computed in the file.
        (
            [NODE("Mul", ["n", "n"], ["m"]), NODE("ConstantOfShape", ["m"], ["y"])],
            {"n": [1 << 20]},
        ),
        (
            [
                NODE("Shape", ["frame"], ["s"]),
                NODE("Mul", ["s", "n"], ["m"]),
                NODE("Tile", ["frame", "m"], ["y"]),
            ],
            {"n": [1, 100, 100, 10]},
        ),
        # No operator for large outputs, and no large input.
        (
            [
                NODE("ConstantOfShape", ["n"], ["a"]),
                NODE("Transpose", ["a"], ["b"], perm=[1, 0]),
                NODE("Add", ["a", "b"], ["y"]),
            ],
            {"n": [1 << 16, 1]},
        ),
        (
            [
                NODE("ConstantOfShape", ["n"], ["a"]),
                NODE("Transpose", ["a"], ["b"], perm=[1, 0]),
                NODE("MatMul", ["a", "b"], ["y"]),
            ],
            {"n": [1 << 16, 1]},
        ),
        ([NODE("ConstantOfShape", ["n"], ["y"])], {"n": [1 << 62] * 50}),
        # Each below the limit, all of them not.
        ([NODE("ConstantOfShape", ["n"], [f"y{i}"]) for i in range(30)], {"n": [1 << 24]}),
        ([NODE("Concat", ["a"] * 200, ["y"], axis=0), NODE("Concat", ["y"] * 10, ["z"], axis=0)],
         {"a": np.zeros(1 << 16)}),
    ],
)  # fmt: skip
def test_small_files_with_large_tensors(nodes: list[NodeProto], constants: dict[str, object]) -> None:
    rejected(with_nodes(nodes, **constants), "elements")


def test_shapes_of_many_dimensions() -> None:
    rejected(with_nodes([NODE("ConstantOfShape", ["n"], ["y"])], n=[1 << 62] * 100), "64 dimensions")


def test_sizes_that_are_not_known() -> None:
    nodes = [
        NODE("NonZero", ["frame"], ["i"]),
        NODE("ReduceMax", ["i"], ["m"]),
        NODE("Expand", ["v", "m"], ["y"]),
    ]
    rejected(with_nodes(nodes, v=[1.0]), "Expand of a size that is not known")


def test_generators_by_attribute() -> None:
    rejected(with_nodes([NODE("RandomNormal", [], ["y"], shape=[1 << 40])]), "RandomNormal")


def test_sparse_tensors() -> None:
    model = tiny.graph()
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    sparse = helper.make_sparse_tensor(
        values, numpy_helper.from_array(np.zeros(1, np.int64)), [1 << 20, 1 << 20]
    )
    model.graph.sparse_initializer.append(sparse)
    rejected(model, "sparse")


def loop(turns: int) -> NodeProto:
    kind = TensorProto
    body = helper.make_graph(
        [NODE("Identity", ["cin"], ["cout"]), NODE("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", kind.INT64, []),
            helper.make_tensor_value_info("cin", kind.BOOL, []),
            helper.make_tensor_value_info("v", kind.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("cout", kind.BOOL, []),
            helper.make_tensor_value_info("w", kind.FLOAT, []),
        ],
    )
    return NODE("Loop", ["turns", "", "v"], ["y"], body=body)


def test_loops() -> None:
    rejected(with_nodes([loop(1 << 62)], turns=1 << 62, v=np.float32(1)), "control flow")


def test_a_loop_in_a_function() -> None:
    model = with_nodes(
        [helper.make_node("F", ["turns", "v"], ["y"], domain="d")], turns=1 << 62, v=np.float32(1)
    )
    body = helper.make_function("d", "F", ["turns", "v"], ["y"], [loop(1)], [helper.make_opsetid("", 18)])
    model.functions.append(body)
    rejected(model, "control flow")


def functions(depth: int, calls: int, last: str = "Identity") -> ModelProto:
    model = with_nodes([helper.make_node(f"F{depth}", ["frame"], ["y"], domain="d")])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
    for k in range(depth + 1):
        names = ["x", *(f"t{i}" for i in range(calls - 1)), "y"]
        op, domain = (last, "d" if last.startswith("F") else "") if k == 0 else (f"F{k - 1}", "d")
        nodes = [helper.make_node(op, [a], [b], domain=domain) for a, b in pairwise(names)]
        model.functions.append(helper.make_function("d", f"F{k}", ["x"], ["y"], nodes, opsets))
    return model


@pytest.mark.parametrize(("depth", "calls"), [(29, 2), (10, 8), (3, 1000)])
def test_functions_that_call_each_other(depth: int, calls: int) -> None:
    rejected(functions(depth, calls), "nested|nodes")


def test_functions_that_call_nothing_else() -> None:
    model = functions(15, 30)
    del model.functions[0].node[:]
    rejected(model, "nodes")


def test_calls_of_a_node_with_many_inputs() -> None:
    model = functions(1, 1000)
    model.functions[0].node.append(NODE("Concat", ["x"] * 100_000, ["z"], axis=0))
    rejected(model, "nodes")


def test_dimensions_whose_product_takes_minutes() -> None:
    model = with_nodes([])
    model.graph.initializer.append(TensorProto(name="v", data_type=1, dims=[1 << 62] * 400_000))
    rejected(model, "64 dimensions")
    model = with_nodes([])
    model.graph.input.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [2] * 65))
    rejected(model, "64 dimensions")


def test_integers_beyond_those_of_the_shape() -> None:
    """They are not read: a list of them would take 16 times the file."""
    tensor = TensorProto(name="v", data_type=TensorProto.INT64, dims=[1])
    tensor.int64_data.extend([1] * 1_000_000)
    model = with_nodes([NODE("ConstantOfShape", ["v"], ["y"])])
    model.graph.initializer.append(tensor)
    tracemalloc.start()
    rejected(model, "a size that is not known")
    model_bytes, (_, peak) = model.ByteSize(), tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * model_bytes


def test_recursion() -> None:
    rejected(functions(3, 1, last="F3"), "recursion")


def test_a_size_behind_a_function() -> None:
    """The argument of a function and an attribute that refers to that of the call."""
    model = with_nodes([helper.make_node("F", ["n"], ["y"], domain="d", k=[1 << 31])], n=[1 << 16])
    reference = NODE("Constant", [], ["k"])
    reference.attribute.append(
        onnx.AttributeProto(name="value_ints", ref_attr_name="k", type=onnx.AttributeProto.INTS)
    )
    nodes = [reference, NODE("Mul", ["n", "k"], ["m"]), NODE("ConstantOfShape", ["m"], ["y"])]
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("d", "F", ["n"], ["y"], nodes, opsets, ["k"]))
    rejected(model, "elements")


@pytest.mark.parametrize("where", ["initializer", "Constant"])
@pytest.mark.parametrize("by", ["location", "entry"])
def test_tensors_in_other_files(where: str, by: str) -> None:
    tensor = TensorProto(name="v", data_type=TensorProto.FLOAT, dims=[2])
    if by == "location":
        tensor.data_location = TensorProto.EXTERNAL
    else:
        tensor.external_data.add(key="location", value="/etc/hostname")
    model = with_nodes([NODE("Constant", [], ["c"], value=tensor)] if where == "Constant" else [])
    if where == "initializer":
        model.graph.initializer.append(tensor)
    rejected(model, "another file")


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_malformed_files(cut: int) -> None:
    data = tiny.graph().SerializeToString()
    with pytest.raises(ArtifactError):
        check_bounds(data[:-cut], "x.onnx")


def field(number: int, content: bytes) -> bytes:
    """A field of up to 127 bytes as protobuf encodes it."""
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x12\x7f\0\0ORTM" + bytes(121), "ONNX Runtime's own format"),
        (b"\0\0" + tiny.graph().SerializeToString(), "number 0"),
        (b"", "without nodes"),
        (field(2, b"a producer"), "without nodes"),
        (field(7, b""), "without nodes"),
    ],
)
def test_files_that_are_not_onnx(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check_bounds(data, "x.onnx")


def test_onnxruntime_reads_onnx_alone(tmp_path: Path) -> None:
    """Also where no check comes before."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "tiny.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnxruntime.InferenceSession(tiny.graph().SerializeToString(), options)
    data = (tmp_path / "tiny.ort").read_bytes()
    assert data[4:8] == b"ORTM"
    with pytest.raises(ArtifactError, match="rejects the graph"):
        open_session(data, "x.onnx", 1, OrtDevice())


@pytest.mark.parametrize("backend", [OnnxRuntimeBackend, OpenVinoBackend])
def test_the_backend_checks_first(tmp_path: Path, backend: type[Backend]) -> None:
    model = with_nodes([loop(1 << 62)], turns=1 << 62, v=np.float32(1))
    path = write_artifact(tmp_path / "loop.onnx", model.SerializeToString(), tiny.manifest())
    with pytest.raises(ArtifactError, match="control flow"):
        backend(path)

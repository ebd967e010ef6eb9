# SPDX-License-Identifier: Apache-2.0
"""The structure of an ONNX file, read from its bytes, is that which the onnx package reads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.errors import ArtifactError
from imp_trt.export.onnx.functions import without_functions
from imp_trt.export.onnx.structure import DOMAIN, Node, read_structure, without_function_bodies
from tests.support import tiny
from tests.support.plugin_models import roi_align_model


def model() -> onnx.ModelProto:
    """Two custom nodes and one of another domain, two functions, weights, all kinds of attributes."""
    nodes = [
        helper.make_node(
            "ImpThing", ["x", "w"], ["a"], name="first", domain=DOMAIN, mode="bilinear", ratio=2
        ),
        helper.make_node("Constant", [], ["c"], name="c", value=numpy_helper.from_array(np.arange(300))),
        helper.make_node("Add", ["a", "c"], ["b"], name="mit Umlaut ä"),
        helper.make_node("ImpThing", ["b", "w"], ["d"], name="second", domain=DOMAIN, big=-1, f=[0.5, 1.5]),
        helper.make_node("Other", ["d"], ["y"], domain="vendor"),
    ]
    weights = numpy_helper.from_array(np.zeros((64, 1000), np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2, 300, 3]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 1000]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", 7])],
        [weights],
    )
    functions = [
        helper.make_function(domain, name, ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [])
        for domain, name in ((DOMAIN, "ImpThing"), ("vendor", "Other"))
    ]
    opsets = [helper.make_opsetid("vendor", 3), helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, producer_name="test")


def test_what_the_onnx_package_reads() -> None:
    original = model()
    found = read_structure(original.SerializeToString())
    assert found.nodes == tuple(Node(n.name, n.op_type, n.domain) for n in original.graph.node)
    assert found.functions == tuple((f.domain, f.name) for f in original.functions)
    assert found.opset == 18
    assert found.inputs == (TensorSpec("x", "uint8", (1, 2, 300, 3)),), "weights are no inputs"
    assert found.outputs == (TensorSpec("y", "float16", (-1, 7)),)
    assert found.custom_nodes() == {"ImpThing": ("first", "second")}


@pytest.mark.parametrize("ratio", [0, 2])
def test_whether_roi_align_is_adaptive(ratio: int) -> None:
    assert read_structure(roi_align_model("f32", ratio=ratio).SerializeToString()).adaptive is (ratio == 0)
    other = model()
    other.functions[1].node[0].op_type = "RoiAlign"
    assert not read_structure(other.SerializeToString()).adaptive, "a function of another domain"


def test_the_tensors_of_a_network_are_those_of_its_manifest() -> None:
    found = read_structure(tiny.graph(3).SerializeToString())
    assert found.inputs == (tiny.manifest(3).input.spec,)
    assert found.outputs == tiny.manifest(3).outputs


def test_without_its_functions_the_file_is_the_same() -> None:
    data = model().SerializeToString(deterministic=True)
    assert without_function_bodies(data) == without_functions(model()).SerializeToString(deterministic=True)
    assert read_structure(without_function_bodies(data)).functions == ()


def test_a_graph_in_two_parts_is_one_graph() -> None:
    """Protocol buffers allow it, and readers merge them."""
    parts = onnx.ModelProto(), onnx.ModelProto()
    parts[0].graph.node.append(helper.make_node("Relu", ["x"], ["y"], name="one"))
    parts[1].graph.node.append(helper.make_node("ImpThing", ["y"], ["z"], name="two", domain=DOMAIN))
    data = b"".join(part.SerializeToString() for part in parts)
    assert len(onnx.load_from_string(data).graph.node) == 2
    assert [node.name for node in read_structure(data).nodes] == ["one", "two"]


def test_what_is_cut_off_or_no_model_is_rejected() -> None:
    data = model().SerializeToString()
    graph = data.index(b"mit Umlaut")
    for end in range(graph - 200, graph + 200):  # within the graph, whose length comes first
        with pytest.raises(ArtifactError, match="ModelProto"):
            read_structure(data[:end])
    for junk in (b"\xff" * 40, b"\x0b\x00", b"\x00\x01", b'{"text": 1}', b"\x38\x01"):
        with pytest.raises(ArtifactError, match="ModelProto"):
            read_structure(junk)

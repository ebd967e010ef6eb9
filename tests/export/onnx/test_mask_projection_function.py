# SPDX-License-Identifier: Apache-2.0
"""The ONNX function InstanceMaskProjection in ONNX Runtime against the definition, and its node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from imp_trt.errors import ExportError
from imp_trt.export.onnx.function_builder import DOMAIN, PLUGIN_ATTRIBUTES
from imp_trt.export.onnx.mask_projection import (
    INPUTS,
    NAME,
    Shapes,
    function_for_model,
    function_proto,
    translation_table,
)
from imp_trt.ops import instance_mask_projection, instance_mask_projection_reference
from tests.ops.mask_projection_cases import (
    DEGENERATE_DTYPES,
    QUICK,
    RULES,
    Case,
    assert_close,
    degenerate,
    invalid_instances,
    ordinary,
    scale_of,
)

TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}
ROUNDING = {np.float32: 1e-6, np.float16: 5e-4}


def call(
    masks: str, canvas: str, classes: int, size: tuple[int, int], scale: float, rule: str
) -> onnx.NodeProto:
    height, width = size
    attributes = {"num_classes": classes, "canvas_h": height, "canvas_w": width, "spatial_scale": scale}
    inputs = [*INPUTS[:3], masks]
    return helper.make_node(
        NAME, inputs, [canvas], domain=DOMAIN, sampling=rule, **attributes, **PLUGIN_ATTRIBUTES
    )


def graph_model(case: Case, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """A model of projection nodes that all read the same inputs; shapes and types from the case."""
    kinds = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in case]
    inputs = [
        helper.make_tensor_value_info(name, kind, array.shape)
        for name, kind, array in zip(INPUTS, kinds, case, strict=True)
    ]
    outputs = []
    for node in nodes:
        sizes = {a.name: a.i for a in node.attribute}
        shape = [len(case.boxes), sizes["num_classes"], sizes["canvas_h"], sizes["canvas_w"]]
        outputs.append(helper.make_tensor_value_info(node.output[0], kinds[3], shape))
    graph = helper.make_graph(nodes, "projection", inputs, outputs)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session(model: onnx.ModelProto, function: onnx.FunctionProto | None = None) -> ort.InferenceSession:
    function = function or function_for_model(model)
    assert function is not None
    model.functions.append(function)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(running: ort.InferenceSession, case: Case) -> list[np.ndarray]:
    return running.run(None, dict(zip(INPUTS, case, strict=True)))


def project(case: Case, classes: int, size: tuple[int, int], scale: float, rule: str) -> np.ndarray:
    return run(session(graph_model(case, [call("masks", "canvas", classes, size, scale, rule)])), case)[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("batch", "count", "cells", "classes", "size"),
    [
        (2, 6, 5, 3, (13, 11)),
        (1, 0, 4, 2, (5, 7)),
        (1, 1, 1, 1, (1, 1)),
        (3, 9, 2, 8, (3, 17)),
        (1, 4, 28, 1, (9, 1)),
    ],
)
def test_function_equals_the_reference(
    rule: str, dtype: type, batch: int, count: int, cells: int, classes: int, size: tuple[int, int]
) -> None:
    case = ordinary(1, batch, count, cells, size, classes, dtype)
    truth = instance_mask_projection_reference(*case, classes, size, 0.7, rule)
    got = project(case, classes, size, 0.7, rule)
    assert got.dtype == dtype
    assert_close(got, truth, ROUNDING[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DEGENERATE_DTYPES)
def test_function_agrees_on_degenerate_numbers(rule: str, dtype: type) -> None:
    nodes = [call("masks", "canvas", 3, (6, 7), 0.5, rule)]
    running = session(graph_model(ordinary(0, 2, 3, 2, dtype=dtype), nodes))

    @QUICK
    @given(case=degenerate(2, 3, 2, dtype), twice=st.booleans())
    def agree(case: Case, twice: bool) -> None:
        case = case._replace(boxes=case.boxes * np.float32(2) if twice else case.boxes)
        truth = instance_mask_projection_reference(*case, 3, (6, 7), 0.5, rule)
        assert_close(run(running, case)[0], truth, 2 * ROUNDING[dtype] * scale_of(case))

    with np.errstate(over="ignore", invalid="ignore"):
        agree()


@pytest.mark.parametrize("rule", RULES)
def test_function_ignores_invalid_instances_and_order(rule: str) -> None:
    case = ordinary(2, batch=2)
    alone = project(case, 3, (13, 11), 1.0, rule)
    everything = case.plus(invalid_instances(5, batch=2))
    order = np.random.default_rng(1).permutation(everything.scores.shape[1])
    np.testing.assert_array_equal(project(everything.pick(order), 3, (13, 11), 1.0, rule), alone)
    assert alone.max() > 0.1


@pytest.mark.parametrize("rule", RULES)
def test_function_saturates(rule: str) -> None:
    for dtype in TYPES:
        case = ordinary(3, dtype=dtype)
        top = np.finfo(dtype).max
        case = case._replace(masks=np.full_like(case.masks, top), scores=case.scores + 2)
        assert project(case, 3, (13, 11), 1.0, rule).max() == top


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_bands_blocks_and_sizes_do_not_change_the_result(rule: str) -> None:
    case = ordinary(4, count=30, cells=6, classes=4)
    truth = instance_mask_projection_reference(*case, 4, (19, 23), 1.0, rule)
    layouts = [Shapes(1, 30, 4, (19, 23)), Shapes(8, 900, 30, (512, 256)), Shapes(1, 100, 8, (128, 256))]
    for shapes in layouts:
        nodes = [call("masks", "canvas", 4, (19, 23), 1.0, rule)]
        function = function_proto(rule, TensorProto.FLOAT, 6, shapes)
        assert_close(run(session(graph_model(case, nodes), function), case)[0], truth)
    assert [shapes.bands() for shapes in layouts] == [1, 32, 3]  # 32: more than there are columns
    assert len({shapes.block() for shapes in layouts}) > 1


def test_one_body_serves_two_calls() -> None:
    case = ordinary(5, classes=5)
    calls = [(5, (19, 23), 1.0), (2, (7, 6), 0.25)]
    nodes = [call("masks", f"canvas{i}", *each, "bilinear") for i, each in enumerate(calls)]
    for got, (classes, size, scale) in zip(run(session(graph_model(case, nodes)), case), calls, strict=True):
        assert_close(got, instance_mask_projection_reference(*case, classes, size, scale, "bilinear"))


def test_two_rules_in_one_file_are_rejected() -> None:
    case = ordinary(6)
    nodes = [call("masks", rule, 3, (5, 5), 1.0, rule) for rule in ("nearest", "rect")]
    with pytest.raises(ExportError, match="one sampling rule, type and mask size per file"):
        function_for_model(graph_model(case, nodes))


def test_unknown_rule_and_type_are_rejected_and_no_node_needs_no_function() -> None:
    with pytest.raises(ExportError, match="expected bilinear or nearest or rect, got cubic"):
        function_proto("cubic")
    with pytest.raises(ExportError, match="expected FLOAT or FLOAT16 or BFLOAT16, got DOUBLE"):
        function_proto("rect", TensorProto.DOUBLE)
    assert function_for_model(graph_model(ordinary(7), [])) is None


# What TensorRT-RTX 1.7.1 parses and builds; scatter, NonZero, NMS and GridSample are kept out on purpose.
BUILDABLE = set(
    "Abs Add And Cast Ceil Clip Concat Constant Div Equal Expand Floor Gather Greater GreaterOrEqual "
    "Identity Less LessOrEqual MatMul Max Min Mul Neg Range ReduceMax ReduceMin ReduceSum Relu Reshape "
    "Shape Slice Split Squeeze Sub Transpose Unsqueeze Where".split()
)


@pytest.mark.parametrize("rule", RULES)
def test_body_uses_plain_operators_and_its_own_names(rule: str) -> None:
    function = function_proto(rule)
    assert {node.op_type for node in function.node} <= BUILDABLE
    assert all(node.domain == "" for node in function.node)
    assert [(o.domain, o.version) for o in function.opset_import] == [("", 18)]
    written = [name for node in function.node for name in node.output]
    assert len(set(written)) == len(written)
    assert all(name.startswith(f"{NAME}.") for name in (*written, *function.input, *function.output))
    read = {name for node in function.node for name in node.input} | set(function.output)
    assert set(written) <= read, set(written) - read


def test_temporaries_stay_small() -> None:
    case = ordinary(8, count=100, cells=28)
    model = graph_model(case, [call("masks", "canvas", 8, (128, 256), 1.0, "bilinear")])
    function = function_for_model(model)
    assert function is not None
    model.functions.append(function)
    model = onnx.inliner.inline_local_functions(model)
    names = [name for node in model.graph.node for name in node.output if name != "canvas"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    running = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    largest = max(value.size for value in run(running, case))
    assert largest <= 2_000_000  # against 26 million of a broadcast over instances, classes and canvas


class _Projection(torch.nn.Module):
    def forward(self, boxes: Any, scores: Any, labels: Any, masks: Any) -> Any:
        return instance_mask_projection(boxes, scores, labels, masks, 3, (9, 8), 0.25, "nearest") + 1


@pytest.mark.slow
def test_torch_export_gives_one_node_with_its_attributes() -> None:
    case = ordinary(9, count=6, cells=4, canvas=(36, 32))
    tensors = tuple(torch.from_numpy(array) for array in case)
    program = torch.onnx.export(
        _Projection().eval(),
        tensors,
        dynamo=True,
        opset_version=18,
        custom_translation_table=translation_table(),
        input_names=list(INPUTS),
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    node = next(node for node in model.graph.node if node.op_type == NAME)
    assert [node.op_type for node in model.graph.node] == [NAME, "Add"]
    assert node.domain == DOMAIN
    assert {a.name: helper.get_attribute_value(a) for a in node.attribute} == {
        "num_classes": 3,
        "canvas_h": 9,
        "canvas_w": 8,
        "spatial_scale": 0.25,
        "sampling": b"nearest",
        "plugin_version": b"1",
        "plugin_namespace": b"imp_trt",
    }
    np.testing.assert_array_equal(run(session(model), case)[0], _Projection()(*tensors).numpy())

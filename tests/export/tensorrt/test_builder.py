# SPDX-License-Identifier: Apache-2.0
"""Engines really built by TensorRT-RTX, which needs no GPU, in the child process."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from imp_trt.artifacts.plan_header import read_plan_header
from imp_trt.cuda.platform import Platform
from imp_trt.errors import BuildError, PrecisionError
from imp_trt.export.targets import TARGETS, EngineOptions
from imp_trt.export.tensorrt.build_job import BuildJob
from imp_trt.export.tensorrt.builder import build_engine
from imp_trt.export.tensorrt.engine import custom_nodes, make_engine
from imp_trt.export.tensorrt.layer_types import REQUIRED
from tests.support.small_graphs import convolution, graph
from tests.support.stub_packages import needs_rtx
from tests.support.typed_models import typed
from tests.support.variants import variants

pytestmark = needs_rtx


PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
QUANTIZED = ("int8", "fp8")
# A build takes seconds.
USUAL = variants(PRECISIONS, ("fp16", "int8"))


def built(model, precision="fp32", **job):
    return build_engine(model.SerializeToString(), BuildJob("tensorrt-rtx", precision, **job))


@pytest.mark.slow
@pytest.mark.parametrize("precision", USUAL)
def test_the_network_builds_with_function_bodies(precision):
    model = typed(precision).model
    steps = []
    job = BuildJob("tensorrt-rtx", precision, operators=custom_nodes(model))
    engine = build_engine(model.SerializeToString(), job, lambda *step: steps.append(step))
    assert read_plan_header(engine.plan).backend == "tensorrt-rtx"
    assert engine.plugins is None
    assert engine.engine_types is None, "TensorRT-RTX cannot open an engine without a GPU"
    total = sum(engine.network_types.values())
    assert total == sum(node.op_type == "Conv" for node in model.graph.node)
    in_asked_type = engine.network_types[REQUIRED[precision]]
    assert in_asked_type == total if precision not in QUANTIZED else total / 4 <= in_asked_type < total
    assert steps[:2] == [("parse", 0, 1), ("parse", 1, 1)]
    percents = [done for stage, done, _ in steps if stage == "build"]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert len(set(percents)) > 5


@pytest.mark.slow
@pytest.mark.parametrize("precision", USUAL)
def test_the_network_builds_with_plugin_layers(precision):
    model = typed(precision).model
    nodes = custom_nodes(model)
    assert {name: len(found) for name, found in nodes.items()} == {
        "ImpMultilevelRoiAlign": 2,
        "InstanceMaskProjection": 1,
    }
    engine = built(model, precision, plugins="plugin", operators=nodes)
    assert engine.plugins == "python"
    assert engine.network_types[REQUIRED[precision]] > 0


@pytest.mark.slow
def test_a_file_without_bodies_builds_with_plugins_and_not_without():
    model = onnx.ModelProto()
    model.CopyFrom(typed("fp16").model)
    del model.functions[:]
    nodes = custom_nodes(model)
    assert built(model, "fp16", plugins="plugin", operators=nodes).plugins == "python"
    with pytest.raises(BuildError, match=r"parser rejects.*node_multilevel_roi_align.*--no-plugin"):
        built(model, "fp16", operators=nodes)


def test_missing_plugin_layers_are_counted():
    model = onnx.ModelProto()
    model.CopyFrom(typed("fp32").model)
    for node in model.graph.node:
        if node.op_type == "InstanceMaskProjection":
            # Without them the parser takes the body although the plugin is there.
            kept = [a for a in node.attribute if not a.name.startswith("plugin_")]
            del node.attribute[:]
            node.attribute.extend(kept)
    with pytest.raises(BuildError, match=r"InstanceMaskProjection: 0 of 1 plugin layers"):
        built(model, plugins="plugin", operators=custom_nodes(model))


@pytest.mark.slow
def test_an_engine_for_listed_gpus():
    here = Platform.detect()
    options = EngineOptions(compute_capabilities=("8.9",), workspace=1 << 30, optimization_level=0)
    engine = make_engine(typed("fp16").model, "fp16", TARGETS["rtx"], options, here)
    assert engine.header.compute_capabilities == engine.info.compute_capabilities == ("8.9",)
    assert engine.info.operators == {
        "ImpMultilevelRoiAlign": "function",
        "InstanceMaskProjection": "function",
    }
    assert engine.info.version == here.tensorrt_rtx
    assert set(engine.info.layer_precisions) == {"Half"}
    assert "network" in engine.types_from


def test_the_default_engine_is_for_all_gpus_that_the_profile_lists():
    target = TARGETS["tensorrt-rtx"]
    engine = make_engine(convolution(), "fp32", target, EngineOptions(), Platform.detect())
    assert engine.info.compute_capabilities == target.capabilities
    assert engine.info.operators == {}


def test_an_unknown_operator_is_named_with_its_node():
    model = graph(helper.make_node("Mystery", ["x"], ["y"], name="the_culprit", domain="d"), domains=["d"])
    with pytest.raises(BuildError, match=r"parser rejects the graph.*the_culprit \(Mystery\)"):
        built(model)


def test_what_the_builder_rejects_has_its_message():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("NonMaxSuppression", ["b", "s"], ["n"], name="nms"),
        helper.make_node("Cast", ["n"], ["f"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["f"], ["t"], name="sum"),
        helper.make_node("Add", ["c", "t"], ["y"], name="add"),
    ]
    model = graph(*nodes)
    for name, shape in (("b", [1, 9, 4]), ("s", [1, 1, 9])):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    with pytest.raises(BuildError, match=r"cannot build the graph.*nms"):
        built(model)


def test_a_workspace_that_is_too_small_is_named():
    job = BuildJob("tensorrt-rtx", "fp16", workspace=1)
    with pytest.raises(BuildError, match=r"workspace limit.*Fix: a larger --workspace, or none"):
        build_engine(convolution("fp16").SerializeToString(), job)


def test_not_an_onnx_file():
    with pytest.raises(BuildError, match="parser rejects the graph"):
        build_engine(b"nothing", BuildJob("tensorrt-rtx", "fp32"))


def test_a_float32_graph_is_no_float16_engine():
    with pytest.raises(
        PrecisionError, match=r"in fp16: expected all its convolutions in Half, got 1 in Float"
    ):
        built(convolution(), "fp16")


def test_a_float16_graph_is_no_float32_engine():
    with pytest.raises(PrecisionError, match=r"got \d+ in Half"):
        built(typed("fp16").model, "fp32", operators=custom_nodes(typed("fp16").model))


def test_unknown_compute_capability():
    with pytest.raises(BuildError, match=r"SM120.*got 9\.0"):
        built(convolution(), compute_capabilities=("9.0",))

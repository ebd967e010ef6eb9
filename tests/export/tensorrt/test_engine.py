# SPDX-License-Identifier: Apache-2.0
"""What is handed to the builder, and what the manifest says of the engine that comes back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest

from imp_trt.errors import UsageError
from imp_trt.export.onnx.class_map import without_argmax
from imp_trt.export.onnx.functions import without_functions
from imp_trt.export.targets import TARGETS, EngineOptions
from imp_trt.export.tensorrt import engine as engine_module
from imp_trt.export.tensorrt.builder import BuildResult
from imp_trt.export.tensorrt.engine import custom_nodes, make_engine, uses_plugin
from tests.support import engines
from tests.support.plugin_models import roi_align_model
from tests.support.typed_models import typed

OPERATORS = {"ImpMultilevelRoiAlign", "InstanceMaskProjection"}


@pytest.fixture
def model():
    return typed("fp16").model


@pytest.fixture
def handed(monkeypatch):
    """What the builder was given; it answers with a plan of the TensorRT named by "plan"."""
    seen = {"plan": engines.plan("10.3.0.26"), "engine_types": {"Half": 7, "Float": 2}}

    def build(graph, job, progress):
        seen.update(graph=graph, job=job)
        return BuildResult(seen["plan"], "10.3.0", {"Half": 61}, seen["engine_types"], "python")

    monkeypatch.setattr(engine_module, "build_engine", build)
    return seen


@pytest.mark.parametrize(
    ("version", "options", "bodies"),
    [
        ("10.3.0", EngineOptions(), False),
        ("10.6.0", EngineOptions(plugin=True), False),
        ("10.7.0", EngineOptions(), True),
        ("11.1.0.106", EngineOptions(), True),
        ("10.3.0", EngineOptions(plugin=False), True),
    ],
)
def test_old_parsers_get_no_bodies_where_plugins_are_wanted(handed, model, version, options, bodies):
    before = model.SerializeToString(deterministic=True)
    made = make_engine(model, "fp16", TARGETS["tensorrt"], options, engines.orin(tensorrt=version))
    graph = onnx.load_from_string(handed["graph"])
    assert bool(graph.functions) == bodies
    assert custom_nodes(graph).keys() == OPERATORS
    assert "ArgMax" not in {node.op_type for node in graph.graph.node}
    assert made.info.onnx_sha256 == hashlib.sha256(handed["graph"]).hexdigest()
    if not bodies:
        bare = without_argmax(without_functions(model)).SerializeToString(deterministic=True)
        assert handed["graph"] == bare, "the file of --function-free"
    assert model.SerializeToString(deterministic=True) == before, "the model is not changed"
    form = "function" if options.plugin is False else "plugin"
    assert handed["job"].plugins == form
    assert made.info.operators == dict.fromkeys(OPERATORS, form)


def test_an_engine_of_tensorrt(handed, model):
    options = EngineOptions(
        plugin_library=Path("lib.so"), timing_cache=Path("t.cache"), hardware_compatibility="ampere_plus"
    )
    made = make_engine(model, "fp16", TARGETS["jetson-orin"], options, engines.orin())
    assert handed["job"].plugin_library == str(Path.cwd() / "lib.so")
    assert handed["job"].timing_cache == str(Path.cwd() / "t.cache")
    info = made.info
    assert (info.backend, info.version, info.platform) == ("tensorrt", "10.3.0.26", "linux-aarch64")
    assert info.compute_capabilities == ("8.7",), "of the GPU that it was built on"
    assert info.layer_precisions == {"Half": 7, "Float": 2}
    assert info.hardware_compatibility == "ampere_plus"
    assert made.types_from == "engine inspector"


def test_an_engine_that_nothing_could_open_is_described_by_its_network(handed, model):
    handed.update(plan=engines.rtx_plan(bits=0b1100), engine_types=None)
    here = engines.orin(name="linux-x86_64", tensorrt_rtx="1.7.1.116")
    made = make_engine(model, "fp16", TARGETS["rtx"], EngineOptions(), here)
    assert handed["job"].plugins == "function"
    assert handed["job"].compute_capabilities == ("8.6", "8.9", "12.0")
    assert made.info.compute_capabilities == ("8.6", "8.9"), "the engine's own word"
    assert made.info.layer_precisions == {"Half": 61}
    assert "network" in made.types_from


def test_an_engine_without_custom_operators(handed):
    bare = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    made = make_engine(bare, "fp16", TARGETS["tensorrt"], EngineOptions(), engines.orin())
    assert handed["job"].plugins == "function"
    assert made.info.operators == {}


@pytest.mark.parametrize(
    ("target", "options"), [("tensorrt", EngineOptions(plugin=False)), ("rtx", EngineOptions())]
)
def test_adaptive_roi_align_needs_the_plugin(handed, target, options):
    """TensorRT has no layer for it: nothing else may be built in its place."""
    adaptive = roi_align_model("f16", ratio=0)
    for model in (adaptive, adaptive.SerializeToString()):
        with pytest.raises(UsageError, match=r"adaptive sampling.*plugin layers.*--roi-samples 2"):
            make_engine(model, "fp16", TARGETS[target], options, engines.orin())
    assert "job" not in handed
    make_engine(adaptive, "fp16", TARGETS["tensorrt"], EngineOptions(), engines.orin())
    assert handed["job"].plugins == "plugin"
    make_engine(roi_align_model("f16"), "fp16", TARGETS[target], options, engines.orin())
    assert handed["job"].plugins == "function"


@pytest.mark.parametrize(
    ("target", "options", "plugin"),
    [
        ("tensorrt", EngineOptions(), True),
        ("tensorrt", EngineOptions(plugin=False), False),
        ("rtx", EngineOptions(), False),
        ("rtx", EngineOptions(plugin=True), True),
        ("rtx", EngineOptions(plugin_library=Path("lib.so")), True),
    ],
)
def test_plugins_by_default_on_tensorrt_only(target, options, plugin):
    assert uses_plugin(TARGETS[target], options) is plugin

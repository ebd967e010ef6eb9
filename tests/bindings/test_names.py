# SPDX-License-Identifier: Apache-2.0
"""The names that tests.support.tensorrt_names reads, and what it finds wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import tensorrt_names
from tests.support.docstrings import Parameter, parameters, returned, signatures
from tests.support.rtx import run_rtx
from tests.support.stub_packages import needs_rtx

TEXT = (
    "f(*args, **kwargs)\nOverloaded function.\n\n1. f(self: m.A, b: list[tuple[int, int]], "
    "c: m.E = <E.X: 0>) -> m.sub.B\n\n2. f(self: m.A) -> None"
)
PLANTED = """
from typing import Any

class Monitor:
    def make(self, trt: Any):
        class Inner(trt.IProgressMonitor):
            def phase_start(self, name: str) -> None:
                pass
        return Inner()

def _builder(trt: Any) -> Any:
    return trt.Builder(trt.Logger())

def run(trt: Any, engine: Any, other: object) -> None:
    builder = _builder(trt)
    config = builder.create_builder_config()
    config.planted_flag = True
    network = builder.create_network(1, 2)
    for layer in [network.get_layer(i) for i in range(network.num_layers)]:
        print(layer.planted_name, layer.type.name)
    names = [engine.get_tensor_name(i).planted for i in range(3)]
    config.set_timing_cache(config.create_timing_cache(b""), planted=False)
    if getattr(trt, "PlantedGuard", None):
        trt.BuilderFlag.PLANTED_FLAG
    other.anything()

def typed(trt: TensorRT, runtime: Runtime | None, items: Sequence[ITensor], network: object) -> None:
    print(trt.planted_name, runtime.planted_name, [item.planted_name for item in items], network.anything)
"""


def test_docstrings_are_read_right() -> None:
    assert signatures(TEXT, "f") == [["b", "c"], []]
    assert parameters(TEXT, "f")[0] == [Parameter("b", False), Parameter("c", True)]
    assert returned(TEXT) == "B"
    assert returned("no signature") is None


def names_in_rtx(sources: list[str]) -> dict[str, Any]:
    """Run in the child process of tests.support.rtx."""
    import tensorrt_rtx as trt

    found = tensorrt_names.read(trt, tuple(sources))
    return {
        "uses": sorted({f"{use.owner}.{use.name}" for use in found.uses}),
        "missing": tensorrt_names.missing(trt, tuple(sources)),
        "unimplemented": tensorrt_names.unimplemented(trt),
        "unknown_members": tensorrt_names.unknown_members(trt),
        "guarded": tensorrt_names.guarded(trt, tuple(sources)),
    }


def protocol_names_that_rtx_lacks() -> list[str]:
    """Run in the child process of tests.support.rtx."""
    import tensorrt_rtx as trt

    lacking = []
    for protocol, names in tensorrt_names.protocols().items():
        # The protocol of an enumeration has its name in the plural.
        singular = {protocol, protocol.removesuffix("s"), protocol.removesuffix("ies") + "y"}
        owner = {"TensorRT": trt}.get(protocol) or next(
            (getattr(trt, name) for name in singular if hasattr(trt, name)), None
        )
        if owner is None and protocol != "Member":
            lacking.append(protocol)
        lacking += [f"{protocol}.{name}" for name in names if owner and not hasattr(owner, name)]
    return lacking


@needs_rtx
def test_the_protocols_have_no_name_that_tensorrt_rtx_lacks() -> None:
    assert len(tensorrt_names.protocols()) > 30
    assert run_rtx(protocol_names_that_rtx_lacks).result == []


@needs_rtx
def test_planted_names_and_arities_are_found(tmp_path: Any) -> None:
    source = tmp_path / "planted.py"
    source.write_text(PLANTED)
    found = run_rtx(names_in_rtx, [str(source)]).result
    assert sorted(line.split(": ", 1)[1] for line in found["missing"]) == [
        "BuilderFlag.PLANTED_FLAG",
        "IBuilderConfig.planted_flag",
        "ILayer.planted_name",
        "IProgressMonitor.phase_finish is not implemented",
        "IProgressMonitor.phase_start with 1 parameters",
        "IProgressMonitor.step_complete is not implemented",
        "ITensor.planted_name",
        "Runtime.planted_name",
        "builder.create_network(1, 2) fits no overload of Builder.create_network",
        "config.set_timing_cache(config.create_timing_cache(b''), planted=False) fits no overload of "
        "IBuilderConfig.set_timing_cache",
        "module.planted_name",
    ]
    assert "module.PlantedGuard" in found["guarded"]


@pytest.mark.slow
@needs_rtx
def test_what_the_sources_use_is_seen_and_in_tensorrt_rtx() -> None:
    sources = [*tensorrt_names.SOURCES, "imp_trt/backends/tensorrt_rtx.py"]
    found = run_rtx(names_in_rtx, sources).result
    # Each is reached in another way: a parameter, a loop, what a property or a function of ours returns.
    expected = """
        Builder.build_serialized_network EngineInspector.get_engine_information ITensor.dtype
        IBuilderConfig.progress_monitor ICudaEngine.get_tensor_shape IExecutionContext.execute_async_v3
        ILayer.num_outputs ITimingCache.serialize OnnxParser.num_errors ParserError.node_operator
        PluginTensorDesc.format module.ProfilingVerbosity
    """
    assert set(expected.split()) <= set(found["uses"])
    assert found["unimplemented"] == found["unknown_members"] == []
    # The build worker asks for these with the backend TensorRT alone.
    only_tensorrt = ("HardwareCompatibilityLevel", "timing_cache", "hardware_compatibility_level")
    assert [name for name in found["missing"] if not name.endswith(only_tensorrt)] == []


@needs_rtx
def test_a_member_that_is_known_by_its_name_alone() -> None:
    assert run_rtx(members_with_a_planted_one).result == ["DataType.PLANTED"]


def members_with_a_planted_one() -> list[str]:
    """Run in the child process of tests.support.rtx."""
    import tensorrt_rtx as trt

    from imp_trt.export.tensorrt import layer_types

    layer_types.NETWORK_NAMES["PLANTED"] = "Planted"
    return tensorrt_names.unknown_members(trt)


@pytest.mark.parametrize("source", tensorrt_names.SOURCES)
def test_the_sources_are_there(source: str) -> None:
    assert (tensorrt_names.ROOT / source).is_file()

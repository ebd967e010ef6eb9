# SPDX-License-Identifier: Apache-2.0
"""The operators as Torch-TensorRT converters, against stubs and the real plugin registry."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torchvision")

import torch

from imp_trt.errors import DependencyMissing
from imp_trt.plugins import torch_tensorrt
from imp_trt.plugins.torch_tensorrt import register_converters
from tests.plugins.torch_tensorrt import stub


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> stub.Registry:
    """Stubs in the place of both packages, without plugins."""
    found = stub.Registry()
    for name, module in stub.torch_tensorrt(found).items():
        monkeypatch.setitem(sys.modules, name, module)
    trt = ModuleType("tensorrt")
    trt.INetworkDefinition = stub.Network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr("imp_trt.plugins.registration.register_plugins", lambda trt, library: "python")
    monkeypatch.setattr(torch_tensorrt, "_registered", set())
    return found


def test_both_operators_are_registered_once(registry: stub.Registry) -> None:
    register_converters()
    register_converters()
    ops = torch.ops.imp_trt
    assert set(registry) == {ops.instance_mask_projection.default, ops.multilevel_roi_align.default}
    for (support,) in registry.values():
        assert not support.supports_dynamic_shapes
        assert not support.requires_output_allocator


def test_the_library_is_passed_on(registry: stub.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("imp_trt.plugins.registration.register_plugins", lambda *args: calls.append(args))
    register_converters(library="plugins.so")  # type: ignore[arg-type]
    assert calls == [(sys.modules["tensorrt"], "plugins.so")]


def test_every_operator_with_a_plugin_has_a_converter() -> None:
    from imp_trt.plugins.registration import operators

    for operator in operators():
        op = torch_tensorrt._torch_op(operator.NAME)
        names = [argument.name for argument in op._schema.arguments]
        # The plugin's fields are the operator's attributes, under the same names.
        assert names[len(operator.RANKS) :] == [field.name for field in dataclasses.fields(operator)]


def node(**types: torch.dtype | None) -> Any:
    """An FX node of instance_mask_projection whose inputs have types."""
    names = ("boxes", "scores", "labels", "masks")
    found = [SimpleNamespace(meta={"val": SimpleNamespace(dtype=types.get(n, torch.float32))}) for n in names]
    return SimpleNamespace(args=(*found, 8, 64, 128, 1.0, "rect"), kwargs={})


def test_types_that_tensorrt_lacks_stay_in_pytorch(registry: stub.Registry) -> None:
    register_converters()
    valid = registry[torch.ops.imp_trt.instance_mask_projection.default][0].validator
    for good in (torch.float32, torch.float16, torch.bfloat16):
        assert valid(node(masks=good), None)
    assert not valid(node(masks=torch.float64), None)
    # A node without recorded types is no objection.
    assert valid(SimpleNamespace(args=(1, 2, 3, 4), kwargs={}), None)
    valid = registry[torch.ops.imp_trt.multilevel_roi_align.default][0].validator
    level = [SimpleNamespace(meta={"val": SimpleNamespace(dtype=torch.float16)}) for _ in range(4)]
    assert valid(SimpleNamespace(args=tuple(level), kwargs={}), None)
    level[2].meta["val"].dtype = torch.float32
    assert not valid(SimpleNamespace(args=tuple(level), kwargs={}), None)


def test_without_torch_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(
        DependencyMissing, match=r"cannot be imported.*pip install 'imp-trt\[torch-tensorrt\]'"
    ):
        register_converters()


@pytest.mark.usefixtures("registry")
def test_torch_tensorrt_with_another_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["torch_tensorrt.dynamo.conversion"]
    monkeypatch.delattr(module, "dynamo_tensorrt_converter")
    with pytest.raises(DependencyMissing, match=r"2\.13\.0 or 2\.14\.0.*dynamo_tensorrt_converter"):
        register_converters()


@pytest.mark.usefixtures("registry")
def test_torch_tensorrt_over_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = ModuleType("tensorrt_rtx")
    rtx.INetworkDefinition = object  # type: ignore[attr-defined]
    rtx.__version__ = "1.7.1.116"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    with pytest.raises(DependencyMissing, match=r"tensorrt_rtx 1\.7\.1\.116"):
        register_converters()


def test_importing_the_module_imports_neither_package() -> None:
    code = (
        "import sys, imp_trt.plugins.torch_tensorrt as m; "
        "print([n for n in ('torch', 'tensorrt', 'torch_tensorrt', 'numpy') if n in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    """What converters do with the plugin registry of TensorRT-RTX."""
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs the package tensorrt-rtx")
    from tests.plugins.torch_tensorrt import rtx_cases
    from tests.support.rtx import run_rtx

    result: dict[str, Any] = run_rtx(rtx_cases.everything).result
    return result


@pytest.mark.slow
def test_layer_of_a_mask_projection(real: dict[str, Any]) -> None:
    assert real["mask_projection"] == {
        "operators": 2,
        "converters": [1, 1],
        "kinds": ["cast", "plugin"],
        "cast": ["scores", "DataType.FLOAT"],
        "inputs": ["boxes", "cast output", "labels", "masks"],
        "fields": {
            "plugin": ["InstanceMaskProjection", "1", "imp_trt"],
            "num_classes": [8],
            "canvas_h": [64],
            "canvas_w": [128],
            "spatial_scale": [0.25],
            "sampling": "rect",
        },
        "name": "[imp_trt.instance_mask_projection.default]-[node_1]",
        "output": True,
    }


@pytest.mark.slow
def test_layer_of_a_roi_align(real: dict[str, Any]) -> None:
    found = real["roi_align"]
    assert found["constant"] == "node_1_boxes"
    assert found["inputs"] == ["p2", "p3", "p4", "p5", "cast output"]
    assert found["fields"] == {
        "plugin": ["ImpMultilevelRoiAlign", "1", "imp_trt"],
        "output_size": [7],
        "sampling_ratio": [2],
        "canonical_level": [4],
        "canonical_size": [224],
    }


@pytest.mark.slow
def test_attributes_that_no_plugin_takes(real: dict[str, Any]) -> None:
    first, second = real["rejected"]
    assert first.startswith("InvalidInput")
    assert second.startswith("InvalidInput")
    assert "cubic" in second

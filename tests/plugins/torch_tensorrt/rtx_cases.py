# SPDX-License-Identifier: Apache-2.0
"""What test_converters.py runs in a process of its own: the real plugin registry, of TensorRT-RTX."""

from __future__ import annotations

import sys
from typing import Any

import torch

from imp_trt.plugins.torch_tensorrt import register_converters
from tests.plugins.torch_tensorrt import stub


def _register() -> tuple[stub.Registry, Any]:
    registry = stub.Registry()
    import tensorrt_rtx

    trt = stub.tensorrt(tensorrt_rtx)
    sys.modules.update(stub.torch_tensorrt(registry))
    sys.modules["tensorrt"] = trt
    register_converters()
    register_converters()
    return registry, trt


def _fields(trt: Any, plugin: Any) -> dict[str, Any]:
    core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
    runtime = plugin.get_capability_interface(trt.PluginCapabilityType.RUNTIME)
    found = {"plugin": [core.plugin_name, core.plugin_version, core.plugin_namespace]}
    for field in runtime.get_fields_to_serialize():
        value = bytes(field.data).decode() if field.type == trt.PluginFieldType.CHAR else list(field.data)
        found[field.name] = value if isinstance(value, str) else [v.item() for v in value]
    return found


def everything() -> dict[str, Any]:
    """All cases; one process, because importing PyTorch takes longer than they do."""
    registry, trt = _register()
    return {
        "mask_projection": mask_projection(registry, trt),
        "roi_align": roi_align(registry, trt),
        "rejected": rejected(registry, trt),
    }


def mask_projection(registry: stub.Registry, trt: Any) -> dict[str, Any]:
    """The layer made of a call in half precision."""
    op = torch.ops.imp_trt.instance_mask_projection.default
    (support,) = registry[op]
    kinds = trt.DataType
    ctx = stub.context()
    inputs = [
        stub.Tensor("boxes", kinds.FLOAT),
        stub.Tensor("scores", kinds.HALF),
        stub.Tensor("labels", kinds.INT64),
        stub.Tensor("masks", kinds.HALF),
    ]
    output = stub.call(support, ctx, op, (*inputs, 8, 64, 128), {"sampling": "rect", "spatial_scale": 0.25})
    cast, layer = ctx.net.layers
    return {
        "operators": len(registry),
        "converters": [len(found) for found in registry.values()],
        "kinds": [cast.kind, layer.kind],
        "cast": [cast.inputs[0].name, str(cast.output.dtype)],
        "inputs": [tensor.name for tensor in layer.inputs],
        "fields": _fields(trt, layer.detail),
        "name": layer.name,
        "output": output is layer.output,
    }


def roi_align(registry: stub.Registry, trt: Any) -> dict[str, Any]:
    """The layer made of a call whose boxes are a constant."""
    op = torch.ops.imp_trt.multilevel_roi_align.default
    (support,) = registry[op]
    ctx = stub.context()
    levels = [stub.Tensor(name, trt.DataType.BF16) for name in ("p2", "p3", "p4", "p5")]
    stub.call(support, ctx, op, (*levels, torch.zeros(1, 3, 4), 7, 2, 4, 224), {})
    cast, layer = ctx.net.layers
    return {
        "constant": cast.inputs[0].name,
        "inputs": [tensor.name for tensor in layer.inputs],
        "fields": _fields(trt, layer.detail),
    }


def rejected(registry: stub.Registry, trt: Any) -> list[str]:
    """Messages of calls whose attributes no plugin takes."""
    op = torch.ops.imp_trt.instance_mask_projection.default
    tensors = [stub.Tensor(name, trt.DataType.FLOAT) for name in ("boxes", "scores", "labels", "masks")]
    messages = []
    for values in ((0, 64, 128, 1.0, "rect"), (8, 64, 128, 1.0, "cubic")):
        try:
            stub.call(registry[op][0], stub.context(), op, (*tensors, *values), {})
        except Exception as error:
            messages.append(f"{type(error).__name__}: {error}")
    return messages

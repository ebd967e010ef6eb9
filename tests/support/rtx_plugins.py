# SPDX-License-Identifier: Apache-2.0
"""What tests/plugins/test_plugin_*.py do with TensorRT-RTX, in the child process of tests.support.rtx."""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import logging
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from imp_trt.errors import ImpTrtError
from imp_trt.plugins.registration import plugin_names, register_plugins
from tests.support import plugin_objects
from tests.support.rtx import trt

FIELDS: dict[str, dict[str, Any]] = {
    "InstanceMaskProjection": {
        "num_classes": 3,
        "canvas_h": 16,
        "canvas_w": 24,
        "spatial_scale": 0.3,
        "sampling": "nearest",
    },
    "ImpMultilevelRoiAlign": {
        "output_size": 7,
        "sampling_ratio": 2,
        "canonical_level": 4,
        "canonical_size": 224,
        "aligned": 1,
    },
}
_TYPES = {"f32": "FLOAT", "f16": "HALF", "bf16": "BF16", "i32": "INT32", "i64": "INT64", "bool": "BOOL"}
_kept: list[Any] = []  # field collections hold pointers, not references


def register(libraries: list[str | None]) -> list[str]:
    """The answers to register_plugins with one library after the other, or the error's type and text."""
    answers = []
    for library in libraries:
        try:
            answers.append(register_plugins(trt, None if library is None else Path(library)))
        except ImpTrtError as error:
            answers.append(f"{type(error).__name__}: {error}")
    return answers


def load_another(name: str) -> str:
    """Registers a foreign creator of one of the names, then the plugins."""
    creator = type("Creator", (trt.IPluginCreatorV3One,), {})()
    creator.name, creator.plugin_version, creator.plugin_namespace = name, "1", "imp_trt"
    creator.field_names = trt.PluginFieldCollection([])
    trt.get_plugin_registry().register_creator(creator, "imp_trt")
    return register([None])[0]


def open_library(library: str) -> list[str]:
    """Opens the library without telling TensorRT's registry; who is registered then."""
    registry = trt.get_plugin_registry()  # first: the library looks for the TensorRT of the process
    ctypes.CDLL(library)
    names = [creator.name for creator in registry.all_creators]
    return [*sorted(set(names) & set(plugin_names())), *register([library])]


def _creator(name: str) -> Any:
    return plugin_objects.creator(trt, name)


def create(name: str, fields: list[tuple[str, Any]]) -> Any:
    return plugin_objects.create(trt, name, fields)


def left_to_the_bindings(name: str) -> list[str]:
    """The methods of the plugin interfaces that the Python plugin does not have itself."""
    register([None])
    plugin = type(create(name, list(FIELDS[name].items())))
    interfaces = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)
    methods = [item for kind in interfaces for item, value in vars(kind).items() if callable(value)]
    ours = {m for m in methods if isinstance(inspect.getattr_static(plugin, m), FunctionType)}
    return sorted(m for m in methods if m[0] != "_" and m not in ours)


def _text(fields: Any, values: bool) -> str:
    """The fields as plugin_harness prints them: name:type:length:hex."""
    parts = []
    for field in fields:
        data = np.array(field.data).tobytes().hex() if values else ""
        parts.append(f"{field.name}:{int(field.type)}:{field.size}:{data}")
    return " ".join(parts)


def fields(library: str | None, name: str, given: dict[str, Any]) -> dict[str, str]:
    """Declared fields, and those that a plugin writes, its clone, and a plugin made from what it wrote."""
    register([library])
    result = {"declared": _text(_creator(name).field_names, False)}
    plugin = create(name, list(given.items()))
    core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
    result["core"] = f"{core.plugin_namespace}::{core.plugin_name}, {core.plugin_version}"
    build = plugin.get_capability_interface(trt.PluginCapabilityType.BUILD)
    result["metadata"], result["timing"] = build.metadata_string, build.timing_cache_id
    if library is None:  # the bindings cannot ask a C++ plugin for more
        written = plugin.get_fields_to_serialize()
        result["written"] = _text(written, True)
        clone = plugin.clone()  # a collection points into its plugin
        result["clone"] = _text(clone.get_fields_to_serialize(), True)
        again = _creator(name).create_plugin("layer", written, trt.TensorRTPhase.RUNTIME)
        result["again"] = _text(again.get_fields_to_serialize(), True)
    return result


def rejections(library: str | None, name: str, bad: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Changes one field at a time: a value, None to leave it out, "twice", or (type, values)."""
    _kept.append(trt.Builder(trt.Logger(trt.Logger.ERROR)))  # whose logger the registry hands to plugins
    register([library])
    messages: list[str] = []

    class Messages(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logging.getLogger("imp_trt.plugins").addHandler(Messages())
    results = []
    for changed, value in bad:
        listed = [(field, right) for field, right in FIELDS[name].items() if field != changed]
        if value == "twice":
            listed += [(changed, FIELDS[name][changed])] * 2
        elif isinstance(value, list):
            kind, numbers = value
            listed.append((changed, (kind, np.array(numbers, {"FLOAT32": np.float32}.get(kind, np.int32)))))
        elif value is not None:
            listed.append((changed, value))
        messages.clear()
        results.append({"made": create(name, listed) is not None, "log": "\n".join(messages)})
    return results


def tensor_desc(element: str, shape: list[int], format_name: str = "LINEAR") -> Any:
    desc = trt.PluginTensorDesc()
    desc.type = getattr(trt.DataType, _TYPES[element])
    desc.format = getattr(trt.TensorFormat, format_name)
    desc.dims = trt.Dims(shape)
    return desc


def formats(
    name: str, combinations: list[list[str]], format_names: str | list[str] = "LINEAR"
) -> list[list[bool]]:
    """supports_format_combination at every position, for combinations of element types (inputs, output).

    format_names: of all tensors, or of each.
    """
    register([None])
    plugin = create(name, list(FIELDS[name].items()))
    results = []
    for elements in combinations:
        descs = []
        names = [format_names] * len(elements) if isinstance(format_names, str) else format_names
        for element, format_name in zip(elements, names, strict=True):
            dynamic = trt.DynamicPluginTensorDesc()
            dynamic.desc = tensor_desc(element, [], format_name)
            descs.append(dynamic)
        count = len(elements) - 1
        results.append(
            [bool(plugin.supports_format_combination(pos, descs, count)) for pos in range(len(elements))]
        )
    return results


def build(model: str, register_first: bool, library: str | None = None) -> dict[str, Any]:
    """Parses and builds an ONNX file for one GPU."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    if register_first:
        register([library])
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(Path(model).read_bytes())
    errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
    if not parsed:
        return {"errors": errors}
    output = network.get_output(0)
    types = [network.get_layer(index).type for index in range(network.num_layers)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    serialized = builder.build_serialized_network(network, config)
    plan = b"" if serialized is None else bytes(serialized)
    return {
        "errors": errors,
        "plugin_layers": types.count(trt.LayerType.PLUGIN_V3),
        "layers": len(types),
        "shape": list(output.shape),
        "type": output.dtype.name,
        "plan_size": len(plan),
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
        "names_in_plan": sorted(name for name in plugin_names() if name.encode() in plan),
        "fields_in_plan": sorted({n for f in FIELDS.values() for n in f if n.encode() in plan}),
    }

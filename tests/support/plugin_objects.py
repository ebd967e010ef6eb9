# SPDX-License-Identifier: Apache-2.0
"""Python plugins made and read in Python, for any module with TensorRT's interfaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# Field collections hold pointers, not references. Plugins are TensorRT's to destroy: the bindings' destructor
# drops a reference that the plugin has only there, and crashes when Python frees the object itself.
_kept: list[Any] = []


def creator(trt: Any, name: str) -> Any:
    return trt.get_plugin_registry().get_creator(name, "1", "imp_trt")


def collection(trt: Any, fields: list[tuple[str, Any]]) -> Any:
    """int, float and str become INT32, FLOAT32 and CHAR; a pair (type, array) is taken as it is."""
    listed = []
    for name, value in fields:
        kind, data = value if isinstance(value, tuple) else (None, value)
        if isinstance(data, str):
            kind, data = "CHAR", np.frombuffer(data.encode(), np.int8)
        elif isinstance(data, float):
            kind, data = "FLOAT32", np.array([data], np.float32)
        elif isinstance(data, int):
            kind, data = "INT32", np.array([data], np.int32)
        _kept.append(data)
        listed.append(trt.PluginField(name, data, getattr(trt.PluginFieldType, kind)))
    _kept.append(listed)
    return trt.PluginFieldCollection(listed)


def create(trt: Any, name: str, fields: list[tuple[str, Any]] | Mapping[str, Any]) -> Any:
    """What create_plugin returns."""
    listed = list(fields.items()) if isinstance(fields, Mapping) else fields
    plugin = creator(trt, name).create_plugin("layer", collection(trt, listed), trt.TensorRTPhase.BUILD)
    _kept.append(plugin)
    return plugin


def create_again(trt: Any, name: str, fields: Any) -> Any:
    """What create_plugin returns for the fields that a plugin wrote."""
    plugin = creator(trt, name).create_plugin("layer", fields, trt.TensorRTPhase.RUNTIME)
    _kept.append(plugin)
    return plugin

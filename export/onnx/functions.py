# SPDX-License-Identifier: Apache-2.0
"""Local functions of an ONNX model: without them it needs the plugins."""

from __future__ import annotations

from onnx import ModelProto


def without_functions(model: ModelProto) -> ModelProto:
    """The same model with its custom nodes, but without their bodies; the given model is not changed.

    TensorRT below 10.7 uses a function even if a plugin of that name is registered, so a file for such a
    version must not contain it.
    """
    stripped = ModelProto()
    stripped.CopyFrom(model)
    del stripped.functions[:]
    return stripped


def raise_opset(model: ModelProto, opset: int) -> None:
    """Sets a newer opset in place, in the model and its functions, which must have the same.

    Only for versions between which no operator of the model changed: 18 to 19 for all of
    :data:`imp_trt.export.onnx.graph_checks.ALLOWED_OPS`.
    """
    for imports in (model.opset_import, *(f.opset_import for f in model.functions)):
        for entry in imports:
            if entry.domain in ("", "ai.onnx"):
                entry.version = opset

"""Local functions of an exported file: with them it runs anywhere, without them only where plugins are."""

from __future__ import annotations

from onnx import ModelProto


def without_functions(model: ModelProto) -> ModelProto:
    """The same model with its custom nodes, but without their bodies; the given model is not changed.

    TensorRT below 10.7 runs the body of a function even where a plugin of that name is registered, so a
    file for such a version must not hold one.
    """
    stripped = ModelProto()
    stripped.CopyFrom(model)
    del stripped.functions[:]
    return stripped


def raise_opset(model: ModelProto, opset: int) -> None:
    """Declares a newer opset in place, in the model and in its functions, which must agree.

    Only for versions between which no operator of the model changed its meaning: 18 to 19 is such a step
    for all that :data:`imp_trt.export.onnx.graph_checks.ALLOWED_OPS` allows.
    """
    for imports in (model.opset_import, *(f.opset_import for f in model.functions)):
        for entry in imports:
            if entry.domain in ("", "ai.onnx"):
                entry.version = opset

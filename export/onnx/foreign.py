# SPDX-License-Identifier: Apache-2.0
"""Third-party ONNX files: checked, with fixed shapes, ready to be lowered and built."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.artifacts.artifact import MAX_PAYLOAD_BYTES, manifest_path
from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.artifacts.network_manifest import DTYPES
from imp_trt.artifacts.reading import read_bounded
from imp_trt.backends.onnx_bounds import check_bounds
from imp_trt.errors import ArtifactError, DependencyMissing, UsageError
from imp_trt.export.onnx.structure import DOMAIN, Structure, read_structure

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

Shapes = Mapping[str, tuple[int, ...]]
"""Input -> shape."""

_SAVE_IN_ONE = 'import onnx; onnx.save_model(onnx.load({}), "one_file.onnx")'
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True, eq=False)
class ForeignModel:
    """A third-party float32 model with fixed input shapes.

    Attributes:
        path: of the file.
        content: of the file.
        model: the graph; the shapes of its outputs may still be unknown.
        inputs: its inputs.
    """

    path: Path
    content: bytes
    model: ModelProto
    inputs: tuple[TensorSpec, ...]


def read_foreign(path: Path, shapes: Shapes) -> ForeignModel:
    """A third-party ONNX file.

    Args:
        path: of the file.
        shapes: of the inputs whose shapes the file leaves open; of others, the same as the file's.

    Raises:
        ArtifactError: missing, no ONNX file, spread over several files, not in float32, with operators
            that are not in ONNX, inputs of a type that no engine takes, or unbounded time or memory.
        UsageError: an input has no fixed shape and none is given, or another one.
        DependencyMissing: the package onnx is not installed.
    """
    content = read_bounded(path, "ONNX file", MAX_PAYLOAD_BYTES["onnx"])
    structure = read_structure(content)
    _check_own(path, structure)
    inputs = _fixed_inputs(path, structure, shapes)
    for spec in (*inputs, *structure.outputs):
        if spec.dtype not in DTYPES:
            raise ArtifactError(
                f"ONNX file {path}: {spec.name!r}",
                expected=f"a tensor of {', '.join(DTYPES)}",
                got=spec.dtype,
                fix="export it with other inputs and outputs, for example after model.float()",
            )
    model, data = _with_output_shapes(_loaded(path, content)), content
    _check_operators(path, model)
    _check_format(path, model)
    if inputs != structure.inputs:
        _set_shapes(model, inputs)
        data = model.SerializeToString(deterministic=True)
    _check_bounds(path, data)
    model = _with_shapes(path, model)
    _check_float32(path, model)
    return ForeignModel(path, content, model, inputs)


def _check_own(path: Path, structure: Structure) -> None:
    """A file that imp-export made of a checkpoint needs its manifest: it says what the outputs mean."""
    if structure.producer == "imp_trt" and [spec.name for spec in structure.inputs] == ["frame"]:
        raise ArtifactError(
            f"manifest {manifest_path(path)}",
            expected="the manifest that imp-export wrote with this file",
            got="nothing at this path",
            fix="copy it next to the .onnx file, or export it again with imp-export",
        )


def _fixed_inputs(path: Path, structure: Structure, shapes: Shapes) -> tuple[TensorSpec, ...]:
    specs = {spec.name: spec for spec in structure.inputs}
    unknown = sorted(set(shapes) - set(specs))
    if unknown or not specs:
        raise UsageError(
            f"--shape for {path}", expected=f"inputs {', '.join(specs) or 'none'}", got=", ".join(unknown)
        )
    fixed = []
    for spec in structure.inputs:
        shape = shapes.get(spec.name, spec.shape)
        open_sides = len(shape) == len(spec.shape) and all(
            side == -1 or side == given for side, given in zip(spec.shape, shape, strict=True)
        )
        if spec.name in shapes and not open_sides:
            raise UsageError(f"--shape {spec.name}", expected=f"a shape like {list(spec.shape)}", got=shape)
        if any(side < 0 for side in shape):
            example = "x".join(str(side) if side >= 0 else "1" for side in shape)
            raise UsageError(
                f"{path}: input {spec.name!r}",
                expected="a fixed shape: an engine is built for one",
                got=f"{list(spec.shape)}, where -1 is any size",
                fix=f"give it with sizes of your own: --shape {shlex.quote(f'{spec.name}={example}')}",
            )
        fixed.append(TensorSpec(spec.name, spec.dtype, tuple(shape)))
    return tuple(fixed)


def _loaded(path: Path, data: bytes) -> ModelProto:
    try:
        import onnx
    except ImportError as error:
        raise DependencyMissing(
            f"export of {path}, a third-party file",
            expected="the package onnx",
            got=error,
            fix="pip install 'onnx>=1.19'; or export it to ONNX elsewhere, and build the engine here",
        ) from error
    try:
        model: ModelProto = onnx.load_model_from_string(data)
    except Exception as error:  # of protobuf, whose module depends on its version
        raise _damaged(path, error) from error
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        raise ArtifactError(
            f"ONNX file {path}",
            expected="weights in the same file",
            got="weights in other files",
            fix=f"python3 -c {shlex.quote(_SAVE_IN_ONE.format(json.dumps(str(path))))}",
        )
    return model


def _with_output_shapes(model: ModelProto) -> ModelProto:
    """The model with shapes of its outputs, which some exporters leave out and ONNX Runtime does not need."""
    import onnx

    if all(output.type.tensor_type.HasField("shape") for output in model.graph.output):
        return model
    try:
        inferred: ModelProto = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # of any type, for a model that the check behind this rejects
        return model
    return inferred


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"ONNX file {path}: it breaks the rules of the format",
        got=" ".join(str(error).split())[:500],
        fix="copy or export it again; onnx.checker.check_model shows details",
    )


def _check_operators(path: Path, model: ModelProto) -> None:
    """Operators of other domains would be rejected by ONNX Runtime, or by TensorRT, with less to say."""
    from onnx import defs

    functions = {(f.domain, f.name) for f in model.functions}
    for node in (*model.graph.node, *(node for f in model.functions for node in f.node)):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) in functions or defs.has(node.op_type, domain):
            continue
        raise ArtifactError(
            f"ONNX file {path}: operator {node.op_type!r} of node {node.name!r}",
            expected="an operator of ONNX, or one whose function body is in the file",
            got=f"domain {domain!r}" if domain else "no such operator in ONNX",
            fix="make the file with imp_trt.export.onnx_with_operators, which adds the bodies"
            if domain == DOMAIN
            else "export the network as it is before another runtime's optimizer, and without steps such as "
            "EfficientNMS_TRT, which can be done behind the engine",
        )


def _check_format(path: Path, model: ModelProto) -> None:
    from onnx import checker, numpy_helper

    try:
        checker.check_model(model)
        for tensor in model.graph.initializer:
            numpy_helper.to_array(tensor)
    except Exception as error:
        raise _damaged(path, error) from error


def _check_bounds(path: Path, data: bytes) -> None:
    """Of what the caller brings, unlike of an artifact, it is known how to fold its constants."""
    try:
        check_bounds(data, str(path))
    except ArtifactError as error:
        raise ArtifactError(
            f"ONNX file {path}: its time or memory has no bounds that are known",
            expected=error.expected,
            got=error.got,
            fix="export it with fixed sizes, without control flow: torch.onnx.export(..., dynamo=True); or "
            "fold its constants in ONNX Runtime: SessionOptions.optimized_model_filepath, ORT_ENABLE_BASIC",
        ) from error


def _set_shapes(model: ModelProto, inputs: tuple[TensorSpec, ...]) -> None:
    """Fix the inputs' shapes; those that the file names for other tensors no longer hold."""
    shapes = {spec.name: spec.shape for spec in inputs}
    for value in model.graph.input:
        if value.name in shapes:
            set_shape(value, shapes[value.name])
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def set_shape(value: ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Set the shape of an input or output."""
    sides = value.type.tensor_type.shape
    del sides.dim[:]
    for side in shape:
        sides.dim.add().dim_value = side
    sides.SetInParent()  # for a scalar, whose shape is empty and not missing


def _with_shapes(path: Path, model: ModelProto) -> ModelProto:
    import onnx

    try:
        inferred: ModelProto = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        raise _damaged(path, error) from error
    return inferred


def _check_float32(path: Path, model: ModelProto) -> None:
    found = next(_other_types(model), None)
    if found is not None:
        raise ArtifactError(
            f"ONNX file {path}: its precision",
            expected="a file in float32, from which --engine fp16 makes float16",
            got=found,
            fix="export the network in float32 (model.float() before torch.onnx.export), and pass that file",
        )


def _other_types(model: ModelProto) -> Iterator[str]:
    from onnx import TensorProto

    low = {
        value: name
        for name, value in TensorProto.DataType.items()
        if name in ("FLOAT16", "BFLOAT16") or name.startswith(("FLOAT8", "FLOAT4", "INT4", "UINT4"))
    }
    graph = model.graph
    for initializer in graph.initializer:
        if initializer.data_type in low:
            yield f"{initializer.name!r} in {low[initializer.data_type]}"
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type in low:
            yield f"{value.name!r} in {low[value.type.tensor_type.elem_type]}"
    for node in graph.node:
        if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear"):
            yield f"a quantized network, node {node.op_type} {node.name!r}"

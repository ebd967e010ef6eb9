# SPDX-License-Identifier: Apache-2.0
"""Instance mask projection in the ONNX file of an instance segmenter: canvas and class map as new outputs."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnxscript import ir

from imp_trt.classes import ClassTable
from imp_trt.data.files import read_regular, write_atomically
from imp_trt.errors import ArtifactError, ExportError, InvalidInput
from imp_trt.export.onnx import mask_projection
from imp_trt.export.onnx.function_builder import DOMAIN, OPSET, PLUGIN_ATTRIBUTES, Operators
from imp_trt.graph.operands import Columns, GraphTensors, Prototypes, cast, named_nodes
from imp_trt.graph.segmenter import DetectionOperands, read_detections
from imp_trt.ops.mask_projection.options import Sampling, check_options

_MAX_BYTES = (1 << 31) - 1  # of a protocol buffer, thus of an ONNX file in one piece
_MAX_PLANES = 255  # one class for each and one for the background, in a class map of uint8
_log = logging.getLogger(__name__)

_CANVAS_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class _Request:
    """The options of add_projection, checked.

    Attributes:
        labels: the detector's label of each plane.
        classes: index in the class map of the background and of each plane.
    """

    labels: tuple[int, ...]
    classes: tuple[int, ...]
    canvas_size: tuple[int, int]
    spatial_scale: float
    sampling: Sampling
    threshold: float
    canvas: str
    class_map: str


def add_projection(
    model: ModelProto | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    boxes: str | Columns,
    scores: str | Columns,
    labels: str | Columns,
    masks: str | Columns,
    things: int | Sequence[int],
    canvas_size: tuple[int, int],
    spatial_scale: float = 0.25,
    sampling: Sampling = "bilinear",
    prototypes: Prototypes | None = None,
    classes: ClassTable | None = None,
    background: int = 0,
    threshold: float = 0.5,
    output_names: tuple[str, str] = ("canvas", "class_map"),
) -> ModelProto:
    """Adds instance mask projection to the ONNX file of any instance segmenter.

    The file gets two outputs: the canvas [B, C, H, W], the maximum of score * mask for each of C classes, and
    the class map [B, H, W] uint8, the class of the largest value of each pixel. The operator is a node of
    domain ``imp_trt`` with its body in standard operators: the file runs in ONNX Runtime, and TensorRT uses
    the plugin if it is registered. The rest of the graph is not changed; files below opset 18 are converted
    to it.

    B is 1 if the detections have no axis of the batch. Tensors are named, outputs or not: masks must be those
    of the boxes, before they are pasted into the image.

    Args:
        model: the model, which is not changed, or an .onnx file.
        output: file to write; None writes none.
        boxes: [N, 4] or [B, N, 4] floating point, xyxy in pixels, pixel x covers [x, x + 1).
        scores: [N] or [B, N] floating point, or the same with a last axis of 1. Detections of padding have
            score 0.
        labels: as scores, integers, or floating point numbers that are integers.
        masks: probabilities [N, P, P], [N, 1, P, P], [B, N, P, P] or [B, N, 1, P, P]; with prototypes the
            coefficients, [N, K] or [B, N, K].
        things: the detector's label of each plane of the canvas, in order; C for the labels 0 to C - 1.
            Instances with other labels contribute nothing. ``range(1, 91)`` for torchvision's COCO models.
        canvas_size: (H, W) of canvas and class map.
        spatial_scale: canvas pixels per pixel of the boxes, 1 / stride: 0.25 for a canvas of a quarter of the
            image's sides.
        sampling: how masks are sampled.
        prototypes: for masks that are combinations of prototypes.
        classes: class table of the class map, written to the file's metadata: plane k is class
            ``classes.things[k]``. None: plane k is class k + 1.
        background: class of pixels whose canvas values are all <= threshold, 0 to 255.
        threshold: of score * mask, 0 to 1.
        output_names: of canvas and class map.

    Returns:
        the changed model.

    Raises:
        InvalidInput: a tensor of that name does not exist or has another shape or type, or an option is
            invalid.
        ArtifactError: the file is missing or not an ONNX model.
        ExportError: the model cannot be converted to opset 18, is not valid, or is too large for one file.
        OutputError: the file cannot be written.
    """
    plane_labels, indices = _planes(things, classes, background)
    size = check_options(len(plane_labels), canvas_size, spatial_scale, sampling)
    if not (math.isfinite(threshold) and 0 <= threshold <= 1):
        raise InvalidInput("threshold", expected="0 to 1", got=threshold)
    request = _Request(
        plane_labels, indices, size, float(spatial_scale), sampling, float(threshold), *output_names
    )
    changed = _at_opset(_loaded(model))
    _warn_of_size(changed, request)
    tensors = GraphTensors(_with_shapes(changed))  # what is inferred does not belong to the file
    _check_names(changed, tensors, request)
    op = Operators()
    sources = {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks}
    detections = read_detections(op, tensors, sources, prototypes)
    if sampling == "rect" and detections.masks.shape[3] < 1:
        raise detections.masks.problem("masks of a known size for sampling='rect'")
    _insert(changed, op, detections, request)
    _add_function(changed, _opset(changed))
    if classes is not None:
        _set_properties(changed, classes, sampling)
    _check(changed)
    if output is not None:
        write_atomically(output, changed.SerializeToString())
    return changed


def _planes(
    things: int | Sequence[int], classes: ClassTable | None, background: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Labels of the planes, and indices in the class map of background and planes."""
    try:
        every = range(things) if isinstance(things, int) else things
        labels = tuple(index(label) for label in every)
    except TypeError as error:
        raise InvalidInput("things", expected="a number or labels, integers", got=things) from error
    if not 1 <= len(labels) <= _MAX_PLANES or len(set(labels)) != len(labels):
        raise InvalidInput("things", expected=f"1 to {_MAX_PLANES} labels, each once", got=things)
    indices = tuple(range(1, len(labels) + 1)) if classes is None else classes.things
    if len(indices) != len(labels):
        raise InvalidInput(
            "classes", expected=f"{len(labels)} things, one for each label", got=f"{len(indices)} things"
        )
    if not 0 <= background <= 255 or background in indices:
        raise InvalidInput("background", expected=f"0 to 255 without {list(indices)}", got=background)
    return labels, (background, *indices)


def _warn_of_size(model: ModelProto, request: _Request) -> None:
    """Log a canvas that the boxes of the model's images fill in part, or that they leave."""
    found = _image_size(model)
    if found is None:
        return
    spanned = tuple(side * request.spatial_scale for side in found)
    if any(abs(a - b) > 1 + b / 20 for a, b in zip(spanned, request.canvas_size, strict=True)):
        _log.warning(
            "the images of %dx%d pixels span %.0fx%.0f of the canvas of %dx%d at spatial_scale=%g: pass "
            "canvas_size=(H, W) and spatial_scale that belong together, unless the boxes are in other pixels",
            *found,
            *spanned,
            *request.canvas_size,
            request.spatial_scale,
        )


def _image_size(model: ModelProto) -> tuple[int, int] | None:
    """Height and width of the only input that is an image of a fixed size; None if there is none."""
    sizes = []
    for value in model.graph.input:
        sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim][-3:]
        if len(sides) == 3 and 3 in (sides[0], sides[2]):
            sizes.append((sides[1], sides[2]) if sides[0] == 3 else (sides[0], sides[1]))
    return sizes[0] if len(sizes) == 1 and min(sizes[0]) > 0 else None


def _loaded(model: ModelProto | str | os.PathLike[str]) -> ModelProto:
    if isinstance(model, ModelProto):
        return model
    path = Path(model)
    try:
        loaded: ModelProto = ModelProto.FromString(read_regular(path, _MAX_BYTES))
        onnx.load_external_data_for_model(loaded, str(path.parent))
    except (OSError, MemoryError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise ArtifactError(
            f"ONNX file {path}",
            expected="a readable ONNX model",
            got=(isinstance(error, OSError) and error.strerror) or str(error) or "more data than memory",
            fix="copy it again, with the files of its weights if it has such",
        ) from error
    if not loaded.graph.node:
        raise ArtifactError(f"ONNX file {path}", expected="an ONNX model", got="no nodes")
    return loaded


def _at_opset(model: ModelProto) -> ModelProto:
    """A copy of the model at opset 18 or higher, as the function body needs it."""
    opset = _opset(model)
    if opset >= OPSET:
        copy = ModelProto()
        copy.CopyFrom(model)
        return copy
    try:
        converted: ModelProto = onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # RuntimeError, and whatever the converters of single operators raise
        raise ExportError(
            f"ONNX cannot convert the model from opset {opset} to {OPSET}",
            got=" ".join(str(error).split())[:300],
            fix=f"export it again with opset {OPSET} or higher",
        ) from error
    return converted


def _opset(model: ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def _with_shapes(model: ModelProto) -> ModelProto:
    """A copy with the shapes and types that ONNX can infer."""
    try:
        inferred: ModelProto = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # InferenceError, and ValueError or EncodeError for large models
        raise ExportError("shapes of the model", got=" ".join(str(error).split())[:300]) from error
    return inferred


def _check_names(model: ModelProto, tensors: GraphTensors, request: _Request) -> None:
    used = tensors.names | {node.name for node in model.graph.node}
    for name in (request.canvas, request.class_map):
        taken = not name or any(other == name or other.startswith(f"{name}.") for other in used)
        if taken or request.canvas == request.class_map:
            raise InvalidInput(
                "output_names", expected="two names that the graph does not use", got=repr(name)
            )


def _insert(model: ModelProto, op: Operators, detections: DetectionOperands, request: _Request) -> None:
    """Adds the nodes of the operands, the operator and the class map, and both outputs."""
    graph = model.graph
    labels = _plane_of(op, detections.labels.value, request.labels)
    masks = detections.masks
    masks = masks if masks.kind in _CANVAS_TYPES else cast(op, masks, TensorProto.FLOAT)
    if masks.value.name is not None:  # a tensor of the graph, whose description there may lack its sizes
        masks = replace(masks, value=op.Identity(masks.value))
    operands = (
        cast(op, detections.boxes, TensorProto.FLOAT).value,
        cast(op, detections.scores, TensorProto.FLOAT).value,
        labels,
        masks.value,
    )
    graph.node.extend(named_nodes(op, request.canvas))
    # The sizes that the function body is made for.
    sides = [size if size > 0 else None for size in masks.shape]
    graph.value_info.append(helper.make_tensor_value_info(str(masks.value.name), masks.kind, sides))
    graph.node.append(_projection([str(value.name) for value in operands], request))
    graph.node.extend(_class_map(masks.kind, request))
    batch = detections.batch if detections.batch > 0 else "batch"
    shape = [batch, len(request.labels), *request.canvas_size]
    graph.output.extend(
        [
            helper.make_tensor_value_info(request.canvas, masks.kind, shape),
            helper.make_tensor_value_info(
                request.class_map, TensorProto.UINT8, [batch, *request.canvas_size]
            ),
        ]
    )


def _plane_of(op: Operators, labels: ir.Value, of_planes: tuple[int, ...]) -> ir.Value:
    """Labels [B, N] int64 -> planes, outside [0, C) for labels without one."""
    first, count = of_planes[0], len(of_planes)
    if of_planes == tuple(range(first, first + count)):
        shifted: ir.Value = labels if first == 0 else op.Sub(labels, op.Constant(value_int=first))
        return shifted
    last = op.Constant(value_ints=[2])
    equal = op.Equal(op.Unsqueeze(labels, last), op.Constant(value_ints=list(of_planes)))  # [B, N, C]
    numbers = op.Mul(op.Cast(equal, to=TensorProto.INT64), op.Constant(value_ints=list(range(1, count + 1))))
    planes: ir.Value = op.Sub(op.ReduceSum(numbers, last, keepdims=0), op.Constant(value_int=1))
    return planes


def _projection(operands: list[str], request: _Request) -> NodeProto:
    height, width = request.canvas_size
    return helper.make_node(
        mask_projection.NAME,
        operands,
        [request.canvas],
        name=f"{request.canvas}.{mask_projection.NAME}",
        domain=DOMAIN,
        num_classes=len(request.labels),
        canvas_h=height,
        canvas_w=width,
        spatial_scale=request.spatial_scale,
        sampling=request.sampling,
        **PLUGIN_ATTRIBUTES,
    )


def _class_map(kind: int, request: _Request) -> list[NodeProto]:
    """ArgMax over the background, a plane of the threshold, and the planes of the canvas."""
    op = Operators()
    canvas = ir.Value(name=request.canvas)
    if kind != TensorProto.FLOAT:
        canvas = op.Cast(canvas, to=TensorProto.FLOAT)
    # A tensor: onnx 1.19 rejects the pads of a Constant with value_ints.
    pads = op.Constant(value=ir.tensor([0, 1, 0, 0, 0, 0, 0, 0], dtype=ir.DataType.INT64))
    planes = op.Pad(canvas, pads, op.Constant(value_float=request.threshold))
    index = op.ArgMax(planes, axis=1, keepdims=0)
    if request.classes != tuple(range(len(request.classes))):
        index = op.Gather(op.Constant(value_ints=list(request.classes)), index)
    result = op.Cast(index, to=TensorProto.UINT8)
    result.name = request.class_map
    return named_nodes(op, request.class_map)


def _add_function(model: ModelProto, opset: int) -> None:
    """The function body for all projections of the model, instead of one that it may have."""
    for function in filter(None, [mask_projection.function_for_model(model)]):
        # Newer opsets add types to its operators, and change none that it uses.
        function.opset_import[0].version = opset
        kept = [f for f in model.functions if (f.domain, f.name) != (function.domain, function.name)]
        del model.functions[:]
        model.functions.extend([*kept, function])
    if all(imports.domain != DOMAIN for imports in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.ir_version = max(model.ir_version, 8)  # the first with functions


def _set_properties(model: ModelProto, classes: ClassTable, sampling: str) -> None:
    properties = {entry.key: entry.value for entry in model.metadata_props}
    properties |= {"imp_trt.classes": json.dumps(classes.to_dict()), "imp_trt.sampling": sampling}
    helper.set_model_props(model, properties)


def _check(model: ModelProto) -> None:
    if model.ByteSize() > _MAX_BYTES:
        raise ExportError(
            "the model is too large for one ONNX file", expected=f"{_MAX_BYTES:,} bytes", got=model.ByteSize()
        )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError("changed graph", expected="valid ONNX", got=" ".join(str(error).split())) from error

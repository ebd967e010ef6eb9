# SPDX-License-Identifier: Apache-2.0
"""Export of a network to ONNX: a static graph with custom operators as nodes, their bodies as functions."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch.export import ExportedProgram

import imp_trt
from imp_trt.errors import ExportError, ImpTrtError, InvalidInput
from imp_trt.export.onnx import mask_projection
from imp_trt.export.onnx import roi_align as multilevel_roi_align
from imp_trt.export.onnx.function_builder import DOMAIN, OPSET
from imp_trt.export.onnx.graph_checks import check
from imp_trt.models.deploy import CanvasModule, DeployModule
from imp_trt.models.outputs import OUTPUT_NAMES

INPUT_NAME = "frame"
CANVAS_NAME = "canvas"

_OPERATORS = (multilevel_roi_align, mask_projection)


def onnx_from_module(module: DeployModule, batch: int = 1) -> ModelProto:
    """A network as ONNX: input frame uint8 [B, H, W, 3] BGR, outputs OUTPUT_NAMES, opset 18.

    The export is deterministic: the same weights give the same bytes.

    Args:
        module: static form of the network.
        batch: B, fixed in the file.

    Raises:
        ExportError: PyTorch cannot export the module, or some target does not support the graph.
    """
    if batch < 1:
        raise InvalidInput("batch", expected="at least 1", got=batch)
    height, width = module.config.input_size
    frame = torch.zeros(batch, height, width, 3, dtype=torch.uint8)
    model = onnx_with_operators(module, (frame,), [INPUT_NAME], OUTPUT_NAMES, keep_bfloat16=True)
    _replace_empty_initializers(model)
    _clean(model, module)
    check(model)
    return model


def onnx_from_canvas_module(module: CanvasModule, batch: int = 1) -> ModelProto:
    """The canvas part of a network as ONNX: inputs frame uint8 [B, H, W, 3] BGR and canvas float32
    [B, T, H/4, W/4], output semantic uint8 [B, H, W]; see :func:`onnx_from_module`.
    """
    height, width = module.config.input_size
    inputs = (
        torch.zeros(batch, height, width, 3, dtype=torch.uint8),
        torch.zeros(module.canvas_shape(batch)),
    )
    model = onnx_with_operators(
        module, inputs, [INPUT_NAME, CANVAS_NAME], OUTPUT_NAMES[:1], keep_bfloat16=True
    )
    _clean(model, module)
    check(model)
    return model


def operators_of(model: ModelProto) -> dict[str, dict[str, object]]:
    """Custom operators of a file, each with its version and sampling rule (if any), for the manifest."""
    operators: dict[str, dict[str, object]] = {}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            details: dict[str, object] = {"version": _text(node, "plugin_version")}
            if any(a.name == "sampling" for a in node.attribute):
                details["sampling"] = _text(node, "sampling")
            operators[node.op_type] = details
    return operators


def onnx_with_operators(
    module: torch.nn.Module,
    arguments: tuple[torch.Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    *,
    keep_bfloat16: bool = False,
) -> ModelProto:
    """Any PyTorch network that calls this package's operators, as an ONNX file of opset 18.

    Each call becomes one node of domain ``imp_trt``, and the file has its body in standard operators: it
    runs in ONNX Runtime without changes, and TensorRT uses the plugin if it is registered. The rest of the
    network is exported by ``torch.onnx.export`` and not changed. Operands of types that the node does not
    take, such as float16 boxes, are cast.

    Args:
        module: the network; it is set to evaluation mode.
        arguments: example inputs; the file has their shapes.
        input_names, output_names: names of the file's inputs and outputs, in order.
        keep_bfloat16: do not compute bfloat16 features in float32: for TensorRT, not for ONNX Runtime.

    Raises:
        ExportError: PyTorch cannot export the network, or two calls need different function bodies.
    """
    table = _table(keep_bfloat16)
    model: ModelProto = _program(module, arguments, table, input_names, output_names).model_proto
    bodies = [operator.function_for_model(model) for operator in _OPERATORS]
    model.functions.extend(body for body in bodies if body is not None)
    return model


def pytorch_program(module: DeployModule) -> ExportedProgram:
    """The PyTorch program that a network's ONNX file of one frame is translated from.

    The nodes of its graph have the names of the values in the file, except where the translation of a node
    takes several.
    """
    height, width = module.config.input_size
    frame = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    program = _program(module, (frame,), _table(False), [INPUT_NAME], OUTPUT_NAMES).exported_program
    if program is None:
        raise ExportError("PyTorch's program of the network", got="none")
    return program


def _table(keep_bfloat16: bool) -> dict[Any, Any]:
    # Any: torch types the keys as callables, which its operators are not.
    tables = (mask_projection.translation_table(), multilevel_roi_align.translation_table(keep_bfloat16))
    return {key: value for one in tables for key, value in one.items()}


def _program(
    module: torch.nn.Module,
    arguments: tuple[torch.Tensor, ...],
    table: dict[Any, Any],
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> torch.onnx.ONNXProgram:
    try:
        with _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                arguments,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=table,
                input_names=list(input_names),
                output_names=list(output_names),
                verbose=False,
            )
    except ImpTrtError:
        raise
    except Exception as error:
        # The exporter wraps the cause in pages of advice on debugging the exporter.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}"
        raise ExportError("PyTorch cannot export the network", got=reason) from error
    if program is None:
        raise ExportError("PyTorch cannot export the network", got="no program")
    return program


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silences the exporter's warnings about its internals; the graph is checked afterwards.

    What it prints goes to stderr: stdout is for the results of a command, one JSON document with --json.
    """
    logger = logging.getLogger("onnx_ir.passes")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _replace_empty_initializers(model: ModelProto) -> None:
    """Computes tensors without elements, the instances of a network without detector, from their shapes.

    TensorRT's parser warns about each initializer without data.
    """
    graph = model.graph
    empty = [i for i in graph.initializer if 0 in i.dims]
    for initializer in empty:
        name, shape = initializer.name, f"{initializer.name}.shape"
        zero = numpy_helper.from_array(
            np.zeros(1, helper.tensor_dtype_to_np_dtype(initializer.data_type)), "value"
        )
        graph.initializer.append(numpy_helper.from_array(np.array(initializer.dims, np.int64), shape))
        node = helper.make_node(
            "ConstantOfShape", [shape], [name], name=f"ConstantOfShape.{name}", value=zero
        )
        graph.node.insert(0, node)
        graph.initializer.remove(initializer)


def _clean(model: ModelProto, module: DeployModule | CanvasModule) -> None:
    """Removes the exporter's metadata (stack traces with paths of this machine) and sets the producer."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.graph.name = "imp_trt"
    model.graph.doc_string = model.doc_string = ""
    model.producer_name, model.producer_version = "imp_trt", imp_trt.__version__
    properties = {"imp_trt.classes": json.dumps(module.config.classes.to_dict())}
    if module.config.imp:
        properties["imp_trt.sampling"] = module.config.sampling
    helper.set_model_props(model, properties)


def _text(node: NodeProto, name: str) -> str:
    return next((a.s.decode() for a in node.attribute if a.name == name), "")

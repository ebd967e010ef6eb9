# SPDX-License-Identifier: Apache-2.0
"""ONNX functions written as Python functions on onnxscript's tape, with unique tensor names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from onnx import FunctionProto, helper
from onnx.defs import OpSchema
from onnxscript import ir, opset18
from onnxscript.values import Op, Opset

from imp_trt.export.onnx.structure import DOMAIN as DOMAIN

OPSET = 18
"""Opset of the standard operators in files without Q/DQ, function bodies included."""

PLUGIN_ATTRIBUTES = {"plugin_version": "1", "plugin_namespace": DOMAIN}
"""TensorRT's parser finds the plugin by these; a registered plugin then takes precedence over the body."""


TranslationTable = dict[object, Callable[..., object]]
"""torch operator -> function that writes its ONNX nodes; torch.onnx.export's custom_translation_table."""


class Operators:
    """``op.Add(a, b)`` writes one node of the ONNX operator ``Add`` and returns its result.

    Positional arguments are inputs, keywords attributes. ``outputs`` is the number of results; with more
    than one a sequence is returned. A body is traced, not compiled by ``onnxscript.script``, which turns
    ``if`` into If, ``for`` into Loop and every helper into a call of another function.
    """

    def __init__(self) -> None:
        self._tape = ir.tape.Tape()

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        # Returns one tensor or a sequence of them, depending on the value of outputs.
        def write(*inputs: ir.Value, outputs: int = 1, **attributes: Any) -> Any:
            results = self._tape.op_multi_out(op_type, inputs, attributes, num_outputs=outputs)
            return results[0] if outputs == 1 else results

        return write

    def attribute(self, name: str, kind: Literal["INT", "FLOAT"]) -> ir.Value:
        """A scalar with the value of an attribute of the calling node."""
        field = f"value_{kind.lower()}"
        reference = ir.RefAttr(field, name, ir.AttributeType[kind])
        return self._tape.op("Constant", [], {field: reference})

    def nodes(self) -> Sequence[ir.Node]:
        """The nodes in the order in which they were written."""
        return self._tape.nodes


class Tensors:
    """Tensors by name: ``t.area = op.Mul(t.width, t.height)`` names the product ``area``.

    ``t["area"]`` is the same tensor, for computed names and for keywords of Python.
    """

    _prefix: str
    _named: dict[str, ir.Value]

    def __init__(self, prefix: str, named: dict[str, ir.Value]) -> None:
        self.__dict__.update(_prefix=prefix, _named=named)

    def under(self, name: str) -> Tensors:
        """The tensors whose names start with ``name_``: ``t.under("x").low`` is ``t.x_low``."""
        return Tensors(f"{self._prefix}{name}_", self._named)

    def __getitem__(self, name: str) -> ir.Value:
        return self._named[self._prefix + name]

    def __setitem__(self, name: str, tensor: ir.Value) -> None:
        full = self._prefix + name
        if full in self._named or tensor.name is not None:
            raise ValueError(f"a second tensor {full}, or a second name for {tensor.name}")
        self._named[full] = tensor
        tensor.name = full

    def __getattr__(self, name: str) -> ir.Value:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no tensor {self._prefix}{name}") from None

    def __setattr__(self, name: str, tensor: ir.Value) -> None:
        self[name] = tensor


def build_function(
    name: str,
    attributes: Iterable[str],
    inputs: Sequence[str],
    output: str,
    write: Callable[[Operators, Tensors], None],
) -> FunctionProto:
    """A function with the nodes that ``write`` writes; all tensor names start with the function's name.

    TensorRT's parser looks functions up by name only and has one table of tensor names: of two tensors with
    the same name in different bodies, one could silently replace the other.

    Args:
        name: function name; globally unique, and not that of an ONNX operator.
        attributes: names of the attributes that the body uses.
        inputs, output: formal parameters.
        write: called once with the operators and the tensors; reads the inputs and sets the output.

    Returns:
        The function, in domain ``imp_trt`` over opset 18.
    """
    op, t = Operators(), Tensors(f"{name}.", {})
    for tensor in inputs:
        t[tensor] = ir.Value()
    write(op, t)
    nodes = [ir.serde.serialize_node(node) for node in op.nodes()]
    for index, node in enumerate(nodes):
        node.name = f"{name}.{index}.{node.op_type}"
        node.domain = ""  # explicit, although the default: keeps the bytes of exported files
    formal, result = ([str(t[tensor].name) for tensor in names] for names in (inputs, [output]))
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, name, formal, result, nodes, opsets, list(attributes))


# The arguments of translation functions are of classes of the exporter's own.
def cast(tensor: Any, kind: int) -> Any:
    """A tensor in another type, within a translation function; the tensor itself if it has that type.

    Args:
        tensor: an argument of the translation function.
        kind: onnx type.
    """
    return tensor if tensor.dtype == kind else opset18.Cast(tensor, to=kind)


def custom_op(name: str, inputs: Sequence[str], attributes: Mapping[str, str], output: str, like: str) -> Op:
    """A callable for ``torch.onnx.export``'s translation table that writes one node of domain ``imp_trt``.

    Args:
        name: node type.
        inputs: parameter names.
        attributes: attribute name -> "INT", "FLOAT" or "STRING"; the plugin attributes are added.
        output: name of the only output.
        like: the input whose type the output has.
    """
    types = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(int32)", "tensor(int64)"]
    letters = {tensor: f"T{index}" for index, tensor in enumerate(inputs)}
    named = {**attributes, **dict.fromkeys(PLUGIN_ATTRIBUTES, "STRING")}
    schema = OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter(tensor, letter) for tensor, letter in letters.items()],
        outputs=[OpSchema.FormalParameter(output, letters[like])],
        type_constraints=[(letter, types, "") for letter in letters.values()],
        attributes=[OpSchema.Attribute(a, getattr(OpSchema.AttrType, kind), "") for a, kind in named.items()],
    )
    return Op(Opset(DOMAIN, 1), name, schema)

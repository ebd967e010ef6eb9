"""ONNX functions written in ONNX's own text form, with names that cannot collide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import FunctionProto, parser
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset

DOMAIN = "imp_trt"
"""Domain of every custom node and function of this package."""

OPSET = 18
"""Opset of the standard operators in files without Q/DQ, function bodies included."""

PLUGIN_ATTRIBUTES = {"plugin_version": "1", "plugin_namespace": DOMAIN}
"""By these TensorRT's parser finds the plugin; with them a registered plugin wins over the body."""


def parse_function(
    name: str, attributes: Sequence[str], inputs: Sequence[str], outputs: Sequence[str], body: str
) -> FunctionProto:
    """Parses a function body and makes every tensor name in it start with the function's name.

    TensorRT's parser finds functions by name alone and keeps one table of tensor names, so equal names
    in two bodies are at best confusing and at worst silently exchanged.

    Args:
        name: function name; globally unique, never that of an ONNX operator.
        attributes: names of attributes the body refers to as ``@name``.
        inputs, outputs: formal parameters.
        body: one ``outputs = Operator <attributes> (inputs)`` per line.

    Returns:
        The function, in domain ``imp_trt`` over opset 18.
    """
    listed = f" <{', '.join(attributes)}>" if attributes else ""
    signature = f"{name}{listed} ({', '.join(inputs)}) => ({', '.join(outputs)})"
    text = f'<opset_import: ["" : {OPSET}], domain: "{DOMAIN}">\n{signature}\n{{\n{body}\n}}'
    function = parser.parse_function(text)
    tensors = [function.input, function.output]
    for node in function.node:
        tensors += [node.input, node.output]
    for names in tensors:
        names[:] = [f"{name}.{tensor}" if tensor else tensor for tensor in names]
    for index, node in enumerate(function.node):
        node.name = f"{name}.{index}.{node.op_type}"
    return function


def custom_op(name: str, inputs: Sequence[str], attributes: Mapping[str, str], output: str, like: str) -> Op:
    """A callable for ``torch.onnx.export`` translations that emits one node of domain ``imp_trt``.

    Args:
        name: node type.
        inputs: parameter names.
        attributes: attribute name -> "INT", "FLOAT" or "STRING"; the plugin attributes come on top.
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

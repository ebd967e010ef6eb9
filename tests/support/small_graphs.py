# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs of a few nodes."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, TensorProto, helper

TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}


def graph(*nodes: NodeProto, domains: Sequence[str] = (), precision: str = "fp32") -> ModelProto:
    """A model of these nodes: "x" [1, 4, 8, 8] -> "y" [1, 4, 8, 8], with a kernel "w" [4, 4, 1, 1]."""
    kind = TYPES[precision]
    body = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", kind, [1, 4, 8, 8])],
        [helper.make_tensor("w", kind, [4, 4, 1, 1], [0.5] * 16)],
    )
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(body, opset_imports=opsets, ir_version=10)


def convolution(precision: str = "fp32") -> ModelProto:
    """One convolution."""
    return graph(helper.make_node("Conv", ["x", "w"], ["y"], name="conv"), precision=precision)

# SPDX-License-Identifier: Apache-2.0
"""How function bodies are written: names, order and the mistakes that are caught."""

from __future__ import annotations

import pytest

from imp_trt.export.onnx.function_builder import build_function


def build(write):
    return build_function("Twice", ("times",), ("a",), "b", write)


def test_names_order_and_attributes():
    def write(op, t):
        t.factor = op.attribute("times", "FLOAT")
        inner = t.under("inner")
        inner.low, inner["from"] = op.Split(t.a, num_outputs=2, outputs=2)
        t.b = op.Mul(t.inner_low, t.factor)

    function = build(write)
    assert [node.name for node in function.node] == ["Twice.0.Constant", "Twice.1.Split", "Twice.2.Mul"]
    assert list(function.node[1].output) == ["Twice.inner_low", "Twice.inner_from"]
    assert list(function.node[2].input) == ["Twice.inner_low", "Twice.factor"]
    assert (list(function.input), list(function.output)) == (["Twice.a"], ["Twice.b"])
    (value,) = function.node[0].attribute
    assert (value.name, value.ref_attr_name, value.type) == ("value_float", "times", value.FLOAT)
    assert list(function.attribute) == ["times"]


def test_a_name_is_given_once():
    def write(op, t):
        t.b = op.Neg(t.a)
        t.b = op.Neg(t.b)

    with pytest.raises(ValueError, match=r"a second tensor Twice\.b"):
        build(write)


def test_a_tensor_has_one_name():
    def write(op, t):
        t.b = t.a

    with pytest.raises(ValueError, match=r"a second name for Twice\.a"):
        build(write)


def test_a_tensor_must_be_there():
    def write(op, t):
        t.b = op.Neg(t.c)

    with pytest.raises(AttributeError, match=r"no tensor Twice\.c"):
        build(write)
    with pytest.raises(KeyError, match="b"):
        build(lambda op, t: None)

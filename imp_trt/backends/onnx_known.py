# SPDX-License-Identifier: Apache-2.0
"""What is known of the outputs of an ONNX operator before it runs: shapes, and values of small constants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imp_trt.backends.onnx_file import MAX_VALUES, elements
from imp_trt.backends.onnx_shapes import (
    ABSENT,
    RULES,
    Attributes,
    Known,
    Shape,
    constant_of,
    part_of_shape,
    split,
)
from imp_trt.backends.onnx_values import VALUES


def known_outputs(op: str, inputs: Sequence[Known], attributes: Attributes) -> list[Known]:
    """What is known of the outputs of a standard operator; nothing for the operators not listed here."""
    rule = RULES.get(op)
    if rule is None:
        return []
    constant = all(i.constant for i in inputs)
    try:
        if op == "Split":
            return [Known(shape, constant=constant) for shape in split(inputs, attributes)]
        with np.errstate(all="ignore"):
            shape = rule(inputs, attributes)
            values = _evaluate(op, inputs, attributes, shape)
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError, AttributeError, MemoryError):
        return []  # ONNX Runtime says what is wrong
    if shape is not None and elements(shape) < 0:
        return []
    # Sizes are static: what is filled from the shape of an activation is a constant all the same.
    constant = constant or values is not None or op in ("ConstantOfShape", "Range")
    return [Known(shape, values, constant)] * (2 if op in ("TopK", "MaxPool") else 1)


def _evaluate(
    op: str, inputs: Sequence[Known], attributes: Attributes, shape: Shape | None
) -> NDArray[np.generic] | None:
    """Values of a small output. Shape is known even where its input is not a constant."""
    if op == "Shape":
        return None if inputs[0].shape is None else np.array(part_of_shape(inputs[0].shape, attributes))
    if op == "Constant":
        return constant_of(attributes).values
    function = VALUES.get(op)
    if function is None or shape is None or elements(shape) > MAX_VALUES:
        return None
    arrays = [i.values for i in inputs if i is not ABSENT]
    if any(a is None for a in arrays):
        return None
    result = np.asarray(function([a for a in arrays if a is not None], attributes))
    return result if result.shape == shape else None

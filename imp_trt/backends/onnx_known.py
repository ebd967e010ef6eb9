# SPDX-License-Identifier: Apache-2.0
"""What is known of the outputs of an ONNX operator before it runs: shapes, and values of small constants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imp_trt.backends.onnx_operators import BUFFERS, BY_VALUE, GROWING, RULES
from imp_trt.backends.onnx_shapes import ABSENT, Attributes, Known, Shape, split
from imp_trt.backends.onnx_tensor import MANY, MAX_RANK, MAX_VALUES, elements
from imp_trt.backends.onnx_values import VALUES

_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError, MemoryError)


def known_outputs(op: str, inputs: Sequence[Known], attributes: Attributes, outputs: int) -> list[Known]:
    """What is known of the outputs of an operator of :data:`~imp_trt.backends.onnx_operators.ALLOWED`.

    Args:
        op: its name.
        inputs: what is known of its inputs, ABSENT for those that the node leaves out.
        attributes: of the node.
        outputs: their number.
    """
    constant = all(i.constant for i in inputs)
    shapes: list[Shape | None]
    values = None
    try:
        with np.errstate(all="ignore"):
            shapes = _shapes(op, inputs, attributes, outputs)
            values = _evaluate(op, inputs, attributes, shapes[0])
    except _ERRORS:
        shapes = [None]
    shapes = [None if shape is not None and elements(shape) < 0 else shape for shape in shapes]
    shapes += [None] * (outputs - len(shapes))
    most = _most(op, inputs, attributes, shapes[0])
    # Sizes are static: what is filled from the shape of an activation is a constant all the same.
    constant = constant or values is not None or op in ("ConstantOfShape", "Range")
    return [
        Known(shape, values if i == 0 else None, constant, None if shape is not None else most)
        for i, shape in enumerate(shapes)
    ]


def buffer_elements(op: str, inputs: Sequence[Known], attributes: Attributes) -> int | None:
    """Elements of what the operator computes in between; None if that is unknown."""
    if op not in BUFFERS:
        return 0
    try:
        return BUFFERS[op](inputs, attributes)
    except _ERRORS:
        return None


def _shapes(op: str, inputs: Sequence[Known], attributes: Attributes, outputs: int) -> list[Shape | None]:
    if op == "Split":
        return [*split(inputs, attributes, outputs)]
    rule = RULES.get(op) or GROWING.get(op)
    found = None if rule is None else rule(inputs, attributes)
    return [*found] if isinstance(found, list) else [found]


def _most(op: str, inputs: Sequence[Known], attributes: Attributes, first: Shape | None) -> int | None:
    """Known.most of an output whose shape is unknown."""
    if op in BY_VALUE:
        try:
            return BY_VALUE[op](inputs, attributes)
        except _ERRORS:
            return None
    if op == "Shape":
        return MAX_RANK
    product, total = 1, 0
    for known in inputs:
        volume = 1 if known is ABSENT else known.volume
        if volume is None:
            return None
        product, total = min(product * volume, MANY), total + volume
    if first is not None:  # of a further output: a mean, states, or keys with those before
        buffer = buffer_elements(op, inputs, attributes)
        return None if buffer is None else total + elements(first) + buffer
    return None if op in GROWING or not inputs else max(total, product)


def _evaluate(
    op: str, inputs: Sequence[Known], attributes: Attributes, shape: Shape | None
) -> NDArray[np.generic] | None:
    """Values of a small output, if they are the same in every runtime."""
    function = VALUES.get(op)
    if function is None or shape is None or not 0 <= elements(shape) <= MAX_VALUES:
        return None
    try:
        result = function(inputs, attributes)
    except _ERRORS:
        return None
    return result if result.shape == shape and np.isfinite(result).all() else None

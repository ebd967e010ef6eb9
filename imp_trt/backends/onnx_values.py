# SPDX-License-Identifier: Apache-2.0
"""Values of the outputs of ONNX operators whose inputs are small constants.

Sizes may be computed from them, so they must be those that a runtime computes: in the type of the inputs,
with its rounding and wrap. What runtimes may compute differently raises ValueError: sums of floating-point
numbers, float16, which ONNX Runtime computes in float32, and conversions of what a type cannot represent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.backends.onnx_shapes import (
    Attributes,
    Inputs,
    axes_of,
    axis_of,
    constant_of,
    constant_of_shape,
    expand,
    integer,
    numbers,
    part_of_shape,
    range_,
    reduce,
    reshape,
    slices_of,
    squeeze,
    unsqueeze,
)
from imp_trt.backends.onnx_tensor import DTYPES, Tensor

Array = NDArray[Any]
_EXACT = 1 << 24
"""Integers up to here are exact in float32, whatever computes them."""


def _value(inputs: Inputs, index: int = 0) -> Array:
    """Values of an input; ValueError if they are unknown."""
    values = inputs[index].values
    if values is None:
        raise ValueError("unknown")
    return values


def _operands(inputs: Inputs) -> list[Array]:
    """Values of all inputs, which are of one type; ValueError for float16 and booleans."""
    arrays = [_value(inputs, i) for i in range(len(inputs))]
    if len({a.dtype for a in arrays}) != 1 or arrays[0].dtype == np.float16 or arrays[0].dtype.kind == "b":
        raise ValueError("operands")
    return arrays


def _constant(inputs: Inputs, attributes: Attributes) -> Array:
    return _value([constant_of(attributes)])


def _shape(inputs: Inputs, attributes: Attributes) -> Array:
    return np.array(part_of_shape(inputs, attributes), np.int64)


def _folded(function: Callable[[Array, Array], Array]) -> Callable[[Inputs, Attributes], Array]:
    def fold(inputs: Inputs, attributes: Attributes) -> Array:
        result, *others = _operands(inputs)
        for other in others:
            result = np.asarray(function(result, other))
        return result

    return fold


def _divide(inputs: Inputs, attributes: Attributes) -> Array:
    a, b = _operands(inputs)
    if a.dtype.kind == "f":
        return np.asarray(np.true_divide(a, b))
    if not b.all():
        raise ZeroDivisionError
    quotient = np.floor_divide(a, b)
    inexact = np.multiply(quotient, b) != a
    # NumPy rounds down, runtimes toward zero.
    return np.asarray(quotient + (inexact & ((a < 0) != (b < 0))).astype(a.dtype))


def _power(inputs: Inputs, attributes: Attributes) -> Array:
    base, exponent = _value(inputs), _value(inputs, 1)
    if np.float16 in (base.dtype, exponent.dtype):
        raise ValueError("operands")
    result = np.power(base.astype(np.float64), exponent.astype(np.float64))
    whole = [np.all(np.equal(np.trunc(a), a)) for a in (base.astype(np.float64), exponent.astype(np.float64))]
    if not all(whole) or np.any(exponent < 0) or np.any(np.abs(result) > _EXACT):
        raise ValueError("a power that is rounded")
    return _converted(result, base.dtype)


def _rounded(function: Callable[[Array], Array]) -> Callable[[Inputs, Attributes], Array]:
    def round_(inputs: Inputs, attributes: Attributes) -> Array:
        (array,) = _operands(inputs[:1])
        return np.asarray(function(array)).astype(array.dtype)

    return round_


def _reduced(function: Callable[..., Array], floats: bool) -> Callable[[Inputs, Attributes], Array]:
    def reduced(inputs: Inputs, attributes: Attributes) -> Array:
        (array,) = _operands(inputs[:1])
        if array.dtype.kind == "f" and not floats:
            raise ValueError("a sum whose rounding depends on its order")
        axes = axes_of(inputs, attributes)
        if not axes and integer(attributes, "noop_with_empty_axes", 0):
            return array
        types = {} if floats else {"dtype": array.dtype}  # NumPy would sum int32 in int64
        result = function(array, axis=tuple(axes) if axes else None, **types)
        return np.asarray(result, array.dtype).reshape(reduce(inputs, attributes))

    return reduced


def _cast(inputs: Inputs, attributes: Attributes) -> Array:
    return _converted(_value(inputs), DTYPES[integer(attributes, "to", 0)])


def _converted(array: Array, dtype: np.dtype[np.generic]) -> Array:
    """The array in another type; ValueError where processors differ."""
    if dtype.kind == "b":
        return np.asarray(array != 0)
    if array.dtype.kind == "f" and dtype.kind in "iu":
        limits, whole = np.iinfo(dtype), np.trunc(array.astype(np.float64))  # type: ignore[type-var]
        # The largest int64 is rounded up in float64.
        if not np.all((whole >= float(limits.min)) & (whole < float(limits.max) + 1)):
            raise ValueError("numbers beyond those of the type")
        return whole.astype(dtype)
    converted = array.astype(dtype)
    if dtype == np.float16 and not np.array_equal(converted.astype(np.float64), array.astype(np.float64)):
        raise ValueError("a rounding to float16")
    return converted


def _fill(inputs: Inputs, attributes: Attributes) -> Array:
    value = attributes.get("value", Tensor((1,), np.zeros(1, np.float32)))
    if not isinstance(value, Tensor) or value.values is None or value.values.size != 1:
        raise ValueError("value")
    return np.full(constant_of_shape(inputs, attributes), value.values.ravel()[0], value.values.dtype)


def _range(inputs: Inputs, attributes: Attributes) -> Array:
    start, _, delta = _operands(inputs)
    if start.dtype.kind == "f":
        raise ValueError("a sum of steps")
    (count,) = range_(inputs, attributes)
    steps = np.arange(count).astype(start.dtype)
    return np.asarray(np.add(start.ravel()[0], np.multiply(steps, delta.ravel()[0])), start.dtype)


def _concat(inputs: Inputs, attributes: Attributes) -> Array:
    arrays = [_value(inputs, i) for i in range(len(inputs))]
    if len({a.dtype for a in arrays}) != 1:
        raise ValueError("operands")
    return np.concatenate(arrays, axis_of(attributes, 0, arrays[0].ndim))


def _gather(inputs: Inputs, attributes: Attributes) -> Array:
    array, indices = _value(inputs), _value(inputs, 1)
    if indices.dtype.kind not in "iu":
        raise ValueError("indices")
    return np.asarray(np.take(array, indices.astype(np.int64), axis_of(attributes, 0, array.ndim)))


def _rearranged(
    rule: Callable[[Inputs, Attributes], tuple[int, ...]],
) -> Callable[[Inputs, Attributes], Array]:
    return lambda inputs, attributes: _value(inputs).reshape(rule(inputs, attributes))


VALUES: dict[str, Callable[[Inputs, Attributes], Array]] = {
    "Constant": _constant,
    "Shape": _shape,
    "Identity": lambda inputs, attributes: _value(inputs),
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": lambda inputs, attributes: _value(inputs)[tuple(slices_of(inputs, attributes))],
    "Squeeze": _rearranged(squeeze),
    "Unsqueeze": _rearranged(unsqueeze),
    "Reshape": _rearranged(reshape),
    "Expand": lambda inputs, attributes: np.broadcast_to(_value(inputs), expand(inputs, attributes)),
    "Tile": lambda inputs, attributes: np.tile(_value(inputs), numbers(inputs[1])),
    "ConstantOfShape": _fill,
    "Range": _range,
    "Add": _folded(np.add),
    "Sub": _folded(np.subtract),
    "Mul": _folded(np.multiply),
    "Div": _divide,
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Pow": _power,
    "Neg": _rounded(np.negative),
    "Ceil": _rounded(np.ceil),
    "Floor": _rounded(np.floor),
    "ReduceProd": _reduced(np.prod, floats=False),
    "ReduceSum": _reduced(np.sum, floats=False),
    "ReduceMax": _reduced(np.max, floats=True),
    "ReduceMin": _reduced(np.min, floats=True),
}

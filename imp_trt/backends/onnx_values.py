# SPDX-License-Identifier: Apache-2.0
"""Values of the outputs of ONNX operators whose inputs are small constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from imp_trt.backends.onnx_file import Tensor
from imp_trt.backends.onnx_shapes import (
    Attributes,
    Known,
    Rule,
    axes_of,
    axis_of,
    expand,
    reshape,
    slices_of,
    squeeze,
    unsqueeze,
)

Arrays = Sequence[NDArray[np.generic]]


def _divide(arrays: Arrays, attributes: Attributes) -> NDArray[np.generic]:
    a, b = arrays
    if a.dtype.kind == "f" or b.dtype.kind == "f":
        return np.asarray(np.true_divide(a, b))
    return np.asarray(np.trunc(np.true_divide(a, b)).astype(np.int64))


def _folded(function: Callable[..., object]) -> Callable[[Arrays, Attributes], object]:
    def fold(arrays: Arrays, attributes: Attributes) -> object:
        result: object = arrays[0]
        for other in arrays[1:]:
            result = function(result, other)
        return result

    return fold


def _known(arrays: Arrays) -> list[Known]:
    return [Known(a.shape, a, constant=True) for a in arrays]


def _reduced(function: Callable[..., object]) -> Callable[[Arrays, Attributes], object]:
    def reduce(arrays: Arrays, attributes: Attributes) -> object:
        axes = axes_of(_known(arrays), attributes)
        keep = bool(attributes.get("keepdims", 1))
        return function(arrays[0], axis=tuple(axes) if axes else None, keepdims=keep)

    return reduce


def _cast(arrays: Arrays, attributes: Attributes) -> object:
    integer = attributes.get("to") in (2, 3, 4, 5, 6, 7, 12, 13)
    return arrays[0].astype(np.int64) if integer else arrays[0].astype(np.float64)


def _fill(arrays: Arrays, attributes: Attributes) -> object:
    value = attributes.get("value")
    filled = value.values.ravel()[0] if isinstance(value, Tensor) and value.values is not None else 0.0
    return np.full([int(n) for n in arrays[0]], filled)


def _rearranged(rule: Rule) -> Callable[[Arrays, Attributes], object]:
    return lambda arrays, attributes: arrays[0].reshape(rule(_known(arrays), attributes) or ())


VALUES: dict[str, Callable[[Arrays, Attributes], object]] = {
    "Identity": lambda arrays, attributes: arrays[0],
    "Cast": _cast,
    "Concat": lambda arrays, a: np.concatenate(list(arrays), axis_of(a, 0, arrays[0].ndim)),
    "Gather": lambda arrays, a: np.take(arrays[0], arrays[1].astype(np.int64), axis_of(a, 0, arrays[0].ndim)),
    "Slice": lambda arrays, attributes: arrays[0][tuple(slices_of(_known(arrays)))],
    "Squeeze": _rearranged(squeeze),
    "Unsqueeze": _rearranged(unsqueeze),
    "Reshape": _rearranged(reshape),
    "Expand": lambda arrays, a: np.broadcast_to(arrays[0], expand(_known(arrays), a) or ()),
    "Tile": lambda arrays, attributes: np.tile(arrays[0], [int(n) for n in arrays[1]]),
    "ConstantOfShape": _fill,
    "Range": lambda arrays, attributes: np.arange(*(a.ravel()[0] for a in arrays)),
    "Add": _folded(np.add),
    "Sub": _folded(np.subtract),
    "Mul": _folded(np.multiply),
    "Div": _divide,
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Pow": _folded(np.power),
    "Neg": lambda arrays, attributes: np.negative(arrays[0].astype(np.float64)),
    "Ceil": lambda arrays, attributes: np.ceil(arrays[0].astype(np.float64)),
    "Floor": lambda arrays, attributes: np.floor(arrays[0].astype(np.float64)),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
}

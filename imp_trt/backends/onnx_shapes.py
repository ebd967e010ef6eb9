# SPDX-License-Identifier: Apache-2.0
"""Shapes of the outputs of ONNX operators, as far as they can be known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_trt.backends.onnx_file import MAX_VALUES, Tensor, elements

Shape = tuple[int, ...]
Attributes = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a tensor.

    Attributes:
        shape: None if unknown.
        values: of a small constant.
        constant: whether it depends on nothing but constants.
    """

    shape: Shape | None = None
    values: NDArray[np.generic] | None = None
    constant: bool = False


UNKNOWN = Known()
ABSENT = Known(constant=True)
"""An optional input that a node does not have."""


def known_tensor(tensor: Tensor) -> Known:
    """A stored tensor. Its bytes are in the file, so its size is bounded."""
    return Known(tensor.shape if elements(tensor.shape) >= 0 else None, tensor.values, constant=True)


def part_of_shape(shape: Shape, attributes: Attributes) -> Shape:
    start, end = attributes.get("start"), attributes.get("end")
    return shape[_index(start, None) : _index(end, None)]


def _index(value: object, default: int | None) -> int | None:
    return value if isinstance(value, int) else default


def constant_of(attributes: Attributes) -> Known:
    for name in ("value", "value_int", "value_float", "value_ints", "value_floats"):
        value = attributes.get(name)
        if isinstance(value, Tensor):
            return known_tensor(value)
        if value is not None:
            array = np.array(value)
            return Known(array.shape, array, constant=True)
    return UNKNOWN


def _same(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    return inputs[0].shape


def _broadcast(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shapes = [i.shape for i in inputs]
    return None if any(s is None for s in shapes) else broadcast([s for s in shapes if s is not None])


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """Broadcast shape of any size; ValueError if there is none."""
    rank = max(map(len, shapes))
    result = []
    for axis in range(rank):
        sizes = {s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0} - {1}
        if len(sizes) > 1:
            raise ValueError("shapes that cannot be broadcast")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def _numbers(known: Known) -> list[int]:
    """Values of a constant of integers; ValueError if they are unknown."""
    if known.values is None:
        raise ValueError("unknown")
    return [int(v) for v in known.values.ravel()]


def axis_of(attributes: Attributes, default: int, rank: int) -> int:
    axis = attributes.get("axis")
    axis = axis if isinstance(axis, int) else default
    if not -rank <= axis < rank:
        raise ValueError("axis")
    return axis % rank


def _matmul(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    a, b = inputs[0].shape, inputs[1].shape
    if a is None or b is None:
        return None
    left, right = (a if len(a) > 1 else (1, *a)), (b if len(b) > 1 else (*b, 1))
    return (*broadcast([left[:-2], right[:-2]]), left[-2], right[-1])


def _gemm(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    a, b = inputs[0].shape, inputs[1].shape
    if a is None or b is None:
        return None
    return a[1 if attributes.get("transA") else 0], b[0 if attributes.get("transB") else 1]


def _concat(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shapes = [i.shape for i in inputs]
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes):
        return None
    axis = axis_of(attributes, 0, len(known[0]))
    return (*known[0][:axis], sum(s[axis] for s in known), *known[0][axis + 1 :])


def reshape(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    source, wanted = inputs[0].shape, _numbers(inputs[1])
    if source is None:
        return None
    sizes = [source[i] if n == 0 and not attributes.get("allowzero") else n for i, n in enumerate(wanted)]
    if -1 in sizes:
        rest = elements(tuple(n for n in sizes if n != -1))
        sizes[sizes.index(-1)] = elements(source) // max(rest, 1)
    return tuple(sizes)


def expand(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    wanted = tuple(_numbers(inputs[1]))
    return broadcast([inputs[0].shape or (1,), wanted])


def _tile(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    repeats, source = _numbers(inputs[1]), inputs[0].shape
    if source is None:
        source = (1,) * len(repeats)
    return tuple(n * r for n, r in zip(source, repeats, strict=True))


def _constant_of_shape(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    return tuple(_numbers(inputs[0]))


def _range(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    start, limit, delta = (float(np.asarray(i.values).ravel()[0]) for i in inputs)
    return (max(0, math.ceil((limit - start) / delta)),)


def _transpose(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape, order = inputs[0].shape, attributes.get("perm")
    if shape is None:
        return None
    return tuple(shape[i] for i in order) if isinstance(order, list) else shape[::-1]


def axes_of(inputs: Sequence[Known], attributes: Attributes) -> list[int] | None:
    if len(inputs) > 1:
        return _numbers(inputs[1])
    axes = attributes.get("axes")
    return axes if isinstance(axes, list) else None


def unsqueeze(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape, axes = inputs[0].shape, axes_of(inputs, attributes)
    if shape is None or axes is None:
        return None
    rank = len(shape) + len(axes)
    added, rest = {a % rank for a in axes}, iter(shape)
    return tuple(1 if i in added else next(rest) for i in range(rank))


def squeeze(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape, axes = inputs[0].shape, axes_of(inputs, attributes)
    if shape is None:
        return None
    dropped = {i for i, n in enumerate(shape) if n == 1} if axes is None else {a % len(shape) for a in axes}
    return tuple(n for i, n in enumerate(shape) if i not in dropped)


def _gather(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape, indices = inputs[0].shape, inputs[1].shape
    if shape is None or indices is None:
        return None
    axis = axis_of(attributes, 0, len(shape))
    return (*shape[:axis], *indices, *shape[axis + 1 :])


def _slice(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape = inputs[0].shape
    return (
        None
        if shape is None
        else tuple(len(range(n)[s]) for n, s in zip(shape, slices_of(inputs), strict=True))
    )


def slices_of(inputs: Sequence[Known]) -> list[slice]:
    shape = inputs[0].shape or ()
    starts, ends = _numbers(inputs[1]), _numbers(inputs[2])
    axes = _numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not ABSENT else list(range(len(starts)))
    steps = _numbers(inputs[4]) if len(inputs) > 4 and inputs[4] is not ABSENT else [1] * len(starts)
    result = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        backwards = step < 0 and end < -shape[axis]
        result[axis % len(shape)] = slice(start, None if backwards else end, step)
    return result


def _pad(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    pads = _numbers(inputs[1])
    shape = inputs[0].shape or (1,) * (len(pads) // 2)
    axes = _numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not ABSENT else list(range(len(shape)))
    sizes = list(shape)
    for i, axis in enumerate(axes):
        sizes[axis] += pads[i] + pads[i + len(axes)]
    return tuple(sizes)


def _resize(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape = inputs[0].shape
    if len(inputs) > 3 and inputs[3].values is not None:
        sizes = _numbers(inputs[3])
        axes = attributes.get("axes")
        if isinstance(axes, list):
            full = list(shape or ())
            for axis, size in zip(axes, sizes, strict=True):
                full[axis] = size
            return tuple(full)
        return tuple(sizes)
    scales = np.asarray(inputs[2 if len(inputs) > 2 else 1].values, np.float64).ravel()
    if shape is None or len(scales) != len(shape):
        return None
    return tuple(int(n * scale) for n, scale in zip(shape, scales, strict=True))


def split(inputs: Sequence[Known], attributes: Attributes) -> list[Shape]:
    shape = inputs[0].shape
    if shape is None:
        return []
    axis = axis_of(attributes, 0, len(shape))
    if len(inputs) > 1 and inputs[1] is not ABSENT:
        sizes = _numbers(inputs[1])
    else:
        count = attributes.get("num_outputs", 2)
        count = count if isinstance(count, int) and 0 < count <= MAX_VALUES else 2
        each = -(-shape[axis] // count)
        sizes = [each] * (count - 1) + [shape[axis] - each * (count - 1)]
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


def _one_hot(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    indices = inputs[0].shape
    if indices is None:
        return None
    depth, rank = _numbers(inputs[1])[0], len(indices) + 1
    axis = axis_of(attributes, -1, rank)
    return (*indices[:axis], depth, *indices[axis:])


def _reduce(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape, axes = inputs[0].shape, axes_of(inputs, attributes)
    if shape is None:
        return None
    axis = attributes.get("axis")
    axes = [axis] if isinstance(axis, int) else axes
    reduced = set(range(len(shape))) if not axes else {a % len(shape) for a in axes}
    keep = attributes.get("keepdims", 1)
    return tuple(1 if i in reduced else n for i, n in enumerate(shape) if keep or i not in reduced)


def _arg(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    axis = attributes.get("axis")
    return _reduce(inputs[:1], {**attributes, "axis": axis if isinstance(axis, int) else 0})


def _topk(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape = inputs[0].shape
    if shape is None:
        return None
    axis = axis_of(attributes, -1, len(shape))
    return (*shape[:axis], _numbers(inputs[1])[0], *shape[axis + 1 :])


def _conv(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape, kernel = inputs[0].shape, inputs[1].shape
    if shape is None or kernel is None:
        return None
    return (shape[0], kernel[0], *_windows(shape[2:], kernel[2:], attributes))


def _pool(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape, kernel = inputs[0].shape, attributes.get("kernel_shape")
    if shape is None or not isinstance(kernel, list):
        return None
    return (*shape[:2], *_windows(shape[2:], kernel, attributes))


def _windows(shape: Sequence[int], kernel: Sequence[int], attributes: Attributes) -> list[int]:
    count = len(shape)
    strides, dilations, pads = (
        value if isinstance(value := attributes.get(name), list) else default
        for name, default in (("strides", [1] * count), ("dilations", [1] * count), ("pads", [0] * 2 * count))
    )
    return [
        (n + pads[i] + pads[i + count] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i, n in enumerate(shape)
    ]


def _flatten(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape = inputs[0].shape
    if shape is None:
        return None
    axis = attributes.get("axis", 1)
    axis = axis if isinstance(axis, int) else 1
    return elements(shape[:axis]), elements(shape[axis:])


def _scalar(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    return ()


def _shape_of(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    return None if inputs[0].shape is None else (len(part_of_shape(inputs[0].shape, attributes)),)


def _depth_to_space(inputs: Sequence[Known], attributes: Attributes) -> Shape | None:
    shape, block = inputs[0].shape, attributes.get("blocksize")
    if shape is None or not isinstance(block, int):
        return None
    return shape[0], shape[1] // (block * block), shape[2] * block, shape[3] * block


Rule = Callable[[Sequence[Known], Attributes], "Shape | None"]

RULES: dict[str, Rule] = {
    "Constant": lambda inputs, attributes: constant_of(attributes).shape,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Concat": _concat,
    "Reshape": reshape,
    "Expand": expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Transpose": _transpose,
    "Unsqueeze": unsqueeze,
    "Squeeze": squeeze,
    "Gather": _gather,
    "GatherElements": lambda inputs, attributes: inputs[1].shape,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
    "OneHot": _one_hot,
    "ArgMax": _arg,
    "ArgMin": _arg,
    "TopK": _topk,
    "Conv": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "Flatten": _flatten,
    "Shape": _shape_of,
    "Size": _scalar,
    "Split": _same,
    "DepthToSpace": _depth_to_space,
    "GlobalAveragePool": lambda i, a: None if i[0].shape is None else (*i[0].shape[:2], 1, 1),
}
RULES |= dict.fromkeys(
    """Abs Acos Asin Atan BatchNormalization Cast Ceil Clip Cos CumSum DequantizeLinear Elu Erf Exp EyeLike
    Floor HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN LeakyRelu Log LogSoftmax Neg Not
    QuantizeLinear Reciprocal Relu Round Selu Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Tan Tanh Trilu
    CastLike GroupNormalization LayerNormalization Dropout""".split(),
    _same,
)
RULES |= dict.fromkeys(
    """Add And BitShift Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow PRelu
    Sub Sum Where Xor""".split(),
    _broadcast,
)
RULES |= dict.fromkeys(
    "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare".split(), _reduce
)

# SPDX-License-Identifier: Apache-2.0
"""Shapes of the outputs of ONNX operators that combine and rearrange tensors.

A rule gives the exact shape of the first output, a list with those of all outputs, or None if it is unknown.
It raises ValueError, LookupError, TypeError or ArithmeticError for what is unknown, or what no runtime
computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_trt.backends.onnx_tensor import MAX_RANK, MAX_VALUES, Tensor, elements

Shape = tuple[int, ...]
Attributes = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a tensor.

    Attributes:
        shape: None if unknown.
        values: of a small constant, in the type that the runtime computes it in.
        constant: whether it depends on nothing but constants.
        most: if the shape is unknown, the largest product of its sides, without those of 0; None if that is
            unknown too. A sum over a side of 0 is larger than what it sums.
    """

    shape: Shape | None = None
    values: NDArray[np.generic] | None = None
    constant: bool = False
    most: int | None = None

    @property
    def volume(self) -> int | None:
        """The largest product of its sides, without those of 0; None if unknown."""
        return self.most if self.shape is None else elements(tuple(max(n, 1) for n in self.shape))


UNKNOWN = Known()
ABSENT = Known(constant=True)
"""An optional input that a node does not have."""

Inputs = Sequence[Known]
Rule = Callable[[Inputs, Attributes], "Shape | list[Shape] | None"]


def known_tensor(tensor: Tensor) -> Known:
    """A stored tensor. Its bytes are in the file, so its size is bounded."""
    return Known(tensor.shape, tensor.values, constant=True)


# ---- inputs and attributes ----


def given(inputs: Inputs, index: int) -> Known | None:
    """An optional input; None if the node does not have it."""
    return inputs[index] if index < len(inputs) and inputs[index] is not ABSENT else None


def numbers(known: Known) -> list[int]:
    """Values of a constant of integers; ValueError if they are unknown, or more than sizes and pads are."""
    if known.values is None or known.values.dtype.kind not in "iu" or known.values.size > 2 * MAX_RANK:
        raise ValueError("unknown")
    return [int(v) for v in known.values.ravel()]


def integer(attributes: Attributes, name: str, default: int) -> int:
    """An attribute that is an integer; TypeError if it is something else."""
    value = attributes.get(name, default)
    if not isinstance(value, int):
        raise TypeError(name)
    return value


def integers(attributes: Attributes, name: str) -> list[int] | None:
    """An attribute that is a list of integers; None without it, TypeError if it is something else."""
    value = attributes.get(name)
    if name not in attributes:
        return None
    if not isinstance(value, list) or not all(isinstance(v, int) for v in value):
        raise TypeError(name)
    return value


def axis_of(attributes: Attributes, default: int, rank: int) -> int:
    """The attribute axis, from 0 on."""
    return in_range(integer(attributes, "axis", default), rank)


def in_range(axis: int, rank: int) -> int:
    """An axis from 0 on; IndexError if there is none."""
    if not -rank <= axis < rank:
        raise IndexError("axis")
    return axis % rank


def axes_of(inputs: Inputs, attributes: Attributes, name: str = "axes") -> list[int] | None:
    """Axes in the second input or, in older opsets, in an attribute; None without both."""
    found, stored = given(inputs, 1), integers(attributes, name)
    if found is not None and stored is not None:
        raise ValueError("axes in two ways")
    return stored if found is None else numbers(found)


def shape_of(known: Known) -> Shape:
    """Its shape; ValueError if it is unknown."""
    if known.shape is None:
        raise ValueError("unknown")
    return known.shape


# ---- rules ----


def constant_of(attributes: Attributes) -> Known:
    """The output of Constant; its value is in one attribute."""
    ((name, value),) = attributes.items()
    if name == "value" and isinstance(value, Tensor):
        return known_tensor(value)
    if name in ("value_string", "value_strings"):
        return Known((len(value),) if isinstance(value, list) else (), constant=True)
    if name not in ("value_int", "value_ints", "value_float", "value_floats"):
        raise ValueError(name)
    number = int if "int" in name else float
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) != name.endswith("s") or not all(isinstance(v, number) for v in items):
        raise TypeError(name)
    array = np.array(value, np.int64 if number is int else np.float32)
    return Known(array.shape, array, constant=True)


def part_of_shape(inputs: Inputs, attributes: Attributes) -> Shape:
    """The output of Shape."""
    shape = shape_of(inputs[0])
    return shape[integer(attributes, "start", 0) : integer(attributes, "end", len(shape))]


def same(inputs: Inputs, attributes: Attributes) -> Shape | None:
    return inputs[0].shape


def broadcast_inputs(inputs: Inputs, attributes: Attributes) -> Shape:
    return broadcast([shape_of(i) for i in inputs])


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


def matmul(inputs: Inputs, attributes: Attributes) -> Shape:
    a, b = shape_of(inputs[0]), shape_of(inputs[1])
    left, right = (a if len(a) > 1 else (1, *a)), (b if len(b) > 1 else (*b, 1))
    if left[-1] != right[-2]:
        raise ValueError("matrices that cannot be multiplied")
    rows, columns = ((left[-2],) if len(a) > 1 else ()), ((right[-1],) if len(b) > 1 else ())
    return (*broadcast([left[:-2], right[:-2]]), *rows, *columns)


def gemm(inputs: Inputs, attributes: Attributes) -> Shape:
    (m, k), (n, other) = shape_of(inputs[0]), shape_of(inputs[1])
    rows = k if integer(attributes, "transA", 0) else m
    return rows, n if integer(attributes, "transB", 0) else other


def concat(inputs: Inputs, attributes: Attributes) -> Shape:
    shapes = [shape_of(i) for i in inputs]
    axis = axis_of(attributes, 0, len(shapes[0]))
    return (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])


def reshape(inputs: Inputs, attributes: Attributes) -> Shape:
    second, stored = given(inputs, 1), integers(attributes, "shape")
    if (second is None) == (stored is None):
        raise ValueError("no shape, or two")
    wanted = stored if second is None else numbers(second)
    copies = not integer(attributes, "allowzero", 0)
    if wanted is None or all(n > 0 for n in wanted):
        return tuple(wanted or ())
    source = shape_of(inputs[0])
    sizes = [source[i] if n == 0 and copies else n for i, n in enumerate(wanted)]
    if -1 in sizes:
        others = elements(tuple(n for n in sizes if n != -1))
        sizes[sizes.index(-1)] = elements(source) // max(others, 1)
    return tuple(sizes)


def reshape_volume(inputs: Inputs, attributes: Attributes) -> int | None:
    """The volume of the output of Reshape whose shape is not known."""
    before, second = inputs[0], given(inputs, 1)
    if before.shape is not None and 0 not in before.shape:
        return before.volume
    # What is empty can get any shape.
    if before.volume is None or second is None or second.values is None or 0 in second.values:
        return None
    return max(before.volume, elements(tuple(n for n in numbers(second) if n != -1)))


def transpose(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, order = shape_of(inputs[0]), integers(attributes, "perm")
    if order is None:
        return shape[::-1]
    if sorted(order) != list(range(len(shape))):
        raise ValueError("perm")
    return tuple(shape[i] for i in order)


def unsqueeze(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, axes = shape_of(inputs[0]), axes_of(inputs, attributes)
    if axes is None:
        raise ValueError("no axes")
    rank = len(shape) + len(axes)
    added, rest = {in_range(a, rank) for a in axes}, iter(shape)
    if len(added) < len(axes):
        raise ValueError("an axis twice")
    return tuple(1 if i in added else next(rest) for i in range(rank))


def squeeze(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, axes = shape_of(inputs[0]), axes_of(inputs, attributes)
    dropped = (
        {i for i, n in enumerate(shape) if n == 1}
        if axes is None
        else {in_range(a, len(shape)) for a in axes}
    )
    if any(shape[i] != 1 for i in dropped):
        raise ValueError("axes")
    return tuple(n for i, n in enumerate(shape) if i not in dropped)


def gather(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, indices = shape_of(inputs[0]), shape_of(inputs[1])
    axis = axis_of(attributes, 0, len(shape))
    return (*shape[:axis], *indices, *shape[axis + 1 :])


def gather_nd(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, indices = shape_of(inputs[0]), shape_of(inputs[1])
    batch = integer(attributes, "batch_dims", 0)
    if not 0 <= batch < len(indices) or batch + indices[-1] > len(shape):
        raise ValueError("batch_dims")
    return (*indices[:-1], *shape[batch + indices[-1] :])


def slice_(inputs: Inputs, attributes: Attributes) -> Shape:
    shape = shape_of(inputs[0])
    return tuple(len(range(n)[s]) for n, s in zip(shape, slices_of(inputs, attributes), strict=True))


def slices_of(inputs: Inputs, attributes: Attributes) -> list[slice]:
    """The slices of Slice for every axis of its input."""
    shape = shape_of(inputs[0])
    lists = [integers(attributes, name) for name in ("starts", "ends", "axes")]
    if len(inputs) > 1:
        if any(part is not None for part in lists):
            raise ValueError("slices in two ways")
        lists = [None if (part := given(inputs, i)) is None else numbers(part) for i in (1, 2, 3)]
    starts, ends, axes = lists
    if starts is None or ends is None:
        raise ValueError("no slices")
    steps = [1] * len(starts) if (part := given(inputs, 4)) is None else numbers(part)
    result = [slice(None)] * len(shape)
    axes = [in_range(axis, len(shape)) for axis in (range(len(starts)) if axes is None else axes)]
    if len(set(axes)) < len(axes):
        raise ValueError("an axis twice")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        # Both ends are clamped: to [0, n], and going backwards to [-1, n - 1]; -1 is before the first.
        low, high = (0, size) if step > 0 else (-1, size - 1)
        first = min(max(start + size if start < 0 else start, 0), high)
        last = min(max(end + size if end < 0 else end, low), size)
        result[axis] = slice(first, None if last < 0 else last, step)
    return result


def split(inputs: Inputs, attributes: Attributes, outputs: int) -> list[Shape]:
    """The rule of Split, which depends on the number of its outputs."""
    shape = shape_of(inputs[0])
    axis = axis_of(attributes, 0, len(shape))
    sizes = axes_of(inputs, attributes, "split")
    if sizes is None:
        count = integer(attributes, "num_outputs", outputs)
        if not 0 < count <= MAX_VALUES:
            raise ValueError("num_outputs")
        each = -(-shape[axis] // count)
        sizes = [each] * (count - 1) + [shape[axis] - each * (count - 1)]
    if min(sizes, default=0) < 0 or sum(sizes) != shape[axis]:
        raise ValueError("parts of another size than the whole")
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


def reduce(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, axes = shape_of(inputs[0]), axes_of(inputs, attributes)
    if not axes and integer(attributes, "noop_with_empty_axes", 0):
        return shape
    reduced = {in_range(a, len(shape)) for a in axes} if axes else set(range(len(shape)))
    keep = integer(attributes, "keepdims", 1)
    return tuple(1 if i in reduced else n for i, n in enumerate(shape) if keep or i not in reduced)


def arg(inputs: Inputs, attributes: Attributes) -> Shape:
    keep = integer(attributes, "keepdims", 1)
    return reduce(inputs[:1], {"axes": [integer(attributes, "axis", 0)], "keepdims": keep})


def topk(inputs: Inputs, attributes: Attributes) -> list[Shape]:
    shape = shape_of(inputs[0])
    axis = axis_of(attributes, -1, len(shape))
    k = numbers(inputs[1])[0] if len(inputs) > 1 else integer(attributes, "k", -1)
    if not 0 <= k <= shape[axis]:
        raise ValueError("k")
    return [(*shape[:axis], k, *shape[axis + 1 :])] * 2


def flatten(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, axis = shape_of(inputs[0]), integer(attributes, "axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise IndexError("axis")
    axis += len(shape) if axis < 0 else 0
    return elements(shape[:axis]), elements(shape[axis:])


def depth_to_space(inputs: Inputs, attributes: Attributes) -> Shape:
    (n, c, h, w), block = shape_of(inputs[0]), integer(attributes, "blocksize", 0)
    return n, c // (block * block), h * block, w * block


def space_to_depth(inputs: Inputs, attributes: Attributes) -> Shape:
    (n, c, h, w), block = shape_of(inputs[0]), integer(attributes, "blocksize", 0)
    return n, c * block * block, h // block, w // block


# ---- outputs whose sizes are values ----


def expand(inputs: Inputs, attributes: Attributes) -> Shape:
    return broadcast([shape_of(inputs[0]), tuple(numbers(inputs[1]))])


def tile(inputs: Inputs, attributes: Attributes) -> Shape:
    return tuple(n * r for n, r in zip(shape_of(inputs[0]), numbers(inputs[1]), strict=True))


def constant_of_shape(inputs: Inputs, attributes: Attributes) -> Shape:
    return tuple(numbers(inputs[0]))


def range_(inputs: Inputs, attributes: Attributes) -> Shape:
    """As ONNX Runtime does: the difference in the type of the inputs, the quotient in double precision."""
    start, limit, delta = (i.values for i in inputs)
    if start is None or limit is None or delta is None:
        raise ValueError("unknown")
    difference = np.subtract(limit.ravel(), start.ravel(), dtype=start.dtype)
    return (max(0, math.ceil(float(difference[0]) / float(delta.ravel()[0]))),)


def one_hot(inputs: Inputs, attributes: Attributes) -> Shape:
    indices = shape_of(inputs[0])
    axis = axis_of(attributes, -1, len(indices) + 1)
    return (*indices[:axis], numbers(inputs[1])[0], *indices[axis:])


def pad(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, pads = shape_of(inputs[0]), axes_of(inputs, attributes, "pads")
    axes = list(range(len(shape))) if (part := given(inputs, 3)) is None else numbers(part)
    axes = [in_range(axis, len(shape)) for axis in axes]
    if pads is None or len(pads) != 2 * len(axes) or len(set(axes)) < len(axes):
        raise ValueError("pads")
    sizes = list(shape)
    for i, axis in enumerate(axes):
        sizes[axis] += pads[i] + pads[i + len(axes)]
    return tuple(sizes)

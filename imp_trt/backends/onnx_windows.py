# SPDX-License-Identifier: Apache-2.0
"""Shapes of the outputs of ONNX operators that compute them from windows, samples and products.

The rules are like those of :mod:`imp_trt.backends.onnx_shapes`. The outputs can be larger than the inputs, so
what is not known is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from imp_trt.backends.onnx_shapes import (
    Attributes,
    Inputs,
    Shape,
    given,
    in_range,
    integer,
    integers,
    numbers,
    shape_of,
)

_SAME = ("SAME_UPPER", "SAME_LOWER")


def conv(inputs: Inputs, attributes: Attributes, image: int = 0, weights: int = 1) -> Shape:
    shape, kernel = shape_of(inputs[image]), shape_of(inputs[weights])
    stated = integers(attributes, "kernel_shape")
    if stated is not None and tuple(stated) != kernel[2:]:
        raise ValueError("kernel_shape")
    return (shape[0], kernel[0], *_windows(shape[2:], kernel[2:], attributes))


def qlinear_conv(inputs: Inputs, attributes: Attributes) -> Shape:
    return conv(inputs, attributes, weights=3)


def pool(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, kernel = shape_of(inputs[0]), integers(attributes, "kernel_shape")
    return (*shape[:2], *_windows(shape[2:], kernel or (), attributes))


def max_pool(inputs: Inputs, attributes: Attributes) -> list[Shape]:
    return [pool(inputs, attributes)] * 2


def global_pool(inputs: Inputs, attributes: Attributes) -> Shape:
    shape = shape_of(inputs[0])
    return (*shape[:2], *(1 for _ in shape[2:]))


def _each(attributes: Attributes, name: str, count: int, default: int) -> list[int]:
    """A list with a number for each spatial dimension."""
    values = integers(attributes, name)
    values = [default] * count if values is None else values
    if len(values) != count:
        raise ValueError(name)
    return values


def _windows(shape: Sequence[int], kernel: Sequence[int], attributes: Attributes) -> list[int]:
    count = len(shape)
    strides = _each(attributes, "strides", count, 1)
    dilations = _each(attributes, "dilations", count, 1)
    pads = _each(attributes, "pads", 2 * count, 0)
    automatic = attributes.get("auto_pad", "NOTSET")
    if len(kernel) != count or min((*strides, *dilations, *kernel), default=1) < 1:
        raise ValueError("windows")
    if automatic in _SAME:
        return [-(-n // stride) for n, stride in zip(shape, strides, strict=True)]
    if automatic == "VALID":
        pads = [0] * 2 * count
    elif automatic not in ("NOTSET", ""):
        raise ValueError("auto_pad")
    result = []
    for i, n in enumerate(shape):
        rest = n + pads[i] + pads[i + count] - dilations[i] * (kernel[i] - 1) - 1
        if rest < 0:
            raise ValueError("a window larger than the image")
        size = rest // strides[i] + 1
        if integer(attributes, "ceil_mode", 0) and rest % strides[i]:
            # Runtimes differ in whether a window may begin in the padding behind the image.
            if size * strides[i] >= n + pads[i]:
                raise ValueError("ceil_mode")
            size += 1
        result.append(size)
    return result


def conv_transpose(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, kernel = shape_of(inputs[0]), shape_of(inputs[1])
    count = len(shape) - 2
    if attributes.get("auto_pad", "NOTSET") != "NOTSET" or len(kernel) != len(shape):
        raise ValueError("auto_pad")
    channels = kernel[1] * integer(attributes, "group", 1)
    stated = integers(attributes, "output_shape")
    if stated:
        return (shape[0], channels, *stated[-count:])
    strides, dilations = _each(attributes, "strides", count, 1), _each(attributes, "dilations", count, 1)
    pads, extra = _each(attributes, "pads", 2 * count, 0), _each(attributes, "output_padding", count, 0)
    sides = (
        strides[i] * (n - 1) + extra[i] + dilations[i] * (kernel[2 + i] - 1) + 1 - pads[i] - pads[i + count]
        for i, n in enumerate(shape[2:])
    )
    return (shape[0], channels, *sides)


def conv_transpose_elements(inputs: Inputs, attributes: Attributes) -> int:
    """Products of one image with the weights, before they are added."""
    return math.prod(shape_of(inputs[0])[2:]) * math.prod(shape_of(inputs[1])[1:])


def deform_conv(inputs: Inputs, attributes: Attributes) -> Shape:
    return (shape_of(inputs[0])[0], shape_of(inputs[1])[0], *shape_of(inputs[2])[2:])


def deform_conv_elements(inputs: Inputs, attributes: Attributes) -> int:
    """Samples of one image."""
    kernel = shape_of(inputs[1])[2:]
    return math.prod((shape_of(inputs[0])[1], *kernel, *shape_of(inputs[2])[2:]))


def max_unpool(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, stated = shape_of(inputs[0]), given(inputs, 2)
    if stated is not None:
        return tuple(numbers(stated))
    count = len(shape) - 2
    kernel, strides = _each(attributes, "kernel_shape", count, 1), _each(attributes, "strides", count, 1)
    pads = _each(attributes, "pads", 2 * count, 0)
    sides = ((n - 1) * strides[i] - pads[i] - pads[i + count] + kernel[i] for i, n in enumerate(shape[2:]))
    return (*shape[:2], *sides)


def resize(inputs: Inputs, attributes: Attributes) -> Shape:
    """Resize with sizes or scales; in opset 10 scales alone, as in Upsample, which may have an attribute."""
    shape = shape_of(inputs[0])
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ValueError("keep_aspect_ratio_policy")
    axes = integers(attributes, "axes")
    axes = list(range(len(shape))) if axes is None else [in_range(axis, len(shape)) for axis in axes]
    sizes, scales = given(inputs, 3), given(inputs, 2 if len(inputs) > 2 else 1)
    result = list(shape)
    if sizes is not None:
        if scales is not None and scales.shape != (0,):
            raise ValueError("sizes and scales")
        for axis, size in zip(axes, numbers(sizes), strict=True):
            result[axis] = size
        return tuple(result)
    if attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise ValueError("a size that depends on the region")
    factors = attributes.get("scales") if scales is None else scales.values
    if factors is None:
        raise ValueError("unknown")
    # Runtimes multiply in single precision.
    for axis, factor in zip(axes, np.asarray(factors, np.float32).ravel(), strict=True):
        result[axis] = int(np.floor(np.float32(result[axis]) * factor))
    return tuple(result)


def center_crop_pad(inputs: Inputs, attributes: Attributes) -> Shape:
    shape = list(shape_of(inputs[0]))
    axes = integers(attributes, "axes")
    axes = list(range(len(shape))) if axes is None else axes
    for axis, size in zip(axes, numbers(inputs[1]), strict=True):
        shape[in_range(axis, len(shape))] = size
    return tuple(shape)


def roi_align(inputs: Inputs, attributes: Attributes) -> Shape:
    sides = integer(attributes, "output_height", 1), integer(attributes, "output_width", 1)
    return (shape_of(inputs[1])[0], shape_of(inputs[0])[1], *sides)


def roi_align_samples(inputs: Inputs, attributes: Attributes) -> int:
    """Samples of a box, whose weights are computed before: as many as the file says."""
    sides = integer(attributes, "output_height", 1), integer(attributes, "output_width", 1)
    return math.prod(sides) * max(integer(attributes, "sampling_ratio", 0), 1) ** 2


def max_roi_pool(inputs: Inputs, attributes: Attributes) -> Shape:
    return (shape_of(inputs[1])[0], shape_of(inputs[0])[1], *_each(attributes, "pooled_shape", 2, 0))


def grid_sample(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, grid = shape_of(inputs[0]), shape_of(inputs[1])
    return (*shape[:2], *grid[1:-1])


def affine_grid(inputs: Inputs, attributes: Attributes) -> Shape:
    n, _, *sides = numbers(inputs[1])
    return (n, *sides, len(sides))


def col2im(inputs: Inputs, attributes: Attributes) -> Shape:
    shape, image, block = shape_of(inputs[0]), numbers(inputs[1]), numbers(inputs[2])
    return (shape[0], shape[1] // math.prod(block), *image)


def determinant(inputs: Inputs, attributes: Attributes) -> Shape:
    return shape_of(inputs[0])[:-2]


def recurrent(inputs: Inputs, attributes: Attributes) -> list[Shape]:
    """LSTM, GRU and RNN: all states, the last one, and the last cells."""
    length, batch, _ = shape_of(inputs[0])
    if integer(attributes, "layout", 0):
        raise ValueError("layout")
    directions, _, hidden = shape_of(inputs[2])
    if integer(attributes, "hidden_size", hidden) != hidden:
        raise ValueError("hidden_size")
    last = directions, batch, hidden
    return [(length, directions, batch, hidden), last, last]


def einsum(inputs: Inputs, attributes: Attributes) -> Shape:
    return _einsum(inputs, attributes)[-1]


def einsum_elements(inputs: Inputs, attributes: Attributes) -> int:
    """Elements of the largest product of the first inputs."""
    return max(math.prod(shape) for shape in _einsum(inputs, attributes))


def _einsum(inputs: Inputs, attributes: Attributes) -> list[Shape]:
    """Shapes of the products of the first one, two, ... inputs, and of the output."""
    equation = attributes.get("equation")
    if not isinstance(equation, str) or "." in equation:
        raise ValueError("equation")
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms, sizes = left.split(","), dict[str, int]()
    for term, known in zip(terms, inputs, strict=True):
        for letter, size in zip(term, shape_of(known), strict=True):
            if 1 not in (size, sizes.setdefault(letter, size)) and sizes[letter] != size:
                raise ValueError("equation")
            sizes[letter] = max(sizes[letter], size)
    if not arrow:
        right = "".join(sorted(letter for letter in sizes if left.count(letter) == 1))
    letters = [
        sorted(set("".join(terms[: i + 1])) & set("".join(terms[i + 1 :]) + right)) for i in range(len(terms))
    ]
    return [tuple(sizes[letter] for letter in term) for term in (*letters, list(right))]


def attention(inputs: Inputs, attributes: Attributes) -> Shape:
    query, value = shape_of(inputs[0]), shape_of(inputs[2])
    if len(query) == 4:
        return (*query[:3], value[3])
    heads = integer(attributes, "q_num_heads", 0)
    return (*query[:2], heads * (value[2] // integer(attributes, "kv_num_heads", 0)))


def attention_elements(inputs: Inputs, attributes: Attributes) -> int:
    """Products of queries and keys, of which some versions of ONNX Runtime keep all."""
    query, key, past = shape_of(inputs[0]), shape_of(inputs[1]), given(inputs, 4)
    heads = query[1] if len(query) == 4 else integer(attributes, "q_num_heads", 0)
    before = 0 if past is None else shape_of(past)[2]
    return query[0] * heads * query[-2] * (key[-2] + before)

# SPDX-License-Identifier: Apache-2.0
"""ONNX files with the outputs of third-party instance segmenters: the inputs are the detections."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

Arrays = dict[str, NDArray[np.generic]]


def detections(
    batch: int = 1, count: int = 9, cells: int = 7, seed: int = 0, size: tuple[int, int] = (48, 64)
) -> Arrays:
    """Boxes in an image of a size, scores, labels 0 to 3 and masks."""
    random = np.random.default_rng(seed)
    low = random.random((batch, count, 2)) * np.array(size[::-1]) * 0.6
    high = low + 6 + random.random((batch, count, 2)) * np.array(size[::-1]) * 0.4
    return {
        "boxes": np.concatenate([low, high], -1).astype(np.float32),
        "scores": random.random((batch, count)).astype(np.float32),
        "labels": random.integers(0, 4, (batch, count)),
        "masks": random.random((batch, count, cells, cells)).astype(np.float32),
    }


def detector(
    arrays: Mapping[str, NDArray[np.generic]], opset: int = 18, dynamic: tuple[int, ...] = ()
) -> onnx.ModelProto:
    """A file with an input NAME_in and an output NAME for each array; ``dynamic`` axes have no fixed size."""
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_in"], [name], name=f"node_{name}") for name in arrays],
        "detector",
        [_info(f"{name}_in", array, dynamic) for name, array in arrays.items()],
        [_info(name, array, dynamic) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 19 else 10)


def _info(name: str, array: NDArray[np.generic], dynamic: tuple[int, ...]) -> onnx.ValueInfoProto:
    shape = [f"{name}_{axis}" if axis in dynamic else side for axis, side in enumerate(array.shape)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def run(model: onnx.ModelProto, arrays: Mapping[str, NDArray[np.generic]]) -> Arrays:
    """All outputs in ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    results = session.run(names, {f"{name}_in": array for name, array in arrays.items()})
    return dict(zip(names, results, strict=True))

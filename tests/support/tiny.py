# SPDX-License-Identifier: Apache-2.0
"""A network small enough to know its answer: built with onnx.helper, wrapped as an artifact."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from imp_trt.artifacts.manifest import InputContract, Manifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.classes import ClassTable

CLASSES = ClassTable(
    names=("road", "sky", "car", "person"),
    things=(2, 3),
    palette=((128, 64, 128), (70, 130, 180), (0, 0, 142), (220, 20, 60)),
)
HEIGHT, WIDTH, DETECTIONS, MASK = 64, 96, 4, 8

# Network pixels; rows 2 and 3 are padding.
BOXES = np.array([[10, 20, 50, 52], [60, 8, 76, 40], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
SCORES = np.array([0.9, 0.6, 0, 0], np.float32)
LABELS = np.array([2, 3, 0, 0], np.int32)
MASKS = np.zeros((DETECTIONS, MASK, MASK), np.float32)
MASKS[0, 1:, :] = 0.95
MASKS[1, :, 2:6] = 0.9


def truth(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The class map that the network gives for a frame of its own size: blue level / 64."""
    return frame[..., 0] // 64


def graph(batch: int = 1, num_detections: int = 2) -> onnx.ModelProto:
    """frame uint8 [B, H, W, 3] -> the six outputs; the instances are constants."""

    def constant(name: str, array: NDArray[np.generic]) -> None:
        tiled = np.repeat(array[None], batch, axis=0)
        initializers.append(numpy_helper.from_array(tiled, f"{name}_value"))
        nodes.append(helper.make_node("Identity", [f"{name}_value"], [name]))

    initializers = [
        numpy_helper.from_array(np.array(0, np.int64), "blue"),
        numpy_helper.from_array(np.array(64, np.int32), "step"),
    ]
    nodes = [
        helper.make_node("Gather", ["frame", "blue"], ["plane"], axis=3),
        helper.make_node("Cast", ["plane"], ["wide"], to=TensorProto.INT32),
        helper.make_node("Div", ["wide", "step"], ["class"]),
        helper.make_node("Cast", ["class"], ["semantic"], to=TensorProto.UINT8),
    ]
    constant("boxes", BOXES)
    constant("scores", SCORES)
    constant("labels", LABELS)
    constant("masks", MASKS)
    constant("num_detections", np.array(num_detections, np.int32))
    float32, int32, uint8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8
    outputs = [
        ("semantic", uint8, [batch, HEIGHT, WIDTH]),
        ("boxes", float32, [batch, DETECTIONS, 4]),
        ("scores", float32, [batch, DETECTIONS]),
        ("labels", int32, [batch, DETECTIONS]),
        ("masks", float32, [batch, DETECTIONS, MASK, MASK]),
        ("num_detections", int32, [batch]),
    ]
    body = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("frame", uint8, [batch, HEIGHT, WIDTH, 3])],
        [helper.make_tensor_value_info(*output) for output in outputs],
        initializers,
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def manifest(batch: int = 1, **changes: object) -> Manifest:
    """The manifest that fits :func:`graph`."""
    values: dict[str, object] = {
        "kind": "onnx",
        "classes": CLASSES,
        "input": InputContract(height=HEIGHT, width=WIDTH, batch=batch),
        "detections": DETECTIONS,
        "mask_size": MASK,
        "precision": "fp32",
        "target": "onnxruntime",
        "ops": {"InstanceMaskProjection": {"version": "1", "sampling": "bilinear"}},
        "weights_sha256": hashlib.sha256(b"tiny").hexdigest(),
        "opset": 18,
        "producer": {"imp_trt": "0.1.0"},
    }
    return Manifest(**(values | changes))  # type: ignore[arg-type]


def artifact(folder: Path, batch: int = 1, name: str = "tiny.fp32.onnx", **changes: object) -> Path:
    """A valid artifact in folder; changes go to its manifest."""
    return write_artifact(folder / name, graph(batch).SerializeToString(), manifest(batch, **changes))


def frame(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth blobs of blue, so that resizing has a meaning; noise in the other channels."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    blue = 127.5 + 127 * np.sin(x / width * 9 + seed) * np.cos(y / height * 7)
    rest = generator.integers(0, 256, (height, width, 2))
    return np.dstack([blue, rest]).astype(np.uint8)

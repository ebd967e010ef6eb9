# SPDX-License-Identifier: Apache-2.0
"""Small third-party ONNX files, with and without this package's operators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from imp_trt.artifacts.network_manifest import NetworkManifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.export import ExportOptions, export_network
from imp_trt.export.onnx.from_model import onnx_with_operators
from imp_trt.export.onnx.structure import read_structure
from imp_trt.ops.mask_projection.torch import instance_mask_projection


def plain(
    sides: Sequence[int | str] = (1, 3, 16, 24), classes: int = 4, scale: float = 1.0, opset: int = 18
) -> ModelProto:
    """A segmenter: images [B, 3, H, W] float32 -> logits [B, C, H, W], classes [B, H, W] uint8, and a sum.

    Args:
        sides: of the input; text is a side of any size.
        scale: of the first weights.
    """
    random = np.random.default_rng(3)
    first = (random.standard_normal((8, 3, 3, 3)) * 0.2 * scale).astype(np.float32)
    weights = {
        "w0": first,
        "w1": (random.standard_normal((8, 8, 3, 3)) * 0.2).astype(np.float32),
        "w2": (random.standard_normal((classes, 8, 1, 1)) * 0.4).astype(np.float32),
        "mean": np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1),
        "gain": np.array([4.4], np.float32),
        "two": np.array([1, 1, 2, 2], np.float32),
    }
    make = helper.make_node
    nodes = [
        make("Sub", ["images", "mean"], ["centered"], name="center"),
        make("Mul", ["centered", "gain"], ["normalized"], name="normalize"),
        make("Conv", ["normalized", "w0"], ["c0"], name="conv0", pads=[1] * 4, strides=[2, 2]),
        make("Relu", ["c0"], ["r0"], name="relu0"),
        make("Conv", ["r0", "w1"], ["c1"], name="conv1", pads=[1] * 4),
        make("Add", ["c1", "r0"], ["s1"], name="shortcut"),
        make("Sigmoid", ["s1"], ["g1"], name="gate"),
        make("Mul", ["s1", "g1"], ["a1"], name="silu"),
        make("Conv", ["a1", "w2"], ["c2"], name="conv2"),
        make("Resize", ["c2", "", "two"], ["logits"], name="upsample", mode="nearest"),
        make("ArgMax", ["logits"], ["index"], name="argmax", axis=1, keepdims=0),
        make("Cast", ["index"], ["classes"], name="to_uint8", to=TensorProto.UINT8),
        make("GlobalAveragePool", ["c2"], ["pooled"], name="pool"),
    ]
    b, _, h, w = sides
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "plain",
        [info("images", TensorProto.FLOAT, list(sides))],
        [
            info("logits", TensorProto.FLOAT, [b, classes, h, w]),
            info("classes", TensorProto.UINT8, [b, h, w]),
            info("pooled", TensorProto.FLOAT, [b, classes, 1, 1]),
        ],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


class _Projecting(nn.Module):
    """Two convolutions, whose results are boxes, scores and masks of six instances, and a projection."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.masks = nn.Conv2d(8, 6, 3, 1, 1)
        self.offsets = nn.Conv2d(8, 6, 1)
        self.last = nn.Conv2d(4, 5, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.relu(self.first(images))
        masks = torch.sigmoid(4 * self.masks(features)[..., :8, :8])
        offsets = self.offsets(features).mean((2, 3))
        low = 1 + 2 * torch.arange(6) + offsets
        boxes = torch.stack([low, low / 2, low + 9, low / 2 + 7], -1)
        scores = torch.sigmoid(offsets)
        labels = (torch.arange(6) % 4)[None].expand(images.shape[0], 6)
        canvas = instance_mask_projection(boxes, scores, labels, masks, 4, (16, 24))
        return self.last(canvas), boxes


@cache
def projecting() -> ModelProto:
    """A network with the operator: images [1, 3, 16, 24] -> logits [1, 5, 16, 24], boxes [1, 6, 4]."""
    return onnx_with_operators(_Projecting(), (torch.rand(1, 3, 16, 24),), ["images"], ["logits", "boxes"])


def save(folder: Path, model: ModelProto, name: str = "yours.onnx") -> Path:
    """The model as a file."""
    path = folder / name
    onnx.save_model(model, path)
    return path


def images(seed: int = 0, sides: Sequence[int] = (1, 3, 16, 24)) -> dict[str, Any]:
    """Inputs of both networks."""
    return {"images": np.random.default_rng(seed).random(sides).astype(np.float32)}


def manifest(model: ModelProto, **changes: Any) -> NetworkManifest:
    """The manifest of a model as imp-export writes it."""
    payload = model.SerializeToString(deterministic=True)
    structure = read_structure(payload)
    values: dict[str, Any] = {
        "kind": "onnx",
        "inputs": structure.inputs,
        "outputs": structure.outputs,
        "precision": "fp32",
        "target": "test",
        "ops": {name: len(nodes) for name, nodes in structure.custom_nodes().items()},
        "source_sha256": "2" * 64,
        "opset": structure.opset,
    }
    return NetworkManifest(**(values | changes))


def artifact(folder: Path, model: ModelProto, name: str = "yours.fp32.onnx") -> Path:
    """The model as an artifact."""
    return write_artifact(folder / name, model.SerializeToString(deterministic=True), manifest(model))


def export(path: Path, output: Path, shapes: Any = None, **options: Any) -> Any:
    """export_network for ONNX Runtime, unless options say otherwise."""
    chosen = ExportOptions(**({"target": "onnxruntime"} | options))
    return export_network(path, output, chosen, shapes=shapes)


def images_of(path: Path, seed: int = 0) -> Any:
    """Inputs and the outputs of ONNX Runtime for a file."""
    import onnxruntime as ort

    inputs = images(seed)
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return inputs, dict(zip(names, session.run(names, inputs), strict=True))

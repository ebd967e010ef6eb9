# SPDX-License-Identifier: Apache-2.0
"""Explicit quantization: QuantizeLinear and DequantizeLinear around the layers that benefit from it.

Symmetric, one scale per tensor for activations and one per output channel for weights; biases stay in
float. Only layers of backbone and heads change: RoIAlign, boxes, NMS and the projection have the same types
as in an fp16 file.

In int8 the shortcut of a residual block is quantized too if the convolution that it is added to is. TensorRT
then fuses convolution, addition and ReLU into one int8 kernel, and otherwise writes the sum's other input in
float (NVIDIA's guide on Q/DQ placement: "quantize the residual input in skip connections").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor

from imp_trt.artifacts.manifest import Precision
from imp_trt.errors import ExportError
from imp_trt.export.onnx.functions import raise_opset
from imp_trt.export.onnx.graph_checks import check
from imp_trt.export.onnx.type_checks import QDQ_OPSET, residual_additions
from imp_trt.export.quantization.calibration import SHORTCUT, Histogram, Key

LOGITS = ("cls_logits", "bbox_pred", "cls_score", "classify", "canvas_to_logits")
"""Last parts of the names of the output layers, which are never quantized."""

FIRST = {
    "network.backbone.body.stem": "three input channels are no faster, and the error affects all later layers"
}
"""Other layers that are never quantized, by name prefix, with the reason."""

DETECTING: dict[Precision, dict[str, str]] = {
    "int8": {
        "network.backbone.body.stages.0": "its error changes scores more than any other stage",
        "network.backbone.fpn": "its outputs are the input of RoIAlign",
        "detector.rpn_head": "ranks the proposals",
        "detector.box_head": "computes the scores of the instances",
    },
}
DETECTING["fp8"] = DETECTING["int8"] | {
    "network.backbone.body.stages.1": "with three mantissa bits it changes the instances' scores",
}
"""Layers that are not quantized in networks with a detector.

Chosen on earlier weights of camvid_imp and scenes (50 frames each; F1 of instances against float32, gate
0.90; for the current ones see tests/bench/RESULTS.md): with everything quantized except the first layer and
LOGITS, int8 reached 0.75 and 0.89, and fp8 0.58 and 0.70. Correcting the biases for the mean error did not
change that, and clipping at the maximum made it worse. With these layers in float, int8 reached 0.95
and 0.99, and fp8 0.95 and 0.99; the mask head, the semantic head and the deeper stages are
quantized.
"""

MIN_SCALE = 2.0**-20
"""Minimum of a float16 scale: 16 times the smallest subnormal number."""


@dataclass(frozen=True)
class Format:
    """A quantized type.

    Attributes:
        onnx_type, torch_type: the type.
        max: the largest magnitude in use.
        multiple: channels of a layer must be a multiple of it.
        grouped: whether grouped convolutions benefit from it.
        shortcuts: whether the shortcuts of residual blocks are quantized.
    """

    onnx_type: int
    torch_type: torch.dtype
    max: float
    multiple: int
    grouped: bool
    shortcuts: bool

    def scale(self, histogram: Histogram) -> float:
        """Scale of a tensor with these magnitudes."""
        if self.onnx_type == TensorProto.INT8:
            return histogram.clipping_threshold(int(self.max)) / self.max
        # A float type has the same relative precision for all magnitudes: clipping does not help.
        return histogram.max / self.max

    def cast(self, values: Tensor) -> Tensor:
        """float32 values, already divided by their scale, in this type."""
        if self.onnx_type == TensorProto.INT8:
            values = values.round()
        return values.clamp(-self.max, self.max).to(self.torch_type)


FORMATS: dict[Precision, Format] = {
    "int8": Format(TensorProto.INT8, torch.int8, 127, 1, True, True),
    # float8 matrix units need multiples of 16 channels; TensorRT has no optimized grouped convolutions in
    # float8, nor with more than 32 weights per channel (release notes of 10.13; the 7x7 stem is in FIRST).
    # That it fuses additions into float8 convolutions is not documented.
    "fp8": Format(TensorProto.FLOAT8E4M3FN, torch.float8_e4m3fn, 448, 16, False, False),
}


def quantize(
    model: ModelProto,
    precision: Precision,
    ranges: Mapping[Key, Histogram],
    keep: Collection[str] | None = None,
    more: Collection[str] = (),
) -> ModelProto:
    """A copy of an exported model with its layers quantized, at opset 19.

    Args:
        model: from imp_trt.export.onnx.from_model, float32 or float16.
        precision: "int8" or "fp8".
        ranges: from imp_trt.export.quantization.calibration.collect_ranges.
        keep: layers that stay in float in addition to LOGITS, by name or by a prefix that ends before a
            dot; None means FIRST, and DETECTING if the model has a detector.
        more: layers that stay in float in addition to keep.

    Raises:
        ExportError: a layer of the graph has no range from calibration.
    """
    quantized = ModelProto()
    quantized.CopyFrom(model)
    raise_opset(quantized, QDQ_OPSET)
    if keep is None:
        keep = _kept(model, precision)
    _Rewriter(quantized, FORMATS[precision], ranges, (*keep, *more)).run()
    check(quantized)
    return quantized


def quantized_layers(model: ModelProto, precision: Precision) -> list[str]:
    """Names of the layers of a model that :func:`quantize` quantizes by default, in the graph's order."""
    rewriter = _Rewriter(model, FORMATS[precision], {}, tuple(_kept(model, precision)))
    layers = [(layer_of(node), node) for node in model.graph.node]
    return list(dict.fromkeys(name for name, node in layers if name and rewriter.quantizes(name, node)))


def _kept(model: ModelProto, precision: Precision) -> dict[str, str]:
    detects = any((layer_of(node) or "").startswith("detector.") for node in model.graph.node)
    return FIRST | (DETECTING[precision] if detects else {})


def layer_of(node: NodeProto) -> str | None:
    """Name of the PyTorch layer that a Conv or Gemm node computes; None for other nodes."""
    if node.op_type not in ("Conv", "Gemm") or not node.input[1].endswith(".weight"):
        return None
    return str(node.input[1]).removesuffix(".weight")


class _Rewriter:
    """One pass over the nodes of a model; quantized tensors are shared between layers."""

    def __init__(
        self, model: ModelProto, form: Format, ranges: Mapping[Key, Histogram], keep: tuple[str, ...]
    ) -> None:
        self.graph = model.graph
        self.form = form
        self.ranges = ranges
        self.keep = keep
        self.tensors = {i.name: i for i in self.graph.initializer}
        values = (*self.graph.value_info, *self.graph.input, *self.graph.output)
        self.values: dict[str, ValueInfoProto] = {v.name: v for v in values}
        self.quantized: set[str] = set()  # tensors that are followed by QuantizeLinear and DequantizeLinear
        self.layers: dict[str, str] = {}  # output -> name of each quantized layer
        self.residual = set(residual_additions(model)) if form.shortcuts else set[str]()

    def run(self) -> None:
        calls: Counter[str] = Counter()
        nodes: list[NodeProto] = []
        for node in self.graph.node:
            layer = layer_of(node)
            if layer is not None:
                key = (layer, calls[layer])
                calls[layer] += 1
                if self.quantizes(layer, node):
                    self.layers[node.output[0]] = layer
                    nodes += self._activation(node, 0, key)
                    nodes += self._weight(node)
            elif node.name in self.residual:
                nodes += self._shortcut(node)
            nodes.append(node)
        _replace(self.graph.node, nodes)
        # In a network without a detector some outputs are constants.
        used = {name for node in nodes for name in node.input} | {o.name for o in self.graph.output}
        _replace(self.graph.initializer, [i for i in self.tensors.values() if i.name in used])

    def quantizes(self, layer: str, node: NodeProto) -> bool:
        """Whether the layer that a node computes is quantized."""
        if layer.rpartition(".")[2] in LOGITS or f"{layer}.".startswith(tuple(f"{k}." for k in self.keep)):
            return False
        if not self.form.grouped and any(a.name == "group" and a.i > 1 for a in node.attribute):
            return False
        return all(side % self.form.multiple == 0 for side in self.tensors[node.input[1]].dims[:2])

    def _shortcut(self, addition: NodeProto) -> Iterator[NodeProto]:
        """Quantizes a block's shortcut if the layer that it is added to is quantized."""
        layer, shortcut = addition.input
        if layer not in self.layers:
            return
        if shortcut in self.quantized:  # the block's first layer reads it too
            addition.input[1] = f"{shortcut}.dequantized"
        elif shortcut in self.layers:
            block, found, _ = self.layers[shortcut].rpartition(f".{SHORTCUT}.")
            if found:
                yield from self._activation(addition, 1, (f"{block}.{SHORTCUT}", 0))

    def _activation(self, node: NodeProto, position: int, key: Key) -> Iterator[NodeProto]:
        """Quantizes and dequantizes an input of the node, once for all nodes that read it."""
        name = node.input[position]
        node.input[position] = f"{name}.dequantized"
        if name in self.quantized:
            return
        self.quantized.add(name)
        if key not in self.ranges:
            raise ExportError(
                f"layer {key[0]}", expected="a range from calibration", got=f"none for call {key[1]}"
            )
        value = self.values[name]
        kind = value.type.tensor_type.elem_type
        scale = self._scale(f"{name}.scale", torch.tensor(self.form.scale(self.ranges[key])), kind)
        zero = self._zero(())
        yield _node("QuantizeLinear", [name, scale, zero], f"{name}.quantized")
        yield _node("DequantizeLinear", [f"{name}.quantized", scale, zero], node.input[position])
        self._describe(f"{name}.quantized", value, self.form.onnx_type)
        self._describe(node.input[position], value, kind)

    def _weight(self, node: NodeProto) -> Iterator[NodeProto]:
        """Quantizes the node's weight; each use of a shared weight has its own DequantizeLinear."""
        name = node.input[1]
        weight = self.tensors[name]
        zero = self._zero((weight.dims[0],))
        if f"{name}.quantized" not in self.tensors:
            values = _tensor(weight)
            maxima = values.abs().flatten(1).amax(1)  # [output channels]
            self._scale(f"{name}.scale", maxima / self.form.max, weight.data_type)
            scales = _tensor(self.tensors[f"{name}.scale"]).reshape(-1, *[1] * (values.ndim - 1))
            self._add(f"{name}.quantized", self.form.cast(values / scales), self.form.onnx_type)
        node.input[1] = f"{name}.dequantized.{node.name}"
        inputs = [f"{name}.quantized", f"{name}.scale", zero]
        yield _node("DequantizeLinear", inputs, node.input[1], axis=0)
        described = helper.make_tensor_value_info(node.input[1], weight.data_type, weight.dims)
        self.graph.value_info.append(described)

    def _scale(self, name: str, scale: Tensor, kind: int) -> str:
        low, dtype = MIN_SCALE, torch.float16 if kind == TensorProto.FLOAT16 else torch.float32
        # A layer whose input is always zero has no range: any scale works.
        scale = torch.where(scale > 0, scale.float().clamp(min=low), 1.0)
        self._add(name, scale.to(dtype), kind)
        return name

    def _zero(self, shape: tuple[int, ...]) -> str:
        """Zero points of symmetric quantization; their type is the quantized type."""
        name = "zero_point" + "".join(f".{side}" for side in shape)
        self._add(name, torch.zeros(shape, dtype=self.form.torch_type), self.form.onnx_type)
        return name

    def _add(self, name: str, values: Tensor, kind: int) -> None:
        # As bytes: NumPy has no float8.
        raw = values.flatten().contiguous().view(torch.uint8).numpy().tobytes()
        self.tensors[name] = TensorProto(name=name, data_type=kind, dims=values.shape, raw_data=raw)

    def _describe(self, name: str, like: ValueInfoProto, kind: int) -> None:
        value = self.graph.value_info.add()
        value.CopyFrom(like)
        value.name = name
        value.type.tensor_type.elem_type = kind


def _node(kind: str, inputs: list[str], output: str, axis: int | None = None) -> NodeProto:
    # make_node omits an axis of None.
    return helper.make_node(kind, inputs, [output], name=f"{kind}.{output}", axis=axis)


def _tensor(stored: TensorProto) -> Tensor:
    """float32 values of a float tensor."""
    return torch.from_numpy(numpy_helper.to_array(stored).astype(np.float32))


_T = TypeVar("_T")


class _Repeated(Protocol[_T]):
    """A repeated field of a protobuf message."""

    def __delitem__(self, index: slice, /) -> None: ...
    def extend(self, items: list[_T], /) -> None: ...


def _replace(field: _Repeated[_T], items: list[_T]) -> None:
    kept = list(items)
    del field[:]
    field.extend(kept)

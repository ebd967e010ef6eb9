# SPDX-License-Identifier: Apache-2.0
"""What each layer's quantization costs: the network in float32 with one layer quantized at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imp_trt.artifacts.manifest import Precision
from imp_trt.export.quantization.calibration import Histogram, Key
from imp_trt.export.quantization.quantize import FORMATS, MIN_SCALE, Format
from imp_trt.export.verification.gates import Agreement, Gate
from imp_trt.export.verification.golden import valid_detections
from imp_trt.models.deploy import DeployModule
from imp_trt.models.outputs import OUTPUT_NAMES


@dataclass(frozen=True)
class LayerCost:
    """Agreement with the network in float32 if only this layer is quantized.

    Attributes:
        layer: name.
        labels: fraction of pixels with the same class.
        instances: F1 of instances.
    """

    layer: str
    labels: float
    instances: float

    def share(self, gate: Gate) -> float:
        """How much of what a gate allows the layer uses up: 1 is all of it, by itself."""
        labels = (1 - self.labels) / max(1 - gate.labels, 1e-6)
        return labels + (1 - self.instances) / max(1 - (gate.instances or 0.0), 1e-6)

    def __str__(self) -> str:
        return f"{self.layer} (labels {self.labels:.3%}, F1 {self.instances:.3f})"


def layer_costs(
    module: DeployModule,
    layers: Sequence[str],
    precision: Precision,
    ranges: Mapping[Key, Histogram],
    frames: Sequence[NDArray[np.uint8]],
    progress: Callable[[int, int], None],
) -> list[LayerCost]:
    """Costs of layers, in their order.

    Args:
        module: the network in float32; unchanged afterwards.
        layers: names of convolutions and fully connected layers.
        precision: int8 or fp8.
        ranges: of the layers' inputs.
        frames: network inputs [H, W, 3] uint8 BGR, at least one.
        progress: called with the number of completed layers and of all.
    """
    inputs = [torch.from_numpy(np.ascontiguousarray(frame)).unsqueeze(0) for frame in frames]
    reference = [_outputs(module, frame) for frame in inputs]
    costs = []
    for done, layer in enumerate(layers):
        progress(done, len(layers))
        agreement = Agreement()
        with _quantized(module, layer, FORMATS[precision], ranges):
            for frame, expected in zip(inputs, reference, strict=True):
                got = _outputs(module, frame)
                agreement.add(
                    (expected["semantic"][0], got["semantic"][0]),
                    (valid_detections(expected, 0), valid_detections(got, 0)),
                )
        costs.append(LayerCost(layer, agreement.label_agreement, agreement.instance_f1))
    progress(len(layers), len(layers))
    return costs


def _outputs(module: DeployModule, frame: Tensor) -> dict[str, NDArray[np.generic]]:
    with torch.no_grad():
        return {n: t.numpy() for n, t in zip(OUTPUT_NAMES, module(frame), strict=True)}


@contextmanager
def _quantized(
    module: DeployModule, name: str, form: Format, ranges: Mapping[Key, Histogram]
) -> Iterator[None]:
    """Rounds a layer's weight and its inputs to the values that the format has."""
    layer = cast(nn.Conv2d | nn.Linear, module.get_submodule(name))
    calls: Counter[str] = Counter()
    weight = layer.weight.data

    def round_input(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        scale = max(form.scale(ranges[name, calls[name]]), MIN_SCALE)
        calls[name] += 1
        return (_rounded(inputs[0], torch.tensor(scale), form),)

    def first_call(_module: nn.Module, _inputs: object) -> None:
        calls.clear()

    maxima = weight.abs().flatten(1).amax(1) / form.max
    scales = torch.where(maxima > 0, maxima.clamp(min=MIN_SCALE), 1.0)
    handles = [layer.register_forward_pre_hook(round_input), module.register_forward_pre_hook(first_call)]
    layer.weight.data = _rounded(weight, scales.reshape(-1, *[1] * (weight.ndim - 1)), form)
    try:
        yield
    finally:
        layer.weight.data = weight
        for handle in handles:
            handle.remove()


def _rounded(values: Tensor, scale: Tensor, form: Format) -> Tensor:
    return form.cast(values / scale).to(values.dtype) * scale

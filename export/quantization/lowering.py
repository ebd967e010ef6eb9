# SPDX-License-Identifier: Apache-2.0
"""From a trained network to an ONNX graph of one precision.

The types are in the graph, not in options of a builder: TensorRT 11 takes strongly typed graphs only, and
10.x builds them the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from onnx import ModelProto

from imp_trt.artifacts.manifest import QUANTIZED, Precision
from imp_trt.errors import UsageError
from imp_trt.export.onnx.from_model import onnx_from_canvas_module, onnx_from_module
from imp_trt.export.options import check_calibration
from imp_trt.export.progress import Progress, silent
from imp_trt.export.quantization.calibration import CalibrationFrames, Histogram, Key, collect_ranges
from imp_trt.export.quantization.quantize import DETECTING, FIRST, quantize
from imp_trt.models.config import NMS_ITERATIONS
from imp_trt.models.deploy import CanvasModule, DeployModule
from imp_trt.models.network import ImpNetwork

LAYER_TYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float16,
    "fp8": torch.float16,
}
"""Type of the layers by precision; for int8 and fp8 that of the layers that are not quantized."""

RUNS_ON_ONNXRUNTIME: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")
"""Precisions that ONNX Runtime's CPU provider supports; others are verified in PyTorch."""


Ranges = dict[Key, Histogram]
"""Layer call -> histogram of its inputs."""


@dataclass(frozen=True, eq=False)
class Lowered:
    """A network in one precision.

    Attributes:
        model: the graph with the function bodies of its custom operators.
        module: the PyTorch module with layers of the same type; not quantized.
        precision: of the graph.
        unquantized: for int8 and fp8: the graph before its quantization.
        ranges: for int8 and fp8: of the activations.
        kept: layers that stay in float16 in addition to the usual ones.
    """

    model: ModelProto
    module: DeployModule
    precision: Precision
    unquantized: ModelProto | None = None
    ranges: Ranges | None = None
    kept: tuple[str, ...] = ()

    def keep(self, layers: Sequence[str]) -> Lowered:
        """The same network with these layers in float16, in addition to the usual ones.

        Raises:
            UsageError: none of its layers would be quantized.
        """
        if self.unquantized is None or self.ranges is None:
            raise UsageError(f"precision {self.precision} quantizes no layer")
        model = quantize(self.unquantized, self.precision, self.ranges, more=layers)
        _check_quantized(model, self.precision)
        return replace(self, model=model, kept=tuple(layers))


def lower(
    network: ImpNetwork,
    precision: Precision,
    batch: int = 1,
    nms_iterations: int = NMS_ITERATIONS,
    calibration: CalibrationFrames | None = None,
    progress: Progress | None = None,
    ranges: Ranges | None = None,
) -> Lowered:
    """Export a network in a precision.

    Deterministic: the same weights and calibration frames give the same bytes.

    Args:
        network: trained network; not changed.
        precision: fp32; fp16 or bf16: backbone, heads, canvas and the flags of NMS in that type, boxes,
            IoUs, scores and masks in float32; int8 or fp8: convolutions and fully connected layers between
            QuantizeLinear and DequantizeLinear (symmetric, weights per output channel, biases not
            quantized), in int8 also the shortcuts of residual blocks, the rest as in fp16.
        batch: frames per call, fixed in the file.
        nms_iterations: iterations of each fixed-point NMS.
        calibration: frames from which the ranges of int8 and fp8 are computed.
        progress: called with the progress of the work.
        ranges: of :func:`calibrate`, for several precisions of one network; None calibrates here.

    Raises:
        UsageError: unknown precision, missing calibration frames, or a network without a layer that is
            quantized.
        SourceError: the folder of calibration frames is missing or empty.
        ExportError: the network cannot be exported in that precision.
    """
    if precision not in LAYER_TYPES:
        raise UsageError("precision", expected=f"one of {', '.join(LAYER_TYPES)}", got=precision)
    check_calibration(precision, calibration is not None)
    report = progress or silent
    report("export", 0, 1)
    module = DeployModule(network, nms_iterations, LAYER_TYPES[precision])
    model = onnx_from_module(module, batch)
    report("export", 1, 1)
    if calibration is not None and precision in QUANTIZED:
        ranges = ranges or calibrate(network, nms_iterations, calibration, report)
        quantized = quantize(model, precision, ranges)
        _check_quantized(quantized, precision)
        return Lowered(quantized, module, precision, model, ranges)
    return Lowered(model, module, precision)


def _check_quantized(model: ModelProto, precision: Precision) -> None:
    """UsageError for a graph that has the name of a quantized one alone."""
    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise UsageError(
            f"precision {precision}",
            expected="at least one quantized layer",
            got="none: all stay in float16",
            fix="--engine fp16, or keep fewer layers with --keep-float16",
        )


def lower_canvas(lowered: Lowered, batch: int = 1) -> ModelProto:
    """The graph of a lowered network's canvas part: same precision, ranges and layers in float16.

    Args:
        lowered: the whole network.
        batch: frames per call, fixed in the file.

    Raises:
        ExportError: the network has no canvas part, or cannot be exported.
    """
    model = onnx_from_canvas_module(CanvasModule(lowered.module), batch)
    if lowered.ranges is None:
        return model
    keep = FIRST | DETECTING[lowered.precision]
    return quantize(model, lowered.precision, lowered.ranges, tuple(keep), lowered.kept)


def calibrate(
    network: ImpNetwork, nms_iterations: int, calibration: CalibrationFrames, progress: Progress
) -> Ranges:
    """Ranges of a network's activations on calibration frames, the same for all precisions."""
    module = DeployModule(network, nms_iterations)
    return collect_ranges(module, calibration, lambda done, total: progress("calibrate", done, total))

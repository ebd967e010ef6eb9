# SPDX-License-Identifier: Apache-2.0
"""Node by node: where an exported graph stops to agree with the trained network in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto
from torch import fx

from imp_trt.artifacts.manifest import Precision
from imp_trt.backends.onnxruntime_import import import_onnxruntime
from imp_trt.errors import UsageError
from imp_trt.export.onnx.from_model import INPUT_NAME, pytorch_program
from imp_trt.models.deploy import DeployModule

TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.25, "fp8": 0.4}
"""Relative error of a node's values that rounding in a precision explains."""

GROWTH = 4
"""An error of at most this many times the inputs' comes from them, for example in a part of a tensor."""

MAX_CHOICES = 0.2
"""Fraction of differing integers or booleans that rounding explains."""


@dataclass(frozen=True)
class NodeError:
    """A node of the exported graph, compared with PyTorch.

    Attributes:
        name, op_type: of the node.
        output: name of the compared value.
        layer: of the network, if the node has a weight; else empty.
        error: root mean square of the difference, relative to that of PyTorch's values; infinity if a value
            is not finite. For integers and booleans the fraction that differs.
        discrete: whether the values are integers or booleans.
        explained: whether an input differs, beyond rounding or by a discrete choice such as the order of
            boxes of nearly equal score: the values are then of other boxes.
    """

    name: str
    op_type: str
    output: str
    layer: str
    error: float
    discrete: bool = False
    explained: bool = False

    def __str__(self) -> str:
        layer = f", layer {self.layer}" if self.layer else ""
        what = "fraction that differs" if self.discrete else "relative error"
        return f"{self.name} ({self.op_type}{layer}): {what} {self.error:.2g}"


@dataclass(frozen=True)
class Bisection:
    """Errors of all nodes that could be compared, in the order in which they are computed.

    Attributes:
        nodes: errors.
        tolerance: error that the precision explains.
        total: nodes of the graph.
    """

    nodes: tuple[NodeError, ...]
    tolerance: float
    total: int

    @property
    def first(self) -> NodeError | None:
        """The first node beyond the tolerance whose inputs do not explain it."""
        return next((n for n in self.nodes if not n.explained and n.error > _limit(n, self.tolerance)), None)

    @property
    def choice(self) -> NodeError | None:
        """The first discrete choice that differs; later nodes may differ because of it."""
        return next((n for n in self.nodes if n.discrete and n.error > 0), None)

    def to_dict(self) -> dict[str, object]:
        """Data for JSON; an infinite error is null."""
        rows = [{**vars(n), "error": n.error if np.isfinite(n.error) else None} for n in self.nodes]
        first = self.first
        return {
            "first": first.name if first else None,
            "first_choice": self.choice.name if self.choice else None,
            "tolerance": self.tolerance,
            "nodes": rows,
            "total": self.total,
        }


def bisect(
    reference: DeployModule, model: ModelProto, precision: Precision, frame: NDArray[np.uint8]
) -> Bisection:
    """Compare the values of an exported graph with those of PyTorch on a frame.

    Args:
        reference: the network in float32.
        model: the graph, for batch size 1.
        precision: of the graph.
        frame: network input [H, W, 3] uint8 BGR.

    Raises:
        UsageError: ONNX Runtime does not run the precision.
    """
    if precision not in TOLERANCES:
        raise UsageError(
            f"--bisect with {precision}",
            expected=f"one of {', '.join(TOLERANCES)}, which ONNX Runtime runs",
            got=precision,
        )
    frames = np.ascontiguousarray(frame)[None]
    expected = _pytorch_values(reference, frames)
    values = _onnx_values(model, frames, expected)
    tolerance = TOLERANCES[precision]
    errors: list[NodeError] = []
    different: set[str] = set()  # values that explain differences of the nodes that read them
    for node in model.graph.node:
        explained = not different.isdisjoint(node.input)
        for name in node.output:
            a, b = expected.get(name), values.get(name)
            if a is None or b is None or a.shape != b.shape:
                if explained:
                    different.add(name)
                continue
            discrete = a.dtype.kind != "f"
            error = relative_error(a, b)
            errors.append(NodeError(node.name, node.op_type, name, _layer(node), error, discrete, explained))
            if error > (0 if discrete else tolerance / GROWTH):
                different.add(name)
    return Bisection(tuple(errors), tolerance, len(model.graph.node))


def _limit(node: NodeError, tolerance: float) -> float:
    if node.op_type == "TopK" and node.discrete:
        return 1.0  # the order of nearly equal scores
    return MAX_CHOICES if node.discrete else tolerance


def relative_error(expected: NDArray[Any], got: NDArray[Any]) -> float:
    """See :attr:`NodeError.error`."""
    if not expected.size:
        return 0.0
    if expected.dtype.kind != "f" or got.dtype.kind != "f":
        return float(np.mean(expected != got))
    a, b = expected.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    if not finite.any():
        return 0.0
    a, b = a[finite], b[finite]
    difference, size = (float(np.sqrt(np.mean(v**2))) for v in (a - b, a))
    return difference / size if size else float(difference > 0)


def _layer(node: NodeProto) -> str:
    weights = [name for name in node.input if ".weight" in name]
    return weights[0].partition(".weight")[0] if weights else ""


class _Recorder(fx.Interpreter):
    """Keeps the tensors that a program computes, by the name of the node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, NDArray[Any]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """See fx.Interpreter."""
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and n.op == "call_function":
            self.values[n.name] = (
                value.detach().float().numpy().copy() if _is_low(value) else value.numpy().copy()
            )
        return value


def _is_low(value: torch.Tensor) -> bool:
    return value.dtype == torch.bfloat16


def _pytorch_values(module: DeployModule, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    program = pytorch_program(module)
    recorder = _Recorder(program.module())
    with torch.no_grad():
        recorder.run(torch.from_numpy(frames))
    return recorder.values


def _onnx_values(
    model: ModelProto, frames: NDArray[np.uint8], expected: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    shown = ModelProto()
    shown.CopyFrom(model)
    described = {value.name: value for value in model.graph.value_info}
    present = {output.name for output in shown.graph.output}
    shown.graph.output.extend(
        ValueInfoProto(name=name, type=described[name].type if name in described else None)
        for name in _compared(model, expected)
        if name not in present
    )
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT_NAME: frames}), strict=True))


def _compared(model: ModelProto, expected: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    # Conversions of types are counted in both, and are not the same ones.
    names = (name for node in model.graph.node for name in node.output)
    return (n for n in names if n in expected and not n.startswith("_to_copy"))

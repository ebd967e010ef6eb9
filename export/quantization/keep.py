# SPDX-License-Identifier: Apache-2.0
"""Which layers of an int8 or fp8 export stay in float16 beyond the usual ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fnmatch import fnmatchcase
from itertools import islice

from imp_trt.artifacts.manifest import Manifest
from imp_trt.backends.pytorch import PyTorchBackend
from imp_trt.errors import UsageError
from imp_trt.export.manifests import onnx_manifest
from imp_trt.export.options import AUTO
from imp_trt.export.plan import ExportPlan
from imp_trt.export.quantization.lowering import Lowered
from imp_trt.export.quantization.quantize import quantized_layers
from imp_trt.export.quantization.sensitivity import LayerCost, layer_costs
from imp_trt.export.verification.compare import Candidate, compare
from imp_trt.export.verification.gates import ONNXRUNTIME
from imp_trt.models.deploy import DeployModule
from imp_trt.models.network import ImpNetwork
from imp_trt.preprocessing.letterbox import LetterboxTransform

FRAMES = 4
"""Verification frames on which the layers' costs are measured."""

NAMED = 5
"""Layers that an error names."""

_log = logging.getLogger(__name__)


def keep_float16(
    plan: ExportPlan, lowered: Lowered, network: ImpNetwork, reference: PyTorchBackend
) -> Lowered:
    """The network with the layers in float16 that the options ask for.

    Raises:
        UsageError: a pattern matches no layer.
    """
    wanted = plan.options.keep_float16
    if wanted is None or lowered.unquantized is None:
        return lowered
    layers = quantized_layers(lowered.unquantized, lowered.precision)
    if wanted != AUTO:
        return lowered.keep(matching(wanted, layers))
    if _passes(plan, lowered, reference):
        return lowered
    ranked = [cost.layer for cost in ranking(plan, lowered, network, reference.manifest)]
    count = fewest(len(ranked), lambda k: _passes(plan, lowered.keep(ranked[:k]), reference))
    _log.info("%d of %d layers stay in float16: %s", count, len(ranked), ", ".join(ranked[:count]))
    return lowered.keep(ranked[:count])


def matching(patterns: str, layers: list[str]) -> list[str]:
    """Layers that one of the patterns names, by its whole name, a prefix before a dot, or wildcards."""
    found: list[str] = []
    for pattern in map(str.strip, patterns.split(",")):
        names = [n for n in layers if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
        if not names:
            raise UsageError(
                f"--keep-float16 {pattern}",
                expected=f"quantized layers: {', '.join(layers)}",
                got="none of them",
            )
        found += names
    return list(dict.fromkeys(found))


def fewest(total: int, passes: Callable[[int], bool]) -> int:
    """The smallest count from 1 to total that passes, if more are never worse; total if none does."""
    high = 1
    while high < total and not passes(high):
        high *= 2
    low, high = high // 2, min(high, total)  # low does not pass
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def ranking(plan: ExportPlan, lowered: Lowered, network: ImpNetwork, manifest: Manifest) -> list[LayerCost]:
    """The quantized layers, the one that costs most first."""
    if lowered.unquantized is None or lowered.ranges is None:
        return []
    module = DeployModule(network, plan.options.nms_iterations).eval()
    loaded = islice(plan.frames.load(manifest.classes), FRAMES)
    frames = [
        LetterboxTransform.of((image.shape[0], image.shape[1]), manifest.input).apply(image)
        for image, _ in loaded
    ]
    layers = quantized_layers(lowered.unquantized, lowered.precision)
    costs = layer_costs(
        module,
        [layer for layer in layers if layer not in lowered.kept],
        lowered.precision,
        lowered.ranges,
        frames,
        lambda done, total: plan.progress("layers", done, total),
    )
    return sorted(costs, key=lambda cost: -cost.share(plan.gate))


def advice(plan: ExportPlan, lowered: Lowered, network: ImpNetwork, manifest: Manifest) -> str:
    """For the error of a failed gate: the layers that cost most, and how to keep them in float16."""
    costliest = ranking(plan, lowered, network, manifest)[:NAMED]
    if not costliest:
        return ""
    return (
        f"the layers that cost most, each alone: {', '.join(map(str, costliest))}; --keep-float16 auto keeps "
        f"as few in float16 as the gate allows, --keep-float16 {costliest[0].layer} those that you name; or "
    )


def _passes(plan: ExportPlan, lowered: Lowered, reference: PyTorchBackend) -> bool:
    manifest = onnx_manifest(plan, lowered.model, reference.manifest)
    payload = lowered.model.SerializeToString(deterministic=True)
    candidate = Candidate(ONNXRUNTIME, payload, manifest, lowered.module)
    agreement = compare(reference, candidate, plan.frames, plan.progress).agreement
    failures = agreement.failures(plan.gate)
    _log.info("%d more layers in float16: %s", len(lowered.kept), "; ".join(failures) or "passed")
    return not failures

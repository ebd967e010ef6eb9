# SPDX-License-Identifier: Apache-2.0
"""The manifests of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import imp_trt
from imp_trt.artifacts.manifest import Manifest
from imp_trt.backends.onnxruntime_import import import_onnxruntime
from imp_trt.cuda.platform import Gpu
from imp_trt.export.plan import ExportPlan
from imp_trt.export.tensorrt.engine import BuiltEngine
from imp_trt.export.verification.gates import ENGINE, Agreement

if TYPE_CHECKING:
    from onnx import ModelProto


def onnx_manifest(plan: ExportPlan, model: ModelProto, reference: Manifest) -> Manifest:
    """Manifest of the graph as an ONNX artifact, not verified yet.

    Args:
        plan: of the export.
        model: the graph.
        reference: manifest of the checkpoint.
    """
    # Devices have none of these, and need the other functions of this module.
    import onnx
    import torch

    from imp_trt.export.onnx.from_model import operators_of

    verification: dict[str, object] = {"verified_on": None, "skipped": "by request (--no-verify)"}
    if plan.calibration is not None:
        images = len(plan.calibration.paths())
        verification["calibration"] = f"{images} images of {plan.calibration.folder.name}"
    return replace(
        reference,
        kind="onnx",
        input=replace(reference.input, batch=plan.options.batch),
        outputs=(),
        precision=plan.options.precision,
        target=plan.target.name,
        ops=operators_of(model),
        opset=next(o.version for o in model.opset_import if o.domain == ""),
        producer={
            "imp_trt": imp_trt.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": import_onnxruntime().__version__,
        },
        verification=verification,
    )


def engine_manifest(engine: BuiltEngine, manifest: Manifest) -> Manifest:
    """Manifest of an engine built from the graph with this manifest."""
    return replace(
        manifest,
        kind="engine",
        engine=engine.info,
        producer={**manifest.producer, engine.info.backend: engine.info.version},
        verification={**manifest.verification, "layer_precisions_from": engine.types_from},
    )


def verification_entry(
    plan: ExportPlan, manifest: Manifest, verified_on: str, agreement: Agreement
) -> dict[str, object]:
    """The manifest's "verification": what was compared, on which frames, and the agreement."""
    entry: dict[str, object] = {
        **manifest.verification,
        "verified_on": verified_on,
        "against": "pytorch fp32",
        "source": plan.frames.description,
        **agreement.to_dict(plan.gate),
    }
    entry.pop("skipped")
    return entry


def benchmark_entry(plan: ExportPlan, verified_on: str, times: Mapping[str, object]) -> dict[str, object]:
    """The manifest's "benchmark": times, with the GPU's name if an engine ran."""
    gpu = plan.platform.gpu
    if verified_on == ENGINE and isinstance(gpu, Gpu):
        return {**times, "machine": f"{gpu.name}, {times['machine']}"}
    return dict(times)

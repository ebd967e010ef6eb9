# SPDX-License-Identifier: Apache-2.0
"""The canvas part of an export: its graph, its engine, and its entry in the manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imp_trt.artifacts.artifact import Artifact
from imp_trt.artifacts.canvas_part import CanvasPart
from imp_trt.artifacts.manifest import Manifest
from imp_trt.errors import UsageError
from imp_trt.export.plan import ExportPlan
from imp_trt.export.tensorrt.engine import BuiltEngine, make_engine

if TYPE_CHECKING:
    from imp_trt.export.quantization.lowering import Lowered
    from imp_trt.models.config import ModelConfig


@dataclass(frozen=True, eq=False)
class ExportedPart:
    """The canvas part of an export, in memory.

    Attributes:
        graph: the ONNX file.
        engine: the engine, or None.
        entry: for the manifest of the graph, without an engine.
    """

    graph: bytes
    engine: BuiltEngine | None
    entry: CanvasPart

    @property
    def payload(self) -> bytes:
        """Bytes of the artifact's second file."""
        return self.graph if self.engine is None else self.engine.plan

    def in_manifest(self, manifest: Manifest, verification: dict[str, object]) -> Manifest:
        """The manifest of the graph or of the engine with this part in it."""
        engine = self.engine.info if self.engine is not None and manifest.kind == "engine" else None
        return replace(manifest, canvas_part=replace(self.entry, engine=engine, verification=verification))


def check_parts(config: ModelConfig) -> None:
    """UsageError unless the network has a canvas part."""
    from imp_trt.models.deploy import has_canvas_part

    if not has_canvas_part(config):
        raise UsageError(
            "--parts",
            expected="a network with IMP whose semantic head reads features and canvas",
            got=f"{'IMP' if config.imp else 'no IMP'}, semantic head {config.semantic_head!r}",
            fix="leave it out",
        )


def export_part(plan: ExportPlan, lowered: Lowered) -> ExportedPart:
    """Lower the canvas part as the whole network was, and build its engine for an engine target."""
    from imp_trt.export.onnx.class_map import without_argmax
    from imp_trt.export.quantization.lowering import lower_canvas
    from imp_trt.models.deploy import CanvasModule

    batch = plan.options.batch
    model = lower_canvas(lowered, batch)
    shape = CanvasModule(lowered.module).canvas_shape(batch)
    if plan.target.backend == "onnxruntime":
        return ExportedPart(model.SerializeToString(deterministic=True), None, CanvasPart(shape))
    model = without_argmax(model)
    options = plan.options
    engine = make_engine(model, options.precision, plan.target, options.engine, plan.platform, plan.progress)
    return ExportedPart(model.SerializeToString(deterministic=True), engine, CanvasPart(shape))


def part_from_onnx(source: Artifact, plan: ExportPlan) -> ExportedPart | None:
    """The engine of the canvas part of an ONNX artifact; None if it has none."""
    entry = source.manifest.canvas_part
    if entry is None or source.canvas is None:
        return None
    options = plan.options
    engine = make_engine(
        source.canvas, options.precision, plan.target, options.engine, plan.platform, plan.progress
    )
    return ExportedPart(source.canvas, engine, CanvasPart(entry.shape))

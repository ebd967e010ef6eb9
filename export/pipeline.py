# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a verified artifact: load, lower, build, verify, and then write."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from onnx import ModelProto

from imp_trt.artifacts.artifact import manifest_path, read_manifest, write_artifact
from imp_trt.artifacts.manifest import Manifest
from imp_trt.backends.preflight import problems
from imp_trt.backends.pytorch import PyTorchBackend
from imp_trt.data.files import write_atomically
from imp_trt.export.manifests import (
    benchmark_entry,
    engine_manifest,
    onnx_manifest,
    verification_entry,
)
from imp_trt.export.onnx.class_map import without_argmax
from imp_trt.export.onnx.functions import without_functions
from imp_trt.export.options import ExportOptions, options_of
from imp_trt.export.plan import ExportPlan, make_plan
from imp_trt.export.progress import Progress, silent
from imp_trt.export.quantization.lowering import RUNS_ON_ONNXRUNTIME, Lowered, lower
from imp_trt.export.tensorrt.engine import Engine, make_engine
from imp_trt.export.verification.compare import (
    ENGINE,
    ONNXRUNTIME,
    PYTORCH,
    Candidate,
    compare,
)
from imp_trt.export.verification.gates import Agreement, enforce
from imp_trt.models.checkpoint import read_checkpoint
from imp_trt.models.network import ImpNetwork

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    Attributes:
        path: the artifact.
        manifest: its manifest, including the results of the verification.
        seconds: duration.
        also: other files that were written (``keep_onnx``, ``function_free``).
        not_run_reason: why the engine itself was not run on this machine; empty if it was, or if there is
            none.
    """

    path: Path
    manifest: Manifest
    seconds: float
    also: tuple[Path, ...] = ()
    not_run_reason: str = ""

    @property
    def not_here(self) -> str:
        """Deprecated: use not_run_reason."""
        warnings.warn(
            "ExportReport.not_here is deprecated, use ExportReport.not_run_reason",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.not_run_reason

    @property
    def graph_only(self) -> bool:
        """Whether an engine's graph was verified and the engine itself was not."""
        verified_on = self.manifest.verification.get("verified_on")
        return self.manifest.kind == "engine" and verified_on not in (None, ENGINE)

    def to_dict(self) -> dict[str, object]:
        """Data for JSON."""
        engine = self.manifest.to_dict()["engine"]
        return {
            "artifact": str(self.path),
            "manifest": f"{self.path}.json",
            "also": [str(path) for path in self.also],
            "precision": self.manifest.precision,
            "target": self.manifest.target,
            "engine": engine,
            "verification": dict(self.manifest.verification),
            "benchmark": dict(self.manifest.benchmark),
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True, eq=False)
class Exported:
    """The exported network, in memory.

    Attributes:
        model: the typed graph, with the function bodies of its operators.
        graph: model, serialized.
        onnx_manifest: manifest of the graph as an ONNX artifact.
        engine: the engine, or None.
        manifest: of the artifact: the engine's, else onnx_manifest.
        not_run_reason: why the engine cannot run on this machine, or empty.
    """

    model: ModelProto
    graph: bytes
    onnx_manifest: Manifest
    engine: Engine | None
    manifest: Manifest
    not_run_reason: str = ""

    @property
    def payload(self) -> bytes:
        """Bytes of the artifact."""
        return self.graph if self.engine is None else self.engine.plan


@overload
def export_model(
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str] = ...,
    options: ExportOptions | None = ...,
    *,
    progress: Progress | None = ...,
) -> ExportReport: ...


@overload
def export_model(
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str] = ...,
    *positional: object,
    progress: Progress | None = ...,
    **keywords: object,
) -> ExportReport: ...


def export_model(
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str] = ".",
    *positional: object,
    progress: Progress | None = None,
    **keywords: object,
) -> ExportReport:
    """Export a checkpoint to an artifact (engine or ONNX file) and verify it against PyTorch.

    The weights are read once. Both networks get the same frames, resizing included. Nothing is written
    before every gate has passed. If an engine cannot run on this machine, its graph is verified in ONNX
    Runtime, or in PyTorch for types that ONNX Runtime lacks; the manifest records this.

    Args:
        weights: checkpoint (.safetensors, .pt).
        output: a folder, in which the file is named ``<weights>.<precision>.onnx`` or
            ``<weights>.<precision>.<target>.engine``; or a file name with one of these suffixes.
        options: what to export; None means ``ExportOptions()``: float32 for the best target of this
            machine. Arguments in the form of version 0.1 (precision, target, frames and batch as
            positional arguments, the rest as keywords) are deprecated.
        progress: called with the progress of the work.

    Raises:
        UsageError: the combination of precision, target and options is not supported.
        DependencyMissing: the target's builder or its GPU is missing, or its plugins do not run on that
            GPU.
        CheckpointError: the weights are missing or damaged.
        SourceError: a folder of frames is missing or empty.
        ExportError: the network cannot be exported.
        BuildError: TensorRT cannot build the graph.
        PrecisionError: the engine has another precision.
        VerificationError: a gate failed.
        OutputError: the output cannot be written.
    """
    start = time.perf_counter()
    plan = make_plan(Path(weights), Path(output), options_of(positional, keywords), progress or silent)
    checkpoint = read_checkpoint(plan.weights)
    reference = PyTorchBackend.of(checkpoint, "cpu")
    lowered = _lower(plan, checkpoint.network)
    exported = _build(plan, lowered, reference.manifest)
    if reference.manifest.terms:
        _log.warning("%s: %s", plan.weights, reference.manifest.terms)
    if plan.options.verify:
        exported = _verify(plan, lowered, exported, reference)
    return replace(_write(plan, exported), seconds=time.perf_counter() - start)


def export_onnx(
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str] = ".",
    *positional: object,
    progress: Progress | None = None,
    **keywords: object,
) -> ExportReport:
    """:func:`export_model` to an ONNX artifact; the same arguments, but the options' target is ignored."""
    options = replace(options_of(positional, keywords), target="onnxruntime")
    return export_model(weights, output, options, progress=progress)


def _lower(plan: ExportPlan, network: ImpNetwork) -> Lowered:
    options = plan.options
    return lower(
        network,
        options.precision,
        options.batch,
        options.nms_iterations,
        plan.calibration,
        plan.progress,
    )


def _build(plan: ExportPlan, lowered: Lowered, reference: Manifest) -> Exported:
    """The serialized graph and, for an engine target, the engine."""
    for_tensorrt = plan.target.backend != "onnxruntime"
    model = without_argmax(lowered.model) if for_tensorrt else lowered.model
    onnx = onnx_manifest(plan, model, reference)
    graph = model.SerializeToString(deterministic=True)
    if not for_tensorrt:
        return Exported(model, graph, onnx, None, onnx)
    options = plan.options
    engine = make_engine(model, options.precision, plan.target, options.engine, plan.platform, plan.progress)
    manifest = engine_manifest(engine, onnx)
    found = problems(manifest, engine.header, plan.platform)
    reason = f"{found[0].what}: {found[0].got}" if found else ""
    return Exported(model, graph, onnx, engine, manifest, reason)


def _verify(plan: ExportPlan, lowered: Lowered, exported: Exported, reference: PyTorchBackend) -> Exported:
    """Compares the export, or its closest form that runs on this machine, with PyTorch.

    Returns:
        The export with the results in its manifests.

    Raises:
        VerificationError: a gate failed.
    """
    candidate = _candidate(plan, lowered, exported)
    agreement, times = compare(reference, candidate, plan.frames, plan.progress)
    enforce(agreement, plan.options.precision)
    _warn_without_instances(exported.manifest, agreement)
    verification = verification_entry(plan, exported.manifest, candidate.verified_on, agreement)
    manifest = replace(exported.manifest, verification=verification)
    if candidate.payload is exported.payload:
        manifest = replace(manifest, benchmark=benchmark_entry(plan, candidate.verified_on, times))
    return replace(
        exported, manifest=manifest, onnx_manifest=replace(exported.onnx_manifest, verification=verification)
    )


def _candidate(plan: ExportPlan, lowered: Lowered, exported: Exported) -> Candidate:
    """The export, or its closest form that runs on this machine."""
    if exported.engine is not None and not exported.not_run_reason:
        return Candidate(ENGINE, exported.engine.plan, exported.manifest, lowered.module)
    if plan.options.precision in RUNS_ON_ONNXRUNTIME:
        return Candidate(ONNXRUNTIME, exported.graph, exported.onnx_manifest, lowered.module)
    return Candidate(PYTORCH, b"", exported.onnx_manifest, lowered.module)


def _warn_without_instances(manifest: Manifest, agreement: Agreement) -> None:
    if manifest.detections and not agreement.reference:
        _log.warning(
            "the network detects no instance on the verification frames, so only class maps were "
            "compared: pass images like its training data with --frames"
        )


def _write(plan: ExportPlan, exported: Exported) -> ExportReport:
    writes: dict[Path, Callable[[], object]] = {}
    if plan.options.function_free:
        stripped = without_argmax(without_functions(exported.model))
        stripped_path = plan.path.with_suffix(".function-free.onnx")
        writes[stripped_path] = lambda: write_atomically(
            stripped_path, stripped.SerializeToString(deterministic=True)
        )
    if exported.engine is not None and plan.options.engine.keep_onnx:
        kept = plan.path.with_suffix(".onnx")
        writes[kept] = lambda: write_artifact(kept, exported.graph, exported.onnx_manifest)
    writes[plan.path] = lambda: write_artifact(plan.path, exported.payload, exported.manifest)
    _write_all(writes)
    return ExportReport(plan.path, read_manifest(plan.path), 0.0, tuple(writes)[:-1], exported.not_run_reason)


def _write_all(writes: Mapping[Path, Callable[[], object]]) -> None:
    """Write files in order; if one fails, delete those that did not exist before."""
    new = []
    try:
        for path, write in writes.items():
            if not path.exists():
                new.append(path)
            write()
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
            manifest_path(path).unlink(missing_ok=True)
        raise

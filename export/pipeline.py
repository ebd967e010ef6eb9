# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a verified artifact: load, lower, build, verify, and then write."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import overload

from onnx import ModelProto

from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.reading import read_manifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends.preflight import problems
from imp_trt.backends.pytorch import PyTorchBackend
from imp_trt.data.files import write_atomically
from imp_trt.errors import ImpTrtError, InvalidInput, UsageError, printable
from imp_trt.export.manifests import (
    benchmark_entry,
    engine_manifest,
    onnx_manifest,
    verification_entry,
)
from imp_trt.export.onnx.class_map import without_argmax
from imp_trt.export.onnx.functions import without_functions
from imp_trt.export.options import ExportOptions, options_of
from imp_trt.export.parts import ExportedPart, check_parts, export_part
from imp_trt.export.plan import ExportPlan, make_plan
from imp_trt.export.progress import Progress, silent
from imp_trt.export.quantization.calibration_frames import CalibrationFrames
from imp_trt.export.quantization.keep import advice, keep_float16
from imp_trt.export.quantization.lowering import RUNS_ON_ONNXRUNTIME, Lowered, Ranges, calibrate, lower
from imp_trt.export.report import ExportReport as ExportReport
from imp_trt.export.tensorrt.engine import BuiltEngine, check_adaptive, make_engine
from imp_trt.export.verification.bisect import Bisection, bisect
from imp_trt.export.verification.compare import Candidate, compare
from imp_trt.export.verification.frames import VerificationFrames
from imp_trt.export.verification.gates import ENGINE, GATES, ONNXRUNTIME, PYTORCH, Agreement, enforce
from imp_trt.models.checkpoint import read_checkpoint
from imp_trt.models.config import NMS_ITERATIONS
from imp_trt.models.deploy import DeployModule
from imp_trt.models.network import ImpNetwork
from imp_trt.preprocessing.letterbox import LetterboxTransform

_log = logging.getLogger(__name__)


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
        golden: content of the file of golden frames; None if nothing was verified.
        part: the canvas part, or None.
    """

    model: ModelProto
    graph: bytes
    onnx_manifest: Manifest
    engine: BuiltEngine | None
    manifest: Manifest
    not_run_reason: str = ""
    golden: bytes | None = None
    part: ExportedPart | None = None

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
        OutputError: a file cannot be written; the message names those that are complete.
    """
    plan = make_plan(Path(weights), Path(output), options_of(positional, keywords), progress or silent)
    return export_plans([plan])[0]


def export_plans(plans: Sequence[ExportPlan]) -> list[ExportReport]:
    """Export one checkpoint in several ways, for example precisions.

    The weights are read and calibrated once. Nothing is written before all exports have passed their gates.
    Every artifact is written completely or not at all; if one cannot be written, those before it stay.

    Args:
        plans: at least one, of the same checkpoint, with different paths.

    Returns:
        One report for each plan. Raises as :func:`export_model`.
    """
    start = time.perf_counter()
    weights = plans[0].weights
    checkpoint = read_checkpoint(weights)
    reference = PyTorchBackend.of(checkpoint, "cpu")
    if reference.manifest.terms:
        _log.warning("%s: %s", weights, printable(reference.manifest.terms))
    for plan in plans:
        _check_batch(plan.options.batch, reference.manifest)
    config = checkpoint.network.config
    if any(plan.options.parts for plan in plans):
        check_parts(config)
    if config.detector and config.detector_config.roi_samples == 0:
        for plan in plans:
            check_adaptive(plan.target, plan.options.engine)
    _warn_of_frames(plans, reference.manifest)
    _warn_of_detector_options(plans, reference.manifest)
    ranges = _shared_ranges(plans, checkpoint.network)
    exports = []
    for plan in plans:
        lowered = _lower(plan, checkpoint.network, ranges)
        lowered = keep_float16(plan, lowered, checkpoint.network, reference)
        exported = _build(plan, lowered, reference.manifest)
        if plan.options.parts:
            exported = _with_part(exported, export_part(plan, lowered))
        if plan.options.verify:
            exported = _verify(plan, lowered, exported, reference, checkpoint.network)
        exports.append(exported)
    reports = _write(list(zip(plans, exports, strict=True)))
    seconds = time.perf_counter() - start
    return [replace(report, seconds=seconds) for report in reports]


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


def bisect_export(plan: ExportPlan) -> Bisection:
    """Compare an export with PyTorch node by node, on the first verification frame; nothing is written.

    Raises:
        UsageError: ONNX Runtime does not run the precision, or the batch size is not 1.
    """
    if plan.options.batch != 1:
        raise UsageError("--bisect", expected="--batch 1", got=plan.options.batch)
    checkpoint = read_checkpoint(plan.weights)
    reference = PyTorchBackend.of(checkpoint, "cpu")
    manifest = reference.manifest
    lowered = keep_float16(plan, _lower(plan, checkpoint.network, None), checkpoint.network, reference)
    image, _ = next(plan.frames.load(manifest.classes))
    frame = LetterboxTransform.of((image.shape[0], image.shape[1]), manifest.input).apply(image)
    module = DeployModule(checkpoint.network, plan.options.nms_iterations).eval()
    return bisect(module, lowered.model, plan.options.precision, frame)


def _shared_ranges(plans: Sequence[ExportPlan], network: ImpNetwork) -> Ranges | None:
    """The ranges of activations, if more than one of the exports needs them."""
    quantized = [(plan, plan.calibration) for plan in plans if plan.calibration is not None]
    if len(quantized) < 2:
        return None
    plan, calibration = quantized[0]
    return calibrate(network, plan.options.nms_iterations, calibration, plan.progress)


def _lower(plan: ExportPlan, network: ImpNetwork, ranges: Ranges | None) -> Lowered:
    options = plan.options
    arguments = (options.precision, options.batch, options.nms_iterations, plan.calibration, plan.progress)
    return lower(network, *arguments) if ranges is None else lower(network, *arguments, ranges)


def _check_batch(batch: int, reference: Manifest) -> None:
    """UsageError for a batch that no manifest may have, before the network is exported."""
    try:
        replace(reference, input=replace(reference.input, batch=batch), outputs=())
    except InvalidInput as error:
        raise UsageError(f"--batch {batch}", expected=error.expected, got=error.got) from error


def _build(plan: ExportPlan, lowered: Lowered, reference: Manifest) -> Exported:
    """The serialized graph and, for an engine target, the engine."""
    for_tensorrt = plan.target.backend != "onnxruntime"
    model = without_argmax(lowered.model) if for_tensorrt else lowered.model
    onnx = onnx_manifest(plan, model, reference)
    if lowered.kept:
        onnx = replace(onnx, verification={**onnx.verification, "kept_float16": list(lowered.kept)})
    graph = model.SerializeToString(deterministic=True)
    if not for_tensorrt:
        return Exported(model, graph, onnx, None, onnx)
    options = plan.options
    engine = make_engine(model, options.precision, plan.target, options.engine, plan.platform, plan.progress)
    manifest = engine_manifest(engine, onnx)
    found = problems(manifest, engine.header, plan.platform)
    reason = f"{found[0].what}: {found[0].got}" if found else ""
    return Exported(model, graph, onnx, engine, manifest, reason)


def _with_part(exported: Exported, part: ExportedPart) -> Exported:
    skipped: dict[str, object] = {"verified_on": None, "skipped": "by request (--no-verify)"}
    return replace(
        exported,
        part=part,
        manifest=part.in_manifest(exported.manifest, skipped),
        onnx_manifest=part.in_manifest(exported.onnx_manifest, skipped),
    )


def _verify(
    plan: ExportPlan, lowered: Lowered, exported: Exported, reference: PyTorchBackend, network: ImpNetwork
) -> Exported:
    """Compares the export, or its closest form that runs on this machine, with PyTorch.

    Returns:
        The export with the results in its manifests.

    Raises:
        VerificationError: a gate failed.
    """
    candidate = _candidate(plan, lowered, exported)
    compared = compare(reference, candidate, plan.frames, plan.progress)
    agreement = compared.agreement
    help_with_layers = ""
    if agreement.failures(plan.gate) and not agreement.unconverged:
        help_with_layers = advice(plan, lowered, network, reference.manifest)
    enforce(agreement, plan.options.precision, plan.gate, help_with_layers)
    if compared.golden is not None:
        enforce(compared.golden_agreement, plan.options.precision, plan.gate)
    _warn_without_instances(exported.manifest, agreement)
    part = exported.part
    if part is not None:
        compared.canvas.enforce(plan.options.precision, plan.gate)
        entry = compared.canvas.to_dict(candidate.verified_on, plan.gate)
        exported = replace(
            exported,
            manifest=part.in_manifest(exported.manifest, entry),
            onnx_manifest=part.in_manifest(exported.onnx_manifest, entry),
        )
    verification = verification_entry(plan, exported.manifest, candidate.verified_on, agreement)
    manifest = replace(exported.manifest, verification=verification)
    if candidate.payload is exported.payload:
        benchmark = benchmark_entry(plan, candidate.verified_on, compared.benchmark)
        manifest = replace(manifest, benchmark=benchmark)
    return replace(
        exported,
        manifest=manifest,
        onnx_manifest=replace(exported.onnx_manifest, verification=verification),
        golden=compared.golden,
    )


def _candidate(plan: ExportPlan, lowered: Lowered, exported: Exported) -> Candidate:
    """The export, or its closest form that runs on this machine."""
    part = exported.part
    if exported.engine is not None and not exported.not_run_reason:
        canvas = None if part is None else part.payload
        return Candidate(ENGINE, exported.engine.plan, exported.manifest, lowered.module, canvas)
    canvas = None if part is None else part.graph
    if plan.options.precision in RUNS_ON_ONNXRUNTIME:
        return Candidate(ONNXRUNTIME, exported.graph, exported.onnx_manifest, lowered.module, canvas)
    return Candidate(PYTORCH, b"", exported.onnx_manifest, lowered.module, canvas)


def _warn_of_frames(plans: Sequence[ExportPlan], reference: Manifest) -> None:
    verified = [plan.frames for plan in plans if plan.options.verify]
    if verified and (unlike := verified[0].unlike(reference.classes)):
        _log.warning("verification frames: %s", unlike)
    if verified:
        _warn_of_copies(verified[0], [plan.calibration for plan in plans if plan.options.verify])
    for plan in plans:
        gate, default = plan.gate, GATES[plan.options.precision]
        other = plan.options.verify and gate.miou_drop != default.miou_drop
        if other and not plan.frames.has_ground_truth(reference.classes):
            _log.warning(
                "the gate for mIoU has no effect: only synthetic street scenes have ground truth, and only "
                "for a network of their classes. imp-eval measures the mIoU of an artifact on a dataset"
            )
            return


def _warn_of_detector_options(plans: Sequence[ExportPlan], reference: Manifest) -> None:
    """Warn of options about a detector that the network does not have."""
    if reference.detections:
        return
    idle = {"--nms-iterations" for plan in plans if plan.options.nms_iterations != NMS_ITERATIONS}
    for plan in plans:
        if plan.options.verify and plan.gate.instances != GATES[plan.options.precision].instances:
            idle.add("the gate for instances")
    if idle:
        _log.warning("%s: without effect, since the network has no detector", ", ".join(sorted(idle)))


def _warn_of_copies(frames: VerificationFrames, calibrations: Sequence[CalibrationFrames | None]) -> None:
    """Warn of verification frames that are all alike, or those of the calibration."""
    images = frames.digests()
    if not images:
        return
    different = len(set(images))
    if len(images) > 1 and 2 * different <= len(images):
        _log.warning(
            "only %d different ones among %d verification frames in %s: they show little of how the "
            "networks agree on others",
            *(different, len(images), frames.folder),
        )
    calibration = next((found for found in calibrations if found is not None), None)
    measured = set() if calibration is None else set(calibration.digests())
    shared = sum(image in measured for image in images)
    if 2 * shared >= len(images):
        _log.warning(
            "verification frames: %d of %d images are calibration frames too, whose ranges fit them. Name "
            "other images of the application with --frames",
            *(shared, len(images)),
        )


def _warn_without_instances(manifest: Manifest, agreement: Agreement) -> None:
    if manifest.detections and not agreement.reference:
        _log.warning(
            "the network detects no instance on the verification frames, so only class maps were "
            "compared: pass images like its training data with --frames"
        )


def _write(exports: Sequence[tuple[ExportPlan, Exported]]) -> list[ExportReport]:
    writes: dict[Path, Callable[[], object]] = {}
    also = []
    for plan, exported in exports:
        others = _other_files(plan, exported)
        also.append(tuple(others))
        canvas = None if exported.part is None else exported.part.payload
        artifact = partial(
            write_artifact, plan.path, exported.payload, exported.manifest, exported.golden, canvas
        )
        # The artifact first: without it the others are of no use.
        writes |= {plan.path: artifact, **others}
    _write_all(writes)
    return [
        ExportReport(plan.path, read_manifest(plan.path), 0.0, others, exported.not_run_reason)
        for (plan, exported), others in zip(exports, also, strict=True)
    ]


def _other_files(plan: ExportPlan, exported: Exported) -> dict[Path, Callable[[], object]]:
    writes: dict[Path, Callable[[], object]] = {}
    if plan.options.function_free:
        stripped = without_argmax(without_functions(exported.model))
        path = plan.path.with_suffix(".function-free.onnx")
        writes[path] = partial(write_atomically, path, stripped.SerializeToString(deterministic=True))
    if exported.engine is not None and plan.options.engine.keep_onnx:
        path = plan.path.with_suffix(".onnx")
        canvas = None if exported.part is None else exported.part.graph
        writes[path] = partial(
            write_artifact, path, exported.graph, exported.onnx_manifest, exported.golden, canvas
        )
    return writes


def _write_all(writes: Mapping[Path, Callable[[], object]]) -> None:
    """Write files in order, each completely or not at all; those before a failure stay, and are named."""
    written: list[str] = []
    try:
        for path, write in writes.items():
            write()
            written.append(str(path))
    except ImpTrtError as error:
        if not written:
            raise
        raise type(error)(
            f"{error.what} (already written: {', '.join(written)})",
            expected=error.expected,
            got=error.got,
            fix=error.fix,
        ) from error
    except BaseException:
        if written:
            _log.warning("written before the export ended: %s", printable(", ".join(written)))
        raise

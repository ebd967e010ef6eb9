"""From trained weights to a verified artifact: export, build, compare, and only then write."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

import imp_trt
from imp_trt.artifact import SUFFIXES, Manifest, manifest_path, read_manifest, write_artifact
from imp_trt.errors import ImpTrtError, OutputError, UsageError
from imp_trt.export.calibration import CalibrationFrames
from imp_trt.export.engine import Engine, make_engine, producer, wants_plugin
from imp_trt.export.frames import MIN_FRAMES, VerificationFrames
from imp_trt.export.functions import without_functions
from imp_trt.export.lowering import RUNS_ON_ONNXRUNTIME, Lowered, lower
from imp_trt.export.onnx_from_model import operators_of
from imp_trt.export.targets import (
    NEEDS_CALIBRATION,
    EngineOptions,
    Target,
    capabilities_for,
    check_target,
    default_target,
    find_target,
)
from imp_trt.export.verification import ENGINE, ONNXRUNTIME, PYTORCH, Candidate, compare
from imp_trt.export.verify import GATES, enforce
from imp_trt.files import write_atomically
from imp_trt.models.checkpoint import load_model
from imp_trt.models.nms import DEFAULT_PASSES
from imp_trt.platform_info import Gpu, Platform
from imp_trt.preflight import check_plugins, problems
from imp_trt.segmenter import Segmenter

_log = logging.getLogger(__name__)

_RTX_QUANTISED = (
    "NVIDIA documents int8 in TensorRT-RTX for weights only, and float8 for matrix products: the engine may "
    "be smaller and no faster than a float16 one (support matrices up to 1.5, release notes of 1.7)"
)

Progress = Callable[[str, int, int], None]
"""Called as the work goes on: stage (export, calibrate, parse, build, verify), steps done, steps in all."""


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: the artifact.
        manifest: its manifest, verification figures included.
        seconds: time it took.
        also: other files that were written (``keep_onnx``, ``function_free``).
        not_here: why the engine itself could not be run here; empty if it was, or if there is none.
    """

    path: Path
    manifest: Manifest
    seconds: float
    also: tuple[Path, ...] = ()
    not_here: str = ""

    @property
    def graph_only(self) -> bool:
        """Whether an engine's graph was verified and the engine itself was not."""
        where = self.manifest.verification.get("verified_on")
        return self.manifest.kind == "engine" and where not in (None, ENGINE)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
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


@dataclass(frozen=True)
class _Work:
    """What is settled before the long work begins."""

    weights: Path
    path: Path
    precision: str
    target: Target
    options: EngineOptions
    here: Platform
    frames: VerificationFrames
    calibration: CalibrationFrames | None
    batch: int
    report: Progress = field(repr=False)
    function_free: bool = False


def export_model(
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str] = ".",
    precision: str = "fp32",
    target: str | None = None,
    frames: str | os.PathLike[str] | None = None,
    batch: int = 1,
    verify: bool = True,
    frame_count: int = MIN_FRAMES,
    passes: int = DEFAULT_PASSES,
    calibration: str | os.PathLike[str] | None = None,
    options: EngineOptions | None = None,
    function_free: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a checkpoint to an artifact, an engine or an ONNX file, that was verified against PyTorch.

    Both networks see the same frames through a Segmenter each, resizing included. Nothing is written
    before every gate has passed. Where an engine cannot run on this machine, its graph is verified in
    ONNX Runtime, or in PyTorch where that lacks the type, and the manifest says so.

    Args:
        weights: checkpoint (.safetensors, .pt).
        output: a folder, in which the file is called ``<weights>.<precision>.onnx`` or
            ``<weights>.<precision>.<target>.engine``; or a file of that suffix.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8".
        target: name of a profile in :data:`imp_trt.export.targets.TARGETS`; None takes the best one here.
        frames: folder of images to verify on, filled up to frame_count with procedural scenes.
        batch: frames per network call, fixed in the file.
        verify: False writes the file unverified and says so in its manifest.
        frame_count: frames to verify on.
        passes: passes of each fixed-point NMS.
        calibration: folder of images; for int8 and fp8, and only for them.
        options: how to build an engine.
        function_free: also write ``<artifact's name>.function-free.onnx``, the ONNX file without the bodies
            of its operators, which runs only where their plugins are: for other programs with TensorRT
            below 10.7. It has no manifest: imp_trt runs the artifact.
        progress: called as the work goes on.

    Raises:
        UsageError: the combination of precision, target and options is impossible.
        DependencyMissing: the target's builder or its GPU is not here, or its plugins do not run on that GPU.
        CheckpointError: the weights are missing or damaged.
        SourceError: a folder of frames is missing or empty.
        ExportError: the network cannot be expressed in the exported graph.
        BuildError: TensorRT refuses or fails to build the graph.
        PrecisionError: the engine is not of the asked precision.
        VerificationError: a gate failed.
        OutputError: the output cannot be written.
    """
    start = time.perf_counter()
    work = _settle(
        weights, output, precision, target, frames, frame_count, batch, calibration, options, progress
    )
    work = replace(work, function_free=function_free)
    network, _ = load_model(work.weights)
    lowered = lower(network, precision, batch, passes, work.calibration, work.report)
    engine = None
    if work.target.backend != "onnxruntime":
        engine = make_engine(lowered.model, precision, work.target, work.options, work.here, work.report)
    report = _verify_and_write(work, lowered, engine, verify)
    return replace(report, seconds=time.perf_counter() - start)


def export_onnx(
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str] = ".",
    precision: str = "fp32",
    **rest: Any,
) -> ExportReport:
    """:func:`export_model` to an ONNX artifact."""
    return export_model(weights, output, precision, "onnxruntime", **rest)


def _settle(
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str],
    precision: str,
    target: str | None,
    frames: str | os.PathLike[str] | None,
    frame_count: int,
    batch: int,
    calibration: str | os.PathLike[str] | None,
    options: EngineOptions | None,
    progress: Progress | None,
) -> _Work:
    """Refuses what cannot be done before the long work begins."""
    here = Platform.detect()
    profile = find_target(target or _implied_target(Path(output)) or default_target(here))
    options = options or EngineOptions()
    check_target(profile, precision, options, calibration is not None, here)
    if calibration is not None and precision not in NEEDS_CALIBRATION:
        raise UsageError(
            f"precision {precision} takes no calibration frames", fix="leave --calib out, or --engine int8"
        )
    if options.timing_cache is not None:
        _check_writable(options.timing_cache, "timing cache", "choose another file")
    if profile.backend == "tensorrt-rtx" and precision in NEEDS_CALIBRATION:
        _log.warning(_RTX_QUANTISED)
    _check_plugins(profile, precision, options, here)
    chosen = VerificationFrames(None if frames is None else Path(frames), frame_count)
    chosen.check()
    return _Work(
        weights=Path(weights),
        path=_output_path(Path(weights), Path(output), precision, profile),
        precision=precision,
        target=profile,
        options=options,
        here=here,
        frames=chosen,
        calibration=None if calibration is None else CalibrationFrames(Path(calibration)),
        batch=batch,
        report=progress or (lambda stage, done, total: None),
    )


def _check_plugins(target: Target, precision: str, options: EngineOptions, here: Platform) -> None:
    """Refuses an engine for this GPU whose plugins would not run on it; one for other GPUs may be built."""
    if target.backend == "onnxruntime" or not wants_plugin(target, options) or options.plugin_library:
        return
    if target.backend == "tensorrt":
        check_plugins(here)
        return
    wanted = capabilities_for(target, precision, options) or target.capabilities
    if isinstance(here.gpu, Gpu) and here.gpu.compute_capability in wanted:
        try:
            check_plugins(here)
        except ImpTrtError as error:
            _log.warning("the engine will not run on this machine: %s", error)


def _verify_and_write(work: _Work, lowered: Lowered, engine: Engine | None, verify: bool) -> ExportReport:
    graph = lowered.model.SerializeToString(deterministic=True)
    with Segmenter(work.weights, "pytorch", device="cpu") as reference:
        onnx_manifest = _onnx_manifest(work, lowered, reference.manifest)
        manifest = onnx_manifest if engine is None else _engine_manifest(work, engine, onnx_manifest)
        payload = graph if engine is None else engine.plan
        not_here = "" if engine is None else _obstacle(manifest, engine, work.here)
        if verify:
            candidate = _candidate(work, lowered, manifest, onnx_manifest, payload, graph, not_here)
            agreement, times = compare(reference, candidate, work.frames, work.report)
            enforce(agreement, work.precision)
            if manifest.detections and not agreement.reference:
                _log.warning(
                    "the network finds no instance on the verification frames, so that only class maps were "
                    "compared: name images of what it was trained for with --frames"
                )
            figures = {
                **manifest.verification,
                "verified_on": candidate.verified_on,
                "against": "pytorch fp32",
                "source": work.frames.description,
                **agreement.to_dict(GATES[work.precision]),
            }
            figures.pop("skipped")
            onnx_manifest = replace(onnx_manifest, verification=figures)
            manifest = replace(manifest, verification=figures)
            if candidate.payload is payload:
                manifest = replace(manifest, benchmark=_on_gpu(times, work.here, candidate.verified_on))
    writes: dict[Path, Callable[[], object]] = {}
    if work.function_free:
        bare, bare_path = without_functions(lowered.model), work.path.with_suffix(".function-free.onnx")
        writes[bare_path] = lambda: write_atomically(bare_path, bare.SerializeToString(deterministic=True))
    if engine is not None and work.options.keep_onnx:
        kept = work.path.with_suffix(".onnx")
        writes[kept] = lambda: write_artifact(kept, graph, onnx_manifest)
    writes[work.path] = lambda: write_artifact(work.path, payload, manifest)
    _write_all(writes)
    return ExportReport(work.path, read_manifest(work.path), 0.0, tuple(writes)[:-1], not_here)


def _write_all(writes: Mapping[Path, Callable[[], object]]) -> None:
    """Write files in order; if one fails, those that were not there before go again."""
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


def _onnx_manifest(work: _Work, lowered: Lowered, reference: Manifest) -> Manifest:
    verification: dict[str, Any] = {"verified_on": None, "skipped": "by request (--no-verify)"}
    if work.calibration is not None:
        images = len(work.calibration.paths())
        verification["calibration"] = f"{images} images of {work.calibration.folder.name}"
    return replace(
        reference,
        kind="onnx",
        input=replace(reference.input, batch=work.batch),
        outputs=(),
        precision=work.precision,
        target=work.target.name,
        ops=operators_of(lowered.model),
        opset=next(o.version for o in lowered.model.opset_import if o.domain == ""),
        producer=_producer(),
        verification=verification,
    )


def _engine_manifest(work: _Work, engine: Engine, manifest: Manifest) -> Manifest:
    return replace(
        manifest,
        kind="engine",
        engine=engine.info,
        producer=producer(engine.info, manifest.producer),
        verification={**manifest.verification, "layer_precisions_from": engine.types_from},
    )


def _obstacle(manifest: Manifest, engine: Engine, here: Platform) -> str:
    """Why the engine cannot run on this machine, or nothing."""
    found = problems(manifest, engine.header, here)
    return f"{found[0].what}: {found[0].got}" if found else ""


def _candidate(
    work: _Work,
    lowered: Lowered,
    manifest: Manifest,
    onnx_manifest: Manifest,
    payload: bytes,
    graph: bytes,
    not_here: str,
) -> Candidate:
    """The best form of the export that can run here."""
    if manifest.kind == "engine" and not not_here:
        return Candidate(ENGINE, payload, manifest, lowered.module)
    if work.precision in RUNS_ON_ONNXRUNTIME:
        return Candidate(ONNXRUNTIME, graph, onnx_manifest, lowered.module)
    return Candidate(PYTORCH, b"", onnx_manifest, lowered.module)


def _on_gpu(times: Mapping[str, Any], here: Platform, verified_on: str) -> dict[str, Any]:
    if verified_on == ENGINE and isinstance(here.gpu, Gpu):
        return {**times, "machine": f"{here.gpu.name}, {times['machine']}"}
    return dict(times)


def _producer() -> dict[str, str]:
    return {
        "imp_trt": imp_trt.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _implied_target(output: Path) -> str | None:
    """An output that is named as an ONNX file asks for one."""
    return "onnxruntime" if output.suffix == ".onnx" else None


def _output_path(weights: Path, output: Path, precision: str, target: Target) -> Path:
    """The artifact's path; refuses early what could not be written after minutes of work."""
    suffix = ".onnx" if target.backend == "onnxruntime" else ".engine"
    middle = precision if target.backend == "onnxruntime" else f"{precision}.{target.name}"
    wrong = set(SUFFIXES.values()) - {suffix}
    if output.suffix in wrong and not output.is_dir():
        raise UsageError(
            f"output {output} for target {target.name}",
            expected=f"a folder, or a file that ends with {suffix}",
            got=output.suffix,
            fix="choose another with -o, or another --target",
        )
    path = output if output.suffix == suffix else output / f"{weights.stem}.{middle}{suffix}"
    _check_writable(path, "output", "choose another with -o")
    return path


def _check_writable(path: Path, what: str, fix: str) -> None:
    if path.is_dir():
        raise OutputError(f"{what} {path}", expected="a file name", got="a folder", fix=fix)
    folder = next(p for p in (path.parent, *path.absolute().parents) if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{what} {path}", expected="a writable folder", got=str(folder), fix=fix)

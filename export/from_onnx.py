# SPDX-License-Identifier: Apache-2.0
"""From an exported ONNX file to a verified engine, on the device that runs it.

Needs TensorRT and what runs an engine; neither PyTorch nor the packages onnx and onnxscript. The engine is
verified with the golden frames of the file; where it cannot run, its graph is, in ONNX Runtime.
"""

from __future__ import annotations

import os
import platform as machine
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from imp_trt.artifacts.artifact import SUFFIXES, Artifact
from imp_trt.artifacts.golden import Golden, read_golden, unpack_golden
from imp_trt.artifacts.manifest import QUANTIZED, Manifest, TensorSpec
from imp_trt.artifacts.reading import check_regular, read_artifact, read_manifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends import CanvasBackend, open_backend
from imp_trt.backends.onnx_bounds import check_graph
from imp_trt.backends.preflight import problems
from imp_trt.cuda.cpus import usable_cpus
from imp_trt.cuda.platform import Gpu, Platform
from imp_trt.data.files import temporary_folder
from imp_trt.errors import ArtifactError, DependencyMissing, UsageError
from imp_trt.export.manifests import engine_manifest
from imp_trt.export.onnx.structure import Structure, read_structure
from imp_trt.export.options import ExportOptions, reject_options_of_a_checkpoint
from imp_trt.export.parts import ExportedPart, part_from_onnx
from imp_trt.export.plan import ExportPlan, make_engine_plan
from imp_trt.export.progress import Progress, silent
from imp_trt.export.report import ExportReport
from imp_trt.export.tensorrt.engine import make_engine
from imp_trt.export.verification.canvas import CanvasAgreement, replay_canvas
from imp_trt.export.verification.gates import (
    ENGINE,
    ONNXRUNTIME,
    Agreement,
    VerifiedOn,
    enforce,
    gate_of,
)
from imp_trt.export.verification.golden import replay

EXPORTED_ALREADY = "the ONNX file has been exported already"


@dataclass(frozen=True, eq=False)
class OnnxSource:
    """An ONNX artifact with what an engine build needs of it.

    Attributes:
        artifact: the file and its manifest.
        golden: content of its golden file; None if it has none.
    """

    artifact: Artifact
    golden: bytes | None

    @property
    def manifest(self) -> Manifest:
        """Manifest of the file."""
        return self.artifact.manifest

    def frames(self) -> Golden | None:
        """The golden frames, or None; raises ArtifactError if the file is malformed."""
        return None if self.golden is None else unpack_golden(self.golden, self.manifest)


def read_source(path: Path, precision: str | None = None) -> OnnxSource:
    """An ONNX artifact, checked against its manifest.

    Args:
        path: of the .onnx file.
        precision: that the file must have; None for any.

    Raises:
        ArtifactError: a file is missing or damaged, or the graph has other tensors than the manifest.
        UsageError: the file has another precision.
    """
    check_regular(path, "artifact")
    manifest = read_manifest(path)
    if precision not in (None, manifest.precision):
        raise UsageError(
            f"{path}: an engine has the precision of its ONNX file",
            expected=f"a file in {precision}",
            got=f"one in {manifest.precision}",
            fix=f"--engine {manifest.precision}; or make the other file where the checkpoint is: "
            f"{_export_of(precision)}",
        )
    artifact = read_artifact(path, canvas=True)
    for graph in filter(None, (artifact.payload, artifact.canvas)):
        check_graph(graph, str(path))
    check_structure(read_structure(artifact.payload), artifact)
    golden = read_golden(path, manifest) if manifest.golden_sha256 else None
    return OnnxSource(artifact, golden)


def check_structure(structure: Structure, artifact: Artifact) -> None:
    """ArtifactError unless the graph has the inputs, outputs and operators of the manifest."""
    manifest = artifact.manifest
    sides: tuple[tuple[str, object, object], ...] = (
        ("inputs", _listed(structure.inputs), _listed((manifest.input.spec,))),
        ("outputs", _listed(structure.outputs), _listed(manifest.outputs)),
        ("custom operators", sorted(structure.custom_nodes()), sorted(manifest.ops)),
    )
    for what, actual, expected in sides:
        if actual != expected:
            raise ArtifactError(
                f"artifact {artifact.path}: {what} of the graph differ from the manifest",
                expected=expected,
                got=actual,
                fix="copy the file again with its manifest, or export it again with imp-export",
            )


def engine_from_onnx(
    onnx: str | os.PathLike[str],
    output: str | os.PathLike[str] = ".",
    options: ExportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ExportReport:
    """Build the engine of an ONNX artifact and verify it with the golden frames of the file.

    Nothing is written before every gate has passed.

    Args:
        onnx: .onnx file that imp-export wrote, with its manifest and golden frames.
        output: a folder, in which the file is named ``<name>.<precision>.<target>.engine``; or a file name.
        options: precision, target, verify and engine, with ``calibrated=True``; None takes the file's
            precision and the best target of this machine. The others belong to the export of the file.
        progress: called with the progress of the work.

    Raises:
        ArtifactError: a file is missing or damaged, or they do not belong together.
        UsageError: the file has another precision, the target and its options are not supported, or an option
            belongs to the export of the file.
        DependencyMissing: the target's builder or its GPU is missing, or nothing can verify the graph.
        BuildError: TensorRT cannot build the graph.
        PrecisionError: the engine has another precision.
        VerificationError: a gate failed.
        OutputError: the output cannot be written.
    """
    start = time.perf_counter()
    source = read_source(Path(onnx), None if options is None else options.precision)
    options = options or ExportOptions(precision=source.manifest.precision, calibrated=True)
    reject_options_of_a_checkpoint(options, f"an engine from {onnx}", EXPORTED_ALREADY, frames=True)
    plan = make_engine_plan(Path(onnx), Path(output), options, progress or silent)
    if options.verify:
        check_verifiable(source, plan.platform)
    engine = make_engine(
        source.artifact.payload, options.precision, plan.target, options.engine, plan.platform, plan.progress
    )
    part = part_from_onnx(source.artifact, plan)
    manifest = engine_manifest(
        engine, replace(source.manifest, target=plan.target.name, benchmark={}, canvas_part=None)
    )
    found = problems(manifest, engine.header, plan.platform)
    reason = f"{found[0].what}: {found[0].got}" if found else ""
    manifest = verify_engine(source, engine.plan, manifest, plan, engine.types_from, reason, part)
    canvas = None if part is None else part.payload
    write_artifact(plan.path, engine.plan, manifest, source.golden, canvas)
    seconds = time.perf_counter() - start
    return ExportReport(plan.path, read_manifest(plan.path), seconds, (), reason)


def verify_engine(
    source: OnnxSource,
    payload: bytes,
    manifest: Manifest,
    plan: ExportPlan,
    types_from: str,
    reason: str,
    part: ExportedPart | None = None,
) -> Manifest:
    """The engine's manifest with the results of its verification on the golden frames.

    Args:
        source: the ONNX file of the engine.
        payload: the engine.
        manifest: of the engine.
        plan: of the export.
        types_from: source of the manifest's layer_precisions.
        reason: why the engine cannot run on this machine, or empty.
        part: the canvas part of the engine, which gets its own entry.

    Raises:
        VerificationError: a gate failed.
    """
    entry: dict[str, object] = {"onnx": dict(source.manifest.verification)}
    if "calibration" in source.manifest.verification:
        entry["calibration"] = source.manifest.verification["calibration"]
    entry["layer_precisions_from"] = types_from
    golden = source.frames()
    if not plan.options.verify or golden is None:
        skipped: dict[str, object] = {"verified_on": None, "skipped": "by request (--no-verify)"}
        entry |= skipped
        manifest = replace(manifest, verification=entry)
        return manifest if part is None else part.in_manifest(manifest, skipped)
    plan.progress("verify", 0, 1)
    if part is not None:
        manifest = part.in_manifest(manifest, {})
    replayed = _replay(source, payload, manifest, golden, part, runs=not reason)
    verified_on, agreement, milliseconds, canvas = replayed
    plan.progress("verify", 1, 1)
    gate = gate_of(source.manifest)
    enforce(agreement, manifest.precision, gate, exported=True)
    if part is not None:
        canvas.enforce(manifest.precision, gate)
        manifest = part.in_manifest(manifest, canvas.to_dict(verified_on, gate))
    figures = agreement.to_dict(gate)
    del figures["nms_unsettled"]  # only PyTorch reports it; it was 0 when the ONNX file was written
    entry |= {
        "verified_on": verified_on,
        "against": "pytorch fp32",
        "source": f"{len(golden)} golden frames of {source.artifact.path.name}",
        **figures,
    }
    benchmark = _benchmark(plan.platform, manifest, milliseconds) if verified_on == ENGINE else {}
    return replace(manifest, verification=entry, benchmark=benchmark)


def _replay(
    source: OnnxSource,
    payload: bytes,
    manifest: Manifest,
    golden: Golden,
    part: ExportedPart | None,
    runs: bool,
) -> tuple[VerifiedOn, Agreement, float, CanvasAgreement]:
    if runs:
        with written(payload, manifest, None if part is None else part.payload) as path:
            return ENGINE, *_replay_file(path, golden, part is not None)
    # Not the file itself, which may have been replaced while the engine was built.
    graph = source.artifact
    with written(graph.payload, graph.manifest, graph.canvas) as path:
        return ONNXRUNTIME, *_replay_file(path, golden, part is not None)


def _replay_file(path: Path, golden: Golden, parts: bool) -> tuple[Agreement, float, CanvasAgreement]:
    backend = open_backend(path)
    try:
        agreement, milliseconds = replay(backend, golden)
        canvas = CanvasAgreement()
        if parts and isinstance(backend, CanvasBackend):
            canvas = replay_canvas(backend, golden)
        return agreement, milliseconds, canvas
    finally:
        backend.close()


@contextmanager
def written(payload: bytes, manifest: Manifest, canvas: bytes | None = None) -> Iterator[Path]:
    """A network, with its canvas part if it has one, as an artifact in a temporary folder."""
    with temporary_folder("imp_trt_export_") as folder:
        yield write_artifact(folder / f"candidate{SUFFIXES[manifest.kind]}", payload, manifest, canvas=canvas)


def check_verifiable(source: OnnxSource, platform: Platform) -> None:
    """Before minutes of building: something must be able to verify the result."""
    if source.golden is None:
        raise ArtifactError(
            f"artifact {source.artifact.path}",
            expected="golden frames to verify the engine with",
            got="a manifest without field 'golden_sha256': exported by an earlier version, or unverified",
            fix="export it again where the checkpoint is, or --no-verify",
        )
    source.frames()  # malformed ones are said now
    if not isinstance(platform.gpu, Gpu) and find_spec("onnxruntime") is None:
        raise DependencyMissing(
            "verification of the engine",
            expected="a GPU that runs it, or ONNX Runtime for its graph",
            got="neither",
            fix="pip install 'imp-trt[onnx]', or --no-verify",
        )


def _benchmark(platform: Platform, manifest: Manifest, milliseconds: float) -> dict[str, object]:
    gpu = platform.gpu
    name = f"{gpu.name}, " if isinstance(gpu, Gpu) else ""
    return {
        "network_ms": round(milliseconds, 2),
        "batch": manifest.input.batch,
        "machine": f"{name}{machine.machine()}, {usable_cpus()} CPUs",
        "note": "median over the golden frames, the first call included",
    }


def _export_of(precision: str | None) -> str:
    """The command that makes the ONNX file of a precision."""
    if precision == "bf16":  # not for ONNX Runtime
        return "imp-export --engine bf16 --target tensorrt-rtx --keep-onnx --weights CHECKPOINT"
    calibration = " --calib FOLDER" if precision in QUANTIZED else ""
    return f"imp-export --precisions {precision} --weights CHECKPOINT{calibration}"


def _listed(specs: tuple[TensorSpec, ...]) -> list[str]:
    return [str(spec) for spec in specs]

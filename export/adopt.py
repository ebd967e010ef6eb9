# SPDX-License-Identifier: Apache-2.0
"""A manifest for an engine that another program built, such as trtexec, from an ONNX file of imp-export."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from imp_trt.artifacts.artifact import MAX_PAYLOAD_BYTES, SUFFIXES
from imp_trt.artifacts.engine_info import EngineInfo, OperatorForm
from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.network_manifest import NetworkManifest
from imp_trt.artifacts.plan_header import PlanHeader, read_plan_header
from imp_trt.artifacts.reading import check_regular, read_any_manifest, read_bounded, read_manifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends import open_backend
from imp_trt.backends.preflight import TITLES, problems
from imp_trt.cuda.platform import Gpu, Platform
from imp_trt.errors import ArtifactError, DependencyMissing, EngineIncompatible, UsageError
from imp_trt.export.from_onnx import (
    EXPORTED_ALREADY,
    OnnxSource,
    check_verifiable,
    read_source,
    verify_engine,
    written,
)
from imp_trt.export.manifests import engine_manifest
from imp_trt.export.options import ExportOptions, reject_options_of_a_checkpoint
from imp_trt.export.plan import ExportPlan, check_suffix, check_writable
from imp_trt.export.progress import Progress, silent
from imp_trt.export.report import ExportReport
from imp_trt.export.targets import check_version, find_target
from imp_trt.export.tensorrt.engine import BuiltEngine
from imp_trt.export.verification.frames import VerificationFrames

_log = logging.getLogger(__name__)

_TYPES_FROM = "not recorded by the program that built the engine"


def adopt_engine(
    engine: str | os.PathLike[str],
    onnx: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    options: ExportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ExportReport:
    """Give an engine that was built from an ONNX artifact its manifest and golden frames.

    The engine is loaded, which runs native code of TensorRT on its bytes: adopt only engines of your own.
    One of TensorRT must be loadable on this machine; one of TensorRT-RTX is otherwise checked by its header,
    and its graph is verified.

    Args:
        engine: the engine's file.
        onnx: the .onnx file that it was built from, with manifest and golden frames.
        output: folder or file name; None writes next to the engine, with the suffix .engine.
        options: target, verify and engine.plugin; None takes the engine's library as the target.
        progress: called with the progress of the work.

    Raises:
        ArtifactError: a file is missing or damaged, is not an engine, or has other inputs and outputs.
        EngineIncompatible: the engine does not load on this machine.
        DependencyMissing: the engine's library or GPU is missing.
        UsageError: the target is for another library, or the ONNX file is that of a third-party network.
        VerificationError: a gate failed.
        OutputError: the output cannot be written.
    """
    start = time.perf_counter()
    check_regular(Path(onnx), "artifact")
    if isinstance(read_any_manifest(onnx), NetworkManifest):
        raise UsageError(
            f"adopting an engine of {onnx}",
            expected="the ONNX file of a checkpoint",
            got="that of a third-party network",
            fix=f"imp-export {shlex.quote(str(onnx))} builds and verifies its engine",
        )
    source = read_source(Path(onnx))
    path = Path(engine)
    payload = read_bounded(path, "engine", MAX_PAYLOAD_BYTES["engine"])
    header = _header(path, payload)
    if source.manifest.canvas_part is not None:
        _log.warning(
            "the adopted engine has no canvas part, although %s has one: imp-export %s builds both",
            onnx,
            onnx,
        )
    if options is not None:
        reject_options_of_a_checkpoint(options, f"adopting {engine}", EXPORTED_ALREADY, frames=True)
    options = replace(options or ExportOptions(), precision=source.manifest.precision, calibrated=True)
    plan = _plan(source, path, output, header, options, progress or silent)
    if options.verify:
        check_verifiable(source, plan.platform)
    info, reason = _engine_info(source, payload, header, plan)
    manifest = _manifest(source, info, payload, header, plan)
    manifest = verify_engine(source, payload, manifest, plan, _TYPES_FROM, reason)
    write_artifact(plan.path, payload, manifest, source.golden)
    return ExportReport(plan.path, read_manifest(plan.path), time.perf_counter() - start, (), reason)


def _header(path: Path, payload: bytes) -> PlanHeader:
    header = read_plan_header(payload)
    if header.backend is None or header.version is None:
        raise ArtifactError(
            f"engine {path}",
            expected="an engine of TensorRT or TensorRT-RTX",
            got="a file with another header"
            if header.backend is None
            else "an unknown serialization version",
            fix="pass the file that trtexec --saveEngine wrote",
        )
    if header.size not in (None, len(payload)):
        raise ArtifactError(
            f"engine {path}",
            expected=f"{header.size} bytes, as its header says",
            got=len(payload),
            fix="the file is cut off or damaged; copy it again",
        )
    return header


def _plan(
    source: OnnxSource,
    path: Path,
    output: str | os.PathLike[str] | None,
    header: PlanHeader,
    options: ExportOptions,
    progress: Progress,
) -> ExportPlan:
    target = find_target(options.target or str(header.backend))
    if target.backend != header.backend:
        raise UsageError(
            f"target {target.name} for {path}",
            expected=f"an engine of {target.backend}",
            got=f"one of {header.backend} {header.version}",
            fix="leave --target out",
        )
    check_version(target, str(header.version), f"the engine is of {header.version}")
    suffix = SUFFIXES["engine"]
    place = path if output is None else Path(output)
    if output is not None:
        check_suffix(place, suffix, target)
    if output is not None and place.suffix != suffix:
        place = place / path.name
    place = place.with_suffix(suffix)
    check_writable(place, "output", "choose another with -o")
    return ExportPlan(
        weights=source.artifact.path,
        path=place,
        options=options,
        target=target,
        platform=Platform.detect(),
        frames=VerificationFrames(),
        calibration=None,
        progress=progress,
    )


def _engine_info(
    source: OnnxSource, payload: bytes, header: PlanHeader, plan: ExportPlan
) -> tuple[EngineInfo, str]:
    """What the engine is, and why it does not run here (TensorRT-RTX without its GPU) or an empty text."""
    reason = ""
    first: EngineIncompatible | None = None
    for form in _forms(source, plan):
        info = _info(source, header, plan, form)
        manifest = _manifest(source, info, payload, header, plan)
        found = problems(manifest, header, plan.platform)
        if found and header.backend == "tensorrt-rtx" and all(problem.missing for problem in found):
            reason = f"{found[0].what}: {found[0].got}"
            return info, reason
        if found:
            raise found[0].error()
        try:
            with written(payload, manifest) as candidate:
                open_backend(candidate).close()
            return info, reason
        except EngineIncompatible as error:  # plugin layers need the plugins
            first = first or error
    assert first is not None  # noqa: S101  # there is at least one form
    raise first


def _forms(source: OnnxSource, plan: ExportPlan) -> Iterator[OperatorForm]:
    """Forms that the custom operators may have in the engine: only loading it shows which one."""
    chosen = plan.options.engine.plugin
    if chosen is not True:
        yield "function"
    if chosen is not False and source.manifest.ops:
        yield "plugin"


def _info(source: OnnxSource, header: PlanHeader, plan: ExportPlan, form: OperatorForm) -> EngineInfo:
    assert header.backend is not None  # noqa: S101  # _header checked it
    gpu = plan.platform.gpu
    capabilities = header.compute_capabilities
    if header.backend == "tensorrt":
        if not isinstance(gpu, Gpu):
            raise DependencyMissing(
                f"adopting an engine of {TITLES[header.backend]}",
                expected="the GPU that it was built on, which loads it",
                got=gpu.got or gpu.what,
                fix="run this on the device that built the engine",
            )
        capabilities = (gpu.compute_capability,)
    return EngineInfo(
        backend=header.backend,
        version=str(header.version),
        compute_capabilities=capabilities or plan.target.capabilities,
        platform=plan.platform.name,
        onnx_sha256=source.manifest.sha256,
        operators=dict.fromkeys(source.manifest.ops, form),
    )


def _manifest(
    source: OnnxSource, info: EngineInfo, payload: bytes, header: PlanHeader, plan: ExportPlan
) -> Manifest:
    engine = BuiltEngine(payload, header, info, _TYPES_FROM)
    graph = replace(source.manifest, target=plan.target.name, benchmark={}, canvas_part=None)
    return engine_manifest(engine, graph)

# SPDX-License-Identifier: Apache-2.0
"""From a third-party ONNX file to a verified artifact: fix shapes, lower, build, verify, then write."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import imp_trt
from imp_trt.artifacts.artifact import manifest_path
from imp_trt.artifacts.golden import read_golden
from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.artifacts.network_manifest import NetworkManifest, NetworkPrecision
from imp_trt.artifacts.reading import read_any_manifest, read_network, read_network_manifest, whole_of
from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends.onnx_bounds import check_graph
from imp_trt.backends.onnxruntime_import import import_onnxruntime
from imp_trt.backends.preflight import problems
from imp_trt.errors import ArtifactError, UsageError
from imp_trt.export.onnx.foreign import ForeignModel, Shapes, read_foreign, set_shape
from imp_trt.export.onnx.structure import read_structure
from imp_trt.export.options import ExportOptions, reject_options_of_a_checkpoint
from imp_trt.export.plan import ExportPlan, make_network_plan
from imp_trt.export.progress import Progress, silent
from imp_trt.export.report import NetworkReport
from imp_trt.export.tensorrt.engine import BuiltEngine, make_engine
from imp_trt.export.verification.arrays import (
    MAX_GOLDEN_BYTES,
    TOLERANCES,
    pack_call,
    unpack_call,
    verification_inputs,
)
from imp_trt.export.verification.networks import Calls, Reference, verify_network

_log = logging.getLogger(__name__)
_UNVERIFIED = {"verified_on": None, "skipped": "by request (--no-verify)"}


@dataclass(frozen=True, eq=False)
class _Lowered:
    """The network in one precision.

    Attributes:
        graph: the ONNX file.
        manifest: of the graph as an ONNX artifact, not verified yet.
        calls: to verify on; none without verification, or if the outputs are unknown.
        source: description of the calls.
        golden: content of the file of golden arrays, or None.
    """

    graph: bytes
    manifest: NetworkManifest
    calls: Calls | None
    source: str
    golden: bytes | None


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Whether imp-export treats an .onnx file as third-party: its manifest is missing or says so."""
    if not manifest_path(path).exists():
        return True
    return isinstance(read_any_manifest(path), NetworkManifest)


def export_network(
    onnx: str | os.PathLike[str],
    output: str | os.PathLike[str] = ".",
    options: ExportOptions | None = None,
    *,
    shapes: Shapes | None = None,
    progress: Progress | None = None,
) -> NetworkReport:
    """Export a third-party ONNX file to an engine or a checked ONNX file, for imp_trt.Engine.

    The network is any that ONNX Runtime runs, with this package's operators or without. Its outputs are
    compared with those of the float32 file in ONNX Runtime without optimizations. If an engine cannot run on
    this machine, its graph is compared, in ONNX Runtime. Nothing is written before that has passed.

    Args:
        onnx: the file, in float32; or an artifact that this function made of one, whose precision is kept.
        output: a folder, in which the file is named ``<name>.<precision>.onnx`` or
            ``<name>.<precision>.<target>.engine``; or a file name.
        options: precision (fp32 or fp16), target, verify, engine, and frames: an .npz file with one array for
            each input, or a folder of such files; None takes random inputs.
        shapes: input -> shape, for inputs whose shapes the file leaves open.
        progress: called with the progress of the work.

    Raises:
        ArtifactError: the file is missing, damaged, in another precision, or its time or memory has no
            bounds.
        UsageError: an option is not supported, or an input has no fixed shape.
        ExportError: an output's shape depends on the input's values.
        DependencyMissing: the package onnx, ONNX Runtime or the target's builder is missing.
        BuildError: TensorRT cannot build the graph.
        PrecisionError: the engine has another precision.
        VerificationError: an output agrees less than the tolerance requires.
        OutputError: the output cannot be written.
    """
    start = time.perf_counter()
    path, options = Path(onnx), options or ExportOptions()
    _check_options(options)
    if not manifest_path(path).exists() and (whole := whole_of(path)) is not None:
        raise ArtifactError(
            f"ONNX file {path}",
            expected="a third-party ONNX file, or an artifact",
            got="the canvas part of an artifact",
            fix=f"pass {whole}, from which both engines are built",
        )
    plan = make_network_plan(path, Path(output), options, progress or silent)
    lowered = _from_artifact(plan, shapes) if manifest_path(path).exists() else _from_file(plan, shapes or {})
    if plan.target.backend == "onnxruntime":
        payload, manifest, engine = lowered.graph, lowered.manifest, None
    else:
        engine = make_engine(
            lowered.graph,
            options.precision,
            plan.target,
            options.engine,
            plan.platform,
            plan.progress,
            foreign=True,
        )
        payload, manifest = engine.plan, _engine_manifest(engine, lowered.manifest)
    reason = ""
    if engine is not None:
        found = problems(manifest, engine.header, plan.platform)
        reason = f"{found[0].what}: {found[0].got}" if found else ""
    if options.verify and lowered.calls is not None:
        manifest = verify_network(
            plan, lowered.calls, lowered.source, lowered.graph, payload, manifest, reason
        )
    write_artifact(plan.path, payload, manifest, lowered.golden)
    seconds = time.perf_counter() - start
    return NetworkReport(plan.path, read_network_manifest(plan.path), seconds, (), reason)


def _check_options(options: ExportOptions) -> None:
    if options.precision not in TOLERANCES:
        raise UsageError(
            "precision of a third-party network",
            expected=" or ".join(TOLERANCES),
            got=options.precision,
            fix="--engine fp16; int8 and fp8 need the checkpoint that imp-train or imp-import made",
        )
    reject_options_of_a_checkpoint(
        options, "a third-party network", "--shape sets sizes, --target onnxruntime writes the ONNX file"
    )


# ---- the graph ----


def _from_artifact(plan: ExportPlan, shapes: Shapes | None) -> _Lowered:
    """The network of an ONNX artifact that export_network wrote; neither the package onnx nor PyTorch."""
    artifact = read_network(plan.weights)
    check_graph(artifact.payload, str(artifact.path))
    manifest = artifact.manifest
    for option, used, why in (
        ("--shape", bool(shapes), "whose shapes are fixed"),
        ("--frames", plan.options.frames is not None, "which is verified with its golden arrays"),
    ):
        if used:
            raise UsageError(
                f"{option} for {plan.weights}",
                expected="a third-party ONNX file",
                got=f"an artifact of imp-export, {why}",
                fix="leave it out, or export the original file again",
            )
    if plan.options.precision != manifest.precision:
        raise UsageError(
            f"{plan.weights}: an artifact keeps its precision",
            expected=f"--engine {manifest.precision}",
            got=plan.options.precision,
            fix="export the original file again, in float32 or float16",
        )
    calls = golden = None
    source = ""
    if manifest.golden_sha256:
        golden = read_golden(plan.weights, manifest, MAX_GOLDEN_BYTES)
        calls = _replayed(golden, manifest)
        source = f"golden arrays of {plan.weights.name}"
    elif plan.options.verify:
        raise ArtifactError(
            f"artifact {artifact.path}",
            expected="golden arrays to verify the engine with",
            got="none: its inputs and outputs are too large, or it was exported unverified",
            fix="export the original file for this target, or --no-verify",
        )
    if plan.target.backend != "onnxruntime":  # what was measured of the file does not hold for its engine
        verification = {**_UNVERIFIED, "onnx": dict(manifest.verification)}
        manifest = replace(manifest, verification=verification, benchmark={})
    return _Lowered(artifact.payload, replace(manifest, target=plan.target.name), calls, source, golden)


def _replayed(golden: bytes, manifest: NetworkManifest) -> Calls:
    call = unpack_call(golden, manifest.inputs, manifest.outputs)
    return lambda: iter([call])


def _from_file(plan: ExportPlan, shapes: Shapes) -> _Lowered:
    """The network of a third-party file, and its outputs in float32."""
    foreign = read_foreign(plan.weights, shapes)
    options = plan.options
    frames = None if options.frames is None else Path(options.frames)
    inputs = verification_inputs(foreign.inputs, frames)
    reference = Reference(plan.weights, foreign.model, inputs)
    outputs = reference.output_specs()
    model = foreign.model
    for value, spec in zip(model.graph.output, outputs, strict=True):
        set_shape(value, spec.shape)
    if options.precision == "fp16":
        from imp_trt.export.onnx.float16 import has_float16, to_float16

        plan.progress("export", 0, 1)
        model = to_float16(model)
        plan.progress("export", 1, 1)
        if not has_float16(model):
            _log.warning(
                "%s: no layer is in float16. Convolutions, matrix products and what lies between them "
                "become float16, unless their weights exceed its range",
                plan.weights,
            )
    if plan.target.backend != "onnxruntime":
        from imp_trt.export.onnx.class_map import without_argmax

        model = without_argmax(model)
    graph = model.SerializeToString(deterministic=True)
    if options.precision == "fp32" and plan.target.backend == "onnxruntime" and not shapes:
        graph = foreign.content if outputs == read_structure(graph).outputs else graph
    golden = pack_call(*reference.first()) if options.verify else None
    manifest = _onnx_manifest(plan, graph, foreign, outputs)
    return _Lowered(graph, manifest, reference.calls, inputs.description, golden)


# ---- manifests ----


def _onnx_manifest(
    plan: ExportPlan, graph: bytes, foreign: ForeignModel, outputs: Sequence[TensorSpec]
) -> NetworkManifest:
    import onnx

    structure = read_structure(graph)
    precision: NetworkPrecision = "fp16" if plan.options.precision == "fp16" else "fp32"
    return NetworkManifest(
        kind="onnx",
        inputs=foreign.inputs,
        outputs=tuple(outputs),
        precision=precision,
        target=plan.target.name,
        ops={name: len(nodes) for name, nodes in structure.custom_nodes().items()},
        source_sha256=hashlib.sha256(foreign.content).hexdigest(),
        opset=structure.opset,
        producer={
            "imp_trt": imp_trt.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": import_onnxruntime().__version__,
        },
        verification=dict(_UNVERIFIED),
    )


def _engine_manifest(engine: BuiltEngine, manifest: NetworkManifest) -> NetworkManifest:
    return replace(
        manifest,
        kind="engine",
        engine=engine.info,
        producer={**manifest.producer, engine.info.backend: engine.info.version},
        verification={**manifest.verification, "layer_precisions_from": engine.types_from},
        sha256="",
    )

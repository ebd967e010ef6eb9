# SPDX-License-Identifier: Apache-2.0
"""From a typed graph to an engine and its entry in the manifest."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.artifacts.engine_info import EngineInfo, OperatorForm
from imp_trt.artifacts.manifest import Precision
from imp_trt.artifacts.plan_header import PlanHeader, read_plan_header
from imp_trt.cuda.platform import Gpu, Platform
from imp_trt.errors import UsageError
from imp_trt.export.onnx.structure import read_structure, without_function_bodies
from imp_trt.export.options import EngineOptions
from imp_trt.export.progress import Progress
from imp_trt.export.targets import Target, capabilities_for, version_pair
from imp_trt.export.tensorrt.build_job import BuildJob
from imp_trt.export.tensorrt.builder import BuildResult, build_engine

if TYPE_CHECKING:
    from onnx import ModelProto

_log = logging.getLogger(__name__)

_PLUGIN_TAKES_PRECEDENCE = (10, 7)
"""TensorRT version from which a registered plugin takes precedence over a function of the same name."""


@dataclass(frozen=True)
class BuiltEngine:
    """A built engine.

    Attributes:
        plan: its bytes.
        header: the header of plan.
        info: for the manifest.
        types_from: source of info.layer_precisions.
    """

    plan: bytes
    header: PlanHeader
    info: EngineInfo
    types_from: str


def make_engine(
    model: bytes | ModelProto,
    precision: Precision,
    target: Target,
    options: EngineOptions,
    platform: Platform,
    progress: Progress | None = None,
    foreign: bool = False,
) -> BuiltEngine:
    """Build an engine for a target that passed :func:`imp_trt.export.targets.check_target`.

    By default, custom operators become plugin layers on TensorRT and function bodies on TensorRT-RTX, for
    which NVIDIA documents plugins as unsupported.

    Args:
        model: ONNX file, or the model: a typed graph with the function bodies of its operators. It is
            compiled without ArgMax.
        precision: of the graph.
        target, options: what to build, and how.
        platform: of this machine.
        progress: called with the progress of the work.
        foreign: the network is third-party; see BuildJob.

    Raises:
        UsageError: the network samples RoIAlign adaptively, and its operators are to be function bodies.
        BuildError: TensorRT cannot build the graph.
        PrecisionError: the graph or the engine has another precision.
        DependencyMissing: the builder is missing.
    """
    if target.backend == "onnxruntime":
        raise UsageError(f"target {target.name}", expected="one with engines")
    graph = _serialized(_without_argmax(model))
    structure = read_structure(graph)
    if structure.adaptive:
        check_adaptive(target, options)
    nodes = structure.custom_nodes()
    form: OperatorForm = "plugin" if nodes and uses_plugin(target, options) else "function"
    version = platform.version(target.backend) or ""
    if form == "plugin" and target.backend == "tensorrt" and version_pair(version) < _PLUGIN_TAKES_PRECEDENCE:
        graph = without_function_bodies(graph)
    job = BuildJob(
        backend=target.backend,
        precision=precision,
        plugins=form,
        operators=nodes,
        plugin_library=_absolute(options.plugin_library),
        compute_capabilities=capabilities_for(target, precision, options),
        workspace=options.workspace,
        timing_cache=_absolute(options.timing_cache),
        optimization_level=options.optimization_level,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        foreign=foreign,
    )
    built = build_engine(graph, job, progress)
    header = read_plan_header(built.plan)
    info = _engine_info(graph, job, built, header, target, platform)
    types_from = "convolutions of the typed network" if built.engine_types is None else "engine inspector"
    return BuiltEngine(built.plan, header, info, types_from)


def _engine_info(
    graph: bytes, job: BuildJob, built: BuildResult, header: PlanHeader, target: Target, platform: Platform
) -> EngineInfo:
    return EngineInfo(
        backend=job.backend,
        version=header.version or built.version,
        compute_capabilities=_capabilities(job, header, target, platform),
        platform=platform.name,
        onnx_sha256=hashlib.sha256(graph).hexdigest(),
        operators=dict.fromkeys(job.operators, job.plugins),
        hardware_compatibility=job.hardware_compatibility,
        version_compatible=job.version_compatible,
        layer_precisions=built.network_types if built.engine_types is None else built.engine_types,
    )


def custom_nodes(model: bytes | ModelProto) -> dict[str, tuple[str, ...]]:
    """Custom operator -> names of its nodes."""
    return read_structure(_serialized(model)).custom_nodes()


def _without_argmax(model: bytes | ModelProto) -> bytes | ModelProto:
    """The model without ArgMax; a file stays as it is if the package onnx is not installed."""
    if isinstance(model, bytes):
        try:
            import onnx
        except ImportError:
            _log.info("the package onnx is not installed: the engine computes the class map by ArgMax")
            return model
        model = onnx.load_model_from_string(model)
    from imp_trt.export.onnx.class_map import without_argmax

    return without_argmax(model)


def _serialized(model: bytes | ModelProto) -> bytes:
    return model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)


def check_adaptive(target: Target, options: EngineOptions) -> None:
    """UsageError if an engine of a network with adaptive RoIAlign would be built without its plugin."""
    if target.backend != "onnxruntime" and not uses_plugin(target, options):
        raise UsageError(
            f"RoIAlign with adaptive sampling for target {target.name}",
            expected="plugin layers: TensorRT has no layer for it",
            got="function bodies",
            fix="--plugin; or import the checkpoint with --roi-samples 2, which changes its results a little",
        )


def uses_plugin(target: Target, options: EngineOptions) -> bool:
    """Whether custom operators become plugin layers."""
    if options.plugin is not None:
        return options.plugin
    return target.backend == "tensorrt" or options.plugin_library is not None


def _capabilities(job: BuildJob, header: PlanHeader, target: Target, platform: Platform) -> tuple[str, ...]:
    """The GPUs that an engine runs on: the one it was built on, those of its header, or those requested."""
    if job.backend == "tensorrt" and isinstance(platform.gpu, Gpu):
        return (platform.gpu.compute_capability,)
    return header.compute_capabilities or job.compute_capabilities or target.capabilities


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())

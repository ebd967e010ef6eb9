"""From a typed graph to an engine and what its manifest says about it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from imp_trt.artifacts.artifact import EngineInfo
from imp_trt.artifacts.plan_header import PlanHeader, read_plan_header
from imp_trt.cuda.platform import Gpu, Platform
from imp_trt.export.onnx.function_builder import DOMAIN
from imp_trt.export.onnx.functions import without_functions
from imp_trt.export.options import EngineOptions
from imp_trt.export.progress import Progress
from imp_trt.export.targets import Target, capabilities_for, version_pair
from imp_trt.export.tensorrt.build_job import BuildJob
from imp_trt.export.tensorrt.builder import build_engine

_PLUGIN_WINS_FROM = (10, 7)
"""TensorRT version from which a registered plugin wins over the function body of the same name."""


@dataclass(frozen=True)
class Engine:
    """A built engine.

    Attributes:
        plan: its bytes.
        header: what they tell.
        info: for the manifest.
        types_from: where info.layer_precisions was read.
    """

    plan: bytes
    header: PlanHeader
    info: EngineInfo
    types_from: str


def make_engine(
    model: ModelProto,
    precision: str,
    target: Target,
    options: EngineOptions,
    here: Platform,
    progress: Progress | None = None,
) -> Engine:
    """Build an engine for a target that :func:`imp_trt.export.targets.check_target` let pass.

    Custom operators become plugin layers on TensorRT and function bodies on TensorRT-RTX, for which
    NVIDIA documents plugins as unsupported, unless the options say otherwise.

    Args:
        model: typed graph with the function bodies of its operators.
        precision: what it was lowered to.
        target, options: what to build, and how.
        here: this machine.
        progress: called as the work goes on.

    Raises:
        BuildError: TensorRT refuses or fails.
        PrecisionError: the graph or the engine is of another precision.
        DependencyMissing: the builder is not there.
    """
    nodes = custom_nodes(model)
    form = "plugin" if nodes and wants_plugin(target, options) else "function"
    version = here.version(target.backend) or ""
    if form == "plugin" and target.backend == "tensorrt" and version_pair(version) < _PLUGIN_WINS_FROM:
        model = without_functions(model)
    graph = model.SerializeToString(deterministic=True)
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
    )
    built = build_engine(graph, job, progress)
    header = read_plan_header(built.plan)
    info = EngineInfo(
        backend=target.backend,
        version=header.version or built.version,
        compute_capabilities=_capabilities(job, header, target, here),
        platform=here.name,
        onnx_sha256=hashlib.sha256(graph).hexdigest(),
        operators=dict.fromkeys(nodes, form),
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        layer_precisions=built.network_types if built.engine_types is None else built.engine_types,
    )
    types_from = "convolutions of the typed network" if built.engine_types is None else "engine inspector"
    return Engine(built.plan, header, info, types_from)


def custom_nodes(model: ModelProto) -> dict[str, tuple[str, ...]]:
    """Custom operator -> names of its nodes."""
    found: dict[str, tuple[str, ...]] = {}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            found[node.op_type] = (*found.get(node.op_type, ()), node.name)
    return found


def wants_plugin(target: Target, options: EngineOptions) -> bool:
    """Whether custom operators become plugin layers."""
    if options.plugin is not None:
        return options.plugin
    return target.backend == "tensorrt" or options.plugin_library is not None


def _capabilities(job: BuildJob, header: PlanHeader, target: Target, here: Platform) -> tuple[str, ...]:
    """The GPUs that an engine is for: its header's word, what was asked for, or the GPU it was built on."""
    if job.backend == "tensorrt" and isinstance(here.gpu, Gpu):
        return (here.gpu.compute_capability,)
    return header.compute_capabilities or job.compute_capabilities or target.capabilities


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())

# SPDX-License-Identifier: Apache-2.0
"""Parses an ONNX file and builds an engine; runs in its own process.

``python -m imp_trt.export.tensorrt.build_worker JOB.json`` prints one JSON object per line:
``{"event": "progress", "stage", "done", "total"}``, then ``{"event": "done", ...}`` or
``{"event": "error", "kind", "what", "expected", "got", "fix"}``, where kind is a class of
imp_trt.errors. TensorRT's output goes to stderr. The process exits when its standard input closes, so that it
never outlives its parent.

All names used here exist in TensorRT 10.3 to 11.x and in TensorRT-RTX, or are checked with getattr first.
Neither PyTorch nor ONNX is imported, which leaves the memory of this process to the builder.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

from imp_trt.artifacts.engine_info import EngineBackendName
from imp_trt.data.files import read_regular, unwritable
from imp_trt.errors import BuildError, DependencyMissing, ImpTrtError
from imp_trt.export.tensorrt.build_job import MODULES, BuildJob
from imp_trt.export.tensorrt.layer_types import check_engine, check_network, engine_types, network_types
from imp_trt.plugins.tensorrt_types import (
    Builder,
    IBuilderConfig,
    IHostMemory,
    INetworkDefinition,
    OnnxParser,
    TensorRT,
)

_MAX_QUOTED = 3  # messages in an error


class Logger(Protocol):
    """An ILogger that keeps errors."""

    def last_errors(self) -> str: ...


class Events:
    """Writes lines of JSON to the original standard output, which is then closed to everything else."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def send(self, event: str, **values: object) -> None:
        """Write one event."""
        with self._lock:
            self._file.write(json.dumps({"event": event, **values}) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    events = Events()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        events.send("done", **run(BuildJob.read(Path(arguments[0])), events))
        return 0
    except ImpTrtError as error:
        parts = {name: str(value) for name, value in vars(error).items() if value is not None}
        events.send("error", kind=type(error).__name__, **parts)
        return error.exit_code


def run(job: BuildJob, events: Events) -> dict[str, object]:
    """Build the engine of a job and write it to ``job.output``.

    Returns:
        version (of the builder), network_types, engine_types or None, plugins ("c++", "python" or None),
        compute_capabilities that were set, timing_cache_used.

    Raises:
        BuildError: the graph cannot be parsed or built.
        PrecisionError: the network or the engine has another precision.
        DependencyMissing: the builder, its GPU or the plugin library is missing.
        EngineIncompatible: the plugin library is for another TensorRT.
        OutputError: the engine cannot be written.
    """
    trt = _import(job.backend)
    logger = _logger(trt)
    builder = _builder(trt, logger, job.backend)
    plugins = _register(trt, job)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    events.send("progress", stage="parse", done=0, total=1)
    if not parser.parse(Path(job.onnx).read_bytes()):
        raise _parse_error(parser, logger)
    events.send("progress", stage="parse", done=1, total=1)
    check_plugin_layers(trt, network, job)
    types = network_types(network)
    check_network(job.precision, types, job.foreign)
    config = configure(trt, builder, job)
    cache_used = use_timing_cache(config, job)
    monitor = _monitor(trt, events)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _build_error(trt, logger, job)
    try:
        Path(job.output).write_bytes(plan)
        _save_timing_cache(config, job)
    except OSError as error:
        raise unwritable(Path(job.output), error) from error
    types_of_engine = _inspect(trt, logger, plan, job) if job.backend == "tensorrt" else None
    if types_of_engine is not None:
        check_engine(job.precision, types_of_engine, job.foreign)
    return {
        "version": trt.__version__,
        "network_types": types,
        "engine_types": types_of_engine,
        "plugins": plugins,
        "compute_capabilities": list(job.compute_capabilities),
        "timing_cache_used": cache_used,
    }


def configure(trt: TensorRT, builder: Builder, job: BuildJob) -> IBuilderConfig:
    """The builder configuration of a job.

    Raises:
        BuildError: this version of the builder does not support an option of the job.
    """
    config = builder.create_builder_config()
    config.builder_optimization_level = job.optimization_level
    # Without details the inspector does not report the types of the layers.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TF32 has 10 mantissa bits; what stays in float32 (boxes, coordinates) needs more.
    config.clear_flag(trt.BuilderFlag.TF32)
    if job.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace)
    if job.backend == "tensorrt-rtx":
        _set_compute_capabilities(trt, config, job.compute_capabilities)
        return config
    if job.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if job.hardware_compatibility != "none":
        level = getattr(trt.HardwareCompatibilityLevel, job.hardware_compatibility.upper(), None)
        if level is None:
            raise BuildError(
                f"hardware compatibility {job.hardware_compatibility}",
                expected="a newer TensorRT",
                got=trt.__version__,
                fix="--hardware-compatible ampere_plus, or leave the option out",
            )
        config.hardware_compatibility_level = level
    return config


def use_timing_cache(config: IBuilderConfig, job: BuildJob) -> bool:
    """Set the timing cache of a job, if it has one; whether what it holds is used.

    A damaged cache, or one of another version or GPU, is not an error: it only saves time.
    """
    if job.backend == "tensorrt-rtx" or job.timing_cache is None:
        return True
    path = Path(job.timing_cache)
    stored = config.create_timing_cache(read_regular(path) if path.exists() else b"")
    if stored is not None and config.set_timing_cache(stored, ignore_mismatch=False):
        return True
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return False


def check_plugin_layers(trt: TensorRT, network: INetworkDefinition, job: BuildJob) -> None:
    """BuildError unless exactly those nodes are plugin layers that the job requires to be."""
    layers = (network.get_layer(i) for i in range(network.num_layers))
    plugin_layers = {layer.name for layer in layers if layer.type == trt.LayerType.PLUGIN_V3}
    operator_nodes = {node for nodes in job.operators.values() for node in nodes}
    expected = operator_nodes if job.plugins == "plugin" else set()
    if plugin_layers & operator_nodes == expected:
        return
    counts = {name: (len(plugin_layers & set(nodes)), len(nodes)) for name, nodes in job.operators.items()}
    raise BuildError(
        "custom operators in the parsed network",
        expected=f"each as a {'plugin layer' if expected else 'function body'}",
        got=", ".join(f"{name}: {some} of {all_} plugin layers" for name, (some, all_) in counts.items()),
        fix="report this with the TensorRT version; --no-plugin compiles the function bodies",
    )


def _set_compute_capabilities(trt: TensorRT, config: IBuilderConfig, capabilities: tuple[str, ...]) -> None:
    members = dict(trt.ComputeCapability.__members__)
    config.num_compute_capabilities = len(capabilities)
    for index, text in enumerate(capabilities):
        member = members.get("SM" + text.replace(".", ""))
        if member is None or not config.set_compute_capability(member, index):
            listed = ", ".join(sorted(name for name in members if name.startswith("SM")))
            raise BuildError(f"compute capability for {trt.__version__}", expected=listed, got=text)


def _import(backend: EngineBackendName) -> TensorRT:
    name = MODULES[backend]
    try:
        module: Any = importlib.import_module(name)  # no type information
    except (ImportError, OSError) as error:
        raise DependencyMissing(
            f"{backend} cannot be loaded",
            got=error,
            fix=f"reinstall it until python3 -c 'import {name}' works, or imp-export --target onnxruntime",
        ) from error
    trt: TensorRT = module
    return trt


def _builder(trt: TensorRT, logger: Logger, backend: EngineBackendName) -> Builder:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # raised by pybind11 for a null pointer
        raise DependencyMissing(
            f"{backend} {trt.__version__} cannot create a builder",
            expected="an NVIDIA GPU with a driver" if backend == "tensorrt" else "a working installation",
            got=logger.last_errors() or error,
            fix="build on the machine that has the GPU, or imp-export --target onnxruntime",
        ) from error


def _register(trt: TensorRT, job: BuildJob) -> str | None:
    if job.plugins != "plugin" or not job.operators:
        return None
    from imp_trt.plugins.registration import register_plugins

    library = None if job.plugin_library is None else Path(job.plugin_library)
    return register_plugins(trt, library)


def _build_error(trt: TensorRT, logger: Logger, job: BuildJob) -> BuildError:
    fix = "report the message; imp-export --target onnxruntime exports a file without a builder"
    if job.workspace is not None:  # too little is a common reason, which messages name in many ways
        fix = f"a larger --workspace, or none ({job.workspace / 2**30:.3g} GiB is the limit); else {fix}"
    return BuildError(
        f"{job.backend} {trt.__version__} cannot build the graph",
        got=logger.last_errors() or "no message",
        fix=fix,
    )


def _parse_error(parser: OnnxParser, logger: Logger) -> BuildError:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    messages = []
    for error in errors[:_MAX_QUOTED]:
        prefix = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
        messages.append(prefix + " ".join(error.desc().split()))
    return BuildError(
        "TensorRT's parser rejects the graph",
        got="; ".join(messages) or logger.last_errors() or "no message",
        fix="use --no-plugin if a plugin is missing; else report the node and the TensorRT version",
    )


def _save_timing_cache(config: IBuilderConfig, job: BuildJob) -> None:
    if job.backend == "tensorrt" and job.timing_cache is not None:
        cache = config.get_timing_cache()
        if cache is not None:
            Path(job.timing_cache).write_bytes(cache.serialize())


def _inspect(trt: TensorRT, logger: Logger, plan: IHostMemory, job: BuildJob) -> dict[str, int] | None:
    """Types of the engine's layers from the engine inspector; None if it reports none."""
    runtime = trt.Runtime(logger)
    if job.version_compatible:
        # Such an engine contains the code of a runtime; this one was built by this process.
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError(
            "the built engine cannot be loaded",
            got=logger.last_errors() or "no message",
            fix="free GPU memory, or report this with the TensorRT version",
        )
    inspector = engine.create_engine_inspector()
    return engine_types(inspector.get_engine_information(trt.LayerInformationFormat.JSON)) or None


def _logger(trt: TensorRT) -> Logger:
    # Defined in a function: the base class belongs to the imported module.
    class KeepErrors(trt.ILogger):  # type: ignore[misc,name-defined]
        """Prints warnings and errors to stderr, and keeps the errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity > trt.ILogger.WARNING or "already exists, the output tensors" in message:
                return
            if severity <= trt.ILogger.ERROR:
                self.errors.append(" ".join(message.split()))
            print(f"{severity.name}: {message}", file=sys.stderr, flush=True)

        def last_errors(self) -> str:
            return "; ".join(self.errors[-_MAX_QUOTED:])

    return KeepErrors()


def _monitor(trt: TensorRT, events: Events) -> object:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        """The builder's nested phases as one percentage."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.tree = PhaseTree()
            self.shown = -1

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.tree.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            self.tree.finish(phase_name)
            self.show()

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.tree.step(phase_name, step)
            self.show()
            return True

        def show(self) -> None:
            percent = int(100 * self.tree.fraction())
            if percent > self.shown:
                self.shown = percent
                events.send("progress", stage="build", done=percent, total=100)

    return Monitor()


class PhaseTree:
    """Progress of nested phases; each phase is one step of its parent phase."""

    def __init__(self) -> None:
        self._done: dict[str, float] = {}
        self._steps: dict[str, int] = {}
        self._parent: dict[str, str | None] = {}
        self._max = 0.0
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of this many steps starts."""
        with self._lock:
            self._done[name], self._steps[name], self._parent[name] = 0, max(steps, 1), parent

    def step(self, name: str, step: int) -> None:
        """Step ``step`` of a phase, counted from 0, is complete."""
        with self._lock:
            if name in self._done:
                self._done[name] = max(self._done[name], step + 1)

    def finish(self, name: str) -> None:
        """A phase is complete."""
        with self._lock:
            if name in self._done:
                self._done[name] = self._steps[name]
                if self._parent[name] is not None:
                    del self._done[name]

    def fraction(self) -> float:
        """0 to 1; never decreases."""
        with self._lock:
            top = [name for name in self._done if self._parent[name] is None]
            if top:
                self._max = max(self._max, min(1.0, sum(map(self._fraction_of, top)) / len(top)))
            return self._max

    def _fraction_of(self, name: str) -> float:
        below = [self._fraction_of(n) for n in self._done if self._parent[n] == name]
        return min(1.0, (self._done[name] + min(1.0, max(below, default=0.0))) / self._steps[name])


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    _code = main()
    sys.stderr.flush()
    # Not sys.exit: Python would destroy TensorRT's objects in an undefined order.
    os._exit(_code)

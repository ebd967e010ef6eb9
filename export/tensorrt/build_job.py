# SPDX-License-Identifier: Apache-2.0
"""The description of a build, sent as JSON from the exporting process to the building one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from imp_trt.artifacts.engine_info import EngineBackendName, HardwareCompatibility, OperatorForm
from imp_trt.artifacts.fields import build
from imp_trt.artifacts.manifest import Precision

MODULES: dict[EngineBackendName, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backend -> Python module of its builder."""

DEFAULT_OPTIMIZATION_LEVEL = 3
MAX_OPTIMIZATION_LEVEL = 5


@dataclass(frozen=True)
class BuildJob:
    """One engine to build.

    Attributes:
        backend: library that builds it.
        precision: that the built engine must have.
        plugins: "plugin" if the custom operators must become plugin layers, "function" if their function
            bodies are compiled in.
        operators: custom operator -> names of its nodes.
        onnx, output: file to read and file to write, absolute; set by the builder.
        plugin_library: C++ plugin library, or None for the default of register_plugins.
        compute_capabilities: GPUs to build for, e.g. ``("8.6", "8.9")``; only TensorRT-RTX; empty for
            its default.
        workspace: maximum scratch memory in bytes, or None for TensorRT's default.
        timing_cache: file that is read if it exists and written after the build; only TensorRT.
        optimization_level: 0 to 5.
        hardware_compatibility: only TensorRT.
        version_compatible: whether later TensorRT versions may load the engine; only TensorRT.
        foreign: the network is third-party: it may have no layer of the precision, or some in float32.
    """

    backend: EngineBackendName
    precision: Precision
    plugins: OperatorForm = "function"
    operators: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    onnx: str = ""
    output: str = ""
    plugin_library: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    workspace: int | None = None
    timing_cache: str | None = None
    optimization_level: int = DEFAULT_OPTIMIZATION_LEVEL
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    foreign: bool = False

    def to_json(self) -> str:
        """Text for :meth:`read`."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, path: Path) -> BuildJob:
        """The job in a file that :meth:`to_json` wrote."""
        raw = json.loads(path.read_text())
        raw["compute_capabilities"] = tuple(raw["compute_capabilities"])
        raw["operators"] = {name: tuple(nodes) for name, nodes in raw["operators"].items()}
        return build(cls, raw)

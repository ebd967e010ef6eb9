"""What a build is asked for: plain data that travels from the exporting process to the building one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backend -> Python module of its builder."""

DEFAULT_OPTIMIZATION_LEVEL = 3


@dataclass(frozen=True)
class BuildJob:
    """One engine to build.

    Attributes:
        backend: "tensorrt" or "tensorrt-rtx".
        precision: "fp32", "fp16", "bf16", "int8" or "fp8"; what the typed graph should make of it.
        plugins: "plugin" if the custom operators must become plugin layers, "function" if their bodies of
            standard operators are compiled in.
        operators: custom operator -> names of its nodes.
        onnx, output: file to read and file to write, absolute; the builder fills them in.
        plugin_library: C++ plugin library, or None for the default of register_plugins.
        compute_capabilities: GPUs to build for, e.g. ``("8.6", "8.9")``; only TensorRT-RTX; empty leaves
            the choice to it.
        workspace: most bytes of scratch memory, or None for TensorRT's own limit.
        timing_cache: file that is read if it exists and rewritten after the build; only TensorRT.
        optimization_level: 0 to 5.
        hardware_compatibility: one of imp_trt.artifacts.engine_info.HARDWARE_COMPATIBILITY; only TensorRT.
        version_compatible: whether later TensorRT versions may load the engine; only TensorRT.
    """

    backend: str
    precision: str
    plugins: str = "function"
    operators: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    onnx: str = ""
    output: str = ""
    plugin_library: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    workspace: int | None = None
    timing_cache: str | None = None
    optimization_level: int = DEFAULT_OPTIMIZATION_LEVEL
    hardware_compatibility: str = "none"
    version_compatible: bool = False

    def to_json(self) -> str:
        """Text for :meth:`read`."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, path: Path) -> BuildJob:
        """The job that :meth:`to_json` wrote."""
        raw: dict[str, Any] = json.loads(path.read_text())
        raw["compute_capabilities"] = tuple(raw["compute_capabilities"])
        raw["operators"] = {name: tuple(nodes) for name, nodes in raw["operators"].items()}
        return cls(**raw)

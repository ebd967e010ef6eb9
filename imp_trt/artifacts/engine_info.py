# SPDX-License-Identifier: Apache-2.0
"""The part of a manifest that only an engine has: what built it and where it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from imp_trt.artifacts import fields as check
from imp_trt.errors import InvalidInput

EngineBackendName = Literal["tensorrt", "tensorrt-rtx"]
OperatorForm = Literal["plugin", "function"]
HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]

ENGINE_BACKENDS: tuple[EngineBackendName, ...] = ("tensorrt", "tensorrt-rtx")
OPERATOR_FORMS: tuple[OperatorForm, ...] = ("plugin", "function")
HARDWARE_COMPATIBILITY: tuple[HardwareCompatibility, ...] = (
    "none",
    "ampere_plus",
    "same_compute_capability",
)

_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6}){1,3}")
_CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]")
_PLATFORM = re.compile(r"[a-z0-9]{1,20}-[a-z0-9_]{1,20}")


@dataclass(frozen=True)
class EngineInfo:
    """What built an engine, and the GPUs and libraries that can load it.

    Attributes:
        backend: library of the engine.
        version: of the library that built it, e.g. "10.3.0.26".
        compute_capabilities: of the GPUs it was built for, e.g. ``("8.7",)``; one for TensorRT, at least
            one for TensorRT-RTX.
        platform: operating system and machine, e.g. "linux-x86_64".
        onnx_sha256: hash of the ONNX file that the builder parsed.
        operators: custom operator -> "plugin" if the engine calls the plugin, "function" if its body of
            standard operators was compiled in.
        hardware_compatibility: level of hardware compatibility, as TensorRT names it.
        version_compatible: whether it contains a runtime for later TensorRT versions; imp_trt does not load
            such an engine.
        layer_precisions: type as the engine inspector names it -> number of layers.

    Raises:
        InvalidInput: a value has the wrong type or is out of its range.
    """

    backend: EngineBackendName
    version: str
    compute_capabilities: tuple[str, ...]
    platform: str
    onnx_sha256: str
    operators: Mapping[str, OperatorForm] = field(default_factory=dict)
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    layer_precisions: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check.choice("engine.backend", self.backend, ENGINE_BACKENDS)
        check.matches("engine.version", self.version, _VERSION, 'digits and dots such as "10.3.0.26"')
        self._check_capabilities()
        check.matches("engine.platform", self.platform, _PLATFORM, 'a platform such as "linux-x86_64"')
        check.digest("engine.onnx_sha256", self.onnx_sha256)
        check.text("engine.onnx_sha256", self.onnx_sha256)
        check.mapping("engine.operators", self.operators)
        for name, form in self.operators.items():
            check.choice(f"engine.operators.{name[:80]}", form, OPERATOR_FORMS)
        check.choice("engine.hardware_compatibility", self.hardware_compatibility, HARDWARE_COMPATIBILITY)
        if type(self.version_compatible) is not bool:
            raise InvalidInput(
                "manifest field 'engine.version_compatible'",
                expected="true or false",
                got=check.short(self.version_compatible),
            )
        check.mapping("engine.layer_precisions", self.layer_precisions)
        for name, count in self.layer_precisions.items():
            check.integer(f"engine.layer_precisions.{name[:80]}", count, 0, 1 << 31)

    def _check_capabilities(self) -> None:
        values, name = self.compute_capabilities, "engine.compute_capabilities"
        if not isinstance(values, tuple) or not values or len(set(map(str, values))) != len(values):
            raise InvalidInput(
                f"manifest field '{name}'", expected="at least one, each once", got=check.short(values)
            )
        for item in values:
            check.matches(name, item, _CAPABILITY, 'a compute capability such as "8.7"')
        if self.backend == "tensorrt" and len(values) != 1:
            raise InvalidInput(
                f"manifest field '{name}'", expected="one for TensorRT", got=check.short(values)
            )

    @property
    def plugins(self) -> tuple[str, ...]:
        """Operators that a plugin must provide when the engine is loaded."""
        return tuple(name for name, form in self.operators.items() if form == "plugin")


def parse_engine_info(raw: object) -> EngineInfo:
    """EngineInfo from JSON data.

    Raises:
        FieldError, InvalidInput: a field is missing, unknown or malformed.
    """
    data = check.mapping("engine", raw)
    names = {f.name for f in fields(EngineInfo)}
    check.keys("engine.", data, names, names)
    capabilities = data["compute_capabilities"]
    if not isinstance(capabilities, list) or not check.is_list(capabilities, str):
        raise check.FieldError("engine.compute_capabilities", "a list of strings", check.short(capabilities))
    return check.build(EngineInfo, {**data, "compute_capabilities": tuple(capabilities)})

# SPDX-License-Identifier: Apache-2.0
"""Export targets: dated profiles, and the combinations that each does not support, with the reason."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from imp_trt.artifacts.engine_info import HARDWARE_COMPATIBILITY
from imp_trt.artifacts.manifest import Precision
from imp_trt.cuda.extras import extra_for
from imp_trt.cuda.platform import Gpu, Platform
from imp_trt.errors import DependencyMissing, UsageError
from imp_trt.export.options import EngineOptions

_log = logging.getLogger(__name__)

TargetBackend = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
TargetName = Literal[
    "onnxruntime",
    "tensorrt-rtx",
    "tensorrt",
    "drive-orin",
    "drive-orin-6",
    "drive-thor",
    "jetson-orin",
    "jetson-thor",
    "igx-thor",
    "rtx",
    "data-center",
]

_MIN_CAPABILITY: dict[Precision, tuple[int, int]] = {"bf16": (8, 0), "fp8": (8, 9)}
_ARCHITECTURE: dict[Precision, str] = {"bf16": "Ampere (8.0)", "fp8": "Ada (8.9)"}
_MIGRATION = "docs.nvidia.com/deeplearning/tensorrt/11.4.1, api/migration"


@dataclass(frozen=True)
class Target:
    """A backend, or a device with the TensorRT versions that NVIDIA provides for it.

    Attributes:
        name: the value of --target.
        backend: library that runs the artifact.
        note: one line of description.
        source, as_of: source of the data, and the date when it was read (ISO).
        versions: TensorRT versions [first, end) that imp-trt supports on it.
        capabilities: compute capabilities of its GPUs; empty means that of this machine's GPU.
        platform: operating system and architecture that engines must be built on; None for any.
        drive: whether it is an NVIDIA DRIVE product.
        unsupported: why nothing can be built for it, or None.
    """

    name: TargetName
    backend: TargetBackend
    note: str
    source: str
    as_of: str = "2026-11-22"
    versions: tuple[tuple[int, int], tuple[int, int]] | None = None
    capabilities: tuple[str, ...] = ()
    platform: str | None = None
    drive: bool = False
    unsupported: str | None = None


_ALL = ((10, 3), (12, 0))
_TEN = ((10, 3), (11, 0))

TARGETS = {
    target.name: target
    for target in (
        Target(
            "onnxruntime",
            "onnxruntime",
            "ONNX file with its manifest; ONNX Runtime on any CPU",
            "onnxruntime 1.31",
        ),
        Target(
            "tensorrt-rtx",
            "tensorrt-rtx",
            "engine for RTX GPUs; builds without a GPU",
            "docs.nvidia.com/deeplearning/tensorrt-rtx, support matrix 1.7; capabilities as built with 1.7.1",
            capabilities=("8.0", "8.6", "8.9", "12.0", "12.1"),
        ),
        Target(
            "tensorrt",
            "tensorrt",
            "engine for the GPU and the TensorRT of this machine",
            "NVIDIA/TensorRT v10.3 to v11.1",
            versions=_ALL,
        ),
        Target(
            "drive-orin",
            "tensorrt",
            "DRIVE Orin with DriveOS 7 (TensorRT 10.x; never 11)",
            "docs.nvidia.com/deeplearning/tensorrt/11.3.0, api/migration, DriveOS page",
            versions=_TEN,
            capabilities=("8.7",),
            platform="linux-aarch64",
            drive=True,
        ),
        Target(
            "drive-orin-6",
            "tensorrt",
            "DRIVE Orin with DriveOS 6 (TensorRT 8.5 or 8.6)",
            "DriveOS 6.0.6 and 6.0.9.1 TensorRT release notes",
            capabilities=("8.7",),
            platform="linux-aarch64",
            drive=True,
            unsupported="DriveOS 6 has TensorRT 8.x, which has no IPluginV3 and no local functions",
        ),
        Target(
            "drive-thor",
            "tensorrt",
            "DRIVE Thor: DriveOS 7.0.3 (TensorRT 10.10, CUDA 12.8), from 7.2.5 on (11.0)",
            "developer.nvidia.com/docs/drive/drive-os/7.0.3; TensorRT 11.3.0 migration, DriveOS page",
            versions=_ALL,
            capabilities=("10.1", "11.0"),
            platform="linux-aarch64",
            drive=True,
        ),
        Target(
            "jetson-orin",
            "tensorrt",
            "Jetson Orin: JetPack 6 (TensorRT 10.3, CUDA 12.6), 7.2 (10.16, CUDA 13.2), from 7.2.2 on (11.4)",
            f"{_MIGRATION}, Jetson page; Shattered217/Jetson-Orin-Wheels for 6.2.1 and 7.2.0",
            versions=_ALL,
            capabilities=("8.7",),
            platform="linux-aarch64",
        ),
        Target(
            "jetson-thor",
            "tensorrt",
            "Jetson Thor: JetPack 7 (TensorRT 10.x, CUDA 13), from 7.2.2 on (11.4)",
            f"{_MIGRATION}, Jetson page",
            versions=_ALL,
            capabilities=("11.0",),
            platform="linux-aarch64",
        ),
        Target(
            "igx-thor",
            "tensorrt",
            "IGX Thor (TensorRT 10.13, CUDA 13.0)",
            "TensorRT-Edge-LLM 0.11.1 support matrix",
            versions=_ALL,
            capabilities=("11.0",),
            platform="linux-aarch64",
        ),
        Target(
            "rtx",
            "tensorrt-rtx",
            "GeForce and RTX desktop GPUs: Ampere, Ada, Blackwell; builds without a GPU",
            "docs.nvidia.com/deeplearning/tensorrt-rtx, support matrix 1.7",
            capabilities=("8.6", "8.9", "12.0"),
        ),
        Target(
            "data-center",
            "tensorrt",
            "T4, A100, A10, L4, L40S, H100, H200, B200, B300, RTX PRO; built on the GPU itself",
            "the GPUs' compute capabilities; TensorRT's support matrix was not read",
            versions=_ALL,
            capabilities=("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0"),
        ),
    )
}
"""Profiles by name."""

_RENAMED = {"data-centre": "data-center"}
"""Names of version 0.1, which still work and warn."""


def find_target(name: str) -> Target:
    """The profile of that name; the UsageError for an unknown name lists all of them."""
    if name in _RENAMED:
        _log.warning("target %s is deprecated, use %s", name, _RENAMED[name])
        name = _RENAMED[name]
    if name not in TARGETS:
        raise UsageError(
            "target", expected=f"one of {', '.join(TARGETS)}", got=name, fix="imp-export --list-targets"
        )
    return TARGETS[name]


def default_target(platform: Platform) -> TargetName:
    """Best target of a machine whose artifacts run on it: a supported TensorRT or TensorRT-RTX with a GPU
    that it supports, else ONNX Runtime.
    """
    if isinstance(platform.gpu, Gpu):
        if platform.tensorrt is not None and _ALL[0] <= version_pair(platform.tensorrt) < _ALL[1]:
            return "tensorrt"
        capability = platform.gpu.compute_capability
        if platform.tensorrt_rtx is not None and capability in TARGETS["tensorrt-rtx"].capabilities:
            return "tensorrt-rtx"
    return "onnxruntime"


def default_engine_target(platform: Platform) -> TargetName:
    """Best target with engines: :func:`default_target`; without one that runs here, TensorRT-RTX if it is
    installed (it builds without a GPU), else TensorRT.
    """
    best = default_target(platform)
    if best != "onnxruntime":
        return best
    return "tensorrt-rtx" if platform.tensorrt_rtx is not None else "tensorrt"


def capabilities_for(target: Target, precision: Precision, options: EngineOptions) -> tuple[str, ...]:
    """Compute capabilities to pass to TensorRT-RTX; empty for its default, which covers the most GPUs.

    Those of the target's list that support the precision.
    """
    if target.backend != "tensorrt-rtx":
        return ()
    if options.compute_capabilities:
        return options.compute_capabilities
    capable = tuple(c for c in target.capabilities if _pair(c) >= _MIN_CAPABILITY.get(precision, (0, 0)))
    return () if capable == TARGETS["tensorrt-rtx"].capabilities else capable


def check_target(target: Target, precision: Precision, options: EngineOptions, platform: Platform) -> None:
    """Raise unless an artifact of this precision can be made for the target on this machine.

    Args:
        target: profile.
        precision: of the network.
        options: how to build.
        platform: of this machine.

    Raises:
        UsageError: the combination is not supported; the message has the reason.
        DependencyMissing: the builder or its GPU is missing.
    """
    if target.unsupported:
        raise _unsupported(target, target.unsupported, "use DriveOS 7, or --target onnxruntime")
    if target.backend == "onnxruntime":
        _check_onnxruntime(target, precision, options)
        return
    _check_options(target, options)
    _check_platform(target, platform)
    _check_builder(target, platform)
    if target.backend == "tensorrt":
        _check_gpu(target, platform)
    if options.hardware_compatibility == "ampere_plus" and precision == "fp8":
        reason = "ampere_plus engines run on every GPU from 8.0 on, and fp8 needs Ada (8.9) or newer"
        raise _unsupported(target, reason, "leave --hardware-compatible out, or --engine fp16 or int8")
    own = (platform.gpu.compute_capability,) if isinstance(platform.gpu, Gpu) else ()
    chosen = capabilities_for(target, precision, options) or target.capabilities
    _check_capabilities(target, precision, own if target.backend == "tensorrt" else chosen, options)


def _check_onnxruntime(target: Target, precision: Precision, options: EngineOptions) -> None:
    if precision == "bf16":
        raise _unsupported(
            target,
            "ONNX Runtime has no bfloat16 convolutions on CPUs",
            "--engine fp16, or --target tensorrt-rtx or tensorrt (--keep-onnx keeps the bfloat16 file)",
        )
    if options != EngineOptions():
        raise _unsupported(target, "no engine is built, so engine options have no effect", "leave them out")


def _check_options(target: Target, options: EngineOptions) -> None:
    rtx = target.backend == "tensorrt-rtx"
    if options.compute_capabilities and not rtx:
        raise _unsupported(
            target,
            "TensorRT builds for this machine's GPU; only TensorRT-RTX takes a list",
            "build on the GPU itself, or --target tensorrt-rtx",
        )
    if options.timing_cache is not None and rtx:
        raise _unsupported(
            target,
            "TensorRT-RTX does not measure kernels when it builds, its timing cache is empty",
            "leave it out",
        )
    if options.hardware_compatibility not in HARDWARE_COMPATIBILITY:
        raise UsageError(
            "hardware compatibility",
            expected=f"one of {', '.join(HARDWARE_COMPATIBILITY)}",
            got=options.hardware_compatibility,
        )
    if options.hardware_compatibility != "none" and rtx:
        raise _unsupported(
            target, "TensorRT-RTX engines run on every listed GPU already", "--compute-capability 8.6,8.9"
        )
    if options.version_compatible and rtx:
        raise _unsupported(target, "TensorRT-RTX has no version-compatible engines", "leave it out")
    if options.version_compatible and target.drive:
        raise _unsupported(
            target, "NVIDIA does not support version-compatible engines on DRIVE", "leave it out"
        )
    if options.hardware_compatibility != "none" and (target.drive or target.name.startswith("jetson")):
        raise _unsupported(
            target, "NVIDIA does not support hardware compatibility on DRIVE OS and JetPack", "leave it out"
        )
    if options.plugin is False and options.plugin_library is not None:
        raise UsageError("--no-plugin and --plugin-library cannot be combined", fix="leave one of them out")
    if options.plugin_library is not None and not options.plugin_library.is_file():
        raise DependencyMissing(
            f"the plugin library {options.plugin_library}",
            got="no such file",
            fix="build it as plugins/tensorrt/README.md says, or leave it out to use the Python plugins",
        )


def _check_builder(target: Target, platform: Platform) -> None:
    version = platform.version(target.backend)
    if version is None:
        driver = platform.gpu.driver if isinstance(platform.gpu, Gpu) else None
        fix = f"pip install 'imp-trt[{extra_for(target.backend, driver)}]'"
        if target.platform == "linux-aarch64":  # pip's TensorRT is for servers
            fix = "install python3-libnvinfer of the system; venv needs --system-site-packages to see it"
        raise DependencyMissing(
            f"{target.backend} for target {target.name}",
            expected=f"the Python package {target.backend.replace('-', '_')}",
            got="no such package",
            fix=f"{fix}; or stay with the ONNX file: --target onnxruntime",
        )
    check_version(target, version, f"this machine has {version}")


def check_version(target: Target, version: str, found: str) -> None:
    """UsageError unless a TensorRT of this version builds for the target.

    Args:
        target: profile.
        version: of TensorRT.
        found: where that version is, for the message.
    """
    numbers = version_pair(version)
    if target.versions is None or target.versions[0] <= numbers < target.versions[1]:
        return
    first, end = (".".join(map(str, v)) for v in target.versions)
    reason = f"{target.note}: built with TensorRT {first} or newer, below {end}; {found}"
    if numbers[0] < 10:
        reason += ", which has no IPluginV3"
    raise _unsupported(target, reason, "--target onnxruntime, or another TensorRT")


def _check_platform(target: Target, platform: Platform) -> None:
    """Checked before missing packages are reported: installing them on another machine would not help."""
    if target.platform is not None and platform.name != target.platform:
        raise _unsupported(
            target,
            f"TensorRT engines are built on the device itself ({target.platform}); this is {platform.name}",
            f"run imp-export --target {target.name} on the device, or --target onnxruntime on this machine",
        )


def _check_gpu(target: Target, platform: Platform) -> None:
    """A TensorRT engine runs on the type of GPU that it was built on."""
    if not isinstance(platform.gpu, Gpu):
        raise DependencyMissing(
            f"a GPU for target {target.name}",
            expected="an NVIDIA GPU with a driver: TensorRT measures its kernels on it",
            got=platform.gpu.got or platform.gpu.what,
            fix="build on the machine that has the GPU, or --target tensorrt-rtx or onnxruntime",
        )
    capability = platform.gpu.compute_capability
    if target.capabilities and capability not in target.capabilities:
        raise _unsupported(
            target,
            f"TensorRT builds for this machine's GPU, {platform.gpu.name} ({capability}), "
            f"and this target has {' or '.join(target.capabilities)}",
            "build on the device itself, or --target tensorrt for this GPU",
        )


def _check_capabilities(
    target: Target, precision: Precision, capabilities: Sequence[str], options: EngineOptions
) -> None:
    minimum = _MIN_CAPABILITY.get(precision, (0, 0))
    for text in capabilities:
        pair = _pair(text)
        if target.backend == "tensorrt-rtx" and pair == (7, 5):
            raise _unsupported(
                target,
                "TensorRT-RTX has no float32 matrix products on Turing (7.5), which boxes need",
                "leave 7.5 out, or build with --target tensorrt on that GPU",
            )
        if target.backend == "tensorrt-rtx" and text not in TARGETS["tensorrt-rtx"].capabilities:
            raise _unsupported(
                target,
                f"TensorRT-RTX does not support compute capability {text}, "
                f"only {', '.join(TARGETS['tensorrt-rtx'].capabilities)}",
                "build with --target tensorrt on that GPU",
            )
        if pair < minimum:
            raise _unsupported(
                target,
                f"{precision} needs {_ARCHITECTURE[precision]} or newer, and {text} is among the GPUs",
                "--engine fp16 or int8, or other GPUs",
            )
        if options.hardware_compatibility == "ampere_plus" and pair < (8, 0):
            raise _unsupported(
                target, f"ampere_plus engines are built on Ampere or newer, not on {text}", "leave it out"
            )


def list_targets(platform: Platform) -> str:
    """The profiles as a text table; the best one of this machine is marked with a star."""
    best = default_target(platform)
    lines = []
    for target in TARGETS.values():
        mark = "*" if target.name == best else " "
        gpus = ", ".join(target.capabilities) or "-"
        lines.append(f"{mark} {target.name:13} {target.backend:13} {target.note}")
        lines.append(f"  {'':13} GPUs {gpus}; {target.source} ({target.as_of})")
        if target.unsupported:
            lines.append(f"  {'':13} not supported: {target.unsupported}")
    return "\n".join([*lines, "", "* best on this machine"])


def version_pair(version: str) -> tuple[int, int]:
    """Major and minor of a version such as "10.3.0.26-1+cuda12.5"; zeros if there are no numbers."""
    match = re.match(r"([0-9]+)(?:\.([0-9]+))?", version)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def _pair(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor)
    except ValueError:
        raise UsageError("compute capability", expected='such as "8.6"', got=text) from None


def _unsupported(target: Target, reason: str, fix: str) -> UsageError:
    return UsageError(f"target {target.name}: {reason}", fix=fix)

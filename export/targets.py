"""Where an exported network can run: dated profiles, and what is impossible there, with the reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from imp_trt.artifacts.engine_info import HARDWARE_COMPATIBILITY
from imp_trt.cuda.platform import Gpu, Platform, extra_for
from imp_trt.errors import DependencyMissing, UsageError
from imp_trt.export.options import EngineOptions

_LEAST_CAPABILITY = {"bf16": (8, 0), "fp8": (8, 9)}
_ARCHITECTURE = {"bf16": "Ampere (8.0)", "fp8": "Ada (8.9)"}
_MIGRATION = "docs.nvidia.com/deeplearning/tensorrt/11.4.1, api/migration"


@dataclass(frozen=True)
class Target:
    """A backend, or a device with what NVIDIA ships for it.

    Attributes:
        name: what --target takes.
        backend: "onnxruntime", "tensorrt" or "tensorrt-rtx".
        note: what it is, in a line.
        source, as_of: where the data comes from, and when it was read (ISO date).
        versions: TensorRT versions [first, end) that imp-trt supports there.
        capabilities: compute capabilities of its GPUs; empty means that of the GPU at hand.
        platform: operating system and machine that engines must be built on, or None for any.
        drive: whether it is an NVIDIA DRIVE product.
        refusal: why nothing can be built for it, or None.
    """

    name: str
    backend: str
    note: str
    source: str
    as_of: str = "2026-11-22"
    versions: tuple[tuple[int, int], tuple[int, int]] | None = None
    capabilities: tuple[str, ...] = ()
    platform: str | None = None
    drive: bool = False
    refusal: str | None = None


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
            refusal="DriveOS 6 has TensorRT 8.x, which has no IPluginV3 and no local functions",
        ),
        Target(
            "drive-thor",
            "tensorrt",
            "DRIVE Thor: DriveOS 7.0.3 (TensorRT 10.10), from 7.2.5 on (11.0)",
            "developer.nvidia.com/docs/drive/drive-os/7.0.3; TensorRT 11.3.0 migration, DriveOS page",
            versions=_ALL,
            capabilities=("10.1", "11.0"),
            platform="linux-aarch64",
            drive=True,
        ),
        Target(
            "jetson-orin",
            "tensorrt",
            "Jetson Orin: JetPack 6 (TensorRT 10.3), from 7.2.2 on (11.4)",
            f"{_MIGRATION}, Jetson page",
            versions=_ALL,
            capabilities=("8.7",),
            platform="linux-aarch64",
        ),
        Target(
            "jetson-thor",
            "tensorrt",
            "Jetson Thor: JetPack 7 (TensorRT 10.x), from 7.2.2 on (11.4)",
            f"{_MIGRATION}, Jetson page",
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
            "data-centre",
            "tensorrt",
            "T4, A100, A10, L4, L40S, H100, H200, B200, B300, RTX PRO; built on the GPU itself",
            "the GPUs' compute capabilities; TensorRT's support matrix was not read",
            versions=_ALL,
            capabilities=("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0"),
        ),
    )
}
"""Profiles by name."""


def find_target(name: str) -> Target:
    """The profile of that name; UsageError names all of them."""
    if name not in TARGETS:
        raise UsageError(
            "target", expected=f"one of {', '.join(TARGETS)}", got=name, fix="imp-export --list-targets"
        )
    return TARGETS[name]


def default_target(here: Platform) -> str:
    """Best target of a machine: a supported TensorRT with a GPU, TensorRT-RTX, ONNX Runtime."""
    if here.tensorrt is not None and isinstance(here.gpu, Gpu):
        if _ALL[0] <= version_pair(here.tensorrt) < _ALL[1]:
            return "tensorrt"
    return "onnxruntime" if here.tensorrt_rtx is None else "tensorrt-rtx"


def capabilities_for(target: Target, precision: str, options: EngineOptions) -> tuple[str, ...]:
    """Compute capabilities to hand to TensorRT-RTX; empty leaves its default, which is its widest.

    Of the target's own list those remain that have the precision's type.
    """
    if target.backend != "tensorrt-rtx":
        return ()
    if options.compute_capabilities:
        return options.compute_capabilities
    able = tuple(c for c in target.capabilities if _pair(c) >= _LEAST_CAPABILITY.get(precision, (0, 0)))
    return () if able == TARGETS["tensorrt-rtx"].capabilities else able


def check_target(target: Target, precision: str, options: EngineOptions, here: Platform) -> None:
    """Raise unless an artifact of this precision can be made for the target on this machine.

    Args:
        target: profile.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8".
        options: how to build.
        here: this machine.

    Raises:
        UsageError: the combination is impossible; the message has the reason.
        DependencyMissing: the builder or its GPU is not here.
    """
    if target.refusal:
        raise _refused(target, target.refusal, "use DriveOS 7, or --target onnxruntime")
    if target.backend == "onnxruntime":
        _check_onnxruntime(target, precision, options)
        return
    _check_options(target, options)
    _check_platform(target, here)
    _check_builder(target, here)
    if target.backend == "tensorrt":
        _check_gpu(target, here)
    own = (here.gpu.compute_capability,) if isinstance(here.gpu, Gpu) else ()
    chosen = capabilities_for(target, precision, options) or target.capabilities
    _check_capabilities(target, precision, own if target.backend == "tensorrt" else chosen, options)


def _check_onnxruntime(target: Target, precision: str, options: EngineOptions) -> None:
    if precision == "bf16":
        raise _refused(
            target,
            "ONNX Runtime's CPU has no bfloat16 convolutions",
            "--engine fp16, or --target tensorrt-rtx or tensorrt (--keep-onnx keeps the bfloat16 file)",
        )
    if options != EngineOptions():
        raise _refused(target, "no engine is built, so that engine options have no effect", "leave them out")


def _check_options(target: Target, options: EngineOptions) -> None:
    rtx = target.backend == "tensorrt-rtx"
    if options.compute_capabilities and not rtx:
        raise _refused(
            target,
            "TensorRT builds for the GPU at hand; only TensorRT-RTX takes a list",
            "build on the GPU itself, or --target tensorrt-rtx",
        )
    if options.timing_cache is not None and rtx:
        raise _refused(
            target, "TensorRT-RTX measures nothing while building, its timing cache is empty", "leave it out"
        )
    if options.hardware_compatibility not in HARDWARE_COMPATIBILITY:
        raise UsageError(
            "hardware compatibility",
            expected=f"one of {', '.join(HARDWARE_COMPATIBILITY)}",
            got=options.hardware_compatibility,
        )
    if options.hardware_compatibility != "none" and rtx:
        raise _refused(
            target, "TensorRT-RTX engines serve every listed GPU already", "--compute-capability 8.6,8.9"
        )
    if options.version_compatible and rtx:
        raise _refused(target, "TensorRT-RTX has no version-compatible engines", "leave it out")
    if options.version_compatible and target.drive:
        raise _refused(target, "NVIDIA does not support version-compatible engines on DRIVE", "leave it out")
    if options.plugin is False and options.plugin_library is not None:
        raise UsageError("--no-plugin and --plugin-library exclude each other", fix="leave one of them out")
    if options.plugin_library is not None and not options.plugin_library.is_file():
        raise DependencyMissing(
            f"the plugin library {options.plugin_library}",
            got="no such file",
            fix="build it as plugins/tensorrt/README.md says, or leave it out to use the Python plugins",
        )


def _check_builder(target: Target, here: Platform) -> None:
    version = here.version(target.backend)
    if version is None:
        driver = here.gpu.driver if isinstance(here.gpu, Gpu) else None
        fix = f"pip install 'imp-trt[{extra_for(target.backend, driver)}]'"
        if target.platform == "linux-aarch64":  # pip's TensorRT is for servers
            fix = "install python3-libnvinfer of the system; venv needs --system-site-packages to see it"
        raise DependencyMissing(
            f"{target.backend} for target {target.name}",
            expected=f"the Python package {target.backend.replace('-', '_')}",
            got="no such package",
            fix=f"{fix}; or imp-export --target onnxruntime",
        )
    numbers = version_pair(version)
    if target.versions is None or target.versions[0] <= numbers < target.versions[1]:
        return
    first, end = (".".join(map(str, v)) for v in target.versions)
    reason = f"{target.note}: built with TensorRT {first} or newer, below {end}; here is {version}"
    if numbers[0] < 10:
        reason += ", which has no IPluginV3"
    raise _refused(target, reason, "--target onnxruntime, or another TensorRT")


def _check_platform(target: Target, here: Platform) -> None:
    """Before anything is said to be missing: on another machine it would be installed in vain."""
    if target.platform is not None and here.name != target.platform:
        raise _refused(
            target,
            f"TensorRT engines are built on the device itself ({target.platform}); this is {here.name}",
            f"run imp-export --target {target.name} there, or --target onnxruntime here",
        )


def _check_gpu(target: Target, here: Platform) -> None:
    """A TensorRT engine fits the GPU that it was built on."""
    if not isinstance(here.gpu, Gpu):
        raise DependencyMissing(
            f"a GPU for target {target.name}",
            expected="an NVIDIA GPU with a driver: TensorRT measures its kernels on it",
            got=here.gpu.got or here.gpu.what,
            fix="build on the machine that has the GPU, or --target tensorrt-rtx or onnxruntime",
        )
    found = here.gpu.compute_capability
    if target.capabilities and found not in target.capabilities:
        raise _refused(
            target,
            f"TensorRT builds for the GPU at hand, {here.gpu.name} ({found}), "
            f"and this target has {' or '.join(target.capabilities)}",
            "build on the device itself, or --target tensorrt for this GPU",
        )


def _check_capabilities(
    target: Target, precision: str, capabilities: Sequence[str], options: EngineOptions
) -> None:
    least = _LEAST_CAPABILITY.get(precision, (0, 0))
    for text in capabilities:
        pair = _pair(text)
        if target.backend == "tensorrt-rtx" and pair == (7, 5):
            raise _refused(
                target,
                "TensorRT-RTX has no float32 matrix products on Turing (7.5), which boxes need",
                "leave 7.5 out, or build with --target tensorrt on that GPU",
            )
        if target.backend == "tensorrt-rtx" and text not in TARGETS["tensorrt-rtx"].capabilities:
            raise _refused(
                target,
                f"TensorRT-RTX does not serve compute capability {text}, "
                f"only {', '.join(TARGETS['tensorrt-rtx'].capabilities)}",
                "build with --target tensorrt on that GPU",
            )
        if pair < least:
            raise _refused(
                target,
                f"{precision} needs {_ARCHITECTURE[precision]} or newer, and {text} is among the GPUs",
                "--engine fp16 or int8, or other GPUs",
            )
        if options.hardware_compatibility == "ampere_plus" and pair < (8, 0):
            raise _refused(
                target, f"ampere_plus engines are built on Ampere or newer, not on {text}", "leave it out"
            )


def list_targets(here: Platform) -> str:
    """The profiles as a table for people, the best one here marked with a star."""
    best = default_target(here)
    lines = []
    for target in TARGETS.values():
        mark = "*" if target.name == best else " "
        gpus = ", ".join(target.capabilities) or "-"
        lines.append(f"{mark} {target.name:13} {target.backend:13} {target.note}")
        lines.append(f"  {'':13} GPUs {gpus}; {target.source} ({target.as_of})")
        if target.refusal:
            lines.append(f"  {'':13} not supported: {target.refusal}")
    return "\n".join([*lines, "", "* best here"])


def version_pair(version: str) -> tuple[int, int]:
    """Major and minor of a version such as "10.3.0.26-1+cuda12.5"; zeros where there are no numbers."""
    found = re.match(r"([0-9]+)(?:\.([0-9]+))?", version)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def _pair(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor)
    except ValueError:
        raise UsageError("compute capability", expected='such as "8.6"', got=text) from None


def _refused(target: Target, reason: str, fix: str) -> UsageError:
    return UsageError(f"target {target.name}", got=reason, fix=fix)

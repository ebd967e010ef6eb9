# SPDX-License-Identifier: Apache-2.0
"""What is decided and validated before the long work of an export starts."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from imp_trt.artifacts.artifact import SUFFIXES
from imp_trt.artifacts.manifest import QUANTIZED, Precision
from imp_trt.artifacts.reading import whole_of
from imp_trt.artifacts.writing import check_name_length
from imp_trt.backends.preflight import check_plugins
from imp_trt.cuda.platform import Gpu, Platform
from imp_trt.data.files import fixed
from imp_trt.errors import CheckpointError, ImpTrtError, OutputError, UsageError
from imp_trt.export.options import EngineOptions, ExportOptions
from imp_trt.export.progress import Progress
from imp_trt.export.quantization.calibration_frames import CalibrationFrames
from imp_trt.export.targets import (
    Target,
    capabilities_for,
    check_target,
    default_engine_target,
    default_target,
    find_target,
)
from imp_trt.export.tensorrt.build_job import DEFAULT_OPTIMIZATION_LEVEL
from imp_trt.export.tensorrt.engine import uses_plugin
from imp_trt.export.verification.frames import VerificationFrames
from imp_trt.export.verification.gates import GATES, Gate

_log = logging.getLogger(__name__)

_FILES = {
    *SUFFIXES.values(),
    *(".plan", ".trt", ".eng", ".ort", ".pb", ".safetensors", ".pt", ".pth", ".json", ".npz"),
}
"""Suffixes, in lower case, that no one means a folder with."""

_RTX_QUANTIZED = (
    "NVIDIA documents int8 in TensorRT-RTX for weights only, and float8 for matrix products: the engine may "
    "be smaller and no faster than a float16 one (support matrices up to 1.5, release notes of 1.7)"
)

_RTX_LEVEL = "--optimization-level has no effect: TensorRT-RTX builds the same engine at every level"  # 1.7.1

_LEVEL_0 = "--timing-cache has no effect at --optimization-level 0, at which TensorRT does not use one"


@dataclass(frozen=True)
class ExportPlan:
    """The options of an export with all defaults resolved.

    Attributes:
        weights: checkpoint, or the ONNX file of an engine.
        path: of the artifact.
        options: of the export.
        target: profile.
        platform: of this machine.
        frames: to verify on.
        calibration: for int8 and fp8.
        progress: callback.
    """

    weights: Path
    path: Path
    options: ExportOptions
    target: Target
    platform: Platform
    frames: VerificationFrames
    calibration: CalibrationFrames | None
    progress: Progress = field(repr=False)

    @property
    def gate(self) -> Gate:
        """What the export must reach."""
        return self.options.gate or GATES[self.options.precision]


def make_plan(weights: Path, output: Path, options: ExportOptions, progress: Progress) -> ExportPlan:
    """Decide target and path, and validate the options. Arguments and errors as for `export_model`."""
    platform = Platform.detect()
    target = find_target(options.target or _implied_target(output) or default_target(platform))
    if options.target is None and target.backend == "onnxruntime" and platform.tensorrt_rtx is not None:
        _log.info(
            "target onnxruntime, because no GPU was found that can run an engine; devices build theirs from "
            "the ONNX file, and --target tensorrt-rtx builds one on this machine"
        )
    plan = _plan(weights, weights.stem, output, options, target, platform, progress)
    if not weights.is_file():  # said before PyTorch is imported
        raise CheckpointError(
            f"checkpoint {weights}", expected="an existing file", got="no file", fix="check the path"
        )
    return plan


def make_engine_plan(onnx: Path, output: Path, options: ExportOptions, progress: Progress) -> ExportPlan:
    """Like :func:`make_plan`, for an engine from an ONNX file instead of a checkpoint.

    Args:
        onnx: the file; ``<precision>.onnx`` at its end is not part of the engine's name.
        output: folder or file name of the engine.
        options: of the export; the precision is the file's.
        progress: callback.

    Raises:
        UsageError: also for a target without engines.
    """
    platform = Platform.detect()
    target = find_target(options.target or default_engine_target(platform))
    if target.backend == "onnxruntime":
        raise UsageError(
            f"target {target.name} for {onnx}",
            expected="a target of TensorRT or TensorRT-RTX",
            got="an ONNX file, which ONNX Runtime runs as it is",
            fix="use the file as it is, or choose another --target; imp-export --list-targets lists them",
        )
    return _plan(
        onnx, onnx.stem.removesuffix(f".{options.precision}"), output, options, target, platform, progress
    )


def make_network_plan(onnx: Path, output: Path, options: ExportOptions, progress: Progress) -> ExportPlan:
    """Like :func:`make_plan`, for a third-party ONNX file; its ``frames`` are the caller's to read."""
    platform = Platform.detect()
    target = find_target(options.target or _implied_target(output) or default_target(platform))
    name = onnx.stem.removesuffix(f".{options.precision}")
    plan = _plan(onnx, name, output, replace(options, frames=None), target, platform, progress)
    if plan.path.exists() and plan.path.samefile(onnx):
        raise UsageError(
            f"output {plan.path}", expected="another file than the input", fix="choose another with -o"
        )
    return replace(plan, options=options)


def _plan(
    source: Path,
    name: str,
    output: Path,
    options: ExportOptions,
    target: Target,
    platform: Platform,
    progress: Progress,
) -> ExportPlan:
    check_target(target, options.precision, options.engine, platform)
    if options.engine.timing_cache is not None:
        _check_timing_cache(options.engine.timing_cache)
    if target.backend == "tensorrt-rtx" and options.precision in QUANTIZED:
        _log.warning(_RTX_QUANTIZED)
    _warn_of_level(target, options.engine)
    _check_plugins(target, options, platform)
    frames = VerificationFrames(None if options.frames is None else Path(options.frames), options.frame_count)
    frames.check()
    return ExportPlan(
        weights=source,
        path=_output_path(name, output, options.precision, target),
        options=options,
        target=target,
        platform=platform,
        frames=frames,
        calibration=None if options.calibration is None else CalibrationFrames(Path(options.calibration)),
        progress=progress,
    )


def _check_timing_cache(path: Path) -> None:
    """Rejects a file that cannot be written, or that must not be: TensorRT takes any content as no cache."""
    check_writable(path, "timing cache", "choose another file")
    if path.suffix.lower() in _FILES:
        raise UsageError(
            f"timing cache {path}",
            expected="a file of its own, such as timing.cache, which is written",
            got=f"the name of a model or its data, {path.suffix}",
            fix="--timing-cache timing.cache",
        )


def _warn_of_level(target: Target, engine: EngineOptions) -> None:
    """Log an optimization level without effect, and one with which a timing cache has none."""
    if target.backend == "tensorrt-rtx" and engine.optimization_level != DEFAULT_OPTIMIZATION_LEVEL:
        _log.warning(_RTX_LEVEL)
    if engine.timing_cache is not None and engine.optimization_level == 0:
        _log.warning(_LEVEL_0)


def _check_plugins(target: Target, options: ExportOptions, platform: Platform) -> None:
    """Rejects an engine for this GPU if its plugins do not run on it; one for other GPUs may be built."""
    engine = options.engine
    if target.backend == "onnxruntime" or not uses_plugin(target, engine) or engine.plugin_library:
        return
    if target.backend == "tensorrt":
        check_plugins(platform)
        return
    capabilities = capabilities_for(target, options.precision, engine) or target.capabilities
    if isinstance(platform.gpu, Gpu) and platform.gpu.compute_capability in capabilities:
        try:
            check_plugins(platform)
        except ImpTrtError as error:
            _log.warning("the engine will not run on this machine: %s", error)


def _implied_target(output: Path) -> str | None:
    """The target that the suffix .onnx of the output implies."""
    return "onnxruntime" if output.suffix == ".onnx" else None


def _output_path(name: str, output: Path, precision: Precision, target: Target) -> Path:
    """The artifact's path; rejects early what could not be written after minutes of work."""
    suffix = ".onnx" if target.backend == "onnxruntime" else ".engine"
    middle = precision if target.backend == "onnxruntime" else f"{precision}.{target.name}"
    check_suffix(output, suffix, target)
    path = output if output.suffix == suffix else output / f"{name}.{middle}{suffix}"
    check_name_length(path)
    check_writable(path, "output", "choose another with -o")
    if (whole := whole_of(path)) is not None:
        raise OutputError(
            f"output {path}",
            expected="a name that is free",
            got=f"the canvas part of {whole}",
            fix="choose another with -o",
        )
    return path


def check_suffix(output: Path, suffix: str, target: Target) -> None:
    """UsageError for an output that is named as a model file of another kind: it would become a folder."""
    other = output.suffix.lower() in _FILES and output.suffix != suffix
    if other and not output.is_dir():
        raise UsageError(
            f"output {output} for target {target.name}",
            expected=f"a folder, or a file name that ends with {suffix}",
            got=output.suffix,
            fix="choose another with -o, or another --target",
        )


def check_writable(path: Path, what: str, fix: str) -> None:
    """OutputError unless a file can be written to this path, whose folder may not exist yet."""
    try:
        is_folder = path.is_dir()
        folder = next(p for p in (path.parent, *fixed(path).parents) if p.exists())
    except OSError as error:  # a name that is too long
        raise OutputError(f"{what} {path}", expected="a valid path", got=error.strerror, fix=fix) from error
    if is_folder:
        raise OutputError(f"{what} {path}", expected="a file name", got="a folder", fix=fix)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{what} {path}", expected="a writable folder", got=str(folder), fix=fix)

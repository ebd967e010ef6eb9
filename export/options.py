# SPDX-License-Identifier: Apache-2.0
"""Options of an export, validated as far as possible without a file, a GPU or a large package."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from imp_trt.artifacts.engine_info import HardwareCompatibility
from imp_trt.artifacts.fields import build
from imp_trt.artifacts.manifest import PRECISIONS, QUANTIZED, Precision
from imp_trt.errors import UsageError
from imp_trt.export.tensorrt.build_job import DEFAULT_OPTIMIZATION_LEVEL, MAX_OPTIMIZATION_LEVEL
from imp_trt.export.verification.gates import Gate
from imp_trt.models.config import MAX_NMS_ITERATIONS, NMS_ITERATIONS

AUTO = "auto"
"""Value of keep_float16 that chooses the layers."""

DEFAULT_FRAMES = 50
"""Default number of frames to verify on."""

_RENAMED = {"passes": "nms_iterations", "options": "engine"}


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine; None takes the target's default.

    Attributes:
        plugin: True for plugin layers, False for the function bodies of the operators.
        plugin_library: C++ plugin library.
        compute_capabilities: GPUs to build for, e.g. ``("8.6", "8.9")``.
        workspace: limit of the scratch memory in bytes.
        timing_cache: file of measured kernel times, read and updated.
        optimization_level: 0 to 5; higher levels take longer to build.
        hardware_compatibility: level of hardware compatibility, as TensorRT names it.
        version_compatible: whether later TensorRT versions may load the engine, in other programs.
        keep_onnx: write the ONNX file, with the bodies of its operators, as an artifact next to the engine.

    Raises:
        UsageError: workspace or optimization_level is out of range, which TensorRT would ignore, or
            compute_capabilities is a text.
    """

    plugin: bool | None = None
    plugin_library: Path | None = None
    compute_capabilities: tuple[str, ...] = ()
    workspace: int | None = None
    timing_cache: Path | None = None
    optimization_level: int = DEFAULT_OPTIMIZATION_LEVEL
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    keep_onnx: bool = False

    def __post_init__(self) -> None:
        for name in ("plugin_library", "timing_cache"):
            if isinstance(path := getattr(self, name), str):
                object.__setattr__(self, name, Path(path))
        given: object = self.compute_capabilities
        if isinstance(given, str):
            raise UsageError(
                "compute_capabilities", expected="a tuple of texts", got=repr(given), fix=f"pass {(given,)}"
            )
        object.__setattr__(self, "compute_capabilities", tuple(dict.fromkeys(self.compute_capabilities)))
        if self.workspace is not None and (type(self.workspace) is not int or self.workspace < 1):
            raise UsageError("workspace", expected="bytes, an integer above 0", got=repr(self.workspace))
        level = self.optimization_level
        if type(level) is not int or not 0 <= level <= MAX_OPTIMIZATION_LEVEL:
            raise UsageError("optimization_level", expected=f"0 to {MAX_OPTIMIZATION_LEVEL}", got=repr(level))


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, and how it is verified.

    Attributes:
        precision: of the exported network.
        target: name of a profile in :data:`imp_trt.export.targets.TARGETS`; None takes the best one of
            this machine.
        batch: frames per network call, fixed in the file.
        nms_iterations: iterations of each fixed-point NMS.
        calibration: folder of images; required for int8 and fp8, invalid for others.
        verify: False writes the file unverified, which its manifest states.
        frames: folder of images to verify on; synthetic street scenes are added up to frame_count.
        frame_count: number of frames to verify on.
        engine: how to build an engine.
        function_free: also write ``<artifact's name>.function-free.onnx``, the ONNX file without the bodies
            of its operators, which runs only with their plugins: for other programs with TensorRT below
            10.7. It has no manifest: imp_trt runs the artifact.
        parts: also write the canvas part, ``<artifact's name>.canvas.onnx`` or ``.canvas.engine``: backbone
            and semantic head with the canvas as an input, for videos (Segmenter.stream with detect_every).
        keep_float16: for int8 and fp8: names or patterns of layers that stay in float16, separated by commas,
            or "auto": as few as the gate allows, by what each costs. None keeps those that are known to
            cost much.
        gate: None means the precision's in :data:`imp_trt.export.verification.gates.GATES`.
        calibrated: the network is an ONNX file, which contains its ranges: int8 and fp8 need no calibration.

    Raises:
        UsageError: a value is out of range, or calibration and precision do not match.
    """

    precision: Precision = "fp32"
    target: str | None = None
    batch: int = 1
    nms_iterations: int = NMS_ITERATIONS
    calibration: str | os.PathLike[str] | None = None
    verify: bool = True
    frames: str | os.PathLike[str] | None = None
    frame_count: int = DEFAULT_FRAMES
    engine: EngineOptions = field(default_factory=EngineOptions)
    function_free: bool = False
    parts: bool = False
    keep_float16: str | None = None
    gate: Gate | None = None
    calibrated: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError("precision", expected=f"one of {', '.join(PRECISIONS)}", got=self.precision)
        for name in ("batch", "nms_iterations", "frame_count"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise UsageError(name, expected="an integer of at least 1", got=repr(value))
        if self.nms_iterations > MAX_NMS_ITERATIONS:
            limit = f"at most {MAX_NMS_ITERATIONS}"
            raise UsageError("nms_iterations", expected=limit, got=self.nms_iterations)
        if not self.calibrated or self.calibration is not None:
            check_calibration(self.precision, self.calibration is not None)
        if self.keep_float16 is not None:
            check_keep_float16(self.precision, self.keep_float16, self.verify)


def check_calibration(precision: Precision, given: bool) -> None:
    """UsageError unless calibration frames are given exactly when the precision requires them."""
    if precision in QUANTIZED and not given:
        raise UsageError(
            f"precision {precision}",
            expected="calibration frames",
            got="none",
            fix="name a folder of images like those in use: --calib DIR",
        )
    if given and precision not in QUANTIZED:
        raise UsageError(
            f"precision {precision} takes no calibration frames", fix="leave --calib out, or --engine int8"
        )


def check_keep_float16(precision: Precision, keep: str, verify: bool) -> None:
    """UsageError if no layer is quantized, or if `auto` has no comparison to go by."""
    if precision not in QUANTIZED:
        raise UsageError(
            f"precision {precision} quantizes no layer", fix="leave --keep-float16 out, or --engine int8"
        )
    if keep == AUTO and not verify:
        raise UsageError(
            "--keep-float16 auto", expected="verification, whose gate it obeys", got="--no-verify"
        )


_OF_A_CHECKPOINT = {
    "batch": "--batch",
    "nms_iterations": "--nms-iterations",
    "calibration": "--calib",
    "function_free": "--function-free",
    "parts": "--parts",
    "keep_float16": "--keep-float16",
    "gate": "--gate",
}
"""Fields of ExportOptions that only an export from a checkpoint uses, and their flags."""


def reject_options_of_a_checkpoint(options: ExportOptions, what: str, fix: str, frames: bool = False) -> None:
    """UsageError if an option has another value than its default and only a checkpoint's export uses it.

    Args:
        options: to check.
        what, fix: for the message.
        frames: whether frames to verify on are not used either.
    """
    names = {**_OF_A_CHECKPOINT, **({"frames": "--frames"} if frames else {})}
    used = [flag for name, flag in names.items() if getattr(options, name) != getattr(_DEFAULTS, name)]
    used += ["--keep-onnx"] if options.engine.keep_onnx else []
    if used:
        raise UsageError(f"{what} takes no {', '.join(used)}", fix=f"leave it out; {fix}")


_DEFAULTS = ExportOptions()


def options_of(positional: Sequence[object], keywords: Mapping[str, object]) -> ExportOptions:
    """The options of a call; warns for arguments in the form of version 0.1.

    Args:
        positional: empty, or one ExportOptions or None; in version 0.1 precision, target, frames and batch.
        keywords: ``options``, or fields by name.

    Raises:
        TypeError: unknown keywords, or options of another type.
    """
    values: dict[str, object] = {}
    values |= dict(zip(("options", "target", "frames", "batch"), positional, strict=False))
    options = values.get("options", keywords.get("options"))
    if len(positional) <= 1 and not set(keywords) - {"options"} and isinstance(options, ExportOptions | None):
        return options or ExportOptions()
    if "options" in values:
        values["precision"] = values.pop("options")
    values |= {_RENAMED.get(name, name): value for name, value in keywords.items()}
    unknown = sorted(set(values) - {f.name for f in fields(ExportOptions)})
    if unknown or isinstance(values.get("precision"), ExportOptions):
        raise TypeError(
            f"options of an export: one ExportOptions, not also {', '.join(unknown) or 'keywords'}"
        )
    warnings.warn(
        "passing the options of an export as single arguments is deprecated and will be removed in "
        "version 0.3: pass ExportOptions(...)",
        DeprecationWarning,
        stacklevel=3,
    )
    return build(ExportOptions, {name: value for name, value in values.items() if value is not None})

# SPDX-License-Identifier: Apache-2.0
"""imp-export: export trained weights to ONNX or a TensorRT engine and verify the result."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.artifacts.manifest import QUANTIZED, Precision
from imp_trt.cli.common import command_parser, run_command, stage_progress
from imp_trt.cli.export_network import add_shape_option, export_foreign, print_network_report
from imp_trt.cli.export_options import engine_options, graph_options, verification_options
from imp_trt.cli.export_report import print_bisection, print_report
from imp_trt.cli.printing import print_json, print_lines
from imp_trt.errors import DependencyMissing, UsageError, VerificationError
from imp_trt.export.options import AUTO, EngineOptions, ExportOptions, check_calibration, check_keep_float16

if TYPE_CHECKING:
    from imp_trt.export.plan import ExportPlan
    from imp_trt.export.report import ExportReport

EXAMPLES = """examples:
  imp-export --engine fp16                                 (bundled demo weights, best available target)
  imp-export --engine fp32 --target onnxruntime --weights model.safetensors -o models/
  imp-export --precisions fp16 int8 --calib recorded/ --weights model.safetensors   (.onnx files)
  imp-export --engine int8 --calib recorded/ --keep-float16 auto --weights model.safetensors
  imp-export --engine fp16 --bisect --weights model.safetensors   (the first node that differs from PyTorch)
  imp-export model.fp16.onnx --target jetson-orin          (on the Jetson, without PyTorch)
  imp-export yours.onnx --engine fp16 --shape images=1x3x640x640   (third-party, for imp_trt.Engine)
  imp-export --adopt plan.engine --onnx model.fp16.onnx    (an engine that trtexec built)
  imp-export --engine fp16 --target rtx --compute-capability 8.9,12.0  (needs no GPU)
  imp-export --parts --weights model.safetensors -o street.onnx   (for videos: imp-segment --detect-every)
  imp-export --list-targets"""

ENGINES = ("fp32", "fp16", "bf16", "int8", "fp8")

CHECKPOINT_OPTIONS = {
    "weights": "--weights",
    "precisions": "--precisions",
    "frames": "--frames",
    "calib": "--calib",
    "keep_float16": "--keep-float16",
    "gate": "--gate",
    "bisect": "--bisect",
    "batch": "--batch",
    "nms_iterations": "--nms-iterations",
    "function_free": "--function-free",
    "parts": "--parts",
    "keep_onnx": "--keep-onnx",
    "shape": "--shape",
}
"""Options of an export from a checkpoint that an ONNX file of it takes no more."""

FOREIGN_EXCLUDED = {
    name: flag for name, flag in CHECKPOINT_OPTIONS.items() if name not in ("frames", "shape")
}
"""Options that a third-party ONNX file has no use for."""

FILE_OPTIONS = {"function_free": "--function-free", "parts": "--parts", "keep_onnx": "--keep-onnx"}
"""Options that ask for more files."""

BUILD_OPTIONS = {
    "plugin_library": "--plugin-library",
    "compute_capability": "--compute-capability",
    "workspace": "--workspace",
    "timing_cache": "--timing-cache",
    "optimization_level": "--optimization-level",
    "hardware_compatible": "--hardware-compatible",
    "version_compatible": "--version-compatible",
}
"""Options of an engine build."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _export(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser(
        "imp-export",
        "Export trained weights to ONNX or a TensorRT engine, or build the engine of an exported ONNX file, "
        "and verify the result against PyTorch.",
        EXAMPLES,
    )
    p.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="an .onnx file of imp-export, to build its engine on this machine (no PyTorch needed); a "
        "third-party .onnx file in float32; or a checkpoint, as --weights",
    )
    p.add_argument(
        "--engine", choices=ENGINES, help="precision (default: that of the .onnx file; of a checkpoint fp32)"
    )
    p.add_argument(
        "--precisions",
        choices=ENGINES,
        nargs="+",
        metavar="PRECISION",
        help="several precisions in one run, instead of --engine; by default as .onnx files, from which "
        "devices build their engines",
    )
    p.add_argument(
        "--target",
        metavar="NAME",
        help="target to build for (default: the best one that runs on this machine: tensorrt or tensorrt-rtx "
        "with a GPU, else onnxruntime)",
    )
    p.add_argument("--list-targets", action="store_true", help="list the targets and exit")
    p.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="checkpoint, .safetensors or .pt (default: the bundled demo weights)",
    )
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(),
        metavar="PATH",
        help="output folder or file (default: current folder)",
    )
    p.add_argument(
        "--adopt",
        type=Path,
        metavar="ENGINE",
        help="write the manifest of an engine that trtexec built from the file of --onnx",
    )
    p.add_argument("--onnx", type=Path, metavar="FILE", help="for --adopt: the .onnx file of imp-export")
    graph_options(p)
    verification_options(p)
    add_shape_option(p)
    engine_options(p)
    return p


def _export(options: argparse.Namespace) -> int:
    if options.list_targets:
        return _list_targets(options.json)
    source = options.file
    if options.onnx is not None and options.adopt is None:
        raise UsageError("--onnx", expected="an engine to adopt", got="none", fix="pass the .onnx file alone")
    if options.adopt is not None:
        reports = [_adopt(options)]
    elif source is not None and source.suffix.lower() == ".onnx":
        from imp_trt.export.network import is_foreign

        if is_foreign(source):
            return _export_foreign(options)
        reports = [_build_from_onnx(options)]
    else:
        if options.bisect:
            _reject(options, "--bisect", FILE_OPTIONS, ": it writes no file")
        plans = _plans(options)
        if options.bisect:
            return _bisect(plans, options.json)
        reports = _export_plans(plans)
    if options.json:
        print_json(reports[0].to_dict() if options.precisions is None else [r.to_dict() for r in reports])
    else:
        for report in reports:
            print_report(report)
    return 0


def _export_foreign(options: argparse.Namespace) -> int:
    _reject(options, f"{options.file}, a third-party ONNX file,", FOREIGN_EXCLUDED, "")
    _check_verification(options)
    report = export_foreign(options, _engine(options))
    if options.json:
        print_json(report.to_dict())
    else:
        print_network_report(report)
    return 0


def _plans(options: argparse.Namespace) -> list[ExportPlan]:
    """Everything that can be rejected is, before PyTorch and ONNX Runtime are imported."""
    from imp_trt.export.plan import make_plan
    from imp_trt.export.verification.gates import GATES
    from imp_trt.weights import bundled

    _check_verification(options)
    if options.file is not None and options.weights is not None:
        raise UsageError("one checkpoint", got=f"{options.file} and --weights {options.weights}")
    if options.shape:
        raise UsageError("--shape", expected="a third-party .onnx file", got="a checkpoint")
    if options.precisions is not None and options.engine is not None:
        raise UsageError("--engine and --precisions cannot be combined", fix="leave one of them out")
    target = options.target
    if options.precisions is not None:
        target = target or "onnxruntime"
        if options.output.suffix in (".onnx", ".engine") and not options.output.is_dir():
            raise UsageError("output of --precisions", expected="a folder", got=str(options.output))
        if not set(options.precisions) & set(QUANTIZED):
            if options.calib is not None:
                check_calibration(options.precisions[0], True)
            if options.keep_float16 is not None:
                check_keep_float16(options.precisions[0], options.keep_float16, not options.no_verify)
    weights = options.file or options.weights or bundled()
    progress = stage_progress("imp-export", options.quiet)
    plans = []
    chosen_precisions: list[Precision] = options.precisions or [options.engine or "fp32"]
    for precision in dict.fromkeys(chosen_precisions):
        calibration, keep = options.calib, options.keep_float16
        if options.precisions is not None and precision not in QUANTIZED:
            calibration = keep = None  # they are for the others
        chosen = ExportOptions(
            precision=precision,
            target=target,
            batch=options.batch,
            nms_iterations=options.nms_iterations,
            calibration=calibration,
            verify=not options.no_verify,
            frames=options.frames,
            engine=_engine(options),
            function_free=options.function_free,
            parts=options.parts,
            keep_float16=keep,
            gate=replace(GATES[precision], **options.gate) if options.gate else None,
        )
        plans.append(make_plan(weights, options.output, chosen, progress))
    return plans


def _export_plans(plans: list[ExportPlan]) -> list[ExportReport]:
    with _export_extra():
        from imp_trt.export.pipeline import export_plans
    return export_plans(plans)


def _bisect(plans: list[ExportPlan], as_json: bool) -> int:
    """Print the first node that differs; 3 if there is one."""
    if len(plans) > 1:
        raise UsageError("--bisect", expected="one precision", got=f"{len(plans)} of --precisions")
    with _export_extra():
        from imp_trt.export.pipeline import bisect_export
    found = bisect_export(plans[0])
    if as_json:
        print_json(found.to_dict())
    else:
        print_bisection(found)
    return VerificationError.exit_code if found.first else 0


@contextmanager
def _export_extra() -> Iterator[None]:
    """DependencyMissing if what an import needs is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise DependencyMissing(
            "an export from a checkpoint needs PyTorch and ONNX",
            got=error,
            fix="pip install 'imp-trt[export]'; or export it to ONNX on another machine, and build the "
            "engine here from that file: imp-export FILE.onnx",
        ) from error


def _build_from_onnx(options: argparse.Namespace) -> ExportReport:
    from imp_trt.artifacts.reading import check_regular, read_manifest
    from imp_trt.export.from_onnx import engine_from_onnx

    _reject(options, f"an engine from {options.file}", CHECKPOINT_OPTIONS)
    check_regular(options.file, "artifact")
    precision = options.engine or read_manifest(options.file).precision
    chosen = ExportOptions(
        precision=precision,
        target=options.target,
        verify=not options.no_verify,
        engine=_engine(options),
        calibrated=True,
    )
    return engine_from_onnx(
        options.file, options.output, chosen, progress=stage_progress("imp-export", options.quiet)
    )


def _adopt(options: argparse.Namespace) -> ExportReport:
    from imp_trt.export.adopt import adopt_engine

    if options.onnx is None or options.file is not None:
        raise UsageError(
            "--adopt",
            expected="the ONNX file that the engine was built from",
            got=str(options.file or "none"),
            fix=f"imp-export --adopt {shlex.quote(str(options.adopt))} --onnx FILE.onnx",
        )
    _reject(
        options, f"--adopt {options.adopt}", {**CHECKPOINT_OPTIONS, **BUILD_OPTIONS, "engine": "--engine"}
    )
    chosen = ExportOptions(target=options.target, verify=not options.no_verify, engine=_engine(options))
    return adopt_engine(
        options.adopt,
        options.onnx,
        None if options.output == Path() else options.output,
        chosen,
        progress=stage_progress("imp-export", options.quiet),
    )


def _check_verification(options: argparse.Namespace) -> None:
    """UsageError if there is an option of the verification, but nothing that it has an effect on."""
    if options.bisect and "bf16" in (options.engine, *(options.precisions or ())):
        # The target's own error would name targets, with which --bisect does not run either.
        raise UsageError(
            "--bisect",
            expected="fp32, fp16, int8 or fp8",
            got="bf16, which ONNX Runtime does not run on a CPU",
            fix="--engine fp16",
        )
    if options.keep_float16 == AUTO:
        return  # which obeys the gate on these frames, and checks that they are compared
    if options.bisect:
        names = {"gate": "--gate", "no_verify": "--no-verify"}
        _reject(options, "--bisect", names, ": it compares the values of nodes, without a gate")
    elif options.no_verify:
        _reject(options, "--no-verify", {"gate": "--gate", "frames": "--frames"}, ": nothing is compared")


def _reject(
    options: argparse.Namespace,
    what: str,
    names: Mapping[str, str],
    reason: str = ": the ONNX file has been exported already",
) -> None:
    """UsageError if one of these options was set."""
    defaults = parser()
    used = [flag for name, flag in names.items() if getattr(options, name) != defaults.get_default(name)]
    if used:
        raise UsageError(f"{what} takes no {', '.join(used)}", fix=f"leave it out{reason}")


def _engine(options: argparse.Namespace) -> EngineOptions:
    return EngineOptions(
        plugin=options.plugin,
        plugin_library=options.plugin_library,
        compute_capabilities=options.compute_capability,
        workspace=options.workspace,
        timing_cache=options.timing_cache,
        optimization_level=options.optimization_level,
        hardware_compatibility=options.hardware_compatible or "none",
        version_compatible=options.version_compatible,
        keep_onnx=options.keep_onnx,
    )


def _list_targets(as_json: bool) -> int:
    from dataclasses import asdict

    from imp_trt.cuda.platform import Platform
    from imp_trt.export.targets import TARGETS, list_targets

    if as_json:
        print_json([asdict(target) for target in TARGETS.values()])
    else:
        print_lines(list_targets(Platform.detect()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

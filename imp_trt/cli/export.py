# SPDX-License-Identifier: Apache-2.0
"""imp-export: export trained weights to ONNX or a TensorRT engine and verify the result."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imp_trt.cli.common import (
    command_parser,
    positive,
    print_json,
    print_lines,
    run_command,
    say,
    stage_progress,
)

if TYPE_CHECKING:
    from imp_trt.export.pipeline import ExportReport

EXAMPLES = """examples:
  imp-export --engine fp16                                 (bundled demo weights, best available target)
  imp-export --engine fp32 --target onnxruntime --weights model.safetensors -o models/
  imp-export --engine int8 --calib recorded/ --target jetson-orin      (on the Jetson)
  imp-export --engine fp16 --target rtx --compute-capability 8.9,12.0  (needs no GPU)
  imp-export --list-targets"""

ENGINES = ("fp32", "fp16", "bf16", "int8", "fp8")
GIB = 1 << 30


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _export(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser(
        "imp-export",
        "Export trained weights to ONNX or a TensorRT engine, and verify the result against PyTorch.",
        EXAMPLES,
    )
    p.add_argument("--engine", choices=ENGINES, default="fp32", help="precision (default: fp32)")
    p.add_argument(
        "--target",
        metavar="NAME",
        help="target to build for (default: tensorrt if there is a GPU, else tensorrt-rtx, else onnxruntime)",
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
        "--frames",
        type=Path,
        metavar="DIR",
        help="images for verification; supplemented with synthetic scenes up to 50",
    )
    p.add_argument("--calib", type=Path, metavar="DIR", help="images for int8 and fp8 calibration")
    p.add_argument("--batch", type=positive, default=1, metavar="N", help="static batch size (default: 1)")
    p.add_argument(
        "--nms-iterations",
        type=positive,
        default=32,
        metavar="N",
        help="iterations of each fixed-point NMS (default 32); more if verification reports too few",
    )
    p.add_argument(
        "--nms-passes",
        type=positive,
        action=_DeprecatedNmsPasses,
        dest="nms_iterations",
        help=argparse.SUPPRESS,
    )
    p.add_argument("--no-verify", action="store_true", help="skip verification; recorded in the manifest")
    p.add_argument(
        "--function-free",
        action="store_true",
        help="also write NAME.function-free.onnx, without ONNX local functions, for trtexec and TensorRT "
        "below 10.7 with the plugin library",
    )
    _engine_options(p)
    return p


def _engine_options(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("engine build options")
    group.add_argument(
        "--plugin",
        action=argparse.BooleanOptionalAction,
        help="implement custom operators as plugins (default for TensorRT), or as functions of standard "
        "operators (default for TensorRT-RTX)",
    )
    group.add_argument(
        "--plugin-library",
        type=Path,
        metavar="FILE",
        help="C++ plugin library (default: the Python plugins)",
    )
    group.add_argument(
        "--compute-capability",
        type=_capabilities,
        default=(),
        metavar="8.6,8.9",
        help="compute capabilities of the GPUs to build for; TensorRT-RTX only",
    )
    group.add_argument("--workspace", type=_gibibytes, metavar="GIB", help="maximum workspace size")
    group.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="timing cache file, read and updated"
    )
    group.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        default=3,
        help="builder optimization level; higher levels take longer to build (default: 3)",
    )
    group.add_argument(
        "--hardware-compatible",
        choices=("ampere_plus", "same_compute_capability"),
        help="hardware compatibility level: run on other GPUs, with lower performance; TensorRT only",
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="build for later TensorRT versions, for trtexec, Triton and C++ (imp_trt does not load such "
        "engines)",
    )
    group.add_argument("--keep-onnx", action="store_true", help="also write the ONNX file and its manifest")


class _DeprecatedNmsPasses(argparse.Action):
    """The former name of --nms-iterations."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        say(f"{option_string} is deprecated, use --nms-iterations")
        setattr(namespace, self.dest, values)


def _capabilities(text: str) -> tuple[str, ...]:
    capabilities = tuple(dict.fromkeys(text.split(",")))
    if not all(re.fullmatch(r"[0-9]{1,2}\.[0-9]", item) for item in capabilities):
        raise argparse.ArgumentTypeError(f"{text} is not a list such as 8.6,8.9")
    return capabilities


def _gibibytes(text: str) -> int:
    value = float(text)
    if not 0 < value < 1 << 20:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of GiB")
    return int(value * GIB)


def _export(options: argparse.Namespace) -> int:
    if options.list_targets:
        return _list_targets(options.json)
    from imp_trt.export.options import EngineOptions, ExportOptions
    from imp_trt.weights import bundled

    engine = EngineOptions(
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
    chosen = ExportOptions(
        precision=options.engine,
        target=options.target,
        batch=options.batch,
        nms_iterations=options.nms_iterations,
        calibration=options.calib,
        verify=not options.no_verify,
        frames=options.frames,
        engine=engine,
        function_free=options.function_free,
    )
    from imp_trt.export.pipeline import export_model  # imports torch; after the options are checked

    progress = stage_progress("imp-export", options.quiet)
    report = export_model(options.weights or bundled(), options.output, chosen, progress=progress)
    if options.json:
        print_json(report.to_dict())
    else:
        _print(report)
    return 0


def _list_targets(as_json: bool) -> int:
    from dataclasses import asdict

    from imp_trt.cuda.platform import Platform
    from imp_trt.export.targets import TARGETS, list_targets

    if as_json:
        print_json([asdict(target) for target in TARGETS.values()])
    else:
        print_lines(list_targets(Platform.detect()))
    return 0


def _print(report: ExportReport) -> None:
    figures = report.manifest.verification
    print_lines(f"artifact   {report.path}")
    print_lines(f"manifest   {report.path}.json")
    for path in report.also:
        print_lines(f"also       {path}")
    _print_engine(report)
    where = figures["verified_on"]
    if where is None:
        print_lines(f"UNVERIFIED imp-export {report.path}")
        return
    _print_figures(figures)
    times = report.manifest.benchmark
    if times:
        print_lines(f"network    {times['network_ms']:.1f} ms (PyTorch {times['pytorch_ms']:.1f} ms)")
    passed = "PASSED (graph only)" if report.graph_only else "PASSED"
    print_lines(f"{passed} imp-export {report.path} verified_on={where}")


def _print_engine(report: ExportReport) -> None:
    engine = report.manifest.engine
    if engine is None:
        return
    forms = ", ".join(f"{name} as {form}" for name, form in engine.operators.items()) or "none"
    layers = ", ".join(f"{count} in {name}" for name, count in engine.layer_precisions.items())
    source = report.manifest.verification["layer_precisions_from"]
    print_lines(
        f"built by   {engine.backend} {engine.version} for GPUs {', '.join(engine.compute_capabilities)}"
    )
    print_lines(f"operators  {forms}")
    print_lines(f"layers     {layers} ({source})")
    if report.not_run_reason:
        print_lines(f"not run    the engine cannot run on this machine: {report.not_run_reason}")


def _print_figures(figures: Any) -> None:
    counts = figures["instances"]
    print_lines(f"frames     {figures['source']}")
    print_lines(f"labels     {figures['label_agreement']:.4%} equal to PyTorch float32")
    score = f"F1 {figures['instance_f1']:.4f} ({counts['matched']} of {counts['reference']} matched)"
    print_lines(f"instances  {score if counts['reference'] else 'no detections on these frames'}")
    if "miou" in figures:
        miou = figures["miou"]
        print_lines(f"mIoU       {100 * miou['candidate']:.2f} (PyTorch {100 * miou['reference']:.2f})")


if __name__ == "__main__":
    raise SystemExit(main())

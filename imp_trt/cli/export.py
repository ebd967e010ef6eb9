"""imp-export: turn trained weights into a verified artifact."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.cli.common import command_parser, positive, print_json, run_command, stage_progress

if TYPE_CHECKING:
    from imp_trt.export.pipeline import ExportReport

EXAMPLES = """examples:
  imp-export --engine fp32                                 (the bundled demo weights)
  imp-export --engine fp32 --weights model.safetensors -o models/
  imp-export --engine fp32 --weights model.safetensors --frames recorded/ --json"""

ENGINES = ("fp32", "fp16", "bf16", "int8", "fp8")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _export(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser("imp-export", "Export trained weights, verified against PyTorch.", EXAMPLES)
    p.add_argument("--engine", choices=ENGINES, default="fp32", help="precision (default fp32)")
    p.add_argument(
        "--target",
        default="onnxruntime",
        metavar="NAME",
        help="onnxruntime (default), tensorrt-rtx, tensorrt",
    )
    p.add_argument(
        "--weights", type=Path, metavar="FILE", help="checkpoint .safetensors or .pt (default: the demo's)"
    )
    p.add_argument(
        "-o", "--output", type=Path, default=Path(), metavar="DIR", help="folder, or a .onnx file (default .)"
    )
    p.add_argument(
        "--frames",
        type=Path,
        metavar="DIR",
        help="images to verify on; filled up to 50 with procedural scenes",
    )
    p.add_argument(
        "--batch", type=positive, default=1, metavar="B", help="frames per call, fixed in the file"
    )
    p.add_argument(
        "--nms-passes",
        type=positive,
        default=32,
        metavar="N",
        help="applications of each NMS's equation (default 32); more if verification says they are too few",
    )
    p.add_argument("--no-verify", action="store_true", help="write the file unverified; its manifest says so")
    return p


def _export(options: argparse.Namespace) -> int:
    from imp_trt.export.pipeline import check_available, export_onnx

    check_available(options.engine, options.target)
    weights = options.weights
    if weights is None:
        from imp_trt.weights import bundled

        weights = bundled()
    report = export_onnx(
        weights,
        options.output,
        options.engine,
        options.target,
        options.frames,
        options.batch,
        verify=not options.no_verify,
        passes=options.nms_passes,
        progress=stage_progress("imp-export", options.quiet),
    )
    if options.json:
        print_json(report.to_dict())
    else:
        _print(report)
    return 0


def _print(report: ExportReport) -> None:
    figures = report.manifest.verification
    print(f"artifact   {report.path}")
    print(f"manifest   {report.path}.json")
    where = figures["verified_on"]
    if where is None:
        print(f"UNVERIFIED imp-export {report.path}")
        return
    counts = figures["instances"]
    print(f"frames     {figures['source']}")
    print(f"labels     {figures['label_agreement']:.4%} equal to PyTorch float32")
    print(
        f"instances  F1 {figures['instance_f1']:.4f} ({counts['matched']} of {counts['reference']} matched)"
    )
    if "miou" in figures:
        miou = figures["miou"]
        print(f"mIoU       {100 * miou['candidate']:.2f} (PyTorch {100 * miou['reference']:.2f})")
    times = report.manifest.benchmark
    print(f"network    {times['network_ms']:.1f} ms (PyTorch {times['pytorch_ms']:.1f} ms)")
    print(f"PASSED imp-export {report.path} verified_on={where}")

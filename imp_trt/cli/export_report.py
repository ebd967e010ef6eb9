# SPDX-License-Identifier: Apache-2.0
"""What imp-export prints about an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imp_trt.artifacts.artifact import golden_path
from imp_trt.cli.common import print_lines

if TYPE_CHECKING:
    from imp_trt.export.report import ExportReport, NetworkReport


def print_report(report: ExportReport) -> None:
    """Print the result of one export, with the outcome in the last line."""
    figures = report.manifest.verification
    print_lines(f"artifact   {report.path}")
    print_lines(f"manifest   {report.path}.json")
    if report.manifest.golden_sha256:
        print_lines(f"golden     {golden_path(report.path)}")
    for path in report.also:
        print_lines(f"also       {path}")
    print_engine(report)
    where = figures["verified_on"]
    if where is None:
        print_lines(f"UNVERIFIED imp-export {report.path}")
        return
    _print_figures(figures)
    times = report.manifest.benchmark
    if times:
        pytorch = f" (PyTorch {times['pytorch_ms']:.1f} ms)" if "pytorch_ms" in times else ""
        print_lines(f"network    {times['network_ms']:.1f} ms{pytorch}")
    passed = "PASSED (graph only)" if report.graph_only else "PASSED"
    print_lines(f"{passed} imp-export {report.path} verified_on={where}")


def print_engine(report: ExportReport | NetworkReport) -> None:
    """Print what built an engine, and the forms and types of its layers; nothing for an ONNX file."""
    engine = report.manifest.engine
    if engine is None:
        return
    forms = ", ".join(f"{name} as {form}" for name, form in engine.operators.items()) or "none"
    layers = ", ".join(f"{count} in {name}" for name, count in engine.layer_precisions.items()) or "unknown"
    source = report.manifest.verification["layer_precisions_from"]
    gpus = ", ".join(engine.compute_capabilities)
    print_lines(f"built by   {engine.backend} {engine.version} for GPUs {gpus}")
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

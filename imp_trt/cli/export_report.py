# SPDX-License-Identifier: Apache-2.0
"""What imp-export prints about an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imp_trt.artifacts.artifact import canvas_path
from imp_trt.cli.printing import print_line

if TYPE_CHECKING:
    from imp_trt.export.report import ExportReport, NetworkReport
    from imp_trt.export.verification.bisect import Bisection


def print_report(report: ExportReport) -> None:
    """Print the result of one export, with the outcome in the last line."""
    from imp_trt.artifacts.golden import find_golden

    figures = report.manifest.verification
    print_line(f"artifact   {report.path}")
    print_line(f"manifest   {report.path}.json")
    if report.manifest.golden_sha256:
        print_line(f"golden     {find_golden(report.path, report.manifest)[0]}")
    part = report.manifest.canvas_part
    if part is not None:
        whole, own = (path.stat().st_size / 1e6 for path in (report.path, canvas_path(report.path)))
        print_line(f"canvas     {canvas_path(report.path)} ({own:.1f} MB more than {whole:.1f} MB)")
    for path in report.also:
        print_line(f"also       {path}")
    print_engine(report)
    where = figures["verified_on"]
    if where is None:
        print_line(f"UNVERIFIED imp-export {report.path}")
        return
    _print_figures(figures)
    if part is not None:
        checked: Any = part.verification
        print_line(
            f"part       {checked['label_agreement']:.4%} equal to PyTorch float32, "
            f"{checked['equal_to_whole']:.4%} to the whole network"
        )
    _print_unlike(report)
    times = report.manifest.benchmark
    if times:
        pytorch = f" (PyTorch {times['pytorch_ms']:.1f} ms)" if "pytorch_ms" in times else ""
        print_line(f"network    {times['network_ms']:.1f} ms{pytorch}")
    passed = "PASSED (graph only)" if report.graph_only else "PASSED"
    print_line(f"{passed} imp-export {report.path} verified_on={where}")


def print_bisection(found: Bisection) -> None:
    """Print the nodes before the first that differs from PyTorch, and that one in the last line."""
    index = found.nodes.index(found.first) if found.first else len(found.nodes)
    print_line(f"nodes      {len(found.nodes)} of {found.total} compared with PyTorch float32")
    for node in found.nodes[max(0, index - 3) : index]:
        print_line(f"before     {node}")
    if found.choice is not None:
        print_line(f"choice     {found.choice}; later nodes may differ because of it")
    if found.first is None:
        print_line(f"SAME imp-export: no node beyond a relative error of {found.tolerance:g}")
    else:
        print_line(f"DIFFERS imp-export: {found.first}, tolerance {found.tolerance:g}")


def print_engine(report: ExportReport | NetworkReport) -> None:
    """Print what built an engine, and the forms and types of its layers; nothing for an ONNX file."""
    engine = report.manifest.engine
    if engine is None:
        return
    forms = ", ".join(f"{name} as {form}" for name, form in engine.operators.items()) or "none"
    layers = ", ".join(f"{count} in {name}" for name, count in engine.layer_precisions.items()) or "unknown"
    source = report.manifest.verification["layer_precisions_from"]
    gpus = ", ".join(engine.compute_capabilities)
    print_line(f"built by   {engine.backend} {engine.version} for GPUs {gpus}")
    print_line(f"operators  {forms}")
    print_line(f"layers     {layers} ({source})")
    if report.not_run_reason:
        print_line(f"not run    the engine cannot run on this machine: {report.not_run_reason}")


def _print_unlike(report: ExportReport) -> None:
    """Say that a network of photographs was compared on synthetic street scenes."""
    from imp_trt.export.verification.frames import DRAWN, UNLIKE
    from imp_trt.synthetic import SCENE_CLASSES

    drawn = DRAWN in str(report.manifest.verification["source"])
    if drawn and report.manifest.classes.names != SCENE_CLASSES.names:
        print_line(f"note       {DRAWN}, {UNLIKE}")


def _print_figures(figures: Any) -> None:
    counts = figures["instances"]
    print_line(f"frames     {figures['source']}")
    print_line(f"labels     {figures['label_agreement']:.4%} equal to PyTorch float32")
    score = f"F1 {figures['instance_f1']:.4f} ({counts['matched']} of {counts['reference']} matched)"
    print_line(f"instances  {score if counts['reference'] else 'no detections on these frames'}")
    if "miou" in figures:
        miou = figures["miou"]
        print_line(f"mIoU       {100 * miou['candidate']:.2f} (PyTorch {100 * miou['reference']:.2f})")

# SPDX-License-Identifier: Apache-2.0
"""imp-export for a third-party ONNX file."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from imp_trt.artifacts.manifest import Precision
from imp_trt.artifacts.network_manifest import RUNS, NetworkManifest
from imp_trt.cli.common import stage_progress
from imp_trt.cli.export_report import print_engine
from imp_trt.cli.printing import print_lines
from imp_trt.errors import UsageError
from imp_trt.export.options import EngineOptions, ExportOptions

if TYPE_CHECKING:
    from imp_trt.export.report import NetworkReport


def add_shape_option(p: argparse.ArgumentParser) -> None:
    """The option --shape."""
    p.add_argument(
        "--shape",
        type=_shape,
        action="append",
        default=[],
        metavar="NAME=1x3x512x1024",
        help="for a third-party .onnx file: shape of an input whose sizes the file leaves open",
    )


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.rpartition("=")
    if not name or not equals or not re.fullmatch(r"([1-9][0-9]{0,9}(x[1-9][0-9]{0,9}){0,7})?", sizes):
        raise argparse.ArgumentTypeError(f"{text} is not an input and its shape such as images=1x3x512x1024")
    return name, tuple(int(size) for size in sizes.split("x") if size)


def export_foreign(options: argparse.Namespace, engine: EngineOptions) -> NetworkReport:
    """Export the file of the options."""
    from imp_trt.artifacts.artifact import manifest_path
    from imp_trt.artifacts.reading import check_regular, read_network_manifest
    from imp_trt.export.network import export_network

    check_regular(options.file, "ONNX file")
    precision: Precision = options.engine or "fp32"
    if options.engine is None and manifest_path(options.file).exists():
        precision = read_network_manifest(options.file).precision
    shapes = dict(options.shape)
    if len(shapes) != len(options.shape):
        raise UsageError("--shape", expected="each input once", got=", ".join(n for n, _ in options.shape))
    chosen = ExportOptions(
        precision=precision,
        target=options.target,
        batch=options.batch,
        calibration=options.calib,
        verify=not options.no_verify,
        frames=options.frames,
        engine=engine,
        function_free=options.function_free,
        calibrated=True,
    )
    return export_network(
        options.file,
        options.output,
        chosen,
        shapes=shapes,
        progress=stage_progress("imp-export", options.quiet),
    )


def print_network_report(report: NetworkReport) -> None:
    """Print the result of the export of a third-party network: at the end the outcome, and how to run it."""
    from imp_trt.artifacts.golden import find_golden
    from imp_trt.export.verification.arrays import MAX_GOLDEN_BYTES

    manifest = report.manifest
    figures = manifest.verification
    print_lines(f"artifact   {report.path}")
    print_lines(f"manifest   {report.path}.json")
    if manifest.golden_sha256:
        print_lines(f"golden     {find_golden(report.path, manifest, MAX_GOLDEN_BYTES)[0]}")
    for what, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            print_lines(f"{what:<10} {spec}")
    for name, count in manifest.ops.items():
        print_lines(f"nodes      {count} {name}")
    print_engine(report)
    if figures.get("verified_on") is None:
        print_lines(f"UNVERIFIED imp-export {report.path}")
        return
    calls = "1 call" if figures["calls"] == 1 else f"{figures['calls']} calls"
    print_lines(f"compared   {calls}: {figures['source']}")
    print_agreement(manifest)
    if manifest.benchmark:
        print_lines(f"network    {manifest.benchmark['network_ms']:.1f} ms")
    passed = "PASSED (graph only)" if report.graph_only else "PASSED"
    print_lines(f"{passed} imp-export {report.path} verified_on={figures['verified_on']}")
    print_lines("use        imp_trt.Engine(PATH).run({name: array})")


def print_agreement(manifest: NetworkManifest) -> None:
    """Print a line for each output, of each way in which the network was run."""
    figures, types = manifest.verification, {spec.name: spec.dtype for spec in manifest.outputs}
    tolerance = figures["tolerance"]
    for key, how in RUNS.items():
        outputs = figures.get(key)
        if not isinstance(outputs, dict) or not isinstance(tolerance, dict):
            continue
        for name, each in outputs.items():
            near = f"within {tolerance['difference']:g} of the largest value"
            kind = near if types[name].startswith("float") else "equal"
            required = f"required {tolerance['share']:.2%}"
            print_lines(f"agreement  {name}: {each['agreeing']:.4%} {kind}{how}, {required}")

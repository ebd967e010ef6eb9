# SPDX-License-Identifier: Apache-2.0
"""Text of imp-segment's report."""

from __future__ import annotations

import os
from typing import Any

from imp_trt.cli.printing import print_line

COUNTED = {"dropped": "dropped", "deadline_misses": "late", "reconnects": "reconnected"}
"""Count of a report -> the word for it."""


def print_report(report: dict[str, Any]) -> None:
    """Print the report as text on stdout."""
    timing = report["timing_ms"]
    height, width = report["network_size"]
    print_line(
        f"frames     {report['frames']} in {report['seconds']:.1f} s ({report['frames_per_second']:.1f}/s), "
        f"network {width}x{height} {report['precision']}"
    )
    live = any(source["live"] for source in report["sources"])
    if report["age_ms"] and (live or report["dropped"] or report["deadline_ms"]):
        print_line(_age_line(report))
    if timing:
        kinds = ("detected", "carried")
        means = "  ".join(f"{name} {t['mean']:.1f}" for name, t in timing.items() if name not in kinds)
        total = timing["total"]
        print_line(
            f"time       {means} ms (mean); p50 {total['p50']:.1f}, p99 {total['p99']:.1f} ms for pre to post"
        )
    if report["canvas_age"] is not None:
        print_line(_carried_line(report))
    shares = sorted(report["pixels"].items(), key=lambda item: -item[1])
    if shares:
        print_line("pixels     " + ", ".join(f"{name} {share:.1%}" for name, share in shares))
    if report["instances"]:
        print_line("instances  " + ", ".join(f"{name} {n}" for name, n in report["instances"].items()))
    if report["skipped"]:
        print_line(_skipped_line(report))
    for name, place in report["outputs"].items():
        print_line(f"{name:<10} {place}")


def _carried_line(report: dict[str, Any]) -> str:
    kinds = [
        f"{count} {name} detector, p50 {report['timing_ms'][key]['p50']:.1f} ms"
        for key, name, count in (
            ("detected", "with", report["frames"] - report["carried"]),
            ("carried", "without", report["carried"]),
        )
        if count
    ]
    return f"canvas     {'; '.join(kinds)}; at most {report['canvas_age']} frames old"


def _age_line(report: dict[str, Any]) -> str:
    age = report["age_ms"]
    ages = f"age        p50 {age['p50']:.1f}, p99 {age['p99']:.1f}, p99.9 {age['p99.9']:.1f} ms; "
    counted = [f"{report['captured']} captured"]
    counted += [f"{report[key]} {text}" for key, text in COUNTED.items() if report[key]]
    if report["deadline_ms"] and not report["deadline_misses"]:
        counted.append("none late")
    return ages + ", ".join(counted)


def _skipped_line(report: dict[str, Any]) -> str:
    names = [os.path.basename(image["path"]) for image in report["skipped"]]
    total = report["frames"] + len(names)
    more = ", ..." if len(names) > 5 else ""
    return f"skipped    {len(names)} of {total} images: {', '.join(names[:5])}{more}"

# SPDX-License-Identifier: Apache-2.0
"""The page of the measurements, and its charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imp_trt.train.report import charts

NOTES = Path(__file__).parent / "notes.md"
_HEAD = (
    "<!-- Written by python -m research.temporal --page from result files; "
    "changes are lost with the next run. -->"
)


_CURVES = {"thing_iou": "IoU of things", "flicker": "flicker of thing pixels"}


def page(results: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, str]]:
    """The page: Markdown with the notes, then curves and a table for each video; and the charts.

    Returns:
        The text, and by path relative to it the SVG files that it shows.
    """
    parts = [_HEAD, "", NOTES.read_text().strip(), ""]
    images: dict[str, str] = {}
    for result in results:
        made = {f"temporal/{result['video']}-{key}.svg": _chart(result, key) for key in _CURVES}
        images |= {path: svg for path, (svg, _) in made.items()}
        parts += _section(result, [f"![{title}]({path})" for path, (_, title) in made.items()])
    return "\n".join(parts).rstrip() + "\n", images


def _chart(result: Mapping[str, Any], key: str) -> tuple[str, str]:
    """SVG and title: a figure over k, the detector on every k-th frame, with the flow and without."""
    rows = [row for row in result["rows"] if not row["blend"]]
    (own,) = (row[key] for row in rows if row["every"] in (0, 1))
    series: dict[str, dict[float, float | None]] = {}
    for carry, name in (("none", "not moved"), ("flow", "moved along the flow")):
        series[name] = {1.0: own}
        series[name] |= {
            float(row["every"]): row[key] for row in rows if row["every"] > 1 and row["carry"] == carry
        }
    title = f"{result['video']}: {_CURVES[key]}"
    x_label = "detector on every k-th frame"
    return charts.lines(series, title=title, x_label=x_label, y_label="%", even=True), title


def _section(result: Mapping[str, Any], images: Sequence[str]) -> list[str]:
    machine, (height, width) = result["machine"], result["network_size"]
    threads = machine["threads"]
    flicker = result["truth_flicker"]
    lines = [
        f"## {result['video']}",
        "",
        f"{result['frames']} frames of {result['size'][1]}x{result['size'][0]}, network {width}x{height}, "
        f"{result['artifact']} in ONNX Runtime, {threads} thread{'s' if threads != 1 else ''} of "
        f"{machine['cpus']} CPUs ({machine['cpu']}), load {result['load_after']} at the end, "
        f"{result['measured']}. Flicker of the labels themselves: "
        f"{_percent(flicker)}%.",
        "",
        *images,
        "",
        "| detector on | carried by | mIoU | things | flicker | network with detector, ms | without "
        "| skipped | flow and moving, ms | frame p50, ms | p99 | times as fast | bound |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    own = result["rows"][0]["ms"]["detected"]["p50"]
    return [*lines, *(_row(row, result["frames"], own) for row in result["rows"]), ""]


def _row(row: Mapping[str, Any], frames: int, own: float) -> str:
    times = row["ms"]
    carried = times.get("carried")
    cells = [_which(row, frames), _how(row)]
    cells += [_percent(row[key]) for key in ("mean_iou", "thing_iou", "flicker")]
    cells.append(f"{times['detected']['p50']:.1f}")
    cells.append("" if carried is None else f"{carried['p50']:.1f}")
    speed = bound = share = ""
    if carried is not None and not row["blend"]:
        skipped = 1 - carried["p50"] / times["detected"]["p50"]
        without = 1 - row["detected"] / frames
        mean = times["detected"]["p50"] * (1 - without) + carried["p50"] * without
        share, bound = f"{100 * skipped:.0f}%", f"{times['detected']['p50'] / mean:.2f}"
        speed = f"{times['detected']['p50'] / (mean + times['carry']['p50']):.2f}"
    carry = times.get("carry")
    cells += [share, "" if carry is None else f"{carry['p50']:.1f}"]
    cells += [f"{times['total']['p50']:.1f}", f"{times['total']['p99']:.1f}", speed, bound]
    return f"| {' | '.join(cells)} |"


def _which(row: Mapping[str, Any], frames: int) -> str:
    if row["every"] in (0, 1):
        return "every frame"
    cuts = f", {row['resets']} cut{'s' if row['resets'] != 1 else ''} found" if row["resets"] else ""
    return f"every {row['every']}{'nd' if row['every'] == 2 else 'th'} ({row['detected']} of {frames}{cuts})"


def _how(row: Mapping[str, Any]) -> str:
    if not row["every"]:
        return "-"
    blend = f", blend {row['blend']:g}" if row["blend"] else ""
    return ("flow" if row["carry"] == "flow" else "nothing") + blend


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"

# SPDX-License-Identifier: Apache-2.0
"""Markdown page of the ablation and its charts, generated from the result files."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from imp_trt.data.files import write_atomically
from imp_trt.errors import UsageError
from imp_trt.train.report import charts
from research.ablation import run_sections, sections
from research.ablation.cells import CANVAS_ONLY, CONTROL, HEADLINE
from research.ablation.summary import (
    DataSummary,
    Spread,
    band,
    class_iou,
    read_summaries,
)

_INTRODUCTION = """\
<!-- Written by python -m research.ablation --page from result files; changes are lost with the next run. -->

# The paper's ablation, repeated

Fu, Berg and Berg (ICCV 2019) feed the masks of an instance detector back into semantic segmentation (IMP).
This page repeats their comparison of seven systems. The numbers in tables and charts come from the result
files of `research.ablation`; the notes in front of the tables are written by hand, and the paper's own
numbers are marked as such. Systems of one dataset share data and schedule; the members of a pair
also share the weights of their first stage, seed by seed, and differ only in IMP, unless stated
otherwise.
All scores are in percent, higher is better. For a system with several seeds, a figure is the mean over them,
with minimum and maximum in parentheses; differences, and the columns next to them, are over the seeds that
both members of a pair have, paired by seed, in points.
"""

_PAPER_NOTE = """\
The paper trained on clothing datasets that are not public (VCP) or no longer complete (ModaNet), and on
Cityscapes, from ImageNet or COCO weights, for 70,000 to 130,000 iterations. Only the direction and
the size of the gains can be compared with the runs above, not the scores.
"""


def write_page(results: Path, page: Path) -> list[Path]:
    """Write the page, and its charts to a folder of the same name next to it.

    Args:
        results: folder of the result files.
        page: Markdown file to write, NAME.md.

    Returns:
        Paths of the page and its charts.

    Raises:
        UsageError: the page is not a .md file, or there are no results.
        InvalidInput: a result file is damaged.
        OutputError: a file cannot be written.
    """
    if page.suffix != ".md":
        raise UsageError("--page", expected="a file that ends with .md", got=page.name)
    parts = [_INTRODUCTION]
    files: list[Path] = []
    for data in read_summaries(results):
        images = _charts(data)
        for name, (svg, _) in images.items():
            files.append(write_atomically(page.with_suffix("") / f"{data.name}-{name}.svg", svg.encode()))
        links = {name: f"![{text}]({page.stem}/{data.name}-{name}.svg)" for name, (_, text) in images.items()}
        notes = _relinked(data.notes, results / data.name, page.parent) if data.notes else None
        parts.append(_data_part(replace(data, notes=notes), links))
    parts += ["## The paper's numbers", _PAPER_NOTE, sections.paper_section()]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    return [write_atomically(page, text.encode()), *files]


def _data_part(data: DataSummary, links: Mapping[str, str]) -> str:
    def chart(name: str) -> list[str]:
        return [links[name]] if name in links else []

    parts = [f"## {data.name}", run_sections.setting_section(data), run_sections.command_section(data)]
    if data.notes:
        parts += [data.notes]
    parts += ["### Systems (the paper's Table 1)", sections.systems_section(data)]
    parts += ["### What IMP changes", sections.gain_section(data)]
    tables: list[str] = []
    for name, without, with_ in sections.PAIRS:
        if data.common_seeds(without, with_):
            tables += [sections.class_section(data, without, with_), *chart(f"gain-{name.lower()}")]
    parts += ["### Class by class (the paper's Tables 3 and 4)", *(tables or ["No pair was run."])]
    parts += ["### Near boundaries (the paper's Figure 5)", sections.boundary_section(data)]
    parts += [*chart("boundary-miou"), *chart("boundary-macc")]
    fit = sections.fit_section(data)
    parts += ["### Training images against validation images", fit] if fit else []
    parts += ["### Time (the paper's Table 6)", sections.time_section(data)]
    parts += ["### Variants", sections.variant_section(data), *chart("background")]
    parts += ["### Every cell", sections.cells_section(data), *chart("loss")]
    return "\n\n".join(parts)


def _relinked(text: str, folder: Path, target: Path) -> str:
    """Rewrite relative Markdown links of a text that moves to another folder."""

    def moved(link: re.Match[str]) -> str:
        return f"]({Path(os.path.relpath(folder / link[1], target)).as_posix()})"

    return re.sub(r"\]\((?![a-z]+:|[/#])([^)\s]+)\)", moved, text)


def _charts(data: DataSummary) -> dict[str, tuple[str, str]]:
    """SVG and alternative text by name."""
    made: dict[str, tuple[str, str]] = {}
    for name, without, with_ in sections.PAIRS:
        gains = _class_gains(data, without, with_)
        if gains:
            title = f"{data.name}: IoU of {with_} minus that of {without}"
            made[f"gain-{name.lower()}"] = (_gain_chart(data, gains, title), f"{title}, by class")
    if sections.boundary_distances(data):
        for accuracy, figure in ((False, "mIoU"), (True, "mAcc")):
            title = f"{data.name}: {figure} within a distance of the boundaries"
            made[f"boundary-{figure.lower()}"] = (_boundary_chart(data, accuracy, title, figure), title)
    curve = sections.background_curve(data)
    if len(curve["mAcc"]) > 1:
        title = f"{data.name}: {CANVAS_ONLY} by background score"
        svg = charts.lines(curve, title=title, x_label="background score", y_label="%")
        made["background"] = (svg, title)
    losses = _losses(data)
    if losses:
        seed = data.common_seeds(CONTROL, HEADLINE)[0]
        title = f"{data.name}: semantic loss of stage two, seed {seed}"
        svg = charts.lines(losses, title=title, x_label="iteration", y_label="loss", scale=1.0)
        made["loss"] = (svg, title)
    return made


def _class_gains(data: DataSummary, without: str, with_: str) -> dict[str, Spread]:
    found = {name: data.gain(without, with_, class_iou(i)) for i, name in enumerate(data.classes.names)}
    return {name: spread for name, spread in found.items() if spread is not None}


def _gain_chart(data: DataSummary, gains: Mapping[str, Spread], title: str) -> str:
    things = [data.classes.names[i] for i in data.classes.things if data.classes.names[i] in gains]
    stuff = [data.classes.names[i] for i in data.classes.stuff if data.classes.names[i] in gains]
    return charts.gains(
        {name: spread.mean for name, spread in gains.items()},
        title=title,
        sections={k: v for k, v in (("things", things), ("stuff", stuff)) if v},
        ranges={name: (s.low, s.high) for name, s in gains.items() if s.count > 1},
    )


def _boundary_chart(data: DataSummary, accuracy: bool, title: str, figure: str) -> str:
    distances, seeds = sections.boundary_distances(data), data.common_seeds(CONTROL, HEADLINE)
    series: dict[str, dict[float, float | None]] = {}
    ranges: dict[str, dict[float, tuple[float, float]]] = {}
    for label, system in (("without IMP", CONTROL), ("with IMP", HEADLINE)):
        found = {d: data.spread(system, band(i, accuracy), seeds=seeds) for i, d in enumerate(distances)}
        series[label] = {d: s.mean if s else None for d, s in found.items()}
        ranges[label] = {d: (s.low, s.high) for d, s in found.items() if s and s.count > 1}
    return charts.lines(
        series,
        title=title,
        x_label="pixels within this distance of a boundary",
        y_label=f"{figure}, %",
        ranges={label: values for label, values in ranges.items() if values},
        even=True,
    )


def _losses(data: DataSummary) -> dict[str, dict[float, float | None]]:
    series: dict[str, dict[float, float | None]] = {}
    seeds = data.common_seeds(CONTROL, HEADLINE)
    for label, system in (("without IMP", CONTROL), ("with IMP", HEADLINE)) if seeds else ():
        lines = [line for line in data.of(system)[seeds[0]].curve if line["stage"] == 2]
        points = {float(line["step"]): float(line["semantic"]) for line in lines if "semantic" in line}
        if points and all(math.isfinite(v) for v in points.values()):
            series[label] = dict(points)
    return series

# SPDX-License-Identifier: Apache-2.0
"""Sections of the page with the scores, computed from the results."""

from __future__ import annotations

import math
from collections.abc import Sequence

from imp_trt.models import presets
from research.ablation.cells import (
    CANVAS_ONLY,
    CONTROL,
    HEADLINE,
    ORDER,
    PINNED,
    VARIANTS,
    Cell,
)
from research.ablation.paper import GAINS, MODANET, REMARKS, VCP
from research.ablation.results import CellResult
from research.ablation.summary import FIGURES, DataSummary, Get, Spread, band, class_iou, mask_ap
from research.ablation.tables import NONE, percent, points, table

PAIRS = (("FPN", CONTROL, HEADLINE), ("P2", "panoptic-p2", "panoptic-p2-imp"))
"""Systems that differ in IMP alone: name of the pair, without, with."""

TABLE_1 = ("box AP", "mask AP", "mIoU", "thing mIoU", "stuff mIoU", "mAcc", "thing boundary IoU", "PQ")


def systems_section(data: DataSummary) -> str:
    """Scores of all systems (Table 1 of the paper)."""
    rows = []
    for system in sorted(presets.SYSTEMS, key=list(presets.SYSTEMS).index):
        found = data.of(system)
        if not found:
            rows.append([system, "none", *[NONE] * (len(TABLE_1) + 1)])
            continue
        recall = Spread.of([_number((r.canvas or {}).get("recall")) for r in found.values()])
        figures = [percent(data.spread(system, FIGURES[name])) for name in TABLE_1]
        rows.append([system, str(len(found)), *figures, percent(recall)])
    text = table(("system", "seeds", *TABLE_1, "canvas recall"), rows)
    if len(data.classes.stuff) > 1 and data.of(CANVAS_ONLY):
        text += (
            f"\n\n`{CANVAS_ONLY}` predicts things and one background class. The other "
            f"{len(data.classes.stuff) - 1} stuff classes score 0 in its mIoU and mAcc: compare its things. "
            f"Its background score is {PINNED['background_score']}; for others see Variants."
        )
    return text


def fit_section(data: DataSummary) -> str | None:
    """Scores on images of the training set next to those on validation images; None if none were measured."""
    names = ("mIoU", "thing mIoU")
    rows = []
    for cell, result in data.results.items():
        if result.on_training is not None:
            pairs = [
                percent(Spread.of([FIGURES[name](evaluation)]))
                for name in names
                for evaluation in (result.on_training, result.evaluation)
            ]
            rows.append([f"`{cell.name}`", str(result.on_training.images), *pairs])
    head = ("cell", "images", *(f"{name}, {split}" for name in names for split in ("training", "validation")))
    return table(head, rows) if rows else None


def gain_section(data: DataSummary) -> str:
    """Gain of IMP for each pair, next to that of the paper."""
    parts = [
        verdict(data, name, without, with_)
        for name, without, with_ in PAIRS
        if data.gain(without, with_, FIGURES["mIoU"]) is not None
    ]
    if not parts:
        return "No pair was run."
    names = ("mIoU", "thing mIoU", "stuff mIoU", "mAcc", "boundary IoU", "thing boundary IoU", "PQ", "box AP")
    rows = []
    for name, without, with_ in PAIRS:
        gains = [points(data.gain(without, with_, FIGURES[figure])) for figure in names]
        if any(g != NONE for g in gains):
            rows.append([f"{name}, this run", *gains])
    rows += [
        [f"{g.pair}, paper: {g.where}", *(_paper_points(getattr(g, _PAPER.get(n, ""), None)) for n in names)]
        for g in GAINS
    ]
    parts += [remark for pair in PAIRS for remark in unlike(data, *pair)]
    return "\n\n".join([*parts, table(("pair, difference in points", *names), rows)])


_PAPER = {"mIoU": "miou", "thing mIoU": "things", "stuff mIoU": "stuff", "mAcc": "macc"}


def verdict(data: DataSummary, name: str, without: str, with_: str) -> str:
    """One sentence: the change of a pair's thing mIoU by IMP, and for how many seeds it is a gain."""
    before, after = data.of(without), data.of(with_)
    seeds = data.common_seeds(without, with_)
    get = FIGURES["thing mIoU"]
    gains = [get(after[s].evaluation) - get(before[s].evaluation) for s in seeds]
    spread = Spread.of(gains)
    if spread is None:
        return f"{name} pair: no thing class occurs."
    better = sum(g > 0 for g in gains)
    start, end = (f"{100 * _mean(get, found, seeds):.1f}" for found in (before, after))
    return (
        f"{name} pair: IMP moves thing mIoU from {start} to {end}, difference {points(spread)}; it is higher "
        f"with IMP in {better} of {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}."
    )


def unlike(data: DataSummary, name: str, without: str, with_: str) -> list[str]:
    """Remarks on differences between the members of a pair other than IMP; usually none."""
    before, after = data.of(without), data.of(with_)
    seeds = data.common_seeds(without, with_)
    remarks = []
    stages = [s for s in seeds if before[s].settings.get("stage_one") != after[s].settings.get("stage_one")]
    if stages:
        remarks.append(
            f"{name} pair: the first stage is not shared at seed {', '.join(map(str, stages))}: the members "
            "differ in more than IMP."
        )
    apart = [s for s in seeds if before[s].machine != after[s].machine]
    if apart:
        remarks.append(
            f"{name} pair: the two were evaluated on different machines or code versions at seed "
            f"{', '.join(map(str, apart))}."
        )
    return remarks


def class_section(data: DataSummary, without: str, with_: str) -> str:
    """IoU of each class without and with IMP (the paper's Tables 3 and 4), mask AP and canvas recall."""
    rows, seeds = [], data.common_seeds(without, with_)
    for kind, indices in (("thing", data.classes.things), ("stuff", data.classes.stuff)):
        for channel, index in enumerate(indices):
            get, name = class_iou(index), data.classes.names[index]
            values = [percent(data.spread(system, get, seeds=seeds)) for system in (without, with_)]
            values.append(points(data.gain(without, with_, get)))
            if kind == "thing":
                recall = [
                    _number((r.canvas or {}).get("per_class", {}).get(name, {}).get("recall"))
                    for s, r in data.of(with_).items()
                    if s in seeds
                ]
                values.append(percent(data.spread(with_, mask_ap(channel), seeds=seeds)))
                values.append(percent(Spread.of(recall)))
            rows.append([name, kind, *values, *[NONE] * (5 - len(values))])
    head = ("class", "kind", f"IoU, `{without}`", f"`{with_}`", "difference", "mask AP", "canvas recall")
    return table(head, rows)


def boundary_section(data: DataSummary) -> str:
    """Scores of the headline pair near class boundaries (Figure 5 of the paper)."""
    distances, seeds = boundary_distances(data), data.common_seeds(CONTROL, HEADLINE)
    if not distances:
        return "The pair was not run."
    rows = []
    for position, distance in enumerate(distances):
        row = [f"{distance:g}"]
        for accuracy in (False, True):
            get = band(position, accuracy)
            row += [percent(data.spread(s, get, seeds=seeds)) for s in (CONTROL, HEADLINE)]
            row.append(points(data.gain(CONTROL, HEADLINE, get)))
        rows.append(row)
    head = ("distance, px", "mIoU without", "mIoU with", "difference")
    return table((*head, *(h.replace("mIoU", "mAcc") for h in head[1:])), rows)


def boundary_distances(data: DataSummary) -> tuple[float, ...]:
    """Distances of the evaluated bands; empty if the headline pair has no seed in common."""
    for seed in data.common_seeds(CONTROL, HEADLINE):
        boundary = data.of(HEADLINE)[seed].evaluation.boundary
        if boundary is not None:
            return boundary.distances
    return ()


def time_section(data: DataSummary) -> str:
    """Inference time of each system (Table 6 of the paper)."""
    if data.timing is None:
        return "Not measured (`python -m research.ablation --time`)."
    t = data.timing
    rows = []
    for system in presets.SYSTEMS:
        if system in t["systems"]:
            s = t["systems"][system]
            ratio = NONE if s["ratio"] is None else f"{s['ratio']:.2f}"
            total = f"{s['total']['p50']:.0f} / {s['total']['p90']:.0f}"
            rows.append([system, f"{s['infer']['p50']:.0f} / {s['infer']['p90']:.0f}", total, ratio])
    machine = t["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} of {machine['cpus']} CPUs"
    head = ("system", "network, ms (p50 / p90)", "whole call, ms", "network, by panoptic-fpn")
    return (
        f"{table(head, rows)}\n\nEager PyTorch {machine['torch']}, float32, on {where}; {t['pictures']} "
        "images, each through all systems in turn; the last column is the median over the images."
    )


def variant_section(data: DataSummary) -> str:
    """Scores of the variants at the first seed."""
    seeds = data.seeds
    cells = (Cell(HEADLINE, v, seeds[0]) for v in _variants_of(HEADLINE))
    rows = [_variant_row(data, cell) for cell in cells if cell in data.results]
    names = ("mIoU", "thing mIoU", "mAcc", "thing boundary IoU", "mask AP")
    text = [table((f"`{HEADLINE}`, seed {seeds[0]}", *names), rows)]
    spread = data.spread(HEADLINE, FIGURES["thing mIoU"])
    if spread is not None and spread.count > 1:
        text.append(
            f"The base's thing mIoU alone varies by {100 * (spread.high - spread.low):.1f} points over "
            f"{spread.count} seeds: a smaller difference between rows decides nothing."
        )
    else:
        text.append("One seed: the variation of the base between seeds was not measured.")
    scores = sorted((background_score(c), c) for c in _background_cells(data))
    if scores:
        sweep = [
            [f"{score:g}", *(percent(data.spread(c.system, FIGURES[n], c.variant)) for n in _SWEPT)]
            for score, c in scores
        ]
        text.append(table((f"background score of `{CANVAS_ONLY}`", *_SWEPT), sweep))
        text.append("Scored on the validation images: a score chosen from this table is chosen on them.")
    return "\n\n".join(text)


_SWEPT = ("mIoU", "thing mIoU", "mAcc")


def background_score(cell: Cell) -> float:
    """Background score of a cell."""
    return float(dict(VARIANTS[cell.variant].after).get("background_score", PINNED["background_score"]))


def _background_cells(data: DataSummary) -> list[Cell]:
    return [c for c in data.results if c.system == CANVAS_ONLY and c.seed == data.seeds[0]]


def background_curve(data: DataSummary) -> dict[str, dict[float, float | None]]:
    """Scores by background score, for the chart."""
    return {
        name: {
            background_score(c): FIGURES[name](data.results[c].evaluation) for c in _background_cells(data)
        }
        for name in ("thing mIoU", "mAcc")
    }


def cells_section(data: DataSummary) -> str:
    """Scores of each cell; with a column of configuration digests if there are any."""
    rows = []
    with_digests = any(result.config_digest for result in data.results.values())
    order = {name: position for position, name in enumerate(ORDER)}
    ranks = {name: position for position, name in enumerate(VARIANTS)}
    for cell in sorted(data.results, key=lambda c: (order[c.system], ranks[c.variant], c.seed)):
        result = data.results[cell]
        names = ("mIoU", "thing mIoU", "mAcc", "box AP", "mask AP")
        figures = [percent(Spread.of([FIGURES[n](result.evaluation)])) for n in names]
        canvas = result.canvas or {}
        shares = [percent(Spread.of([_number(canvas.get(n))])) for n in ("recall", "precision")]
        minutes = [f"{result.seconds.get(stage, 0) / 60:.0f}" for stage in ("stage_one", "stage_two")]
        digest = [result.config_digest or NONE] if with_digests else []
        rows.append([cell.name, *figures, *shares, " + ".join(minutes), *digest])
    head = ("cell", "mIoU", "thing mIoU", "mAcc", "box AP", "mask AP", "canvas recall", "canvas precision")
    return table((*head, "minutes", *(["configuration"] * with_digests)), rows)


def paper_section() -> str:
    """Scores reported in the paper."""
    parts = []
    for title, rows in (("VCP (Table 1), ResNet-50", VCP), ("ModaNet, ResNet-50", MODANET)):
        body = [
            [name, *(_plain(v, 1) for v in (r.box_ap, r.mask_ap)), *(_plain(v, 2) for v in (r.miou, r.macc))]
            for name, r in rows.items()
        ]
        parts.append(f"{title}:\n\n" + table(("system", "box AP", "mask AP", "mIoU", "mAcc"), body))
    return "\n\n".join([*parts, *REMARKS])


def _variants_of(system: str) -> list[str]:
    return ["base", *(v.name for v in VARIANTS.values() if v.system == system)]


def _variant_row(data: DataSummary, cell: Cell) -> list[str]:
    names = ("mIoU", "thing mIoU", "mAcc", "thing boundary IoU", "mask AP")
    result = data.results[cell]
    return [
        _VARIANT_LABELS[cell.variant],
        *(percent(Spread.of([FIGURES[n](result.evaluation)])) for n in names),
    ]


_VARIANT_LABELS = {
    "base": "base: bilinear sampling, predicted canvas",
    "nearest": "nearest sampling",
    "rect": "rect sampling",
    "canvas-ground-truth": "canvas from the ground truth in training",
    "canvas-both": "canvas from both in training",
    "canvas-rate-10": "canvas joins a trained head at zero, at ten times the learning rate",
    "canvas-rate-1": "canvas channels at the base learning rate",
    "canvas-scaled": "canvas joins a trained head at zero, scaled",
    "canvas-first-step": "head reads the canvas from its first step",
    "canvas-first-step-scaled": "head reads the scaled canvas from its first step",
    "canvas-gradient-all": "gradient of the canvas into heads and backbone",
    "canvas-gradient-heads": "gradient of the canvas into the heads",
    "canvas-gradient-none": "no gradient of the canvas",
    "canvas-skip": "trained convolution from canvas to logits",
    "empty-canvas": "base, empty canvas",
    "oracle-canvas": "base, oracle canvas",
}


def _mean(get: Get, results: dict[int, CellResult], seeds: Sequence[int]) -> float:
    return math.fsum(get(results[s].evaluation) for s in seeds) / len(seeds)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _paper_points(value: float | None) -> str:
    return NONE if value is None else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _plain(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"

# SPDX-License-Identifier: Apache-2.0
"""Tables of an evaluation, for the terminal and the HTML report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imp_trt.errors import InvalidInput, printable
from imp_trt.metrics.bootstrap import CONFIDENCE, bootstrap_differences
from imp_trt.metrics.boundary import BoundaryScores
from imp_trt.metrics.semantic import SemanticScores
from imp_trt.train.evaluation import Evaluation
from imp_trt.train.report.numbers import signed


@dataclass(frozen=True)
class Scored:
    """A model and its scores.

    Attributes:
        name: name in headings and legends.
        model: path or description, for the report.
        evaluation: scores.
    """

    name: str
    model: str
    evaluation: Evaluation


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Attributes:
        title: title of the table.
        head: column names.
        rows: cells by row.
        left: number of left-aligned text columns; the others have numbers.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def text(self) -> str:
        """The table as aligned text."""
        lines = [tuple(map(printable, row)) for row in (self.head, *self.rows)]
        widths = [max(len(row[i]) for row in lines) for i in range(len(self.head))]
        aligned = [
            "  ".join(
                cell.ljust(width) if i < self.left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in lines
        ]
        return "\n".join([f"{printable(self.title)}:", *aligned])


Get = Callable[[Evaluation], "float | None"]

SUMMARY: tuple[tuple[str, Get], ...] = (
    ("mIoU", lambda e: e.semantic.mean_iou),
    ("mIoU of things", lambda e: e.semantic.thing_iou),
    ("mIoU of stuff", lambda e: e.semantic.stuff_iou),
    ("mean accuracy", lambda e: e.semantic.mean_accuracy),
    ("pixel accuracy", lambda e: e.semantic.pixel_accuracy),
    ("boundary IoU", lambda e: e.boundary.mean_iou if e.boundary else None),
    ("boundary IoU of things", lambda e: e.boundary.thing_iou if e.boundary else None),
    ("box AP", lambda e: e.instances.box.ap if e.instances else None),
    ("box AP at IoU 0.5", lambda e: e.instances.box.ap50 if e.instances else None),
    ("mask AP", lambda e: e.instances.mask.ap if e.instances else None),
    ("mask AP at IoU 0.5", lambda e: e.instances.mask.ap50 if e.instances else None),
    ("panoptic quality", lambda e: e.panoptic.all.pq if e.panoptic else None),
    ("panoptic quality of things", lambda e: e.panoptic.things.pq if e.panoptic else None),
    ("panoptic quality of stuff", lambda e: e.panoptic.stuff.pq if e.panoptic else None),
)
"""Metrics of the first table, in 0-1; None if not evaluated."""


def tables(scored: Sequence[Scored]) -> list[Table]:
    """All tables of one model, or of a baseline and a model.

    Args:
        scored: (model,) or (baseline, model), evaluated on the same data.

    Raises:
        InvalidInput: no or more than two models, or different data or classes.
    """
    first = scored[0].evaluation if scored else None
    if first is None or len(scored) > 2:
        raise InvalidInput("report", expected="one or two models", got=len(scored))
    last = scored[-1].evaluation
    if (first.data, first.images, first.classes) != (last.data, last.images, last.classes):
        raise InvalidInput(
            "report",
            expected=f"{first.data}, {first.images} images",
            got=f"{last.data}, {last.images} images",
        )
    return [_summary(scored), *_intervals(scored), *_per_class(scored), *_boundary(scored), *_times(scored)]


def class_values(evaluation: Evaluation) -> dict[str, dict[str, float | None]]:
    """Values by class name, by metric: "IoU", and if evaluated "boundary IoU", "mask AP", "PQ"."""
    classes, names = evaluation.classes, evaluation.classes.names
    values: dict[str, dict[str, float | None]] = {
        "IoU": dict(zip(names, (float(v) for v in evaluation.semantic.iou), strict=True))
    }
    if evaluation.boundary:
        boundary = (float(v) for v in evaluation.boundary.iou)
        values["boundary IoU"] = dict(zip(names, boundary, strict=True))
    if evaluation.instances:
        precision = evaluation.instances.mask.per_class
        values["mask AP"] = {names[t]: float(v) for t, v in zip(classes.things, precision, strict=True)}
    if evaluation.panoptic:
        values["PQ"] = {name: evaluation.panoptic.of(k).pq for k, name in enumerate(names)}
    return values


def _summary(scored: Sequence[Scored]) -> Table:
    rows = []
    for name, get in SUMMARY:
        values = [get(s.evaluation) for s in scored]
        if any(_known(v) for v in values):
            rows.append((name, *_cells(values)))
    return Table("Summary, %", ("", *_columns(scored)), tuple(rows))


def _intervals(scored: Sequence[Scored]) -> list[Table]:
    """How much of the differences may be due to the choice of the images."""
    if len(scored) != 2 or any(s.evaluation.semantic.image_counts is None for s in scored):
        return []  # read from saved scores
    baseline, model = (s.evaluation.semantic for s in scored)
    found = bootstrap_differences(model, baseline)
    labels = {"mean_iou": "mIoU", "thing_iou": "mIoU of things", "stuff_iou": "mIoU of stuff"}
    rows = tuple(
        (label, *(signed(100 * v) for v in (found[name].value, found[name].low, found[name].high)))
        for name, label in labels.items()
        if _known(found[name].value)
    )
    title = f"Differences with {100 * CONFIDENCE:.0f}% intervals, from images drawn with replacement, points"
    return [Table(title, ("", "difference", "from", "to"), rows)]


def _per_class(scored: Sequence[Scored]) -> list[Table]:
    classes = scored[0].evaluation.classes
    by_model = [class_values(s.evaluation) for s in scored]
    result = []
    for measure in dict.fromkeys(name for values in by_model for name in values):
        columns = [values.get(measure, {}) for values in by_model]
        rows = tuple(
            (name, "thing" if index in classes.things else "stuff", *_cells([c.get(name) for c in columns]))
            for index, name in enumerate(classes.names)
            if any(name in c for c in columns)
        )
        result.append(
            Table(
                f"{measure[0].upper()}{measure[1:]} of each class, %",
                ("class", "kind", *_columns(scored)),
                rows,
                left=2,
            )
        )
    return result


def _boundary(scored: Sequence[Scored]) -> list[Table]:
    bands = [s.evaluation.boundary for s in scored]
    known = next((b for b in bands if b is not None), None)
    if known is None:
        return []
    measures: tuple[tuple[str, Callable[[SemanticScores], float]], ...] = (
        ("mIoU", lambda scores: scores.mean_iou),
        ("mIoU of things", lambda scores: scores.thing_iou),
        ("Mean accuracy", lambda scores: scores.mean_accuracy),
    )
    found = []
    for name, get in measures:
        rows = tuple(
            (f"{distance:g} px", *_cells([get(b.bands[k]) if b else None for b in bands]))
            for k, distance in enumerate(known.distances)
        )
        title = f"{name} near class boundaries, %"
        found.append(Table(title, ("within", *_columns(scored)), rows))
    return [*found, *_object_bands(scored, bands)]


def _object_bands(scored: Sequence[Scored], bands: Sequence[BoundaryScores | None]) -> list[Table]:
    """The mIoU of things by the distance to an object's boundary, as a fraction of the object's size."""
    known = next((b.object_distances for b in bands if b is not None and b.object_distances), ())
    rows = tuple(
        (
            f"{100 * distance:g}%",
            *_cells(
                [b.object_bands[k].thing_iou if b and b.object_distances == known else None for b in bands]
            ),
        )
        for k, distance in enumerate(known)
    )
    title = "mIoU of things near the boundaries of objects, %"
    return [Table(title, ("within, of the object's size", *_columns(scored)), rows)] if rows else []


def _times(scored: Sequence[Scored]) -> list[Table]:
    if not any(s.evaluation.milliseconds for s in scored):
        return []
    rows = []
    for kind, label in (("total", "Segmenter.run"), ("infer", "network alone")):
        for figure in ("p50", "p90", "mean"):
            values = [s.evaluation.milliseconds.get(kind, {}).get(figure) for s in scored]
            rows.append((f"{label}, {figure}", *("-" if v is None else f"{v:.1f}" for v in values)))
    return [Table("Time per image on this machine, ms", ("", *(s.name for s in scored)), tuple(rows))]


def _columns(scored: Sequence[Scored]) -> list[str]:
    names = [s.name for s in scored]
    return [*names, "difference"] if len(scored) == 2 else names


def _cells(values: Sequence[float | None]) -> list[str]:
    known = [None if v is None or math.isnan(v) else 100 * v for v in values]
    cells = ["-" if v is None else f"{v:.2f}" for v in known]
    if len(known) == 2:
        baseline, model = known
        cells.append("-" if baseline is None or model is None else signed(model - baseline))
    return cells


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)

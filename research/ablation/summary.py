# SPDX-License-Identifier: Apache-2.0
"""Results of one dataset and their means and ranges over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.train.evaluation import Evaluation
from research.ablation.cells import Cell, plan
from research.ablation.results import (
    TIMING,
    TIMING_FORMAT,
    CellResult,
    JsonObject,
    read_results,
    settings_difference,
)

NOTES = "notes.md"
"""File in a dataset's folder whose text is included in the page."""

Get = Callable[[Evaluation], float]
"""One figure of an evaluation; NaN where it was not measured."""

FIGURES: dict[str, Get] = {
    "box AP": lambda e: e.instances.box.ap if e.instances else math.nan,
    "mask AP": lambda e: e.instances.mask.ap if e.instances else math.nan,
    "mIoU": lambda e: e.semantic.mean_iou,
    "thing mIoU": lambda e: e.semantic.thing_iou,
    "stuff mIoU": lambda e: e.semantic.stuff_iou,
    "mAcc": lambda e: e.semantic.mean_accuracy,
    "boundary IoU": lambda e: e.boundary.mean_iou if e.boundary else math.nan,
    "thing boundary IoU": lambda e: e.boundary.thing_iou if e.boundary else math.nan,
    "PQ": lambda e: e.panoptic.all.pq if e.panoptic else math.nan,
    "thing PQ": lambda e: e.panoptic.things.pq if e.panoptic else math.nan,
}
"""Figures by table heading."""


@dataclass(frozen=True)
class Spread:
    """Mean, minimum and maximum of a figure over seeds, and their number."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Spread of the values that are not NaN; None if there are none."""
        known = [v for v in values if not math.isnan(v)]
        if not known:
            return None
        return cls(math.fsum(known) / len(known), min(known), max(known), len(known))


@dataclass(frozen=True, eq=False)
class DataSummary:
    """All results of one dataset.

    Attributes:
        name: name of the dataset.
        results: results by cell.
        timing: content of the timing file, or None.
        notes: text of the notes file, or None.
    """

    name: str
    results: Mapping[Cell, CellResult]
    timing: JsonObject | None = None
    notes: str | None = None

    @property
    def classes(self) -> ClassTable:
        """Class table of the dataset."""
        return self.first.evaluation.classes

    @property
    def first(self) -> CellResult:
        """One of the results, for settings that all of them share."""
        return next(iter(self.results.values()))

    @property
    def machines(self) -> dict[str, list[str]]:
        """Names of the cells by the machine that evaluated them."""
        found: dict[str, list[str]] = {}
        for cell, result in self.results.items():
            found.setdefault(_machine(result.machine), []).append(cell.name)
        return found

    @property
    def source_kinds(self) -> list[str]:
        """How the results name their source: some of "commit", "digest" and "version"."""
        return sorted({source.split(" ")[0] for r in self.results.values() for source in r.sources})

    @property
    def sources(self) -> dict[str, list[str]]:
        """Names of the cells by the versions of the source that trained and evaluated them.

        A version is abbreviated; its kind is part of the name if the results have several kinds.
        """
        several = len(self.source_kinds) > 1
        found: dict[str, list[str]] = {}
        for cell, result in self.results.items():
            names = [_source_name(source, with_kind=several) for source in result.sources]
            found.setdefault(" + ".join(names), []).append(cell.name)
        return found

    @property
    def seeds(self) -> list[int]:
        """All seeds, ascending."""
        return sorted({cell.seed for cell in self.results})

    @property
    def missing(self) -> list[Cell]:
        """Cells without a result, of a plan with at least three seeds."""
        seeds = self.seeds + [s for s in range(3) if s not in self.seeds][: max(0, 3 - len(self.seeds))]
        return [cell for cell in plan(seeds=sorted(seeds)) if cell not in self.results]

    def of(self, system: str, variant: str = "base") -> dict[int, CellResult]:
        """Results of a system's variant by seed."""
        found = {c.seed: r for c, r in self.results.items() if (c.system, c.variant) == (system, variant)}
        return dict(sorted(found.items()))

    def common_seeds(self, without: str, with_: str) -> list[int]:
        """Seeds for which both systems of a pair have a result; only these are compared."""
        return [seed for seed in self.of(without) if seed in self.of(with_)]

    def spread(
        self, system: str, get: Get, variant: str = "base", seeds: Sequence[int] | None = None
    ) -> Spread | None:
        """Spread of a figure of a system over its seeds, or over the given ones."""
        found = self.of(system, variant)
        return Spread.of([get(r.evaluation) for s, r in found.items() if seeds is None or s in seeds])

    def gain(self, without: str, with_: str, get: Get) -> Spread | None:
        """Spread of the differences of a figure between two systems, paired by seed."""
        before, after = self.of(without), self.of(with_)
        seeds = self.common_seeds(without, with_)
        return Spread.of([get(after[s].evaluation) - get(before[s].evaluation) for s in seeds])


def class_iou(index: int) -> Get:
    """IoU of one class."""
    return lambda e: float(e.semantic.iou[index])


def mask_ap(channel: int) -> Get:
    """Mask AP of one thing class, by its position among the things."""
    return lambda e: float(e.instances.mask.per_class[channel]) if e.instances else math.nan


def band(position: int, accuracy: bool = False) -> Get:
    """mIoU, or mAcc, of one boundary band."""

    def get(evaluation: Evaluation) -> float:
        if evaluation.boundary is None:
            return math.nan
        scores = evaluation.boundary.bands[position]
        return scores.mean_accuracy if accuracy else scores.mean_iou

    return get


def read_summaries(folder: Path) -> list[DataSummary]:
    """Read all results below a folder, sorted by dataset.

    Raises:
        InvalidInput: a file is damaged, or a folder has results of two experiments.
        UsageError: there are no results.
    """
    sets: dict[str, dict[Cell, CellResult]] = {}
    for result in read_results(folder):
        found = sets.setdefault(result.data, {})
        _require_one_experiment(result, found)
        found[result.cell] = result
    return [
        DataSummary(name, results, _timing(folder / name / TIMING, results), _notes(folder / name / NOTES))
        for name, results in sorted(sets.items())
    ]


def _require_one_experiment(result: CellResult, others: Mapping[Cell, CellResult]) -> None:
    for other in others.values():
        free = _set_by_cell(result.cell) | _set_by_cell(other.cell)
        difference = settings_difference(_shared(result.settings), _shared(other.settings), free)
        if difference is not None:
            raise InvalidInput(
                f"results of {result.data}, cell {result.cell.name}",
                expected=f"the settings of {other.cell.name}",
                got=f"those of another experiment, {difference}",
                fix="keep each experiment's results in a folder of its own",
            )
        if other.evaluation.classes != result.evaluation.classes:
            raise InvalidInput(
                f"results of {result.data}, cell {result.cell.name}",
                expected=f"the classes of {other.cell.name}",
                got="others: the labels were merged in two ways, or of two datasets",
                fix="keep each experiment's results in a folder of its own",
            )


def _shared(settings: JsonObject) -> dict[str, object]:
    """Settings that all cells of an experiment share."""
    return {k: v for k, v in settings.items() if k not in ("network", "shown", "stage_one")}


def _set_by_cell(cell: Cell) -> frozenset[str]:
    """JSON keys of recipe fields that the cell overrides, or that have no effect on it."""
    return cell.unused | cell.recipe_settings.keys()


def _timing(path: Path, results: Mapping[Cell, CellResult]) -> JsonObject | None:
    if not path.is_file():
        return None
    settings = next(iter(results.values())).settings
    expected = {"format": TIMING_FORMAT, **{k: settings[k] for k in ("backbone", "input_size")}}
    try:
        data: JsonObject = json.loads(path.read_text())
        found = {k: data[k] for k in expected}
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"times {path}",
            expected=f"JSON of format {TIMING_FORMAT}",
            got=repr(error),
            fix="delete the file",
        ) from error
    if found != expected:
        raise InvalidInput(
            f"times {path}",
            expected=f"those of the networks next to them: {expected}",
            got=found,
            fix="run python -m research.ablation --time again, or delete the file",
        )
    return data


def _machine(facts: JsonObject) -> str:
    where = facts.get("gpu") or f"{facts['cpu']}, {facts['threads']} of {facts['cpus']} CPUs"
    return f"{where}, PyTorch {facts['torch']}"


def _source_name(source: str, *, with_kind: bool) -> str:
    kind, _, name = source.partition(" ")
    if kind == "commit":
        commit, plus, changes = name.partition("+")
        name = f"{commit[:12]}{plus}{changes}"
    return f"{kind} {name}" if with_kind else name


def _notes(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None

"""The work behind a cell: train its two stages, or find them done, and measure the result."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imp_trt.errors import UsageError
from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.config import ModelConfig
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import system
from imp_trt.train.config import Initial, Recipe
from imp_trt.train.dataset import Dataset
from imp_trt.train.run import Run, stage_one_key, train_stage_one, train_stage_two
from research.ablation.cells import VARIANTS, Cell
from research.ablation.locks import claim
from research.ablation.measure import measure
from research.ablation.results import (
    CellResult,
    machine_facts,
    read_result,
    unlike_settings,
    write_json,
)

# Below "imp_trt", whose handler the command line sets up.
_log = logging.getLogger("imp_trt.research.ablation")

STAGE_TWO = "stage_two"
"""Name of a cell's final checkpoint, without suffix."""

CURVE_LINES = 60
"""Lines of the training log that are kept for each stage."""


@dataclass(frozen=True)
class Experiment:
    """Everything that the cells of one data set share.

    Attributes:
        train, val: labelled pictures to train on and to score.
        splits: the names of the two lists.
        option: the data set as a command names it, its folder called DIR.
        recipe_name, recipe: how every system is trained.
        input_size: (height, width) of the exported frames, and of those that are scored.
        work: folder of checkpoints and resume states; processes may share it.
        results: folder of the result files.
        backbone, init: trunk and its first weights.
        half: keep checkpoints as float16.
        device, threads: where it runs.
        deadline: on time.monotonic; training stops there and can be continued.
        limit: score only the first so many pictures.
        quiet: no progress bar.
    """

    train: Dataset
    val: Dataset
    recipe_name: str
    recipe: Recipe
    input_size: tuple[int, int]
    work: Path
    results: Path
    splits: tuple[str, str] = ("train", "val")
    option: str = "DIR"
    backbone: str = "compact"
    init: Initial = "scratch"
    half: bool = False
    device: str = "cpu"
    threads: int = 1
    deadline: float | None = None
    limit: int | None = None
    quiet: bool = False

    @property
    def data(self) -> str:
        """The data set's name as a folder's: without the part after a slash, which names a sequence."""
        return re.sub(r"[^\w.-]+", "-", self.train.name.partition("/")[0]) or "data"

    @property
    def folder(self) -> Path:
        """Checkpoints of this data set."""
        return self.work / self.data

    def path(self, cell: Cell) -> Path:
        """Where a cell's results lie."""
        return self.results / self.data / f"{cell.name}.json"

    def config(self, cell: Cell) -> ModelConfig:
        """The network that a cell trains."""
        changes = dict(cell.config)
        if self.backbone != "compact" and self.init == "scratch":
            # Frozen statistics only make sense with the weights they were frozen with.
            changes["norm"] = "batch"
        return system(cell.system, self.train.classes, self.input_size, self.backbone, **changes)

    def settings(self, cell: Cell) -> dict[str, Any]:
        """What decides a cell's numbers besides its name, as plain data."""
        facts: dict[str, Any] = {
            "data": self.option,
            "backbone": self.backbone,
            "input_size": list(self.input_size),
            "init": self.init,
            "half": self.half,
            "recipe_name": self.recipe_name,
            "recipe": replace(self.recipe, **cell.recipe).to_dict(),
            "network": {**cell.config, **dict(VARIANTS[cell.variant].after)},
            "shown": VARIANTS[cell.variant].shown,
            "train": {"split": self.splits[0], "images": len(self.train)},
            "val": {"split": self.splits[1], "images": min(len(self.val), self.limit or len(self.val))},
        }
        if self.limit is not None:
            facts["val"]["limit"] = self.limit
        plain: dict[str, Any] = json.loads(json.dumps(facts))
        return plain

    def done(self, cell: Cell) -> bool:
        """Whether the cell's results are there.

        Raises:
            UsageError: results of another experiment are in their place.
        """
        path = self.path(cell)
        if not path.is_file():
            return False
        found = read_result(path)
        unlike = unlike_settings(found.settings, self.settings(cell), cell.unused)
        if found.evaluation.classes != self.val.classes:
            unlike = "other classes"
        if unlike is not None:
            raise UsageError(
                f"{path} belongs to another experiment",
                expected="the same data, classes, recipe, backbone and sizes",
                got=f"results made with {unlike}",
                fix="choose another folder with --results",
            )
        return True

    def fill(self, cell: Cell) -> None:
        """Train and measure a cell, and write its results.

        Raises:
            Busy: another process has the cell, or trains the stage one it needs.
            TimeBudgetSpent: the deadline was reached; the state is saved.
            TrainingDiverged: a loss is no longer finite.
        """
        with claim(self.folder / "locks" / f"{cell.trained.name}.lock"):
            if self.done(cell):
                return
            _log.info("%s: cell %s", self.data, cell.name)
            variant = VARIANTS[cell.variant]
            first, second = self.train_cell(cell.trained)
            model = self._changed(cell, second) if variant.after else second
            started = time.perf_counter()
            evaluation, canvas = measure(model, variant, self.val, self.limit, self.threads, self.device)
            made = [load_model(path)[1] for path in (first, second)]
            one, two = (float(metadata.get("seconds", 0.0)) for metadata in made)
            seconds = {
                "stage_one": one,
                "stage_two": two,
                "evaluation": round(time.perf_counter() - started, 1),
            }
            curve = (*_curve(first, 1), *_curve(second, 2)) if variant.trains else ()
            network, _ = load_model(model)
            result = CellResult(
                self.data,
                cell,
                {**self.settings(cell), "stage_one": first.parent.name},
                {**machine_facts(self.threads, self.device), **_trained_by(made)},
                seconds,
                sum(p.numel() for p in network.parameters()),
                canvas,
                curve,
                evaluation,
            )
            write_json(self.path(cell), result.to_dict())

    def train_cell(self, cell: Cell) -> tuple[Path, Path]:
        """Both stages of a cell, trained or found done; returns their checkpoints."""
        config = self.config(cell)
        run = Run(
            self.train,
            replace(self.recipe, **cell.recipe),
            cell.seed,
            self.folder,
            self.device,
            self.half,
            initial=self.init,
            deadline=self.deadline,
            quiet=self.quiet,
        )
        key = stage_one_key(run, config)
        with claim(self.folder / "locks" / f"stage-one-{key}.lock"):
            first = train_stage_one(replace(run, folder=self.folder / f"stage-one-{key}"), config)
        return first, train_stage_two(replace(run, folder=self.folder / cell.name), config, first, STAGE_TWO)

    def _changed(self, cell: Cell, model: Path) -> Path:
        """The checkpoint with the fields that a variant changes after training, beside the original."""
        trained, metadata = load_model(model)
        network = ImpNetwork(replace(trained.config, **dict(VARIANTS[cell.variant].after)))
        network.load_state_dict(trained.state_dict())
        return save_checkpoint(model.with_name(f"{cell.variant}.safetensors"), network, metadata, self.half)


def _trained_by(made: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Digests of the code that trained checkpoints of this metadata: what is found done may be older."""
    found = [metadata.get("code") for metadata in made]
    return {"trained_by": [str(code) for code in found]} if all(found) else {}


def _curve(checkpoint: Path, stage: int) -> tuple[dict[str, Any], ...]:
    """At most CURVE_LINES lines of a stage's log, evenly spread; none if the log is gone."""
    path = checkpoint.with_suffix(".jsonl")
    if not path.is_file():
        return ()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    step = -(-len(lines) // CURVE_LINES)
    kept = lines[step - 1 :: step] if step else []
    return tuple({"stage": stage, **{k: v for k, v in line.items() if k != "seconds"}} for line in kept)

# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation of the cells of one dataset."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from imp_trt.data.dataset import Dataset
from imp_trt.data.locks import claim
from imp_trt.errors import UsageError
from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.config import Backbone, Initial, ModelConfig
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import system
from imp_trt.train.config import Recipe
from imp_trt.train.evaluation import Evaluation
from imp_trt.train.provenance import config_digest, dataset_digest, dataset_facts
from imp_trt.train.run import Run, stage_one_key, train_stage_one, train_stage_two
from research.ablation.cells import VARIANTS, Cell, Variant
from research.ablation.measure import EvenlySpaced, measure
from research.ablation.results import (
    CellResult,
    JsonObject,
    machine_facts,
    read_result,
    settings_difference,
    write_json,
)

# Below "imp_trt", whose handler the command line sets up.
_log = logging.getLogger("imp_trt.research.ablation")

STAGE_TWO = "stage_two"
"""File name of a cell's final checkpoint, without suffix."""

CURVE_LINES = 60
"""Number of lines of the training log kept per stage."""


@dataclass(frozen=True)
class Experiment:
    """Settings that the cells of one dataset share.

    Attributes:
        train, val: labeled images for training and evaluation.
        recipe_name, recipe: training recipe of every system.
        input_size: (height, width) of the network's input during evaluation.
        work: folder of checkpoints and resume states; processes may share it.
        results: folder of the result files.
        splits: names of the two splits.
        option: the dataset as given to the command, with DIR for its folder.
        backbone, init: backbone and its initial weights.
        anchor_scales: of :class:`imp_trt.models.config.DetectorConfig`; None for the preset's.
        half: store checkpoints as float16.
        device, threads: of PyTorch.
        deadline: time of :func:`time.monotonic` at which training stops, to be continued later.
        limit: number of images to evaluate, from the first; None for all.
        training_images: number of training images to evaluate besides, evenly spaced; 0 for none.
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
    backbone: Backbone = "compact"
    init: Initial = "scratch"
    half: bool = False
    device: str = "cpu"
    threads: int = 1
    deadline: float | None = None
    limit: int | None = None
    quiet: bool = False
    anchor_scales: tuple[float, ...] | None = None
    training_images: int = 0

    @property
    def data(self) -> str:
        """Folder name of the dataset: its name without the part after a slash."""
        return re.sub(r"[^\w.-]+", "-", self.train.name.partition("/")[0]) or "data"

    @property
    def folder(self) -> Path:
        """Folder of the dataset's checkpoints."""
        return self.work / self.data

    def path(self, cell: Cell) -> Path:
        """Path of a cell's result file; of an existing one that has a former name, if there is one."""
        paths = [self.results / self.data / f"{name}.json" for name in cell.names]
        return next((path for path in paths if path.is_file()), paths[0])

    def config(self, cell: Cell) -> ModelConfig:
        """Configuration of the network that a cell trains."""
        changes = dict(cell.config)
        if self.backbone != "compact" and self.init == "scratch":
            # Frozen statistics require the weights that they were computed with.
            changes["norm"] = "batch"
        config = system(cell.system, self.train.classes, self.input_size, self.backbone, **changes)
        if self.anchor_scales is None:
            return config
        detector = replace(config.detector_config, anchor_scales=self.anchor_scales)
        return replace(config, detector_config=detector)

    @cached_property
    def _digests(self) -> tuple[str, str]:
        """Digests of the content of train and val."""
        return dataset_digest(self.train), dataset_digest(self.val)

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Settings that a cell's scores depend on in addition to system and seed, as plain data."""
        validation: dict[str, object] = {
            "split": self.splits[1],
            "images": min(len(self.val), self.limit or len(self.val)),
            "digest": self._digests[1],
        }
        if self.limit is not None:
            validation["limit"] = self.limit
        facts: dict[str, object] = {
            "data": self.option,
            "backbone": self.backbone,
            "input_size": list(self.input_size),
            "init": self.init,
            "half": self.half,
            "anchor_scales": self.config(cell).detector_config.anchor_scales,
            "recipe_name": self.recipe_name,
            "recipe": replace(self.recipe, **cell.recipe).to_dict(),
            "network": {**cell.config, **dict(VARIANTS[cell.variant].after)},
            "shown": VARIANTS[cell.variant].canvas_override,
            "train": {"split": self.splits[0], "images": len(self.train), "digest": self._digests[0]},
            "val": validation,
        }
        plain: dict[str, Any] = json.loads(json.dumps(facts))
        return plain

    def config_digest(self, cell: Cell) -> str:
        """Digest of all inputs of a cell's scores: settings, network, data, seed.

        Names, folders, recipe fields without effect on the system, device and threads are not part of it.
        """
        settings = self.settings(cell)
        for name in ("data", "recipe_name"):
            del settings[name]
        for name in (*cell.unused, "initial"):  # "init" decides the initial weights
            del settings["recipe"][name]
        network = replace(self.config(cell), **dict(VARIANTS[cell.variant].after))
        train, val = (
            dict[str, object](split=split, **dataset_facts(data))
            for split, data in zip(self.splits, (self.train, self.val), strict=True)
        )
        val["scored"] = settings["val"]["images"]
        decisive = {"system": cell.system, "seed": cell.seed, "network": network.to_dict()}
        return config_digest({**settings, **decisive, "train": train, "val": val})

    def done(self, cell: Cell) -> bool:
        """Whether the cell has a result.

        Raises:
            UsageError: the result is of another experiment.
        """
        path = self.path(cell)
        if not path.is_file():
            return False
        found = read_result(path)
        difference = settings_difference(found.settings, self.settings(cell), cell.unused)
        if found.evaluation.classes != self.val.classes:
            difference = "other classes"
        if VARIANTS[cell.variant].trains and self.training_images:
            scored = 0 if found.on_training is None else found.on_training.images
            wanted = min(self.training_images, len(self.train))
            if scored != wanted:
                difference = difference or f"scores of {scored} training images, not {wanted}"
        if difference is not None:
            raise UsageError(
                f"{path} belongs to another experiment",
                expected="the same data, classes, recipe, backbone and sizes",
                got=f"results made with {difference}",
                fix="choose another folder with --results",
            )
        return True

    def fill(self, cell: Cell) -> None:
        """Train and evaluate a cell and write its result file.

        Raises:
            Busy: another process works on the cell, or on the stage one that it needs.
            TimeBudgetSpent: the deadline was reached; the state is saved.
            TrainingDiverged: a loss is not finite.
        """
        with claim(self.folder / "locks" / f"{cell.trained.name}.lock"):
            if self.done(cell):
                return
            _log.info("%s: cell %s", self.data, cell.name)
            variant = VARIANTS[cell.variant]
            first, second = self.train_cell(cell.trained)
            model = self._overridden(cell, second) if variant.after else second
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
                self.config_digest(cell),
                self._on_training(second, variant) if variant.trains else None,
            )
            write_json(self.path(cell), result.to_dict())

    def _on_training(self, model: Path, variant: Variant) -> Evaluation | None:
        """Semantic scores on evenly spaced training images."""
        if not self.training_images:
            return None
        images = EvenlySpaced(self.train, self.training_images)
        semantic = replace(variant, measures=("semantic",))
        return measure(model, semantic, images, None, self.threads, self.device)[0]

    def train_cell(self, cell: Cell) -> tuple[Path, Path]:
        """Train both stages of a cell unless their checkpoints exist; returns the checkpoints."""
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

    def _overridden(self, cell: Cell, model: Path) -> Path:
        """Write a copy of a checkpoint with the fields that a variant overrides after training."""
        trained, metadata = load_model(model)
        network = ImpNetwork(replace(trained.config, **dict(VARIANTS[cell.variant].after)))
        network.load_state_dict(trained.state_dict())
        return save_checkpoint(model.with_name(f"{cell.variant}.safetensors"), network, metadata, self.half)


def _trained_by(made: Sequence[JsonObject]) -> dict[str, list[str]]:
    """Versions of the source recorded in checkpoints: an existing checkpoint may be older than this run."""
    versions = [_versions(metadata) for metadata in made]
    if not all(versions):
        return {}
    return {"trained_by": list(dict.fromkeys(version for found in versions for version in found))}


def _versions(metadata: JsonObject) -> list[str]:
    """Versions in a checkpoint's metadata; older ones have a digest of the source files, or nothing."""
    if "sources" in metadata:
        return [str(version) for version in metadata["sources"]]
    return [f"digest {metadata['code']}"] if "code" in metadata else []


def _curve(checkpoint: Path, stage: int) -> tuple[dict[str, object], ...]:
    """At most CURVE_LINES lines of a stage's log, evenly spaced; empty if there is no log."""
    path = checkpoint.with_suffix(".jsonl")
    if not path.is_file():
        return ()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    step = -(-len(lines) // CURVE_LINES)
    kept = lines[step - 1 :: step] if step else []
    return tuple({"stage": stage, **{k: v for k, v in line.items() if k != "seconds"}} for line in kept)

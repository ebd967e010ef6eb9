# SPDX-License-Identifier: Apache-2.0
"""Results as the ablation writes them, of a dataset of two pets, without any training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from imp_trt.models.presets import SYSTEMS
from imp_trt.train.config import Recipe, Stage
from imp_trt.train.evaluation import METRICS, Evaluation, evaluate
from research.ablation.cells import PINNED, VARIANTS, Cell
from research.ablation.results import CellResult
from tests.support.pictures import CAT, DOG, WALL, Pets, answer

PETS = Pets(3)
SOURCE = f"commit {'abc' * 13}d"


def evaluated(system: str, misses: int) -> Evaluation:
    """Scores of a predictor that leaves out so many columns of each pet."""

    def predict(frame: Any) -> Any:
        sample = PETS[int(frame[0, 0, 0])]
        semantic = sample.semantic.copy()
        masks = []
        for number in (1, 2):
            mask = sample.instances == number
            columns = np.flatnonzero(mask.any(axis=0))[:misses]
            semantic[:, columns] = np.where(mask[:, columns], WALL, semantic[:, columns])
            masks.append(mask)
        if not SYSTEMS[system]["detector"]:
            return answer(semantic)
        return answer(semantic, masks, [CAT, DOG], [0.9, 0.8], timing={"total": 5.0, "infer": 4.0})

    measures = METRICS if SYSTEMS[system]["detector"] else METRICS[:2]
    return evaluate(predict, PETS, measures)


def made(cell: Cell, misses: int, **settings: Any) -> CellResult:
    """A finished cell."""
    detector = SYSTEMS[cell.system]["detector"]
    per_class = {"cat": {"recall": 0.6, "precision": None}, "dog": {"recall": 0.9, "precision": None}}
    canvas = {"threshold": 0.5, "recall": 0.75, "precision": None, "per_class": per_class}
    recipe = Recipe(Stage(30, 1e-3, 1e-4), Stage(20, 1e-3, 1e-5), canvas_lr_mult=10.0)
    known = {
        "data": "coco:DIR",
        "backbone": "compact",
        "input_size": [64, 96],
        "init": "scratch",
        "half": True,
        "recipe_name": "pets-short",
        "recipe": json.loads(json.dumps({**recipe.to_dict(), **cell.recipe_settings})),
        "network": {**PINNED, **dict(VARIANTS[cell.variant].config)},
        "shown": VARIANTS[cell.variant].canvas_override,
        "train": {"split": "train", "images": 3},
        "val": {"split": "val", "images": 3},
        "stage_one": f"stage-one-{cell.seed}",
    }
    machine = {
        "cpu": "Test CPU",
        "cpus": 2,
        "threads": 1,
        "device": "cpu",
        "torch": "2.15.0",
        "source": SOURCE,
    }
    return CellResult(
        "pets",
        cell,
        {**known, **settings},
        machine,
        {"stage_one": 3600.0, "stage_two": 1800.0, "evaluation": 5.0},
        1000,
        canvas if detector else None,
        ({"stage": 2, "step": 20, "lr": 1e-3, "semantic": 0.5},),
        evaluated(cell.system, misses),
        "0123456789ab",
    )

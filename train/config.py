"""Training recipes as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from imp_trt.errors import UsageError

CanvasSource = Literal["predicted", "ground-truth", "both"]


@dataclass(frozen=True)
class Stage:
    """Length and learning rate of one stage: linear warm-up to peak, then a cosine to end.

    Attributes:
        iterations: optimiser steps.
        peak, end: learning rates.
        warmup: steps of linear growth from peak / 10.
    """

    iterations: int
    peak: float
    end: float
    warmup: int = 100


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; stage one the detector, stage two everything (paper, section 4).

    Attributes:
        stage_one, stage_two: lengths and learning rates.
        semantic_in_stage_one: also train the semantic head, without canvas, in stage one. The paper
            trains the detector alone there and starts from ImageNet weights; from scratch the
            semantic features need the iterations of both stages.
        batch: crops per step.
        crop: (height, width) of a crop, multiples of 32.
        scale: range of the random scale.
        optimizer: "adamw" or "sgd" (momentum 0.9).
        weight_decay: not applied to vectors (norms, biases).
        semantic_weight: factor of the semantic loss; the detector's losses have factor 1.
        class_weights: weigh the cross-entropy by 1 / log(1.10 + class frequency).
        canvas_source: what the canvas shows in stage two: predicted detections (as at test time),
            the ground truth, or both.
        canvas_detections: at most this many detections of an image are projected in training.
        canvas_gradient: "all" lets the semantic loss reach the pyramid through the canvas, as the
            paper does; "heads" stops it at the box and mask heads, which saves two RoIAlign
            backward passes.
        clip: largest gradient norm.
        colour: strength of the random colour changes, 0 for none.
        bfloat16: autocast convolutions and matrix products to bfloat16.
        min_area: instances of a crop with fewer visible pixels are not detector targets.
    """

    stage_one: Stage
    stage_two: Stage
    semantic_in_stage_one: bool = False
    batch: int = 8
    crop: tuple[int, int] = (256, 256)
    scale: tuple[float, float] = (0.75, 1.5)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-4
    semantic_weight: float = 1.0
    class_weights: bool = True
    canvas_source: CanvasSource = "predicted"
    canvas_detections: int = 32
    canvas_gradient: Literal["all", "heads"] = "all"
    clip: float = 10.0
    colour: float = 0.3
    bfloat16: bool = False
    min_area: int = 20

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints and logs."""
        return asdict(self)


RECIPES: dict[str, Recipe] = {
    # Small enough for a test or a first look.
    "smoke": Recipe(
        stage_one=Stage(20, 1e-3, 5e-4, warmup=5),
        stage_two=Stage(20, 1e-3, 1e-5, warmup=5),
        semantic_in_stage_one=True,
        batch=2,
        crop=(128, 128),
    ),
    # The bundled demo weights, on two CPU cores in about forty minutes.
    "scenes": Recipe(
        stage_one=Stage(1500, 2e-3, 1e-3),
        stage_two=Stage(1000, 1e-3, 1e-6),
        semantic_in_stage_one=True,
        batch=6,
        scale=(0.8, 1.25),
        semantic_weight=2.0,
        canvas_detections=24,
        canvas_gradient="heads",
        bfloat16=True,
    ),
    # CamVid from scratch on a CPU.
    "camvid": Recipe(
        stage_one=Stage(4500, 2e-3, 1e-3),
        stage_two=Stage(2500, 1e-3, 1e-6),
        semantic_in_stage_one=True,
        semantic_weight=2.0,
        canvas_detections=24,
        canvas_gradient="heads",
        bfloat16=True,
    ),
}


def recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Recipe by name, with some fields replaced.

    Raises:
        UsageError: unknown name or field.
    """
    if name not in RECIPES:
        raise UsageError("recipe", expected=f"one of {', '.join(RECIPES)}", got=name)
    try:
        return replace(RECIPES[name], **(changes or {}))
    except TypeError as error:
        raise UsageError("recipe", expected="fields of Recipe", got=str(error)) from error

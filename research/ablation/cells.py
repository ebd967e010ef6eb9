# SPDX-License-Identifier: Apache-2.0
"""Cells of the ablation: one system, one variant of it, one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from imp_trt.errors import UsageError
from imp_trt.models.presets import SYSTEMS
from imp_trt.train.config import CANVAS_KEYS
from imp_trt.train.renamed import json_key

CONTROL, HEADLINE = "panoptic-fpn", "panoptic-fpn-imp"
"""The pair whose difference is the paper's claim; it is run for every seed."""

CANVAS_ONLY = "mask-rcnn-imp"
"""System whose class map is the canvas itself, against a constant background score."""

BACKGROUND_SCORES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8)
"""Values of the sweep in addition to that of the base cell."""

CanvasOverride = Literal["empty", "oracle"]
"""Canvas that replaces the network's own during evaluation; see :mod:`research.ablation.canvas_override`."""

ALIASES: Mapping[str, str] = {"shown-nothing": "empty-canvas", "shown-truth": "oracle-canvas"}
"""Former names of variants, which older result files have."""


Overrides = tuple[tuple[str, Any], ...]
"""Field names and values for dataclasses.replace()."""


@dataclass(frozen=True)
class Variant:
    """One modification of a system.

    Attributes:
        name: "base", or the modification.
        system: system it applies to; None for "base", which applies to all.
        config: fields of ModelConfig to override in training.
        recipe: fields of Recipe to override.
        after: fields of ModelConfig to override after training.
        canvas_override: canvas that replaces the network's own during evaluation; None keeps its own.
        measures: metrics to evaluate; None for all that the network supports.
    """

    name: str
    system: str | None = None
    config: Overrides = ()
    recipe: Overrides = ()
    after: Overrides = ()
    canvas_override: CanvasOverride | None = None
    measures: tuple[str, ...] | None = None

    @property
    def trains(self) -> bool:
        """Whether it has weights of its own; otherwise it evaluates those of the base cell."""
        return not (self.after or self.canvas_override)


# Explicit in every cell, so that a later change of a default does not change what a cell means.
PINNED: Mapping[str, Any] = {"sampling": "bilinear", "background_score": 0.5}


def _with(overrides: Overrides, **changes: Any) -> Overrides:
    return tuple({**dict(overrides), **changes}.items())


_PLAIN: Overrides = (("canvas_scale", 1.0), ("canvas_lr_mult", 1.0))
LATE: Overrides = (("semantic_in_stage_one", True), *_PLAIN)
"""The head learns without canvas in stage one, and the weights that read it start at zero in stage two."""
FIRST_STEP: Overrides = (("semantic_in_stage_one", False), *_PLAIN)
"""Stage one is the detector alone, as in the paper: the head reads the canvas from its first step."""

VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        Variant("base"),
        Variant("nearest", HEADLINE, config=(("sampling", "nearest"),)),
        Variant("rect", HEADLINE, config=(("sampling", "rect"),)),
        Variant("canvas-ground-truth", HEADLINE, recipe=(("canvas_source", "ground-truth"),)),
        Variant("canvas-both", HEADLINE, recipe=(("canvas_source", "both"),)),
        # How the head comes to read the canvas; all at the common learning rate but the first.
        Variant("canvas-rate-10", HEADLINE, recipe=_with(LATE, canvas_lr_mult=10.0)),
        Variant("canvas-rate-1", HEADLINE, recipe=LATE),
        Variant("canvas-scaled", HEADLINE, recipe=_with(LATE, canvas_scale=None)),
        Variant("canvas-first-step", HEADLINE, recipe=FIRST_STEP),
        Variant("canvas-first-step-scaled", HEADLINE, recipe=_with(FIRST_STEP, canvas_scale=None)),
        *(
            Variant(f"canvas-gradient-{part}", HEADLINE, recipe=(("canvas_gradient", part),))
            for part in ("all", "heads", "none")
        ),
        Variant("canvas-skip", HEADLINE, config=(("canvas_skip", True),)),
        Variant("empty-canvas", HEADLINE, canvas_override="empty", measures=("semantic", "boundary")),
        Variant("oracle-canvas", HEADLINE, canvas_override="oracle", measures=("semantic", "boundary")),
        *(
            Variant(
                f"background-{score}",
                CANVAS_ONLY,
                after=(("background_score", score),),
                measures=("semantic", "boundary"),
            )
            for score in BACKGROUND_SCORES
        ),
    )
}
"""Variants by name."""


@dataclass(frozen=True)
class Cell:
    """One run of the ablation: a system, a variant of it and a seed."""

    system: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the result file, without suffix."""
        return f"{self.system}-{self.variant}-s{self.seed}"

    @property
    def names(self) -> tuple[str, ...]:
        """:attr:`name`, then the names it had in earlier versions."""
        former = [old for old, new in ALIASES.items() if new == self.variant]
        return self.name, *(f"{self.system}-{old}-s{self.seed}" for old in former)

    @property
    def trained(self) -> Cell:
        """Cell whose weights this one evaluates: itself, or the base cell if the variant does not train."""
        return self if VARIANTS[self.variant].trains else Cell(self.system, "base", self.seed)

    @property
    def config(self) -> dict[str, Any]:
        """Fields of ModelConfig to override in training."""
        return {**PINNED, **dict(VARIANTS[self.variant].config)}

    @property
    def recipe(self) -> dict[str, Any]:
        """Fields of Recipe to override."""
        return dict(VARIANTS[self.variant].recipe)

    @property
    def recipe_settings(self) -> dict[str, object]:
        """:attr:`recipe` under the JSON keys of result files."""
        return {json_key(name): value for name, value in self.recipe.items()}

    @property
    def unused(self) -> frozenset[str]:
        """JSON keys of Recipe fields without effect on the system: those of a canvas that it lacks."""
        switches = SYSTEMS[self.system]
        if switches["imp"] and switches["semantic_head"] != "none":
            return frozenset()
        return CANVAS_KEYS


def plan(
    systems: Sequence[str] = tuple(SYSTEMS),
    seeds: Sequence[int] = (0, 1, 2),
    variants: Sequence[str] = tuple(VARIANTS),
) -> list[Cell]:
    """List the cells to run, most important first.

    The headline pair at each seed, then the other systems at the lowest seed, then the variants there.

    Args:
        systems: names of SYSTEMS.
        seeds: seeds of the headline pair.
        variants: names of VARIANTS or ALIASES; "base" is always included.

    Raises:
        UsageError: a name is unknown, or there is no seed.
    """
    variants = [ALIASES.get(name, name) for name in variants]
    for what, names, known in (("system", systems, SYSTEMS), ("variant", variants, VARIANTS)):
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise UsageError(what, expected=f"some of {', '.join(known)}", got=", ".join(unknown))
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UsageError("seeds", expected="one or more different non-negative integers", got=list(seeds))
    seeds = sorted(seeds)
    pair = [s for s in (CONTROL, HEADLINE) if s in systems]
    cells = [Cell(system, "base", seed) for seed in seeds for system in pair]
    others = [s for s in ORDER if s in systems and s not in pair]
    cells += [Cell(system, "base", seeds[0]) for system in others]
    chosen = [v for v in VARIANTS.values() if v.name in variants]
    cells += [Cell(v.system, v.name, seeds[0]) for v in chosen if v.system in systems and v.system]
    return cells


# Pairs are adjacent: the second of a pair reuses the stage one of the first.
ORDER = (CONTROL, HEADLINE, "panoptic-p2", "panoptic-p2-imp", CANVAS_ONLY, "semantic-fpn", "semantic-p2")
"""Systems, most important first."""

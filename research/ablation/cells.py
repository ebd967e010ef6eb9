"""The cells of the ablation: which network, trained with what change, from which seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from imp_trt.errors import UsageError
from imp_trt.models.presets import SYSTEMS
from imp_trt.train.config import CANVAS_FIELDS

CONTROL, HEADLINE = "panoptic-fpn", "panoptic-fpn-imp"
"""The pair whose difference is the paper's claim; every seed has both."""

CANVAS_ONLY = "mask-rcnn-imp"
"""The system whose class map is the canvas itself, against a constant background score."""

BACKGROUND_SCORES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8)
"""What the sweep tries beside the score of the base cell."""


Shown = Literal["nothing", "truth"]
"""What a network is shown in place of its own canvas; see :mod:`research.ablation.shown`."""


@dataclass(frozen=True)
class Variant:
    """One change to a system.

    Attributes:
        name: "base" or what is changed.
        system: the system it belongs to; None for "base", which every system has.
        config: fields of ModelConfig that differ in training.
        recipe: fields of Recipe that differ.
        after: fields of ModelConfig that are changed after training.
        shown: what the network is shown in place of its own canvas when it is measured.
        measures: what is measured; None for all that the network has.
    """

    name: str
    system: str | None = None
    config: tuple[tuple[str, Any], ...] = ()
    recipe: tuple[tuple[str, Any], ...] = ()
    after: tuple[tuple[str, Any], ...] = ()
    shown: Shown | None = None
    measures: tuple[str, ...] | None = None

    @property
    def trains(self) -> bool:
        """Whether it has weights of its own; else it measures those of the base cell."""
        return not (self.after or self.shown)


# The base cells name what they vary, so that a later change of a default does not change their meaning.
PINNED: Mapping[str, Any] = {"sampling": "bilinear", "background_score": 0.5}

VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        Variant("base"),
        Variant("nearest", HEADLINE, config=(("sampling", "nearest"),)),
        Variant("rect", HEADLINE, config=(("sampling", "rect"),)),
        Variant("canvas-ground-truth", HEADLINE, recipe=(("canvas_source", "ground-truth"),)),
        Variant("canvas-both", HEADLINE, recipe=(("canvas_source", "both"),)),
        Variant("canvas-rate-1", HEADLINE, recipe=(("canvas_rate", 1.0),)),
        Variant("shown-nothing", HEADLINE, shown="nothing", measures=("semantic", "boundary")),
        Variant("shown-truth", HEADLINE, shown="truth", measures=("semantic", "boundary")),
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
"""Every variant by name."""


@dataclass(frozen=True)
class Cell:
    """One entry of the table: a system, a variant of it, and a seed."""

    system: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """File name of the results, without suffix."""
        return f"{self.system}-{self.variant}-s{self.seed}"

    @property
    def trained(self) -> Cell:
        """The cell whose training this one uses: itself, or the base where nothing else is trained."""
        return self if VARIANTS[self.variant].trains else Cell(self.system, "base", self.seed)

    @property
    def config(self) -> dict[str, Any]:
        """Fields of ModelConfig to set for training."""
        return {**PINNED, **dict(VARIANTS[self.variant].config)}

    @property
    def recipe(self) -> dict[str, Any]:
        """Fields of Recipe to set."""
        return dict(VARIANTS[self.variant].recipe)

    @property
    def unused(self) -> frozenset[str]:
        """Fields of Recipe that mean nothing to the system: about the canvas, where it learns from none."""
        switches = SYSTEMS[self.system]
        if switches["imp"] and switches["semantic_head"] != "none":
            return frozenset()
        return CANVAS_FIELDS


def plan(
    systems: Sequence[str] = tuple(SYSTEMS),
    seeds: Sequence[int] = (0, 1, 2),
    variants: Sequence[str] = tuple(VARIANTS),
) -> list[Cell]:
    """The cells, most important first.

    The headline pair at each seed, then the other systems at the lowest seed, then the variants there.

    Args:
        systems: names of SYSTEMS.
        seeds: seeds of the headline pair.
        variants: names of VARIANTS; "base" is always meant.

    Raises:
        UsageError: an unknown name, or no seed.
    """
    for what, names, known in (("system", systems, SYSTEMS), ("variant", variants, VARIANTS)):
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise UsageError(what, expected=f"some of {', '.join(known)}", got=", ".join(unknown))
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UsageError("seeds", expected="one or more, each once, from 0 on", got=list(seeds))
    seeds = sorted(seeds)
    pair = [s for s in (CONTROL, HEADLINE) if s in systems]
    cells = [Cell(system, "base", seed) for seed in seeds for system in pair]
    others = [s for s in ORDER if s in systems and s not in pair]
    cells += [Cell(system, "base", seeds[0]) for system in others]
    chosen = [v for v in VARIANTS.values() if v.name in variants]
    cells += [Cell(v.system, v.name, seeds[0]) for v in chosen if v.system in systems and v.system]
    return cells


# Pairs stand together: the second of a pair finds its stage one done.
ORDER = (CONTROL, HEADLINE, "panoptic-p2", "panoptic-p2-imp", CANVAS_ONLY, "semantic-fpn", "semantic-p2")
"""All systems, most important first."""

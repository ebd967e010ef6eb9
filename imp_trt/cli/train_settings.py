# SPDX-License-Identifier: Apache-2.0
"""Settings of imp-train (--set) without effect, because of another field of the recipe or of the system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.models.config import ModelConfig
    from imp_trt.train.config import Recipe

Need = tuple[str, str]
"""What a field needs, and how to get it."""


def reject_idle_settings(settings: Sequence[str], plan: Recipe, config: ModelConfig) -> None:
    """Require that what --set changes has an effect.

    Args:
        settings: FIELD=VALUE, as given.
        plan: the recipe with them.
        config: of the network.

    Raises:
        UsageError: a field has none.
    """
    from imp_trt.train.renamed import FIELD_NAMES

    needs = {**_needs_of_recipe(plan), **_needs_of_network(config)}
    for setting in settings:
        outer, dot, inner = setting.partition("=")[0].rpartition(".")
        need = needs.get(f"{outer}{dot}{FIELD_NAMES.get(inner, inner)}")
        if need is not None:
            raise UsageError(
                f"--set {setting}",
                expected=need[0],
                got="a field without effect",
                fix=f"leave it out, or {need[1]}",
            )


def _needs_of_recipe(plan: Recipe) -> dict[str, Need]:
    needs: dict[str, Need] = {}
    if plan.short_sides:
        needs["scale"] = ("a recipe without short_sides, which replace it", "add --set short_sides=()")
    elif plan.max_long is not None:
        needs["max_long"] = ("a recipe with short_sides", "add --set short_sides=SIDE,")
    for name in ("stage_one", "stage_two"):
        stepwise = getattr(plan, name).schedule == "step"
        other = "cosine" if stepwise else "step"
        for field in ("min_lr",) if stepwise else ("milestones", "gamma"):
            needs[f"{name}.{field}"] = (f"a schedule {other!r}", f"add --set {name}.schedule={other}")
    return needs


def _needs_of_network(config: ModelConfig) -> dict[str, Need]:
    from imp_trt.train.config import CANVAS_FIELDS

    another = "choose another --system"
    needs: dict[str, Need] = {}
    if config.semantic_head == "none":
        fields = ("semantic_weight", "class_weights", "ohem_ratios")
        needs |= dict.fromkeys(fields, ("a system with a semantic head", another))
    if not (config.imp and config.semantic_head != "none"):
        needs |= dict.fromkeys(CANVAS_FIELDS, ("a system with a semantic head with IMP", another))
    if not config.detector:
        fields = ("instance_weight", "min_area", "semantic_in_stage_one")
        needs |= dict.fromkeys(fields, ("a system with a detector", another))
    return needs

# SPDX-License-Identifier: Apache-2.0
"""Which cells there are, and in which order."""

from __future__ import annotations

import pytest

from imp_trt.classes import ClassTable
from imp_trt.errors import UsageError
from imp_trt.models.presets import SYSTEMS, system
from imp_trt.train.recipes import RECIPES, recipe
from research.ablation.cells import CONTROL, HEADLINE, ORDER, VARIANTS, Cell, plan

CLASSES = ClassTable(("road", "car"), (1,), ((1, 2, 3), (4, 5, 6)))


def test_the_headline_pair_comes_first_then_systems_then_variants():
    cells = plan(seeds=(3, 5, 8))
    assert cells[:6] == [Cell(s, "base", seed) for seed in (3, 5, 8) for s in (CONTROL, HEADLINE)]
    assert {c.system for c in cells[6:11]} == set(SYSTEMS) - {CONTROL, HEADLINE}
    assert all((c.variant, c.seed) == ("base", 3) for c in cells[6:11])
    assert {c.variant for c in cells[11:]} == set(VARIANTS) - {"base"}
    assert all(c.seed == 3 for c in cells[11:])
    assert len(set(cells)) == len(cells) == len({c.name for c in cells})


def test_members_of_a_pair_are_neighbors_because_they_share_a_stage_one():
    assert set(ORDER) == set(SYSTEMS)
    for name in SYSTEMS:
        if name.endswith("-imp") and name.removesuffix("-imp") in SYSTEMS:
            assert ORDER.index(name) == ORDER.index(name.removesuffix("-imp")) + 1


def test_a_choice_of_systems_leaves_out_the_variants_of_others():
    cells = plan(systems=("semantic-p2", HEADLINE), seeds=(0,))
    assert {c.system for c in cells} == {"semantic-p2", HEADLINE}
    assert plan(systems=(CONTROL,), seeds=(0, 1), variants=()) == [
        Cell(CONTROL, "base", 0),
        Cell(CONTROL, "base", 1),
    ]


def test_former_names_of_variants_are_accepted():
    former, current = (
        plan((HEADLINE,), (0,), names)
        for names in (("shown-nothing", "shown-truth"), ("empty-canvas", "oracle-canvas"))
    )
    assert former == current
    assert current[1].names == ("panoptic-fpn-imp-empty-canvas-s0", "panoptic-fpn-imp-shown-nothing-s0")
    assert Cell(HEADLINE, "base", 0).names == ("panoptic-fpn-imp-base-s0",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"systems": ("panoptic",)},
        {"variants": ("bicubic",)},
        {"seeds": ()},
        {"seeds": (1, 1)},
        {"seeds": (-1,)},
    ],
)
def test_an_invalid_plan_is_rejected(wrong):
    with pytest.raises(UsageError):
        plan(**wrong)


def test_every_variant_is_a_network_and_a_recipe():
    base = Cell(HEADLINE, "base", 0)
    for cell in plan(seeds=(0,)):
        config = system(cell.system, CLASSES, (64, 64), **cell.config)
        changed = recipe("scenes-short", cell.recipe)
        variant = VARIANTS[cell.variant]
        # Overrides are complete: some repeat what one recipe has, for recipes that have something else.
        differs = bool(variant.config or variant.recipe)
        assert all(getattr(changed, name) == value for name, value in variant.recipe)
        assert all(getattr(config, name) == value for name, value in variant.config)
        assert differs == (cell.variant != "base" and variant.trains)
        assert cell.trained == (cell if variant.trains else Cell(cell.system, "base", cell.seed))
        if variant.after:
            swept = system(cell.system, CLASSES, (64, 64), **dict(variant.after))
            assert swept.background_score != 0.5
        # Only a canvas that exists can be overridden.
        assert config.imp or not variant.canvas_override
    assert RECIPES["smoke"].canvas_source == "predicted"
    assert base.name == "panoptic-fpn-imp-base-s0"


def test_the_cells_of_the_canvas_differ_from_one_another_in_every_recipe():
    names = [name for name in VARIANTS if name.startswith("canvas-") and "gradient" not in name]
    assert {"canvas-rate-10", "canvas-scaled", "canvas-first-step", "canvas-first-step-scaled"} <= set(names)
    for plan_name in ("scenes-short", "camvid-pretrained"):
        trained = [(recipe(plan_name, dict(VARIANTS[name].recipe)), VARIANTS[name].config) for name in names]
        assert all(a != b for i, a in enumerate(trained) for b in trained[:i])
    old = recipe("scenes-short", dict(VARIANTS["canvas-rate-10"].recipe))
    assert old == recipe("scenes-short-canvas-rate-10")

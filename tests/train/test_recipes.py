# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from dataclasses import fields, replace

import pytest

from imp_trt.errors import UsageError
from imp_trt.train.config import Recipe, Stage
from imp_trt.train.recipes import changed, recipe
from imp_trt.train.renamed import JSON_KEYS, plain_dict


def test_unknown_recipe_or_field_is_a_usage_error():
    with pytest.raises(UsageError, match="smoke"):
        recipe("none")
    with pytest.raises(UsageError, match="fields of Recipe"):
        recipe("smoke", {"lr": 3})


def test_a_recipe_with_a_typo_is_answered_with_the_one_that_was_meant():
    with pytest.raises(UsageError, match="use 'camvid-pretrained'"):
        recipe("camvid-pretraind")


def test_the_paper_s_recipes():
    vcp, modanet, cityscapes = (recipe(n) for n in ("vcp", "modanet", "cityscapes"))
    assert (vcp.batch, vcp.short_sides, vcp.max_long, vcp.initial) == (8, (800,), 1333, "imagenet")
    for plan, length, drops in ((vcp, 70_000, (40_000, 60_000)), (modanet, 90_000, (60_000, 80_000))):
        for stage in (plan.stage_one, plan.stage_two):
            assert (stage.iterations, stage.lr, stage.milestones) == (length, 0.01, drops)
    assert (modanet.short_sides, modanet.max_long) == ((400, 500, 600, 700, 800), 1000)
    assert (cityscapes.batch, cityscapes.stage_one.iterations, cityscapes.initial) == (16, 0, "coco")
    assert cityscapes.stage_two.iterations == 130_000
    assert cityscapes.short_sides == (512, 724, 1024, 1448, 2048)
    assert cityscapes.crop == (512, 1024)
    assert (cityscapes.color, cityscapes.hue) == (0.4, 0.4)
    assert cityscapes.ohem_ratios == (0.1, 0.25, 0.5)
    plain = recipe("cityscapes-no-aug")
    assert (plain.crop, plain.color, plain.ohem_ratios) == (None, 0.0, ())
    assert (plain.short_sides, plain.max_long) == ((800, 1024), 2048)
    for plan in (vcp, modanet, cityscapes, plain):
        assert (plan.optimizer, plan.weight_decay, plan.bias_lr_mult, plan.freeze_stages) == (
            "sgd",
            1e-4,
            2,
            2,
        )
        assert not plan.semantic_in_stage_one
        assert plan.canvas_source == "predicted"


@pytest.mark.parametrize(("name", "steps"), [("camvid", 1600), ("ccp", 1600), ("scenes", 900)])
def test_short_recipes_differ_in_length_and_batch_alone(name, steps):
    long, short = recipe(name), recipe(f"{name}-short")
    assert short.stage_one.iterations + short.stage_two.iterations == steps
    assert short.batch == 6
    assert replace(short, stage_one=long.stage_one, stage_two=long.stage_two, batch=long.batch) == long


def test_a_stage_of_another_length_keeps_its_shape():
    stage = recipe("vcp").stage_two.with_iterations(700)
    assert (stage.iterations, stage.milestones, stage.warmup) == (700, (400, 600), 175)
    assert Stage(0, 1.0).with_iterations(40).iterations == 40
    assert recipe("vcp").stage_two.with_iterations(0).iterations == 0


def test_a_stage_one_that_the_recipe_leaves_out_is_trained_by_the_schedule_of_stage_two():
    # COCO's weights stand for it in "cityscapes"; where they do not, it must not run at a constant rate.
    plan = recipe("cityscapes").with_iterations(1300, 650)
    assert (plan.stage_one.iterations, plan.stage_one.milestones) == (1300, (800, 1100))
    assert (plan.stage_two.iterations, plan.stage_two.milestones) == (650, (400, 550))
    whole = recipe("cityscapes").with_iterations(130_000, 130_000)
    assert whole.stage_one == recipe("cityscapes-imagenet").stage_one
    assert recipe("cityscapes").with_iterations(0, 9).stage_one.iterations == 0
    vcp = recipe("vcp").with_iterations(7, 14)
    assert (vcp.stage_one, vcp.stage_two) == (
        recipe("vcp").stage_one.with_iterations(7),
        recipe("vcp").stage_two.with_iterations(14),
    )


def test_rates_follow_the_batch_only_where_they_were_chosen_for_one():
    assert recipe("vcp", {"batch": 4}).lr_factor == 0.5
    assert recipe("cityscapes").lr_factor == 1.0
    assert recipe("camvid", {"batch": 4}).lr_factor == 1.0


def test_settings_as_a_command_line_has_them():
    plan = changed(
        recipe("smoke"),
        [
            "batch=4",
            "crop=None",
            "ohem_ratios=0.25",
            "short_sides=300,400",
            "canvas_source=both",
            "semantic_in_stage_one=False",
            "semantic_weight=3",
            "clip=None",
            "stage_one.lr=0.01",
            "stage_two.milestones=(2, 3)",
        ],
    )
    assert (plan.batch, plan.crop, plan.ohem_ratios, plan.short_sides) == (4, None, (0.25,), (300, 400))
    assert (plan.canvas_source, plan.semantic_in_stage_one, plan.clip) == ("both", False, None)
    assert plan.semantic_weight == 3
    assert isinstance(plan.semantic_weight, float)
    assert (plan.stage_one.lr, plan.stage_two.milestones) == (0.01, (2, 3))
    assert recipe("smoke").batch == 2


@pytest.mark.parametrize(
    "setting",
    [
        "batch",
        "batch=many",
        "batch=1.5",
        "batch=True",
        "batch=0",
        "nothing=1",
        "stage_one=3",
        "stage_one.nothing=3",
        "stage_three.peak=3",
        "crop=100,100",
        "crop=64",
        "canvas_source=guessed",
        "canvas_source=3",
        "precision=int8",
        "ohem_ratios=0,0.5",
        "clip=-1",
        "clip=0",
        "semantic_in_stage_one=1",
        "freeze_stages=9",
        "short_sides=0",
        "stage_one.schedule=linear",
        "stage_one.milestones=5,4",
        "stage_two.lr=-1",
        "scale=1",
        "scale=2,1",
        "hue=0.7",
    ],
)
def test_invalid_settings_are_usage_errors(setting):
    with pytest.raises(UsageError, match="expected"):
        changed(recipe("smoke"), [setting])


FORMER = [
    # object, current name, former name, new value
    (Stage(30, 1e-3), "lr", "peak", 0.25),
    (Stage(30, 1e-3), "min_lr", "end", 0.25),
    (recipe("smoke"), "bias_lr_mult", "bias_rate", 0.25),
    (recipe("smoke"), "canvas_lr_mult", "canvas_rate", 0.25),
    (recipe("smoke"), "ohem_ratios", "bootstrap", (0.25,)),
    (recipe("smoke"), "color", "colour", 0.25),
]


@pytest.mark.parametrize(("settings", "name", "former", "value"), FORMER, ids=[case[2] for case in FORMER])
def test_former_field_names_warn_and_remain_the_json_keys(settings, name, former, value, caplog):
    expected = replace(settings, **{name: value})
    with pytest.warns(DeprecationWarning, match=f"{former} is deprecated, use .*{name}"):
        actual = replace(settings, **{former: value})
    assert actual == expected != settings
    with pytest.warns(DeprecationWarning, match=former):
        assert getattr(actual, former) == value
    plain = plain_dict(expected)
    assert plain[former] == value
    assert name not in plain
    prefix = "stage_one." if isinstance(settings, Stage) else ""
    plan = changed(recipe("smoke"), [f"{prefix}{former}=0.25"])
    assert getattr(plan.stage_one if prefix else plan, name) == value
    assert f"--set {former} is deprecated, use {name}" in caplog.text


def test_former_methods_warn():
    plan = recipe("vcp", {"batch": 4})
    with pytest.warns(DeprecationWarning, match="with_iterations"):
        assert plan.lasting(7, 14) == plan.with_iterations(7, 14)
    with pytest.warns(DeprecationWarning, match="with_iterations"):
        assert plan.stage_one.lasting(7) == plan.stage_one.with_iterations(7)
    with pytest.warns(DeprecationWarning, match="lr_factor"):
        assert plan.rate_factor == 0.5
    with pytest.warns(DeprecationWarning, match="colour"):
        assert recipe("smoke", {"colour": 0.5}) == recipe("smoke", {"color": 0.5})


def test_json_of_a_recipe_has_the_keys_of_version_0_1():
    plain = recipe("cityscapes").to_dict()
    assert set(plain) == {JSON_KEYS.get(f.name, f.name) for f in fields(Recipe)}
    assert plain["stage_two"] == {
        "iterations": 130_000,
        "peak": 0.005,
        "end": 0.0,
        "warmup": 500,
        "warmup_factor": 1 / 3,
        "schedule": "step",
        "milestones": (80_000, 110_000),
        "gamma": 0.1,
    }
    stored = ("bias_rate", "canvas_rate", "bootstrap", "colour")
    assert [plain[key] for key in stored] == [2.0, 1.0, (0.1, 0.25, 0.5), 0.4]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("batch=100000000", "batch: expected at most 65,536, got 100,000,000"),
        ("crop=1000000000000,32", "pixels of crop: expected at most 67,108,864"),
        ("crop=16384,16384", "pixels of crop: expected at most 67,108,864, got 268,435,456"),
    ],
)
def test_sizes_that_no_machine_has(setting, expected):
    with pytest.raises(UsageError, match=expected):
        changed(recipe("smoke"), [setting])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["batch=2", "batch=3"], "--set batch is given more than once"),
        (["stage_one.peak=1e-3", "stage_one.lr=1e-2"], "--set stage_one.lr is given more than once"),
        (["stage_one.lr=1e-3", "stage_two.lr=1e-2", "batch=3"], None),
    ],
)
def test_a_field_that_is_set_twice_is_warned_of(settings, told, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    changed(recipe("smoke"), settings)
    assert ("more than once" in caplog.text) == (told is not None)
    assert (told or "") in caplog.text

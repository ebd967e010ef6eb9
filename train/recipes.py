# SPDX-License-Identifier: Apache-2.0
"""Training recipes by name, and changes to them."""

from __future__ import annotations

import ast
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from imp_trt.errors import UsageError, suggestion
from imp_trt.train.config import Recipe, Stage
from imp_trt.train.renamed import FIELD_NAMES, current_name

_log = logging.getLogger(__name__)

_Settings = TypeVar("_Settings", Recipe, Stage)

_SCENES = Recipe(
    stage_one=Stage(1500, 2e-3, 1e-3),
    stage_two=Stage(1000, 1e-3, 1e-6),
    semantic_in_stage_one=True,
    batch=6,
    scale=(0.8, 1.25),
    semantic_weight=2.0,
    canvas_detections=24,
    canvas_gradient="heads",
    canvas_scale=None,  # the head has learned without canvas, which starts at zero: only a scaled one is used
    precision="bfloat16",
)
_CAMVID = replace(
    _SCENES,
    stage_one=Stage(4500, 2e-3, 1e-3),
    stage_two=Stage(2500, 1e-3, 1e-6),
    batch=8,
    scale=(0.75, 1.5),
)
# Scales for photos of 550x830 at an input of 512x352.
_CCP = replace(
    _CAMVID,
    stage_one=Stage(3000, 2e-3, 1e-3),
    stage_two=Stage(1800, 1e-3, 1e-6),
    crop=(320, 224),
    scale=(0.45, 0.9),
)
# From ImageNet weights: the detector first, then a head that reads the canvas from its first step.
_CAMVID_PRETRAINED = Recipe(
    stage_one=Stage(8000, 1e-3, 1e-5, warmup=200),
    stage_two=Stage(7500, 1e-3, 1e-6, warmup=200),
    batch=4,
    crop=(288, 384),
    scale=(0.75, 1.8),
    weight_decay=0.01,
    semantic_weight=2.0,
    canvas_detections=48,
    canvas_gradient="heads",
    precision="bfloat16",
    backbone_lr_mult=0.2,
    freeze_stages=1,
    freeze_norm=True,
    ema_decay=0.999,
    initial="imagenet",
)
# From a checkpoint, with few images: one stage that trains all parts, since none is new.
_FINE_TUNE = Recipe(
    stage_one=Stage(0, 5e-4, 1e-6, warmup=0),
    stage_two=Stage(1000, 5e-4, 1e-6, warmup=50),
    batch=4,
    semantic_weight=2.0,
    canvas_gradient="heads",
    precision="bfloat16",
)
_CCP_PRETRAINED = replace(_CAMVID_PRETRAINED, crop=(384, 256), scale=(0.45, 0.9))


def _short(plan: Recipe, one: int, two: int) -> Recipe:
    return replace(
        plan,
        stage_one=replace(plan.stage_one, iterations=one),
        stage_two=replace(plan.stage_two, iterations=two),
        batch=6,
    )


def _paper(iterations: int, lr: float, milestones: tuple[int, int]) -> Stage:
    return Stage(
        iterations, lr, warmup=500, warmup_factor=1 / 3, schedule="step", milestones=milestones, gamma=0.1
    )


# Section 4 of the paper. What it leaves open is the default of maskrcnn-benchmark: SGD with momentum, biases
# at twice the lr, stem and first stage frozen. The paper gives no loss weights for clothing: 1 and 1.
_VCP = Recipe(
    stage_one=_paper(70_000, 0.01, (40_000, 60_000)),
    stage_two=_paper(70_000, 0.01, (40_000, 60_000)),
    batch=8,
    base_batch=8,
    crop=None,
    short_sides=(800,),
    max_long=1333,
    optimizer="sgd",
    bias_lr_mult=2.0,
    class_weights=False,
    canvas_detections=100,
    clip=None,
    color=0.0,
    freeze_stages=2,
    initial="imagenet",
)
_MODANET = replace(
    _VCP,
    stage_one=_paper(90_000, 0.01, (60_000, 80_000)),
    stage_two=_paper(90_000, 0.01, (60_000, 80_000)),
    short_sides=(400, 500, 600, 700, 800),
    max_long=1000,
)
# COCO's Mask R-CNN replaces stage one. lambda_i = 0.5 is Panoptic FPN's choice (its table 2d).
_CITYSCAPES_NO_AUG = replace(
    _VCP,
    stage_one=replace(_paper(0, 0.005, (80_000, 110_000)), milestones=()),
    stage_two=_paper(130_000, 0.005, (80_000, 110_000)),
    batch=16,
    base_batch=16,
    short_sides=(800, 1024),  # "resized to 1024x2048, or 800x1600 randomly"
    max_long=2048,
    instance_weight=0.5,
    initial="coco",
)

_CITYSCAPES = replace(
    _CITYSCAPES_NO_AUG,
    crop=(512, 1024),
    short_sides=(512, 724, 1024, 1448, 2048),
    max_long=None,
    color=0.4,
    hue=0.4,
    ohem_ratios=(0.1, 0.25, 0.5),
)

RECIPES: dict[str, Recipe] = {
    # For tests and a quick look.
    "smoke": Recipe(
        stage_one=Stage(20, 1e-3, 5e-4, warmup=5),
        stage_two=Stage(20, 1e-3, 1e-5, warmup=5),
        semantic_in_stage_one=True,
        batch=2,
        crop=(128, 128),
    ),
    # From scratch on two CPU cores: the bundled demo weights (half an hour), CamVid, clothing.
    "scenes": _SCENES,
    "camvid": _CAMVID,
    "ccp": _CCP,
    # The same from an EfficientNet-Lite pretrained on ImageNet.
    "camvid-pretrained": _CAMVID_PRETRAINED,
    "ccp-pretrained": _CCP_PRETRAINED,
    # From a checkpoint of this package or an imported one.
    "fine-tune": _FINE_TUNE,
    # Shorter schedules, for experiments that train many systems.
    "scenes-short": _short(_SCENES, 500, 400),
    "camvid-short": _short(_CAMVID, 900, 700),
    "ccp-short": _short(_CCP, 900, 700),
    # The paper's, for GPUs. Cityscapes' frames are 1024x2048.
    "vcp": _VCP,
    "modanet": _MODANET,
    "cityscapes": _CITYSCAPES,
    "cityscapes-no-aug": _CITYSCAPES_NO_AUG,
    # For backbones without COCO Mask R-CNN weights, such as ResNet-101: stage one trains the detector.
    "cityscapes-imagenet": replace(
        _CITYSCAPES, stage_one=_paper(130_000, 0.005, (80_000, 110_000)), initial="imagenet"
    ),
}

_FROM_SCRATCH = ("scenes", "camvid", "ccp", "scenes-short", "camvid-short", "ccp-short")

FORMER_SUFFIX = "-canvas-rate-10"

FORMER_RECIPES: dict[str, Recipe] = {
    f"{name}{FORMER_SUFFIX}": replace(RECIPES[name], canvas_scale=1.0, canvas_lr_mult=10.0)
    for name in _FROM_SCRATCH
}
"""Deprecated: the recipes from scratch before canvas_scale, which runs and results of that time name without
the suffix. They reproduce these runs, and continue interrupted ones."""


def recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Recipe by name, with some fields replaced.

    Raises:
        UsageError: unknown name or field, or a value out of range.
    """
    found = RECIPES.get(name)
    if found is None:
        found = FORMER_RECIPES.get(name)
        if found is None:
            raise UsageError(
                "recipe", expected=f"one of {', '.join(RECIPES)}", got=name, fix=suggestion(name, RECIPES)
            )
        _log.warning("recipe %s is deprecated, use %s", name, name.removesuffix(FORMER_SUFFIX))
    values = {current_name(field): value for field, value in (changes or {}).items()}
    try:
        return replace(found, **values)
    except TypeError as error:
        raise UsageError("recipe", expected="fields of Recipe", got=str(error)) from error


def changed(plan: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with fields replaced by command line settings.

    Args:
        plan: recipe; not changed.
        settings: FIELD=VALUE; VALUE in Python syntax, quotes optional; a field of a stage is
            stage_one.FIELD or stage_two.FIELD. Former field names are accepted, and a warning is logged.

    Raises:
        UsageError: unknown field, or a value of the wrong type or out of range.
    """
    given: set[str] = set()
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError("--set", expected="FIELD=VALUE", got=setting)
        outer, dot, inner = name.partition(".")
        field = f"{outer}.{FIELD_NAMES.get(inner, inner)}" if dot else FIELD_NAMES.get(name, name)
        if field in given:
            _log.warning("--set %s is given more than once; only the last counts", field)
        given.add(field)
        if dot and outer in ("stage_one", "stage_two"):
            stage = _with_field(getattr(plan, outer), inner, text)
            plan = replace(plan, **{outer: stage})
        else:
            plan = _with_field(plan, name, text)
    return plan


def _with_field(settings: _Settings, former: str, text: str) -> _Settings:
    types = {f.name: str(f.type) for f in fields(settings) if not f.name.startswith("stage_")}
    name = FIELD_NAMES.get(former, former)
    if name not in types:
        expected = f"one of {', '.join(types)}, stage_one.*, stage_two.*"
        raise UsageError("--set", expected=expected, got=former)
    if name != former:
        _log.warning("--set %s is deprecated, use %s", former, name)
    if name == "canvas_lr_mult":
        _log.warning("--set %s is deprecated, use canvas_scale", name)
    value = _parsed(text)
    current = getattr(settings, name)
    if isinstance(current, tuple) and isinstance(value, (int, float)):
        value = (value,)
    value = tuple(value) if isinstance(value, list) else value
    if types[name].startswith("float") and type(value) is int:
        value = float(value)  # 3 and 3.0 must not make two different runs
    kinds = _kinds(types[name])
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UsageError(f"--set {former}", expected=f"a value like {current!r}", got=text)
    changes: dict[str, Any] = {name: value}
    try:
        return replace(settings, **changes)
    except TypeError as error:
        raise UsageError(f"--set {former}", expected=f"a value like {current!r}", got=text) from error


def _parsed(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _kinds(annotation: str) -> tuple[type, ...]:
    """Types that a field accepts; annotations are strings here (PEP 563)."""
    if annotation == "bool":
        return (bool,)
    kinds: list[type] = [type(None)] if "None" in annotation else []
    if annotation.startswith("tuple"):
        return (*kinds, tuple)
    if annotation.startswith("float"):
        return (*kinds, int, float)
    return (*kinds, int) if annotation.startswith("int") else (*kinds, str)

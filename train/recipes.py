"""Training recipes as plain data."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from imp_trt.errors import UsageError

CanvasSource = Literal["predicted", "ground-truth", "both"]
Precision = Literal["float32", "bfloat16", "float16"]
Initial = Literal["scratch", "imagenet", "coco"]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(name, expected=f"one of {', '.join(allowed)}", got=value)


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise UsageError(name, expected=f"at least {least}", got=value)


@dataclass(frozen=True)
class Stage:
    """Length and learning rate of one stage: linear warm-up to peak, then a cosine to end, or steps.

    Attributes:
        iterations: optimizer steps; 0 skips the stage.
        peak: largest learning rate.
        end: last learning rate of the cosine; the step schedule ignores it.
        warmup: steps of linear growth from peak * warmup_factor.
        warmup_factor: 0.1 here; 1/3 over 500 steps in the code base of the paper's time.
        schedule: "cosine", or "step": the rate is multiplied by gamma at each milestone.
        milestones: steps of the drops.
        gamma: factor of a drop.

    Raises:
        UsageError: a value is out of range.
    """

    iterations: int
    peak: float
    end: float = 0.0
    warmup: int = 100
    warmup_factor: float = 0.1
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _one_of("schedule", self.schedule, ("cosine", "step"))
        _at_least("iterations", self.iterations, 0)
        _at_least("warmup", self.warmup, 0)
        for name in ("peak", "end", "gamma", "warmup_factor"):
            _at_least(name, getattr(self, name), 0)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise UsageError("milestones", expected="rising steps", got=self.milestones)

    def lasting(self, iterations: int) -> Stage:
        """The same schedule over another number of steps: milestones move, warm-up is a quarter at most."""
        moved = (round(m * iterations / self.iterations) for m in self.milestones if self.iterations)
        return replace(
            self,
            iterations=iterations,
            warmup=min(self.warmup, iterations // 4),
            milestones=tuple(sorted(set(moved))),
        )


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; stage one the detector, stage two everything (paper, section 4).

    Attributes:
        stage_one, stage_two: lengths and learning rates.
        semantic_in_stage_one: also train the semantic head, without canvas, in stage one. The paper
            trains the detector alone there and starts from ImageNet weights; from scratch the
            semantic features need the iterations of both stages.
        batch: crops per step, over all processes.
        crop: (height, width) of a crop, multiples of 32; None takes whole pictures, padded to
            multiples of 32.
        scale: range of the random scale, of the pictures' own size: an input size must lie within it.
        short_sides: sides in pixels; where given, the shorter side of a picture is scaled to one of
            them at random instead of ``scale``.
        max_long: no picture's longer side is scaled to more than this, with short_sides.
        optimizer: "adamw" or "sgd" (momentum 0.9).
        weight_decay: not applied to vectors (norms, biases).
        bias_rate: factor of the learning rate of biases.
        base_batch: batch that the rates were chosen for; others are scaled in proportion (Goyal et
            al. 2017, a rule for SGD). None takes the rates as they are.
        semantic_weight, instance_weight: factors of the semantic loss and of the detector's losses
            (lambda_s and lambda_i of Panoptic FPN).
        class_weights: weigh the cross-entropy by 1 / log(1.10 + class frequency).
        bootstrap: shares of the hardest pixels whose cross-entropy counts ("hard bootstrapping").
            One share is fixed; of several, each step draws one. The paper says "top 10, 25, 50
            percent", which leaves open whether these were tried or mixed. Empty: all pixels.
        canvas_source: what the canvas shows in stage two: predicted detections (as at test time),
            the ground truth's boxes and classes at score 1 with the masks that the network predicts
            in them, or both (the predictions then without a gradient).
        canvas_detections: at most this many detections of an image are projected in training.
        canvas_gradient: "all" lets the semantic loss reach the pyramid through the canvas, as the
            paper does; "heads" stops it at the box and mask heads, which saves two RoIAlign
            backward passes.
        canvas_rate: factor of the learning rate of the weights that read the canvas. They start at zero
            beside a head that stage one has trained without canvas: at the common rate a short stage two
            does not bring them to where the head listens (docs/ablation.md).
        clip: largest gradient norm; None does not clip.
        colour: strength of the random changes of brightness, contrast and saturation, 0 for none.
        hue: strength of the random turn of the hue, at most 0.5; None is a tenth of ``colour``.
        precision: convolutions and matrix products run in this type (autocast); "float16" scales
            the loss.
        freeze_stages: parts of the trunk that keep their weights: 1 the stem, 2 also the first stage
            (paper's code base), up to 5. For pretrained trunks.
        min_area: instances of a crop with fewer visible pixels are not detector targets.
        initial: weights that the recipe is meant to start from; a :class:`imp_trt.train.run.Run`
            decides.

    Raises:
        UsageError: a value is out of range.
    """

    stage_one: Stage
    stage_two: Stage
    semantic_in_stage_one: bool = False
    batch: int = 8
    crop: tuple[int, int] | None = (256, 256)
    scale: tuple[float, float] = (0.75, 1.5)
    short_sides: tuple[int, ...] = ()
    max_long: int | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-4
    bias_rate: float = 1.0
    base_batch: int | None = None
    semantic_weight: float = 1.0
    instance_weight: float = 1.0
    class_weights: bool = True
    bootstrap: tuple[float, ...] = ()
    canvas_source: CanvasSource = "predicted"
    canvas_detections: int = 32
    canvas_gradient: Literal["all", "heads"] = "all"
    canvas_rate: float = 1.0
    clip: float | None = 10.0
    colour: float = 0.3
    hue: float | None = None
    precision: Precision = "float32"
    freeze_stages: int = 0
    min_area: int = 20
    initial: Initial = "scratch"

    def __post_init__(self) -> None:
        _one_of("optimizer", self.optimizer, ("adamw", "sgd"))
        _one_of("canvas_source", self.canvas_source, get_args(CanvasSource))
        _one_of("canvas_gradient", self.canvas_gradient, ("all", "heads"))
        _one_of("precision", self.precision, get_args(Precision))
        _one_of("initial", self.initial, get_args(Initial))
        for name in ("batch", "canvas_detections", "base_batch", "max_long"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in (
            "weight_decay",
            "bias_rate",
            "canvas_rate",
            "semantic_weight",
            "instance_weight",
            "min_area",
        ):
            _at_least(name, getattr(self, name), 0)
        if self.crop is not None and (len(self.crop) != 2 or any(s < 32 or s % 32 for s in self.crop)):
            raise UsageError("crop", expected="height and width, multiples of 32, or None", got=self.crop)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise UsageError("scale", expected="0 < low <= high", got=self.scale)
        if not 0 <= self.colour <= 1 or not 0 <= (self.hue or 0) <= 0.5:
            raise UsageError("colour and hue", expected="up to 1 and 0.5", got=(self.colour, self.hue))
        if any(side < 1 for side in self.short_sides):
            raise UsageError("short_sides", expected="pixels", got=self.short_sides)
        if any(not 0 < share <= 1 for share in self.bootstrap):
            raise UsageError("bootstrap", expected="shares above 0, at most 1", got=self.bootstrap)
        if self.clip is not None and self.clip <= 0:
            raise UsageError("clip", expected="a positive norm, or None", got=self.clip)
        if not 0 <= self.freeze_stages <= 5:
            raise UsageError("freeze_stages", expected="0 to 5", got=self.freeze_stages)

    def lasting(self, one: int, two: int) -> Recipe:
        """The same recipe with other lengths of its stages; a stage one without steps is like stage two."""
        shape = self.stage_one if self.stage_one.iterations else self.stage_two
        return replace(self, stage_one=shape.lasting(one), stage_two=self.stage_two.lasting(two))

    @property
    def rate_factor(self) -> float:
        """What the learning rates are multiplied by for this batch."""
        return 1.0 if self.base_batch is None else self.batch / self.base_batch

    def scales(self, size: tuple[int, int]) -> tuple[float, float]:
        """Least and greatest scale at which training shows pictures of (height, width) pixels."""
        if not self.short_sides:
            return self.scale
        most = math.inf if self.max_long is None else self.max_long / max(size)
        low, high = min(self.short_sides) / min(size), max(self.short_sides) / min(size)
        return min(low, most), min(high, most)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints and logs."""
        return asdict(self)


CANVAS_FIELDS = frozenset(f.name for f in fields(Recipe) if f.name.startswith("canvas_"))
"""Fields of Recipe that mean nothing to a network that learns from no canvas."""

_SCENES = Recipe(
    stage_one=Stage(1500, 2e-3, 1e-3),
    stage_two=Stage(1000, 1e-3, 1e-6),
    semantic_in_stage_one=True,
    batch=6,
    scale=(0.8, 1.25),
    semantic_weight=2.0,
    canvas_detections=24,
    canvas_gradient="heads",
    canvas_rate=10.0,
    precision="bfloat16",
)
_CAMVID = replace(
    _SCENES,
    stage_one=Stage(4500, 2e-3, 1e-3),
    stage_two=Stage(2500, 1e-3, 1e-6),
    batch=8,
    scale=(0.75, 1.5),
)
# The scales fit photos of 550x830 in an input of 512x352.
_CCP = replace(
    _CAMVID,
    stage_one=Stage(3000, 2e-3, 1e-3),
    stage_two=Stage(1800, 1e-3, 1e-6),
    crop=(320, 224),
    scale=(0.45, 0.9),
)


def _short(plan: Recipe, one: int, two: int) -> Recipe:
    return replace(
        plan,
        stage_one=replace(plan.stage_one, iterations=one),
        stage_two=replace(plan.stage_two, iterations=two),
        batch=6,
    )


def _paper(iterations: int, peak: float, drops: tuple[int, int]) -> Stage:
    return Stage(
        iterations, peak, warmup=500, warmup_factor=1 / 3, schedule="step", milestones=drops, gamma=0.1
    )


# Section 4 of the paper. What it leaves open is the default of maskrcnn-benchmark: SGD with momentum, biases
# at twice the rate, stem and first stage frozen. No loss weights are given for clothing: 1 and 1.
_VCP = Recipe(
    stage_one=_paper(70_000, 0.01, (40_000, 60_000)),
    stage_two=_paper(70_000, 0.01, (40_000, 60_000)),
    batch=8,
    base_batch=8,
    crop=None,
    short_sides=(800,),
    max_long=1333,
    optimizer="sgd",
    bias_rate=2.0,
    class_weights=False,
    canvas_detections=100,
    clip=None,
    colour=0.0,
    freeze_stages=2,
    initial="imagenet",
)
_MODANET = replace(
    _VCP,
    stage_one=_paper(90_000, 0.01, (60_000, 80_000)),
    stage_two=_paper(90_000, 0.01, (60_000, 80_000)),
    short_sides=(400, 500, 600, 700, 800),
)
# COCO's Mask R-CNN stands for stage one. lambda_i = 0.5 is Panoptic FPN's choice (table 2d there).
_CITYSCAPES_NO_AUG = replace(
    _VCP,
    stage_one=replace(_paper(0, 0.005, (80_000, 110_000)), milestones=()),
    stage_two=_paper(130_000, 0.005, (80_000, 110_000)),
    batch=16,
    base_batch=16,
    short_sides=(1024,),
    max_long=2048,
    instance_weight=0.5,
    initial="coco",
)

_CITYSCAPES = replace(
    _CITYSCAPES_NO_AUG,
    crop=(512, 1024),
    short_sides=(512, 724, 1024, 1448, 2048),
    max_long=None,
    colour=0.4,
    hue=0.4,
    bootstrap=(0.1, 0.25, 0.5),
)

RECIPES: dict[str, Recipe] = {
    # Small enough for a test or a first look.
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
    # The same in a part of the time, for experiments that train many systems.
    "scenes-short": _short(_SCENES, 500, 400),
    "camvid-short": _short(_CAMVID, 900, 700),
    "ccp-short": _short(_CCP, 900, 700),
    # The paper's, for GPUs. Cityscapes' frames are 1024x2048; its other size without augmentation is
    # short_sides=(800,).
    "vcp": _VCP,
    "modanet": _MODANET,
    "cityscapes": _CITYSCAPES,
    "cityscapes-no-aug": _CITYSCAPES_NO_AUG,
    # For trunks without a Mask R-CNN of COCO's to start from, as ResNet-101: stage one trains the detector.
    "cityscapes-imagenet": replace(
        _CITYSCAPES, stage_one=_paper(130_000, 0.005, (80_000, 110_000)), initial="imagenet"
    ),
}


def recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Recipe by name, with some fields replaced.

    Raises:
        UsageError: unknown name or field, or a value out of range.
    """
    if name not in RECIPES:
        raise UsageError("recipe", expected=f"one of {', '.join(RECIPES)}", got=name)
    try:
        return replace(RECIPES[name], **(changes or {}))
    except TypeError as error:
        raise UsageError("recipe", expected="fields of Recipe", got=str(error)) from error


def changed(plan: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with fields replaced as written on a command line.

    Args:
        plan: recipe; not changed.
        settings: FIELD=VALUE; VALUE as Python writes it, quotes optional; a field of a stage is
            stage_one.FIELD or stage_two.FIELD.

    Raises:
        UsageError: unknown field, or a value of the wrong type or out of range.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError("--set", expected="FIELD=VALUE", got=setting)
        outer, dot, inner = name.partition(".")
        if dot and outer in ("stage_one", "stage_two"):
            stage = _with_field(getattr(plan, outer), inner, text)
            plan = replace(plan, **{outer: stage})
        else:
            plan = _with_field(plan, name, text)
    return plan


def _with_field(settings: Any, name: str, text: str) -> Any:
    known = [f.name for f in fields(settings) if not f.name.startswith("stage_")]
    if name not in known:
        raise UsageError("--set", expected=f"one of {', '.join(known)}, stage_one.*, stage_two.*", got=name)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    before = getattr(settings, name)
    if isinstance(before, tuple) and isinstance(value, (int, float)):
        value = (value,)
    value = tuple(value) if isinstance(value, list) else value
    annotation = next(str(f.type) for f in fields(settings) if f.name == name)
    if annotation.startswith("float") and type(value) is int:
        value = float(value)  # 3 and 3.0 must not make two different runs
    wanted = _kinds(annotation)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise UsageError(f"--set {name}", expected=f"a value like {before!r}", got=text)
    try:
        return replace(settings, **{name: value})
    except TypeError as error:
        raise UsageError(f"--set {name}", expected=f"a value like {before!r}", got=text) from error


def _kinds(annotation: str) -> tuple[type, ...]:
    """Types that a field takes; annotations are strings here."""
    if annotation == "bool":
        return (bool,)
    kinds: list[type] = [type(None)] if "None" in annotation else []
    if annotation.startswith("tuple"):
        return (*kinds, tuple)
    if annotation.startswith("float"):
        return (*kinds, int, float)
    return (*kinds, int) if annotation.startswith("int") else (*kinds, str)

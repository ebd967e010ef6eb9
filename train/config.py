# SPDX-License-Identifier: Apache-2.0
"""Training configuration as plain data: the stages and fields of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from imp_trt.errors import UsageError
from imp_trt.models.config import MAX_INPUT_PIXELS, Initial
from imp_trt.train.renamed import accept_former_names, json_key, plain_dict, warn_renamed

CanvasSource = Literal["predicted", "ground-truth", "both"]
Precision = Literal["float32", "bfloat16", "float16"]

MAX_BATCH = 1 << 16
"""Largest batch of all processes together; the largest in the literature is 65,536."""


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(name, expected=f"one of {', '.join(choices)}", got=value)


def _check_max(name: str, value: int, maximum: int) -> None:
    if value > maximum:
        raise UsageError(name, expected=f"at most {maximum:,}", got=f"{value:,}")


def _check_min(name: str, value: float, minimum: float) -> None:
    if not value >= minimum:  # NaN fails too
        raise UsageError(name, expected=f"at least {minimum}", got=value)


@accept_former_names("lr", "min_lr")
@dataclass(frozen=True)
class Stage:
    """Length and learning rate schedule of one stage: linear warmup to lr, then cosine annealing or steps.

    Attributes:
        iterations: optimizer steps; 0 skips the stage.
        lr: base learning rate, reached at the end of the warmup.
        min_lr: final learning rate of the cosine schedule; the step schedule ignores it.
        warmup: number of steps of linear warmup from lr * warmup_factor.
        warmup_factor: initial factor of the warmup; maskrcnn-benchmark, the code base of the paper, uses 1/3
            over 500 steps.
        schedule: "cosine", or "step": lr is multiplied by gamma at each milestone.
        milestones: steps at which lr drops, ascending.
        gamma: factor of each drop.

    Raises:
        UsageError: a value is out of range.
    """

    iterations: int
    lr: float
    min_lr: float = 0.0
    warmup: int = 100
    warmup_factor: float = 0.1
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check_choice("schedule", self.schedule, ("cosine", "step"))
        _check_min("iterations", self.iterations, 0)
        _check_min("warmup", self.warmup, 0)
        for name in ("lr", "min_lr", "gamma", "warmup_factor"):
            _check_min(name, getattr(self, name), 0)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise UsageError("milestones", expected="ascending steps", got=self.milestones)

    def with_iterations(self, iterations: int) -> Stage:
        """The same schedule with another number of steps: milestones scale, warmup is at most a quarter."""
        scaled = (round(m * iterations / self.iterations) for m in self.milestones if self.iterations)
        return replace(
            self,
            iterations=iterations,
            warmup=min(self.warmup, iterations // 4),
            milestones=tuple(sorted(set(scaled))),
        )

    def lasting(self, iterations: int) -> Stage:
        """Deprecated: use :meth:`with_iterations`."""
        warn_renamed("Stage.lasting", "Stage.with_iterations")
        return self.with_iterations(iterations)


@accept_former_names("bias_lr_mult", "canvas_lr_mult", "ohem_ratios", "color")
@dataclass(frozen=True)
class Recipe:
    """How a model is trained: the detector in stage one, everything in stage two (paper, section 4).

    Attributes:
        stage_one, stage_two: lengths and learning rate schedules.
        semantic_in_stage_one: also train the semantic head, without canvas, in stage one. The paper
            trains the detector alone there and starts from ImageNet weights; from scratch the
            semantic features need the iterations of both stages.
        batch: crops per step, summed over all processes.
        crop: (height, width) of a crop, multiples of 32; None takes whole images, padded to
            multiples of 32.
        scale: range of the random scale, relative to the image's own size; the range must include the scale
            of the network's input.
        short_sides: sides in pixels; if given, the shorter side of an image is resized to one of them,
            chosen at random, and ``scale`` is ignored.
        max_long: maximum of the longer side after resizing, with short_sides.
        optimizer: "adamw" or "sgd" (momentum 0.9).
        weight_decay: not applied to parameters with one dimension (normalization layers, biases).
        bias_lr_mult: multiplier of the learning rate of biases.
        base_batch: batch for which the learning rates were chosen; other batches scale them linearly (Goyal
            et al. 2017, a rule for SGD). None leaves them unchanged.
        semantic_weight, instance_weight: weights of the semantic loss and of the detector's losses
            (lambda_s and lambda_i of Panoptic FPN).
        class_weights: weight the cross-entropy by 1 / log(1.10 + class frequency).
        ohem_ratios: fractions of the pixels, those with the highest loss, that the semantic loss averages
            (online hard example mining; "hard bootstrapping" in the paper). One ratio is fixed; of several,
            each step draws one. The paper says "top 10, 25, 50 percent", which leaves open whether these
            were compared or mixed. Empty: all pixels.
        canvas_source: content of the canvas in stage two: predicted detections (as at test time), the ground
            truth's boxes and classes at score 1 with the masks that the network predicts in them, or both
            (the predictions then without gradient).
        canvas_detections: maximum number of detections per image that are projected in training.
        canvas_gradient: "all" propagates the semantic loss to the FPN through the canvas, as the
            paper does; "heads" stops it at the box and mask heads, which saves two RoIAlign
            backward passes; "none" stops it at the canvas. The recipes for a CPU have "heads", and so
            have all published weights.
        canvas_scale: factor of the canvas where the semantic head reads it, stored in the network's config;
            None measures one on training crops when stage two starts
            (:mod:`imp_trt.train.canvas_scale`).
        canvas_lr_mult: multiplier of the learning rate of the weights that read the canvas. Deprecated: with
            AdamW it has the effect of canvas_scale, which replaces it; earlier recipes had 10.
        clip: maximum gradient norm; None disables clipping.
        color: strength of the random brightness, contrast and saturation jitter, 0 for none.
        hue: strength of the random hue jitter, at most 0.5; None is a tenth of ``color``.
        precision: dtype of convolutions and matrix products under automatic mixed precision; "float16" also
            scales the loss.
        backbone_lr_mult: multiplier of the learning rate of the backbone without its FPN; 0.1 is usual for
            pretrained weights.
        freeze_norm: keep the statistics of the backbone's batch normalization, for pretrained weights and
            small batches. Unlike norm "frozen_batch" it leaves its scales and shifts trainable, and FPN and
            heads with batch normalization of their own.
        ema_decay: decay of the exponential moving average of all weights, which the checkpoint of each stage
            then contains; 0 saves the last weights.
        freeze_stages: number of backbone parts whose weights are frozen: 1 the stem, 2 also the first stage
            (the paper's code base), up to 5. For pretrained backbones.
        min_area: instances of a crop with fewer visible pixels are not detector targets.
        initial: default initial weights; :class:`imp_trt.train.run.Run` has the actual choice.
        flip: mirror half of the crops; False if classes differ in left and right, as "left shoe" does.

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
    bias_lr_mult: float = 1.0
    base_batch: int | None = None
    semantic_weight: float = 1.0
    instance_weight: float = 1.0
    class_weights: bool = True
    ohem_ratios: tuple[float, ...] = ()
    canvas_source: CanvasSource = "predicted"
    canvas_detections: int = 32
    canvas_gradient: Literal["all", "heads", "none"] = "all"
    canvas_scale: float | None = 1.0
    canvas_lr_mult: float = 1.0
    clip: float | None = 10.0
    color: float = 0.3
    hue: float | None = None
    precision: Precision = "float32"
    backbone_lr_mult: float = 1.0
    freeze_norm: bool = False
    ema_decay: float = 0.0
    freeze_stages: int = 0
    min_area: int = 20
    initial: Initial = "scratch"
    flip: bool = True

    def __post_init__(self) -> None:
        _check_choice("optimizer", self.optimizer, ("adamw", "sgd"))
        _check_choice("canvas_source", self.canvas_source, get_args(CanvasSource))
        _check_choice("canvas_gradient", self.canvas_gradient, ("all", "heads", "none"))
        _check_choice("precision", self.precision, get_args(Precision))
        _check_choice("initial", self.initial, get_args(Initial))
        for name in ("batch", "canvas_detections", "base_batch", "max_long"):
            if getattr(self, name) is not None:
                _check_min(name, getattr(self, name), 1)
        _check_max("batch", self.batch, MAX_BATCH)
        for name in (
            "weight_decay",
            "bias_lr_mult",
            "canvas_lr_mult",
            "backbone_lr_mult",
            "semantic_weight",
            "instance_weight",
            "min_area",
        ):
            _check_min(name, getattr(self, name), 0)
        if self.crop is not None and (len(self.crop) != 2 or any(s < 32 or s % 32 for s in self.crop)):
            raise UsageError("crop", expected="height and width, multiples of 32, or None", got=self.crop)
        if self.crop is not None:
            _check_max("pixels of crop", self.crop[0] * self.crop[1], MAX_INPUT_PIXELS)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise UsageError("scale", expected="0 < low <= high", got=self.scale)
        if not 0 <= self.color <= 1 or not 0 <= (self.hue or 0) <= 0.5:
            raise UsageError("color and hue", expected="up to 1 and 0.5", got=(self.color, self.hue))
        if any(side < 1 for side in self.short_sides):
            raise UsageError("short_sides", expected="pixels", got=self.short_sides)
        if any(not 0 < ratio <= 1 for ratio in self.ohem_ratios):
            raise UsageError("ohem_ratios", expected="ratios above 0, at most 1", got=self.ohem_ratios)
        if self.clip is not None and self.clip <= 0:
            raise UsageError("clip", expected="a positive norm, or None", got=self.clip)
        if self.canvas_scale is not None and not 0 < self.canvas_scale < math.inf:
            raise UsageError("canvas_scale", expected="a positive number, or None", got=self.canvas_scale)
        if not 0 <= self.ema_decay < 1:
            raise UsageError("ema_decay", expected="0 to below 1", got=self.ema_decay)
        if not 0 <= self.freeze_stages <= 5:
            raise UsageError("freeze_stages", expected="0 to 5", got=self.freeze_stages)

    def with_iterations(self, one: int, two: int) -> Recipe:
        """The same recipe with other lengths of its stages; an empty stage one gets stage two's schedule."""
        first = self.stage_one if self.stage_one.iterations else self.stage_two
        return replace(
            self, stage_one=first.with_iterations(one), stage_two=self.stage_two.with_iterations(two)
        )

    def lasting(self, one: int, two: int) -> Recipe:
        """Deprecated: use :meth:`with_iterations`."""
        warn_renamed("Recipe.lasting", "Recipe.with_iterations")
        return self.with_iterations(one, two)

    @property
    def lr_factor(self) -> float:
        """Factor of all learning rates for this batch (linear scaling)."""
        return 1.0 if self.base_batch is None else self.batch / self.base_batch

    @property
    def rate_factor(self) -> float:
        """Deprecated: use :attr:`lr_factor`."""
        warn_renamed("Recipe.rate_factor", "Recipe.lr_factor")
        return self.lr_factor

    def scales(self, size: tuple[int, int]) -> tuple[float, float]:
        """Minimum and maximum scale of images of (height, width) pixels in training."""
        if not self.short_sides:
            return self.scale
        limit = math.inf if self.max_long is None else self.max_long / max(size)
        low, high = min(self.short_sides) / min(size), max(self.short_sides) / min(size)
        return min(low, limit), min(high, limit)

    def to_dict(self) -> dict[str, object]:
        """Plain data for checkpoints and logs, under the JSON keys of :mod:`imp_trt.train.renamed`."""
        return plain_dict(self)


CANVAS_FIELDS = tuple(f.name for f in fields(Recipe) if f.name.startswith("canvas_"))
"""Recipe fields without effect on a network that learns from no canvas."""

CANVAS_KEYS = frozenset(map(json_key, CANVAS_FIELDS))
"""JSON keys of :data:`CANVAS_FIELDS`."""

# SPDX-License-Identifier: Apache-2.0
"""Warnings of imp-train about settings that reduce accuracy."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imp_trt.models.config import ModelConfig
    from imp_trt.train.config import Stage
    from imp_trt.train.run import Run

_log = logging.getLogger("imp_trt.cli.train")


def warn_of_settings(run: Run, config: ModelConfig) -> None:
    """Warn of an untrained detector, schedules that do not fit, mirrored classes, and scales of no use."""
    plan = run.recipe
    trained = run.checkpoint is not None and run.checkpoint.network.config.detector
    untrained = not plan.stage_one.iterations and run.initial != "coco" and not trained
    if config.detector and plan.stage_two.iterations and untrained:
        _log.warning(
            "stage one has no iterations and the weights are not COCO's: stage two starts with an untrained "
            "detector; use --iterations ONE TWO, --recipe cityscapes-imagenet, or --init coco"
        )
    if config.detector or plan.semantic_in_stage_one:
        _warn_of_schedule("stage_one", plan.stage_one)
    _warn_of_schedule("stage_two", plan.stage_two)
    _warn_of_mirrored_classes(run)
    _warn_of_scales(run, config)


def warn_of_untrained(run: Run, config: ModelConfig) -> None:
    """Warn of heads of the result that no stage trains and no checkpoint has."""
    plan = run.recipe
    first, second = plan.stage_one.iterations, plan.stage_two.iterations
    source = None if run.checkpoint is None else run.checkpoint.network.config
    untrained = []
    if config.detector and not (first or second or run.initial == "coco" or (source and source.detector)):
        untrained.append("detector")
    taken = source is not None and source.semantic_head == config.semantic_head
    if config.semantic_head != "none" and not (second or (first and plan.semantic_in_stage_one) or taken):
        untrained.append("semantic head")
    if untrained:
        _log.warning(
            "no stage trains the %s, whose weights stay random; use --iterations ONE TWO",
            " and ".join(untrained),
        )


def _warn_of_schedule(name: str, stage: Stage) -> None:
    from imp_trt.train.datasets.dropped import named

    said, end = name.replace("_", " "), stage.iterations
    if not end:
        return
    if stage.warmup >= end:
        _log.warning(
            "%s ends after %d steps, in its warmup of %d: the learning rate never reaches %g; use "
            "--iterations ONE TWO, which scales the schedule, or --set %s.warmup=%d",
            *(said, end, stage.warmup, stage.lr, name, end // 4),
        )
    if stage.schedule != "step":
        return
    # --iterations rounds one to the end of a stage of a few steps.
    late = [milestone for milestone in stage.milestones if milestone > end]
    if late:
        _log.warning(
            "%s ends after %d steps, before its milestones %s: the learning rate does not drop there; use "
            "--iterations ONE TWO, which scales the schedule, or --set %s.milestones=STEP,STEP",
            *(said, end, named(late), name),
        )
    elif not stage.milestones:
        _log.warning(
            "%s has a schedule of steps without milestones: the learning rate never drops; use --set "
            "%s.milestones=STEP,STEP",
            *(said, name),
        )


def _warn_of_mirrored_classes(run: Run) -> None:
    from imp_trt.train.augment import mirrored_pairs
    from imp_trt.train.datasets.dropped import named

    pairs = mirrored_pairs(run.dataset.classes.names)
    if pairs and run.recipe.flip:
        _log.warning(
            "half of the crops are mirrored, in which left and right change places but these classes do not: "
            "%s; use --set flip=False",
            named(f"{one} and {other}" for one, other in pairs),
        )


def _warn_of_scales(run: Run, config: ModelConfig) -> None:
    from imp_trt.artifacts.manifest import InputContract
    from imp_trt.preprocessing.letterbox import LetterboxTransform

    plan = run.recipe
    fit = LetterboxTransform.of(run.dataset[0].size, InputContract(*config.input_size))
    shown = fit.resized[0] / fit.frame[0]
    low, high = plan.scales(fit.frame)
    if low / 1.1 <= shown <= high * 1.1:
        return
    fix = f"scale={shown * 0.75:.2g},{shown * 1.5:.2g}"
    if plan.short_sides:
        fix = f"short_sides={min(fit.resized)},"
        if plan.max_long is not None and plan.max_long < max(fit.resized):
            fix += " --set max_long=None"
    _log.warning(
        "at inference, images of %dx%d are scaled by %.2f, but the recipe trains with scales %.2f to %.2f, "
        "which reduces accuracy; use --set %s or another --input-size",
        fit.frame[1],
        fit.frame[0],
        shown,
        low,
        high,
        fix,
    )

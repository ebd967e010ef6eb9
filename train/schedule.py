# SPDX-License-Identifier: Apache-2.0
"""The learning rate of a step."""

from __future__ import annotations

import math

from imp_trt.train.config import Stage


def learning_rate(stage: Stage, step: int, factor: float = 1.0) -> float:
    """Learning rate of a step: linear warmup from lr * warmup_factor, then cosine annealing or steps.

    Args:
        stage: the schedule.
        step: optimizer step, from 0.
        factor: multiplier of the result; :attr:`imp_trt.train.config.Recipe.lr_factor`.
    """
    if step < stage.warmup:
        warmup = stage.warmup_factor + (1.0 - stage.warmup_factor) * step / stage.warmup
        return factor * stage.lr * warmup
    if stage.schedule == "step":
        drops = sum(step >= milestone for milestone in stage.milestones)
        return factor * stage.lr * stage.gamma**drops
    progress = (step - stage.warmup) / max(1, stage.iterations - stage.warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return factor * (stage.min_lr + (stage.lr - stage.min_lr) * cosine)

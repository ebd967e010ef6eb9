"""The learning rate of a step."""

from __future__ import annotations

import math

from imp_trt.train.recipes import Stage


def learning_rate(stage: Stage, step: int, factor: float = 1.0) -> float:
    """Rate of a step: linear warm-up from peak * warmup_factor, then a cosine to end or steps down.

    Args:
        stage: the schedule.
        step: optimizer step, counted from 0.
        factor: multiplies every rate; :attr:`imp_trt.train.recipes.Recipe.rate_factor`.
    """
    if step < stage.warmup:
        grown = stage.warmup_factor + (1.0 - stage.warmup_factor) * step / stage.warmup
        return factor * stage.peak * grown
    if stage.schedule == "step":
        drops = sum(step >= milestone for milestone in stage.milestones)
        return factor * stage.peak * stage.gamma**drops
    progress = (step - stage.warmup) / max(1, stage.iterations - stage.warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return factor * (stage.end + (stage.peak - stage.end) * cosine)

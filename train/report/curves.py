# SPDX-License-Identifier: Apache-2.0
"""Charts of the training log next to a checkpoint: losses, and the scores of the validation."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path

from imp_trt.data.files import read_regular

_log = logging.getLogger("imp_trt.train")

MAX_LOG_BYTES = 64 << 20
"""Larger files next to a checkpoint are not read."""


def training_curves(models: Sequence[tuple[str, Path]]) -> list[str]:
    """Charts of the stages that the models are from, as SVG text; none without logs.

    Args:
        models: name in the legend and checkpoint of each. The logs ``NAME.jsonl`` and ``NAME.val.jsonl`` are
            read next to ``NAME.safetensors`` and ``NAME.best.safetensors``.
    """
    from imp_trt.train.report import charts

    losses, scores = {}, {}
    for name, path in models:
        stem = path.stem.removesuffix(".best")
        loss = _series(path.with_name(f"{stem}.jsonl"), _total)
        if loss:
            losses[name] = loss
        for key, of in (("mean_iou", ""), ("thing_iou", ", things")):
            curve = _series(path.with_name(f"{stem}.val.jsonl"), itemgetter(key))
            if any(value is not None for value in curve.values()):
                scores[f"{name}{of}"] = curve
    figures = []
    if losses:
        figures.append(
            charts.lines(losses, title="Loss of the training", x_label="step", y_label="loss", scale=1.0)
        )
    if scores:
        figures.append(
            charts.lines(scores, title="mIoU of the validation", x_label="step", y_label="mIoU, %")
        )
    return figures


def _total(line: dict[str, object]) -> object:
    """Sum of the losses of a line."""
    return sum(
        float(value)
        for name, value in line.items()
        if (name == "semantic" or name.startswith("loss")) and isinstance(value, int | float)
    )


def _series(path: Path, value_of: Callable[[dict[str, object]], object]) -> dict[float, float | None]:
    """Value by step; empty without a log, or if it is not one."""
    try:
        text = read_regular(path, MAX_LOG_BYTES).decode("utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        return {float(line["step"]): _number(value_of(line)) for line in lines}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        _log.warning("no curves from %s: %s", path, error)
        return {}


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)

# SPDX-License-Identifier: Apache-2.0
"""Inference time of the trained systems (the paper's Table 6), interleaved in one process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import UsageError
from imp_trt.models.checkpoint import load_model
from imp_trt.models.config import ModelConfig
from imp_trt.segmenter import Segmenter
from research.ablation.cells import CONTROL, Cell
from research.ablation.experiment import STAGE_TWO, Experiment
from research.ablation.results import TIMING, TIMING_FORMAT, machine_facts, write_json

# Below "imp_trt", whose handler the command line sets up.
_log = logging.getLogger("imp_trt.research.ablation")

IMAGES = 30
WARM_UP = 3
"""Rounds that are not timed: the first calls allocate."""


def time_systems(experiment: Experiment, cells: Sequence[Cell]) -> Path:
    """Time trained cells on validation images and write the dataset's timing file.

    Each image is run through all systems, starting with a different one each time, so that a slowdown of
    the machine affects all of them alike. Run it on an otherwise idle machine. Of each system the first
    trained cell in ``cells`` is timed.

    Returns:
        Path of the file. Per system it has "total" and "infer" (milliseconds: p50, p90, mean), and "ratio":
        the median over the images of the network's time divided by that of the control (panoptic-fpn), or
        None if the control is not trained.

    Raises:
        UsageError: no cell is trained, or a checkpoint's network is not the experiment's.
    """
    models: dict[str, Path] = {}
    for cell in cells:
        path = experiment.folder / cell.name / f"{STAGE_TWO}.safetensors"
        if cell.system not in models and path.is_file():
            _same_network(path, load_model(path)[0].config, experiment.config(cell))
            models[cell.system] = path
    if not models:
        raise UsageError(
            "timing", expected=f"trained cells in {experiment.folder}", got="none", fix="train them first"
        )
    missing = {cell.system for cell in cells} - set(models)
    if missing:
        _log.warning("not timed, because not trained: %s", ", ".join(sorted(missing)))
    count = min(IMAGES, len(experiment.val))
    times = _measure(models, experiment, count)
    data = {
        "format": TIMING_FORMAT,
        "data": experiment.data,
        "backend": "pytorch",
        "backbone": experiment.backbone,
        "input_size": list(experiment.input_size),
        "pictures": count,
        "machine": machine_facts(experiment.threads, experiment.device),
        "systems": {name: _figures(values, times.get(CONTROL)) for name, values in times.items()},
    }
    return write_json(experiment.results / experiment.data / TIMING, data)


def _same_network(path: Path, actual: ModelConfig, expected: ModelConfig) -> None:
    """Require that a checkpoint's network is the one that its times are reported for."""
    differ = [f.name for f in fields(ModelConfig) if getattr(actual, f.name) != getattr(expected, f.name)]
    if differ:
        raise UsageError(
            f"{path}",
            expected=", ".join(f"{name} {getattr(expected, name)}" for name in differ),
            got=", ".join(f"{name} {getattr(actual, name)}" for name in differ),
            fix="give the options that it was trained with, or another -o",
        )


def _measure(
    models: dict[str, Path], experiment: Experiment, count: int
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Milliseconds [count] of each system, "total" and "infer"."""
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(Segmenter(path, threads=experiment.threads, device=experiment.device))
            for name, path in models.items()
        }
        names = list(opened)
        times = {name: {kind: np.zeros(count) for kind in ("total", "infer")} for name in names}
        for number in range(-WARM_UP, count):
            image = experiment.val[max(number, 0)].image
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                timing = opened[name].run(image).timing
                if number >= 0:
                    for kind, values in times[name].items():
                        values[number] = timing[kind]
    return times


def _figures(
    times: dict[str, NDArray[np.float64]], control: dict[str, NDArray[np.float64]] | None
) -> dict[str, object]:
    figures: dict[str, object] = {}
    for kind, values in times.items():
        p50, p90 = (float(v) for v in np.percentile(values, (50, 90)))
        figures[kind] = {"p50": p50, "p90": p90, "mean": float(values.mean())}
    ratio = None if control is None else float(np.median(times["infer"] / control["infer"]))
    return {**figures, "ratio": ratio}

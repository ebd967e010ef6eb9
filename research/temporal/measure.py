# SPDX-License-Identifier: Apache-2.0
"""Measures a video with the detector on every k-th frame."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt import Segmenter, TemporalOptions, TemporalState
from imp_trt.benchmark import machine
from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.metrics import ConfusionMatrix
from imp_trt.temporal.options import CARRIES, Carry

ClassMap = NDArray[np.uint8]


@dataclass(frozen=True)
class Configuration:
    """How a video is run; every=0 segments each frame on its own, with run()."""

    every: int
    carry: Carry = "flow"
    blend: float = 0.0


CONFIGURATIONS = (
    Configuration(0),
    *(Configuration(every, carry) for every in (2, 4, 8) for carry in CARRIES),
    Configuration(1, blend=0.5),
    Configuration(4, blend=0.5),
)


class Flicker:
    """Share of thing pixels whose class changes, after the class map of the frame before is moved along.

    The motion is the flow between the frames at their own size, whatever the network saw; a pixel counts
    where one of both maps has a thing. Pixels that are ignored in one of them do not count.
    """

    def __init__(self, classes: ClassTable) -> None:
        self._things = np.isin(np.arange(256), classes.things)
        self._estimator: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._last: tuple[NDArray[np.uint8], dict[str, ClassMap]] | None = None
        self.counts: dict[str, list[int]] = {}

    def add(self, image: NDArray[np.uint8], maps: dict[str, ClassMap], cut: bool = False) -> None:
        """Add a frame with named class maps [h, w]; at a cut the one before does not count."""
        gray = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
        if self._last is not None and not cut:
            flow = self._estimator.calc(gray, self._last[0], None)
            h, w = gray.shape
            x = flow[..., 0] + np.arange(w, dtype=np.float32)
            y = flow[..., 1] + np.arange(h, dtype=np.float32)[:, None]
            for name, current in maps.items():
                before = np.asarray(
                    cv2.remap(self._last[1][name], x, y, cv2.INTER_NEAREST, borderValue=float(IGNORE_INDEX)),
                    np.uint8,
                )
                counted = self._things[current] | self._things[before]
                counted &= (current != IGNORE_INDEX) & (before != IGNORE_INDEX)
                total = self.counts.setdefault(name, [0, 0])
                total[0] += int(np.count_nonzero(counted & (current != before)))
                total[1] += int(np.count_nonzero(counted))
        self._last = gray, maps

    def share(self, name: str) -> float | None:
        """Of a named map, 0-1; None if nothing counted."""
        changed, counted = self.counts.get(name, [0, 0])
        return changed / counted if counted else None


def measure(
    artifact: Path,
    name: str,
    classes: ClassTable,
    frames: Sequence[Sample],
    threads: int,
    configurations: Sequence[Configuration],
) -> dict[str, object]:
    """Run a video once for each configuration.

    Returns:
        Data for JSON: the machine, the flicker of the ground truth, and a row for each configuration.
    """
    truth = Flicker(classes)
    for sample in frames:
        truth.add(sample.image, {"truth": sample.semantic})
    with Segmenter(artifact, threads=threads) as segmenter:
        segmenter.open_canvas()
        segmenter.warmup(2)
        rows = [_run(segmenter, classes, frames, configuration) for configuration in configurations]
        backend = segmenter.manifest.kind
    return {
        "video": name,
        "frames": len(frames),
        "size": list(frames[0].semantic.shape),
        "artifact": artifact.name,
        "network_size": [segmenter.manifest.input.height, segmenter.manifest.input.width],
        "machine": machine.describe("onnxruntime" if backend == "onnx" else backend, threads, None),
        "load_after": round(os.getloadavg()[0], 1),
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "truth_flicker": truth.share("truth"),
        "rows": rows,
    }


def _run(
    segmenter: Segmenter, classes: ClassTable, frames: Sequence[Sample], configuration: Configuration
) -> dict[str, object]:
    state = None
    if configuration.every:
        options = TemporalOptions(configuration.every, carry=configuration.carry, blend=configuration.blend)
        state = TemporalState(options)
    matrix, flicker = ConfusionMatrix(len(classes)), Flicker(classes)
    times: dict[str, list[float]] = {"detected": [], "carried": [], "carry": [], "total": []}
    for sample in frames:
        if state is None:
            result = segmenter.run(sample.image)
        else:
            result = segmenter.run_next(sample.image, state)
            times["carry"].append(result.timing["carry"])
        times["carried" if result.canvas_age else "detected"].append(result.timing["infer"])
        times["total"].append(result.timing["total"])
        matrix.add(sample.semantic, result.semantic)
        flicker.add(sample.image, {"own": result.semantic})
    scores = matrix.scores(classes)
    return {
        "every": configuration.every,
        "carry": configuration.carry,
        "blend": configuration.blend,
        "detected": len(times["detected"]),
        "resets": 0 if state is None else state.resets,
        "mean_iou": scores.mean_iou,
        "thing_iou": scores.thing_iou,
        "stuff_iou": scores.stuff_iou,
        "flicker": flicker.share("own"),
        "ms": {kind: _milliseconds(values) for kind, values in times.items() if values},
    }


def _milliseconds(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    figures = {
        "mean": statistics.fmean(ordered),
        "p50": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }
    return {key: round(value, 2) for key, value in figures.items()}

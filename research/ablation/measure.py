# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a cell's network and of its canvas."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.backends.runners import HostRunner
from imp_trt.data.dataset import Dataset, Sample
from imp_trt.errors import InvalidInput
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.train.evaluation import Evaluation, evaluate, possible_metrics
from research.ablation.canvas import CanvasMetric
from research.ablation.canvas_override import OVERRIDES, CanvasChange, CanvasOverrideBackend
from research.ablation.cells import Variant


def measure(
    model: Path, variant: Variant, dataset: Dataset, limit: int | None, threads: int, device: str
) -> tuple[Evaluation, dict[str, object] | None]:
    """Evaluate a checkpoint on a dataset as its variant prescribes.

    Args:
        model: checkpoint.
        variant: metrics to evaluate, and the canvas override.
        dataset: labeled images.
        limit: number of images to evaluate, from the first; None for all.
        threads, device: of PyTorch.

    Returns:
        The evaluation, and :meth:`CanvasMetric.scores` of the network's own canvas; None if it has
        none or it is overridden.
    """
    if variant.canvas_override:
        change = OVERRIDES[variant.canvas_override]
        return evaluate_changed(model, change, dataset, variant.measures, limit, threads, device), None
    samples = _LastSample(dataset)
    with Segmenter(model, threads=threads, device=device) as segmenter:
        canvas = CanvasMetric(dataset.classes) if segmenter.manifest.detections else None

        def predict(frame: NDArray[np.uint8]) -> SegmentationResult:
            result = segmenter.run(frame)
            if canvas is not None:
                canvas.add(samples.current(), result)
            return result

        evaluation = evaluate(predict, samples, _chosen(segmenter.manifest, variant.measures), limit)
    return evaluation, canvas.scores() if canvas is not None else None


def evaluate_changed(
    model: Path,
    change: CanvasChange,
    dataset: Dataset,
    measures: Collection[str] | None,
    limit: int | None,
    threads: int,
    device: str,
) -> Evaluation:
    """Evaluate a checkpoint with other instances on its canvas; arguments: see :func:`measure`."""
    samples = _LastSample(dataset)
    backend = CanvasOverrideBackend(model, change, samples.current, threads=threads, device=device)
    with closing(backend):
        runner = HostRunner(backend)
        chosen = _chosen(backend.manifest, measures)
        return evaluate(lambda frame: runner.submit(frame, None).result(), samples, chosen, limit)


def _chosen(manifest: Manifest, measures: Collection[str] | None) -> list[str]:
    return [m for m in possible_metrics(manifest) if measures is None or m in measures]


class EvenlySpaced:
    """At most so many samples of a dataset, evenly spaced: neighbors in a list are often alike."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.name, self.classes, self.terms = dataset.name, dataset.classes, dataset.terms
        self._dataset = dataset
        self._length = min(count, len(dataset))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._dataset[index * len(self._dataset) // self._length]


class _LastSample:
    """Wraps a dataset and remembers the last sample it returned."""

    def __init__(self, dataset: Dataset) -> None:
        self.name, self.classes, self.terms = dataset.name, dataset.classes, dataset.terms
        self._dataset = dataset
        self._last: Sample | None = None

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        self._last = self._dataset[index]
        return self._last

    def current(self) -> Sample:
        """The last sample returned."""
        if self._last is None:
            raise InvalidInput("sample", expected="a sample that was read before", got="none")
        return self._last

"""The scores of a cell's network, and of the canvas that it sees."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import InvalidInput
from imp_trt.result import SegmentationResult
from imp_trt.runners import HostRunner
from imp_trt.segmenter import Segmenter
from imp_trt.train.dataset import Dataset, Sample
from imp_trt.train.evaluate import Evaluation, evaluate, measurable
from research.ablation.canvas import CanvasMeasure
from research.ablation.cells import Variant
from research.ablation.shown import ShownCanvas


def measure(
    model: Path, variant: Variant, dataset: Dataset, limit: int | None, threads: int, device: str
) -> tuple[Evaluation, dict[str, Any] | None]:
    """Score a checkpoint on a data set as its variant says.

    Args:
        model: checkpoint.
        variant: what is measured, and what the network is shown.
        dataset: labelled pictures.
        limit: only the first so many of them.
        threads, device: of PyTorch.

    Returns:
        The evaluation, and :meth:`CanvasMeasure.scores` of the network's own canvas; None where it has
        none or does not see it.
    """
    pictures = _Watched(dataset)
    runner: Segmenter | HostRunner
    with ExitStack() as stack:
        if variant.shown:
            backend = ShownCanvas(model, variant.shown, pictures.current, threads=threads, device=device)
            stack.callback(backend.close)
            runner, manifest = HostRunner(backend), backend.manifest
            canvas = None
        else:
            segmenter = stack.enter_context(Segmenter(model, threads=threads, device=device))
            runner, manifest = segmenter, segmenter.manifest
            canvas = CanvasMeasure(dataset.classes) if manifest.detections else None

        def predict(frame: NDArray[np.uint8]) -> SegmentationResult:
            result = runner.submit(frame, None).result()
            if canvas is not None:
                canvas.add(pictures.current(), result)
            return result

        chosen = [m for m in measurable(manifest) if variant.measures is None or m in variant.measures]
        evaluation = evaluate(predict, pictures, chosen, limit)
    return evaluation, canvas.scores() if canvas is not None else None


class _Watched:
    """A data set that knows which picture it gave last, for those who look on."""

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
        """The picture that was asked for last."""
        if self._last is None:
            raise InvalidInput("picture", expected="one that was read", got="none yet")
        return self._last

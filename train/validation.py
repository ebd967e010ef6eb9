# SPDX-License-Identifier: Apache-2.0
"""Validation during training: curves, the best weights, early stopping. No step depends on it."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from imp_trt.backends.pytorch import PyTorchBackend
from imp_trt.backends.runners import HostRunner
from imp_trt.classes import IGNORE_INDEX
from imp_trt.data.dataset import Dataset
from imp_trt.data.files import write_atomically
from imp_trt.errors import UsageError
from imp_trt.models.checkpoint import Checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.results.result import SegmentationResult
from imp_trt.train import distributed
from imp_trt.train.ema import WeightAverage
from imp_trt.train.evaluation import Evaluation, evaluate, no_labels, require_same_classes
from imp_trt.train.provenance import dataset_digest
from imp_trt.train.state import StopRequest, ValidationFacts

_LOGGER = logging.getLogger("imp_trt.train")

DEFAULT_VALIDATIONS = 10
"""Validations of a stage without a given interval."""


@dataclass(frozen=True)
class Validation:
    """Settings of the validation during training.

    Attributes:
        dataset: labeled images that are not trained on; all are evaluated each time.
        every: steps between two evaluations; None: a tenth of a stage. The last step is always evaluated.
        patience: evaluations without a better score after which a stage ends; None: it never ends early.

    Raises:
        UsageError: every or patience is below 1.
    """

    dataset: Dataset
    every: int | None = None
    patience: int | None = None

    @cached_property
    def data_digest(self) -> str:
        """Digest of the dataset's content."""
        return dataset_digest(self.dataset)

    def interval(self, total: int) -> int:
        """Steps between two evaluations of a stage of ``total`` steps."""
        return self.every or max(1, total // DEFAULT_VALIDATIONS)

    def facts(self, total: int) -> ValidationFacts | None:
        """What scores of a stage of ``total`` steps depend on; None without steps, where none are made."""
        return {"data": self.data_digest, "every": self.interval(total)} if total else None

    def __post_init__(self) -> None:
        for name in ("every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} of the validation", expected="at least 1", got=value)


class ValidationScores(TypedDict):
    """Scores of one evaluation, a line of ``NAME.val.jsonl``; fractions, None for what does not occur."""

    step: int
    score: float
    mean_iou: float | None
    thing_iou: float | None
    stuff_iou: float | None
    pixel_accuracy: float | None
    iou: dict[str, float | None]


class Validator:
    """Evaluates the network of one stage at certain steps.

    The score is the mean IoU of all classes, or of the things for a network without semantic head, which
    never predicts most stuff classes.

    Args:
        settings: data, interval, patience.
        total: steps of the stage.
        path: ``NAME.val.jsonl``, rewritten after each evaluation.
        device: where to evaluate.
        history: scores of the run that is resumed.
        on_best: called with network, step and score when the score is the best so far.
        on_scores: called with the scores of each evaluation.
    """

    def __init__(
        self,
        settings: Validation,
        total: int,
        path: Path,
        device: str,
        history: list[ValidationScores],
        on_best: Callable[[ImpNetwork, int, float], None],
        on_scores: Callable[[ValidationScores], None] | None = None,
    ) -> None:
        self._dataset, self._patience = settings.dataset, settings.patience
        self._every = settings.interval(total)
        self._total, self._path, self._device = total, path, device
        self._on_best, self._on_scores = on_best, on_scores
        self.history = list(history)

    @property
    def best(self) -> ValidationScores | None:
        """The first evaluation with the highest score."""
        return max(self.history, key=lambda scores: scores["score"], default=None)

    @property
    def exhausted(self) -> bool:
        """Whether the score has not improved for ``patience`` evaluations."""
        best = self.best
        if self._patience is None or best is None:
            return False
        return len(self.history) - 1 - self.history.index(best) >= self._patience

    def is_due(self, step: int) -> bool:
        """Whether the network is to be evaluated after so many steps."""
        last = self.history[-1]["step"] if self.history else 0
        return step > last and (step % self._every == 0 or step == self._total)

    def ends(self, step: int, network: ImpNetwork, average: WeightAverage | None, stop: StopRequest) -> bool:
        """Evaluate if it is due; whether the stage ends here, the same in all processes.

        An evaluation that a signal or the deadline interrupts leaves no trace: it is due again on resume.

        Args:
            step: steps done.
            network: in training; not changed.
            average: moving average of its weights, which is evaluated if there is one.
            stop: request to stop.
        """
        if self.is_due(step) and distributed.rank() == 0:
            # A copy: evaluation mode, and the average, would change the training.
            evaluated = copy.deepcopy(network)
            if average is not None:
                average.copy_to(evaluated)
            scores = self._evaluate(evaluated.eval(), step, stop)
            if scores is not None:
                self._record(evaluated, scores)
        return distributed.any_process(self.exhausted, self._device)

    def _evaluate(self, network: ImpNetwork, step: int, stop: StopRequest) -> ValidationScores | None:
        backend = PyTorchBackend.of(Checkpoint(network, {}, ""), self._device)
        runner = HostRunner(backend)

        def predict(frame: NDArray[np.uint8]) -> SegmentationResult:
            if stop.requested:
                raise _Interrupted
            return runner.run([frame], None)[0]

        try:
            found = evaluate(predict, self._dataset)
        except _Interrupted:
            return None
        finally:
            backend.close()
        return _scores(found, step, network.config.semantic_head == "none")

    def _record(self, network: ImpNetwork, scores: ValidationScores) -> None:
        before = self.best
        self.history.append(scores)
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        write_atomically(self._path, lines.encode())
        if self._on_scores is not None:
            self._on_scores(scores)
        improved = before is None or scores["score"] > before["score"]
        if improved:
            self._on_best(network, scores["step"], scores["score"])
        best = scores if improved or before is None else before
        _LOGGER.info(
            "step %d of %d: mIoU %s, of things %s; best score %s at step %d",
            scores["step"],
            self._total,
            _percent(scores["mean_iou"]),
            _percent(scores["thing_iou"]),
            _percent(best["score"]),
            best["step"],
        )
        if self.exhausted:
            _LOGGER.info("no better score in %d evaluations: the stage ends here", self._patience)


class _Interrupted(Exception):
    """The run is to stop."""


def check_validation(settings: Validation, dataset: Dataset) -> None:
    """Require that the validation has the classes of the training data, and labels.

    Raises:
        InvalidInput: it has other classes.
        DatasetError: it has no labeled pixel: every score would be 0, and the first weights the best.
    """
    require_same_classes(
        "classes of the validation data",
        settings.dataset.classes,
        dataset.classes,
        "label both with the same classes in the same order, and the same things; imp-data shows them",
    )
    samples = (settings.dataset[index] for index in range(len(settings.dataset)))
    if all((sample.semantic == IGNORE_INDEX).all() for sample in samples):
        raise no_labels(settings.dataset, len(settings.dataset))


def _scores(found: Evaluation, step: int, things_only: bool) -> ValidationScores:
    semantic = found.semantic
    score = semantic.thing_iou if things_only else semantic.mean_iou
    if not math.isfinite(score):
        _LOGGER.warning("step %d: no score, as the validation data has no things; it counts as 0", step)
    return ValidationScores(
        step=step,
        score=score if math.isfinite(score) else 0.0,
        mean_iou=_finite(semantic.mean_iou),
        thing_iou=_finite(semantic.thing_iou),
        stuff_iou=_finite(semantic.stuff_iou),
        pixel_accuracy=_finite(semantic.pixel_accuracy),
        iou=dict(zip(found.classes.names, map(_finite, semantic.iou.tolist()), strict=True)),
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"

# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a predictor on a labeled dataset with selected metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Dataset, Sample
from imp_trt.errors import DatasetError, InvalidInput
from imp_trt.metrics.boundary import BoundaryDict, BoundaryMetric, BoundaryScores
from imp_trt.metrics.instances import InstanceDict, InstanceMetric, InstanceScores
from imp_trt.metrics.panoptic import PanopticDict, PanopticMetric, PanopticScores
from imp_trt.metrics.semantic import SemanticDict, SemanticMetric, SemanticScores
from imp_trt.results.result import SegmentationResult

METRICS = ("semantic", "boundary", "instances", "panoptic")
"""Names of the metrics, in the order of the report."""


class Metric(Protocol):
    """A metric that accumulates over images."""

    def add(self, sample: Sample, result: SegmentationResult) -> None: ...

    def scores(self) -> object: ...


class EvaluationDict(TypedDict):
    """JSON form of :class:`Evaluation`."""

    data: str
    images: int
    classes: dict[str, object]
    semantic: SemanticDict
    boundary: BoundaryDict | None
    instances: InstanceDict | None
    panoptic: PanopticDict | None
    milliseconds: dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores on a dataset.

    Attributes:
        data: name of the dataset.
        classes: class table of the scores.
        images: number of images.
        semantic: scores of the class maps.
        boundary, instances, panoptic: scores of these metrics; None if not requested.
        milliseconds: "p50", "p90" and "mean" of the results' times "total" and "infer"; empty if the
            results have no timing.
    """

    data: str
    classes: ClassTable
    images: int
    semantic: SemanticScores
    boundary: BoundaryScores | None = None
    instances: InstanceScores | None = None
    panoptic: PanopticScores | None = None
    milliseconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_dict(self) -> EvaluationDict:
        """Plain data for JSON: None for metrics not requested and for classes that do not occur."""
        return {
            "data": self.data,
            "images": self.images,
            "classes": self.classes.to_dict(),
            "semantic": self.semantic.to_dict(),
            "boundary": self.boundary.to_dict() if self.boundary else None,
            "instances": self.instances.to_dict() if self.instances else None,
            "panoptic": self.panoptic.to_dict() if self.panoptic else None,
            "milliseconds": {name: dict(times) for name, times in self.milliseconds.items()},
        }

    @classmethod
    def from_dict(cls, data: EvaluationDict) -> Evaluation:
        """Inverse of :meth:`to_dict`, for reports from saved scores.

        Raises:
            InvalidInput: something is missing or malformed.
        """
        try:
            classes = ClassTable.from_dict(data["classes"])
            boundary, instances, panoptic = data["boundary"], data["instances"], data["panoptic"]
            return cls(
                str(data["data"]),
                classes,
                int(data["images"]),
                SemanticScores.from_dict(data["semantic"], classes),
                BoundaryScores.from_dict(boundary, classes) if boundary else None,
                InstanceScores.from_dict(instances, classes) if instances else None,
                PanopticScores.from_dict(panoptic, classes) if panoptic else None,
                {
                    str(name): {str(k): float(v) for k, v in times.items()}
                    for name, times in data["milliseconds"].items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput("evaluation", expected="a result of to_dict()", got=repr(error)) from error


def evaluate(
    predict: Callable[[NDArray[np.uint8]], SegmentationResult],
    dataset: Dataset,
    measures: Sequence[str] = ("semantic",),
    limit: int | None = None,
    on_image: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score a predictor on a dataset.

    Args:
        predict: frame [H, W, 3] uint8 BGR -> result of that frame, such as Segmenter.run.
        dataset: labeled images.
        measures: some of METRICS; "semantic" is always included. :func:`possible_metrics` returns those that
            a network supports.
        limit: maximum number of images, from the first.
        on_image: called with the number of finished images.

    Raises:
        InvalidInput: an unknown metric, or the predictor's classes differ from those of the dataset.
        DependencyMissing: the metric "instances" needs a package that is not installed.
    """
    unknown = sorted(set(measures) - set(METRICS))
    if unknown:
        raise InvalidInput("measures", expected=f"some of {', '.join(METRICS)}", got=", ".join(unknown))
    classes = dataset.classes
    semantic = SemanticMetric(classes)
    boundary = BoundaryMetric(classes) if "boundary" in measures else None
    instances = InstanceMetric(classes) if "instances" in measures else None
    panoptic = PanopticMetric(classes) if "panoptic" in measures else None
    active: list[Metric] = [m for m in (semantic, boundary, instances, panoptic) if m is not None]
    times: list[Mapping[str, float]] = []
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for index in range(count):
        sample = dataset[index]
        result = predict(sample.image)
        require_same_classes("classes of the predictor", result.classes, classes)
        for measure in active:
            measure.add(sample, result)
        times.append(dict(result.timing))
        if on_image is not None:
            on_image(index + 1)
    return Evaluation(
        dataset.name,
        classes,
        count,
        semantic.scores(),
        boundary.scores() if boundary else None,
        instances.scores() if instances else None,
        panoptic.scores() if panoptic else None,
        _milliseconds(times),
    )


def no_labels(dataset: Dataset, count: int) -> DatasetError:
    """The error for a dataset of whose first ``count`` images no pixel is labeled."""
    return DatasetError(
        f"dataset {dataset.name}",
        expected="labeled pixels, to compare predictions with",
        got=f"none in {count} of {len(dataset)} images",
        fix="label images, or choose others",
    )


def require_same_classes(
    what: str,
    actual: ClassTable,
    expected: ClassTable,
    fix: str = "evaluate the model on the dataset it was trained on",
) -> None:
    """Require that class names and things equal those of the dataset.

    Raises:
        InvalidInput: they differ; ``what`` names the owner of ``actual`` in the message, ``fix`` what to do.
    """
    if (actual.names, actual.things) != (expected.names, expected.things):
        raise InvalidInput(
            what,
            expected=f"those of the dataset: {', '.join(expected.names)}; things {list(expected.things)}",
            got=f"{', '.join(actual.names)}; things {list(actual.things)}",
            fix=fix,
        )


def possible_metrics(manifest: Manifest) -> tuple[str, ...]:
    """Metrics that a network supports: without a detector there are no instances."""
    return METRICS if manifest.detections else METRICS[:2]


def _milliseconds(times: list[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    # The first calls allocate and warm up.
    steady = times[min(3, max(0, len(times) - 1)) :]
    figures: dict[str, dict[str, float]] = {}
    for name in ("total", "infer"):
        values = [t[name] for t in steady if name in t]
        if values:
            p50, p90 = (float(v) for v in np.percentile(values, (50, 90)))
            figures[name] = {"p50": p50, "p90": p90, "mean": float(np.mean(values))}
    return figures

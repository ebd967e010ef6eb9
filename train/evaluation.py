"""Scores a predictor on a labeled data set, by as many measures as are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Dataset, Sample
from imp_trt.errors import InvalidInput
from imp_trt.metrics.boundary import BoundaryMeasure, BoundaryScores
from imp_trt.metrics.instances import InstanceMeasure, InstanceScores
from imp_trt.metrics.panoptic import PanopticMeasure, PanopticScores
from imp_trt.metrics.semantic import SemanticMeasure, SemanticScores
from imp_trt.results.result import SegmentationResult

MEASURES = ("semantic", "boundary", "instances", "panoptic")
"""Names of the measures, in the order of the report."""


class Measure(Protocol):
    """Something that looks at pictures one by one and has scores in the end."""

    def add(self, sample: Sample, result: SegmentationResult) -> None: ...

    def scores(self) -> Any: ...


_OPTIONAL: dict[str, Callable[[ClassTable], Measure]] = {
    "boundary": BoundaryMeasure,
    "instances": InstanceMeasure,
    "panoptic": PanopticMeasure,
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured on a data set.

    Attributes:
        data: name of the data set.
        classes: what the scores' positions mean.
        images: number of pictures.
        semantic: scores of the class maps.
        boundary, instances, panoptic: scores of these measures; None where they were not asked for.
        milliseconds: "p50", "p90" and "mean" of the results' times "total" and "infer"; empty where the
            results carry no times.
    """

    data: str
    classes: ClassTable
    images: int
    semantic: SemanticScores
    boundary: BoundaryScores | None = None
    instances: InstanceScores | None = None
    panoptic: PanopticScores | None = None
    milliseconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: None for what was not measured and for what does not occur."""
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
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        """Inverse of :meth:`to_dict`, for reports that are made later.

        Raises:
            InvalidInput: something is missing or malformed.
        """
        try:
            classes = ClassTable.from_dict(data["classes"])
            boundary, instances, panoptic = (data[name] for name in MEASURES[1:])
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
            raise InvalidInput("evaluation", expected="what to_dict() gave", got=repr(error)) from error


def evaluate(
    predict: Callable[[NDArray[np.uint8]], SegmentationResult],
    dataset: Dataset,
    measures: Sequence[str] = ("semantic",),
    limit: int | None = None,
    on_image: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score a predictor on a data set.

    Args:
        predict: frame [H, W, 3] uint8 BGR -> result of that frame, as Segmenter.run.
        dataset: labeled pictures.
        measures: some of MEASURES; "semantic" is always measured. :func:`measurable` names those that
            make sense for a network.
        limit: only the first so many pictures.
        on_image: called with the number of finished pictures.

    Raises:
        InvalidInput: an unknown measure, or the predictor's classes are not those of the data set.
        DependencyMissing: the measure "instances" needs a package that is not here.
    """
    unknown = sorted(set(measures) - set(MEASURES))
    if unknown:
        raise InvalidInput("measures", expected=f"some of {', '.join(MEASURES)}", got=", ".join(unknown))
    classes = dataset.classes
    semantic = SemanticMeasure(classes)
    others = {name: make(classes) for name, make in _OPTIONAL.items() if name in measures}
    times: list[Mapping[str, float]] = []
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for index in range(count):
        sample = dataset[index]
        result = predict(sample.image)
        require_same_classes("classes of the predictor", result.classes, classes)
        for measure in (semantic, *others.values()):
            measure.add(sample, result)
        times.append(dict(result.timing))
        if on_image is not None:
            on_image(index + 1)
    scores = {name: measure.scores() for name, measure in others.items()}
    return Evaluation(
        dataset.name, classes, count, semantic.scores(), milliseconds=_milliseconds(times), **scores
    )


def require_same_classes(what: str, found: ClassTable, wanted: ClassTable) -> None:
    """Refuse to score classes of other names or other things than the data set's.

    Raises:
        InvalidInput: they differ; ``what`` says whose they are.
    """
    if (found.names, found.things) != (wanted.names, wanted.things):
        raise InvalidInput(
            what,
            expected=f"those of the data set: {', '.join(wanted.names)}; things {list(wanted.things)}",
            got=f"{', '.join(found.names)}; things {list(found.things)}",
            fix="score the model on the data set it was trained for",
        )


def measurable(manifest: Manifest) -> tuple[str, ...]:
    """The measures that make sense for a network: one without a detector has no instances."""
    return MEASURES if manifest.detections else MEASURES[:2]


def _milliseconds(times: list[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    # The first calls allocate and warm up.
    settled = times[min(3, max(0, len(times) - 1)) :]
    figures: dict[str, dict[str, float]] = {}
    for name in ("total", "infer"):
        values = [t[name] for t in settled if name in t]
        if values:
            p50, p90 = (float(v) for v in np.percentile(values, (50, 90)))
            figures[name] = {"p50": p50, "p90": p90, "mean": float(np.mean(values))}
    return figures

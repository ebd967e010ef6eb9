# SPDX-License-Identifier: Apache-2.0
"""Images of a report: selection, and image, ground truth and predictions side by side."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Dataset, Sample, image_name
from imp_trt.data.files import write_atomically
from imp_trt.data.images import encode_image
from imp_trt.metrics.semantic import ConfusionMatrix
from imp_trt.models.presets import SYSTEMS
from imp_trt.ops import instance_mask_projection_numpy
from imp_trt.results.drawing import color_map
from imp_trt.results.image_grid import make_grid
from imp_trt.results.result import SegmentationResult

Predict = Callable[[NDArray[np.uint8]], SegmentationResult]

PANEL_WIDTH = 480
"""Maximum width of a panel in pixels."""

_QUALITY = 88


class ImageScores:
    """A predictor that also computes a score per image.

    Args:
        predict: frame -> result.
        dataset: dataset in the order of the predictions; call :meth:`image_done` after each image.

    Attributes:
        scores: mean IoU of the thing classes in each finished image, of all its classes if it has no things.
    """

    def __init__(self, predict: Predict, dataset: Dataset) -> None:
        self.scores: list[float] = []
        self._predict = predict
        self._dataset = dataset
        self._last: SegmentationResult | None = None

    def predict(self, frame: NDArray[np.uint8]) -> SegmentationResult:
        """Result of the wrapped predictor."""
        self._last = self._predict(frame)
        return self._last

    def image_done(self, finished: int) -> None:
        """Score the last result; ``finished`` is the number of finished images."""
        if self._last is not None:
            sample = self._dataset[finished - 1]
            self.scores.append(_image_iou(sample, self._last.semantic, self._dataset.classes))


@dataclass(frozen=True)
class ImageRow:
    """One image of the report.

    Attributes:
        caption: name and scores of the image.
        panels: title and image [h, w, 3] uint8 BGR, from left to right, all of the same size.
    """

    caption: str
    panels: tuple[tuple[str, NDArray[np.uint8]], ...]


def telling(scores: Sequence[Sequence[float]], count: int) -> list[int]:
    """Indices of the images to show: half with the largest gain of the last model, half with the smallest.

    Args:
        scores: scores of each image, per model; with one model its best and worst images are selected.
        count: number of images.
    """
    last = np.asarray(scores[-1], np.float64)
    gains = last - np.asarray(scores[0], np.float64) if len(scores) > 1 else last
    order = [int(i) for i in np.argsort(-gains, kind="stable")]
    # Images without labels, whose score is NaN, tell nothing: they come last.
    known, unknown = ([i for i in order if np.isnan(gains[i]) == missing] for missing in (False, True))
    best = known[: (count + 1) // 2]
    worst = [i for i in reversed(known) if i not in best][: count // 2]
    return [*best, *worst, *unknown][:count]


def write_sheet(path: str | Path, rows: Sequence[ImageRow], classes: ClassTable) -> Path:
    """Write the panels of all rows as one PNG.

    Args:
        path: file to write; replaced if it exists.
        rows: one or more; panels are resized to the width of the narrowest.
        classes: class table of the legend.

    Raises:
        OutputError: the file cannot be written.
    """
    width = min(panel.shape[1] for row in rows for _, panel in row.panels)
    lines = [[_shrink(panel, width) for _, panel in row.panels] for row in rows]
    titles = [name for name, _ in rows[0].panels]
    return write_atomically(path, encode_image(make_grid(lines, titles, classes), ".png"))


def data_url(image: NDArray[np.uint8]) -> str:
    """An image [h, w, 3] uint8 BGR as a JPEG data URL."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def image_row(
    dataset: Dataset,
    index: int,
    models: Sequence[tuple[str, Predict]],
    scores: Sequence[float],
    *,
    instances: bool = False,
) -> ImageRow:
    """Panels of one image: the image, and overlays of the ground truth and of each model's class map.

    Args:
        dataset: labeled images.
        index: index of the image.
        models: name and predictor.
        scores: scores of this image, by model.
        instances: whether to add what the instances of the last model give without its class map: for each
            pixel the class of the strongest, as in Mask R-CNN-IMP (the paper's Figure 2).
    """
    sample = dataset[index]
    panels = [("image", sample.image), ("ground truth", _overlay(sample, sample.semantic, dataset.classes))]
    results = [predict(sample.image) for _, predict in models]
    for (name, _), result in zip(models, results, strict=True):
        panels.append((name, _overlay(sample, result.semantic, dataset.classes)))
    if instances:
        alone = instances_alone(results[-1], len(dataset.classes))
        panels.append(("instances alone", _overlay(sample, alone, dataset.classes, alone == IGNORE_INDEX)))
    parts = [f"{name} {100 * score:.1f}" for (name, _), score in zip(models, scores, strict=True)]
    things = bool(np.isin(sample.semantic, dataset.classes.things).any())
    what = "its things" if things else "its classes"
    caption = f"{image_name(dataset, index)}: mean IoU of {what}, %: {', '.join(parts)}"
    return ImageRow(caption, tuple((name, _shrink(image, PANEL_WIDTH)) for name, image in panels))


def instances_alone(result: SegmentationResult, num_classes: int) -> NDArray[np.uint8]:
    """[h, w] uint8 class of the strongest instance, 255 where none exceeds the score of the background."""
    found = result.instances
    canvas = instance_mask_projection_numpy(
        np.asarray(found.mask_boxes)[None],
        found.scores[None],
        found.labels[None],
        found.masks[None],
        num_classes,
        found.size,
        sampling=found.sampling,
    )[0]
    background = SYSTEMS["mask-rcnn-imp"].get("background_score", 0.0)
    return np.where(canvas.max(0) > background, canvas.argmax(0), IGNORE_INDEX).astype(np.uint8)


def _image_iou(sample: Sample, semantic: NDArray[np.uint8], classes: ClassTable) -> float:
    matrix = ConfusionMatrix(len(classes))
    matrix.add(sample.semantic, semantic)
    scores = matrix.scores(classes)
    # Only classes in the ground truth: a few pixels of an absent class must not halve an image's score.
    present = ~np.isnan(scores.accuracy)
    things = [t for t in classes.things if present[t]]
    chosen = scores.iou[things] if things else scores.iou[present]
    return float(chosen.mean()) if chosen.size else float("nan")


def _overlay(
    sample: Sample,
    semantic: NDArray[np.uint8],  # [h, w]
    classes: ClassTable,
    empty: NDArray[np.bool_] | None = None,  # [h, w]
) -> NDArray[np.uint8]:
    colors = color_map(semantic, classes)
    blended = cv2.addWeighted(sample.image, 0.35, colors, 0.65, 0)
    # Unlabeled pixels show the darkened image in every panel, and so do empty ones.
    dark = (sample.image * 0.35).astype(np.uint8)
    ignored = sample.semantic == IGNORE_INDEX
    if empty is not None:
        ignored = ignored | empty
    return np.where(ignored[..., None], dark, blended).astype(np.uint8)


def _shrink(image: NDArray[np.uint8], max_width: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if width <= max_width:
        return image
    size = (max_width, max(1, round(height * max_width / width)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)

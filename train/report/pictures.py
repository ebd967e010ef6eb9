"""Pictures of a report: which ones tell most, and image, ground truth and answers side by side."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Dataset, Sample
from imp_trt.data.files import write_atomically
from imp_trt.data.images import encode_image
from imp_trt.metrics.semantic import ConfusionMatrix
from imp_trt.results.drawing import color_map
from imp_trt.results.image_grid import make_grid
from imp_trt.results.result import SegmentationResult

Predict = Callable[[NDArray[np.uint8]], SegmentationResult]

PANEL_WIDTH = 480
"""Widest a panel is, in pixels."""

_QUALITY = 88


class PictureScores:
    """A predictor that also scores each picture by itself.

    Args:
        predict: frame -> result.
        dataset: what is predicted, in order; tell each picture's end by :meth:`picture_done`.

    Attributes:
        scores: mean IoU of the things in each finished picture, of all its classes where it has none.
    """

    def __init__(self, predict: Predict, dataset: Dataset) -> None:
        self.scores: list[float] = []
        self._predict = predict
        self._dataset = dataset
        self._last: SegmentationResult | None = None

    def predict(self, frame: NDArray[np.uint8]) -> SegmentationResult:
        """The predictor's own answer."""
        self._last = self._predict(frame)
        return self._last

    def picture_done(self, finished: int) -> None:
        """Score the last answer; finished counts from 1."""
        if self._last is not None:
            sample = self._dataset[finished - 1]
            self.scores.append(_picture_iou(sample, self._last.semantic, self._dataset.classes))


@dataclass(frozen=True)
class PictureRow:
    """One picture of the page.

    Attributes:
        caption: which picture, and its scores.
        panels: heading and picture [h, w, 3] uint8 BGR, from left to right, all of one size.
    """

    caption: str
    panels: tuple[tuple[str, NDArray[np.uint8]], ...]


def telling(scores: Sequence[Sequence[float]], count: int) -> list[int]:
    """The pictures to show: half of them where the last model gains most, half where it gains least.

    Args:
        scores: per model the score of each picture; with one model its best and worst are taken.
        count: how many.
    """
    last = np.asarray(scores[-1], np.float64)
    gains = last - np.asarray(scores[0], np.float64) if len(scores) > 1 else last
    order = [int(i) for i in np.argsort(-np.nan_to_num(gains), kind="stable")]
    best = order[: (count + 1) // 2]
    worst = [i for i in reversed(order) if i not in best][: count // 2]
    return [*best, *worst]


def write_sheet(path: str | Path, rows: Sequence[PictureRow], classes: ClassTable) -> Path:
    """Write the panels of all rows as one PNG; an existing file is replaced.

    Args:
        path: file to write.
        rows: one or more; each line of the sheet is as high as its picture, all are as wide as the narrowest.
        classes: names and colors of the legend.

    Raises:
        OutputError: the file cannot be written.
    """
    width = min(panel.shape[1] for row in rows for _, panel in row.panels)
    lines = [[_narrowed(panel, width) for _, panel in row.panels] for row in rows]
    titles = [name for name, _ in rows[0].panels]
    return write_atomically(path, encode_image(make_grid(lines, titles, classes), ".png"))


def data_url(picture: NDArray[np.uint8]) -> str:
    """A picture [h, w, 3] uint8 BGR as a JPEG within a page."""
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def picture_row(
    dataset: Dataset, index: int, models: Sequence[tuple[str, Predict]], scores: Sequence[float]
) -> PictureRow:
    """Image, ground truth and every model's class map over the image.

    Args:
        dataset: labeled pictures.
        index: which of them.
        models: name and predictor.
        scores: of this picture, by model.
    """
    sample = dataset[index]
    panels = [("image", sample.image), ("ground truth", _overlay(sample, sample.semantic, dataset.classes))]
    for name, predict in models:
        panels.append((name, _overlay(sample, predict(sample.image).semantic, dataset.classes)))
    parts = [f"{name} {100 * score:.1f}" for (name, _), score in zip(models, scores, strict=True)]
    things = bool(np.isin(sample.semantic, dataset.classes.things).any())
    what = "its things" if things else "its classes"
    caption = f"picture {index + 1}: mean IoU of {what}, %: {', '.join(parts)}"
    return PictureRow(caption, tuple((name, _narrowed(picture, PANEL_WIDTH)) for name, picture in panels))


def _picture_iou(sample: Sample, semantic: NDArray[np.uint8], classes: ClassTable) -> float:
    matrix = ConfusionMatrix(len(classes))
    matrix.add(sample.semantic, semantic)
    scores = matrix.scores(classes)
    # Only what is there: one stray pixel of an absent class must not halve a picture's score.
    present = ~np.isnan(scores.accuracy)
    things = [t for t in classes.things if present[t]]
    chosen = scores.iou[things] if things else scores.iou[present]
    return float(chosen.mean()) if chosen.size else float("nan")


def _overlay(sample: Sample, semantic: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.uint8]:
    colors = color_map(semantic, classes)
    picture = cv2.addWeighted(sample.image, 0.35, colors, 0.65, 0)
    # What is not labeled shows as the darkened image in every panel.
    dark = (sample.image * 0.35).astype(np.uint8)
    ignored = (sample.semantic == IGNORE_INDEX)[..., None]
    return np.where(ignored, dark, picture).astype(np.uint8)


def _narrowed(picture: NDArray[np.uint8], limit: int) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    if width <= limit:
        return picture
    size = (limit, max(1, round(height * limit / width)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)

"""Average precision of boxes and masks by COCO's rules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.data.instance_maps import instance_table
from imp_trt.errors import DependencyMissing
from imp_trt.metrics.per_class import finite, named, number, unnamed
from imp_trt.results.result import SegmentationResult


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """COCO's figures for one kind of overlap, in 0-1; NaN where the truth has no such object.

    Attributes:
        ap: mean over IoU thresholds 0.50, 0.55, ... 0.95 and over the thing classes.
        ap50, ap75: at one threshold.
        small, medium, large: as ``ap``, for objects below 32^2, up to 96^2, and above 96^2 mask pixels.
        per_class: [T] float64, as ``ap``, for each thing class.
        curve50, curve75: [101] float64, precision at recall 0.00, 0.01, ... 1.00, mean over the classes.
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float
    per_class: NDArray[np.float64]
    curve50: NDArray[np.float64]
    curve75: NDArray[np.float64]

    def to_dict(self, things: tuple[str, ...]) -> dict[str, Any]:
        """Plain data for JSON, given the names of the thing classes; None for NaN."""
        return {
            **{name: finite(getattr(self, name)) for name in FIGURES},
            "per_class": named(things, self.per_class),
            "curve50": [finite(v) for v in self.curve50.tolist()],
            "curve75": [finite(v) for v in self.curve75.tolist()],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], things: tuple[str, ...]) -> AveragePrecision:
        """Inverse of :meth:`to_dict`; KeyError where something is missing."""
        return cls(
            **{name: number(data[name]) for name in FIGURES},
            per_class=unnamed(things, data["per_class"]),
            curve50=np.array([number(v) for v in data["curve50"]], np.float64),
            curve75=np.array([number(v) for v in data["curve75"]], np.float64),
        )


FIGURES = ("ap", "ap50", "ap75", "small", "medium", "large")


@dataclass(frozen=True, eq=False)
class InstanceScores:
    """How well objects are found.

    Attributes:
        classes: the classes; only things are scored.
        box: by overlap of the boxes.
        mask: by overlap of the masks.
    """

    classes: ClassTable
    box: AveragePrecision
    mask: AveragePrecision

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: "box" and "mask"."""
        things = thing_names(self.classes)
        return {"box": self.box.to_dict(things), "mask": self.mask.to_dict(things)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], classes: ClassTable) -> InstanceScores:
        """Inverse of :meth:`to_dict`; KeyError where something is missing."""
        things = thing_names(classes)
        box, mask = (AveragePrecision.from_dict(data[kind], things) for kind in ("box", "mask"))
        return cls(classes, box, mask)


def thing_names(classes: ClassTable) -> tuple[str, ...]:
    """Names of the thing classes, ascending by index."""
    return tuple(classes.names[t] for t in classes.things)


class InstanceMeasure:
    """Average precision of boxes and masks, over all pictures.

    What is found on pixels of a thing class without an instance number (crowds, parts too small to be
    numbered) is neither right nor wrong. Boxes are compared with the box around each annotated crowd, as in
    COCO, and with one around each connected part of the rest: a box around specks in two corners would excuse
    whatever is found between them. Masks are compared with each crowd and with the rest as a whole. A
    predicted mask is the part above ``MASK_THRESHOLD``. Sizes are those of the true mask, for boxes too, as
    in COCO.

    Args:
        classes: the data set's classes.

    Raises:
        DependencyMissing: faster-coco-eval is not installed.
    """

    def __init__(self, classes: ClassTable) -> None:
        coco_package()
        self._classes = classes
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._crowds: dict[str, list[dict[str, Any]]] = {"bbox": [], "segm": []}
        self._found: list[dict[str, Any]] = []

    def add(self, sample: Sample, result: SegmentationResult) -> None:
        """Keep the objects of one picture, their masks as run lengths."""
        number = len(self._images) + 1
        size = sample.size
        self._images.append({"id": number, "height": size[0], "width": size[1]})
        for box, label, instance in zip(*instance_table(sample), strict=True):
            x0, y0, x1, y1 = (int(v) for v in box)
            region = _region(sample.instances[y0:y1, x0:x1] == instance, x0, y0, size)
            self._truth.append(
                {"image_id": number, "category_id": int(label), "bbox": _box(box), "iscrowd": 0, **region}
            )
        for label in self._classes.things:
            unnumbered = (sample.semantic == label) & (sample.instances == 0)
            if not unnumbered.any():
                continue
            crowd = {"image_id": number, "category_id": label, "iscrowd": 1}
            regions, rest = _crowds(unnumbered, sample.crowd)
            boxes = [*(_around(region) for region in regions), *_boxes_of_parts(rest)]
            self._crowds["bbox"] += [{**crowd, "bbox": box, "area": box[2] * box[3]} for box in boxes]
            regions += [rest] * bool(rest.any())
            self._crowds["segm"] += [{**crowd, **_region(region, 0, 0, size)} for region in regions]
        found = result.instances
        for index in range(len(found)):
            self._found.append(
                {
                    "image_id": number,
                    "category_id": int(found.labels[index]),
                    "score": float(found.scores[index]),
                    "bbox": _box(found.boxes[index]),
                    **_region(*found.crop(index), size),
                }
            )

    def scores(self) -> InstanceScores:
        """Scores of the pictures so far."""
        things = self._classes.things
        box, mask = (
            _figures(coco_precision(self._images, self._truth + crowds, self._found, things, kind))
            for kind, crowds in self._crowds.items()
        )
        return InstanceScores(self._classes, box, mask)


def coco_precision(
    images: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    categories: Sequence[int],
    kind: str,
) -> NDArray[np.float64]:
    """Interpolated precision by COCO's rules, at most 100 detections a picture.

    Args:
        images: "id", "height" and "width" of each picture.
        truth: annotations as in COCO's files, without "id": "image_id", "category_id", "bbox" (x, y, width,
            height; for kind "bbox"), "segmentation" (compressed run lengths; for kind "segm"), "area" (of the
            mask), "iscrowd".
        found: the same with "score" in place of "iscrowd".
        categories: category numbers, ascending.
        kind: "bbox" or "segm". For "bbox" the area of a detection is its box's.

    Returns:
        [10, 101, categories, 4] float64: IoU threshold (0.50 ... 0.95), recall (0 ... 1), category, size
        (all, small, medium, large); -1 where the truth has no such object.

    Raises:
        DependencyMissing: faster-coco-eval is not installed.
    """
    api = coco_package()
    shared = {
        "images": [dict(i) for i in images],
        "categories": [{"id": c, "name": str(c)} for c in categories],
    }
    if not images or not categories:
        return np.full((10, 101, len(categories), 4), -1.0)
    annotations = [{**a, "id": n} for n, a in enumerate(truth, 1)]
    detections = [{**a, "id": n, "iscrowd": 0} for n, a in enumerate(found, 1)]
    if kind == "bbox":
        for detection in detections:
            detection["area"] = detection["bbox"][2] * detection["bbox"][3]
    run = api.COCOeval_faster(
        api.COCO({**shared, "annotations": annotations}),
        api.COCO({**shared, "annotations": detections}),
        kind,
    )
    run.evaluate()
    run.accumulate()
    precision: NDArray[np.float64] = np.asarray(run.eval["precision"], np.float64)[..., -1]
    return precision


def _figures(precision: NDArray[np.float64]) -> AveragePrecision:
    every = precision[..., 0]
    per_class = np.array([_mean(every[:, :, k]) for k in range(every.shape[2])], np.float64)
    curves = ([_mean(row) for row in every[t]] for t in (0, 5))
    curve50, curve75 = (np.array(curve, np.float64) for curve in curves)
    return AveragePrecision(
        _mean(every),
        _mean(every[0]),
        _mean(every[5]),
        small=_mean(precision[..., 1]),
        medium=_mean(precision[..., 2]),
        large=_mean(precision[..., 3]),
        per_class=per_class,
        curve50=curve50,
        curve75=curve75,
    )


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else math.nan


def _box(corners: NDArray[np.float32]) -> list[float]:
    x0, y0, x1, y1 = (float(v) for v in corners)
    return [x0, y0, x1 - x0, y1 - y0]


def _crowds(
    unnumbered: NDArray[np.bool_],  # [H, W], of one class
    crowd: NDArray[np.uint16] | None,  # [H, W]
) -> tuple[list[NDArray[np.bool_]], NDArray[np.bool_]]:
    """The pixels [H, W] of each annotated crowd, and those of no crowd."""
    if crowd is None:
        return [], unnumbered
    regions = [unnumbered & (crowd == number) for number in np.unique(crowd[unnumbered]) if number]
    return regions, unnumbered & (crowd == 0)


def _around(region: NDArray[np.bool_]) -> list[float]:
    """COCO box (x, y, width, height) around a region [H, W]."""
    import cv2

    return [float(v) for v in cv2.boundingRect(region.view(np.uint8))]


def _boxes_of_parts(region: NDArray[np.bool_]) -> list[list[float]]:
    """COCO boxes around the connected parts of a region [H, W]."""
    import cv2

    count, _, stats, _ = cv2.connectedComponentsWithStats(region.view(np.uint8), connectivity=8)
    return [[float(v) for v in stats[part, :4]] for part in range(1, count)]


def _region(mask: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths and area of a mask [h, w] whose first pixel lies at (left, top) of a picture."""
    height, width = size
    # Only the columns that the mask covers are spread out: pictures are large, objects small.
    columns = np.zeros((mask.shape[1], height), np.bool_)
    columns[:, top : top + mask.shape[0]] = mask.T
    pixels = columns.ravel()
    changes = np.flatnonzero(np.diff(pixels, prepend=False, append=False)) + left * height
    ends = changes if changes.size and changes[-1] == height * width else np.append(changes, height * width)
    counts = np.diff(ends, prepend=0)
    code = coco_package().mask.frPyObjects(
        {"counts": counts.tolist(), "size": [height, width]}, height, width
    )
    return {"segmentation": code, "area": int(np.count_nonzero(mask))}


def coco_package() -> Any:
    """The package that counts average precision; ask for it before hours of training.

    Raises:
        DependencyMissing: it is not installed.
    """
    try:
        import faster_coco_eval
    except ImportError as error:
        raise DependencyMissing(
            "average precision",
            expected="the package faster-coco-eval",
            got=str(error),
            fix="pip install 'imp-trt[eval]'",
        ) from error
    return faster_coco_eval

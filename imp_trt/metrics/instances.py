# SPDX-License-Identifier: Apache-2.0
"""Average precision of boxes and masks by COCO's rules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.data.instance_maps import instance_table
from imp_trt.errors import DependencyMissing
from imp_trt.metrics.per_class import finite, named, number, unnamed
from imp_trt.results.result import SegmentationResult

IouType = Literal["bbox", "segm"]

Annotation = dict[str, object]
"""Image, annotation or detection record of COCO's JSON format."""


class AveragePrecisionDict(TypedDict):
    """JSON form of :class:`AveragePrecision`."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None
    per_class: dict[str, float | None]
    curve50: list[float | None]
    curve75: list[float | None]


class InstanceDict(TypedDict):
    """JSON form of :class:`InstanceScores`."""

    box: AveragePrecisionDict
    mask: AveragePrecisionDict


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """COCO's metrics for one IoU type, in 0-1; NaN if the ground truth has no such object.

    Attributes:
        ap: mean over IoU thresholds 0.50, 0.55, ... 0.95 and over the thing classes.
        ap50, ap75: at the IoU thresholds 0.50 and 0.75.
        small, medium, large: as ``ap``, for objects below 32^2, up to 96^2, and above 96^2 mask pixels.
        per_class: [T] float64, as ``ap``, for each thing class.
        curve50, curve75: [101] float64, precision at recall 0.00, 0.01, ... 1.00, averaged over classes.
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

    def to_dict(self, things: tuple[str, ...]) -> AveragePrecisionDict:
        """Plain data for JSON, given the names of the thing classes; None for NaN."""
        return {
            "ap": finite(self.ap),
            "ap50": finite(self.ap50),
            "ap75": finite(self.ap75),
            "small": finite(self.small),
            "medium": finite(self.medium),
            "large": finite(self.large),
            "per_class": named(things, self.per_class),
            "curve50": [finite(v) for v in self.curve50.tolist()],
            "curve75": [finite(v) for v in self.curve75.tolist()],
        }

    @classmethod
    def from_dict(cls, data: AveragePrecisionDict, things: tuple[str, ...]) -> AveragePrecision:
        """Inverse of :meth:`to_dict`; KeyError if a key is missing."""
        return cls(
            ap=number(data["ap"]),
            ap50=number(data["ap50"]),
            ap75=number(data["ap75"]),
            small=number(data["small"]),
            medium=number(data["medium"]),
            large=number(data["large"]),
            per_class=unnamed(things, data["per_class"]),
            curve50=np.array([number(v) for v in data["curve50"]], np.float64),
            curve75=np.array([number(v) for v in data["curve75"]], np.float64),
        )


@dataclass(frozen=True, eq=False)
class InstanceScores:
    """Average precision of the thing classes.

    Attributes:
        classes: class table; only things are evaluated.
        box: with the IoU of boxes.
        mask: with the IoU of masks.
    """

    classes: ClassTable
    box: AveragePrecision
    mask: AveragePrecision

    def to_dict(self) -> InstanceDict:
        """Plain data for JSON."""
        things = thing_names(self.classes)
        return {"box": self.box.to_dict(things), "mask": self.mask.to_dict(things)}

    @classmethod
    def from_dict(cls, data: InstanceDict, classes: ClassTable) -> InstanceScores:
        """Inverse of :meth:`to_dict`; KeyError if a key is missing."""
        things = thing_names(classes)
        return cls(
            classes,
            AveragePrecision.from_dict(data["box"], things),
            AveragePrecision.from_dict(data["mask"], things),
        )


def thing_names(classes: ClassTable) -> tuple[str, ...]:
    """Names of the thing classes, ascending by index."""
    return tuple(classes.names[t] for t in classes.things)


class InstanceMetric:
    """Average precision of boxes and masks over all images.

    Detections on pixels of a thing class without an instance number (crowds, parts too small to be
    numbered) are ignored: neither true nor false positives. Boxes are compared with the box around each
    annotated crowd, as in COCO, and with a box around each connected component of the rest: a single box
    around distant components would also ignore all detections between them. Masks are compared with each
    crowd and with the rest as a whole. Predicted masks are binarized at ``MASK_THRESHOLD``. Object sizes are
    the areas of the ground-truth masks, for boxes too, as in COCO.

    Args:
        classes: class table of the dataset.

    Raises:
        DependencyMissing: faster-coco-eval is not installed.
    """

    def __init__(self, classes: ClassTable) -> None:
        coco_package()
        self._classes = classes
        self._images: list[Annotation] = []
        self._annotations: list[Annotation] = []
        self._crowds: dict[IouType, list[Annotation]] = {"bbox": [], "segm": []}
        self._detections: list[Annotation] = []

    def add(self, sample: Sample, result: SegmentationResult) -> None:
        """Add the objects of one image, with their masks as run-length encodings (RLE)."""
        number = len(self._images) + 1
        size = sample.size
        self._images.append({"id": number, "height": size[0], "width": size[1]})
        for box, label, instance in zip(*instance_table(sample), strict=True):
            x0, y0, x1, y1 = (int(v) for v in box)
            region = _region(sample.instances[y0:y1, x0:x1] == instance, x0, y0, size)
            self._annotations.append(
                {"image_id": number, "category_id": int(label), "bbox": _box(box), "iscrowd": 0, **region}
            )
        for label in self._classes.things:
            unnumbered = (sample.semantic == label) & (sample.instances == 0)
            if not unnumbered.any():
                continue
            crowd: Annotation = {"image_id": number, "category_id": label, "iscrowd": 1}
            regions, rest = _crowds(unnumbered, sample.crowd)
            boxes = [*(_around(region) for region in regions), *_component_boxes(rest)]
            self._crowds["bbox"] += [{**crowd, "bbox": box, "area": box[2] * box[3]} for box in boxes]
            regions += [rest] * bool(rest.any())
            self._crowds["segm"] += [{**crowd, **_region(region, 0, 0, size)} for region in regions]
        instances = result.instances
        for index in range(len(instances)):
            self._detections.append(
                {
                    "image_id": number,
                    "category_id": int(instances.labels[index]),
                    "score": float(instances.scores[index]),
                    "bbox": _box(instances.boxes[index]),
                    **_region(*instances.crop(index), size),
                }
            )

    def scores(self) -> InstanceScores:
        """Scores of the images so far."""
        things = self._classes.things
        box, mask = (
            _figures(
                coco_precision(self._images, self._annotations + crowds, self._detections, things, iou_type)
            )
            for iou_type, crowds in self._crowds.items()
        )
        return InstanceScores(self._classes, box, mask)


def coco_precision(
    images: Sequence[Mapping[str, object]],
    annotations: Sequence[Mapping[str, object]],
    detections: Sequence[Mapping[str, object]],
    categories: Sequence[int],
    iou_type: IouType,
) -> NDArray[np.float64]:
    """Interpolated precision by COCO's rules, with at most 100 detections per image and category.

    Args:
        images: "id", "height" and "width" of each image.
        annotations: ground truth as in COCO's files, without "id": "image_id", "category_id", "bbox" (x, y,
            width, height; for "bbox"), "segmentation" (compressed RLE; for "segm"), "area" (of the mask),
            "iscrowd".
        detections: the same with "score" instead of "iscrowd".
        categories: category ids, ascending.
        iou_type: "bbox" or "segm". For "bbox" the area of a detection is that of its box.

    Returns:
        [10, 101, categories, 4] float64: IoU threshold (0.50 ... 0.95), recall (0 ... 1), category, size
        (all, small, medium, large); -1 if the ground truth has no such object.

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
    targets = [{**a, "id": n} for n, a in enumerate(annotations, 1)]
    results = [{**d, "id": n, "iscrowd": 0} for n, d in enumerate(detections, 1)]
    if iou_type == "bbox":
        for result in results:
            box = np.asarray(result["bbox"], np.float64)  # xywh
            result["area"] = float(box[2] * box[3])
    evaluator = api.COCOeval_faster(
        api.COCO({**shared, "annotations": targets}),
        api.COCO({**shared, "annotations": results}),
        iou_type,
    )
    evaluator.evaluate()
    evaluator.accumulate()
    precision: NDArray[np.float64] = np.asarray(evaluator.eval["precision"], np.float64)[..., -1]
    return precision


def _figures(precision: NDArray[np.float64]) -> AveragePrecision:  # see coco_precision
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


def _box(corners: NDArray[np.float32]) -> list[float]:  # [4] xyxy -> COCO's xywh
    x0, y0, x1, y1 = (float(v) for v in corners)
    return [x0, y0, x1 - x0, y1 - y0]


def _crowds(
    unnumbered: NDArray[np.bool_],  # [H, W], of one class
    crowd: NDArray[np.uint16] | None,  # [H, W]
) -> tuple[list[NDArray[np.bool_]], NDArray[np.bool_]]:
    """Masks [H, W] of each annotated crowd, and of the remaining pixels."""
    if crowd is None:
        return [], unnumbered
    regions = [unnumbered & (crowd == number) for number in np.unique(crowd[unnumbered]) if number]
    return regions, unnumbered & (crowd == 0)


def _around(region: NDArray[np.bool_]) -> list[float]:
    """Bounding box xywh of a region [H, W]."""
    import cv2

    return [float(v) for v in cv2.boundingRect(region.view(np.uint8))]


def _component_boxes(region: NDArray[np.bool_]) -> list[list[float]]:
    """Bounding boxes xywh of the connected components of a region [H, W]."""
    import cv2

    count, _, stats, _ = cv2.connectedComponentsWithStats(region.view(np.uint8), connectivity=8)
    return [[float(v) for v in stats[k, :4]] for k in range(1, count)]


def _region(mask: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> Annotation:
    """RLE and area of a mask [h, w] whose top left pixel is at (left, top) of an image."""
    height, width = size
    # RLE is column-major. Only the mask's columns are expanded: images are large, objects small.
    columns = np.zeros((mask.shape[1], height), np.bool_)
    columns[:, top : top + mask.shape[0]] = mask.T
    pixels = columns.ravel()
    changes = np.flatnonzero(np.diff(pixels, prepend=False, append=False)) + left * height
    ends = changes if changes.size and changes[-1] == height * width else np.append(changes, height * width)
    counts = np.diff(ends, prepend=0)
    rle = coco_package().mask.frPyObjects({"counts": counts.tolist(), "size": [height, width]}, height, width)
    return {"segmentation": rle, "area": int(np.count_nonzero(mask))}


def coco_package() -> ModuleType:
    """The package that computes average precision; call it early to fail before hours of training.

    Raises:
        DependencyMissing: faster-coco-eval is not installed.
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
    module: ModuleType = faster_coco_eval
    return module

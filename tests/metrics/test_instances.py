# SPDX-License-Identifier: Apache-2.0
"""Average precision: equal to pycocotools but for its last bit, and the project's rules about crowds."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.errors import DependencyMissing
from imp_trt.metrics.instances import AveragePrecision, InstanceMetric, InstanceScores, coco_precision
from imp_trt.results.result import Instances, SegmentationResult
from tests.support.pictures import CAT, CLASSES, DOG, FLOOR, WALL, answer, area, labeled

ndimage = pytest.importorskip("scipy.ndimage", reason="needs SciPy")
pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval")


def ellipse(
    rng: np.random.Generator, size: tuple[int, int], largest: int, smallest: int = 3
) -> NDArray[np.bool_]:
    ys, xs = np.mgrid[: size[0], : size[1]]
    y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
    a, b = rng.uniform(smallest, largest, 2)
    return np.asarray(((ys - y) / a) ** 2 + ((xs - x) / b) ** 2 < 1)


def shaken(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.roll(mask, tuple(rng.integers(-2, 3, 2)), axis=(0, 1))


def cases(seed: int) -> list[Any]:
    """Images of crowded objects; answers are partly right, doubled, invented and equal in score."""
    rng = np.random.default_rng(seed)
    pictures = []
    for picture in range(4):
        size = (140, 180)
        semantic = np.full(size, WALL, np.uint8)
        numbers = np.zeros(size, np.int32)
        masks, labels = [], []
        for number in range(1, int(rng.integers(0, 14)) + 1):
            radii = (90, 60) if number == 1 else (30, 3)
            mask, label = ellipse(rng, size, *radii), int(rng.choice([CAT, DOG]))
            semantic[mask], numbers[mask] = label, number
            masks.append(shaken(rng, mask))
            labels.append(label if rng.random() < 0.9 else CAT + DOG - label)
        numbers[numbers == 3] = 0  # a crowd
        for _ in range(int(rng.integers(0, 6))):
            masks.append(ellipse(rng, size, 40))
            labels.append(int(rng.choice([CAT, DOG])))
        if picture == 2:
            masks, labels = [], []
        if picture == 3:  # more than the 100 that count, one of them empty
            masks = [shaken(rng, masks[i % len(masks)]) for i in range(120)] if masks else []
            labels = [labels[i % len(labels)] for i in range(len(masks))]
            masks[:1] = [np.zeros(size, np.bool_)] if masks else []
        scores = np.sort(rng.integers(1, 12, len(masks)) / 12)[::-1]
        pictures.append((labeled(semantic, numbers), answer(semantic, masks, labels, scores.tolist())))
    return pictures


def parts(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The connected parts of a mask."""
    numbers, count = ndimage.label(mask, np.ones((3, 3)))
    return [np.asarray(numbers == k) for k in range(1, count + 1)]


def reference(pictures: list[Any], kind: str) -> Any:
    """The evaluation of pycocotools, from the arrays alone, results loaded as from a file of results."""
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    from pycocotools import mask as rle
    from pycocotools.cocoeval import COCOeval

    images, truth, found = [], [], []
    for number, (sample, result) in enumerate(pictures, 1):
        images.append({"id": number, "height": sample.size[0], "width": sample.size[1]})
        regions = [(sample.instances == k, 0) for k in np.unique(sample.instances) if k]
        unnumbered = [(sample.semantic == c) & (sample.instances == 0) for c in (CAT, DOG)]
        regions += [(part, 1) for mask in unnumbered for part in (parts(mask) if kind == "bbox" else [mask])]
        for mask, crowd in regions:
            if not mask.any():
                continue
            code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": number,
                    "category_id": int(sample.semantic[mask][0]),
                    "segmentation": code,
                    "area": float(rle.area(code)),
                    "bbox": rle.toBbox(code).tolist(),
                    "iscrowd": crowd,
                }
            )
        objects = result.instances
        for mask, box, label, score in zip(
            objects.paste(), objects.boxes.tolist(), objects.labels, objects.scores, strict=True
        ):
            entry = {"image_id": number, "category_id": int(label), "score": float(score)}
            if kind == "bbox":
                entry["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            else:
                entry["segmentation"] = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            found.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = {
            "images": images,
            "annotations": truth,
            "categories": [{"id": c, "name": CLASSES.names[c]} for c in CLASSES.things],
            "info": {},
        }
        known.createIndex()
        run = COCOeval(known, known.loadRes(found), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def measured(pictures: list[Any]) -> InstanceMetric:
    measure = InstanceMetric(CLASSES)
    for sample, result in pictures:
        measure.add(sample, result)
    return measure


@pytest.mark.parametrize("seed", [1, 3, 4])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equal_to_pycocotools(seed, kind):
    pictures = cases(seed)
    expected = reference(pictures, kind)
    measure = measured(pictures)
    truth = measure._annotations + measure._crowds[kind]
    precision = coco_precision(measure._images, truth, measure._detections, CLASSES.things, kind)
    # pycocotools adds 2**-52 to the number of answers, so that one right answer scores 0.9999999999999998.
    np.testing.assert_array_max_ulp(precision, expected.eval["precision"][..., -1], maxulp=2)
    scores = measure.scores().mask if kind == "segm" else measure.scores().box
    figures = [scores.ap, scores.ap50, scores.ap75, scores.small, scores.medium, scores.large]
    np.testing.assert_allclose(np.nan_to_num(figures, nan=-1.0), expected.stats[:6], rtol=1e-14)
    assert 0.02 < scores.ap < 0.95  # neither trivially right nor wrong
    assert not np.isnan(figures).any()  # objects of every size are there
    per_class = expected.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    np.testing.assert_allclose(scores.per_class, per_class, rtol=1e-12)
    np.testing.assert_allclose(
        scores.curve75, expected.eval["precision"][5, :, :, 0, -1].mean(axis=1), rtol=1e-12
    )


@pytest.mark.parametrize(
    "corners",
    [(0, 0, 5, 4), (2, 3, 7, 9), (4, 0, 7, 9), (0, 6, 7, 9), (0, 0, 7, 9), (3, 2, 7, 4), (3, 3, 3, 3)],
)
def test_run_lengths_are_those_of_the_whole_mask(corners):
    rle = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    size = (7, 9)
    mask = area(size, *corners)
    mask[3, 3] = False
    whole = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    sample = labeled(np.where(mask, DOG, WALL).astype(np.uint8), mask.astype(np.int32))
    measure = InstanceMetric(CLASSES)
    measure.add(sample, answer(sample.semantic, [mask], [DOG], [1.0]))
    # The truth is cut out at the object's box, the answer where its mask may lie.
    for entry in (*measure._annotations, *measure._detections):
        assert entry["segmentation"] == whole
        assert entry["area"] == mask.sum()
    assert len(measure._annotations) == mask.any()


def test_the_mask_of_an_answer_is_the_one_it_pastes():
    rle = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    rng = np.random.default_rng(2)
    boxes = np.array([[3.2, 1.5, 17.8, 9.9], [-4, 6, 9, 30], [20, 12, 32.5, 24.1]], np.float32)
    masks = rng.random((3, 7, 7)).astype(np.float32)
    ones = np.ones(3, np.float32)
    found = Instances(boxes.clip(0, 24), np.full(3, DOG, np.int32), ones, masks, (24, 32), mask_boxes=boxes)
    semantic = np.full((24, 32), WALL, np.uint8)
    measure = InstanceMetric(CLASSES)
    measure.add(labeled(semantic), SegmentationResult(semantic, found, CLASSES))
    pasted = [rle.encode(np.asfortranarray(m.astype(np.uint8))) for m in found.paste()]
    assert [entry["segmentation"] for entry in measure._detections] == pasted
    assert all(entry["area"] for entry in measure._detections)


SIZE = (80, 100)
LEFT, RIGHT = area(SIZE, 10, 10, 60, 45), area(SIZE, 10, 55, 60, 90)


def scene(crowd: bool = False) -> Any:
    semantic = np.full(SIZE, WALL, np.uint8)
    semantic[LEFT | RIGHT] = DOG
    numbers = np.where(LEFT, 1, 0) + np.where(RIGHT, 0 if crowd else 2, 0)
    return labeled(semantic, numbers.astype(np.int32))


def test_what_lies_on_a_crowd_is_neither_right_nor_wrong():
    # In a crowd any number of boxes is excused; outside, a box of a higher score halves the precision.
    parts = [area(SIZE, 10, 55, 60, 70), area(SIZE, 10, 70, 60, 90), LEFT]
    semantic = scene().semantic
    found = answer(semantic, parts, [DOG] * 3, [0.9, 0.8, 0.7])
    assert measured([(scene(crowd=True), found)]).scores().mask.ap == 1
    elsewhere = [area(SIZE, 60, 10, 80, 40), LEFT]
    found = answer(semantic, elsewhere, [DOG] * 2, [0.9, 0.7])
    assert measured([(scene(crowd=True), found)]).scores().mask.ap == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("crowds", "precision"),
    [(None, 0.5), ((1, 1), 1), ((1, 2), 0.5)],
    ids=["specks", "one crowd", "two crowds"],
)
def test_specks_in_two_corners_excuse_no_box_between_them(crowds, precision):
    semantic = np.full(SIZE, WALL, np.uint8)
    first, second = area(SIZE, 0, 0, 2, 2), area(SIZE, 78, 98, 80, 100)
    semantic[LEFT | first | second] = DOG
    sample = labeled(semantic, LEFT.astype(np.int32))
    if crowds:
        sample = replace(sample, crowd=(first * crowds[0] + second * crowds[1]).astype(np.uint16))
    found = answer(semantic, [area(SIZE, 62, 20, 78, 60), LEFT], [DOG] * 2, [0.9, 0.7])
    scores = measured([(sample, found)]).scores()
    assert scores.box.ap == pytest.approx(precision)  # an annotated crowd is one box, as in COCO
    assert scores.mask.ap == pytest.approx(0.5)


def test_a_missed_object_halves_the_recall():
    found = answer(scene().semantic, [LEFT], [DOG], [0.9])
    scores = measured([(scene(), found)]).scores()
    assert scores.mask.ap == scores.box.ap == pytest.approx(51 / 101)  # recall 0.00 to 0.50 of 0.00 to 1.00
    assert scores.mask.curve50[:51].tolist() == [1] * 51
    assert scores.mask.curve50[51:].tolist() == [0] * 50


def test_box_and_mask_are_scored_apart():
    hollow = LEFT & ~area(SIZE, 15, 15, 55, 40)  # the right box, a third of the mask
    found = answer(scene(crowd=True).semantic, [hollow], [DOG], [0.9])
    scores = measured([(scene(crowd=True), found)]).scores()
    assert scores.box.ap == 1
    assert scores.mask.ap == 0


def test_classes_and_sizes_that_do_not_occur_have_no_figure():
    found = answer(scene().semantic, [LEFT, RIGHT], [DOG, DOG], [0.9, 0.8])
    scores = measured([(scene(), found)]).scores()
    data = scores.to_dict()
    assert data["mask"]["per_class"] == {"cat": None, "dog": 1}
    assert (data["mask"]["small"], data["mask"]["medium"], data["mask"]["large"]) == (None, 1, None)
    assert scores.mask.ap == 1


def test_an_answer_of_a_stuff_class_is_left_out():
    found = answer(scene().semantic, [LEFT, RIGHT], [FLOOR, DOG], [0.9, 0.8])
    assert measured([(scene(), found)]).scores().mask.ap == pytest.approx(51 / 101)


@pytest.mark.parametrize("things", [CLASSES.things, ()])
def test_without_images_or_things_there_is_no_figure(things):
    classes = ClassTable(CLASSES.names, things, CLASSES.palette)
    measure = InstanceMetric(classes)
    if not things:
        measure.add(scene(), answer(scene().semantic, classes=classes))
    data = measure.scores().to_dict()
    assert data["box"]["ap"] is None
    assert data["mask"]["per_class"] == {CLASSES.names[t]: None for t in things}


def test_images_without_any_detection_score_zero():
    assert measured([(scene(), answer(scene().semantic))]).scores().mask.ap == 0


def test_scoring_twice_gives_the_same_and_leaves_the_notes_alone():
    measure = measured(cases(4))
    before = copy.deepcopy((measure._annotations, measure._detections))
    first, second = measure.scores().to_dict(), measure.scores().to_dict()
    assert first == second
    assert before == (measure._annotations, measure._detections)


def test_scores_come_back_from_json_as_they_were():
    data = measured(cases(5)).scores().to_dict()
    again = InstanceScores.from_dict(json.loads(json.dumps(data)), CLASSES)
    assert again.to_dict() == data
    assert isinstance(again.mask, AveragePrecision)


def test_a_missing_package_is_named_before_hours_of_predicting(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(DependencyMissing, match=r"imp-trt\[eval\]"):
        InstanceMetric(CLASSES)

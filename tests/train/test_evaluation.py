# SPDX-License-Identifier: Apache-2.0
"""Scoring a predictor on a dataset by every measure at once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.train.evaluation import METRICS, Evaluation, evaluate, possible_metrics
from tests.support.pictures import CAT, CLASSES, DOG, FLOOR, Pets, answer
from tests.support.tiny import manifest

PETS = Pets(5)


def perfect(frame: Any, **timing: float) -> Any:
    sample = PETS[int(frame[0, 0, 0])]
    masks = [sample.instances == number for number in (1, 2)]
    return answer(sample.semantic, masks, [CAT, DOG], [0.9, 0.8], timing=timing)


def test_a_perfect_predictor_scores_one_in_every_measure():
    pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval")
    seen: list[int] = []
    done = evaluate(perfect, PETS, METRICS, on_image=seen.append)
    assert (done.data, done.classes, done.images) == ("pets", CLASSES, 5)
    assert done.semantic.mean_iou == done.semantic.mean_accuracy == 1
    assert [band.mean_iou for band in done.boundary.bands] == [1] * 6
    assert done.boundary.mean_iou == 1
    assert done.instances.box.ap == done.instances.mask.ap == 1
    assert done.panoptic.all.pq == 1
    assert seen == [1, 2, 3, 4, 5]


def test_the_class_map_alone_is_scored_by_default():
    done = evaluate(perfect, PETS, limit=2)
    assert (done.images, done.semantic.mean_iou) == (2, 1)
    assert done.boundary is done.instances is done.panoptic is None
    assert done.milliseconds == {}
    assert [done.to_dict()[name] for name in METRICS[1:]] == [None] * 3


@pytest.mark.parametrize("name", ["boundary", "panoptic"])
def test_one_measure_by_name(name):
    done = evaluate(perfect, PETS, (name,), limit=1)
    assert {n for n in METRICS if getattr(done, n) is not None} == {"semantic", name}


def test_a_wrong_predictor_scores_less():
    def all_floor(frame: Any) -> Any:
        return answer(np.full(PETS.size, FLOOR, np.uint8))

    done = evaluate(all_floor, PETS, ("boundary", "panoptic"))
    assert done.semantic.thing_iou == 0
    assert done.semantic.mean_iou == pytest.approx(done.semantic.iou[FLOOR] / 4)
    assert done.panoptic.things.pq == 0
    assert done.boundary.mean_iou < 0.3


def test_times_of_the_first_calls_are_left_out():
    count = iter(range(5))

    def timed(frame: Any) -> Any:
        k = next(count)
        return perfect(frame, total=1000 - 300 * k, infer=7)

    times = evaluate(timed, PETS).milliseconds
    assert times["infer"] == {"p50": 7, "p90": 7, "mean": 7}
    assert times["total"] == {"p50": -50, "p90": pytest.approx(70), "mean": -50}


def test_one_image_has_a_time():
    times = evaluate(lambda frame: perfect(frame, total=3), PETS, limit=1).milliseconds
    assert times == {"total": {"p50": 3, "p90": 3, "mean": 3}}


def test_an_evaluation_comes_back_from_json_as_it_was():
    pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval")
    for measures in (METRICS, ()):
        done = evaluate(lambda frame: perfect(frame, total=3, infer=2), PETS, measures)
        text = json.dumps(done.to_dict(), allow_nan=False)
        again = Evaluation.from_dict(json.loads(text))
        assert again.to_dict() == done.to_dict()
        assert again.classes == CLASSES
        assert again.semantic.mean_iou == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("semantic"),
        lambda d: d["semantic"]["iou"].pop("dog"),
        lambda d: d.update(boundary=[1]),
        lambda d: d.update(images="many"),
        lambda d: d.update(milliseconds=3),
        lambda d: d["classes"].pop("things"),
    ],
)
def test_a_corrupt_evaluation_is_rejected(spoil):
    data = evaluate(perfect, PETS, limit=1).to_dict()
    spoil(data)
    with pytest.raises(InvalidInput):
        Evaluation.from_dict(data)


def test_unknown_measures_are_rejected():
    with pytest.raises(InvalidInput, match="sharpness"):
        evaluate(perfect, PETS, ("semantic", "sharpness"))


def test_a_predictor_of_other_classes_is_rejected():
    other = ClassTable(("x", "wall", "dog", "floor"), CLASSES.things, CLASSES.palette)
    with pytest.raises(InvalidInput, match="classes of the predictor"):
        evaluate(lambda frame: replace(perfect(frame), classes=other), PETS)
    # Scored as stuff, a class of things has other segments: nothing it names would be comparable.
    other = ClassTable(CLASSES.names, (CAT,), CLASSES.palette)
    with pytest.raises(InvalidInput, match=rf"things \[{CAT}\]"):
        evaluate(lambda frame: replace(answer(np.full(PETS.size, FLOOR, np.uint8)), classes=other), PETS)


def test_without_images_there_are_no_scores():
    done = evaluate(perfect, PETS, ("boundary", "panoptic"), limit=0)
    assert done.images == 0
    assert done.to_dict()["semantic"]["mean_iou"] is None
    assert done.to_dict()["panoptic"]["all"]["pq"] is None


def test_a_network_without_a_detector_has_no_instances_to_measure():
    whole = manifest()
    assert possible_metrics(whole) == METRICS
    assert possible_metrics(_without_detector(whole)) == ("semantic", "boundary")


def _without_detector(whole: Any) -> Any:
    from imp_trt.artifacts.manifest import output_specs

    return replace(whole, detections=0, outputs=output_specs(whole.input, 0, whole.mask_size))

# SPDX-License-Identifier: Apache-2.0
"""Track ids over the frames of exact synthetic motion."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from imp_trt.errors import DependencyMissing, InvalidInput
from imp_trt.results import Instances, SegmentationResult
from imp_trt.video import Tracker
from tests.support import tiny
from tests.support.moving import CAR, PERSON, SquareBackend, picture, segmenter_of

pytest.importorskip("trackers", reason="needs the package trackers: pip install 'imp-trt[track]'")

SIZE = (120, 200)


def seen(*boxes: tuple[float, float, float, float], scores: tuple[float, ...] = ()) -> SegmentationResult:
    """A result with cars in these boxes, in this order."""
    found = Instances(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(len(boxes), 2, np.int32),
        np.array(scores or np.linspace(0.9, 0.8, len(boxes)), np.float32),
        np.ones((len(boxes), 2, 2), np.float32),
        SIZE,
    )
    return SegmentationResult(np.zeros(SIZE, np.uint8), found, tiny.CLASSES, {"total": 2.0})


def box(x: float, y: float = 40) -> tuple[float, float, float, float]:
    return (x, y, x + 30, y + 20)


def ids(result: SegmentationResult) -> list[int]:
    assert result.instances.track_ids is not None
    return [int(i) for i in result.instances.track_ids]


def test_two_objects_keep_their_ids_whatever_their_order() -> None:
    tracker = Tracker(25)
    assert ids(tracker.update(seen(box(10), box(100)))) == [-1, -1], "an id comes with the second sight"
    left, right = ids(tracker.update(seen(box(12), box(98))))
    assert {left, right} == {0, 1}
    for step in range(2, 12):
        boxes = (box(10 + 2 * step), box(100 - 2 * step))
        swapped = bool(step % 2)
        result = tracker.update(seen(*(boxes[::-1] if swapped else boxes)))
        assert ids(result) == ([right, left] if swapped else [left, right])
        # In the order of the scores, as they came.
        assert result.instances.boxes.tolist() == [list(b) for b in (boxes[::-1] if swapped else boxes)]


def test_the_result_is_otherwise_the_same() -> None:
    result = seen(box(10))
    tracked = Tracker().update(result)
    assert result.instances.track_ids is None
    assert tracked.semantic is result.semantic
    assert tracked.timing == result.timing
    assert tracked.instances.scores is result.instances.scores


def test_a_lost_object_keeps_its_id_for_a_while() -> None:
    def after(gap: int) -> int:
        tracker = Tracker(10, lost_s=1.0)
        for _ in range(3):
            tracker.update(seen(box(50)))
        for _ in range(gap):
            assert ids(tracker.update(seen())) == []
        tracker.update(seen(box(50)))
        (found,) = ids(tracker.update(seen(box(50))))
        return found

    assert after(8) == 0
    assert after(14) == 1, "another object"


def test_time_counts_not_frames() -> None:
    def after(gap_s: float) -> int:
        tracker = Tracker(10, lost_s=1.0)
        for i in range(3):
            tracker.update(seen(box(50)), i / 10)
        tracker.update(seen(), 0.3 + gap_s)
        tracker.update(seen(box(50)), 0.35 + gap_s)
        (found,) = ids(tracker.update(seen(box(50)), 0.4 + gap_s))
        return found

    assert after(0.5) == 0
    assert after(3.0) == 1


def test_low_scores_continue_tracks_and_start_none() -> None:
    tracker = Tracker(activation_score=0.5)
    for _ in range(3):
        assert ids(tracker.update(seen(box(10), scores=(0.4,)))) == [-1]
    for _ in range(2):
        result = tracker.update(seen(box(10), scores=(0.8,)))
    assert ids(result) == [0]
    assert ids(tracker.update(seen(box(11), scores=(0.3,)))) == [0]


def test_ids_are_not_used_again_after_a_reset_or_another_size() -> None:
    tracker = Tracker()
    for _ in range(2):
        first = tracker.update(seen(box(10), box(100)))
    tracker.reset()
    for _ in range(2):
        second = tracker.update(seen(box(10), box(100)))
    assert set(ids(first)) == {0, 1}
    assert set(ids(second)) == {2, 3}
    small = SegmentationResult(
        np.zeros((60, 100), np.uint8),
        Instances(
            np.array([box(10)], np.float32), np.full(1, 2, np.int32), np.full(1, 0.9, np.float32),
            np.ones((1, 2, 2), np.float32), (60, 100),
        ),
        tiny.CLASSES,
    )  # fmt: skip
    assert ids(tracker.update(small)) == [-1]
    assert ids(tracker.update(small)) == [4]


def test_time_that_runs_backward_starts_anew() -> None:
    tracker = Tracker()
    for time_s in (5.0, 5.1):
        tracker.update(seen(box(10)), time_s)
    for time_s in (0.0, 0.1):
        result = tracker.update(seen(box(10)), time_s)
    assert ids(result) == [1]
    assert ids(tracker.update(seen(box(10)), 0.1)) == [1], "a frame shown twice"


def test_nothing_at_all() -> None:
    tracker = Tracker()
    for _ in range(3):
        assert ids(tracker.update(seen())) == []


@pytest.mark.parametrize(
    "values",
    [{"frame_rate": 0}, {"frame_rate": float("nan")}, {"activation_score": 1.1}, {"lost_s": -1.0}],
)
def test_impossible_arguments(values: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(values))):
        Tracker(**values)  # type: ignore[arg-type]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(DependencyMissing, match=r"imp-trt\[track\]"):
        Tracker()


def test_ids_reach_every_form_of_the_result() -> None:
    tracker = Tracker()
    tracker.update(seen(box(10)))
    result = tracker.update(seen(box(10), box(150), scores=(0.9, 0.4)))
    one, other = result.to_dict()["instances"]
    assert one["track_id"] == 0
    assert other["track_id"] is None
    assert json.loads(result.to_json())["instances"][0]["track_id"] == 0
    assert "track_id" not in seen(box(10)).to_dict()["instances"][0]
    detections = result.to_supervision()
    assert detections.tracker_id is not None
    assert detections.tracker_id.tolist() == [0, -1]
    assert ids(SegmentationResult(result.semantic, result.instances[::-1], result.classes)) == [-1, 0]
    frame = np.full((*SIZE, 3), 90, np.uint8)
    assert not np.array_equal(result.plot(frame), seen(box(10), box(150), scores=(0.9, 0.4)).plot(frame))


def test_a_tracked_object_keeps_its_color_when_it_is_overtaken() -> None:
    tracker = Tracker()
    frame = np.full((*SIZE, 3), 90, np.uint8)
    colors = []
    for step in range(3):
        # The second car passes the first one below it.
        result = tracker.update(seen(box(60, 20), box(40 + 20 * step, 70)))
        colors.append(result.plot(frame, labels=False)[90 - 10, 55 + 20 * step].tolist())
    assert ids(result) == [0, 1] or ids(result) == [1, 0]
    assert colors[1] == colors[2]


class TestCarried:
    """Results of Segmenter.stream with detect_every."""

    def test_ids_last_as_long_as_the_objects_are_carried(self) -> None:
        squares = [(20.0, 10.0, 40, CAR), (110.0, 70.0, 40, PERSON)]
        frames = [
            picture([(x + 2 * i, y, side, label) for x, y, side, label in squares], shift=2 * i)
            for i in range(12)
        ]
        tracker = Tracker(25)
        seen = []
        for result in segmenter_of(SquareBackend()).stream(frames, detect_every=4):
            tracked = tracker.update(result)
            found = tracked.instances
            assert found.ages is result.instances.ages
            seen.append(dict(zip(found.labels.tolist(), ids(tracked), strict=True)))
        assert seen[0] == {CAR: -1, PERSON: -1}
        assert set(seen[1].values()) == {0, 1}, "a carried frame is a second sight"
        assert seen[1:] == [seen[1]] * 11

    def test_the_flow_knows_better_where_objects_cross(self) -> None:
        tracker = Tracker(25)
        tracker.update(carried([box(50), box(120)], [7, 8]))
        first = ids(tracker.update(carried([box(50), box(120)], [7, 8])))
        # The boxes swap places: the tracker cannot know.
        assert ids(tracker.update(carried([box(120), box(50)], [7, 8]))) == first
        assert ids(tracker.update(carried([box(120), box(50)], [7, 8]))) == first
        # One is lost to the flow and found again by the tracker, whose id it shows as before.
        assert ids(tracker.update(carried([box(120), box(50)], [9, 8]))) == first

    def test_no_two_objects_have_one_id(self) -> None:
        generator = np.random.default_rng(0)
        tracker = Tracker(25)
        for _ in range(60):
            count = int(generator.integers(0, 6))
            boxes = [box(float(x), float(y)) for x, y in generator.uniform(0, 90, (count, 2))]
            own = generator.choice(8, count, replace=False).tolist()
            given = [i for i in ids(tracker.update(carried(boxes, own))) if i >= 0]
            assert len(given) == len(set(given))

    def test_low_scores_and_missing_ids(self) -> None:
        tracker = Tracker(25)
        weak = carried([box(10)], [3], scores=(0.2,))
        assert ids(tracker.update(weak)) == [-1]
        assert ids(tracker.update(carried([], []))) == []
        assert ids(tracker.update(weak)) == [-1]


def carried(
    boxes: list[tuple[float, float, float, float]], own: list[int], scores: tuple[float, ...] = ()
) -> SegmentationResult:
    """A result whose instances carry these ids."""
    result = seen(*boxes, scores=scores)
    found = replace(
        result.instances,
        track_ids=np.array(own, np.int32),
        ages=np.ones(len(own), np.int32),
    )
    return replace(result, instances=found)

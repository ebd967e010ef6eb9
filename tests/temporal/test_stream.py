# SPDX-License-Identifier: Apache-2.0
"""Streams with the detector on some frames; the motion is exact, the clock simulated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt import SegmentationResult, TemporalOptions, TemporalState
from imp_trt.errors import InvalidInput
from imp_trt.temporal.options import Carry
from imp_trt.video.sources.frame import Frame
from tests.support import moving
from tests.support.moving import CAR, PERSON, Clock, Square, SquareBackend, picture, segmenter_of

Image = NDArray[np.uint8]


@dataclass
class Run:
    """The results of a stream, and what was called."""

    results: list[SegmentationResult]
    backend: SquareBackend
    state: TemporalState

    @property
    def detected(self) -> list[int]:
        """Frames with the detector."""
        return [i for i, result in enumerate(self.results) if result.canvas_age == 0]


def run(
    frames: Iterable[object], options: TemporalOptions, times: Sequence[float] | None = None, batch: int = 1
) -> Run:
    clock = Clock()
    backend = SquareBackend(clock, batch)
    state = TemporalState(options, clock)
    items: list[object] = list(frames)
    if times is not None:
        items = [Frame(f, i, str(i), t) for i, (f, t) in enumerate(zip(items, times, strict=True))]  # type: ignore[arg-type]
    results = list(segmenter_of(backend).stream(items, state=state))
    return Run(results, backend, state)


def drive(count: int, speed: float = 3, squares: Sequence[Square] = ((20, 40, 48, CAR),)) -> list[Image]:
    """A camera that pans: background and squares move together."""
    return [
        picture([(x + speed * i, y, side, label) for x, y, side, label in squares], shift=round(speed * i))
        for i in range(count)
    ]


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.mark.parametrize("every", [1, 2, 4])
def test_the_detector_runs_on_every_kth_frame(every: int) -> None:
    done = run(drive(12), TemporalOptions(every))
    assert done.backend.calls == ["whole" if i % every == 0 else "canvas" for i in range(12)]
    for i, result in enumerate(done.results):
        assert result.canvas_age == i % every
        assert result.instances.ages is not None
        assert set(result.instances.ages) == {i % every}
        assert result.timing["infer"] == pytest.approx(100 if i % every == 0 else 40)
        assert set(result.timing) == {"pre", "carry", "infer", "post", "total"}
        assert result.frame is not None
    assert done.state.resets == 0


def test_canvas_boxes_and_masks_follow_the_motion() -> None:
    done = run(drive(8), TemporalOptions(8))
    for i, result in enumerate(done.results):
        truth = np.zeros((moving.HEIGHT, moving.WIDTH), np.bool_)
        truth[40:88, 20 + 3 * i : 68 + 3 * i] = True
        (box,) = result.instances.boxes
        assert box_iou(box.tolist(), (20 + 3 * i, 40, 68 + 3 * i, 88)) > 0.85, i
        for seen in (result.semantic == CAR, result.instances.paste()[0]):
            assert (seen & truth).sum() / (seen | truth).sum() > 0.75, i  # a canvas of 4 pixels


def test_without_flow_everything_stays() -> None:
    done = run(drive(8, speed=2), TemporalOptions(8, carry="none", cut_change=math.inf))
    first, last = done.results[0], done.results[-1]
    np.testing.assert_array_equal(last.instances.boxes, first.instances.boxes)
    np.testing.assert_array_equal(last.semantic[40:88], done.results[1].semantic[40:88])


def test_one_object_keeps_its_id_and_others_get_their_own() -> None:
    squares: list[Square] = [(20, 10, 44, CAR), (60, 70, 40, PERSON)]
    frames = drive(6, 3, squares)
    frames += [picture([(38, 10, 44, CAR), (78, 70, 40, PERSON), (130, 20, 40, CAR)], shift=18)]
    frames += [picture([(38, 10, 44, CAR), (130, 20, 40, CAR)], shift=18)] * 2
    done = run(frames, TemporalOptions(3, cut_change=math.inf))
    seen = []
    for result in done.results:
        assert result.instances.track_ids is not None
        seen.append(
            dict(zip(result.instances.track_ids.tolist(), result.instances.labels.tolist(), strict=True))
        )
    assert seen[:6] == [{0: CAR, 1: PERSON}] * 6
    assert seen[6] == {0: CAR, 1: PERSON, 2: CAR}, "the new one is found by the detector"


def test_an_object_that_enters_is_found_with_the_next_detection() -> None:
    still = picture([(20, 40, 48, CAR)])
    frames = [still, *[picture([(20, 40, 48, CAR), (120, 20, 30, PERSON)])] * 8]
    done = run(frames, TemporalOptions(4, cut_change=math.inf))
    assert [len(result.instances) for result in done.results] == [1, 1, 1, 1, 2, 2, 2, 2, 2]


def test_an_object_that_is_gone_is_no_older_than_the_interval() -> None:
    frames = [picture([(20, 40, 48, CAR)]), *[picture()] * 8]
    done = run(frames, TemporalOptions(4, cut_change=math.inf))
    assert [len(result.instances) for result in done.results] == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert all(not result.semantic.any() for result in done.results[4:])


class TestReset:
    """The state forgets by itself."""

    def test_at_a_cut(self) -> None:
        frames = [*drive(3), *[picture([(100, 60, 40, PERSON)], scene=7)] * 3]
        done = run(frames, TemporalOptions(8))
        assert done.detected == [0, 3]
        assert (done.state.resets, done.state.reset_reason) == (1, "cut")
        assert done.results[3].instances.labels.tolist() == [PERSON]
        assert not (done.results[5].semantic == CAR).any()
        ids = done.results[3].instances.track_ids
        assert ids is not None
        assert ids.tolist() == [1], "ids are not used again"

    def test_where_the_size_changes(self) -> None:
        sizes = [(128, 192), (128, 192), (64, 96), (100, 120), (128, 192)]
        frames = [picture([(10, 10, 40, CAR)], size=size) for size in sizes]
        done = run(frames, TemporalOptions(8))
        assert done.detected == [0, 2, 3, 4]
        assert [result.size for result in done.results] == sizes

    def test_at_a_gap_and_where_time_runs_backward(self) -> None:
        frames = drive(1) * 7
        done = run(frames, TemporalOptions(20), [0, 0.04, 0.9, 1.95, 2.0, 1.5, 1.54])
        assert done.detected == [0, 3, 5]
        assert done.state.reset_reason == "gap"

    def test_by_hand(self) -> None:
        state = TemporalState(TemporalOptions(8))
        backend = SquareBackend()
        ages = []
        for i, result in enumerate(segmenter_of(backend).stream(drive(5), state=state)):
            ages.append(result.canvas_age)
            assert state.age == result.canvas_age
            if i == 2:
                state.reset()
                assert state.age is None
        assert ages == [0, 1, 2, 0, 1]
        assert state.resets == 0


class TestBadInput:
    """No crash, and nothing older than the stated age."""

    def test_black_frames(self) -> None:
        black = np.zeros((moving.HEIGHT, moving.WIDTH, 3), np.uint8)
        done = run([*drive(2), black, black, *drive(2)], TemporalOptions(20))
        assert done.detected == [0, 2, 4]
        assert [len(result.instances) for result in done.results] == [1, 1, 0, 0, 1, 1]

    def test_a_fade_to_black_is_bounded_by_the_age(self) -> None:
        fade = [(drive(1)[0] * (1 - i / 20)).astype(np.uint8) for i in range(21)]
        done = run([*fade, *[fade[-1]] * 10], TemporalOptions(7))
        assert max(result.canvas_age or 0 for result in done.results) == 6
        assert len(done.results[-1].instances) == 0

    def test_duplicated_frames_are_carried(self) -> None:
        frames = [f for f in drive(4) for _ in range(2)]
        done = run(frames, TemporalOptions(8), [i // 2 * 0.04 for i in range(8)])
        assert done.detected == [0]
        assert box_iou(done.results[-1].instances.boxes[0].tolist(), (29, 40, 77, 88)) > 0.85

    def test_reordered_frames(self) -> None:
        frames = drive(8)
        order = [0, 1, 3, 2, 4, 6, 5, 7]
        done = run([frames[i] for i in order], TemporalOptions(20), [i * 0.04 for i in order])
        for i, result in zip(order, done.results, strict=True):
            assert box_iou(result.instances.boxes[0].tolist(), (20 + 3 * i, 40, 68 + 3 * i, 88)) > 0.7

    def test_a_stuttering_camera(self) -> None:
        frames = drive(20)
        shown = [0, 1, 1, 1, 4, 5, 5, 8, 9, 9, 9, 9, 14, 15]
        done = run([frames[i] for i in shown], TemporalOptions(6), [0.04 * i for i in shown])
        for i, result in zip(shown, done.results, strict=True):
            assert (result.canvas_age or 0) < 6
            for box in result.instances.boxes.tolist():
                assert box_iou(box, (20 + 3 * i, 40, 68 + 3 * i, 88)) > 0.6, i

    def test_stills_of_any_size(self) -> None:
        generator = np.random.default_rng(0)
        sizes = [(1, 1), (1, 1), (3, 500), (500, 3), (128, 192), (128, 192), (17, 31)]
        frames = [generator.integers(0, 200, (*size, 3)).astype(np.uint8) for size in sizes]
        done = run(frames, TemporalOptions(4))
        assert [result.size for result in done.results] == sizes
        assert done.detected[:1] == [0]

    def test_a_bad_frame_leaves_the_state_as_it_was(self) -> None:
        state, segmenter = TemporalState(TemporalOptions(4)), segmenter_of(SquareBackend())
        frames = drive(3)
        segmenter.run_next(frames[0], state)
        for bad in (None, np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
            with pytest.raises(InvalidInput):
                segmenter.run_next(bad, state)
        assert segmenter.run_next(frames[1], state).canvas_age == 1

    def test_objects_that_leave_the_frame_leave_the_result(self) -> None:
        frames = [picture([(150 + 12 * i, 40, 40, CAR)], shift=12 * i) for i in range(6)]
        done = run(frames, TemporalOptions(6))
        assert done.detected == [0]
        assert len(done.results[-1].instances) == 0
        for result in done.results:
            assert (result.instances.boxes[:, 2] <= moving.WIDTH).all()


def test_frames_are_not_changed_and_do_not_alias() -> None:
    frames = drive(4)
    copies = [f.copy() for f in frames]
    done = run(frames, TemporalOptions(4))
    assert all(np.array_equal(a, b) for a, b in zip(frames, copies, strict=True))
    boxes = [result.instances.boxes.copy() for result in done.results]
    masks = [result.semantic.copy() for result in done.results]
    for result in done.results:
        result.semantic[...] = 1
        result.instances.boxes[...] = -1
    again = run(frames, TemporalOptions(4))
    for i, result in enumerate(again.results):
        np.testing.assert_array_equal(result.instances.boxes, boxes[i])
        np.testing.assert_array_equal(result.semantic, masks[i])


def test_results_that_are_changed_do_not_change_later_ones() -> None:
    state, segmenter = TemporalState(TemporalOptions(4)), segmenter_of(SquareBackend())
    plain = run(drive(3), TemporalOptions(4)).results
    for frame, expected in zip(drive(3), plain, strict=True):
        result = segmenter.run_next(frame, state)
        np.testing.assert_array_equal(result.instances.boxes, expected.instances.boxes)
        for array in (
            result.instances.boxes,
            result.instances.masks,
            result.instances.scores,
            result.semantic,
        ):
            array[...] = 0


@pytest.mark.parametrize("option", [{"detect_every": 2}, {"blend": 0.5}, {"carry": "none"}])
def test_a_state_has_its_own_options(option: dict[str, Any]) -> None:
    segmenter = segmenter_of(SquareBackend(Clock()))
    with pytest.raises(InvalidInput, match="own options"):
        next(segmenter.stream(drive(1), state=TemporalState(TemporalOptions(2)), **option))


def test_what_carries_needs_something_to_carry() -> None:
    with pytest.raises(InvalidInput, match="detect_every or detect_budget_ms with it"):
        next(segmenter_of(SquareBackend(Clock())).stream(drive(1), carry="none"))


def test_blending_runs_the_head_on_both_canvases() -> None:
    gone = [picture([(20, 40, 48, CAR)]), *[picture()] * 6]
    done = run(gone, TemporalOptions(1, blend=0.5, cut_change=math.inf))
    assert done.backend.calls == ["whole", *["whole", "canvas"] * 6]
    assert (done.results[1].semantic == CAR).any(), "half of the canvas is left, above the backend's 0.3"
    assert not (done.results[3].semantic == CAR).any(), "an eighth is left"
    assert all(len(result.instances) == 0 for result in done.results[1:])


def test_a_deadline_skips_the_detector() -> None:
    state, segmenter = TemporalState(TemporalOptions(max_age=3), clock := Clock()), None
    segmenter = segmenter_of(SquareBackend(clock))
    frames = drive(9, speed=1)
    ages = [segmenter.run_next(f, state).canvas_age for f in frames[:2]]
    ages += [segmenter.run_next(f, state, slack_ms=60).canvas_age for f in frames[2:7]]
    ages += [segmenter.run_next(f, state, slack_ms=150).canvas_age for f in frames[7:]]
    assert ages == [0, 0, 1, 2, 3, 0, 1, 0, 0]


def test_a_budget_of_time() -> None:
    done = run(drive(40, speed=1), TemporalOptions(detect_budget_ms=60))
    total = sum(result.timing["total"] for result in done.results[1:])
    assert total / 39 <= 61.5
    assert len(done.detected) > 10


def test_networks_with_a_batch_run_one_frame_at_a_time() -> None:
    done = run(drive(4), TemporalOptions(2), batch=3)
    one = run(drive(4), TemporalOptions(2))
    for a, b in zip(done.results, one.results, strict=True):
        np.testing.assert_array_equal(a.semantic, b.semantic)
        np.testing.assert_array_equal(a.instances.boxes, b.instances.boxes)


def test_letterboxed_frames_are_carried_in_their_own_pixels() -> None:
    large = [np.ascontiguousarray(f[:96].repeat(2, 0).repeat(2, 1)) for f in drive(4)]
    done = run(large, TemporalOptions(4))
    for i, result in enumerate(done.results):
        assert result.size == (192, 384)
        box = result.instances.boxes[0].tolist()
        assert box_iou(box, (2 * (20 + 3 * i), 80, 2 * (68 + 3 * i), 176)) > 0.8


def test_rgb_frames() -> None:
    frames = [np.ascontiguousarray(f[..., ::-1]) for f in drive(3)]
    state, segmenter = TemporalState(TemporalOptions(3)), segmenter_of(SquareBackend())
    rgb = [segmenter.run_next(f, state, color="rgb") for f in frames]
    for a, b in zip(rgb, run(drive(3), TemporalOptions(3)).results, strict=True):
        np.testing.assert_array_equal(a.instances.boxes, b.instances.boxes)
        assert a.frame is None


def test_options_of_stream() -> None:
    def calls(**options: object) -> list[str]:
        backend = SquareBackend()
        list(segmenter_of(backend).stream(drive(4), **options))  # type: ignore[arg-type]
        return backend.calls

    assert calls() == ["whole"] * 4
    assert calls(detect_every=2, carry="none") == ["whole", "canvas"] * 2
    assert calls(detect_every=1) == ["whole"] * 4
    assert calls(blend=0.5)[:3] == ["whole", "whole", "canvas"]
    assert calls(detect_budget_ms=1e9) == ["whole"] * 4
    carry: Carry = "none"
    with pytest.raises(InvalidInput, match="state"):
        next(
            segmenter_of(SquareBackend()).stream(drive(1), detect_every=2, carry=carry, state=TemporalState())
        )
    with pytest.raises(InvalidInput, match="detect_every"):
        next(segmenter_of(SquareBackend()).stream(drive(1), detect_every=0))


def test_data_for_json_has_ages_and_ids() -> None:
    done = run(drive(3), TemporalOptions(3))
    data = done.results[2].to_dict()
    assert data["canvas_age"] == 2
    assert data["instances"][0]["age"] == 2
    assert data["instances"][0]["track_id"] == 0
    plain = next(segmenter_of(SquareBackend()).stream(drive(1))).to_dict()
    assert "canvas_age" not in plain
    assert "age" not in plain["instances"][0]

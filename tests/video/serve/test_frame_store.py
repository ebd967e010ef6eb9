# SPDX-License-Identifier: Apache-2.0
"""The store of the newest frames: waiting, samples and bounded memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError  # before Python 3.11 a class of its own
from threading import Event

import pytest

from imp_trt.video.serve.frame_store import MAX_HELD, MAX_SAMPLES, FrameStore
from tests.video.serve.made import result, segmented


def test_new_frame_replaces_the_last_of_its_source() -> None:
    frames = FrameStore()
    assert frames.newest("") is None
    assert frames.sources() == []
    for i, source in enumerate(["front", "rear", "front"]):
        frames.put(segmented(i, source))
    assert frames.sources() == ["front", "rear"]
    newest = {name: frames.newest(name) for name in ("front", "rear", "", "gone")}
    assert {name: shown and shown.sequence for name, shown in newest.items()} == {
        "front": 3,
        "rear": 2,
        "": 3,
        "gone": 3,
    }


def test_only_newer_frames_are_returned() -> None:
    frames = FrameStore()
    frames.put(segmented())
    shown = frames.newer(0, "", 0.0)
    assert shown is not None
    assert frames.newer(shown.sequence, "", 0.0) is None


def test_waiting_viewers_are_woken_by_frames_of_their_source_only() -> None:
    frames, asking = FrameStore(), Event()
    frames.put(segmented(0, "front"))
    frames.put(segmented(1, "rear"))

    def ask() -> int:
        asking.set()
        shown = frames.newer(1, "front", 10.0)
        return 0 if shown is None else shown.sequence

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask)
        assert asking.wait(5)
        frames.put(segmented(2, "rear"))
        with pytest.raises(FutureTimeoutError):
            waiting.result(0.05)
        frames.put(segmented(3, "front"))
        assert waiting.result(5) == 4


def test_end_wakes_all_waiting_viewers() -> None:
    frames = FrameStore()
    frames.put(segmented())
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(frames.newer, 1, "", 10.0) for _ in range(3)]
        frames.end("ended")
        assert [future.result(5) for future in waiting] == [None] * 3
    assert frames.run == "ended"
    # The last frame is still available for viewers that have not received it.
    assert frames.newer(0, "", 10.0) is not None


def test_samples_contain_the_timing_of_each_frame() -> None:
    times = iter([10.0, 10.5, 11.0, 12.0])
    frames = FrameStore(lambda: next(times))
    frames.put(segmented(age_s=0.05))
    frames.put(segmented(1, "rear", age_s=None, captured_s=None, result=result({"total": 7.0})))
    frames.put(segmented(2, age_s=None, captured_s=11.75))
    assert frames.samples(0) == [
        (1, 0.5, "", 30.0, 40.0, 50.0),
        (2, 1.0, "rear", None, 7.0, None),
        (3, 2.0, "", 30.0, 40.0, 250.0),
    ]
    assert [sample.sequence for sample in frames.samples(2)] == [3]


def test_memory_is_bounded() -> None:
    frames, item = FrameStore(), segmented()
    for _ in range(MAX_SAMPLES + 5):
        frames.put(item)
    assert len(frames.samples(0)) == MAX_SAMPLES
    newest = []
    for i in range(MAX_HELD + 1):
        frames.put(segmented(i))
        shown = frames.newest("")
        assert shown is not None
        frames.hold(shown)
        newest.append(shown.sequence)
        assert frames.held(newest[0]) is not None  # the most recently requested one is kept
        if i == MAX_HELD - 1:
            assert frames.held(newest[1]) is not None
            assert frames.held(newest[0]) is not None
    gone = [sequence for sequence in newest if frames.held(sequence) is None]
    assert len(gone) == 1
    assert newest[0] not in gone

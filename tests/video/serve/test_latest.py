"""The newest picture, and those who wait for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from imp_trt.video.serve.latest import MAX_HELD, MAX_SAMPLES, Latest
from tests.video.serve.made import result, segmented


def test_a_new_picture_replaces_the_last_of_its_source() -> None:
    latest = Latest()
    assert latest.newest("") is None
    assert latest.sources() == []
    for i, source in enumerate(["front", "rear", "front"]):
        latest.put(segmented(i, source))
    assert latest.sources() == ["front", "rear"]
    found = {name: latest.newest(name) for name in ("front", "rear", "", "gone")}
    assert {name: shown and shown.sequence for name, shown in found.items()} == {
        "front": 3,
        "rear": 2,
        "": 3,
        "gone": 3,
    }


def test_only_what_is_newer_is_given() -> None:
    latest = Latest()
    latest.put(segmented())
    shown = latest.newer(0, "", 0.0)
    assert shown is not None
    assert latest.newer(shown.sequence, "", 0.0) is None


def test_who_waits_is_woken_by_a_picture_of_that_source_alone() -> None:
    latest, asking = Latest(), Event()
    latest.put(segmented(0, "front"))
    latest.put(segmented(1, "rear"))

    def ask() -> int:
        asking.set()
        shown = latest.newer(1, "front", 10.0)
        return 0 if shown is None else shown.sequence

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask)
        assert asking.wait(5)
        latest.put(segmented(2, "rear"))
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        latest.put(segmented(3, "front"))
        assert waiting.result(5) == 4


def test_the_end_wakes_everyone() -> None:
    latest = Latest()
    latest.put(segmented())
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(latest.newer, 1, "", 10.0) for _ in range(3)]
        latest.end("ended")
        assert [future.result(5) for future in waiting] == [None] * 3
    assert latest.run == "ended"
    # The last picture is still there for those who have not seen it.
    assert latest.newer(0, "", 10.0) is not None


def test_samples_tell_what_each_picture_took() -> None:
    times = iter([10.0, 10.5, 11.0, 12.0])
    latest = Latest(lambda: next(times))
    latest.put(segmented(age_s=0.05))
    latest.put(segmented(1, "rear", age_s=None, captured_s=None, result=result({"total": 7.0})))
    latest.put(segmented(2, age_s=None, captured_s=11.75))
    assert latest.samples(0) == [
        (1, 0.5, "", 30.0, 40.0, 50.0),
        (2, 1.0, "rear", None, 7.0, None),
        (3, 2.0, "", 30.0, 40.0, 250.0),
    ]
    assert [sample.sequence for sample in latest.samples(2)] == [3]


def test_memory_is_bounded() -> None:
    latest, item = Latest(), segmented()
    for _ in range(MAX_SAMPLES + 5):
        latest.put(item)
    assert len(latest.samples(0)) == MAX_SAMPLES
    newest = []
    for i in range(MAX_HELD + 1):
        latest.put(segmented(i))
        shown = latest.newest("")
        assert shown is not None
        latest.hold(shown)
        newest.append(shown.sequence)
        assert latest.held(newest[0]) is not None  # the one that was asked for lately stays
        if i == MAX_HELD - 1:
            assert latest.held(newest[1]) is not None
            assert latest.held(newest[0]) is not None
    gone = [sequence for sequence in newest if latest.held(sequence) is None]
    assert len(gone) == 1
    assert newest[0] not in gone

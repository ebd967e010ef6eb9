# SPDX-License-Identifier: Apache-2.0
"""What a failure or an interrupt leaves of a recording: all that was done."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imp_trt.errors import InvalidInput, OutputError, SourceError
from imp_trt.segmenter import Segmenter
from imp_trt.video import open_source, run_pipeline
from imp_trt.video.serve import BrowserView
from imp_trt.video.sinks import JsonLines, NullSink, OverlayVideo, SegmentedFrame, Sink
from imp_trt.video.sources import Frame
from tests.support import clips, tiny

GONE = SourceError("source front", expected="a camera that comes back", got="no frame for 300 s")
FRAMES = 6


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Camera:
    """A live source that gives some frames, then does what comes last."""

    live = True
    paths = ()
    frames = fps = None

    def __init__(
        self, last: Callable[[], object] = lambda: None, count: int = FRAMES, name: str = "front"
    ) -> None:
        self.name = name
        self._last, self._count = last, count

    def __iter__(self) -> Iterator[Frame]:
        for i in range(self._count):
            yield Frame(tiny.frame(seed=i), i, f"{i:06d}", i / 10)
        self._last()

    def close(self) -> None:
        """There is nothing to close."""


class Failing(NullSink):
    """Fails at a given call, at its third frame."""

    def __init__(self, where: str = "", error: BaseException | None = None) -> None:
        self._where, self._error = where, error
        self.ended: list[str] = []

    def _at(self, where: str) -> None:
        if where == self._where and self._error is not None:
            raise self._error

    def write(self, item: SegmentedFrame) -> bool:
        self._at("write" if item.frame.index == 2 else "")
        return True

    def close(self) -> None:
        self.ended.append("close")
        self._at("close")

    def abort(self) -> None:
        self.ended.append("abort")


def gone() -> None:
    raise GONE


def recording(folder: Path) -> list[Sink]:
    return [OverlayVideo(folder / "o.mp4", 25), JsonLines(folder / "r.jsonl")]


def recorded(folder: Path, suffix: str = "") -> int:
    """How many frames both files hold."""
    assert sorted(os.listdir(folder)) == ["o.mp4", "r.jsonl"]
    lines = [json.loads(line) for line in (folder / "r.jsonl").read_text().splitlines()]
    with open_source(folder / "o.mp4") as source:
        assert len(list(source)) == len(lines)
    return len(lines)


def test_sinks_are_notified_when_a_recording_fails(segmenter: Segmenter, tmp_path: Path) -> None:
    view = BrowserView(0, classes=segmenter.classes)
    notified = threading.Event()
    end = view.abort
    view.abort = lambda: (notified.set(), end())  # type: ignore[method-assign]
    with pytest.raises(SourceError):
        run_pipeline(segmenter, Camera(gone), [*recording(tmp_path), view], policy="wait")
    assert recorded(tmp_path) == FRAMES
    assert notified.is_set()


def test_a_camera_that_stays_away_ends_its_recording(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    sink = Failing()
    with pytest.raises(SourceError) as caught:
        run_pipeline(segmenter, Camera(gone), [*recording(tmp_path), sink], policy="wait")
    assert caught.value is GONE
    count = recorded(tmp_path)
    assert count == FRAMES
    assert sink.ended == ["close"]
    assert f"{count} frames" in caplog.text
    assert "kept" in caplog.text


def test_one_camera_that_stays_away_ends_the_recordings_of_all(segmenter: Segmenter, tmp_path: Path) -> None:
    closed = threading.Event()
    lasting = Camera(lambda: closed.wait(10), name="rear")
    lasting.close = closed.set  # type: ignore[method-assign]
    begin = time.monotonic()
    with pytest.raises(SourceError):
        run_pipeline(segmenter, [Camera(gone), lasting], recording(tmp_path), policy="wait")
    assert time.monotonic() - begin < 4
    assert sorted(os.listdir(tmp_path)) == ["o_front.mp4", "o_rear.mp4", "r.jsonl"]


@pytest.mark.parametrize("error", [OSError("a bug"), InvalidInput("frame"), ZeroDivisionError()])
@pytest.mark.parametrize("where", ["network", "drawing", "on_frame", "on_progress", "write", "close"])
def test_whatever_else_fails_a_recording_is_kept(
    where: str, error: Exception, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(here: str) -> None:
        if here == where:
            raise error

    class Draw(SegmentedFrame):
        @property
        def overlay(self) -> Any:  # type: ignore[override]
            at("drawing" if self.frame.index == 3 else "")
            return self.frame.image

    run, calls = segmenter.run, []

    def counted(image: object) -> Any:
        calls.append(1)
        at("network" if len(calls) == 4 else "")
        return run(image)

    monkeypatch.setattr(segmenter, "run", counted)
    monkeypatch.setattr("imp_trt.video.pipeline.SegmentedFrame", Draw)
    failing = Failing(where, error)
    with pytest.raises(type(error)) as caught:
        run_pipeline(
            segmenter,
            Camera(),
            [*recording(tmp_path), failing],
            policy="wait",
            on_frame=lambda n, r: at("on_frame" if n == 3 else ""),
            on_progress=lambda s: at("on_progress" if s["delivered"] else ""),
        )
    assert caught.value is error
    assert recorded(tmp_path) > 0
    # A sink that failed by itself may be half-written, whatever it says.
    assert failing.ended == {"write": ["abort"], "close": ["close", "abort"]}.get(where, ["close"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("live", [True, False])
def test_an_interrupt_keeps_what_is_done(
    error: BaseException, live: bool, segmenter: Segmenter, tmp_path: Path
) -> None:
    camera, failing = Camera(), Failing("write", error)
    camera.live = live
    with pytest.raises(type(error)):
        run_pipeline(segmenter, camera, [*recording(tmp_path), failing], policy="wait")
    assert recorded(tmp_path) == 3
    assert failing.ended == ["abort"]


def test_a_failure_before_the_first_frame_keeps_nothing(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        run_pipeline(segmenter, Camera(gone, count=0), recording(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_file_that_fails_keeps_every_frame_before(segmenter: Segmenter, tmp_path: Path) -> None:
    source = Camera(gone)
    source.live = False
    with pytest.raises(SourceError):
        run_pipeline(segmenter, source, recording(tmp_path))
    assert recorded(tmp_path) == FRAMES


def test_a_run_that_is_stopped_before_its_first_frame_leaves_nothing(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    sink = Failing()
    summary = run_pipeline(
        segmenter, Camera(), [*recording(tmp_path), sink], on_progress=lambda state: False, policy="wait"
    )
    assert summary.frames == 0
    assert sink.ended == ["abort"]
    assert os.listdir(tmp_path) == []


def test_a_camera_that_comes_back_with_another_size_goes_on_in_the_next_file(
    segmenter: Segmenter,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    (tmp_path / "o-2.mp4").write_text("not ours")

    class Changing(Camera):
        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            for i in range(3):
                yield Frame(tiny.frame(128, 192), FRAMES + i, f"large {i}", 2.0 + i / 10)
            yield Frame(tiny.frame(), FRAMES + 3, "small", 3.0)

    summary = run_pipeline(segmenter, Changing(), recording(tmp_path), policy="wait")
    assert summary.frames == FRAMES + 4
    counts = []
    for name in ("o.mp4", "o-3.mp4", "o-4.mp4"):
        with open_source(tmp_path / name) as source:
            counts.append(len(list(source)))
    assert counts == [FRAMES, 3, 1]
    assert sorted(os.listdir(tmp_path)) == ["o-2.mp4", "o-3.mp4", "o-4.mp4", "o.mp4", "r.jsonl"]
    assert (tmp_path / "o-2.mp4").read_text() == "not ours"
    assert "192x128" in caplog.text
    assert "o-3.mp4" in caplog.text


def test_images_of_different_sizes_do_not_become_many_videos(segmenter: Segmenter, tmp_path: Path) -> None:
    images = [Frame(tiny.frame(64 + 64 * i, 96), i, str(i), None) for i in range(2)]
    with pytest.raises(InvalidInput, match="to a folder"):
        run_pipeline(segmenter, images, recording(tmp_path))
    with open_source(tmp_path / "o.mp4") as source:
        assert len(list(source)) == 1


def test_a_disk_that_fills_up_keeps_what_was_recorded(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: object) -> None:
        raise OSError(28, "No space left on device")

    sinks = recording(tmp_path)
    monkeypatch.setattr("imp_trt.video.writer._DISK_CHECK_INTERVAL", 3)
    checks = iter([None, no_room])
    monkeypatch.setattr(
        "imp_trt.video.writer.VideoWriter._check_free_space",
        lambda self: (next(checks) or (lambda s: None))(self),
    )
    with pytest.raises(OutputError, match="No space"):
        run_pipeline(segmenter, Camera(), sinks, policy="wait")
    assert sorted(os.listdir(tmp_path)) == ["o.mp4", "r.jsonl"]


def test_one_video_that_fails_to_close_does_not_take_the_others_along(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imp_trt.video.writer import VideoWriter

    close = VideoWriter.close

    def fail(self: VideoWriter) -> None:
        if "front" in str(self._path):
            self.abort()
            raise OutputError("front is damaged")
        close(self)

    monkeypatch.setattr(VideoWriter, "close", fail)
    with pytest.raises(OutputError, match="front"):
        run_pipeline(
            segmenter, [Camera(name="front"), Camera(name="rear")], [OverlayVideo(tmp_path / "o.mp4", 25)]
        )
    for name in ("front", "rear"):
        with open_source(tmp_path / f"o_{name}.mp4") as source:
            assert len(list(source)) > 0


def test_a_sink_that_is_stuck_does_not_hold_up_the_end_of_a_recording(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imp_trt.video.pipeline.JOIN_TIMEOUT_S", 0.4)
    stuck, freed = threading.Event(), threading.Event()

    class Stuck(Failing):
        def write(self, item: SegmentedFrame) -> bool:
            stuck.set()
            freed.wait(10)
            return True

    def vanish() -> None:
        assert stuck.wait(5)
        gone()

    begin = time.monotonic()
    with pytest.raises(SourceError):
        run_pipeline(segmenter, Camera(vanish, count=1), [Stuck()])
    assert time.monotonic() - begin < 3
    freed.set()
    for thread in threading.enumerate():
        if thread.name == "imp-trt writing":
            thread.join(2)


def test_a_long_close_is_waited_for(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of video are not finished within the two seconds that a thread has to end."""
    monkeypatch.setattr("imp_trt.video.pipeline.JOIN_TIMEOUT_S", 0.1)

    class Long(Failing):
        def close(self) -> None:
            time.sleep(0.2)
            super().close()

    sinks = [Long(), Long()]
    with pytest.raises(SourceError):
        run_pipeline(segmenter, Camera(gone), sinks)
    assert [sink.ended for sink in sinks] == [["close"], ["close"]]


@pytest.mark.slow
def test_a_close_that_stalls_is_abandoned(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imp_trt.video.pipeline.JOIN_TIMEOUT_S", 0.1)
    closing, freed = threading.Event(), threading.Event()
    now = [0.0]

    def clock() -> float:
        now[0] += 8.0 * closing.is_set()
        return now[0]

    class Hanging(Failing):
        def close(self) -> None:
            closing.set()
            freed.wait(10)

    for live in (True, False):
        freed.clear()
        closing.clear()
        camera = Camera()
        camera.live = live
        with pytest.raises(OutputError, match="stalls"):
            run_pipeline(segmenter, camera, [Hanging()], clock=clock, stall_s=50)
        freed.set()
        for thread in threading.enumerate():
            if thread.name == "imp-trt writing":
                thread.join(2)


def test_ctrl_c_while_a_failed_recording_is_finished_ends_it(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller gets the interrupt; the sinks are still closed, in a thread that is left running."""
    freed, ends = threading.Event(), []

    class Hanging(Failing):
        def close(self) -> None:
            freed.wait(10)
            super().close()

    first, last = Failing(), Hanging()  # closed from the last to the first
    wait = "imp_trt.video.pipeline._join_until"

    def interrupted(thread: threading.Thread, until: float) -> None:
        thread.join(0.2)
        if "writing" in thread.name and not ends:
            ends.append(1)
            threading.Timer(0.1, freed.set).start()
            raise KeyboardInterrupt

    monkeypatch.setattr(wait, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(segmenter, Camera(gone), [first, last])
    for thread in threading.enumerate():
        if thread.name.startswith("imp-trt"):
            thread.join(2)
    assert (first.ended, last.ended) == (["close"], ["close"])


def test_sinks_behind_one_that_cannot_be_entered_leave_nothing(segmenter: Segmenter, tmp_path: Path) -> None:
    class Locked(NullSink):
        def __enter__(self) -> Any:
            raise OSError("locked")

    clip = clips.write_clip(tmp_path / "in.mp4", frames=2)
    with open_source(clip) as source, pytest.raises(OSError, match="locked"):
        run_pipeline(segmenter, source, [Locked(), *recording(tmp_path)])
    assert os.listdir(tmp_path) == ["in.mp4"]


def test_an_abort_that_raises_does_not_keep_the_others_from_it(segmenter: Segmenter, tmp_path: Path) -> None:
    class Stubborn(Failing):
        def abort(self) -> None:
            raise OSError("no")

    first = Failing()
    with pytest.raises(SourceError):
        run_pipeline(segmenter, Camera(gone, count=0), [first, *recording(tmp_path), Stubborn()])
    assert first.ended == ["abort"]
    with pytest.raises(InvalidInput):
        run_pipeline(segmenter, Camera(), [Stubborn(), first], max_frames=0)
    assert first.ended == ["abort", "abort"]
    assert os.listdir(tmp_path) == []

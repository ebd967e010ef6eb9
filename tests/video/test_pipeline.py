# SPDX-License-Identifier: Apache-2.0
"""Sources to sinks: order, overlap, policies, summary, and clean ends."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_trt.errors import InvalidInput
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.video import open_source, run_pipeline
from imp_trt.video.queues import Policy
from imp_trt.video.sinks import (
    ClassMaps,
    DrawOptions,
    JsonLines,
    NullSink,
    OverlayImages,
    OverlayVideo,
    SegmentedFrame,
)
from imp_trt.video.source_names import short_names
from imp_trt.video.sources import Frame
from tests.support import clips, tiny
from tests.support.pipeline_ends import Camera, Recorder, frames


def test_every_frame_reaches_every_sink_in_order(segmenter: Segmenter) -> None:
    a, b, calls = Recorder(), Recorder(), []
    summary = run_pipeline(segmenter, frames(4), [a, b], on_frame=lambda n, r: calls.append((n, r.size)))
    assert calls == [(i, (64, 96)) for i in (1, 2, 3, 4)]
    assert [item.frame.index for item in a.items] == [0, 1, 2, 3]
    assert all(x is y for x, y in zip(a.items, b.items, strict=True))
    for i, item in enumerate(a.items):
        assert np.array_equal(item.result.semantic, tiny.truth(tiny.frame(seed=i)))
    assert a.ended == b.ended == ["closed"]
    assert summary.frames == 4
    assert summary.instances == {"car": 4, "person": 4}
    assert sum(summary.pixels.values()) == pytest.approx(1, abs=1e-5)
    assert set(summary.timing_ms) == {
        "read", "pre", "infer", "post", "total", "draw", "write",
    }  # fmt: skip
    assert set(summary.timing_ms["infer"]) == {"mean", "p50", "p90", "p99"}
    assert summary.to_dict()["frames_per_second"] > 0


def test_options(segmenter: Segmenter) -> None:
    sink = Recorder()
    summary = run_pipeline(segmenter, frames(9), [sink], max_frames=2, draw=DrawOptions(min_score=0.7))
    assert summary.frames == len(sink.items) == 2
    assert summary.instances == {"car": 2}
    assert run_pipeline(segmenter, frames(0), []).to_dict()["frames"] == 0


def test_tracks_and_legends_go_on_from_frame_to_frame(segmenter: Segmenter) -> None:
    pytest.importorskip("trackers", reason="needs the package trackers: pip install 'imp-trt[track]'")
    sink = Recorder()
    run_pipeline(segmenter, frames(4), [sink], track=True, draw=DrawOptions(legend=True))
    ids = [item.result.instances.track_ids for item in sink.items]
    assert [i.tolist() for i in ids if i is not None] == [[-1, -1], [0, 1], [0, 1], [0, 1]]
    assert len({id(item.legends) for item in sink.items}) == 1
    assert sink.items[0].legends is not None
    again = Recorder()
    run_pipeline(segmenter, frames(2), [again])
    assert all(item.result.instances.track_ids is None for item in again.items)


def test_a_sink_can_stop_the_run_and_the_others_are_closed(segmenter: Segmenter) -> None:
    a, b = Recorder(stop_after=2), Recorder()
    assert run_pipeline(segmenter, frames(9), [a, b]).frames == 2
    assert len(b.items) == 2
    assert a.ended == b.ended == ["closed"]


def test_a_sink_that_says_nothing_does_not_stop_the_run(segmenter: Segmenter) -> None:
    class Forgetful(Recorder):
        def write(self, item: SegmentedFrame) -> bool:
            super().write(item)
            return None  # type: ignore[return-value]

    assert run_pipeline(segmenter, frames(5), [Forgetful()]).frames == 5


def test_a_sink_that_asks_for_them_gets_the_statistics(segmenter: Segmenter) -> None:
    class Watching(Recorder):
        statistics: Callable[[], dict[str, Any]] | None = None

        def close(self) -> None:
            assert self.statistics is not None
            self.last = self.statistics()

    def mine() -> dict[str, Any]:
        return {"delivered": -1}

    sink, other = Watching(), Watching()
    other.statistics = mine
    run_pipeline(segmenter, frames(5), [sink, other])
    assert (sink.last["delivered"], sink.last["in_flight"]) == (5, 0)
    assert other.last == {"delivered": -1}


def test_video_to_video(segmenter: Segmenter, tmp_path: Path) -> None:
    clip = clips.write_clip(tmp_path / "in.mp4", frames=6, fps=30000 / 1001)
    with open_source(clip) as source:
        run_pipeline(
            segmenter, source, [OverlayVideo(tmp_path / "out.mp4", source.fps), ClassMaps(tmp_path / "maps")]
        )
    with open_source(tmp_path / "out.mp4") as written:
        assert len(list(written)) == 6
        assert written.fps == pytest.approx(30000 / 1001, rel=1e-4)
    assert len(os.listdir(tmp_path / "maps")) == 6


def test_results_do_not_depend_on_the_threads(segmenter: Segmenter, tmp_path: Path) -> None:
    """Overlays, class maps and JSON lines of a file are those of one frame after the other."""
    clip = clips.write_clip(tmp_path / "in.mp4", frames=20)

    def sinks(folder: Path) -> list[Any]:
        return [OverlayImages(folder / "o"), ClassMaps(folder / "c"), JsonLines(folder / "r.jsonl")]

    for sink in sinks(tmp_path / "one by one"):
        with open_source(clip) as source, sink:
            for frame in source:
                sink.write(SegmentedFrame(frame, segmenter.run(frame.image)))
    with open_source(clip) as source:
        run_pipeline(segmenter, source, sinks(tmp_path / "threads"), queue_size=3)

    def files(folder: Path) -> dict[str, Any]:
        found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        lines = [json.loads(line) for line in found.pop(Path("r.jsonl")).splitlines()]
        return {**{str(p): data for p, data in found.items()}, "lines": [x | {"timing_ms": 0} for x in lines]}

    assert files(tmp_path / "threads") == files(tmp_path / "one by one")
    assert len(files(tmp_path / "threads")) == 41


def test_capture_inference_drawing_and_writing_overlap(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage has a frame at the same time: none of them goes on before all four have one."""
    barrier = threading.Barrier(4)
    met: list[str] = []

    def meet(stage: str, index: int, at: int) -> None:
        if index == at:
            barrier.wait(5)
            met.append(stage)

    def source() -> Iterator[Frame]:
        for frame in frames(6):
            meet("capture", frame.index, 5)
            yield frame

    class Slow(SegmentedFrame):
        @property
        def overlay(self) -> Any:  # type: ignore[override]
            meet("drawing", self.frame.index, 3)
            return self.frame.image

    class Sink(NullSink):
        draws = True

        def write(self, item: SegmentedFrame) -> bool:
            meet("writing", item.frame.index, 2)
            return True

    run, calls = segmenter.run, []

    def slow_run(image: object) -> SegmentationResult:
        calls.append(1)
        meet("inference", len(calls) - 1, 4)
        return run(image)

    monkeypatch.setattr(segmenter, "run", slow_run)
    monkeypatch.setattr("imp_trt.video.pipeline.SegmentedFrame", Slow)
    assert run_pipeline(segmenter, source(), [Sink()], queue_size=1).frames == 6
    assert sorted(met) == ["capture", "drawing", "inference", "writing"]


def test_the_network_runs_in_the_callers_thread_and_a_sink_in_one_other(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[int]] = {}

    def note(where: str) -> None:
        threads.setdefault(where, set()).add(threading.get_ident())

    class Sink(Recorder):
        def write(self, item: SegmentedFrame) -> bool:
            note("sink")
            return super().write(item)

        def close(self) -> None:
            note("sink")

    run = segmenter.run
    monkeypatch.setattr(segmenter, "run", lambda image: (note("network"), run(image))[1])
    run_pipeline(
        segmenter,
        frames(5),
        [Sink()],
        on_frame=lambda n, r: note("sink"),
        on_progress=lambda s: note("network"),
    )
    assert threads["network"] == {threading.get_ident()}
    assert len(threads["sink"]) == 1
    assert threads["sink"] != threads["network"]


def test_a_sink_that_is_not_in_a_list_is_rejected_and_ended(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"Fix: \[sink\]"):
        run_pipeline(segmenter, [], JsonLines(tmp_path / "r.jsonl"))  # type: ignore[arg-type]
    JsonLines(tmp_path / "r.jsonl").abort()  # nothing else is writing it
    assert not os.listdir(tmp_path)


def test_paths_are_rejected_with_what_opens_them(segmenter: Segmenter, tmp_path: Path) -> None:
    video = str(tmp_path / "o.mp4")
    for sinks in ([JsonLines(tmp_path / "r.jsonl"), video], [Path(video)], video):
        with pytest.raises(InvalidInput, match="overlay_sink"):
            run_pipeline(segmenter, frames(1), sinks)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"Segmenter\(path\)"):
        run_pipeline("street.onnx", frames(1), [])  # type: ignore[arg-type]
    assert not os.listdir(tmp_path)


def test_overlays_are_drawn_ahead_only_for_sinks_that_draw(segmenter: Segmenter) -> None:
    class Drawing(Recorder):
        draws = True

    drawing, other = Drawing(), Recorder()
    run_pipeline(segmenter, frames(3), [drawing])
    run_pipeline(segmenter, frames(3), [other])
    assert all("overlay" in vars(item) for item in drawing.items)
    assert not any("overlay" in vars(item) for item in other.items)


def test_several_files_come_in_turn_with_their_names(segmenter: Segmenter) -> None:
    class File:
        def __init__(self, name: str, count: int, delay: float) -> None:
            self.name, self.count, self.delay = name, count, delay

        def __iter__(self) -> Iterator[Frame]:
            for frame in frames(self.count):
                time.sleep(self.delay)
                yield frame

    for delays in ((0.0, 0.02), (0.02, 0.0)):
        sources = [File("a/clip.mp4", 4, delays[0]), File("b/clip.mp4", 2, delays[1])]
        sink = Recorder()
        summary = run_pipeline(segmenter, sources, [sink])
        assert [(item.source, item.frame.index) for item in sink.items] == [
            ("clip", 0), ("clip-1", 0), ("clip", 1), ("clip-1", 1), ("clip", 2), ("clip", 3),
        ]  # fmt: skip
        assert (summary.frames, summary.captured, summary.dropped) == (6, 6, 0)
        assert [s["delivered"] for s in summary.sources] == [4, 2]
    sink = Recorder()
    assert run_pipeline(segmenter, sources, [sink], max_frames=3).frames == 3
    assert [item.source for item in sink.items] == ["clip", "clip-1", "clip"]
    sink = Recorder()
    assert run_pipeline(segmenter, [frames(2)], [sink]).frames == 2
    assert [item.source for item in sink.items] == ["", ""]


@pytest.mark.parametrize(
    ("addresses", "names"),
    [
        (["rtsp://***@10.0.0.11:554", "rtsp://10.0.0.12/"], ["10_0_0_11_554", "10_0_0_12"]),
        (["http://cam-1.example.com/?action=stream"], ["cam-1_example_com"]),
        (["rtsp://host/front door.sdp", "rtsp://host/live?channel=2"], ["front_door", "live_channel_2"]),
        (["csi://0", "v4l2:///dev/video0?fps=30", "a.b/run.mp4"], ["0", "video0_fps_30", "run"]),
        (["a/front.mp4", "b/front.mp4", "run/*.png"], ["front", "front-1", "2"]),
    ],
)
def test_names_of_sources(addresses: list[str], names: list[str]) -> None:
    assert short_names([Camera(lambda: frames(0), name) for name in addresses]) == names


def test_max_frames_of_one_file_reads_no_frame_more(segmenter: Segmenter) -> None:
    read: list[int] = []

    def source() -> Iterator[Frame]:
        for frame in frames(9):
            read.append(frame.index)
            yield frame

    summary = run_pipeline(segmenter, source(), [], max_frames=3)
    assert (summary.frames, summary.captured, summary.dropped) == (3, 3, 0)
    assert read == [0, 1, 2]


@pytest.mark.parametrize("policy", ["wait", "drop-oldest"])
def test_a_fraction_of_a_frame_ends_the_run_too(segmenter: Segmenter, policy: Policy) -> None:
    """0.1 s at 29.97 frames/s."""
    sink = Recorder()
    run_pipeline(segmenter, frames(9), [sink], max_frames=0.1 * 29.97, policy=policy, queue_size=9)  # type: ignore[arg-type]
    assert len(sink.items) == 3


def test_progress_comes_at_the_start_four_times_a_second_and_at_the_end(segmenter: Segmenter) -> None:
    now, seen = [0.0], []

    def source() -> Iterator[Frame]:
        for frame in frames(10):
            while len(sink.items) < frame.index:
                time.sleep(0.001)
            now[0] = frame.index * 0.1
            yield frame

    sink = Recorder()
    run_pipeline(segmenter, source(), [sink], on_progress=seen.append, clock=lambda: now[0])
    # Ten frames in 0.9 s: at 0, 0.3, 0.6 and 0.9 s, give or take one, and the end.
    assert 4 <= len(seen) <= 6
    assert [s["delivered"] for s in seen] == sorted(s["delivered"] for s in seen)
    assert (seen[-1]["delivered"], seen[-1]["in_flight"]) == (10, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "newest"},
        {"queue_size": 0},
        {"deadline_s": 0.0},
        {"deadline_s": math.nan},
        {"max_frames": 0},
        {"stall_s": 0.0},
        {"stall_s": math.nan},
    ],
)
def test_invalid_arguments_are_rejected(segmenter: Segmenter, options: dict[str, Any]) -> None:
    sink = Recorder()
    with pytest.raises(InvalidInput):
        run_pipeline(segmenter, frames(1), [sink], **options)
    assert sink.ended == ["aborted"]

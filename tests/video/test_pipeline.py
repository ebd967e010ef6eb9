"""Source to sinks: order, summary, and clean ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imp_trt.errors import OutputError
from imp_trt.segmenter import Segmenter
from imp_trt.video.pipeline import run_pipeline
from imp_trt.video.sinks import ClassMaps, DrawOptions, JsonLines, NullSink, OverlayVideo, Segmented
from imp_trt.video.sources import Frame, open_source
from tests.support import clips, tiny


@pytest.fixture
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    with Segmenter(tiny.artifact(tmp_path_factory.mktemp("artifact")), threads=1) as opened:
        yield opened


def frames(count: int) -> Iterator[Frame]:
    for i in range(count):
        yield Frame(tiny.frame(seed=i), i, f"{i:06d}", None)


class Recorder(NullSink):
    def __init__(self, stop_after: int = 100) -> None:
        self.items: list[Segmented] = []
        self.ended: list[str] = []
        self._stop_after = stop_after

    def write(self, item: Segmented) -> bool:
        self.items.append(item)
        return len(self.items) < self._stop_after

    def close(self) -> None:
        self.ended.append("closed")

    def abort(self) -> None:
        self.ended.append("aborted")


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
    assert set(summary.timing_ms) == {"read", "pre", "infer", "post", "total", "write"}
    assert set(summary.timing_ms["infer"]) == {"mean", "p50", "p90", "p99"}
    assert summary.to_dict()["frames_per_second"] > 0


def test_options(segmenter: Segmenter) -> None:
    sink = Recorder()
    summary = run_pipeline(segmenter, frames(9), [sink], max_frames=2, draw=DrawOptions(min_score=0.7))
    assert summary.frames == len(sink.items) == 2
    assert summary.instances == {"car": 2}
    assert run_pipeline(segmenter, frames(0), []).to_dict()["frames"] == 0


def test_a_sink_can_stop_the_run_and_the_others_are_closed(segmenter: Segmenter) -> None:
    a, b = Recorder(stop_after=2), Recorder()
    assert run_pipeline(segmenter, frames(9), [a, b]).frames == 2
    assert len(b.items) == 2
    assert a.ended == b.ended == ["closed"]


@pytest.mark.parametrize("error", [RuntimeError("unplugged"), KeyboardInterrupt()])
def test_a_failing_source_aborts_the_sinks(
    segmenter: Segmenter, tmp_path: Path, error: BaseException
) -> None:
    def source() -> Iterator[Frame]:
        yield from frames(2)
        raise error

    recorder = Recorder()
    sinks = [OverlayVideo(tmp_path / "o.mp4", 25), JsonLines(tmp_path / "o.jsonl"), recorder]
    with pytest.raises(type(error)):
        run_pipeline(segmenter, source(), sinks)
    assert recorder.ended == ["aborted"]
    assert os.listdir(tmp_path) == []


def test_a_failing_sink_aborts_the_others(segmenter: Segmenter, tmp_path: Path) -> None:
    class Full(NullSink):
        def write(self, item: Segmented) -> bool:
            raise OutputError("disk full")

    with pytest.raises(OutputError, match="disk full"):
        run_pipeline(segmenter, frames(3), [OverlayVideo(tmp_path / "o.mp4", 25), Full()])
    assert os.listdir(tmp_path) == []


def test_a_sink_that_fails_to_close_aborts_those_before_it(segmenter: Segmenter, tmp_path: Path) -> None:
    class Unfinished(NullSink):
        def close(self) -> None:
            raise OutputError("cannot finish")

    with pytest.raises(OutputError, match="cannot finish"):
        run_pipeline(segmenter, frames(2), [JsonLines(tmp_path / "o.jsonl"), Unfinished()])
    assert os.listdir(tmp_path) == []


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

# SPDX-License-Identifier: Apache-2.0
"""Measurement of videos on which the detector runs on some frames; times are simulated."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imp_trt.benchmark.carried import CanvasSaving
from imp_trt.benchmark.gates import parse_gate
from imp_trt.benchmark.measure import Stepper, WarmUp, measure_throughput
from imp_trt.benchmark.run import Settings, run_benchmark
from imp_trt.benchmark.samples import Samples
from imp_trt.cli.bench import main
from imp_trt.errors import ArtifactError, UsageError
from imp_trt.temporal import TemporalOptions
from imp_trt.video.sources.frame import Frame
from tests.support import clips, tiny, tiny_parts
from tests.support.moving import CAR, Clock, SquareBackend, picture, segmenter_of


class Feed:
    name, decoder = "script", "none"

    def __iter__(self) -> Iterator[Frame | None]:
        index = 0
        while True:
            yield Frame(picture([(20, 40, 48, CAR)]), index, str(index), None)
            index += 1


def silent(what: str, done: int, total: int | None) -> None:
    pass


def measured(every: int, frames: int) -> Samples:
    clock = Clock()
    stepper = Stepper(segmenter_of(SquareBackend(clock)), Feed(), clock, temporal=TemporalOptions(every))
    samples = Samples()
    for _ in range(frames):
        samples.add(stepper.step())
    return samples


def test_the_time_of_each_kind_of_frame() -> None:
    samples = measured(4, 8)
    assert samples.values("detected") == pytest.approx([100, 100])
    assert samples.values("carried") == pytest.approx([40] * 6)
    assert samples.values("run") == pytest.approx([100, 40, 40, 40] * 2)


def test_the_saving() -> None:
    saving = CanvasSaving.of(measured(4, 8))
    assert saving is not None
    assert (saving.frames, saving.detected) == (8, 2)
    assert saving.skipped_share == pytest.approx(0.6)
    assert saving.bound == pytest.approx(1 / (1 - 0.6 * (1 - 1 / 4)))
    assert saving.speedup == pytest.approx(saving.bound), "no time of moving on this clock"
    assert "detector on 2 of 8 frames" in saving.text()
    assert "60% skipped" in saving.text()
    assert json.loads(json.dumps(saving.to_dict()))["carried_ms"] == pytest.approx(40)


def test_the_time_of_moving_counts() -> None:
    samples = Samples()
    for kind, infer in (("detected", 100.0), ("carried", 50.0)):
        samples.add({"infer": infer, "carry": 25.0, kind: infer + 25})
    saving = CanvasSaving.of(samples)
    assert saving is not None
    assert saving.bound == pytest.approx(100 / 75)
    assert saving.speedup == pytest.approx(1)


@pytest.mark.parametrize("every", [1, 100])
def test_frames_of_one_kind_save_nothing(every: int) -> None:
    samples = measured(every, 3)
    if every == 100:
        samples.rows = [row for row in samples.rows if "carried" in row]
    assert CanvasSaving.of(samples) is None


def test_the_pipeline_of_the_throughput_skips_too() -> None:
    clock = Clock()
    backend = SquareBackend(clock)
    found = measure_throughput(
        segmenter_of(backend),
        Feed(),
        clock,
        frames=7,
        percentiles=(50,),
        temporal=TemporalOptions(3),
    )
    assert backend.calls == ["whole" if i % 3 == 0 else "canvas" for i in range(12)]
    assert found.stages["carried"]["mean"] == pytest.approx(40, abs=1)


@pytest.mark.slow
def test_synthetic_streets_are_no_cuts(tmp_path: Path) -> None:
    settings = Settings(
        tiny_parts.artifact(tmp_path),
        threads=1,
        frame_size=(48, 64),
        warmup=WarmUp(frames=1),
        frames=12,
        gates=(parse_gate("carried.mean<1000s"),),
        temporal=TemporalOptions(4),
    )
    report = run_benchmark(settings, silent)
    data = report.to_dict()
    assert isinstance(data["canvas"], dict)
    assert data["canvas"]["detected"] == 3
    assert report.verdicts[0]["held"]
    text = report.text()
    assert "\ncarried " in text
    assert "\ncanvas      detector on 3 of 12 frames" in text


def test_a_gate_on_kinds_of_frames_needs_them(tmp_path: Path) -> None:
    settings = Settings(tiny.artifact(tmp_path), gates=(parse_gate("carried.mean<1s"),))
    with pytest.raises(UsageError, match="--detect-every"):
        run_benchmark(settings, silent)


@pytest.mark.slow
def test_an_artifact_without_its_part(tmp_path: Path) -> None:
    settings = Settings(tiny.artifact(tmp_path), threads=1, temporal=TemporalOptions(4))
    with pytest.raises(ArtifactError, match="--parts"):
        run_benchmark(settings, silent)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = clips.write_clip(tmp_path / "clip.mp4", frames=9)
    argv = [str(tiny_parts.artifact(tmp_path)), "--source", str(clip), "--frames", "6", "--warmup", "1"]
    assert main([*argv, "--threads", "1", "-q", "--detect-every", "3", "--json", "--record"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert 0 < data["canvas"]["detected"] < 6
    assert math.isfinite(data["canvas"]["speedup"])
    assert np.isfinite(data["latency"]["ms"]["carry"]["mean"])

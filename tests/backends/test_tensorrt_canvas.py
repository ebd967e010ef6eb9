# SPDX-License-Identifier: Apache-2.0
"""The canvas part of an engine, on the fake GPU, against ONNX Runtime bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from imp_trt import Nv12Frame
from imp_trt.artifacts.canvas_part import CanvasPart
from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends import CanvasBackend, DeviceCanvasBackend
from imp_trt.backends.engine import EngineBackend
from imp_trt.errors import ArtifactError, DeviceError, EngineIncompatible
from imp_trt.export.verification.canvas import replay_canvas
from imp_trt.segmenter import Segmenter
from imp_trt.temporal import TemporalOptions, TemporalState
from tests.support import tiny, tiny_parts
from tests.support.fake_tensorrt import FakeGpu, engine_manifest, fake_gpu, plan, varying_graph
from tests.support.gpu_arrays import Dlpack, Interface, on_gpu
from tests.support.nv12 import random_planes
from tests.support.segmenters import Machine, nothing_left, same


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imp_trt.cuda.kernels._image", lambda op, device: b"kernels")


def engine_of(folder: Path, library: str, model: onnx.ModelProto | None = None, batch: int = 1) -> Path:
    """An engine of varying_graph with its canvas part."""
    manifest: Manifest = engine_manifest(tiny.manifest(batch), library)
    part = CanvasPart((batch, *tiny_parts.SHAPE), engine=manifest.engine)
    return write_artifact(
        folder / f"tiny.fp32.{library}.engine",
        plan(varying_graph(batch), library),
        replace(manifest, canvas_part=part),
        canvas=plan(model or tiny_parts.graph(batch), library),
    )


def on_cpu(folder: Path, batch: int = 1) -> Segmenter:
    """The same in ONNX Runtime."""
    return Segmenter(tiny_parts.artifact(folder, varying_graph(batch), batch), threads=1)


@pytest.mark.parametrize("batch", [1, 2])
def test_streams_are_those_of_the_cpu(machine: Machine, tmp_path: Path, batch: int) -> None:
    frames = [np.roll(tiny.frame(90, 150), i, axis=1) for i in range(5)]
    with (
        on_cpu(tmp_path, batch) as twin,
        Segmenter(engine_of(tmp_path, machine[0].__name__, batch=batch)) as own,
    ):
        assert isinstance(own._open_backend(), DeviceCanvasBackend)
        expected = list(twin.stream(frames, detect_every=3, blend=0.4))
        results = list(own.stream(frames, detect_every=3, blend=0.4))
    assert [result.canvas_age for result in results] == [0, 1, 2, 0, 1]
    assert all(same(a, b) for a, b in zip(results, expected, strict=True))
    assert (results[1].semantic != results[0].semantic).any(), "the canvas part is another network here"
    assert nothing_left(machine)


def test_frames_on_the_gpu_stay_there(tmp_path: Path) -> None:
    with fake_gpu() as (_, cuda), on_cpu(tmp_path) as twin, Segmenter(engine_of(tmp_path, "tensorrt")) as own:
        states = [TemporalState(TemporalOptions(2)) for _ in range(2)]
        own.run_next(tiny.frame(), TemporalState())  # opens the part
        for i, kind in enumerate((Interface, Dlpack, Interface, Dlpack)):
            frame = tiny.frame(180, 240, seed=3)
            there: Any = kind(on_gpu(cuda, frame))
            cuda.calls.clear()
            launches = len(cuda.launches)
            result = own.run_next(there, states[0])
            entries = [launch.entry for launch in cuda.launches[launches:]]
            assert entries == ["imp_frame_fit"] * 2, "to the network's size, and to that of the canvas"
            assert cuda.calls.count("cuMemcpyHtoDAsync") == i % 2, "the canvas"
            assert result.canvas_age == i % 2
            assert same(result, twin.run_next(frame, states[1]))


def test_nv12_frames_stay_there_too(tmp_path: Path) -> None:
    y, uv = random_planes((70, 90))
    with fake_gpu() as (_, cuda), on_cpu(tmp_path) as twin, Segmenter(engine_of(tmp_path, "tensorrt")) as own:
        states = [TemporalState(TemporalOptions(2)) for _ in range(2)]
        for age in (0, 1):
            there = Nv12Frame(Interface(on_gpu(cuda, y)), Interface(on_gpu(cuda, uv)))
            result = own.run_next(there, states[0])
            assert result.canvas_age == age
            assert same(result, twin.run_next(Nv12Frame(y, uv), states[1]))
        assert {launch.entry for launch in cuda.launches} == {"imp_frame_fit_nv12"}


def test_the_part_is_verified_on_golden_frames(machine: Machine, tmp_path: Path) -> None:
    from imp_trt.artifacts.golden import Golden

    with on_cpu(tmp_path) as twin, Segmenter(engine_of(tmp_path, machine[0].__name__)) as own:
        frames = np.stack([tiny.frame(seed=i) for i in range(3)])
        backend, reference = own._open_backend(), twin._open_backend()
        assert isinstance(backend, CanvasBackend)
        assert isinstance(reference, CanvasBackend)
        answers = [reference.infer(frame[None]) for frame in frames]
        outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
        golden = Golden(frames, np.full((3, 2), (64, 96), np.int32), outputs)
        agreements = [replay_canvas(b, golden) for b in (backend, reference)]
    assert agreements[0] == agreements[1]
    assert agreements[0].frames == 3


@pytest.mark.parametrize("fails", ["deserialize", "context", "address", "execute"])
def test_a_part_that_does_not_start(machine: Machine, tmp_path: Path, fails: str) -> None:
    trt, _ = machine
    with Segmenter(engine_of(tmp_path, trt.__name__)) as segmenter:
        frame = tiny.frame()
        state = TemporalState()
        backend = segmenter._open_backend()
        assert isinstance(backend, EngineBackend)
        kept = len(backend._handles.kept)
        trt.fails.add(fails)
        for _ in range(2):
            with pytest.raises((DeviceError, EngineIncompatible)):
                segmenter.run_next(frame, state)
            assert len(backend._handles.kept) == kept, "a try leaves no engine on the GPU"
        trt.fails.clear()
        assert segmenter.run(frame).size == (64, 96), "the whole network still runs"
        assert segmenter.run_next(frame, state).canvas_age == 0, "and the part starts at the next try"
    assert nothing_left(machine)


def test_a_part_with_other_tensors_is_rejected(machine: Machine, tmp_path: Path) -> None:
    path = engine_of(tmp_path, machine[0].__name__, tiny_parts.graph(inputs=("frame", "prior")))
    with Segmenter(path) as segmenter, pytest.raises(ArtifactError, match=r"canvas.*prior"):
        segmenter.run_next(tiny.frame(), TemporalState())


def test_a_part_that_cannot_be_captured_runs_without_a_graph(machine: Machine, tmp_path: Path) -> None:
    trt, _ = machine
    with on_cpu(tmp_path) as twin, Segmenter(engine_of(tmp_path, trt.__name__)) as segmenter:
        trt.fails.add("capture")
        results = list(segmenter.stream([tiny.frame()] * 3, detect_every=3))
        expected = list(twin.stream([tiny.frame()] * 3, detect_every=3))
        assert all(same(a, b) for a, b in zip(results, expected, strict=True))


def test_an_engine_without_a_part_says_how_to_get_one(machine: Machine, path: Path) -> None:
    with Segmenter(path) as segmenter, pytest.raises(ArtifactError, match="imp-export --parts"):
        next(segmenter.stream([tiny.frame()], detect_every=2))


def test_frames_of_another_gpu_memory_end_with_their_call(tmp_path: Path) -> None:
    def results(cuda: FakeGpu, own: Segmenter) -> Iterator[Any]:
        yield from own.stream(
            [Interface(on_gpu(cuda, tiny.frame(70, 80, seed=i))) for i in range(3)], blend=0.5
        )

    with fake_gpu() as (_, cuda), Segmenter(engine_of(tmp_path, "tensorrt")) as own:
        assert [r.frame for r in results(cuda, own)] == [None] * 3

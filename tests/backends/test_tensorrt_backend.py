# SPDX-License-Identifier: Apache-2.0
"""Engines through the facade, on a fake GPU: opening, running, graphs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from imp_trt.artifacts.reading import read_artifact
from imp_trt.backends import open_backend
from imp_trt.backends.engine import EngineBackend
from imp_trt.cli.segment import main
from imp_trt.errors import (
    DependencyMissing,
    InvalidInput,
)
from imp_trt.segmenter import Segmenter
from tests.support import tiny
from tests.support.fake_tensorrt import VERSIONS, engine_file, fake_gpu, varying_graph
from tests.support.segmenters import NOTHING, Machine, cpu_twin, nothing_left, same


def test_results_equal_those_of_onnxruntime_bit_by_bit(machine: Machine, path: Path, tmp_path: Path) -> None:
    frames: list[Any] = [tiny.frame(*size) for size in ((64, 96), (128, 192), (33, 47), (1, 1), (300, 20))]
    frames += [Image.fromarray(tiny.frame(50, 60, seed=3)), tiny.frame(64, 96)[..., ::-1]]
    with cpu_twin(tmp_path) as cpu, Segmenter(path) as gpu:
        assert repr(gpu) == "Segmenter(engine, 96x64 fp32, 4 classes)"
        for frame in frames:
            assert same(gpu.run(frame), cpu.run(frame))
            assert same(gpu.run(frame, color="rgb"), cpu.run(frame, color="rgb"))
    assert nothing_left(machine)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_batches_are_split_and_filled_up(machine: Machine, tmp_path: Path, count: int) -> None:
    path = engine_file(tmp_path, machine[0].__name__, varying_graph(3), batch=3)
    frames = [tiny.frame(40 + 13 * i, 96, seed=i) for i in range(count)]
    with cpu_twin(tmp_path, 3) as cpu, Segmenter(path) as gpu:
        before = machine[0].runs
        results = gpu.run_batch(frames)
        assert machine[0].runs - before == -(-count // 3)
        assert len(results) == count
        assert all(same(a, b) for a, b in zip(results, cpu.run_batch(frames), strict=True))
        assert all(same(gpu.run(f), cpu.run(f)) for f in frames)
        if count:  # the places without a frame are gray, not what was there before
            backend = gpu._open_backend()
            assert isinstance(backend, EngineBackend)
            fed = machine[1].array(backend._uploader.input.pointer, (3, 64, 96, 3), np.uint8)
            assert (fed[1:] == backend.manifest.input.pad_value).all()
    assert nothing_left(machine)


def test_the_backend_alone_gives_what_the_protocol_says(machine: Machine, path: Path) -> None:
    backend = open_backend(path)
    outputs = backend.infer(tiny.frame()[None])
    for spec in backend.manifest.outputs:
        assert (outputs[spec.name].dtype.name, outputs[spec.name].shape) == (spec.dtype, spec.shape)
    kept = outputs["semantic"].copy()
    backend.infer(tiny.frame(seed=4)[None])
    assert np.array_equal(outputs["semantic"], kept)
    backend.close()
    backend.close()
    with pytest.raises(InvalidInput, match="closed"):
        backend.infer(tiny.frame()[None])
    assert nothing_left(machine)


def test_the_network_is_captured_once_and_replayed(machine: Machine, path: Path) -> None:
    trt, cuda = machine
    with Segmenter(path) as segmenter:
        enqueued, runs = trt.enqueued, trt.runs
        assert (enqueued, cuda.calls.count("cuStreamBeginCapture")) == (2, 1)  # warm-up, capture
        allocations = cuda.calls.count("cuMemAlloc") + cuda.calls.count("cuMemHostAlloc")
        for i in range(5):
            segmenter.run(tiny.frame(70, 90, seed=i))
        assert trt.enqueued == enqueued
        assert trt.runs == runs + 5
        assert cuda.calls.count("cuGraphLaunch") == 6
        assert cuda.calls.count("cuMemAlloc") + cuda.calls.count("cuMemHostAlloc") == allocations
    assert nothing_left(machine)


def test_without_a_graph(machine: Machine, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, cuda = machine
    with cpu_twin(path.parent) as cpu, Segmenter(path, graph=False) as segmenter:
        assert same(segmenter.run(tiny.frame()), cpu.run(tiny.frame()))
    assert "cuStreamBeginCapture" not in cuda.calls
    assert caplog.text == ""
    assert nothing_left(machine)


@pytest.mark.parametrize("reason", ["capture", "capturable", "cuGraphInstantiate", "cuStreamBeginCapture"])
def test_where_capture_fails_the_network_is_enqueued_and_the_log_says_so_once(
    machine: Machine, path: Path, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    trt, cuda = machine
    if reason.startswith("cu"):
        cuda.fail(reason, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
    else:
        trt.fails.add(reason)
    if reason == "capturable" and trt.__name__ == "tensorrt":
        pytest.skip("TensorRT has no such question")
    with caplog.at_level(logging.INFO, "imp_trt"), Segmenter(path) as segmenter:
        backend = segmenter._open_backend()
        assert isinstance(backend, EngineBackend)
        assert backend.graph is None
        with cpu_twin(path.parent) as cpu:
            for i in range(3):
                assert same(segmenter.run(tiny.frame(seed=i)), cpu.run(tiny.frame(seed=i)))
    assert caplog.text.count("without a CUDA graph") == 1
    if trt.__name__ == "tensorrt_rtx":  # it uses its own graphs
        assert [s.name for s in trt.strategies] == ["DISABLED", "WHOLE_GRAPH_CAPTURE"]
        assert trt.found == 1, "the second context must not compile again what the first one did"
    assert trt.contexts == 1, "two contexts need twice the scratch memory"
    assert nothing_left(machine)


def test_rtx_keeps_what_it_compiled(tmp_path: Path, cache: Path) -> None:
    with fake_gpu("tensorrt_rtx"):
        path = engine_file(tmp_path, "tensorrt_rtx")
        Segmenter(path).close()
        (kept,) = (cache / "tensorrt_rtx").iterdir()
        assert kept.read_bytes() == b"compiled"
        assert kept.name.endswith(".1.7.1.116.bin")
        for old in (b"of another driver", b""):  # rejected by TensorRT-RTX, then replaced
            kept.write_bytes(old)
            Segmenter(path).close()
            assert kept.read_bytes() == b"compiled"


def test_rtx_keeps_what_it_compiled_for_each_gpu_and_driver(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_gpu("tensorrt_rtx"):
        path = engine_file(tmp_path, "tensorrt_rtx")
    for name, driver in (("A", (13, 2)), ("B", (13, 2)), ("A", (13, 3)), ("A", (13, 2))):
        with fake_gpu("tensorrt_rtx", driver_version=driver) as (_, cuda):
            status, _ = cuda.cuDeviceGetName(16, 0)
            monkeypatch.setattr(cuda, "cuDeviceGetName", lambda *_, s=status, n=name: (s, n.encode()))
            Segmenter(path).close()
    assert len(list((cache / "tensorrt_rtx").iterdir())) == 3


def test_rtx_runs_without_a_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path / "file" / "below"))
    with fake_gpu("tensorrt_rtx"), Segmenter(engine_file(tmp_path, "tensorrt_rtx")) as segmenter:
        assert segmenter.run(tiny.frame()).size == (64, 96)
    assert "not cached" in caplog.text


# ---- options ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": 2}, "threads"),
        ({"device": "cpu"}, "--target onnxruntime"),
        ({"device": "gpu0"}, "cuda:<index>"),
        ({"device": ""}, "cuda:<index>"),
        ({"backend": "onnxruntime"}, "ends with .onnx"),
    ],
)
def test_invalid_options(machine: Machine, path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Segmenter(path, **options)
    assert machine[1].alive == NOTHING


def test_the_library_is_chosen_by_the_manifest(machine: Machine, path: Path) -> None:
    name = machine[0].__name__.replace("_", "-")
    other = next(n.replace("_", "-") for n in VERSIONS if n != machine[0].__name__)
    Segmenter(path, backend=name, device="cuda").close()
    Segmenter(path, device="cuda:0").close()
    with pytest.raises(InvalidInput, match=f"pass '{name}'"):
        Segmenter(path, backend=other)
    with pytest.raises(DependencyMissing, match="GPU number 1"):
        Segmenter(path, device="cuda:1")
    assert read_artifact(path).manifest.kind == "engine"


def test_the_command_takes_engines(machine: Machine, path: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "frame.png"), tiny.frame(80, 100))
    maps = tmp_path / "classes.png"
    assert main([str(tmp_path / "frame.png"), "-a", str(path), "--save-classes", str(maps), "-q"]) == 0
    with cpu_twin(tmp_path) as cpu:
        wanted = cpu.run(tiny.frame(80, 100)).semantic
    assert np.array_equal(cv2.imread(str(maps), cv2.IMREAD_UNCHANGED), wanted)
    assert main([str(tmp_path / "frame.png"), "-a", str(path), "--device", "cpu", "-q"]) == 2
    assert nothing_left(machine)

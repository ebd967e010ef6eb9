# SPDX-License-Identifier: Apache-2.0
"""The complete Segmenter on a real GPU: an engine of the bundled weights, built here by TensorRT-RTX."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.artifacts.reading import read_artifact
from imp_trt.backends import preflight
from imp_trt.backends.engine import EngineBackend
from imp_trt.cuda import driver
from imp_trt.cuda.driver import Device
from imp_trt.cuda.platform import Platform
from imp_trt.errors import ImpTrtError
from imp_trt.export import ExportOptions
from imp_trt.export.verification.frames import VerificationFrames
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.weights import bundled
from tests.gpu.conftest import missing, need_torch_cuda

pytestmark = pytest.mark.gpu

FRAMES = 50


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 engine for TensorRT-RTX's own list of GPUs."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install 'imp-trt[tensorrt-rtx]'")
    from imp_trt.export.pipeline import export_model

    folder = tmp_path_factory.mktemp("rtx")
    report = export_model(
        bundled(), folder, ExportOptions(precision="fp32", target="tensorrt-rtx", verify=False)
    )
    return Path(report.path)


@pytest.fixture(scope="module")
def usable(engine: Path) -> Path:
    """The engine, where TensorRT-RTX runs on this GPU."""
    try:
        preflight.check(read_artifact(engine), Platform.detect())
    except ImpTrtError as error:
        pytest.skip(f"TensorRT-RTX does not run here: {error}")
    return engine


@pytest.fixture
def segmenter(usable: Path) -> Iterator[Segmenter]:
    with Segmenter(usable) as opened:
        yield opened


@pytest.fixture(scope="module")
def frames() -> list[NDArray[np.uint8]]:
    with Segmenter(bundled(), device="cpu") as segmenter:
        classes = segmenter.classes
    return [image for image, _ in VerificationFrames(None, FRAMES).load(classes)]


def same(a: SegmentationResult, b: SegmentationResult) -> bool:
    return (
        np.array_equal(a.semantic, b.semantic)
        and a.instances.boxes.tobytes() == b.instances.boxes.tobytes()
        and a.instances.scores.tobytes() == b.instances.scores.tobytes()
        and a.instances.masks.tobytes() == b.instances.masks.tobytes()
    )


def test_preflight_foresees_whether_the_engine_loads(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = read_artifact(engine)
    try:
        preflight.check(artifact, Platform.detect())
        foreseen = None
    except ImpTrtError as error:
        foreseen = error
    if foreseen is not None:
        with pytest.raises(type(foreseen)) as caught:
            Segmenter(engine)
        assert str(caught.value) == str(foreseen)
    monkeypatch.setattr(preflight, "check", lambda *a, **k: None)
    try:
        Segmenter(engine).close()
        rejected = None
    except ImpTrtError as error:
        rejected = error
    assert (foreseen is None) == (rejected is None), f"foreseen: {foreseen}; TensorRT-RTX itself: {rejected}"


def test_parity_with_pytorch(segmenter: Segmenter, frames: list[NDArray[np.uint8]]) -> None:
    equal = total = 0
    with Segmenter(bundled(), device="cpu") as reference:
        for frame in frames:
            ours, theirs = segmenter.run(frame), reference.run(frame)
            equal += int((ours.semantic == theirs.semantic).sum())
            total += theirs.semantic.size
    assert equal / total >= 0.999  # TensorRT may use TF32; the export's own gate is stricter


def test_with_and_without_a_graph(usable: Path, frames: list[NDArray[np.uint8]]) -> None:
    with Segmenter(usable) as first, Segmenter(usable, graph=False) as second:
        backend = first._open_backend()
        assert isinstance(backend, EngineBackend)
        for frame in frames[:10]:
            assert same(first.run(frame), second.run(frame))


def test_results_do_not_change(segmenter: Segmenter, frames: list[NDArray[np.uint8]]) -> None:
    alone = []
    for frame in frames[:20]:
        result = segmenter.run(frame)
        result.semantic, result.instances  # noqa: B018
        alone.append(result)
    waiting = [segmenter.submit(frame) for frame in frames[:20]]
    assert all(same(a, b.result()) for a, b in zip(alone, waiting, strict=True))


def test_torch_tensors_are_read_where_they_are(segmenter: Segmenter, frames: list[NDArray[np.uint8]]) -> None:
    need_torch_cuda()
    import torch

    for frame in frames[:5]:
        there = torch.from_numpy(frame).cuda()
        wanted = segmenter.run(frame)
        assert same(segmenter.run(there), wanted)
        assert same(segmenter.run(there.flip(-1), color="rgb"), wanted)
        # Filled by work that is still waiting on a stream of its own.
        late, side = torch.zeros_like(there), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(50_000_000)
            late.copy_(there)
            assert same(segmenter.run(late), wanted)


def test_closing_gives_the_memory_back(gpu: Device, usable: Path, frames: list[NDArray[np.uint8]]) -> None:
    free = []
    for _ in range(6):
        with Segmenter(usable) as segmenter:
            segmenter.run(frames[0])
        gc.collect()
        free.append(driver.call("cuMemGetInfo")[0])
    # What CUDA and TensorRT-RTX load once, in the first round, stays.
    assert max(free[1:]) - min(free[1:]) <= 32 << 20

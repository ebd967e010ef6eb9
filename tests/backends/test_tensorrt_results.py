# SPDX-License-Identifier: Apache-2.0
"""Results of an engine: on the GPU until they are read, never changed or lost; submit and ResultFuture."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.backends.device_slots import MAX_SLOTS
from imp_trt.errors import DeviceError, InvalidInput
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.video.pipeline import run_pipeline
from imp_trt.video.sources import Frame
from tests.support import tiny
from tests.support.fake_tensorrt import FakeGpu, engine_file, fake_gpu, varying_graph
from tests.support.segmenters import cpu_twin, same

COUNT = MAX_SLOTS + 5


@pytest.fixture
def cuda() -> Iterator[FakeGpu]:
    with fake_gpu() as (_, cuda):
        yield cuda


@pytest.fixture
def path(cuda: FakeGpu, tmp_path: Path) -> Path:
    return engine_file(tmp_path, model=varying_graph())


@pytest.fixture
def segmenter(path: Path) -> Iterator[Segmenter]:
    with Segmenter(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> list[SegmentationResult]:
    """What the CPU says of frames(i)."""
    with cpu_twin(tmp_path_factory.mktemp("cpu")) as cpu:
        return [cpu.run(frame(i)) for i in range(COUNT)]


def frame(i: int) -> NDArray[np.uint8]:
    """Frames that differ in content and size."""
    return np.ascontiguousarray(tiny.frame(60 + 7 * i, 90 + i, seed=i) // (1 + i % 3))


def downloads(cuda: FakeGpu) -> int:
    return cuda.calls.count("cuMemcpyDtoHAsync")


def test_the_frames_tell_results_apart(wanted: list[SegmentationResult]) -> None:
    scores = [result.instances.scores.tobytes() for result in wanted]
    masks = [result.instances.masks.tobytes() for result in wanted]
    assert len(set(scores)) == len(set(masks)) == COUNT


def test_nothing_is_downloaded_before_it_is_read(cuda: FakeGpu, segmenter: Segmenter) -> None:
    result = segmenter.run(frame(0))
    assert result.size == (60, 90)
    assert repr(result) == "SegmentationResult(90x60, 4 classes, instances not read)"
    assert result.frame is None
    assert downloads(cuda) == 0
    first = result.semantic
    assert downloads(cuda) == 1
    assert result.semantic is first
    assert "download" in result.timing
    found = result.instances
    assert result.instances is found
    assert downloads(cuda) == 2
    assert repr(result) == "SegmentationResult(90x60, 4 classes, 2 instances)"
    with pytest.raises(AttributeError):
        result.semantic = first  # type: ignore[misc]
    with pytest.raises(AttributeError, match="masks"):
        result.masks  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("order", ["forward", "backward", "semantic first"])
def test_later_runs_change_no_earlier_result(
    segmenter: Segmenter, wanted: list[SegmentationResult], order: str
) -> None:
    results = [segmenter.run(frame(i)) for i in range(COUNT)]
    numbers = list(range(COUNT))
    if order == "backward":
        numbers.reverse()
    if order == "semantic first":
        for i in numbers:
            assert np.array_equal(results[i].semantic, wanted[i].semantic)
    for i in numbers:
        assert same(results[i], wanted[i])
    for i, result in enumerate([segmenter.run(frame(i)) for i in range(3)]):
        assert same(result, wanted[i])
    assert all(same(result, wanted[i]) for i, result in enumerate(results))


def test_slots_are_used_again(cuda: FakeGpu, segmenter: Segmenter) -> None:
    kept = segmenter.run(frame(0))
    cuda.calls.clear()
    for i in range(30):
        result = segmenter.run(frame(1))
        if i % 3 == 0:
            result.semantic  # noqa: B018 - half read, then dropped
        if i % 3 == 1:
            result.semantic, result.instances  # noqa: B018
    del result
    # One for the kept result, one that goes round, one for the moment when both are held.
    assert cuda.calls.count("cuMemAlloc") <= 2
    assert len(kept.instances) == 2


def test_the_pool_stops_growing_and_moves_the_oldest_to_the_host(
    cuda: FakeGpu, segmenter: Segmenter, wanted: list[SegmentationResult]
) -> None:
    before = cuda.alive["memory"]
    results = [segmenter.run(frame(i)) for i in range(MAX_SLOTS)]
    full = cuda.alive["memory"]
    assert (full - before, downloads(cuda)) == (MAX_SLOTS - 1, 0)
    results += [segmenter.run(frame(i)) for i in range(MAX_SLOTS, COUNT)]
    assert (cuda.alive["memory"], downloads(cuda)) == (full, COUNT - MAX_SLOTS)
    moved = downloads(cuda)
    assert same(results[0], wanted[0])
    assert downloads(cuda) == moved  # it was the oldest that went
    assert all(same(result, wanted[i]) for i, result in enumerate(results))


def test_results_outlive_the_segmenter(path: Path, wanted: list[SegmentationResult]) -> None:
    with Segmenter(path) as segmenter:
        unread, pending = segmenter.run(frame(0)), segmenter.submit(frame(1))
        half = segmenter.run(frame(2))
        half.semantic  # noqa: B018
    assert same(unread, wanted[0])
    assert pending.done()
    assert same(pending.result(), wanted[1])
    assert same(half, wanted[2])


def test_copies_and_pickles_hold_the_answer(segmenter: Segmenter, wanted: list[SegmentationResult]) -> None:
    pickled = pickle.dumps(segmenter.run(frame(4)))
    for clone in (pickle.loads(pickled), copy.copy(segmenter.run(frame(4)))):  # noqa: S301
        segmenter.run(frame(5))
        assert same(clone, wanted[4])
        assert clone.timing["total"] > 0
        assert clone.size == wanted[4].size


def test_a_result_is_the_dataclass_it_says(segmenter: Segmenter, wanted: list[SegmentationResult]) -> None:
    names = ["semantic", "instances", "classes", "timing", "frame", "network_size", "canvas_age"]
    result = segmenter.run(frame(0))
    assert [item.name for item in dataclasses.fields(result)] == names
    plain = dataclasses.asdict(result)
    assert list(plain) == names
    assert np.array_equal(plain["semantic"], wanted[0].semantic)
    changed = dataclasses.replace(segmenter.run(frame(0)), frame=frame(0))
    assert same(changed, wanted[0])
    assert changed.plot().shape == frame(0).shape


def test_outputs_found_while_they_are_dropped_free_their_slot_once(
    cuda: FakeGpu, segmenter: Segmenter
) -> None:
    backend: Any = segmenter._open_backend()
    pool = backend._pool
    result: Any = segmenter.run(frame(0))
    outputs = result._outputs._outputs()
    slot = outputs._slot
    outputs.__del__()  # in one thread, while another moves what is oldest
    outputs.move()
    assert list(pool._free).count(slot) == 1


def test_results_of_a_batch_share_one_slot(cuda: FakeGpu, tmp_path: Path) -> None:
    path = engine_file(tmp_path, model=varying_graph(3), batch=3)
    with cpu_twin(tmp_path, 3) as cpu, Segmenter(path) as gpu:
        for count in (1, 2, 3):
            frames = [frame(i) for i in range(count)]
            results, expected = gpu.run_batch(frames), cpu.run_batch(frames)
            memory, before = cuda.alive["memory"], downloads(cuda)
            for result, other in zip(reversed(results), reversed(expected), strict=True):
                assert same(result, other)
            assert downloads(cuda) - before == count + 1  # each map, and all detections at once
            assert cuda.alive["memory"] == memory
        # Three unread calls of two frames, one of them read by half.
        several = [gpu.run_batch([frame(i), frame(i + 1)]) for i in range(3)]
        several[1][0].semantic  # noqa: B018
        for i, (one, two) in enumerate(several):
            pair = cpu.run_batch([frame(i), frame(i + 1)])
            assert same(one, pair[0])
            assert same(two, pair[1])


def test_an_invalid_output_is_an_error_when_it_is_read(tmp_path: Path, cuda: FakeGpu) -> None:
    manifest = tiny.manifest(classes=type(tiny.CLASSES)(("road", "sky"), (), tiny.CLASSES.palette[:2]))
    with Segmenter(engine_file(tmp_path, manifest=manifest)) as segmenter:
        result = segmenter.run(tiny.frame())
        for _ in range(2):
            with pytest.raises(InvalidInput, match="classes below 2"):
                result.semantic  # noqa: B018
        assert len(result.instances) == 0


def test_threads_read_results_while_frames_run(
    segmenter: Segmenter, wanted: list[SegmentationResult]
) -> None:
    failures: list[object] = []
    results: list[SegmentationResult | None] = [None] * 12

    def read(start: int) -> None:
        for i in (*range(start, 12), *range(start)):
            while (result := results[i]) is None:
                time.sleep(1e-3)
            try:
                if not same(result, wanted[i]):
                    failures.append(i)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=read, args=(start,)) for start in (0, 0, 5)]
    for thread in threads:
        thread.start()
    for i in range(12):
        results[i] = segmenter.run(frame(i))
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_a_frame_starts_while_another_thread_resizes_a_class_map(
    segmenter: Segmenter, wanted: list[SegmentationResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    resizing, go_on = threading.Event(), threading.Event()
    resize = LetterboxTransform.invert_mask

    def slow(transform: LetterboxTransform, semantic: NDArray[np.uint8]) -> NDArray[np.uint8]:
        resizing.set()
        assert go_on.wait(30), "the next frame waited for the resize"
        return resize(transform, semantic)

    monkeypatch.setattr(LetterboxTransform, "invert_mask", slow)
    result = segmenter.run(frame(0))
    maps: list[NDArray[np.uint8]] = []
    reader = threading.Thread(target=lambda: maps.append(result.semantic))
    reader.start()
    assert resizing.wait(30)
    threading.Timer(5, go_on.set).start()
    started = time.perf_counter()
    later = segmenter.submit(frame(1))
    assert time.perf_counter() - started < 4
    go_on.set()
    reader.join(30)
    assert np.array_equal(maps[0], wanted[0].semantic)
    assert same(later.result(), wanted[1])


# ---- submit ----


def test_submit_waits_for_nothing_and_frames_are_done_in_order(
    cuda: FakeGpu, segmenter: Segmenter, wanted: list[SegmentationResult]
) -> None:
    frames = [frame(i) for i in range(COUNT)]
    cuda.calls.clear()
    pending = []
    for i in range(MAX_SLOTS):
        pending.append(segmenter.submit(frames[i]))
        frames[i][...] = 0  # the caller may use its memory again
    assert not {"cuStreamSynchronize", "cuEventSynchronize", "cuMemcpyDtoHAsync"} & set(cuda.calls)
    assert not pending[-1].done()
    assert pending[7].result().size == wanted[7].size
    assert all(one.done() for one in pending[:8])
    assert not pending[-1].done()
    # More than there is room for: the oldest are moved, none are lost.
    pending += [segmenter.submit(frames[i]) for i in range(MAX_SLOTS, COUNT)]
    for i, one in reversed(list(enumerate(pending))):
        assert same(one.result(), wanted[i])
        assert one.result() is one.result()


def test_a_future_is_awaited_in_a_thread(
    cuda: FakeGpu, segmenter: Segmenter, wanted: list[SegmentationResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, loop_thread, threads = cuda.cuEventSynchronize, threading.get_ident(), []

    def synchronize(event: int) -> object:
        threads.append(threading.get_ident())
        return real(event)

    monkeypatch.setattr(cuda, "cuEventSynchronize", synchronize)

    async def program() -> list[SegmentationResult]:
        first, second = segmenter.submit(frame(3)), segmenter.submit(frame(4))
        assert not second.done()
        result = await asyncio.wait_for(second, 30)
        assert threads
        assert loop_thread not in threads
        return [result, *(await asyncio.gather(first, second))]

    assert all(map(same, asyncio.run(program()), (wanted[i] for i in (4, 3, 4))))


def test_waiting_with_a_limit(segmenter: Segmenter, wanted: list[SegmentationResult]) -> None:
    pending = segmenter.submit(frame(3))
    with pytest.raises(TimeoutError, match="0 s"):
        pending.result(timeout=0)
    assert same(pending.result(timeout=30), wanted[3])
    assert repr(pending) == "ResultFuture(93x81)"


def test_a_result_may_be_read_before_it_is_waited_for(
    segmenter: Segmenter, wanted: list[SegmentationResult]
) -> None:
    pending = segmenter.submit(frame(3))
    assert same(pending._result, wanted[3])
    assert pending.result().timing["infer"] > 0


def test_dropped_frames_leave_their_slot(cuda: FakeGpu, segmenter: Segmenter) -> None:
    for i in range(3 * MAX_SLOTS):
        segmenter.submit(frame(i % 5))
    gc.collect()
    assert cuda.alive["memory"] <= 4
    assert downloads(cuda) == 0


def test_submit_on_the_cpu_computes_at_once(tmp_path: Path) -> None:
    with Segmenter(tiny.artifact(tmp_path), threads=1) as segmenter:
        pending = segmenter.submit(tiny.frame())
        assert pending.done()
        assert np.array_equal(pending.result(timeout=0).semantic, tiny.truth(tiny.frame()))
    assert set(pending.result().timing) == {"pre", "infer", "post", "total"}


def test_a_gpu_that_fails_later_is_an_error_of_the_result(cuda: FakeGpu, segmenter: Segmenter) -> None:
    pending = segmenter.submit(frame(0))
    cuda.fail("cuEventSynchronize", "CUDA_ERROR_LAUNCH_FAILED")
    with pytest.raises(DeviceError, match="LAUNCH_FAILED"):
        pending.result()


# ---- timing ----


def test_timing(segmenter: Segmenter) -> None:
    result = segmenter.run(tiny.frame(200, 200))
    steps = dict(result.timing)
    assert set(steps) == {"pre", "upload", "infer", "total"}
    assert all(value > 0 for value in steps.values())
    assert steps["total"] >= steps["pre"] + steps["upload"] + steps["infer"]
    result.semantic  # noqa: B018
    half = dict(result.timing)
    result.instances  # noqa: B018
    assert set(result.timing) == {*steps, "download", "post"}
    assert all(result.timing[name] == steps[name] for name in steps)  # reading is not the call's time
    assert result.timing["download"] > half["download"] > 0
    submitted = segmenter.submit(tiny.frame(200, 200)).result().timing
    assert submitted["total"] == pytest.approx(sum(submitted[n] for n in ("pre", "upload", "infer")))


def test_infer_is_the_gpus_own_time(cuda: FakeGpu, tmp_path: Path) -> None:
    with Segmenter(engine_file(tmp_path)) as segmenter:
        pending = [segmenter.submit(tiny.frame()) for _ in range(3)]
        time.sleep(0.05)  # not the network's
        assert all(one.result().timing["infer"] < 50 for one in pending)


def test_a_run_does_not_end_because_its_time_cannot_be_had(
    segmenter: Segmenter, cuda: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(start: int, end: int) -> None:
        raise RuntimeError("function cuEventElapsedTime_v2 is not found")

    monkeypatch.setattr(cuda, "cuEventElapsedTime", missing, raising=False)
    result = segmenter.run(tiny.frame(200, 200))
    assert result.semantic.shape == (200, 200)
    assert (result.timing["upload"], result.timing["infer"]) == (0.0, 0.0)


# ---- the rest of the facade ----


def test_stream_keeps_frames_and_goes_through_the_pipeline(
    segmenter: Segmenter, wanted: list[SegmentationResult]
) -> None:
    for i, result in enumerate(segmenter.stream(frame(i) for i in range(3))):
        assert same(result, wanted[i])
        assert result.plot().shape == (*wanted[i].size, 3)
        assert result.frame is not None
        assert np.array_equal(result.frame, frame(i))
    (rgb,) = segmenter.stream([frame(0)[..., ::-1]], color="rgb")
    assert rgb.frame is not None
    assert np.array_equal(rgb.frame, frame(0))
    frames: Any = [Frame(frame(i), i, str(i), None) for i in range(3)]
    summary = run_pipeline(segmenter, frames, [])
    assert summary.frames == 3
    # Without sinks only the statistics read the results: that is counted too.
    assert {"pre", "upload", "infer", "total", "download", "post"} <= set(summary.timing_ms)


def test_bad_frames_leave_the_segmenter_usable(
    segmenter: Segmenter, wanted: list[SegmentationResult]
) -> None:
    for bad in (None, "x.jpg", tiny.frame()[..., 0], tiny.frame().astype(np.float32), tiny.frame()[:0]):
        with pytest.raises(InvalidInput, match="frame"):
            segmenter.run(bad)
        with pytest.raises(InvalidInput, match="frame"):
            segmenter.submit(bad)
    with pytest.raises(InvalidInput, match="color"):
        segmenter.run(tiny.frame(), color="hsv")
    assert same(segmenter.run(frame(1)), wanted[1])


def test_score_threshold_leaves_instances_out(path: Path, wanted: list[SegmentationResult]) -> None:
    scores = wanted[0].instances.scores
    with Segmenter(path, score_threshold=float(scores.mean())) as segmenter:
        result = segmenter.run(frame(0))
        assert result.instances.scores.tolist() == [scores[0]]
        assert result.network_size == wanted[0].network_size


def test_a_tensor_on_the_cpu_is_a_frame_in_host_memory(segmenter: Segmenter) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    assert same(segmenter.run(torch.from_numpy(frame(1))), segmenter.run(frame(1)))

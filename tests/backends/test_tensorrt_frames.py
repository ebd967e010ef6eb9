# SPDX-License-Identifier: Apache-2.0
"""Frames that lie on the GPU: read in place after the work that fills them, or rejected."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.errors import InvalidInput
from imp_trt.preprocessing.device_arrays import on_device
from imp_trt.segmenter import Segmenter
from tests.support import tiny
from tests.support.fake_tensorrt import FakeGpu, engine_file, fake_gpu, varying_graph
from tests.support.gpu_arrays import Dlpack, Interface, late, on_gpu
from tests.support.segmenters import same

SIZES = [(64, 96), (128, 192), (33, 47), (1, 1), (300, 20), (90, 1)]


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    monkeypatch.setattr("imp_trt.cuda.kernels._image", lambda op, device: b"kernels")
    with fake_gpu() as (_, cuda):
        yield cuda


@pytest.fixture
def segmenter(cuda: FakeGpu, tmp_path: Path) -> Iterator[Segmenter]:
    with Segmenter(engine_file(tmp_path, model=varying_graph())) as opened:
        yield opened


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [Interface, Dlpack])
@pytest.mark.parametrize("color", [None, "rgb"])
def test_the_answer_is_that_for_the_same_frame_in_host_memory(
    cuda: FakeGpu, segmenter: Segmenter, size: tuple[int, int], kind: Any, color: str | None
) -> None:
    frame = tiny.frame(*size)
    wanted = segmenter.run(frame, color)
    there = on_gpu(cuda, frame)
    cuda.calls.clear()
    result = segmenter.run(kind(there), color)
    # Not a byte of the frame went through the host, nor of the network's class map.
    assert "cuMemcpyHtoDAsync" not in cuda.calls
    assert same(result, wanted)
    entries = [launch.entry for launch in cuda.launches]
    assert entries == ["imp_frame_fit"] + ["imp_semantic_back"] * (size != (64, 96))
    assert np.array_equal(there, frame)
    assert result.frame is None


@pytest.mark.parametrize("kind", [Interface, Dlpack])
def test_rows_may_be_padded(cuda: FakeGpu, segmenter: Segmenter, kind: Any) -> None:
    frame = tiny.frame(50, 70)
    wanted = segmenter.run(frame)
    assert same(segmenter.run(kind(on_gpu(cuda, frame, row_pitch=256))), wanted)
    crop = on_gpu(cuda, tiny.frame(80, 90))[10:60, 5:75]
    assert same(segmenter.run(kind(crop)), segmenter.run(tiny.frame(80, 90)[10:60, 5:75]))


def test_batches_mix_host_and_device_frames(cuda: FakeGpu, tmp_path: Path) -> None:
    frames = [tiny.frame(40 + 13 * i, 96, seed=i) for i in range(5)]
    with Segmenter(engine_file(tmp_path, model=varying_graph(3), batch=3)) as segmenter:
        wanted = segmenter.run_batch(frames)
        for there in ([0], [1], [2], [0, 1], [0, 2], [1, 2, 3], [0, 1, 2, 3, 4]):
            mixed: list[Any] = list(frames)
            for i in there:
                mixed[i] = Interface(on_gpu(cuda, frames[i]))
            results = segmenter.run_batch(mixed)
            assert all(same(a, b) for a, b in zip(results, wanted, strict=True))
            kept = list(segmenter.stream(mixed))
            assert [result.frame is None for result in kept] == [i in there for i in range(5)]


# ---- the producer's stream ----


@pytest.mark.parametrize("stream", [1, 2, "own"])
def test_the_stream_that_an_interface_names_is_waited_for(
    cuda: FakeGpu, segmenter: Segmenter, stream: Any
) -> None:
    frame = tiny.frame(70, 90)
    wanted = segmenter.run(frame)
    there, fill = late(cuda, frame)
    if stream == "own":
        cuda._thread.context = cuda.cuDevicePrimaryCtxRetain(0)[1]
        stream = cuda.cuStreamCreate(1)[1]
    cuda.enqueue(stream, fill)
    cuda.calls.clear()
    result = segmenter.run(Interface(there, stream=stream))
    assert same(result, wanted)
    assert "cuStreamSynchronize" not in cuda.calls[: cuda.calls.index("cuGraphLaunch")]  # the GPU waits


def test_an_old_interface_names_no_stream_so_the_default_one_is_waited_for(
    cuda: FakeGpu, segmenter: Segmenter
) -> None:
    frame = tiny.frame(70, 90)
    there, fill = late(cuda, frame)
    cuda.enqueue(1, fill)
    assert same(segmenter.run(Interface(there, version=2)), segmenter.run(frame))


def test_no_stream_means_that_the_frame_is_ready(cuda: FakeGpu, segmenter: Segmenter) -> None:
    cuda.calls.clear()
    segmenter.run(Interface(on_gpu(cuda, tiny.frame())))
    assert "cuStreamWaitEvent" not in cuda.calls


def test_dlpack_is_given_our_stream(cuda: FakeGpu, segmenter: Segmenter) -> None:
    frame = tiny.frame(70, 90)
    there, fill = late(cuda, frame)
    array = Dlpack(there, cuda, fill)
    assert same(segmenter.run(array), segmenter.run(frame))
    backend: Any = segmenter._open_backend()
    assert array.streams == [backend._stream.handle]


def test_a_frame_is_kept_alive_until_the_gpu_has_read_it(cuda: FakeGpu, segmenter: Segmenter) -> None:
    class Owner(Interface):
        pass

    def submitted() -> tuple[Any, weakref.ref[Any]]:
        owner = Owner(on_gpu(cuda, tiny.frame(70, 90)))
        return segmenter.submit(owner), weakref.ref(owner)

    pending, owner = submitted()
    gc.collect()
    assert owner() is not None
    pending.result()
    gc.collect()
    assert owner() is None
    # Dropped without being waited for: the slot holds on to the frame until the GPU is seen to be done.
    pending, owner = submitted()
    del pending
    gc.collect()
    assert owner() is not None
    for _ in range(2):
        segmenter.run(tiny.frame())
    gc.collect()
    assert owner() is None


# ---- rejections ----


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((8, 9, 3), np.float32), r"(f4|float32) \[8, 9, 3\].*uint8"),
        (np.zeros((8, 9, 3), np.int8), r"i.*\[8, 9, 3\].*convert it to uint8"),
        (np.zeros((3, 8, 9), np.uint8), r"permute\(1, 2, 0\)"),
        (np.zeros((8, 9, 4), np.uint8), r"\.\.\., :3\]"),
        (np.zeros((8, 9), np.uint8), "three channels"),
        (np.zeros((1, 8, 9, 3), np.uint8), "run_batch"),
    ],
)
@pytest.mark.parametrize("kind", [Interface, Dlpack])
def test_other_shapes_and_dtypes(
    cuda: FakeGpu, segmenter: Segmenter, kind: Any, pixels: NDArray[Any], words: str
) -> None:
    there = on_gpu(cuda, pixels)
    with pytest.raises(InvalidInput, match=words):
        segmenter.run(kind(there))
    assert segmenter.run(tiny.frame()).size == (64, 96)


@pytest.mark.parametrize("kind", [Interface, Dlpack])
def test_layouts_that_are_not_packed(cuda: FakeGpu, segmenter: Segmenter, kind: Any) -> None:
    planes = on_gpu(cuda, np.zeros((3, 8, 9), np.uint8)).transpose(1, 2, 0)
    four = on_gpu(cuda, np.zeros((8, 9, 4), np.uint8))[..., :3]
    second = on_gpu(cuda, np.zeros((8, 9, 3), np.uint8))[:, ::2]
    for array in (planes, four, second):
        with pytest.raises(InvalidInput, match=r"strides.*contiguous\(\)"):
            segmenter.run(kind(array))
    flipped = on_gpu(cuda, np.zeros((8, 9, 3), np.uint8))
    if kind is Interface:  # PyTorch has no negative strides
        for array in (flipped[..., ::-1], flipped[::-1], flipped[:, ::-1]):
            with pytest.raises(InvalidInput, match=r"strides.*color='rgb'"):
                segmenter.run(kind(array))


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (0, 9, 3)},
        {"mask": object()},
        {"stream": 0},
        {"stream": "main"},
        {"data": (0, False)},
        {"data": None},
        {"shape": None},
        {"typestr": None},
        {"strides": (27, 3)},
    ],
)
def test_invalid_interfaces(cuda: FakeGpu, segmenter: Segmenter, changes: dict[str, Any]) -> None:
    array = Interface(on_gpu(cuda, np.zeros((8, 9, 3), np.uint8)), **changes)
    with pytest.raises(InvalidInput, match="frame"):
        segmenter.run(array)
    assert segmenter.run(tiny.frame()).size == (64, 96)


def test_memory_of_another_gpu(cuda: FakeGpu, segmenter: Segmenter) -> None:
    there = on_gpu(cuda, tiny.frame())
    cuda.elsewhere.add(there.ctypes.data)
    array = Dlpack(there)
    array.device = (2, 1)
    for frame in (Interface(there), array):
        with pytest.raises(InvalidInput, match=r"memory of GPU 1.*device='cuda:1'"):
            segmenter.run(frame)


def test_memory_of_another_context(cuda: FakeGpu, segmenter: Segmenter) -> None:
    # As pycuda.autoinit makes it: the kernel would fault, and with it everything else in the process.
    there = on_gpu(cuda, tiny.frame())
    cuda.contexts[there.ctypes.data] = 77
    with pytest.raises(InvalidInput, match=r"another CUDA context.*pycuda\.autoprimaryctx"):
        segmenter.run(Interface(there))
    cuda.contexts[there.ctypes.data] = 0
    assert same(segmenter.run(Interface(there)), segmenter.run(tiny.frame()))


def test_memory_that_is_not_the_gpus(segmenter: Segmenter) -> None:
    with pytest.raises(InvalidInput, match="no CUDA memory"):
        segmenter.run(Interface(tiny.frame()))


def test_a_producer_that_rejects(cuda: FakeGpu, segmenter: Segmenter) -> None:
    class NeedsGradient(Dlpack):
        def __dlpack__(self, *, stream: int | None = None) -> Any:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")

    with pytest.raises(InvalidInput, match=r"require gradient.*tensor\.detach\(\)"):
        segmenter.run(NeedsGradient(on_gpu(cuda, tiny.frame())))


def test_what_is_no_frame_on_a_gpu_is_rejected_as_ever(segmenter: Segmenter) -> None:
    for other in ([1, 2], object()):
        assert not on_device(other)
        with pytest.raises(InvalidInput, match="NumPy array"):
            segmenter.run(other)


def test_color_is_checked_for_device_frames_too(cuda: FakeGpu, segmenter: Segmenter) -> None:
    with pytest.raises(InvalidInput, match="color"):
        segmenter.run(Interface(on_gpu(cuda, tiny.frame())), color="hsv")


def test_a_cpu_backend_says_how_to_bring_the_frame(cuda: FakeGpu, tmp_path: Path) -> None:
    with Segmenter(tiny.artifact(tmp_path), threads=1) as segmenter:
        for frame in (Interface(on_gpu(cuda, tiny.frame())), Dlpack(on_gpu(cuda, tiny.frame()))):
            with pytest.raises(InvalidInput, match=r"\.cpu\(\)\.numpy\(\).*TensorRT engine"):
                segmenter.run(frame)


def test_kernels_that_cannot_be_compiled_stop_no_host_frames(
    cuda: FakeGpu, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imp_trt.errors import DependencyMissing

    def missing(op: str, device: object) -> bytes:
        raise DependencyMissing("NVRTC", fix="pip install nvidia-cuda-nvrtc")

    monkeypatch.setattr("imp_trt.cuda.kernels._image", missing)
    with pytest.raises(DependencyMissing, match="NVRTC"):
        segmenter.run(Interface(on_gpu(cuda, tiny.frame())))
    assert segmenter.run(tiny.frame()).semantic.shape == (64, 96)

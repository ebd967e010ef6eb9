# SPDX-License-Identifier: Apache-2.0
"""NV12 frames on the GPU: read in place from any producer, or rejected with a typed error."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt import Nv12Frame, Segmenter
from imp_trt.errors import InvalidInput
from imp_trt.preprocessing.frames import to_bgr
from tests.support import tiny
from tests.support.fake_tensorrt import FakeGpu, engine_file, fake_gpu, varying_graph
from tests.support.gpu_arrays import Dlpack, Interface, late, on_gpu
from tests.support.nv12 import COLORS, random_planes
from tests.support.segmenters import same

SIZE = (70, 90)
Y, UV = random_planes(SIZE)
KINDS = [Interface, Dlpack]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    monkeypatch.setattr("imp_trt.cuda.kernels._image", lambda op, device: b"kernels")
    with fake_gpu() as (_, cuda):
        yield cuda


@pytest.fixture
def segmenter(cuda: FakeGpu, tmp_path: Path) -> Iterator[Segmenter]:
    with Segmenter(engine_file(tmp_path, model=varying_graph())) as opened:
        yield opened


def packed(y: NDArray[np.uint8], uv: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([y, uv.reshape(len(uv), -1)])


def wanted(segmenter: Segmenter, *colors: Any) -> Any:
    """The result for the frame in host memory, converted there."""
    return segmenter.run(to_bgr(Nv12Frame(Y, UV, *colors)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colors", COLORS)
def test_the_answer_is_that_for_the_frame_in_host_memory(
    cuda: FakeGpu, segmenter: Segmenter, kind: Any, colors: tuple[Any, Any]
) -> None:
    expected = wanted(segmenter, *colors)
    planes = [on_gpu(cuda, plane) for plane in (Y, UV)]
    cuda.calls.clear()
    cuda.launches.clear()
    result = segmenter.run(Nv12Frame(*map(kind, planes), *colors))
    assert "cuMemcpyHtoDAsync" not in cuda.calls  # nothing went through the host
    assert same(result, expected)
    assert [launch.entry for launch in cuda.launches] == ["imp_frame_fit_nv12", "imp_semantic_back"]
    assert result.frame is None
    for plane, before in zip(planes, (Y, UV), strict=True):
        np.testing.assert_array_equal(plane, before)
    assert same(segmenter.run(Nv12Frame(Y, UV, *colors)), expected)  # host planes, for the same engine


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_is_the_same_frame(cuda: FakeGpu, segmenter: Segmenter, kind: Any) -> None:
    expected = wanted(segmenter)
    for y, uv in (
        (on_gpu(cuda, Y[..., None]), on_gpu(cuda, UV)),  # PyNvVideoCodec's frame.cuda()
        (on_gpu(cuda, Y, 256), on_gpu(cuda, UV, 512)),
        (on_gpu(cuda, Y, 256), on_gpu(cuda, UV.reshape(35, 90), 256)),
        (on_gpu(cuda, packed(Y, UV)), None),
        (on_gpu(cuda, packed(Y, UV), 512), None),
        (on_gpu(cuda, random_planes((80, 100))[0])[4:74, 6:96], on_gpu(cuda, UV)),
    ):
        plane = Y if y.shape[:2] != SIZE else y.reshape(SIZE)
        if not np.array_equal(plane, Y):  # a crop of another frame
            expected = segmenter.run(to_bgr(Nv12Frame(np.array(y), UV)))
        assert same(segmenter.run(Nv12Frame(kind(y), None if uv is None else kind(uv))), expected)


def test_batches_mix_nv12_and_bgr(cuda: FakeGpu, tmp_path: Path) -> None:
    nv12 = Nv12Frame(Interface(on_gpu(cuda, Y)), Interface(on_gpu(cuda, UV)))
    bgr = tiny.frame(40, 96)
    frames: list[Any] = [nv12, bgr, Interface(on_gpu(cuda, bgr)), Nv12Frame(Y, UV), nv12]
    with Segmenter(engine_file(tmp_path, model=varying_graph(3), batch=3)) as segmenter:
        expected = segmenter.run_batch([to_bgr(Nv12Frame(Y, UV)), bgr, bgr, *[to_bgr(Nv12Frame(Y, UV))] * 2])
        results = segmenter.run_batch(frames)
    assert all(same(a, b) for a, b in zip(results, expected, strict=True))


def test_a_stream_of_decoded_frames(cuda: FakeGpu, tmp_path: Path) -> None:
    sizes = [(70, 90), (64, 96), (70, 90), (2, 2), (300, 20)]
    planes = [random_planes(size, seed) for seed, size in enumerate(sizes)]
    with Segmenter(engine_file(tmp_path, model=varying_graph(2), batch=2)) as segmenter:
        expected = segmenter.run_batch([to_bgr(Nv12Frame(*pair)) for pair in planes])
        assert all(result.size == size for result, size in zip(expected, sizes, strict=True))
        decoded = (Nv12Frame(*(Dlpack(on_gpu(cuda, plane)) for plane in pair)) for pair in planes)
        for result, wish in zip(segmenter.stream(decoded), expected, strict=True):
            assert same(result, wish)
            assert result.frame is None


# ---- the producer's stream ----


@pytest.mark.parametrize("plane", [0, 1])
def test_each_plane_is_waited_for(cuda: FakeGpu, segmenter: Segmenter, plane: int) -> None:
    expected = wanted(segmenter)
    for kind in ("interface", "dlpack"):
        planes: list[Any] = [Interface(on_gpu(cuda, Y)), Interface(on_gpu(cuda, UV))]
        there, fill = late(cuda, (Y, UV)[plane])
        if kind == "interface":
            cuda.enqueue(1, fill)
            planes[plane] = Interface(there, stream=1)
        else:
            planes[plane] = Dlpack(there, cuda, fill)
        assert same(segmenter.run(Nv12Frame(*planes)), expected)


def test_a_producer_that_makes_no_stream_wait(cuda: FakeGpu, segmenter: Segmenter) -> None:
    class LikePyAV(Dlpack):
        def __dlpack__(self, *, stream: int | None = None) -> Any:
            if stream is not None:
                raise NotImplementedError("CUDA stream synchronization is not supported")
            return self.tensor.__dlpack__()

    expected = wanted(segmenter)
    there, fill = late(cuda, Y)
    cuda.enqueue(1, fill)  # the decoder's work, on the default stream
    assert same(segmenter.run(Nv12Frame(LikePyAV(there), LikePyAV(on_gpu(cuda, UV)))), expected)


def test_both_planes_are_kept_alive_until_the_gpu_has_read_them(cuda: FakeGpu, segmenter: Segmenter) -> None:
    class Owner(Interface):
        pass

    def submitted() -> tuple[Any, list[weakref.ref[Any]]]:
        planes = [Owner(on_gpu(cuda, plane)) for plane in (Y, UV)]
        return segmenter.submit(Nv12Frame(*planes)), [weakref.ref(plane) for plane in planes]

    pending, owners = submitted()
    gc.collect()
    assert all(owner() is not None for owner in owners)
    pending.result()
    gc.collect()
    assert all(owner() is None for owner in owners)


# ---- rejections ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("y", "uv", "words"),
    [
        (Y[:, :89], UV, r"even height and width.*70 x 89"),
        (Y[:69], UV, "even height and width"),
        (Y, UV[:34], r"UV plane.*34 rows"),
        (Y, UV[:, :44], r"UV plane.*88 bytes"),
        (packed(Y, UV)[:100], None, r"h \* 3 / 2"),
        (Y[0], UV, "Y plane.*shape"),
        (Y.astype(np.uint16), UV, r"Y plane.*8 bits"),
        (Y, UV.astype(np.float32), r"UV plane.*8 bits"),
    ],
)
def test_what_is_no_nv12(cuda: FakeGpu, segmenter: Segmenter, kind: Any, y: Any, uv: Any, words: str) -> None:
    planes = [None if plane is None else kind(on_gpu(cuda, np.ascontiguousarray(plane))) for plane in (y, uv)]
    with pytest.raises(InvalidInput, match=words):
        segmenter.run(Nv12Frame(*planes))
    assert segmenter.run(tiny.frame()).size == (64, 96)


@pytest.mark.parametrize("kind", KINDS)
def test_planes_that_are_not_packed(cuda: FakeGpu, segmenter: Segmenter, kind: Any) -> None:
    wide = on_gpu(cuda, random_planes((70, 180))[0])
    with pytest.raises(InvalidInput, match=r"Y plane.*strides"):
        segmenter.run(Nv12Frame(kind(wide[:, ::2]), kind(on_gpu(cuda, UV))))
    planar = on_gpu(cuda, np.ascontiguousarray(UV.transpose(2, 0, 1))).transpose(1, 2, 0)
    with pytest.raises(InvalidInput, match=r"UV plane.*strides"):
        segmenter.run(Nv12Frame(kind(on_gpu(cuda, Y)), kind(planar)))


@pytest.mark.parametrize(
    "changes", [{"stream": 0}, {"data": (0, False)}, {"shape": None}, {"strides": (90,)}, {"mask": object()}]
)
def test_invalid_interfaces_name_the_plane(
    cuda: FakeGpu, segmenter: Segmenter, changes: dict[str, Any]
) -> None:
    good, bad = Interface(on_gpu(cuda, Y)), Interface(on_gpu(cuda, UV), **changes)
    with pytest.raises(InvalidInput, match="UV plane"):
        segmenter.run(Nv12Frame(good, bad))


def test_one_plane_in_host_memory(cuda: FakeGpu, segmenter: Segmenter) -> None:
    with pytest.raises(InvalidInput, match=r"UV plane.*memory of the GPU"):
        segmenter.run(Nv12Frame(Interface(on_gpu(cuda, Y)), UV))
    with pytest.raises(InvalidInput, match=r"UV plane.*host memory"):
        segmenter.run(Nv12Frame(Y, Interface(on_gpu(cuda, UV))))


def test_memory_of_another_gpu_or_context(cuda: FakeGpu, segmenter: Segmenter) -> None:
    there = on_gpu(cuda, UV)
    cuda.contexts[there.ctypes.data] = 77
    frame = Nv12Frame(Interface(on_gpu(cuda, Y)), Interface(there))
    with pytest.raises(InvalidInput, match=r"UV plane.*another CUDA context"):
        segmenter.run(frame)
    cuda.elsewhere.add(there.ctypes.data)
    with pytest.raises(InvalidInput, match=r"UV plane.*memory of GPU 1"):
        segmenter.run(frame)


def test_an_order_of_channels_is_rejected(cuda: FakeGpu, segmenter: Segmenter) -> None:
    with pytest.raises(InvalidInput, match=r"color.*Nv12Frame states"):
        segmenter.run(Nv12Frame(Interface(on_gpu(cuda, Y)), Interface(on_gpu(cuda, UV))), "rgb")


def test_a_cpu_backend_says_how_to_bring_the_planes(cuda: FakeGpu, tmp_path: Path) -> None:
    frame = Nv12Frame(Interface(on_gpu(cuda, Y)), Interface(on_gpu(cuda, UV)))
    with (
        Segmenter(tiny.artifact(tmp_path), threads=1) as segmenter,
        pytest.raises(InvalidInput, match=r"Y plane.*TensorRT engine"),
    ):
        segmenter.run(frame)

# SPDX-License-Identifier: Apache-2.0
"""The driver objects on the stand-in and, where there is one, on a real GPU: the same answers."""

from __future__ import annotations

import numpy as np
import pytest

from imp_trt.cuda import driver, kernels
from imp_trt.cuda.driver import Device, DeviceBuffer, Event, Graph, PinnedBuffer, Stream
from imp_trt.errors import DeviceError, UsageError
from imp_trt.preprocessing import letterbox_cuda as frame_fit
from imp_trt.preprocessing.letterbox import LetterboxTransform
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_kernels import kernels as fake_kernels

FIT = LetterboxTransform((20, 30), (64, 96), (64, 96), 0)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    if request.param == "real":
        opened = Device.open()
        yield opened
        opened.close()
        return
    monkeypatch.setattr(kernels, "_image", lambda op, device: b"image")
    with FakeCuda(kernels=fake_kernels()).installed():
        yield Device.open()


@pytest.fixture
def stream(device):
    stream = Stream(device)
    yield stream
    stream.close()


def test_bytes_survive_the_way_there_and_back(stream):
    n = 1 << 20
    there, back, first, second = PinnedBuffer(n), PinnedBuffer(n), DeviceBuffer(n), DeviceBuffer(n)
    there.array[:] = np.random.default_rng(0).integers(0, 256, n, np.uint8)
    driver.copy_in(first.pointer, there.pointer, n, stream.handle)
    driver.copy_on_device(second.pointer, first.pointer, n, stream.handle)
    driver.copy_out(back.pointer, second.pointer, n, stream.handle)
    stream.synchronize()
    np.testing.assert_array_equal(back.array, there.array)
    for buffer in (there, back, first, second):
        buffer.close()


def test_events(stream):
    start, end, plain = Event(timing=True), Event(timing=True), Event()
    buffer = DeviceBuffer(1 << 20)
    start.record(stream.handle)
    driver.call("cuMemsetD8Async", buffer.pointer, 1, buffer.nbytes, stream.handle)
    end.record(stream.handle)
    plain.record(stream.handle)
    plain.synchronize()
    assert plain.query()
    assert end.elapsed_ms(start) >= 0
    with pytest.raises(DeviceError):
        plain.elapsed_ms(start)
    for thing in (start, end, plain, buffer):
        thing.close()


def test_a_graph_replays_copies_and_kernels(device, stream):
    frame_fit.prepare(device)
    host, result = PinnedBuffer(20 * 30 * 3), PinnedBuffer(64 * 96 * 3)
    frame, out = DeviceBuffer(host.nbytes), DeviceBuffer(result.nbytes)

    def body() -> None:
        driver.copy_in(frame.pointer, host.pointer, host.nbytes, stream.handle)
        frame_fit.launch_letterbox(FIT, frame.pointer, 90, False, out.pointer, 0, stream.handle, device)
        driver.copy_out(result.pointer, out.pointer, out.nbytes, stream.handle)

    graph = Graph.capture(stream.handle, body)
    for seed in range(3):
        picture = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
        host.array[:] = picture.ravel()
        graph.launch(stream.handle)
        stream.synchronize()
        expected = FIT.apply(picture).astype(int)
        assert np.abs(result.array.reshape(64, 96, 3) - expected).max() <= 1
    for thing in (graph, host, result, frame, out):
        thing.close()


def test_kernels_are_not_loaded_while_a_graph_is_recorded(device, stream):
    def body() -> None:
        frame_fit.launch_letterbox(FIT, 16, 90, False, 16, 0, stream.handle, device)

    with pytest.raises(UsageError, match="frame_fit are not loaded"):
        Graph.capture(stream.handle, body)
    assert not driver.is_capturing(stream.handle)


def test_what_cannot_be_recorded_leaves_the_stream_usable(device, stream):
    with pytest.raises(DeviceError):
        Graph.capture(stream.handle, stream.synchronize)
    assert not driver.is_capturing(stream.handle)
    stream.synchronize()
    Graph.capture(stream.handle, lambda: None).close()


def test_the_device_names_itself(device):
    assert device.name
    assert device.compute_capability >= (5, 0)
    assert device.driver_version >= (11, 0)
    assert driver.device_info(device.index) == device.info


def test_too_much_memory_is_an_error(device):
    with pytest.raises(DeviceError, match=r"CUDA_ERROR_OUT_OF_MEMORY .*free GPU memory"):
        DeviceBuffer(1 << 60)
    DeviceBuffer(16).close()


@pytest.mark.gpu
def test_compiled_kernels_are_kept_on_disk(gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path))
    kernels.prepare("frame_fit", gpu)
    (entry,) = (tmp_path / "kernels").iterdir()
    written = entry.stat().st_mtime_ns
    second = Device.open()
    kernels.load("frame_fit", "imp_frame_fit", second)
    second.close()
    assert entry.stat().st_mtime_ns == written

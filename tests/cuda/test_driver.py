# SPDX-License-Identifier: Apache-2.0
"""Driver objects against the fake driver: order, errors, capture, clean-up."""

from __future__ import annotations

import gc
import logging
import sys
import threading

import numpy as np
import pytest

from imp_trt.cuda import calls, driver
from imp_trt.cuda.driver import Device, DeviceBuffer, Event, Graph, PinnedBuffer, Stream
from imp_trt.errors import DependencyMissing, DeviceError, InvalidInput
from tests.support.fake_cuda import JUNK, FakeCuda

NOTHING = {"memory": 0, "pinned": 0, "events": 0, "streams": 0, "graphs": 0, "contexts": 0}


@pytest.fixture
def fake():
    with FakeCuda(compute_capability=(8, 7), driver_version=(12, 6)).installed() as installed:
        yield installed


def test_device_says_what_it_is(fake):
    device = Device.open()
    assert (device.index, device.name) == (0, "Fake GPU")
    assert (device.compute_capability, device.driver_version) == ((8, 7), (12, 6))
    device.close()
    device.close()
    assert fake.alive == NOTHING
    with pytest.raises(InvalidInput, match="the device is closed"):
        device.activate()


def test_asking_about_a_device_makes_no_context(fake):
    assert driver.device_info().compute_capability == (8, 7)
    assert fake.alive == NOTHING


def test_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(DependencyMissing, match=r"cuda-bindings.*pip install 'imp-trt\[cuda\]'"):
        driver.bindings()


class DynamicLibNotFoundError(RuntimeError):
    """As cuda.pathfinder raises it, with words of its own."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DynamicLibNotFoundError("many words."), r"no libcuda\.so\.1\. Fix: install"),
        (RuntimeError("libcuda.so.1: wrong ELF class."), r"libcuda.so.1: wrong ELF class\. Fix: install"),
    ],
)
def test_no_driver_library(monkeypatch, error, said):
    class NoLibrary:
        @staticmethod
        def cuDriverGetVersion():
            raise error

    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", NoLibrary)
    with pytest.raises(DependencyMissing, match=f"the NVIDIA driver: got {said}"):
        driver.bindings()
    assert calls._bindings is None


def test_no_gpu():
    with FakeCuda(devices=0).installed(), pytest.raises(DependencyMissing, match="CUDA_ERROR_NO_DEVICE"):
        Device.open()
    with FakeCuda(devices=1).installed(), pytest.raises(DependencyMissing, match="GPU number 3: got 1 GPUs"):
        Device.open(3)


def test_errors_name_function_and_status(fake):
    Device.open()
    fake.fail("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY")
    with pytest.raises(DeviceError, match=r"cuMemAlloc failed: got CUDA_ERROR_OUT_OF_MEMORY .*Fix: free GPU"):
        DeviceBuffer(1)
    fake.fail("cuEventQuery", "CUDA_ERROR_ILLEGAL_ADDRESS")
    with pytest.raises(DeviceError, match="cuEventQuery failed: got CUDA_ERROR_ILLEGAL_ADDRESS"):
        Event().query()


def test_another_thread_must_activate_the_device(fake):
    device, errors = Device.open(), []

    def work():
        try:
            DeviceBuffer(4)
        except DeviceError as error:
            errors.append(error)
        device.activate()
        DeviceBuffer(4).close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "CUDA_ERROR_INVALID_CONTEXT" in str(errors[0])
    assert fake.alive["memory"] == 0


@pytest.mark.parametrize("before", ["none", "primary", "another"])
def test_the_callers_context_comes_back(fake, before):
    device = Device.open()
    primary = driver.call("cuCtxGetCurrent")
    context = {"none": 0, "primary": primary, "another": fake.create_context()}[before]
    driver.call("cuCtxSetCurrent", context)
    with device.activated():
        assert driver.call("cuCtxGetCurrent") == primary
        with device.activated():
            pass
        assert driver.call("cuCtxGetCurrent") == primary
        DeviceBuffer(4).close()
    assert driver.call("cuCtxGetCurrent") == context
    with pytest.raises(KeyError), device.activated():
        raise KeyError
    assert driver.call("cuCtxGetCurrent") == context
    device.close()
    with pytest.raises(InvalidInput, match="the device is closed"), device.activated():
        pass
    assert driver.call("cuCtxGetCurrent") == context


def test_copies_there_and_back(fake):
    stream = Stream(Device.open())
    there, back = PinnedBuffer(6), PinnedBuffer(6)
    first, second = DeviceBuffer(6), DeviceBuffer(0)
    assert second.pointer
    second = DeviceBuffer(6)
    there.array[:] = range(6)
    driver.copy_in(first.pointer, there.pointer, 6, stream.handle)
    driver.copy_on_device(second.pointer, first.pointer, 6, stream.handle)
    driver.copy_out(back.pointer, second.pointer, 6, stream.handle)
    assert (back.array == JUNK).all()
    stream.synchronize()
    np.testing.assert_array_equal(back.array, range(6))


def test_events_mark_their_place(fake):
    stream, buffer = Stream(Device.open()), DeviceBuffer(1)
    start, middle, end = (Event(timing=True) for _ in range(3))
    host = np.zeros(1, np.uint8)
    start.record(stream.handle)
    driver.call("cuMemsetD8Async", buffer.pointer, 5, 1, stream.handle)
    middle.record(stream.handle)
    driver.copy_out(host.ctypes.data, buffer.pointer, 1, stream.handle)
    end.record(stream.handle)
    assert not middle.query()
    middle.synchronize()
    assert middle.query()
    assert host[0] == 0
    assert not end.query()
    end.synchronize()
    assert host[0] == 5
    assert end.elapsed_ms(start) >= middle.elapsed_ms(start) >= 0
    with pytest.raises(DeviceError):
        Event().elapsed_ms(start)


def test_graph_replays_what_was_recorded(fake):
    stream, buffer = Stream(Device.open()), DeviceBuffer(1)
    seen: list[bool] = []

    def body():
        seen.append(driver.is_capturing(stream.handle))
        driver.call("cuMemsetD8Async", buffer.pointer, 5, 1, stream.handle)

    graph = Graph.capture(stream.handle, body)
    assert seen == [True]
    assert not driver.is_capturing(stream.handle)
    stream.synchronize()
    assert fake.array(buffer.pointer, (1,), np.uint8)[0] == JUNK
    graph.launch(stream.handle)
    stream.synchronize()
    assert fake.array(buffer.pointer, (1,), np.uint8)[0] == 5
    assert fake.alive["graphs"] == 1
    graph.close()
    graph.close()
    assert fake.alive["graphs"] == 0


@pytest.mark.parametrize("collecting", [True, False])
def test_no_garbage_is_collected_while_recording(fake, collecting):
    stream, seen = Stream(Device.open()), []
    before = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        Graph.capture(stream.handle, lambda: seen.append(gc.isenabled())).close()
        assert seen == [False]
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_recording_ends_the_recording(fake, error):
    stream = Stream(Device.open())

    def body():
        raise error

    with pytest.raises(error):
        Graph.capture(stream.handle, body)
    assert not driver.is_capturing(stream.handle)
    assert fake.alive["graphs"] == 0
    Graph.capture(stream.handle, lambda: None).close()


def test_what_cannot_be_recorded_is_an_error(fake):
    stream = Stream(Device.open())
    with pytest.raises(DeviceError, match="CAPTURE_UNSUPPORTED"):
        Graph.capture(stream.handle, lambda: DeviceBuffer(1).close())

    def swallow():
        try:
            stream.synchronize()
        except DeviceError:
            pass

    with pytest.raises(
        DeviceError, match="cuStreamEndCapture failed: got CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    ):
        Graph.capture(stream.handle, swallow)
    assert not driver.is_capturing(stream.handle)


def test_graph_is_given_back_when_it_cannot_be_instantiated(fake):
    stream = Stream(Device.open())
    fake.fail("cuGraphInstantiate", "CUDA_ERROR_OUT_OF_MEMORY")
    with pytest.raises(DeviceError):
        Graph.capture(stream.handle, lambda: None)
    assert fake.alive["graphs"] == 0


def test_close_gives_everything_back_once(fake, caplog):
    device = Device.open()
    things = [Stream(device), Event(), DeviceBuffer(3), PinnedBuffer(3)]
    for thing in (*things, *things, device):
        thing.close()
    assert fake.alive == NOTHING
    assert things[3].array.size == 0
    assert not caplog.records


def test_close_never_raises(fake, caplog):
    Device.open()
    buffer = DeviceBuffer(3)
    fake.fail("cuMemFree", "CUDA_ERROR_ILLEGAL_ADDRESS")
    with caplog.at_level(logging.WARNING):
        buffer.close()
    assert "cuMemFree failed: CUDA_ERROR_ILLEGAL_ADDRESS" in caplog.text
    buffer = DeviceBuffer(3)
    fake.fail("cuMemFree", "CUDA_ERROR_DEINITIALIZED")  # the interpreter is on its way out
    caplog.clear()
    buffer.close()
    assert not caplog.records

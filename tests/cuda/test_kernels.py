# SPDX-License-Identifier: Apache-2.0
"""Loading and launching: once per device, never while a graph is recorded, arguments exactly as given."""

from __future__ import annotations

from ctypes import c_int, c_void_p

import pytest

from imp_trt.cuda import driver, kernels, nvrtc
from imp_trt.cuda.driver import Device, Graph, Stream
from imp_trt.errors import DependencyMissing, DeviceError, UsageError
from imp_trt.ops.mask_projection import cuda as mask_projection_cuda
from tests.support.fake_cuda import FakeCuda, Launch
from tests.support.fake_nvrtc import have_nvrtc


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The architectures that were compiled for; nothing really is."""
    done: list[str] = []

    def compile_program(source, target):
        done.append(target.arch)
        return f"{source.name} for {target.arch}".encode()

    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path))
    monkeypatch.setattr(nvrtc, "compile_program", compile_program)
    have_nvrtc(monkeypatch, (13, 2))
    return done


@pytest.fixture
def fake():
    with FakeCuda(kernels={"imp_frame_fit": lambda *_: None}).installed() as installed:
        yield installed


def test_compiled_once_for_all_processes_and_loaded_once_per_device(fake, compiled):
    first, second = Device.open(), Device.open()
    for device in (first, first, second):
        kernels.load("frame_fit", "imp_frame_fit", device)
    assert compiled == ["sm_90"]
    assert fake.calls.count("cuModuleLoadData") == 2
    assert fake.calls.count("cuModuleGetFunction") == 2 * len(kernels.ENTRIES["frame_fit"])
    first.close()
    assert fake.calls.count("cuModuleUnload") == 1
    kernels.load("frame_fit", "imp_frame_fit", second)
    assert fake.calls.count("cuModuleLoadData") == 2


def test_only_what_is_asked_for_is_compiled(fake, monkeypatch, tmp_path):
    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path))
    units = []
    monkeypatch.setattr(kernels, "_image", lambda unit, device: units.append(unit) or b"image")
    device, op = Device.open(), "instance_mask_projection"
    for kind in ("", "_winner", "_backward"):
        kernels.load(op, f"imp_mask_projection{kind}_rect_f16", device)
    assert units == [f"{op}:rect_f16"]
    mask_projection_cuda.prepare(device, sampling="rect")
    assert units[1:] == [f"{op}:rect_f32", f"{op}:rect_bf16"]
    mask_projection_cuda.prepare(device, "nearest", "f32")
    assert units[3:] == [f"{op}:nearest_f32"]
    kernels.prepare(op, device)
    assert len(units) == len(set(units)) == 9
    source = kernels.unit_program(f"{op}:rect_f16").source
    assert source.startswith("#define IMP_MP_ONLY_RULE rect\n#define IMP_MP_ONLY_DTYPE f16\n")
    assert source.endswith(nvrtc.program(op).source)
    assert kernels.unit_program("frame_fit") == nvrtc.program("frame_fit")


def test_ptx_where_the_toolkit_is_older_than_the_gpu(compiled):
    with FakeCuda((12, 0), (13, 2)).installed():
        kernels.prepare("frame_fit", Device.open())
    assert compiled == ["compute_90"]


def test_toolkit_newer_than_the_driver(compiled):
    with (
        FakeCuda(driver_version=(12, 8)).installed(),
        pytest.raises(DependencyMissing, match=r"supports CUDA 12\.8"),
    ):
        kernels.prepare("frame_fit", Device.open())
    assert not compiled


def test_no_loading_while_a_graph_is_recorded(fake, compiled):
    device = Device.open()
    stream = Stream(device)

    def body():
        kernels.load("frame_fit", "imp_frame_fit", device, stream.handle)

    with pytest.raises(UsageError, match=r"frame_fit are not loaded.*captured.*call prepare\(device\)"):
        Graph.capture(stream.handle, body)
    assert not device.modules
    kernels.prepare("frame_fit", device)
    Graph.capture(stream.handle, body)


def test_a_prepared_kernel_can_be_recorded_at_once(fake, compiled):
    device = Device.open()
    stream = Stream(device)
    kernels.prepare("frame_fit", device)

    def body():
        kernel = kernels.load("frame_fit", "imp_frame_fit", device, stream.handle)
        kernel.launch((1, 1, 1), (1, 1, 1), stream.handle, [])

    Graph.capture(stream.handle, body).close()


def test_arguments_arrive_as_they_are(fake, compiled):
    device = Device.open()
    kernel = kernels.load("frame_fit", "imp_frame_fit", device)
    kernel.launch((2, 3, 4), (5, 6, 7), 2, [(2**63, c_void_p), (-1, c_int)])
    assert fake.launches == [Launch("imp_frame_fit", (2, 3, 4), (5, 6, 7), 2, (2**63, -1), (c_void_p, c_int))]
    with pytest.raises(DeviceError, match="cuLaunchKernel failed"):
        kernel.launch((1, 65536, 1), (1, 1, 1), 2, [])


def test_an_image_without_the_entry_points_is_not_kept(fake, compiled, monkeypatch):
    device = Device.open()
    monkeypatch.setitem(kernels.ENTRIES, "frame_fit", ("imp_frame_fit", "imp_other"))
    fake.fail("cuFuncGetAttribute", "CUDA_ERROR_OUT_OF_MEMORY")
    for status in ("OUT_OF_MEMORY", "NOT_FOUND"):
        monkeypatch.setattr("tests.support.fake_cuda.ENTRIES", {})
        with pytest.raises(DeviceError, match=status):
            kernels.prepare("frame_fit", device)
    assert not device.modules
    assert fake.calls.count("cuModuleUnload") == 2


def test_constants_are_read_from_the_header():
    assert kernels.geometry("frame_fit").keys() == {"IMP_FF_BLOCK_W", "IMP_FF_BLOCK_H"}
    assert kernels.geometry("multilevel_roi_align").keys() == {"IMP_RA_CHANNELS", "IMP_RA_THREADS"}
    constants = kernels.geometry("instance_mask_projection")
    names = ("TILE_W", "TILE_H", "THREADS", "BACKWARD_THREADS")
    assert constants.keys() == {f"IMP_MP_{name}" for name in names}
    assert all(value > 0 for value in constants.values())


def test_kernels_of_the_current_context(fake, compiled):
    """Loaded once in each context, which stays current and is not kept alive."""
    Device.open().close()
    first, second = fake.create_context(), fake.create_context()
    devices = []
    for context in (first, second, first):
        driver.call("cuCtxSetCurrent", context)
        devices.append(kernels.current_device())
        kernels.prepare("frame_fit", devices[-1])
        assert driver.call("cuCtxGetCurrent") == context
    assert devices[0] is devices[2]
    assert devices[0] is not devices[1]
    assert fake.calls.count("cuModuleLoadData") == 2
    assert fake.alive["contexts"] == 0
    driver.call("cuCtxSetCurrent", 0)
    with pytest.raises(DeviceError, match="cuCtxGetId"):
        kernels.current_device()


def test_the_shared_device_is_opened_once(fake):
    assert kernels.shared_device(0) is kernels.shared_device(0)
    assert fake.alive["contexts"] == 1
    with FakeCuda().installed():
        assert kernels.shared_device(0) is kernels.shared_device(0)

# SPDX-License-Identifier: Apache-2.0
"""The launchers against the signatures of the kernels and against kernels that run on the host."""

from __future__ import annotations

import re
import subprocess
import sys
from ctypes import c_float, c_int, c_longlong, c_void_p

import numpy as np
import pytest

from imp_trt.artifacts.manifest import InputContract
from imp_trt.cuda import driver, kernels, nvrtc
from imp_trt.cuda.driver import Device, DeviceBuffer, Stream
from imp_trt.errors import DependencyMissing, InvalidInput, UsageError
from imp_trt.ops.mask_projection import cuda as mask_projection_cuda
from imp_trt.ops.mask_projection.cuda import launch_mask_projection
from imp_trt.ops.roi_align import cuda as multilevel_roi_align_cuda
from imp_trt.ops.roi_align.cuda import launch_multilevel_roi_align
from imp_trt.preprocessing import letterbox_cuda as frame_fit
from imp_trt.preprocessing.device_arrays import DeviceChroma, DeviceFrame
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.preprocessing.nv12 import Nv12Frame, YuvToBgr
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_kernels import kernels as fake_kernels
from tests.support.nv12 import nv12_reference, random_planes

PTX_TYPES = {c_void_p: "u64", c_longlong: "u64", c_int: "u32", c_float: "f32"}
NV12 = DeviceFrame(16, (8, 8), 8, None, DeviceChroma(80, 8, YuvToBgr.of(Nv12Frame(None))))
POINTERS = dict(boxes=16, scores=32, labels=48, masks=64, canvas=80)
SIZES = dict(label_bytes=8, batch=2, instances=3, classes=4, height=50, width=70, cells=28)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path))
    monkeypatch.setattr(kernels, "_image", lambda op, device: b"image")
    with FakeCuda(kernels=fake_kernels()).installed() as installed:
        yield installed


def project(**changes):
    options = dict(spatial_scale=0.25, sampling="bilinear", dtype="f16", stream=2, device=Device.open())
    launch_mask_projection(**{**POINTERS, **SIZES, **options, **changes})


def pool(**changes):
    device = Device.open()
    sizes = [(50, 70), (25, 35), (13, 18), (7, 9)]
    options = dict(output_size=7, sampling_ratio=2, canonical_level=4, canonical_size=224)
    counts = dict(batch=2, boxes_per_image=3, channels=40)
    arguments = {**counts, **options, "sizes": sizes, "dtype": "bf16", "stream": 2, "device": device}
    launch_multilevel_roi_align(16, 32, 48, 64, 80, 96, **{**arguments, **changes})


def fit_of(frame, rule="letterbox"):
    if rule == "stretch":
        return LetterboxTransform(frame, (40, 48), (40, 48), 114)
    return LetterboxTransform.of(frame, InputContract(height=40, width=48, fit=rule))


def test_mask_projection(fake):
    project()
    (launch,) = fake.launches
    constants = kernels.geometry("instance_mask_projection")
    assert launch.entry == "imp_mask_projection_bilinear_f16"
    assert launch.values == (16, 32, 48, 64, 80, 8, 2, 3, 4, 50, 70, 28, 0.25)
    tiles = -(-70 // constants["IMP_MP_TILE_W"]), -(-50 // constants["IMP_MP_TILE_H"])
    assert launch.grid == (*tiles, 8)
    assert launch.block == (constants["IMP_MP_THREADS"], 1, 1)
    assert launch.stream == 2


def test_mask_projection_of_many_planes_or_none(fake):
    project(batch=1000, classes=100)
    assert fake.launches.pop().grid[2] == 65535
    project(instances=0)
    assert fake.launches.pop().grid[2] == 8  # zeros are to be written
    project(batch=0)
    assert not fake.launches


@pytest.mark.parametrize(
    ("name", "value"), [("sampling", "cubic"), ("dtype", "f64"), ("dtype", "float16"), ("label_bytes", 2)]
)
def test_mask_projection_rejects(fake, name, value):
    with pytest.raises(InvalidInput, match=rf"{name}: expected .* or .*, got {value!r}"):
        project(**{name: value})


def test_multilevel_roi_align(fake):
    pool()
    (launch,) = fake.launches
    constants = kernels.geometry("multilevel_roi_align")
    assert launch.entry == "imp_multilevel_roi_align_bf16"
    assert launch.values[:9] == (16, 32, 48, 64, 80, 96, 2, 3, 40)
    assert launch.values[9:] == (50, 70, 25, 35, 13, 18, 7, 9, 7, 2, 4, 224, 0)
    pool(aligned=True)
    assert fake.launches.pop().values[-1] == 1
    assert launch.grid == (6, -(-40 // constants["IMP_RA_CHANNELS"]), 1)
    assert launch.block == (constants["IMP_RA_THREADS"], 1, 1)
    pool(sampling_ratio=0)
    assert fake.launches.pop().values[-4] == 0
    for ratio in (-1, 65, 2**31 - 1):
        with pytest.raises(InvalidInput, match=rf"sampling_ratio: expected 0 .* got {ratio}"):
            pool(sampling_ratio=ratio)
    pool(boxes_per_image=0)
    assert len(fake.launches) == 1
    with pytest.raises(InvalidInput, match="dtype: expected f32 or f16 or bf16, got 'f64'"):
        pool(dtype="f64")
    pool(layout="hwc8")
    assert fake.launches[-1].entry == "imp_multilevel_roi_align_hwc8_bf16"
    assert fake.launches[-1].grid == launch.grid
    with pytest.raises(InvalidInput, match="dtype: expected f16 or bf16, got 'f32'"):
        pool(layout="hwc8", dtype="f32")
    with pytest.raises(InvalidInput, match="layout: expected linear or hwc8, got 'chw4'"):
        pool(layout="chw4")


def upload(array, stream):
    """A device copy of a contiguous array, uint8."""
    buffer = DeviceBuffer(array.nbytes)
    driver.copy_in(buffer.pointer, array.ctypes.data, array.nbytes, stream.handle)
    return buffer


def covers(launch, height, width):
    """Whether the blocks cover an image, and none lies outside."""
    (columns, rows, depth), (block_w, block_h, _) = launch.grid, launch.block
    return (columns, rows, depth) == (-(-width // block_w), -(-height // block_h), 1)


@pytest.mark.parametrize("rule", ["letterbox", "stretch"])
@pytest.mark.parametrize("frame", [(120, 200), (30, 33), (40, 48)])
def test_frame_fit(fake, frame, rule):
    device = Device.open()
    stream = Stream(device)
    (h, w), transform = frame, fit_of(frame, rule)
    picture = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
    rows = np.zeros((h, 3 * w + 5), np.uint8)
    rows[:, : 3 * w] = picture.reshape(h, -1)
    source, out = upload(rows, stream), DeviceBuffer(40 * 48 * 3)
    frame_fit.launch_letterbox(
        transform,
        source.pointer,
        rows.shape[1],
        True,
        out.pointer,
        transform.pad_value,
        stream.handle,
        device,
    )
    stream.synchronize()
    expected = transform.apply(np.ascontiguousarray(picture[..., ::-1]))
    np.testing.assert_array_equal(fake.array(out.pointer, (40, 48, 3), np.uint8), expected)
    assert covers(fake.launches[-1], 40, 48)


@pytest.mark.parametrize("rule", ["letterbox", "stretch"])
@pytest.mark.parametrize("frame", [(120, 200), (30, 34), (40, 48)])
def test_frame_fit_nv12(fake, frame, rule):
    device = Device.open()
    stream, transform = Stream(device), fit_of(frame, rule)
    y, uv = random_planes(frame)
    planes = [upload(plane, stream) for plane in (y, uv)]
    numbers = YuvToBgr.of(Nv12Frame(y, uv, "bt709", "full"))
    described = DeviceFrame(
        planes[0].pointer, frame, frame[1], None, DeviceChroma(planes[1].pointer, frame[1], numbers)
    )
    out = DeviceBuffer(40 * 48 * 3)
    frame_fit.launch_letterbox_nv12(
        transform, described, out.pointer, transform.pad_value, stream.handle, device
    )
    stream.synchronize()
    expected = transform.apply(nv12_reference(y, uv, numbers))
    np.testing.assert_array_equal(fake.array(out.pointer, (40, 48, 3), np.uint8), expected)
    assert covers(fake.launches[-1], 40, 48)


def test_packed_pixels_are_not_taken_for_nv12(fake):
    with pytest.raises(UsageError, match="NV12"):
        frame_fit.launch_letterbox_nv12(
            fit_of((9, 9)), DeviceFrame(16, (9, 9), 27, None), 32, 0, 2, Device.open()
        )


def test_semantic_back(fake):
    device = Device.open()
    stream, transform = Stream(device), fit_of((120, 200))
    semantic = np.random.default_rng(0).integers(0, 19, (40, 48), np.uint8)
    source, out = upload(semantic, stream), DeviceBuffer(120 * 200)
    frame_fit.launch_invert_mask(transform, source.pointer, out.pointer, stream.handle, device)
    stream.synchronize()
    np.testing.assert_array_equal(
        fake.array(out.pointer, (120, 200), np.uint8), transform.invert_mask(semantic)
    )
    assert covers(fake.launches[-1], 120, 200)


def test_prepare_loads_before_the_first_launch(fake):
    device = Device.open()
    for launcher in (mask_projection_cuda, multilevel_roi_align_cuda, frame_fit):
        launcher.prepare(device)
    operators = {unit.partition(":")[0] for unit in device.modules}
    assert operators == {"instance_mask_projection", "multilevel_roi_align", "frame_fit"}


def parameters(op):
    """Entry point -> the PTX types of its parameters, as the compiler understood the source."""
    try:
        ptx = nvrtc.compile_kernels(op, "compute_80").decode()
    except DependencyMissing as error:
        pytest.skip(str(error))
    entries = re.findall(r"\.visible \.entry (\w+)\((.*?)\)", ptx, re.DOTALL)
    return {name: re.findall(r"\.param \.(\w+)", text) for name, text in entries}


@pytest.mark.parametrize(
    "op",
    [
        "multilevel_roi_align",
        "frame_fit",
        pytest.param("instance_mask_projection", marks=pytest.mark.slow),
    ],
)
def test_arguments_have_the_types_of_the_parameters(fake, op):
    device = Device.open()
    if op == "multilevel_roi_align":
        for dtype in ("f32", "f16", "bf16"):
            pool(dtype=dtype)
        for dtype in ("f16", "bf16"):
            pool(dtype=dtype, layout="hwc8")
    elif op == "frame_fit":
        frame_fit.launch_letterbox(fit_of((9, 9)), 16, 27, False, 32, 0, 2, device)
        frame_fit.launch_letterbox_nv12(fit_of((8, 8)), NV12, 32, 0, 2, device)
        frame_fit.launch_invert_mask(fit_of((9, 9)), 16, 32, 2, device)
    else:
        for rule in ("bilinear", "nearest", "rect"):
            for dtype in ("f32", "f16", "bf16"):
                launch_every_projection(rule, dtype, device)
    given = {launch.entry: [PTX_TYPES[kind] for kind in launch.types] for launch in fake.launches}
    assert given == parameters(op)


def launch_every_projection(rule, dtype, device):
    project(sampling=rule, dtype=dtype)
    call = mask_projection_cuda.Call(*SIZES.values(), 1.0, rule, dtype)
    mask_projection_cuda._launch_tiles("imp_mask_projection_winner", (16,) * 5, call, 2, device)
    mask_projection_cuda._launch_backward((16,) * 8, call, 2, device)


def test_names_of_the_sizes_are_in_the_order_of_the_source():
    source = nvrtc.program("instance_mask_projection").source
    names = re.search(r"#define IMP_MP_SIZES(.*?)\n#define", source, re.DOTALL)
    assert names is not None
    found = re.findall(r"(?:int|float) (\w+)", names[1])
    assert found == list(mask_projection_cuda.Call._fields[:8])
    source = nvrtc.program("multilevel_roi_align").source
    text = re.sub(r"[\\\s]+", " ", source)
    assert "batch, int boxes_per_image, int channels, int h2, int w2, int h3" in text
    assert (
        "int output_size, int sampling_ratio, int canonical_level, int canonical_size, int aligned)" in text
    )


def test_the_real_bindings_take_the_arguments(fake):
    real = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    try:
        real.cuDriverGetVersion()
        pytest.skip("there is a driver, which would take the made-up function handle for a real one")
    except RuntimeError:
        pass
    device = Device.open()
    launch_every_projection("nearest", "f32", device)
    pool()
    frame_fit.launch_letterbox(fit_of((9, 9)), 16, 27, False, 32, 0, 2, device)
    frame_fit.launch_letterbox_nv12(fit_of((8, 8)), NV12, 32, 0, 2, device)
    for launch in fake.launches:
        arguments = (*launch.grid, *launch.block, 0, launch.stream, (launch.values, launch.types), 0)
        with pytest.raises(RuntimeError, match=r"driver|libcuda"):  # only the library is missing
            real.cuLaunchKernel(real.CUfunction(8), *arguments)


def test_launchers_import_neither_pytorch_nor_cuda():
    code = """
import sys
import imp_trt.preprocessing.letterbox_cuda, imp_trt.ops.mask_projection.cuda, imp_trt.ops.roi_align.cuda
print(sorted({"torch", "cuda", "cv2"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

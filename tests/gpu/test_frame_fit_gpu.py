# SPDX-License-Identifier: Apache-2.0
"""Frames and class maps resized on the GPU against `LetterboxTransform` on the host."""

from __future__ import annotations

import numpy as np
import pytest

from imp_trt import Nv12Frame
from imp_trt.cuda import driver
from imp_trt.cuda.driver import DeviceBuffer, Stream
from imp_trt.preprocessing import letterbox_cuda as frame_fit
from imp_trt.preprocessing.device_arrays import DeviceChroma, DeviceFrame
from imp_trt.preprocessing.frames import to_bgr
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.preprocessing.nv12 import YuvToBgr
from tests.support.nv12 import COLORS, nv12_reference

pytestmark = pytest.mark.gpu

FITS = {
    "shrink": LetterboxTransform((720, 1280), (384, 768), (384, 683), 114),
    "shrink by whole numbers": LetterboxTransform((768, 1536), (384, 768), (384, 768), 0),
    "grow": LetterboxTransform((100, 150), (256, 384), (256, 384), 114),
    "shrink one axis": LetterboxTransform((100, 900), (256, 384), (256, 384), 114),
    "as it is": LetterboxTransform((64, 96), (64, 96), (64, 96), 0),
    "pad only": LetterboxTransform((64, 80), (64, 96), (64, 80), 7),
    "one pixel": LetterboxTransform((1, 1), (33, 65), (33, 33), 255),
}


class Rig:
    """A stream and buffers that are given back at the end."""

    def __init__(self, device):
        self.device, self.stream, self.buffers = device, Stream(device), []

    def upload(self, array):
        buffer = self.empty(array.nbytes)
        driver.copy_in(buffer.pointer, array.ctypes.data, array.nbytes, self.stream.handle)
        self.stream.synchronize()
        return buffer

    def empty(self, nbytes):
        self.buffers.append(DeviceBuffer(nbytes))
        return self.buffers[-1]

    def download(self, buffer, shape):
        out = np.empty(shape, np.uint8)
        driver.copy_out(out.ctypes.data, buffer.pointer, out.nbytes, self.stream.handle)
        self.stream.synchronize()
        return out

    def close(self):
        for thing in (*self.buffers, self.stream):
            thing.close()


@pytest.fixture
def rig(gpu):
    rig = Rig(gpu)
    yield rig
    rig.close()


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("name", FITS)
def test_forward(rig, name, swap):
    transform = FITS[name]
    (h, w), (height, width) = transform.frame, transform.network
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (h, 3 * w + 9), np.uint8)
    picture = np.ascontiguousarray(rows[:, : 3 * w].reshape(h, w, 3)[..., :: -1 if swap else 1])
    source, out = rig.upload(rows), rig.upload(np.full((height, width, 3), 99, np.uint8))
    frame_fit.launch_letterbox(
        transform,
        source.pointer,
        rows.shape[1],
        swap,
        out.pointer,
        transform.pad_value,
        rig.stream.handle,
        rig.device,
    )
    got = rig.download(out, (height, width, 3)).astype(int)
    expected = transform.apply(picture, np.empty((height, width, 3), np.uint8)).astype(int)
    rh, rw = transform.resized
    np.testing.assert_array_equal(got[rh:], transform.pad_value)
    np.testing.assert_array_equal(got[:, rw:], transform.pad_value)
    # OpenCV blends in fixed point, and rounds the halves of a mean in its own way.
    assert np.abs(got - expected).max() <= 1
    if transform.frame == transform.resized:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("colors", COLORS)
@pytest.mark.parametrize("name", [name for name in FITS if name != "one pixel"])
def test_forward_nv12(rig, name, colors):
    transform = FITS[name]
    (h, w), (height, width) = transform.frame, transform.network
    rng = np.random.default_rng(0)
    rows, pairs = (
        rng.integers(0, 256, (side, w + slack), np.uint8) for side, slack in ((h, 9), (h // 2, 26))
    )
    frame = Nv12Frame(rows[:, :w], pairs[:, :w], *colors)
    y, uv = rig.upload(rows), rig.upload(pairs)
    chroma = DeviceChroma(uv.pointer, pairs.shape[1], YuvToBgr.of(frame))
    planes = DeviceFrame(y.pointer, (h, w), rows.shape[1], None, chroma)
    outs = [rig.upload(np.full((height, width, 3), 99, np.uint8)) for _ in range(2)]
    common = (transform.pad_value, rig.stream.handle, rig.device)
    frame_fit.launch_letterbox_nv12(transform, planes, outs[0].pointer, *common)
    # The host's conversion has the same integers, but for OpenCV's on processors other than x86.
    bgr = nv12_reference(rows[:, :w], pairs[:, :w].reshape(h // 2, w // 2, 2), chroma.to_bgr)
    assert np.abs(bgr.astype(int) - to_bgr(frame)).max() <= 1
    picture = rig.upload(bgr)
    frame_fit.launch_letterbox(transform, picture.pointer, 3 * w, False, outs[1].pointer, *common)
    fused, in_two_steps = (rig.download(out, (height, width, 3)) for out in outs)
    np.testing.assert_array_equal(fused, in_two_steps)


@pytest.mark.parametrize("name", FITS)
def test_semantic_back(rig, name):
    transform = FITS[name]
    semantic = np.random.default_rng(1).integers(0, 19, transform.network, np.uint8)
    source, out = rig.upload(semantic), rig.empty(transform.frame[0] * transform.frame[1])
    frame_fit.launch_invert_mask(transform, source.pointer, out.pointer, rig.stream.handle, rig.device)
    np.testing.assert_array_equal(rig.download(out, transform.frame), transform.invert_mask(semantic))

# SPDX-License-Identifier: Apache-2.0
"""PyCUDA's frames, on a stand-in for PyCUDA, CUDA and TensorRT; for real where there is a GPU with PyCUDA."""

from __future__ import annotations

import importlib.util
import shutil

import cv2
import numpy as np
import pytest

from imp_trt import Segmenter
from imp_trt.cuda import nvrtc
from imp_trt.cuda.nvrtc import Program
from imp_trt.errors import DependencyMissing
from imp_trt.video import open_source
from tests.gpu.conftest import missing
from tests.samples.conftest import CLIP_FRAMES
from tests.support import fake_pycuda
from tests.support.fake_tensorrt import engine_file, fake_gpu, varying_graph
from tests.support.segmenters import cpu_twin, same

PROGRAM = "pycuda_interop/pycuda_interop.py"
GAMMA = 0.5
CURVE = (255 * (np.arange(256) / 255) ** GAMMA).round().astype(np.uint8)


@pytest.fixture
def cuda(tmp_path, monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("imp_trt.cuda.kernels._image", lambda op, device: b"kernels")
    with fake_gpu() as (_, cuda):
        fake_pycuda.install(cuda, tmp_path, monkeypatch)
        yield cuda


@pytest.mark.slow
def test_frames_go_through_the_kernel_into_the_engine(cuda, sample, tmp_path, clip):
    program = sample(PROGRAM)
    with Segmenter(engine_file(tmp_path, model=varying_graph())) as segmenter:
        cuda.calls.clear()
        found = list(program.segment(segmenter, str(clip), GAMMA))
        # One upload a frame, PyCUDA's own: nothing went through the host again.
        assert cuda.calls.count("cuMemcpyHtoDAsync") == len(found) == CLIP_FRAMES
    with cpu_twin(tmp_path) as reference, open_source(clip) as frames:
        for result, frame in zip(found, frames, strict=True):
            assert same(result, reference.run(cv2.LUT(frame.image, CURVE)))


def test_the_engine_waits_for_pycuda_s_stream_on_the_gpu(cuda, sample, tmp_path):
    program = sample(PROGRAM)
    tone = program.ToneCurve(1.0)
    with Segmenter(engine_file(tmp_path, model=varying_graph())) as segmenter:
        frame = np.full((64, 96, 3), 200, np.uint8)
        segmenter.run(tone.upload(frame))
        cuda.calls.clear()
        assert segmenter.run(tone.upload(frame)).semantic.min() == 200 // 64
        assert "cuStreamWaitEvent" in cuda.calls
        # Without OnStream the array claims to be ready, and the engine reads what is not there yet.
        early = segmenter.run(tone.upload(np.zeros_like(frame)).array)
        assert early.semantic.max() > 0


def test_it_prints_what_it_saw(cuda, sample, tmp_path, clip, capsys):
    assert sample(PROGRAM).main([str(engine_file(tmp_path)), str(clip)]) == CLIP_FRAMES
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == CLIP_FRAMES + 1
    assert "2 instances" in lines[0]
    assert lines[-1].startswith(f"{CLIP_FRAMES} frames, ")


def test_the_kernel_is_cuda(cuda, sample):
    try:
        nvrtc.version()
    except DependencyMissing as error:
        pytest.skip(str(error))
    # PyCUDA puts the same around it.
    source = f'extern "C" {{\n{sample(PROGRAM).KERNEL}\n}}\n'
    assert b".entry tone(" in nvrtc.compile_program(Program("tone.cu", source, {}), "compute_80")


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="needs PyCUDA: pip install pycuda")
def test_the_kernel_on_a_gpu(sample):
    if (reason := missing()) is not None:
        pytest.skip(reason)
    program = sample(PROGRAM)
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    tone = program.ToneCurve(GAMMA)
    there = tone.upload(image)
    tone.stream.synchronize()
    assert np.array_equal(there.array.get(), CURVE[image])

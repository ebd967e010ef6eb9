# SPDX-License-Identifier: Apache-2.0
"""PyTorch before and after the network: on the CPU for real, with frames on a GPU on a stand-in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from imp_trt import Segmenter
from imp_trt.errors import InvalidInput
from imp_trt.video import open_source
from tests.samples.conftest import CLIP_FRAMES
from tests.support import tiny
from tests.support.fake_tensorrt import engine_file, fake_gpu, varying_graph
from tests.support.segmenters import cpu_twin, same

torch = pytest.importorskip("torch", reason="needs PyTorch")

PROGRAM = "pytorch_loop/pytorch_loop.py"


@pytest.fixture
def program(sample):
    return sample(PROGRAM)


def test_the_exposure_follows_the_scene(program):
    expose = program.AutoExposure()
    dark = torch.full((4, 6, 3), 55, dtype=torch.uint8)
    assert expose(dark).float().mean() == 110, "the first frame is right at once"
    bright = torch.full((4, 6, 3), 220, dtype=torch.uint8)
    levels = [float(expose(bright).float().mean()) for _ in range(40)]
    assert levels[0] == 255, "too bright at first"
    assert all(a >= b for a, b in itertools.pairwise(levels))
    assert levels[-1] == pytest.approx(110, abs=2)
    assert int(bright.min()) == 220, "the frame itself is not changed"
    assert expose(torch.zeros_like(bright)).max() == 0


def test_free_road_ends_at_the_first_obstacle(program):
    semantic = torch.tensor([[0, 0, 1], [0, 2, 0], [0, 0, 0], [0, 0, 3]], dtype=torch.uint8)
    assert program.free_road(semantic, 0).tolist() == [4, 2, 0]
    assert program.free_road(torch.zeros((700, 2), dtype=torch.uint8), 0).tolist() == [700, 700]


@pytest.mark.slow
def test_the_loop_on_the_cpu_copies_no_frame(program, artifact, clip, monkeypatch):
    taken = []
    run = Segmenter.run
    monkeypatch.setattr(Segmenter, "run", lambda self, frame: taken.append(frame) or run(self, frame))
    exposed = []
    call = program.AutoExposure.__call__

    def keeping(self, frame):
        exposed.append(call(self, frame))
        return exposed[-1]

    monkeypatch.setattr(program.AutoExposure, "__call__", keeping)
    assert program.main([str(artifact), str(clip)]) == CLIP_FRAMES
    assert len(taken) == CLIP_FRAMES
    assert all(np.shares_memory(a, t.numpy()) for a, t in zip(taken, exposed, strict=True))


def test_the_answer_is_that_for_the_exposed_frame(program, artifact, clip):
    expose = program.AutoExposure()
    with Segmenter(artifact) as segmenter, open_source(clip) as frames:
        steps = list(program.drive(segmenter, str(clip), torch.device("cpu")))
        for step, frame in zip(steps, frames, strict=True):
            wanted = segmenter.run(expose(torch.from_numpy(frame.image)).numpy())
            assert np.array_equal(step.result.semantic, wanted.semantic)
            assert torch.equal(step.free, program.free_road(torch.from_numpy(wanted.semantic), 0))


def test_the_callers_own_gradients_go_on_between_the_steps(program, artifact, clip):
    with Segmenter(artifact) as segmenter:
        for step in itertools.islice(program.drive(segmenter, str(clip), torch.device("cpu")), 2):
            assert not torch.is_inference_mode_enabled()
            assert step.free.is_inference()


def test_a_network_with_another_name_of_the_road(program, artifact, clip, capsys):
    with pytest.raises(InvalidInput, match=r"road.*person.*--road CLASS"):
        program.main([str(artifact), str(clip), "--road", "motorway"])
    assert program.main([str(artifact), str(clip), "--road", "car"]) == CLIP_FRAMES


class _OnGpu:
    """What a CUDA tensor is to its readers, over the fake GPU's memory."""

    is_cuda = True

    def __init__(self, cuda, tensor):
        pixels = tensor.numpy()
        memory = cuda.array(cuda._allocate(pixels.nbytes, cuda._memory), pixels.shape, np.uint8)
        self._cuda, self._memory, self._pixels = cuda, torch.from_numpy(memory), pixels

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, *, stream):
        # PyTorch makes the reader's stream wait for its own; here its work is done there, not earlier.
        self._cuda.enqueue(stream, lambda: np.copyto(self._memory.numpy(), self._pixels))
        return self._memory.__dlpack__()


def test_a_tensor_on_the_gpu_is_read_where_it_lies(program, tmp_path, monkeypatch):
    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("imp_trt.cuda.kernels._image", lambda op, device: b"kernels")
    exposed = program.AutoExposure()(torch.from_numpy(tiny.frame(50, 70)))
    with fake_gpu() as (_, cuda), Segmenter(engine_file(tmp_path, model=varying_graph())) as segmenter:
        tensor = _OnGpu(cuda, exposed)
        assert program.pixels_of(tensor) is tensor
        cuda.calls.clear()
        result = segmenter.run(program.pixels_of(tensor))
        assert "cuMemcpyHtoDAsync" not in cuda.calls
        with cpu_twin(tmp_path) as reference:
            assert same(result, reference.run(exposed.numpy()))


def test_an_engine_without_cuda_in_pytorch_is_reported(program, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with fake_gpu(), Segmenter(engine_file(tmp_path)) as segmenter:
        with pytest.raises(SystemExit, match="cannot use the GPU"):
            program.device_of(segmenter)

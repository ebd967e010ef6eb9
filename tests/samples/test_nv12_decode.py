# SPDX-License-Identifier: Apache-2.0
"""NV12 from decoders: on the CPU for real, those of a GPU on stand-ins."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from imp_trt import Nv12Frame, Segmenter
from imp_trt.preprocessing.frames import to_bgr
from imp_trt.video import open_source
from tests.samples.conftest import CLIP_FRAMES, CLIP_SIZE
from tests.support import av_clips
from tests.support.fake_tensorrt import engine_file, fake_gpu, varying_graph
from tests.support.gpu_arrays import Dlpack, on_gpu
from tests.support.segmenters import cpu_twin, same

av = pytest.importorskip("av", reason="needs PyAV")
PROGRAM = "nv12_decode/nv12_decode.py"


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr("imp_trt.cuda.kernels._image", lambda op, device: b"kernels")
    with fake_gpu() as (_, cuda):
        yield cuda


def packed(frame):
    """[h * 3 / 2, w]"""
    return np.concatenate([frame.y, frame.uv.reshape(len(frame.uv), -1)])


def test_the_cpu_s_frames_are_those_of_the_video(sample, clip):
    frames = list(sample(PROGRAM).cpu(str(clip)))
    assert len(frames) == CLIP_FRAMES
    with open_source(clip) as source:
        for frame, expected in zip(frames, source, strict=True):
            assert (frame.matrix, frame.color_range) == ("bt601", "limited")
            bgr = to_bgr(frame)
            assert bgr.shape == (*CLIP_SIZE, 3)
            # FFmpeg interpolates U and V.
            assert np.abs(bgr.astype(int) - expected.image).mean() < 3


@pytest.mark.parametrize(
    ("colorspace", "color_range", "expected"),
    [
        (1, 1, ("bt709", "limited")),
        (1, 2, ("bt709", "full")),
        (6, 1, ("bt601", "limited")),
        (6, 2, ("bt601", "full")),
    ],
)
def test_colors_are_those_of_the_header(sample, tmp_path, colorspace, color_range, expected):
    stated = {"colorspace": colorspace, "color_range": color_range}
    clip = av_clips.write(tmp_path / "colors.mp4", context=stated, options={"crf": "1"}, frames=2)
    frame = next(sample(PROGRAM).cpu(str(clip)))
    assert (frame.matrix, frame.color_range) == expected
    # At the centers of the patches, away from U and V of their neighbors.
    shown, truth = (image[16::32, 24::32].astype(int) for image in (to_bgr(frame), av_clips.picture(0)))
    assert np.abs(shown - truth).max() <= 6


def test_a_matrix_that_is_not_known_is_rejected(sample, artifact, tmp_path, capsys):
    clip = av_clips.write(tmp_path / "wide.mp4", context={"colorspace": 9, "color_range": 1}, frames=2)
    assert sample(PROGRAM).main([str(artifact), str(clip)]) == 2
    assert "color matrix" in capsys.readouterr().err


@pytest.mark.parametrize("turned", [{"degrees": 90}, {"degrees": 180}, {"degrees": 0, "hflip": True}])
def test_a_video_that_is_shown_turned_is_rejected(sample, artifact, tmp_path, capsys, turned):
    clip = av_clips.write(tmp_path / "turned.mp4", turned=turned)
    assert sample(PROGRAM).main([str(artifact), str(clip)]) == 2
    assert "turned ones. Fix: use imp_trt.video.open_source" in capsys.readouterr().err


def test_it_prints_what_it_saw(sample, artifact, clip, capsys):
    assert sample(PROGRAM).main([str(artifact), str(clip)]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "decoder: cpu"
    assert len(lines) == CLIP_FRAMES + 2
    assert lines[-1].startswith(f"{CLIP_FRAMES} frames, ")
    assert said.err == ""  # an ONNX artifact cannot read frames on a GPU: none was tried


def test_a_damaged_or_truncated_video_is_no_success(sample, artifact, tmp_path, capsys):
    whole = av_clips.write(tmp_path / "whole.mp4", frames=30, options={"g": "10", "bf": "0"})
    data, places = whole.read_bytes(), av_clips.packets(whole)
    place, size = places[20]
    (tmp_path / "damaged.mp4").write_bytes(data[:place] + bytes(size) + data[place + size :])
    matroska = av_clips.joined([whole], tmp_path / "x.mkv").read_bytes()
    (tmp_path / "truncated.mkv").write_bytes(matroska[: len(matroska) * 2 // 3])
    for name, text in (("damaged.mp4", "damaged after 20 frames"), ("truncated.mkv", "truncated by")):
        assert sample(PROGRAM).main([str(artifact), str(tmp_path / name)]) == 2
        assert text in capsys.readouterr().err


def test_decoders_that_do_not_work_here_are_named_with_the_reason(sample, artifact, clip, capsys):
    program = sample(PROGRAM)

    def missing(video):
        raise ModuleNotFoundError("No module named 'PyNvVideoCodec'")
        yield

    program.DECODERS["nvdec"] = missing
    name, frames = program.open_frames(str(clip), ["nvdec", "cpu"])
    assert name == "cpu"
    assert len(list(frames)) == CLIP_FRAMES
    assert capsys.readouterr().err == (
        "skipped nvdec: ModuleNotFoundError: No module named 'PyNvVideoCodec'\n"
    )
    assert program.main([str(artifact), str(clip), "--decoder", "nvdec"]) == 2
    assert "nvdec: ModuleNotFoundError" in capsys.readouterr().err
    assert program.main([str(artifact), str(clip.with_name("no.mp4"))]) == 2
    assert "no.mp4" in capsys.readouterr().err


def test_without_a_gpu_pyav_s_decoder_is_skipped(sample, clip, capsys):
    program = sample(PROGRAM)
    try:
        next(program.pyav_cuda(str(clip)))
    except Exception:
        name, _ = program.open_frames(str(clip), ["pyav-cuda", "cpu"])
        assert name == "cpu"
        assert capsys.readouterr().err.startswith("skipped pyav-cuda: ")
    else:
        pytest.skip("there is a decoder: see the README")


class Decoded(Dlpack):
    """A frame of PyNvVideoCodec: NV12 as one array [h * 3 / 2, w]."""


def fake_nvc(cuda, frames):
    """PyNvVideoCodec as the program uses it; the surface is used again for each frame."""
    module = ModuleType("PyNvVideoCodec")
    surface = on_gpu(cuda, packed(frames[0]), row_pitch=512)

    class Demuxer:
        def __init__(self, filename):
            assert isinstance(filename, str)

        def GetNvCodecId(self):
            return 4

        def __iter__(self):
            return iter([[], frames[:3], frames[3:]])  # packets, and what they complete

    class Decoder:
        def __init__(self, gpuid, codec, usedevicememory):
            assert (gpuid, codec, usedevicememory) == (0, 4, True)

        def Decode(self, packet):
            for frame in packet:
                surface[...] = packed(frame)
                yield Decoded(surface)

    module.CreateDemuxer, module.CreateDecoder = Demuxer, Decoder
    return module


def test_frames_of_pynvvideocodec_stay_on_the_gpu(cuda, sample, clip, tmp_path, monkeypatch):
    program = sample(PROGRAM)
    frames = list(program.cpu(str(clip)))
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", fake_nvc(cuda, frames))
    with Segmenter(engine_file(tmp_path, model=varying_graph())) as segmenter:
        name, decoded = program.open_frames(str(clip), list(program.DECODERS))
        assert name == "nvdec"
        cuda.calls.clear()
        found = list(program.segment(segmenter, decoded))
        assert "cuMemcpyHtoDAsync" not in cuda.calls
    assert len(found) == CLIP_FRAMES
    with cpu_twin(tmp_path) as reference:
        for result, frame in zip(found, frames, strict=True):
            assert same(result, reference.run(frame))


def test_frames_of_pyav_stay_on_the_gpu(cuda, sample, clip, tmp_path, monkeypatch):
    class Plane(Dlpack):
        def __dlpack__(self, *, stream=None):
            if stream is not None:  # as PyAV 18 says it
                raise NotImplementedError("CUDA stream synchronization is not supported.")
            return self.tensor.__dlpack__()

    program = sample(PROGRAM)
    frames = list(program.cpu(str(clip)))[:4]
    there = [Nv12Frame(*(Plane(on_gpu(cuda, plane, 256)) for plane in (f.y, f.uv))) for f in frames]
    with Segmenter(engine_file(tmp_path, model=varying_graph())) as segmenter:
        found = list(program.segment(segmenter, iter(there)))
    with cpu_twin(tmp_path) as reference:
        for result, frame in zip(found, frames, strict=True):
            assert same(result, reference.run(frame))

# SPDX-License-Identifier: Apache-2.0
"""Segment a video that the GPU decodes: the decoder's NV12 frames go into the network without a copy.

python samples/nv12_decode/nv12_decode.py street.fp16.tensorrt.engine drive.mp4
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.error import FFmpegError
from av.sidedata.sidedata import Type

from imp_trt import ImpTrtError, Nv12Frame, SegmentationResult, Segmenter
from imp_trt.errors import InvalidInput
from imp_trt.video import open_source

# Codes of ITU-T H.273 in the headers of videos; what one leaves open is BT.601, as for OpenCV and FFmpeg.
MATRICES = {1: "bt709", 2: "bt601", 5: "bt601", 6: "bt601"}
# Titles may be in any encoding; PyAV 19 has no argument for it.
ANY_TITLE: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__[:2]) < 19 else {}
RANGES = {0: "limited", 1: "limited", 2: "full"}
USE = "use imp_trt.video.open_source"


def colors(codec: Any) -> dict[str, Any]:
    """Matrix and range of a stream for Nv12Frame, from its av.CodecContext."""
    matrix = MATRICES.get(int(codec.colorspace))
    if matrix is None:
        raise InvalidInput(
            "color matrix of the video", expected=f"one of {sorted(MATRICES)} (H.273)", got=codec.colorspace
        )
    return {"matrix": matrix, "color_range": RANGES.get(int(codec.color_range), "limited")}


def need_upright(video: str) -> None:
    """Raise InvalidInput for a video that is shown turned or mirrored: planes are as they are stored."""
    with av.open(video, **ANY_TITLE) as container:
        if Type.DISPLAYMATRIX in next(container.decode(video=0)).side_data:
            raise InvalidInput("video", expected="frames shown as stored", got="turned ones", fix=USE)


def nvdec(video: str) -> Iterator[Nv12Frame]:
    """Decoded by PyNvVideoCodec; a frame is valid until the next is decoded."""
    import PyNvVideoCodec as nvc  # pyright: ignore[reportMissingImports]

    with av.open(video, **ANY_TITLE) as container:
        stated = colors(container.streams.video[0].codec_context)
    demuxer = nvc.CreateDemuxer(filename=video)
    decoder = nvc.CreateDecoder(gpuid=0, codec=demuxer.GetNvCodecId(), usedevicememory=True)
    for packet in demuxer:
        for frame in decoder.Decode(packet):
            yield Nv12Frame(frame, **stated)  # DLPack, [h * 3 / 2, w]


def pyav_cuda(video: str) -> Iterator[Nv12Frame]:
    """Decoded by NVDEC through FFmpeg; frames stay on the GPU, in its primary context."""
    accelerator = HWAccel("cuda", allow_software_fallback=False, is_hw_owned=True)
    with av.open(video, hwaccel=accelerator, **ANY_TITLE) as container:
        for frame in container.decode(video=0):
            yield Nv12Frame(*frame.planes, **colors(container.streams.video[0].codec_context))


def cpu(video: str) -> Iterator[Nv12Frame]:
    """Decoded by FFmpeg on the CPU, the planes in host memory."""
    with av.open(video, **ANY_TITLE) as container:
        for frame in container.decode(video=0):
            if frame.format.name not in ("yuv420p", "yuvj420p"):
                raise InvalidInput("video", expected="yuv420p", got=frame.format.name, fix=USE)
            y, u, v = (
                np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width]
                for plane in frame.planes
            )
            stated = colors(container.streams.video[0].codec_context)
            yield Nv12Frame(y, np.stack([u, v], axis=-1), **stated)


DECODERS: dict[str, Callable[[str], Iterator[Nv12Frame]]] = {
    "nvdec": nvdec,
    "pyav-cuda": pyav_cuda,
    "cpu": cpu,
}


def open_frames(video: str, names: list[str]) -> tuple[str, Iterator[Nv12Frame]]:
    """The first decoder that works here, and its frames; InvalidInput if none works."""
    reasons = []
    for name in names:
        frames = DECODERS[name](video)
        try:
            first = next(frames)
        # RuntimeError: PyNvVideoCodec without a driver; FFmpeg's errors are OSError, ValueError and others.
        except (ImportError, RuntimeError, StopIteration, FFmpegError) as error:
            lines = str(error).splitlines()
            reasons.append(f"{name}: {type(error).__name__}: {lines[0] if lines else ''}")
            continue
        for reason in reasons:
            print(f"skipped {reason}", file=sys.stderr)
        return name, chain([first], frames)
    raise InvalidInput(video, expected="a video that can be decoded here", got="; ".join(reasons))


def segment(segmenter: Segmenter, frames: Iterator[Nv12Frame]) -> Iterator[SegmentationResult]:
    """One result per frame. run() returns when the network has read the frame: the decoder may reuse it."""
    for frame in frames:
        yield segmenter.run(frame)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="an engine for this GPU, or an .onnx file")
    parser.add_argument("video")
    parser.add_argument("--decoder", choices=DECODERS, help="default: the first of these that works")
    options = parser.parse_args(arguments)
    times: list[float] = []
    try:
        with open_source(options.video):
            pass  # an error if the file is missing or truncated: decoders stop at the cut as at the end
        need_upright(options.video)
        with Segmenter(options.network) as segmenter:
            # Only an engine reads frames on the GPU.
            usable = list(DECODERS) if segmenter.manifest.engine else ["cpu"]
            name, frames = open_frames(options.video, [options.decoder] if options.decoder else usable)
            print(f"decoder: {name}")
            for result in segment(segmenter, frames):
                times.append(result.timing["total"])
                print(f"{len(times):5d}: {len(result.instances)} instances")
    except ImpTrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except FFmpegError as error:
        print(f"{options.video}: damaged after {len(times)} frames: {error}", file=sys.stderr)
        return InvalidInput.exit_code
    print(f"{len(times)} frames, {statistics.median(times):.2f} ms each (median)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

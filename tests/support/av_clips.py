# SPDX-License-Identifier: Apache-2.0
"""Videos with properties that OpenCV cannot write: made with PyAV, from images whose colors are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SIZE = (64, 96)
_PATCHES = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 220, 60), (16, 16, 16), (240, 240, 240))


def picture(index: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """[h, w, 3] uint8 BGR: six patches of color, and one at the top left whose gray is the frame's number."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    for number, rgb in enumerate(_PATCHES):
        row, column = divmod(number, 3)
        rows = slice(row * height // 2, (row + 1) * height // 2)
        image[rows, column * width // 3 : (column + 1) * width // 3] = rgb[::-1]
    image[: height // 4, : width // 6] = 20 + 12 * (index % 18)
    return image


def write(
    path: Path,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    frames: int = 8,
    size: tuple[int, int] = SIZE,
    rate: int = 10,
    times: Sequence[int] | None = None,
    context: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    turned: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A video of images.

    Args:
        path: its suffix chooses the container.
        codec: FFmpeg's name of the encoder; the test is skipped if PyAV lacks it.
        pixels: FFmpeg's pixel format.
        times: presentation times in milliseconds; None: at the rate.
        context: attributes of the codec context, such as colorspace (ITU-T H.273's numbers).
        options: of the encoder.
        container: options of the muxer.
        turned: arguments of set_display_rotation.
        metadata: of the stream.
    """
    av = pytest.importorskip("av", reason="PyAV is not installed")
    try:
        av.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"this PyAV has no encoder {codec}")
    with av.open(str(path), "w", options=dict(container or {})) as file:
        stream = file.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.metadata.update(metadata or {})
        tick = Fraction(1, rate) if times is None else Fraction(1, 1000)
        if times is not None:
            stream.codec_context.time_base = tick
        attributes = dict(context or {})
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)
        if turned is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV does not write display matrices")
            stream.set_display_rotation(**turned)
        for index in range(frames if times is None else len(times)):
            image = picture(index, size)
            if "colorspace" in attributes:
                frame = _yuv_frame(image, pixels, attributes["colorspace"], attributes["color_range"])
            else:
                frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=pixels)
            frame.pts = index if times is None else times[index]
            frame.time_base = tick
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return path


def _yuv_frame(image: NDArray[np.uint8], pixels: str, matrix: int, color_range: int) -> Any:
    """A frame in yuv420p, yuv444p or yuv444p10le, by the formulas of ITU-T H.273: no library's conversion.

    Args:
        matrix: 1 BT.709, 5 and 6 BT.601, 9 BT.2020.
        color_range: 1 limited (16 to 235 of 255), 2 full.
    """
    import av

    red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    b, g, r = np.moveaxis(image.astype(np.float64) / 255, 2, 0)
    luma = red * r + (1 - red - blue) * g + blue * b
    chroma = (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)
    if pixels == "yuv420p":
        u, v = (c.reshape(c.shape[0] // 2, 2, c.shape[1] // 2, 2).mean(axis=(1, 3)) for c in chroma)
        chroma = u, v
    bits = 10 if pixels.endswith("10le") else 8
    unit, full = 1 << (bits - 8), color_range == 2
    y = luma * ((1 << bits) - 1) if full else unit * (16 + 219 * luma)
    u, v = (unit * 128 + c * (((1 << bits) - 1) if full else unit * 224) for c in chroma)
    frame = av.VideoFrame(image.shape[1], image.shape[0], pixels)
    for plane, values in zip(frame.planes, (y, u, v), strict=True):
        rounded = np.clip(np.round(values), 0, (1 << bits) - 1).astype("<u2" if bits > 8 else np.uint8)
        padded = np.zeros((rounded.shape[0], plane.line_size // rounded.itemsize), rounded.dtype)
        padded[:, : rounded.shape[1]] = rounded
        plane.update(padded.tobytes())
    frame.colorspace, frame.color_range = matrix, color_range
    return frame


def trimmed(source: Path, target: Path, seconds: float) -> Path:
    """The source from a time on, copied without encoding: an edit list hides what the first frame needs."""
    import av

    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.dts is None or packet.pts is None or stream.time_base is None:
                continue
            shift = int(seconds / stream.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = copy
            writer.mux(packet)
    return target


def filtered(source: Path, target: Path, bitstream_filter: str) -> Path:
    """The source, copied through a bitstream filter; the test is skipped if PyAV lacks it."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    from av.bitstream import BitStreamFilterContext, bitstream_filters_available

    if bitstream_filter.partition("=")[0] not in bitstream_filters_available:
        pytest.skip(f"this PyAV has no {bitstream_filter}")
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        bitstream = BitStreamFilterContext(bitstream_filter, stream, copy)
        for packet in reader.demux(stream):
            for changed in bitstream.filter(packet if packet.dts is not None else None):
                changed.stream = copy
                writer.mux(changed)
    return target


def joined(sources: Sequence[Path], target: Path, *, cover: bool = False) -> Path:
    """A file with the video streams of the sources, copied without encoding.

    Args:
        cover: mark the last one as a cover image.
    """
    import av
    from av.stream import Disposition

    with av.open(str(target), "w") as writer:
        readers = [av.open(str(source)) for source in sources]
        copies = [writer.add_stream_from_template(reader.streams.video[0]) for reader in readers]
        if cover:
            copies[-1].disposition = Disposition.attached_pic
        for reader, copy in zip(readers, copies, strict=True):
            for packet in reader.demux(reader.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = copy
                    writer.mux(packet)
            reader.close()
    return target


def with_sound(source: Path, target: Path, seconds: int) -> Path:
    """The video of the source, copied without encoding, and silence."""
    import av

    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        copy = writer.add_stream_from_template(reader.streams.video[0])
        sound = writer.add_stream("pcm_s16le" if target.suffix == ".mkv" else "aac", rate=8000)
        for packet in reader.demux(reader.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                writer.mux(packet)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.time_base = 8000, Fraction(1, 8000)
        for start in range(0, 8000 * seconds, 1024):
            silence.pts = start
            for packet in sound.encode(silence):
                writer.mux(packet)
        for packet in sound.encode(None):
            writer.mux(packet)
    return target


def decoded(path: Path) -> list[tuple[NDArray[np.uint8], float]]:
    """Images [h, w, 3] BGR as stored and times in seconds from the stream's start, by PyAV alone."""
    import av

    found = []
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        start = float((stream.start_time or 0) * stream.time_base)
        for frame in file.decode(stream):
            found.append((np.asarray(frame.to_ndarray(format="bgr24")), float(frame.time) - start))
    return found


def packets(path: Path) -> list[tuple[int, int]]:
    """Where the packets of the video are in the file: position and size in bytes."""
    import av

    with av.open(str(path)) as file:
        found = [packet for packet in file.demux(video=0) if packet.size and packet.pos is not None]
        return [(int(packet.pos or 0), packet.size) for packet in found]

# SPDX-License-Identifier: Apache-2.0
"""Videos with properties that OpenCV cannot write: made with PyAV, from pictures whose colors are known."""

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
) -> Path:
    """A video of pictures.

    Args:
        path: its suffix chooses the container.
        codec: FFmpeg's name of the encoder; the test is skipped if PyAV lacks it.
        pixels: FFmpeg's pixel format.
        times: presentation times in milliseconds; None: at the rate.
        context: attributes of the codec context, such as colorspace (ITU-T H.273's numbers).
        options: of the encoder.
        container: options of the muxer.
        turned: arguments of set_display_rotation.
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
        colors = {
            f"dst_{theirs}": attributes[ours]
            for ours, theirs in (("colorspace", "colorspace"), ("color_range", "color_range"))
            if ours in attributes
        }
        for index in range(frames if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(picture(index, size), format="bgr24")
            frame = frame.reformat(format=pixels, **colors)
            frame.pts = index if times is None else times[index]
            frame.time_base = tick
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return path


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

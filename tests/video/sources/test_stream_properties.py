# SPDX-License-Identifier: Apache-2.0
"""What a coded stream says of its frames in its own headers: colors, cropping, orientation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.errors import SourceError
from imp_trt.video.sources import decoder, files, open_source
from tests.support import av_clips

pytest.importorskip("av", reason="PyAV is not installed")
if not decoder.pyav_decodes():
    pytest.skip("PyAV is older than 17.1, which is not used for decoding", allow_module_level=True)


@pytest.mark.parametrize("matrix", [8, 10, 14])  # YCgCo, BT.2020 of constant luminance, ICtCp
def test_colors_that_ffmpeg_does_not_convert_are_rejected(tmp_path: Path, matrix: int) -> None:
    clip = av_clips.write(tmp_path / "x.mp4")
    path = av_clips.filtered(clip, tmp_path / "y.mp4", f"h264_metadata=matrix_coefficients={matrix}")
    with pytest.raises(SourceError, match=f"matrix {matrix}, .* of ITU-T H.273"):
        open_source(path)


@pytest.mark.parametrize(
    ("orientation", "shown"),
    [
        ("rotate=90", np.rot90),
        ("rotate=180", lambda image: np.rot90(image, 2)),
        ("flip=horizontal", np.fliplr),
    ],
)
def test_a_display_orientation_in_the_stream(
    tmp_path: Path, orientation: str, shown: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> None:
    """Only the first frame has the message; it is about those after it too."""
    whole = av_clips.write(tmp_path / "x.mp4", frames=12, options={"g": "6"})
    path = av_clips.filtered(
        whole, tmp_path / "y.mp4", f"h264_metadata=display_orientation=insert:{orientation}"
    )
    for frame, stored in zip(open_source(path), open_source(whole), strict=True):
        assert np.array_equal(frame.image, shown(stored.image))


@pytest.mark.parametrize("left", [8, 30, 34])
def test_columns_that_the_stream_crops_at_the_left(tmp_path: Path, left: int) -> None:
    """FFmpeg crops to an aligned column only, unless it is told that memory need not be aligned."""
    whole = av_clips.write(tmp_path / "x.mp4")
    path = av_clips.filtered(whole, tmp_path / "y.mp4", f"h264_metadata=crop_left={left}:crop_top=2")
    for frame, expected in zip(open_source(path), open_source(whole), strict=True):
        assert np.array_equal(frame.image, expected.image[2:, left:])


@pytest.mark.parametrize(
    ("context", "told"),
    [
        ({"color_primaries": 12}, "primaries 12 of ITU-T H.273) are read as if they were BT.709"),
        ({"color_trc": 8}, "transfer 8"),
        ({"color_primaries": 1, "color_trc": 1}, None),
        ({"color_primaries": 6, "color_trc": 13}, None),
        ({}, None),
    ],
)
def test_colors_that_are_not_converted_are_named(
    tmp_path: Path, context: dict[str, int], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = av_clips.write(tmp_path / "x.mp4", context=context)
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        assert len(list(source)) == 8
    assert told is None or told in caplog.text
    assert len(caplog.messages) == (told is not None)


@pytest.mark.parametrize(
    ("tag", "transfer", "told"), [("dvh1", 2, True), ("dvh1", 16, False), ("hvc1", 2, False)]
)
def test_dolby_vision_without_a_base_layer_is_named(
    tmp_path: Path, tag: str, transfer: int, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    context = {"codec_tag": tag, "color_trc": transfer}
    options = {"x265-params": "log-level=none"}
    path = av_clips.write(tmp_path / "x.mp4", "libx265", context=context, options=options)
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        assert len(list(source)) == 8
    assert ("Dolby Vision" in caplog.text) == told


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "ffv1"), (".mp4", "libx265")])
@pytest.mark.parametrize(("pixels", "scale"), [("gray", 1), ("gray10le", 4)])
@pytest.mark.parametrize(("color_range", "values"), [(1, (0, 128, 255)), (2, (16, 126, 235))])
def test_the_range_of_gray_videos(
    tmp_path: Path,
    suffix: str,
    codec: str,
    pixels: str,
    scale: int,
    color_range: int,
    values: tuple[int, ...],
) -> None:
    """FFmpeg takes gray for full range, whatever the stream says."""
    import av

    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    path = tmp_path / f"x{suffix}"
    with av.open(str(path), "w") as file:
        options = {"x265-params": "log-level=none:lossless=1"} if codec == "libx265" else {}
        stream = file.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        stream.codec_context.color_range = color_range
        dtype = np.uint8 if scale == 1 else np.uint16
        for index, value in enumerate((16, 126, 235)):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96), value * scale, dtype), format=pixels)
            frame.color_range, frame.pts = color_range, index
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with open_source(path) as source:
        found = [int(frame.image[30, 40, 1]) for frame in source]
    assert np.abs(np.subtract(found, values)).max() <= 1


@pytest.mark.parametrize("decode", ["PyAV", "OpenCV"])
def test_frames_that_are_too_large(tmp_path: Path, decode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = av_clips.write(tmp_path / "x.mp4")
    monkeypatch.setattr(decoder, "MAX_PIXELS", 64 * 96 - 1)
    if decode == "OpenCV":
        monkeypatch.setattr(files, "pyav_decodes", lambda: False)
    with pytest.raises(SourceError, match="expected frames of at most 6,143 pixels, got 96x64"):
        open_source(path)


def test_a_frame_that_is_larger_than_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    path = tmp_path / "x.mov"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("png", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "rgb24"
        for index, size in enumerate([(64, 96), (640, 960)]):
            packet = av.Packet(cv2.imencode(".png", np.zeros((*size, 3), np.uint8))[1].tobytes())
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base, packet.is_keyframe = Fraction(1, 10), True
            file.mux(packet)
    monkeypatch.setattr(decoder, "MAX_PIXELS", 64 * 96)
    with open_source(path) as source, pytest.raises(SourceError, match="at most 6,144 pixels, got 960x640"):
        list(source)

# SPDX-License-Identifier: Apache-2.0
"""What a coded stream says of its frames in its own headers: colors, cropping, orientation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.errors import SourceError
from imp_trt.video.sources import decoder, open_source
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

# SPDX-License-Identifier: Apache-2.0
"""Frames to measure with: decoded again each time, endless, opening times counted separately."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from imp_trt.benchmark.frames import STREETS, SourceFeed, StreetFeed, only_frames, open_feed, parse_size
from imp_trt.data.images import encode_image
from imp_trt.errors import ImpTrtError, SourceError, UsageError
from imp_trt.video.sources import LiveSource, files
from tests.support import clips, tiny


def levels(feed: object, count: int) -> list[float | None]:
    return [None if f is None else float(f.image.mean()) for f in islice(iter(feed), count)]  # type: ignore[call-overload]


def test_a_video_goes_round_without_its_first_frame(tmp_path: Path) -> None:
    feed = SourceFeed(str(clips.write_clip(tmp_path / "clip.mp4", frames=4)))
    found = levels(feed, 9)
    assert [v if v is None else round((v - 20) / 8) for v in found] == [None, 1, 2, 3, None, 1, 2, 3, None]
    numbered = [frame.index for frame in islice(only_frames(feed), 5)]
    assert numbered == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("pyav", [True, False])
def test_the_decoder_is_named(tmp_path: Path, pyav: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write_clip(tmp_path / "clip.mp4", frames=2)
    if pyav and not files.pyav_decodes():
        pytest.skip("PyAV is not installed, or older than 17.1")
    monkeypatch.setattr(files, "pyav_decodes", lambda: pyav)
    assert SourceFeed(str(path)).decoder == f"{'PyAV' if pyav else 'OpenCV'}, the video from disk"


def test_a_folder_is_read_again_and_again(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(encode_image(tiny.frame(seed=i), ".png"))
    frames = list(islice(only_frames(SourceFeed(str(tmp_path))), 4))
    assert np.array_equal(frames[0].image, tiny.frame(seed=0))
    assert np.array_equal(frames[1].image, tiny.frame(seed=1))
    assert np.array_equal(frames[2].image, frames[0].image)
    assert frames[2].image is not frames[0].image


def test_an_image_that_cannot_be_read_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(3):
        data = encode_image(tiny.frame(seed=i), ".png")
        (tmp_path / f"{i}.png").write_bytes(data[: len(data) // 2] if i == 1 else data)
    frames = list(islice(only_frames(SourceFeed(str(tmp_path))), 8))
    assert all(np.array_equal(f.image, tiny.frame(seed=2 * (f.index % 2))) for f in frames)
    assert ["1.png" in message for message in caplog.messages] == [True]


def test_a_video_of_one_frame_says_so(tmp_path: Path) -> None:
    feed = SourceFeed(str(clips.write_clip(tmp_path / "one.mp4", frames=1)))
    with pytest.raises(SourceError, match="two frames"):
        list(islice(only_frames(feed), 1))


def test_drawn_streets_are_decoded_each_time() -> None:
    feed = StreetFeed((40, 56))
    frames = list(islice(only_frames(feed), STREETS + 1))
    assert frames[0].image.shape == (40, 56, 3)
    assert not np.array_equal(frames[0].image, frames[1].image)
    assert np.array_equal(frames[0].image, frames[STREETS].image)
    assert frames[0].image is not frames[STREETS].image
    assert "JPEG" in feed.decoder


def test_a_live_source_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Camera:
        live = True

        def __enter__(self) -> Camera:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    assert LiveSource.live
    monkeypatch.setattr("imp_trt.benchmark.frames.open_source", lambda spec: Camera())
    with pytest.raises(UsageError, match="imp-segment"):
        SourceFeed("0")


def test_sizes_and_their_place() -> None:
    assert parse_size("720x1280") == parse_size("720X1280") == (720, 1280)
    for wrong in ("720", "720x", "720x1280x3", "-1x64", "16x64", "99999x64", "axb"):
        with pytest.raises(ImpTrtError) as caught:
            parse_size(wrong)
        assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="--frame-size"):
        open_feed("clip.mp4", (64, 64))

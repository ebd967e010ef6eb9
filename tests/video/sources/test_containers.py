# SPDX-License-Identifier: Apache-2.0
"""What containers say about their frames that decoders ignore: edit lists, cropping, appended files."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import numpy as np
import pytest

from imp_trt.errors import SourceError
from imp_trt.video.containers import declared_crop, shown_share
from imp_trt.video.sources import open_source
from imp_trt.video.sources.decoder import pyav_decodes
from tests.support import av_clips

pytest.importorskip("av", reason="PyAV is not installed")


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_the_share_that_an_edit_list_shows(tmp_path: Path, suffix: str) -> None:
    whole = av_clips.write(tmp_path / f"whole{suffix}", frames=30, options={"g": "250", "bf": "0"})
    assert shown_share(whole) == pytest.approx(1, abs=0.01)
    for seconds, share in ((0.5, 25 / 30), (2.5, 5 / 30)):
        path = av_clips.trimmed(whole, tmp_path / f"trimmed{suffix}", seconds)
        assert shown_share(path) == pytest.approx(share, abs=0.01)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):  # damaged boxes give a share, not an error
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 40):
            damaged[place] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        assert 0 <= shown_share(path) <= 1
    assert shown_share(av_clips.write(tmp_path / "x.mkv")) == 1


def _add_to_sample_entry(path: Path, kind: bytes, content: bytes) -> None:
    """Add a box to the description of a MOV's samples."""
    data = path.read_bytes()
    box = struct.pack(">I4s", 8 + len(content), kind) + content
    end = data.index(b"stts") - 4  # follows the description of the samples
    for outer in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        at = data.rindex(outer, 0, end) - 4  # the index is at the end, so that no offset changes
        length = struct.unpack_from(">I", data, at)[0]
        data = data[:at] + struct.pack(">I", length + len(box)) + data[at + 4 :]
    path.write_bytes(data[:end] + box + data[end:])


@pytest.mark.parametrize(("width", "told"), [(88, True), (96, False)])
def test_a_clean_aperture(tmp_path: Path, width: int, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    path = av_clips.write(tmp_path / "x.mov")
    _add_to_sample_entry(path, b"clap", struct.pack(">8I", width, 1, 64, 1, 0, 1, 0, 1))
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        assert len(list(source)) == 8
    assert ("clean aperture is not applied" in caplog.text) == told


def test_a_360_degree_video(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not pyav_decodes():
        pytest.skip("PyAV is older than 17.1, which is not used for decoding")
    path = av_clips.write(tmp_path / "x.mov")
    header = struct.pack(">I4s6s", 14, b"svhd", bytes(6))
    projection = struct.pack(">I4s16sI4s20s", 24, b"prhd", bytes(16), 28, b"equi", bytes(20))
    _add_to_sample_entry(path, b"sv3d", header + struct.pack(">I4s", 60, b"proj") + projection)
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        assert len(list(source)) == 8
    (message,) = caplog.messages
    assert "it is a 360-degree video" in message


def test_an_encrypted_video_is_named(tmp_path: Path) -> None:
    key = "00112233445566778899aabbccddeeff"
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key}
    path = av_clips.write(tmp_path / "x.mp4", container=options)
    with pytest.raises(SourceError, match="expected a video that is not encrypted"):
        open_source(path)


def _element(kind: str, content: bytes) -> bytes:
    return bytes.fromhex(kind) + (1 << 56 | len(content)).to_bytes(8, "big") + content


@pytest.mark.parametrize("crop", ["54aa", "54bb", "54cc", "54dd"])
def test_a_crop_in_matroska(tmp_path: Path, crop: str) -> None:
    path = tmp_path / "x.mkv"
    header = _element("1a45dfa3", _element("4282", b"matroska"))
    for pixels, found in ((b"\x08", "PixelCrop"), (b"\x00", "")):
        video = _element("e0", _element("b0", b"\x60") + _element(crop, pixels))
        sound = _element("ae", _element("83", b"\x02"))
        tracks = _element("1654ae6b", sound + _element("ae", _element("83", b"\x01") + video))
        for segment in (_element("18538067", tracks), bytes.fromhex("18538067" + "01" + "ff" * 7) + tracks):
            path.write_bytes(header + segment)
            assert declared_crop(path) == found
    data = path.read_bytes()
    for end in range(4, len(data)):  # a damaged file has none
        path.write_bytes(data[:end])
        assert not declared_crop(path)
    assert not declared_crop(av_clips.write(path))


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov"])
def test_mp4_files_that_were_appended_to_each_other(
    tmp_path: Path, movflags: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = av_clips.write(tmp_path / "x.mp4", container={"movflags": movflags})
    with caplog.at_level(logging.WARNING, "imp_trt"):
        assert len(list(open_source(path))) == 8
        assert not caplog.records
        path.write_bytes(2 * path.read_bytes())
        assert len(list(open_source(path))) == 8
    assert "2 movies (moov boxes) in a row; only the first is read" in caplog.text


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_times_that_go_back_where_recordings_were_joined(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = av_clips.write(tmp_path / f"x{suffix}", options={"bf": "2"})
    path.write_bytes(2 * path.read_bytes())
    with caplog.at_level(logging.WARNING, "imp_trt"), open_source(path) as source:
        assert len(list(source)) == 16
    (message,) = caplog.messages
    assert "at frame 8, times go back from 0.70 to 0.00 s" in message


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile y.ts\n", "#EXTM3U\n#EXTINF:1.0,\ny.ts\n"])
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_list_of_other_files_is_no_video(tmp_path: Path, text: str, suffix: str) -> None:
    """FFmpeg recognizes lists by their content, and would read the other file."""
    av_clips.write(tmp_path / "y.ts")
    for start in ("", "\ufeff"):
        (tmp_path / f"x{suffix}").write_text(start + text)
        with pytest.raises(SourceError, match="got a playlist, a text that names other files"):
            open_source(tmp_path / f"x{suffix}")

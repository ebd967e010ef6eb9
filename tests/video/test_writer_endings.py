# SPDX-License-Identifier: Apache-2.0
"""What is left of a video when its process is killed or the disk fills up, and of an earlier file."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imp_trt.errors import OutputError
from imp_trt.video import writer as writer_module
from imp_trt.video.sources import open_source
from imp_trt.video.writer import VideoWriter
from tests.support import clips
from tests.support.full_disk import full_disk
from tests.video.test_writer import each_encoder, needs_pyav

ROOT = Path(__file__).resolve().parents[2]


@each_encoder
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_disk_that_fills_up(tmp_path: Path, encoder: str, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    writer = VideoWriter(tmp_path / f"x{suffix}", 25, encoder=encoder)

    def work() -> None:
        for i in range(80):
            writer.write(np.roll(noise, i, axis=0))
        writer.close()

    with full_disk(300_000):
        with pytest.raises(OutputError, match=r"File too large|disk full") as caught:
            work()
        writer.abort()
    # PyAV says so while the frames come; OpenCV goes on, so that only the end shows it.
    assert (writer._written < 80) == (encoder == "pyav")
    if (encoder, suffix) == ("opencv", ".mp4"):
        assert os.listdir(tmp_path) == []  # it has no index
        return
    # What was written before is kept.
    assert os.listdir(tmp_path) == [f"x{suffix}"]
    assert clips.played(tmp_path / f"x{suffix}") > 5
    if encoder == "opencv":
        assert "they are kept" in str(caught.value)


KILLED = """
import os, signal, sys
import av
from tests.support import clips
from imp_trt.video.writer import VideoWriter
writers = []
for hybrid in (True, False):
    if not hybrid:  # as FFmpeg before 7.1
        av.library_versions["libavformat"] = (61, 1, 100)
    for suffix in (".mp4", ".mov", ".mkv"):
        writers.append(VideoWriter(f"{sys.argv[1]}/{hybrid}{suffix}", 30))
        writers[-1].write(clips.picture(0))
for i in range(1, 150):
    for writer in writers:
        writer.write(clips.picture(i % 20))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@needs_pyav
def test_a_recording_whose_process_is_killed_can_be_played(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, timeout=120, check=False)
    assert child.returncode == -signal.SIGKILL
    names = [f"{hybrid}{suffix}" for hybrid in (True, False) for suffix in (".mp4", ".mov", ".mkv")]
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    for name in names:
        assert clips.played(tmp_path / name) >= 110
        times = [frame.time_s for frame in open_source(tmp_path / name)]
        assert len(times) >= 110
        assert times == pytest.approx([i / 30 for i in range(len(times))], abs=2e-3)
    for name in names:
        if not name.endswith(".mkv"):  # killed within a fragment
            data = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(data[:-20])
            with caplog.at_level(logging.WARNING, "imp_trt"):
                assert len(list(open_source(tmp_path / name))) >= 80
            assert "ends within a fragment" in caplog.text
            caplog.clear()


@needs_pyav
def test_complete_files_have_one_index_and_their_length_without_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    for hybrid in (True, False):
        if not hybrid:
            monkeypatch.setitem(av.library_versions, "libavformat", (61, 1, 100))
        writer = VideoWriter(tmp_path / f"{hybrid}.mp4", 30)
        for i in range(100):
            writer.write(clips.picture(i % 20))
        writer.close()
        assert clips.played(tmp_path / f"{hybrid}.mp4") == 100
        with av.open(str(tmp_path / f"{hybrid}.mp4")) as container:
            assert container.duration == pytest.approx(100 / 30 * 1e6, rel=1e-3)
            assert bool(container.streams.video[0].frames) == hybrid


@each_encoder
def test_an_earlier_recording_is_kept_until_the_new_one_is_worth_it(tmp_path: Path, encoder: str) -> None:
    path = tmp_path / "x.mkv"
    path.write_bytes(b"earlier")
    for frames in (0, 1, 20):
        writer = VideoWriter(path, 10, encoder=encoder)
        for i in range(frames):
            writer.write(clips.picture(i))
        writer.abort()
        assert path.read_bytes() == b"earlier"
    writer = VideoWriter(path, 10, encoder=encoder)
    for i in range(21):
        writer.write(clips.picture(i))
    assert path.read_bytes() != b"earlier"
    writer.close()
    assert clips.played(path) == 21
    writer = VideoWriter(path, 10, encoder=encoder)
    writer.write(clips.picture(0))
    writer.close()
    assert clips.played(path) == 1
    assert os.listdir(tmp_path) == ["x.mkv"]


@each_encoder
@pytest.mark.parametrize(
    "name",
    [
        "2024-11-29T12:30:00.mp4",
        "50%d.mp4",
        "50%.mkv",
        "-y.mp4",
        "a b.mp4",
        "http:x.mp4",
        "file:y.mov",
        "#?.avi",
    ],
)
def test_every_name_is_a_file(
    tmp_path: Path, name: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    writer = VideoWriter(name, 10, encoder=None if name.endswith("avi") else encoder)
    for i in range(3):
        writer.write(clips.picture(i))
    writer.close()
    assert os.listdir(tmp_path) == [name]
    with open_source(name) as source:
        assert len(list(source)) == 3


@each_encoder
def test_a_disk_without_room_is_noticed_while_frames_come(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    room = [1 << 30]

    class Found:
        f_blocks, f_frsize = real.f_blocks, 1

        @property
        def f_bavail(self) -> int:
            return room[0]

    monkeypatch.setattr(writer_module.os, "statvfs", lambda path: Found())
    writer = VideoWriter(tmp_path / "x.mp4", 25, encoder=encoder)
    writer.write(clips.picture(0))
    room[0] = 1000
    with pytest.raises(OutputError, match="1000 bytes are left"):
        all(writer.write(clips.picture(0)) is None for _ in range(64))
    writer.abort()
    assert os.listdir(tmp_path) == ["x.mp4"]
    assert clips.played(tmp_path / "x.mp4") > 30

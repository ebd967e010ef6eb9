# SPDX-License-Identifier: Apache-2.0
"""Video file, camera and several streams, on the drawn clip and on an RTSP server of the tests' own."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import urllib.request
from collections import Counter

import cv2
import numpy as np
import pytest

from imp_trt import Segmenter
from imp_trt.errors import InvalidInput
from imp_trt.video import BrowserView
from imp_trt.video.sinks import SegmentedFrame
from imp_trt.video.sources import Frame, open_source
from imp_trt.video.sources.reader import Reader
from tests.samples.conftest import CLIP_FPS, CLIP_FRAMES, CLIP_SIZE
from tests.support import tiny
from tests.support.rtsp_server import RtspServer


@pytest.fixture(scope="module")
def pictures(clip):
    with open_source(clip) as frames:
        return [frame.image for frame in frames]


def _frames_in(path):
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def _states_at_the_end(program):
    """What the program's page knows when the run is over."""
    states = []

    class View(program.BrowserView):
        def close(self):
            if not states:
                with urllib.request.urlopen(f"{self.url}state", timeout=5) as answer:  # noqa: S310
                    states.append(json.load(answer))
            super().close()

    program.BrowserView = View
    return states


def _no_stream_is_read_any_more():
    readers = [thread for thread in threading.enumerate() if isinstance(thread, Reader)]
    for reader in readers:
        reader.join(2)
    return not any(reader.is_alive() for reader in readers)


@pytest.mark.slow
def test_video_file(sample, artifact, clip, tmp_path, capsys):
    program = sample("video_file/segment_video.py")
    out = tmp_path / "results"
    assert program.main([str(artifact), str(clip), "-o", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"street.overlay.mp4", "street.jsonl"}
    assert _frames_in(out / "street.overlay.mp4") == CLIP_FRAMES
    lines = [json.loads(line) for line in (out / "street.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(CLIP_FRAMES))
    times = [line["time_s"] for line in lines]
    assert np.allclose(np.diff(times), 1 / CLIP_FPS, atol=2e-3)
    assert (lines[0]["height"], lines[0]["width"]) == CLIP_SIZE
    said = capsys.readouterr()
    assert f"{CLIP_FRAMES} frames in " in said.out
    assert f"{CLIP_FRAMES}/{CLIP_FRAMES} frames" in said.err


def test_video_file_says_what_is_wrong(sample, artifact, tmp_path, capsys):
    program = sample("video_file/segment_video.py")
    (tmp_path / "no.mp4").write_bytes(b"no video")
    assert program.main([str(artifact), str(tmp_path / "no.mp4"), "-o", str(tmp_path / "out")]) == 2
    assert "no.mp4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_alarm_is_raised_once_and_ends(sample, artifact, capsys):
    program = sample("camera/camera.py")
    with Segmenter(artifact) as segmenter:
        result = segmenter.run(tiny.frame())  # a car down to row 52 of 64, a person down to row 40
    frames = [Frame(tiny.frame(), index, "", None) for index in range(4)]
    far = program.Alarm(["person"], tiny.CLASSES)
    near = program.Alarm(["person", "car"], tiny.CLASSES)
    nothing = result.instances.filter(min_score=1.0)
    empty = type(result)(result.semantic, nothing, result.classes)
    for frame, answer in zip(frames, (result, result, empty, empty), strict=True):
        assert far.write(SegmentedFrame(frame, answer))
        assert near.write(SegmentedFrame(frame, answer, age_s=0.0123))
    assert capsys.readouterr().out.splitlines() == [
        "frame 0: person or car near, 12 ms after capture",
        "frame 2: person or car gone, 12 ms after capture",
    ]
    assert program.Alarm([], tiny.CLASSES).write(SegmentedFrame(frames[3], result))
    assert capsys.readouterr().out == "frame 3: car or person near\n"
    with pytest.raises(InvalidInput, match="dragon"):
        program.Alarm(["dragon"], tiny.CLASSES)


@pytest.mark.slow
def test_camera_that_goes_away_and_comes_back(sample, artifact, pictures, tmp_path, capsys):
    program = sample("camera/camera.py")
    server = RtspServer(pictures, fps=CLIP_FPS, login=("viewer", "s3cret"))
    seen: list[int] = []
    with server:
        alarm = program.Alarm.write

        def write(self, item):
            seen.append(item.frame.index)
            if len(seen) == 5:
                server.close()
                threading.Thread(target=comes_back).start()
            return alarm(self, item)

        again: list[RtspServer] = []

        def comes_back():
            again.append(RtspServer(pictures, fps=CLIP_FPS, login=("viewer", "s3cret"), port=server.port))
            again[0].__enter__()

        program.Alarm.write = write
        watched = _states_at_the_end(program)
        arguments = [str(artifact), server.url, "--serve", "0", "--frames", "15", "--deadline", "10000"]
        try:
            assert program.main([*arguments, "--record", str(tmp_path / "out.mp4"), "--alarm", "car"]) == 0
        finally:
            for each in again:
                each.close()
    assert _no_stream_is_read_any_more()
    assert watched[0]["statistics"]["captured"] > 0
    said = capsys.readouterr()
    assert "15 frames shown" in said.out
    assert "1 reconnections" in said.out
    assert "0 older than 10000 ms" in said.out
    assert "camera reconnected" in said.err
    assert re.search(r"live view: http://127\.0\.0\.1:\d+/", said.err)
    assert "s3cret" not in said.out + said.err
    assert seen == sorted(seen)
    assert _frames_in(tmp_path / "out.mp4") == 15


def test_a_recording_instead_of_a_camera_keeps_its_speed(sample, artifact, clip, tmp_path):
    """As at an address that turns out to be one."""
    out = tmp_path / "out.mp4"
    program = sample("camera/camera.py")
    assert program.main([str(artifact), str(clip), "--serve", "0", "--record", str(out)]) == 0
    with open_source(out) as recorded:
        times = [frame.time_s for frame in recorded]
    assert times == pytest.approx([i / CLIP_FPS for i in range(CLIP_FRAMES)], abs=2e-3)


def test_a_camera_that_is_not_there(sample, artifact, capsys):
    program = sample("camera/camera.py")
    assert program.main([str(artifact), "/dev/video97", "--serve", "0"]) == 2
    assert "/dev/video97" in capsys.readouterr().err


@pytest.mark.slow
def test_several_streams_share_one_network(sample, artifact, pictures, tmp_path, capsys):
    program = sample("rtsp_streams/rtsp_streams.py")
    watched = _states_at_the_end(program)
    with RtspServer(pictures, fps=CLIP_FPS, login=("u", "s3cret")) as a, RtspServer(pictures, fps=30) as b:
        arguments = [str(artifact), a.url, b.url, "-o", str(tmp_path), "--serve", "0", "--frames", "20"]
        assert program.main(arguments) == 0
    lines = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
    shares = Counter(line["source"] for line in lines)
    assert len(shares) == 2
    assert sum(shares.values()) == 20
    assert min(shares.values()) >= 4, "neither stream takes everything"
    assert len(list(tmp_path.glob("overlay_*.mp4"))) == 2
    assert watched[0]["statistics"]["captured"] > 0
    said = capsys.readouterr()
    assert re.search(r"[0-9.]+ frames/s in total\nage of the results: p50 [0-9]+", said.out)
    assert "s3cret" not in said.out + said.err


def test_several_files_keep_every_frame(sample, artifact, clip, tmp_path, capsys):
    other = tmp_path / "rear.mp4"
    other.write_bytes(clip.read_bytes())
    out = tmp_path / "out"
    program = sample("rtsp_streams/rtsp_streams.py")
    assert program.main([str(artifact), str(clip), str(other), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    counts = f"{CLIP_FRAMES} captured, {CLIP_FRAMES} delivered, 0 dropped, 0 reconnections"
    assert [line.split(maxsplit=1) for line in said.splitlines()[:2]] == [
        ["street", counts],
        ["rear", counts],
    ]
    assert "age" not in said, "frames of files wait until they are asked for"
    for name in ("street", "rear"):
        with open_source(out / f"overlay_{name}.mp4") as overlay:
            assert overlay.fps == pytest.approx(CLIP_FPS, rel=0.01)
            times = [frame.time_s for frame in overlay]
        # Those of the file, not those at which its frames were read.
        assert times == pytest.approx([i / CLIP_FPS for i in range(CLIP_FRAMES)], abs=2e-3)


@pytest.mark.slow
def test_one_stream_that_is_not_there_closes_the_others(sample, artifact, pictures, capsys):
    program = sample("rtsp_streams/rtsp_streams.py")
    with RtspServer(pictures, fps=CLIP_FPS) as server:
        nowhere = RtspServer(pictures)
        nowhere.close()
        assert program.main([str(artifact), server.url, nowhere.url]) == 2
        assert _no_stream_is_read_any_more()
    assert f"127.0.0.1:{nowhere.port}" in capsys.readouterr().err


def _interrupted_at(program, monkeypatch, name, frame):
    """Ctrl-C in the middle of a run, at a frame of the sink of that name in a program."""
    kind = getattr(program, name)
    write, count = kind.write, 0

    def watch(self, item):
        nonlocal count
        count += 1
        if count == frame:
            os.kill(os.getpid(), signal.SIGINT)
        return write(self, item)

    monkeypatch.setattr(kind, "write", watch)


@pytest.mark.slow
def test_ctrl_c_keeps_what_the_camera_recorded(sample, artifact, pictures, tmp_path, monkeypatch, capsys):
    program = sample("camera/camera.py")
    _interrupted_at(program, monkeypatch, "Alarm", 5)
    handler = signal.getsignal(signal.SIGINT)
    with RtspServer(pictures, fps=CLIP_FPS) as server:
        record = tmp_path / "out.mp4"
        assert program.main([str(artifact), server.url, "--serve", "0", "--record", str(record)]) == 0
    assert signal.getsignal(signal.SIGINT) is handler
    assert _frames_in(record) >= 5
    assert "frames shown" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_keeps_what_the_streams_gave(sample, artifact, pictures, tmp_path, monkeypatch):
    program = sample("rtsp_streams/rtsp_streams.py")
    _interrupted_at(program, monkeypatch, "JsonLines", 6)
    with RtspServer(pictures, fps=CLIP_FPS) as a, RtspServer(pictures, fps=CLIP_FPS) as b:
        assert program.main([str(artifact), a.url, b.url, "-o", str(tmp_path)]) == 0
    lines = (tmp_path / "frames.jsonl").read_text().splitlines()
    assert len(lines) >= 6
    assert sum(_frames_in(path) for path in tmp_path.glob("overlay_*.mp4")) == len(lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["camera/camera.py", "rtsp_streams/rtsp_streams.py"])
def test_a_port_in_use_leaves_no_files(sample, artifact, pictures, tmp_path, capsys, name):
    with RtspServer(pictures, fps=CLIP_FPS) as server, BrowserView(0, classes=tiny.CLASSES) as other:
        output = ["--record", str(tmp_path / "out.mp4")] if "camera" in name else ["-o", str(tmp_path)]
        assert sample(name).main([str(artifact), server.url, "--serve", str(other.port), *output]) == 2
    assert f"--serve {other.port + 1}" in capsys.readouterr().err
    assert list(tmp_path.glob("[!t]*")) == []
    assert _no_stream_is_read_any_more()

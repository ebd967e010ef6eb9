# SPDX-License-Identifier: Apache-2.0
"""A process that ends, or forks, while a thread is inside OpenCV or FFmpeg."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any

import cv2
import numpy as np
import pytest

import imp_trt
from imp_trt.data import native_calls
from imp_trt.data.images import encode_image
from imp_trt.data.native_calls import native_call, waiting_call
from imp_trt.video import open_source, run_pipeline
from imp_trt.video.sinks import OverlayImages, OverlayVideo, PanopticMaps
from imp_trt.video.sources import files
from tests.support import clips, tiny

HEAD = """
import os, sys, threading, time
import numpy as np
folder, url = sys.argv[1:]
def in_thread(work):
    started = threading.Event()
    def forever():
        while True:
            work()
            started.set()
    threading.Thread(target=forever, daemon=True).start()
    started.wait(60)
"""

PIPELINE = """
import imp_trt
from imp_trt.video import open_source, run_pipeline
from imp_trt.video.sinks import OverlayVideo
segmenter = imp_trt.Segmenter(folder + "/tiny.fp32.onnx", threads=1)
def run(spec):
    with open_source(spec) as source:
        run_pipeline(segmenter, source, [OverlayVideo(folder + "/o.avi", 10.0)], max_frames=5)
"""

PROGRAMS = {
    "a live source": """
from imp_trt.video import open_source
source = open_source(url)
next(iter(source))
""",
    "frames of a live source": PIPELINE + "for result in segmenter.stream(open_source(url)): break",
    "a pipeline": PIPELINE + "in_thread(lambda: run(folder + '/clip.mp4'))",
    "a pipeline of a live source": PIPELINE + "in_thread(lambda: run(url))",
    "a video without av": """
sys.modules["av"] = None
from imp_trt.video import open_source
in_thread(lambda: list(open_source(folder + "/clip.mp4")))
""",
    "a writer": """
from imp_trt.video.writer import VideoWriter
writer = VideoWriter(folder + "/o.avi", 10.0)
frame = np.random.default_rng(0).integers(0, 255, (721, 1280, 3), dtype=np.uint8)
in_thread(lambda: writer.write(frame))
""",
    "an image": """
from imp_trt.video import open_source
in_thread(lambda: list(open_source(folder + "/a.png")))
""",
    "a drawing": PIPELINE
    + """
frame = np.zeros((720, 1280, 3), np.uint8)
result = segmenter.run(frame)
in_thread(lambda: result.plot(frame, legend=True))
""",
}

FAST = ("a live source", "a writer", "a video without av")


class Camera(BaseHTTPRequestHandler):
    """Sends MJPEG without an end."""

    image = encode_image(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8), ".jpg")

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
        self.end_headers()
        head = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(self.image)
        try:
            while True:
                self.wfile.write(head + self.image + b"\r\n")
                time.sleep(0.01)
        except OSError:
            pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", [what if what in FAST else pytest.param(what, marks=pytest.mark.slow) for what in PROGRAMS]
)
def test_a_process_ends_without_an_abort(tmp_path: Path, what: str) -> None:
    clips.write_clip(tmp_path / "clip.mp4", size=(64, 96))
    tiny.artifact(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encode_image(noise, ".png"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v.mjpg"
        argv = [sys.executable, "-c", HEAD + PROGRAMS[what], str(tmp_path), url]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr


def guarded(name: str, function: Callable[..., Any], outside: set[str]) -> Callable[..., Any]:
    """The function, whose calls outside of native_call are recorded."""

    def call(*arguments: Any, **options: Any) -> Any:
        thread = threading.get_ident()
        if thread not in native_calls._gate._inside and thread not in native_calls._waiting._inside:
            outside.add(name)
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize("av", [True, False])
def test_opencv_is_called_within_native_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, av: bool
) -> None:
    outside: set[str] = set()
    for name in dir(cv2):
        if isinstance(function := getattr(cv2, name), BuiltinFunctionType):
            monkeypatch.setattr(cv2, name, guarded(name, function, outside))
    if not av:
        monkeypatch.setattr(files, "pyav_decodes", lambda: False)
    clip = clips.write_clip(tmp_path / "clip.mp4", size=(63, 95))
    outside.clear()  # of the clip
    frame = tiny.frame(100, 131)
    with imp_trt.Segmenter(tiny.artifact(tmp_path), threads=1) as segmenter:
        for source in (clip, tmp_path / "images"):
            suffix = ".mkv" if av else ".avi"
            sinks = [OverlayVideo(tmp_path / f"o{suffix}", 10), PanopticMaps(tmp_path / "panoptic")]
            if source is clip:
                sinks.append(OverlayImages(tmp_path / "images"))
            with open_source(source) as opened:
                run_pipeline(segmenter, opened, sinks)
        result = segmenter.run(frame, color="rgb")
    for style in ("instances", "classes", "panoptic"):
        result.plot(frame, color="rgb", style=style, legend=True)  # type: ignore[arg-type]
    assert result.disagreement.any()
    assert not outside


def test_a_fork_does_not_wait_for_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_calls, "LONGEST_WAIT_S", 0.1)
    inside, leave = threading.Event(), threading.Event()

    def read() -> None:
        with waiting_call():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=read)
    thread.start()
    inside.wait(60)
    start = time.perf_counter()
    native_calls._gate.shut()
    native_calls._gate.open()
    assert time.perf_counter() - start < 1
    native_calls._waiting.shut(native_calls.LONGEST_WAIT_S)  # as at the end of the process
    native_calls._waiting.open()
    assert thread.is_alive()
    leave.set()
    thread.join()
    with native_call(), waiting_call():
        pass


CHILD = """
import os, sys
import numpy as np
from pathlib import Path
if sys.argv[2] != "av":
    sys.modules["av"] = None
from imp_trt.video import open_source
from imp_trt.video.writer import VideoWriter
folder = Path(sys.argv[1])
(folder / "old.mkv").write_text("old")
writers = [VideoWriter(folder / name, 30.0) for name in ("a.avi", "a.mkv", "old.mkv")]
source = open_source(folder / "clip.mp4")
frames = iter(source)
next(frames)
noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
def write():
    for i in range(40):
        for writer in writers: writer.write(np.roll(noise, i, 1))
write()
child = os.fork()
if child == 0:
    source.close()
    for writer in writers[:2]: writer.abort()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
write()
for writer in writers: writer.close()  # counts the frames
assert len(list(frames)) == 9
"""


@pytest.mark.parametrize("decoder", ["av", "opencv"])
def test_a_child_leaves_videos_of_its_parent_alone(tmp_path: Path, decoder: str) -> None:
    clips.write_clip(tmp_path / "clip.mp4")
    argv = [sys.executable, "-c", CHILD, str(tmp_path), decoder]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [clips.played(tmp_path / name) for name in ("a.avi", "a.mkv", "old.mkv")] == [80] * 3

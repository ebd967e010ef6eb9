# SPDX-License-Identifier: Apache-2.0
"""Real streams, over real sockets: RTSP, HTTP cameras, HTTP recordings."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imp_trt.data.images import encode_image
from imp_trt.errors import SourceError
from imp_trt.video.sources import captures, open_source
from tests.support import av_clips, clips
from tests.support.rtsp_server import RtspServer

LEVELS = (40, 90, 140, 200)
PICTURES = [np.full((64, 96, 3), level, np.uint8) for level in LEVELS]
LOGIN = ("admin", "s3cret@/")

pytestmark = pytest.mark.skipif(
    not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG), reason="this OpenCV has no FFmpeg"
)


@pytest.fixture(autouse=True)
def _one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts = captures._timeouts
    monkeypatch.setattr(captures, "_timeouts", lambda read_timeout_s: timeouts(1.0))


@pytest.mark.slow
def test_rtsp(capfd: pytest.CaptureFixture[str]) -> None:
    with RtspServer(PICTURES, login=LOGIN) as server, open_source(server.url) as source:
        assert source.name == f"rtsp://***@127.0.0.1:{server.port}/live"
        assert (source.live, source.frames, source.fps) == (True, None, 25.0)
        frames = list(islice(source, 12))
    assert {frame.image.shape for frame in frames} == {(64, 96, 3)}
    first = frames[0].index
    # On a busy machine the server is some images on before the first is read.
    shift = int(np.argmin([abs(frames[0].image.mean() - level) for level in LEVELS])) - first
    for frame in frames:
        assert abs(int(frame.image.mean()) - LEVELS[(frame.index + shift) % 4]) <= 2
    times = [frame.time_s for frame in frames]
    assert times == sorted(times, key=float)
    assert first >= 0
    assert "PLAY" in server.requests
    assert "s3cret" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_rtsp_servers_that_vanish_and_come_back() -> None:
    kinds: list[str] = []
    with RtspServer(PICTURES[:1], fps=50) as server:
        source = open_source(server.url, on_event=lambda kind, _: kinds.append(kind))
        frames = iter(source)
        assert abs(int(next(frames).image.mean()) - 40) <= 2
    with RtspServer([np.full((32, 64, 3), 200, np.uint8)], fps=50, port=server.port), source:
        frame = next(frame for frame in frames if frame.image.shape[0] == 32)
    assert abs(int(frame.image.mean()) - 200) <= 2
    assert kinds[:2] == ["connected", "lost"]
    assert kinds[-1] == "reconnected"


@pytest.mark.slow
def test_rtsp_servers_that_freeze() -> None:
    lost = threading.Event()
    with RtspServer(PICTURES, fps=50) as server:
        source = open_source(server.url, on_event=lambda kind, _: kind == "lost" and lost.set())
        with source:
            next(iter(source))
            server.frozen.set()
            assert lost.wait(3.0)  # after the read timeout
            server.frozen.clear()
            assert next(frame for frame in source if source.reconnects).image.shape == (64, 96, 3)


@pytest.mark.parametrize("login", ["admin:wr0ng@", ""])
def test_rtsp_with_a_wrong_login(login: str, capfd: pytest.CaptureFixture[str]) -> None:
    with RtspServer(PICTURES, login=LOGIN) as server, pytest.raises(SourceError) as caught:
        open_source(f"rtsp://{login}127.0.0.1:{server.port}/live")
    assert "check the path, user and password" in str(caught.value)
    assert "wr0ng" not in str(caught.value) + "".join(capfd.readouterr())


def test_an_http_camera() -> None:
    jpegs = [encode_image(picture, ".jpg") for picture in PICTURES]

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            try:
                while not stop.wait(0.02):
                    data = jpegs.pop(0)
                    jpegs.append(data)
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")
            except OSError:
                pass  # the client has left

        def log_message(self, *args: Any) -> None: ...

    stop = threading.Event()
    with _served(Camera) as url:
        with open_source(f"{url}/video?password=s3cret") as source:
            frames = list(islice(source, 8))
        stop.set()
    assert source.live
    assert source.name == f"{url}/video?password=***"
    levels = [int(frame.image.mean()) for frame in frames]
    assert all(min(abs(level - known) for known in LEVELS) <= 2 for level in levels)
    assert len(set(levels)) > 1


def test_a_recording_at_an_http_address_ends(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.mp4", frames=10)
    path.write_bytes(clips.moved_to_front(path.read_bytes()))
    with (
        _served(partial(_Files, directory=str(tmp_path))) as url,
        open_source(f"{url.replace('//', '//u:s3cret@')}/clip.mp4") as source,
    ):
        frames = list(source)
    assert (source.live, source.frames, source.fps, source.paths) == (False, 10, 25.0, ())
    assert source.name == f"{url.replace('//', '//***@')}/clip.mp4"
    assert [frame.index for frame in frames] == [*range(10)]
    assert frames[-1].time_s == pytest.approx(9 / 25, abs=2e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"options": {"flags": "+ildct+ilme", "x264-params": "tff=1"}},  # which OpenCV 5 turns to noise
        {"turned": {"degrees": 0, "hflip": True}},  # which OpenCV ignores
        {"context": {"sample_aspect_ratio": Fraction(4, 3)}},
    ],
)
def test_a_recording_at_an_http_address_is_read_as_the_file_is(
    tmp_path: Path, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    path = av_clips.write(tmp_path / "clip.mp4", container={"movflags": "faststart"}, **settings)
    said, images = [], []
    with _served(partial(_Files, directory=str(tmp_path))) as url:
        for place in (path, f"{url}/clip.mp4"):
            with open_source(place) as source:
                images.append([frame.image for frame in source])
            assert len(images[-1]) == 8
            said.append([message.replace(source.name, "") for message in caplog.messages])
            caplog.clear()
    assert np.array_equal(*images)
    assert said[0] == said[1]


@pytest.mark.slow
def test_a_server_that_stalls_within_a_recording(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    container = {"movflags": "faststart"}
    path = av_clips.write(tmp_path / "clip.mp4", "mpeg4", frames=60, size=(360, 640), container=container)
    data, ended = path.read_bytes(), threading.Event()

    class Stalling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) * 2 // 3])
            ended.wait(20)

        def log_message(self, *args: Any) -> None: ...

    with _served(Stalling) as url, open_source(f"{url}/clip.mp4?token=s3cret", read_timeout_s=1) as source:
        start = time.monotonic()
        frames = len(list(source))
        assert time.monotonic() - start < 10
        ended.set()
    assert 20 < frames < 60
    assert f"lists 60 frames; {frames} could be decoded" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_page_without_video(tmp_path: Path) -> None:
    with _served(partial(_Files, directory=str(tmp_path))) as url:
        for name in ("", "absent.mp4"):
            with pytest.raises(SourceError, match="a server that sends no video"):
                open_source(f"{url}/{name}")


@pytest.mark.slow
def test_hls_keeps_its_own_times_and_loses_nothing(tmp_path: Path) -> None:
    """A live stream of ten frames per second that is published a second at a time, and ends after six."""
    pytest.importorskip("av", reason="needs PyAV to make the segments")
    names = _write_segments(tmp_path, seconds=6)
    start = time.monotonic()

    class Live(_Files):
        def do_GET(self) -> None:
            if ".m3u8" not in self.path:
                super().do_GET()
                return
            there = min(2 + int(time.monotonic() - start), len(names))
            first = max(there - 3, 0)
            lines = [
                "#EXTM3U",
                "#EXT-X-VERSION:3",
                "#EXT-X-TARGETDURATION:1",
                f"#EXT-X-MEDIA-SEQUENCE:{first}",
            ]
            lines += [f"#EXTINF:1.0,\n{name}" for name in names[first:there]]
            lines += ["#EXT-X-ENDLIST"] if there == len(names) else []
            body = ("\n".join(lines) + "\n").encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.apple.mpegurl")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with (
        _served(partial(Live, directory=str(tmp_path))) as url,
        open_source(f"{url}/live.m3u8?token=s3cret") as source,
    ):
        assert source.live
        assert source.paced
        frames = []
        for frame in source:
            frames.append(frame)
            time.sleep(0.02)  # faster than the stream on average
    assert source.dropped == 0
    assert len(frames) >= 40
    assert np.diff([frame.time_s or 0.0 for frame in frames]) == pytest.approx(0.1, abs=2e-3)
    handed_over = np.diff([frame.captured_s or 0.0 for frame in frames])
    assert (handed_over > 0.05).mean() > 0.8


def _write_segments(folder: Path, seconds: int) -> list[str]:
    """MPEG-TS files of one second each, ten frames per second."""
    import av

    names = [f"s{i}.ts" for i in range(seconds)]
    for i, name in enumerate(names):
        with av.open(str(folder / name), "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            stream.codec_context.max_b_frames = 0
            stream.codec_context.gop_size = 10
            for k in range(10):
                image = np.full((64, 96, 3), 20 + 20 * k, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts = 100 + 10 * i + k  # not at 0, where the muxer shifts them
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return names


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None: ...


@contextmanager
def _served(handler: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(2.0)

# SPDX-License-Identifier: Apache-2.0
"""The window: its process played by scripts, and the real one where a virtual display can be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.errors import OutputError
from imp_trt.video.sinks import Window, viewer
from imp_trt.video.sinks.window import _Viewer
from tests.video.sinks.conftest import MakeItem

READ = """
import struct, sys
def read():
    head = sys.stdin.buffer.read(12)
    if not head: sys.exit()
    length, h, w = struct.unpack("<III", head)
    return sys.stdin.buffer.read(length).decode(), h, w, sys.stdin.buffer.read(h * w * 3)
def say(word): print(word, flush=True)
"""


@pytest.fixture(autouse=True)
def _display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":9")


def window(script: str) -> Window:
    return Window("street", viewer=[sys.executable, "-c", READ + script])


def write_until(sink: Window, item: MakeItem, stop: Callable[[bool], bool], source: str = "") -> int:
    """Write every 10 ms until stop(answer), at most 10 s; how often."""
    for count in range(1000):
        if stop(sink.write(item(count, source=source))):
            return count
        time.sleep(0.01)
    raise AssertionError("nothing happened")


def test_the_viewer_gets_frames_when_it_is_ready(tmp_path: Path, item: MakeItem) -> None:
    """Two frames are requested; the others must not hold up the writer."""
    got = tmp_path / "got"
    script = f"""
say("ready"); first = read(); say("ready"); second = read()
open({str(got)!r}, "wb").write(second[3]); open({str(got)!r} + ".txt", "w").write(first[0] + "|" + second[0])
say("quit")
"""
    with window(script) as sink:
        write_until(sink, item, lambda going: not going, source="front")
    pixels = np.frombuffer(got.read_bytes(), np.uint8).reshape(item().overlay.shape)
    assert any(np.array_equal(pixels, item(i, source="front").overlay) for i in range(3))
    assert (tmp_path / "got.txt").read_text() == "front - street|front - street"


@pytest.mark.slow
def test_a_viewer_that_is_not_ready_is_not_waited_for(item: MakeItem) -> None:
    with window("import time; time.sleep(60)") as sink:
        start = time.monotonic()
        assert all(sink.write(item(i)) for i in range(100))
        assert time.monotonic() - start < 5
        start = time.monotonic()
        sink.close()
    assert time.monotonic() - start < 2


def test_a_viewer_that_stalls_while_it_reads_is_an_error(
    item: MakeItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imp_trt.video.sinks.window._TIMEOUT_S", 0.2)
    big = item()
    big.__dict__["overlay"] = np.zeros((1080, 1920, 3), np.uint8)
    with window("say('ready'); import time; time.sleep(60)") as sink:
        with pytest.raises(OutputError, match="does not respond"):
            write_until(sink, lambda i, source: big, lambda going: False)


def test_a_viewer_that_dies_is_an_error_with_its_stderr(item: MakeItem) -> None:
    with window("say('ready'); read(); raise SystemExit('no plugin xcb')") as sink:
        with pytest.raises(OutputError, match=r"no plugin xcb.*--headless"):
            write_until(sink, item, lambda going: False)
    with window("sys.exit(3)") as sink, pytest.raises(OutputError, match="code 3"):
        write_until(sink, item, lambda going: False)


def test_closing_ends_the_process(item: MakeItem) -> None:
    sink = window("say('ready')\nwhile True: read(); say('ready')")
    for i in range(3):
        sink.write(item(i))
    assert sink._viewer is not None
    process = sink._viewer.process
    sink.abort()
    sink.close()
    assert process.poll() is not None
    with pytest.raises(OutputError, match="closed"):
        sink.write(item())
    Window().close()  # never shown


@pytest.mark.skipif("sys.platform != 'linux'", reason="needs Linux")
def test_without_a_display_no_process_is_started(monkeypatch: pytest.MonkeyPatch, item: MakeItem) -> None:
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with window("") as sink, pytest.raises(OutputError, match="DISPLAY"):
        sink.write(item())


class Desk:
    """OpenCV's windows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[str, tuple[int, int]] = {}
        self.shown: list[str] = []
        self.keys: list[int] = []
        self.visible = 1.0
        monkeypatch.setattr(cv2, "namedWindow", lambda title, flags: None)
        monkeypatch.setattr(cv2, "resizeWindow", lambda title, w, h: self.sizes.update({title: (h, w)}))
        monkeypatch.setattr(cv2, "imshow", lambda title, picture: self.shown.append(title))
        monkeypatch.setattr(cv2, "waitKey", lambda ms: self.keys.pop(0) if self.keys else -1)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda title, what: self.visible)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, list[str]]]:
    """A pipe instead of the viewer's input, and what the viewer said."""
    words: list[str] = []
    reader, writer = os.pipe()
    keep = os.dup(0)
    os.dup2(reader, 0)
    monkeypatch.setattr(viewer, "_send", words.append)
    yield writer, words
    os.dup2(keep, 0)
    for descriptor in (reader, keep, writer):
        try:
            os.close(descriptor)
        except OSError:
            pass


def send(pipe: int, title: str, size: tuple[int, int]) -> None:
    os.write(pipe, viewer.HEADER.pack(len(title), *size) + title.encode() + bytes(size[0] * size[1] * 3))


def test_the_viewer_shows_until_the_input_ends(desk: Desk, said: tuple[int, list[str]]) -> None:
    pipe, words = said
    for title in ("front", "rear", "front"):
        send(pipe, title, (20, 30))
    os.write(pipe, b"half a header"[:5])
    os.close(pipe)
    viewer.main()
    assert desk.shown == ["front", "rear", "front"]
    assert desk.sizes == {"front": (20, 30), "rear": (20, 30)}
    assert words == ["ready"] * 4


@pytest.mark.parametrize(("key", "visible"), [(ord("q"), 1.0), (27, 1.0), (-1, 0.0)])
def test_the_viewer_says_when_the_user_quits(
    desk: Desk, said: tuple[int, list[str]], key: int, visible: float
) -> None:
    pipe, words = said
    send(pipe, "street", (20, 30))
    desk.keys, desk.visible = [key], visible
    viewer.main()
    assert words == ["ready", "quit"]


def test_keys_are_asked_for_while_no_frame_comes(desk: Desk, said: tuple[int, list[str]]) -> None:
    pipe, words = said
    send(pipe, "street", (20, 30))
    desk.keys = [-1, -1, -1, ord("q")]
    viewer.main()
    assert words == ["ready", "ready", "quit"]


def test_a_large_frame_starts_in_a_window_that_fits(desk: Desk) -> None:
    viewer._open("wide", 2160, 3840)
    viewer._open("tall", 4000, 100)
    rows = viewer.MAX_WINDOW_SIZE[0]
    assert desk.sizes == {"wide": viewer.MAX_WINDOW_SIZE, "tall": (rows, round(100 * rows / 4000))}


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="needs Xvfb, a virtual display")
@pytest.mark.skipif(
    "GUI:                           NONE" in cv2.getBuildInformation(), reason="needs windows"
)
def test_a_real_window_from_two_threads_in_turn(item: MakeItem, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    display = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-nolisten", "tcp"], pass_fds=[writer], stderr=subprocess.DEVNULL
    )
    os.close(writer)
    try:
        number = os.read(reader, 16).decode().strip()
        assert number, "Xvfb did not start"
        monkeypatch.setenv("DISPLAY", f":{number}")
        taken: list[int] = []
        sent: list[str] = []
        send_it = _Viewer.send

        def send_and_count(viewer: _Viewer, title: str, picture: NDArray[np.uint8]) -> None:
            sent.append(title)
            send_it(viewer, title, picture)

        monkeypatch.setattr(_Viewer, "send", send_and_count)

        def work() -> None:
            with Window() as sink:
                sent.clear()
                write_until(sink, item, lambda going: not going or len(sent) == 3)
                taken.append(len(sent))

        for _ in range(2):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            thread.join(20)
            assert not thread.is_alive()
        assert taken == [3, 3]
    finally:
        os.close(reader)
        display.terminate()
        display.wait(5)

# SPDX-License-Identifier: Apache-2.0
"""Viewers that stall, vanish or come in crowds, and the end of the view: none of them blocks the run."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.video.serve import BrowserView, server
from imp_trt.video.serve import render as render_module
from imp_trt.video.serve.render import View
from imp_trt.video.sinks import SegmentedFrame
from tests.video.serve.made import ask, ended, get, get_json, large, segmented, threads, view


@pytest.fixture
def shown() -> Iterator[BrowserView]:
    with view() as opened:
        opened.write(segmented())
        yield opened


def test_a_stream_viewer_that_vanished_is_noticed_without_new_frames(
    shown: BrowserView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_FRAME_TIMEOUT_S", 0.05)
    peer = ask(shown.port, "/stream")
    received = b""
    while not received.endswith(b"\xff\xd9\r\n"):  # the end of the image: nothing more will be sent
        received += peer.recv(1 << 16)
    assert len(threads()) == 2
    peer.close()
    ended(lambda: len(threads()) == 1)


@pytest.mark.slow
def test_stalled_viewers_hold_up_neither_the_run_nor_other_viewers(shown: BrowserView) -> None:
    stalled = [ask(shown.port, "/stream?layers=", 4096) for _ in range(8)]
    half = socket.create_connection(("127.0.0.1", shown.port))
    half.sendall(b"GET /frame")
    slowest = 0.0
    for i in range(12):
        item = large(i)
        start = time.perf_counter()
        shown.write(item)
        slowest = max(slowest, time.perf_counter() - start)
        answer, _ = get(shown.port, f"/frame?layers=&after={i + 1}")
        assert answer.headers["Frame-Sequence"] == str(i + 2)
    assert slowest < 0.1
    start = time.perf_counter()
    shown.close()
    assert time.perf_counter() - start < 2
    assert threads() == []
    for peer in (*stalled, half):
        peer.close()


def test_a_stalled_viewer_is_dropped(shown: BrowserView, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.Handler.timeout <= 10
    monkeypatch.setattr(server.Handler, "timeout", 0.2)
    peer = ask(shown.port, "/stream?layers=", 4096)
    ended(lambda: len(threads()) == 2)
    for i in range(100):
        shown.write(large(i))
        if len(threads()) == 1:
            break
        time.sleep(0.05)
    assert len(threads()) == 1
    peer.close()


def test_viewers_that_vanish_leave_nothing(shown: BrowserView, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(30):
        peer = ask(shown.port, ("/frame?after=0", "/stream", "/", "/frame?after=99")[i % 4])
        if i % 2:
            # Reset instead of an orderly end: as when a laptop is closed.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
    for i in range(5):
        shown.write(segmented(i))
    assert get(shown.port, "/frame")[0].status == 200
    assert not caplog.records
    shown.close()
    assert threads() == []


def test_a_thread_that_cannot_be_had_takes_no_viewers_place(
    shown: BrowserView, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoThread(server.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(server, "Thread", NoThread)
        peer = ask(shown.port, "/about")
        assert peer.recv(1) == b""  # hung up
        peer.close()
    assert get(shown.port, "/about")[0].status == 200
    shown.close()
    assert threads() == []


def test_a_stream_ends_at_a_frame_that_cannot_be_drawn(
    shown: BrowserView, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(item: SegmentedFrame, view: View) -> NDArray[np.uint8]:
        raise ValueError("no such layer")

    with ask(shown.port, "/stream") as peer:
        received = b""
        while not received.endswith(b"\xff\xd9\r\n"):
            received += peer.recv(1 << 16)
        monkeypatch.setattr(render_module, "render", fails)
        shown.write(segmented(1))
        assert peer.recv(1 << 16) == b""
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["no such layer"]


def test_too_many_viewers(shown: BrowserView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    peers = [ask(shown.port, "/frame?after=99") for _ in range(3)]
    ended(lambda: len(threads()) == 4)
    with socket.create_connection(("127.0.0.1", shown.port), timeout=5) as turned_away:
        assert turned_away.recv(100).startswith(b"HTTP/1.1 503")
    for peer in peers:
        peer.close()
    shown.write(segmented())  # wakes those who waited: they find their viewers gone
    for i in range(100):
        shown.write(segmented(i))
    ended(lambda: get(shown.port, "/about")[0].status == 200)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", "abort"])
def test_the_end(end: str) -> None:
    opened = view()
    opened.write(segmented())
    waiting = [ask(opened.port, f"/frame?after={after}") for after in (1, 1, 0)]
    idle = http.client.HTTPConnection("127.0.0.1", opened.port, timeout=5)
    idle.request("GET", "/state?page=a")
    idle.getresponse().read()
    ended(lambda: len(threads()) == 5)
    start = time.perf_counter()
    getattr(opened, end)()
    assert time.perf_counter() - start < 2
    assert threads() == []
    word = {"close": b"Run: ended", "abort": b"Run: failed"}[end]
    for peer, head in zip(waiting, (b" 204 ", b" 204 ", b" 200 "), strict=True):
        received = peer.recv(1 << 16)
        assert head in received
        assert word in received or head == b" 200 "
        peer.close()
    idle.close()
    opened.close()
    opened.abort()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", opened.port), timeout=1)
    assert opened.write(segmented())  # harmless


def test_an_answer_on_its_way_is_not_cut_off(shown: BrowserView, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, done = Event(), Event()

    def slow(item: SegmentedFrame, view: View) -> NDArray[np.uint8]:
        begun.set()
        assert done.wait(5)
        return item.frame.image

    monkeypatch.setattr(render_module, "render", slow)
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(get, shown.port, "/frame")
        assert begun.wait(5)
        closing = pool.submit(shown.close)
        time.sleep(0.2)
        assert not closing.done()
        done.set()
        answer, body = asking.result(5)
        closing.result(2)
    assert answer.status == 200
    assert body.endswith(b"\xff\xd9")


@pytest.mark.slow
def test_a_drawing_that_stalls_does_not_hold_up_the_end(
    shown: BrowserView, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, done = Event(), Event()

    def hangs(item: SegmentedFrame, view: View) -> NDArray[np.uint8]:
        begun.set()
        done.wait(10)
        return item.frame.image

    monkeypatch.setattr(render_module, "render", hangs)
    peer = ask(shown.port, "/frame")
    assert begun.wait(5)
    start = time.perf_counter()
    shown.close()
    assert time.perf_counter() - start < 2
    done.set()
    ended(lambda: threads() == [])
    peer.close()


def test_a_page_is_notified_before_the_end() -> None:
    opened = view()
    assert get_json(opened.port, "/state?page=a")["run"] == "live"
    with ThreadPoolExecutor() as pool:
        closing = pool.submit(opened.close)
        time.sleep(0.1)
        assert not closing.done()
        assert get_json(opened.port, "/state?page=a")["run"] == "ended"
        closing.result(1)


def test_an_exception_in_the_run_is_failed() -> None:
    with pytest.raises(KeyboardInterrupt), view() as opened:
        raise KeyboardInterrupt
    assert threads() == []
    assert opened._state.frames.run == "failed"


@pytest.mark.slow
def test_a_request_has_a_limit_as_a_whole(shown: BrowserView, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps a timeout for each byte from ever passing."""
    monkeypatch.setattr(server.Handler, "timeout", 1.0)
    with socket.create_connection(("127.0.0.1", shown.port), timeout=5) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        for _ in range(40):
            if len(threads()) == 1:
                break
            with suppress(OSError):
                peer.sendall(b"X: y\r\n")
            time.sleep(0.1)
        assert len(threads()) == 1


@pytest.mark.slow
def test_unfinished_requests_do_not_hold_the_places(
    shown: BrowserView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(server, "PATIENCE_S", 0.2)
    slow = []
    for _ in range(12):
        peer = socket.create_connection(("127.0.0.1", shown.port), timeout=5)
        peer.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        slow.append(peer)
        time.sleep(0.1)
    time.sleep(0.3)
    for _ in range(5):
        assert get(shown.port, "/about")[0].status == 200
    for peer in slow:
        peer.close()

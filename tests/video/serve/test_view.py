# SPDX-License-Identifier: Apache-2.0
"""The view over HTTP: what it shows, whom it rejects, and how it ends."""

from __future__ import annotations

import errno
import http.client
import json
import logging
import math
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from imp_trt.errors import InvalidInput, OutputError
from imp_trt.results.result import SegmentationResult
from imp_trt.video.serve import BrowserView, server
from imp_trt.video.serve import view as view_module
from tests.video.serve.made import CLASSES, ask, get, get_json, picture, segmented, view


@pytest.fixture
def shown() -> Iterator[BrowserView]:
    with view(title="street.mp4") as opened:
        assert opened.write(segmented())
        yield opened


def pixels(jpeg: bytes) -> np.ndarray[Any, Any]:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/figures.js", "/graph.js"])
def test_page_and_what_it_loads(shown: BrowserView, path: str) -> None:
    answer, body = get(shown.port, path)
    assert answer.status == 200
    assert answer.headers["Content-Length"] == str(len(body))
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    # Nothing is loaded from elsewhere, and no script hides in the page.
    text = body.decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|\sstyle=|\son\w+=", text)
    head, nothing = get(shown.port, path, method="HEAD")
    assert (head.status, nothing) == (200, b"")
    assert head.headers["Content-Length"] == str(len(body))


def test_a_frame_with_its_number_and_age(shown: BrowserView) -> None:
    answer, body = get(shown.port, "/frame?layers=&after=0")
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert abs(pixels(body).astype(int) - picture(0)).max() <= 2
    headers = {name: answer.headers[f"Frame-{name}"] for name in ("Sequence", "Index", "Name", "Age")}
    assert headers == {"Sequence": "1", "Index": "0", "Name": "000000", "Age": "250.0"}
    assert answer.headers["Run"] == "live"
    colored = pixels(get(shown.port, "/frame?layers=classes")[1])
    assert abs(colored.astype(int) - picture(0)).max() > 20


def test_a_frame_whose_name_is_not_utf_8() -> None:
    """The header is read by decodeURIComponent, which accepts UTF-8 only."""
    with view() as opened:
        item = segmented()
        opened.write(replace(item, frame=replace(item.frame, name="a\udcff\ud800b")))
        answer, _ = get(opened.port, "/frame")
        assert answer.status == 200
        assert answer.headers["Frame-Name"] == "a%3F%3Fb"


def test_the_age_of_the_canvas(shown: BrowserView) -> None:
    assert "canvas_age" not in get_json(shown.port, "/state")["frame"]
    item = segmented(1)
    shown.write(replace(item, result=replace(item.result, canvas_age=3)))
    assert get_json(shown.port, "/state")["frame"]["canvas_age"] == 3


def test_a_viewer_waits_for_the_next_frame(shown: BrowserView) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(get, shown.port, "/frame?layers=&after=1")
        time.sleep(0.1)
        assert not waiting.done()
        shown.write(segmented(5))
        answer, body = waiting.result(5)
    assert answer.headers["Frame-Sequence"] == "2"
    assert abs(pixels(body).astype(int) - picture(5)).max() <= 2


def test_nothing_new_is_no_error(shown: BrowserView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FRAME_TIMEOUT_S", 0.05)
    answer, body = get(shown.port, "/frame?after=1")
    assert (answer.status, body) == (204, b"")


def test_a_paused_viewer_keeps_its_frame(shown: BrowserView) -> None:
    held = get(shown.port, "/frame?layers=&after=0&hold=1")[0].headers["Frame-Sequence"]
    shown.write(segmented(9))
    body = get(shown.port, f"/frame?layers=&held={held}")[1]
    assert abs(pixels(body).astype(int) - picture(0)).max() <= 2
    assert get(shown.port, "/frame?held=99")[0].status == 410


def test_several_sources() -> None:
    with view() as opened:
        for i, source in enumerate(("front", "rear")):
            opened.write(segmented(i, source))
        assert get_json(opened.port, "/state")["sources"] == ["front", "rear"]
        for i, source in enumerate(("front", "rear")):
            body = get(opened.port, f"/frame?layers=&source={source}")[1]
            assert abs(pixels(body).astype(int) - picture(i)).max() <= 2


def test_about_and_state(shown: BrowserView) -> None:
    about = get_json(shown.port, "/about")
    assert about["title"] == "street.mp4"
    assert [row["name"] for row in about["classes"]] == list(CLASSES.names)
    assert about["classes"][2] == {"name": "car", "rgb": [0, 0, 142], "thing": True}
    shown.write(segmented(1, age_s=None, captured_s=None))
    shown.statistics = lambda: {"captured": 3, "delivered": 2, "dropped": 1, "in_flight": 0}
    state = get_json(shown.port, "/state?after=1")
    assert state["run_id"] == about["run_id"]
    assert state["run"] == "live"
    assert state["statistics"]["captured"] == 3
    assert state["samples"] == [[2, 0.0, "", 30.0, 40.0, None]]
    assert state["frame"]["shares"] == [0.5, 0.5, 0.0]
    assert state["frame"]["counts"] == [0, 0, 1]
    assert [sample[0] for sample in get_json(shown.port, "/state")["samples"]] == [1, 2]


def test_before_the_first_frame() -> None:
    with view() as opened:
        state = get_json(opened.port, "/state")
        assert (state["frame"], state["sources"], state["samples"]) == (None, [], [])


@pytest.mark.parametrize("fault", [lambda: {"age": math.nan}, lambda: {"x": object()}, lambda: 1 / 0])
def test_faulty_statistics_are_logged_once(
    shown: BrowserView, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shown.statistics = fault
    for _ in range(3):
        assert get_json(shown.port, "/state")["statistics"] == {}
    assert len(caplog.records) == 1


def test_a_frame_that_cannot_be_drawn_is_reported_and_the_others_go_on(
    shown: BrowserView, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        size = (48, 64)

        def semantic(self) -> Any:
            raise RuntimeError("the GPU fell off")

        instances = semantic

    shown.write(segmented(1, result=SegmentationResult.lazy(Broken(), CLASSES, {})))
    for _ in range(2):
        answer, body = get(shown.port, "/frame?after=1")
        assert answer.status == 500
        assert b"the GPU fell off" in body
    assert "shares" not in get_json(shown.port, "/state")["frame"]
    assert len(caplog.records) == 1
    assert get(shown.port, "/frame?layers=")[0].status == 200  # the camera's image needs no result
    shown.write(segmented(2))
    assert get(shown.port, "/frame?after=2")[0].status == 200


def test_invalid_requests(shown: BrowserView) -> None:
    for path in (
        "/frame?after=x",
        "/frame?layers=nonsense",
        "/frame?held=",
        "/state?after=1.5",
        "/frame?alpha=200",
    ):
        assert get(shown.port, path)[0].status == 400, path
    with ask(shown.port, "http://[/state") as peer:  # http.client does not send it
        assert peer.recv(100).startswith(b"HTTP/1.1 400")
    assert get(shown.port, f"http://localhost:{shown.port}/state")[0].status == 200
    for path in ("/..%2f..%2fetc/passwd", "/../view.py", "/view.py", "/frame/"):
        assert get(shown.port, path)[0].status == 404, path
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert get(shown.port, "/", method=method)[0].status == 501


def test_other_sites_and_other_names_are_rejected_everywhere(shown: BrowserView) -> None:
    for path in ("/", "/frame", "/stream", "/state", "/about", "/page.js"):
        assert get(shown.port, path, {"Host": f"evil.example:{shown.port}"})[0].status == 421
        assert get(shown.port, path, {"Sec-Fetch-Site": "cross-site"})[0].status == 403
        answer, _ = get(shown.port, path, {"Origin": "http://evil.example"})
        assert answer.status == 403
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_body_is_not_taken_for_a_request(shown: BrowserView) -> None:
    inner = b"GET /about HTTP/1.1\r\nHost: localhost\r\n\r\n"
    outer = b"GET /state HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner)
    with socket.create_connection(("127.0.0.1", shown.port), timeout=5) as peer:
        peer.sendall(outer + inner)
        received = b""
        try:
            while data := peer.recv(1 << 16):
                received += data
        except ConnectionResetError:
            pass
    assert received.count(b"HTTP/1.1 200") == 1


def parts(stream: http.client.HTTPResponse) -> Iterator[bytes]:
    while line := stream.readline():
        if line.startswith(b"Content-Length:"):
            stream.readline()
            yield stream.read(int(line.split(b":")[1]))


def test_motion_jpeg_for_other_programs(shown: BrowserView) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shown.port, timeout=5)
    connection.request("GET", "/stream?layers=")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("multipart/x-mixed-replace")
    pictures = parts(answer)
    for i in (0, 3, 7):
        shown.write(segmented(i))
        if i == 0:
            assert abs(pixels(next(pictures)).astype(int) - picture(0)).max() <= 2  # the fixture's
        assert abs(pixels(next(pictures)).astype(int) - picture(i)).max() <= 2
    shown.close()
    assert list(pictures) == []
    connection.close()


def test_motion_jpeg_needs_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FRAME_TIMEOUT_S", 0.05)
    with view() as opened:
        assert get(opened.port, "/stream")[0].status == 503


def test_port_in_use_names_another() -> None:
    with view() as opened, pytest.raises(OutputError, match=f"--serve {opened.port + 1}") as caught:
        BrowserView(opened.port, classes=CLASSES)
    assert str(opened.port) in caught.value.what
    assert caught.value.exit_code == 2
    # Free again at once, though connections of the first linger in the kernel.
    with BrowserView(opened.port, classes=CLASSES) as again:
        assert get(again.port, "/")[0].status == 200


def test_ports_and_hosts_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for port in (-1, 65536):
        with pytest.raises(InvalidInput, match="port"):
            BrowserView(port, classes=CLASSES)
    for host in ("no-such-host.invalid", "192.0.2.1", "a..b"):
        with pytest.raises(OutputError, match="this machine") as caught:
            BrowserView(0, host, classes=CLASSES)
        assert caught.value.fix

    def forbidden(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(view_module, "ViewServer", forbidden)
    with pytest.raises(OutputError, match=r"1023.*--serve 8080"):
        BrowserView(80, classes=CLASSES)


def test_loopback_by_default_and_a_warning_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    with view() as opened:
        assert opened.url == f"http://127.0.0.1:{opened.port}/"
        assert not caplog.records
    with view(host="0.0.0.0") as opened:  # noqa: S104
        assert "without password" in caplog.text
        assert caplog.records[0].levelno == logging.WARNING
        assert opened.url == f"http://{socket.gethostname()}:{opened.port}/"
        for name, status in ((socket.gethostname(), 200), ("10.1.2.3:80", 200), ("evil.example", 421)):
            assert get(opened.port, "/", {"Host": name})[0].status == status


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_ipv6() -> None:
    try:
        opened = view(host="::1")
    except OutputError:
        pytest.skip("this machine has no IPv6 loopback")
    with opened:
        assert opened.url == f"http://[::1]:{opened.port}/"
        connection = http.client.HTTPConnection("::1", opened.port, timeout=5)
        connection.request("GET", "/about")
        assert json.loads(connection.getresponse().read())["classes"]
        connection.close()


def test_nothing_is_drawn_for_no_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    with view() as opened:
        item = segmented()
        opened.write(item)
        assert "overlay" not in item.__dict__

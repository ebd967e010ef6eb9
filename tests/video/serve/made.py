# SPDX-License-Identifier: Apache-2.0
"""Results without a network, and requests to a view."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.results.result import Instances, SegmentationResult
from imp_trt.video.serve import BrowserView
from imp_trt.video.sinks import DrawOptions, SegmentedFrame
from imp_trt.video.sources.frame import Frame

CLASSES = ClassTable(("road", "sky", "car"), (2,), ((128, 64, 128), (70, 130, 180), (0, 0, 142)))
SIZE = (48, 64)


def picture(index: int) -> NDArray[np.uint8]:
    """Gray whose level encodes the frame's number."""
    return np.full((*SIZE, 3), (20 + 8 * index) % 256, np.uint8)


def result(timing: dict[str, float] | None = None) -> SegmentationResult:
    """Sky over road with one car, and one that is too unsure to be drawn."""
    semantic = np.zeros(SIZE, np.uint8)
    semantic[:24] = 1
    boxes = np.array([[8, 8, 24, 40], [40, 8, 56, 40]], np.float32)
    scores = np.array([0.9, 0.1], np.float32)
    found = Instances(boxes, np.full(2, 2, np.int32), scores, np.ones((2, 4, 4), np.float32), SIZE)
    return SegmentationResult(semantic, found, CLASSES, timing or {"infer": 30.0, "total": 40.0})


def segmented(index: int = 0, source: str = "", **changes: Any) -> SegmentedFrame:
    """A frame with its result, 50 ms old."""
    captured_s = changes.pop("captured_s", 100.0)
    frame = Frame(picture(index), index, f"{index:06d}", index / 10, captured_s, source)
    parts: dict[str, Any] = {"result": result(), "draw": DrawOptions(), "age_s": 0.05, "source": source}
    return SegmentedFrame(frame, **(parts | changes))


def view(**options: Any) -> BrowserView:
    """A view on any free port, under a clock that stands at 100.25 s."""
    return BrowserView(0, **({"classes": CLASSES, "clock": lambda: 100.25} | options))


def get(
    port: int, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer to one request of a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def get_json(port: int, path: str) -> dict[str, Any]:
    """A JSON answer."""
    answer, body = get(port, path)
    assert answer.status == 200
    return dict(json.loads(body))


def threads() -> list[str]:
    """Names of the view's threads that run."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("imp-serve")]


def ask(port: int, path: str, receive_bytes: int | None = None) -> socket.socket:
    """A viewer that sends a request and, for now, reads nothing."""
    peer = socket.socket()
    if receive_bytes:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    peer.settimeout(5)
    peer.connect(("127.0.0.1", port))
    peer.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return peer


def ended(condition: Callable[[], bool], within_s: float = 3.0) -> None:
    """Wait until something is so; fail if that takes too long."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def large(index: int) -> SegmentedFrame:
    """An image of noise: some hundred kilobytes of JPEG, more than a stalled connection takes."""
    item = segmented(index)
    noise = np.random.default_rng(index).integers(0, 255, (600, 800, 3), np.uint8)
    object.__setattr__(item.frame, "image", noise)
    return item

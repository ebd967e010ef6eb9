# SPDX-License-Identifier: Apache-2.0
"""A small RTSP server for tests: RFC 2326 over TCP, images as JPEG in RTP (RFC 2435), digest logins.

It needs nothing but the standard library and OpenCV, and does on demand what real cameras do: vanish, freeze,
come back with other images.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import BinaryIO
from urllib.parse import quote

import cv2
import numpy as np
from numpy.typing import NDArray

_PAYLOAD = 1300  # bytes of JPEG data in one packet
_REALM, _NONCE = "camera", "5f0c"


class RtspServer:
    """Serves images in a loop to every client, until it is left.

    Args:
        images: each [h, w, 3] uint8 BGR, h and w multiples of 8.
        fps: images a second.
        login: (user, password) to ask for.
        port: 0 takes a free one; a server that "comes back" takes its old one.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        fps: float = 25.0,
        login: tuple[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self.frozen = threading.Event()
        self.requests: list[str] = []
        self._jpegs = [_jpeg(image) for image in images]
        self._fps, self._login = fps, login
        self._leaving = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]

    @property
    def url(self) -> str:
        """The address, with the login if there is one."""
        login = ":".join(quote(part, safe="") for part in self._login) + "@" if self._login else ""
        return f"rtsp://{login}127.0.0.1:{self.port}/live"

    def __enter__(self) -> RtspServer:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Vanish: no more connections, and the present ones are cut."""
        self._leaving.set()
        for each in [self._listening, *self._sockets]:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client has cut it already
            each.close()
        for thread in self._threads:
            thread.join(2.0)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._leaving.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._sockets.append(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        lock, stop = threading.Lock(), threading.Event()
        try:
            with client, client.makefile("rb") as lines:
                while (request := _request(lines)) is not None:
                    method, headers = request
                    self.requests.append(method)
                    answer = self._answer(method, headers)
                    with lock:
                        client.sendall(answer)
                    if method == "PLAY":
                        self._start(self._play, client, lock, stop)
                    if method == "TEARDOWN":
                        return
        except OSError:
            pass  # cut, by the client or by close()
        finally:
            stop.set()

    def _answer(self, method: str, headers: dict[str, str]) -> bytes:
        status, extra, body = "200 OK", "", ""
        if self._login and method != "OPTIONS" and not self._knows(method, headers.get("authorization", "")):
            status = "401 Unauthorized"
            extra = f'WWW-Authenticate: Digest realm="{_REALM}", nonce="{_NONCE}"\r\n'
        elif method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = (
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                f"m=video 0 RTP/AVP 26\r\na=framerate:{self._fps:g}\r\na=control:track0\r\n"
            )
            extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP" and "TCP" not in headers.get("transport", ""):
            status = "461 Unsupported Transport"
        elif method == "SETUP":
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 7\r\n"
        return f"RTSP/1.0 {status}\r\nCSeq: {headers.get('cseq', '0')}\r\n{extra}\r\n{body}".encode()

    def _knows(self, method: str, authorization: str) -> bool:
        said = dict(re.findall(r'(\w+)="([^"]*)"', authorization))
        user, password = self._login or ("", "")
        secret = _md5(f"{user}:{_REALM}:{password}")
        return said.get("response") == _md5(f"{secret}:{_NONCE}:{_md5(method + ':' + said.get('uri', ''))}")

    def _play(self, client: socket.socket, lock: threading.Lock, stop: threading.Event) -> None:
        sequence = 0
        for number in range(1 << 31):
            if self.frozen.is_set():
                stop.wait(0.05)
                continue
            stamp = int(number * 90000 / self._fps)
            packets = _packets(self._jpegs[number % len(self._jpegs)], sequence, stamp)
            sequence += len(packets)
            try:
                with lock:
                    client.sendall(b"".join(b"$\0" + struct.pack(">H", len(p)) + p for p in packets))
            except OSError:
                return
            if stop.wait(1 / self._fps):
                return


def _request(lines: BinaryIO) -> tuple[str, dict[str, str]] | None:
    """The next request: method and headers; interleaved RTCP of the client is skipped."""
    while True:
        first = lines.read(1)
        if first != b"$":
            break
        lines.read(struct.unpack(">xH", lines.read(3))[0])
    if not first:
        return None
    line = (first + lines.readline()).decode()
    headers = {}
    while header := lines.readline().decode().strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return line.split()[0], headers


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()  # noqa: S324 (what RFC 2069 prescribes)


def _jpeg(picture: NDArray[np.uint8]) -> tuple[int, int, bytes, bytes]:
    """Width and height in pixels, the quantization tables, and the scan of a 4:2:0 baseline JPEG."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x221111]
    data = cv2.imencode(".jpg", picture, settings)[1].tobytes()
    tables, position = b"", 2
    while True:
        marker, length = data[position + 1], struct.unpack_from(">H", data, position + 2)[0]
        segment = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xDB:
            tables += b"".join(segment[i + 1 : i + 65] for i in range(0, len(segment), 65))
        if marker == 0xDA:
            height, width = picture.shape[:2]
            return width, height, tables, data[position:]


def _packets(jpeg: tuple[int, int, bytes, bytes], sequence: int, stamp: int) -> list[bytes]:
    """RTP packets (RFC 3550) of one image: type 1 (4:2:0), Q 255 (tables come along)."""
    width, height, tables, scan = jpeg
    packets: list[bytes] = []
    for offset in range(0, len(scan), _PAYLOAD):
        chunk = scan[offset : offset + _PAYLOAD]
        last = offset + _PAYLOAD >= len(scan)
        number = (sequence + len(packets)) & 0xFFFF
        head = struct.pack(">BBHII", 0x80, 26 | last << 7, number, stamp & 0xFFFFFFFF, 1)
        head += struct.pack(">IBBBB", offset, 1, 255, width // 8, height // 8)
        if offset == 0:
            head += struct.pack(">HH", 0, len(tables)) + tables
        packets.append(head + chunk)
    return packets

# SPDX-License-Identifier: Apache-2.0
"""HTTP server of the browser view: one thread per connection, none of which can block the run."""

from __future__ import annotations

import io
import logging
import os
import selectors
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Lock, Thread
from typing import TYPE_CHECKING, TypeAlias, cast
from urllib.parse import parse_qsl, quote, urlsplit

from imp_trt.errors import OutputError
from imp_trt.video.serve.access import RESPONSE_HEADERS, rejection
from imp_trt.video.serve.render import View
from imp_trt.video.serve.state import ViewState

if TYPE_CHECKING:
    from typing_extensions import Buffer as WriteableBuffer

MAX_CONNECTIONS = 64
"""Maximum number of concurrent connections; a page uses two."""

TIMEOUT_S = 10.0
"""Timeout for receiving a whole request, and for sending a part of a response."""

PATIENCE_S = 1.0
"""Without a free place, a connection that has been waited on for longer gives up its own for a new one."""

_FRAME_TIMEOUT_S = 5.0
_BOUNDARY = "imp-trt-picture"
_FULL = b"HTTP/1.1 503 Too many viewers\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
_ASSETS = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/graph.js": ("graph.js", "text/javascript; charset=utf-8"),
    "/figures.js": ("figures.js", "text/javascript; charset=utf-8"),
}

_log = logging.getLogger(__name__)


SocketAddress: TypeAlias = "tuple[str, int] | tuple[str, int, int, int]"
Connection: TypeAlias = "socket.socket | tuple[bytes, socket.socket]"
ClientAddress: TypeAlias = object


class ViewServer(ThreadingHTTPServer):
    """HTTP server of the browser view. Listens when constructed; responds when started.

    Args:
        family, address: where to listen, as returned by socket.getaddrinfo.
        state: shared state of the view.

    Raises:
        OSError: the address is in use, not permitted, or not local.
    """

    # A connection's thread may be in a copy from the GPU, which cannot be interrupted.
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, family: socket.AddressFamily, address: SocketAddress, state: ViewState) -> None:
        self.address_family = family
        self.state = state
        self._lock = Lock()
        self._connections: dict[socket.socket, Thread] = {}
        # Connections without a complete request -> since when, in that order.
        self._receiving: dict[socket.socket, float] = {}
        super().__init__(address, Handler)
        self._accepting = Thread(target=self.serve_forever, args=(0.1,), name="imp-serve", daemon=True)

    def start(self) -> None:
        """Start to respond."""
        self._accepting.start()

    def after_fork(self) -> None:
        """Let go of the sockets in a forked process: as long as it has them, the port is in use."""
        for held in (self.socket, *self._connections):
            descriptor = held.detach()
            if descriptor >= 0:  # it is not closed
                os.close(descriptor)

    def server_bind(self) -> None:
        """Bind without a reverse lookup of the host name, which takes seconds without DNS."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Connection, client_address: ClientAddress) -> None:
        """Start a thread for a new connection, unless there are too many."""
        connection = cast(socket.socket, request)  # the other type is that of datagrams
        with self._lock:
            full = len(self._connections) >= MAX_CONNECTIONS and not self._make_room()
            if not full:
                thread = Thread(
                    target=self.process_request_thread,
                    args=(request, client_address),
                    name="imp-serve viewer",
                    daemon=True,
                )
                thread.start()  # may fail; the thread removes itself only after the lock is released
                self._connections[connection] = thread
        if full:
            connection.setblocking(False)
            with suppress(OSError):
                connection.sendall(_FULL)
            self.shutdown_request(request)

    def _make_room(self) -> bool:
        """End the connection that has sent an incomplete request, or none, for the longest time."""
        for connection, since in self._receiving.items():
            if time.monotonic() - since < PATIENCE_S:
                break
            # Its thread ends soon; until then there is one more than MAX_CONNECTIONS.
            self._connections.pop(connection, None)
            del self._receiving[connection]
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            return True
        return False

    def receiving(self, connection: socket.socket, active: bool) -> None:
        """Note that a connection waits for its next request, or has received it."""
        with self._lock:
            self._receiving.pop(connection, None)
            if active and connection in self._connections:
                self._receiving[connection] = time.monotonic()

    def process_request_thread(self, request: Connection, client_address: ClientAddress) -> None:
        """Handle all requests of one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._connections.pop(cast(socket.socket, request), None)
                self._receiving.pop(cast(socket.socket, request), None)

    def handle_error(self, request: Connection, client_address: ClientAddress) -> None:
        """Log a closed connection; it is normal that viewers disconnect."""
        _log.debug("a viewer's connection ended", exc_info=True)

    def close(self, within_s: float) -> None:
        """Stop listening and end the threads of all connections."""
        deadline = time.monotonic() + within_s
        self.shutdown()
        self.server_close()
        self._accepting.join(within_s)
        # First the receiving side only: idle connections end, and responses are not cut off.
        self._shut_down_connections(socket.SHUT_RD, time.monotonic() + within_s / 2)
        self._shut_down_connections(socket.SHUT_RDWR, deadline)

    def _shut_down_connections(self, how: int, deadline: float) -> None:
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(how)
        for thread in connections.values():
            thread.join(max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True)
class FrameRequest:
    """Parameters in the query of a request; all are optional.

    Attributes:
        view: display settings.
        source: name of a source; the first source if the name is unknown.
        after: return frames with a sequence number above this.
        held: sequence number of a kept frame; None to wait for a new one.
        hold: keep the returned frame.
        page: identifier of the requesting page.
    """

    view: View
    source: str
    after: int
    held: int | None
    hold: bool
    page: str

    @classmethod
    def from_query(cls, text: str) -> FrameRequest:
        """Parse a query string; ValueError if it is invalid."""
        # Blank values are kept: an empty list of layers is valid.
        query = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=16))
        return cls(
            view=View.from_query(query),
            source=query.get("source", ""),
            after=int(query.get("after", "0")),
            held=int(query["held"]) if "held" in query else None,
            hold="hold" in query,
            page=query.get("page", ""),
        )


class _RequestReader(io.RawIOBase):
    """Reads from a connection until a deadline: with a timeout for each byte a request could take hours."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request is not complete")
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(Handler.timeout)


class Handler(BaseHTTPRequestHandler):
    """Handles one connection of a viewer. All resources are read-only."""

    server: ViewServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S
    # Headers and body are sent separately; without this, the body waits for the acknowledgement.
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Prepare a connection."""
        super().setup()
        self.rfile.close()
        self._reader = _RequestReader(self.connection)
        self.rfile = io.BufferedReader(self._reader)

    def handle_one_request(self) -> None:
        """Receive a request within TIMEOUT_S, and respond to it."""
        self._reader.deadline = time.monotonic() + (self.timeout or TIMEOUT_S)
        self.server.receiving(self.connection, True)
        try:
            super().handle_one_request()
        finally:
            self.server.receiving(self.connection, False)

    def do_GET(self) -> None:
        """Respond to a request."""
        server = self.server
        server.receiving(self.connection, False)
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # the unread body would be parsed as the next request
        try:
            url = urlsplit(self.path)
            request = FrameRequest.from_query(url.query)
        except ValueError as error:
            self._send_text(HTTPStatus.BAD_REQUEST, str(error))
            return
        rejected = rejection(self.headers, server.state.names, server.state.loopback, url.path == "/")
        if rejected is not None:
            self._send_text(rejected.status, rejected.text)
            return
        self._respond(url.path, request)

    do_HEAD = do_GET

    def _respond(self, path: str, request: FrameRequest) -> None:
        state = self.server.state
        if path in _ASSETS:
            name, kind = _ASSETS[path]
            self._send(HTTPStatus.OK, kind, files("imp_trt.video.serve").joinpath(name).read_bytes())
        elif path == "/about":
            self._send(HTTPStatus.OK, "application/json", state.about())
        elif path == "/state":
            data = state.snapshot(request.after, request.source, request.page)
            self._send(HTTPStatus.OK, "application/json", data)
        elif path == "/frame":
            self._send_frame(request)
        elif path == "/stream":
            self._send_stream(request)
        else:
            self._send_text(HTTPStatus.NOT_FOUND, "Resources: /, /about, /state, /frame, /stream.")

    def _send_frame(self, request: FrameRequest) -> None:
        """Send one JPEG: the next frame with a number above ``after``, or the frame that is ``held``."""
        state = self.server.state
        if request.held is not None:
            shown = state.frames.held(request.held)
            if shown is None:
                self._send_text(HTTPStatus.GONE, "This frame is no longer available.")
                return
        else:
            shown = state.frames.newer(request.after, request.source, _FRAME_TIMEOUT_S)
            if shown is None:
                self._send(HTTPStatus.NO_CONTENT, None, b"")
                return
            if request.hold:
                state.frames.hold(shown)
        try:
            jpeg = state.jpeg(shown, request.view)
        except OutputError as error:
            self._send_text(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            return
        frame = shown.item.frame
        age = "" if frame.captured_s is None else f"{(state.clock() - frame.captured_s) * 1e3:.1f}"
        name = quote(frame.name, errors="replace")  # of a file whose name may not be UTF-8
        about = {"Sequence": shown.sequence, "Index": frame.index, "Name": name, "Age": age}
        headers = {f"Frame-{key}": str(value) for key, value in about.items()}
        self._send(HTTPStatus.OK, "image/jpeg", jpeg, headers)

    def _send_stream(self, request: FrameRequest) -> None:
        """Send Motion JPEG until either side ends it or a frame cannot be rendered."""
        frames, source = self.server.state.frames, request.source
        self.close_connection = True
        # A small send buffer, because buffered frames are outdated for a slow viewer.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        shown = frames.newer(0, source, _FRAME_TIMEOUT_S)
        if shown is None:
            self._send_text(HTTPStatus.SERVICE_UNAVAILABLE, "No frame is available yet.")
            return
        content_type = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        self._send_headers(HTTPStatus.OK, content_type, {"Connection": "close"})
        sequence = 0
        while self.command != "HEAD":
            if shown is not None:
                try:
                    jpeg = self.server.state.jpeg(shown, request.view)
                except OutputError:
                    return
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                sequence = shown.sequence
            shown = frames.newer(sequence, source, _FRAME_TIMEOUT_S)
            if shown is None and (frames.run != "live" or self._disconnected()):
                return

    def _disconnected(self) -> bool:
        """Whether the viewer has closed the connection."""
        with selectors.DefaultSelector() as selector:  # select() does not support descriptors above 1023
            selector.register(self.connection, selectors.EVENT_READ)
            return bool(selector.select(0)) and not self.connection.recv(1, socket.MSG_PEEK)

    def _send_text(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{text}\n".encode())

    def _send(
        self, status: HTTPStatus, content_type: str | None, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        length = {} if status == HTTPStatus.NO_CONTENT else {"Content-Length": str(len(body))}
        self._send_headers(status, content_type, {**length, **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_headers(self, status: HTTPStatus, content_type: str | None, headers: dict[str, str]) -> None:
        state = self.server.state
        if state.frames.run != "live":
            self.close_connection = True
        self.send_response(status)
        for name, value in RESPONSE_HEADERS.items():
            self.send_header(name, value)
        if content_type is not None:
            self.send_header("Content-Type", content_type)
        self.send_header("Run", state.frames.run)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def version_string(self) -> str:
        """Return the Server header, without software versions."""
        return "imp-trt"

    def log_message(self, format: str, *args: object) -> None:
        """Log requests at debug level only."""
        _log.debug(format, *args)

"""The HTTP server of the browser view: a thread for each viewer, none of which can hold up the run."""

from __future__ import annotations

import logging
import selectors
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from imp_trt.errors import OutputError
from imp_trt.video.serve.access import RESPONSE_HEADERS, refusal
from imp_trt.video.serve.painting import View
from imp_trt.video.serve.site import Site

MAX_CONNECTIONS = 64
"""Connections at a time; a page has two."""

PATIENCE_S = 10.0
"""How long a viewer may take to send a request or to receive an answer."""

_WAIT_S = 5.0
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


class ViewServer(ThreadingHTTPServer):
    """Listens once it is made; answers once it is started.

    Args:
        family, address: where to listen, as socket.getaddrinfo gives them.
        site: what there is to see.

    Raises:
        OSError: the address is taken, forbidden, or not this machine's.
    """

    # A viewer's thread may sit in a copy from the GPU, which nothing interrupts.
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, family: socket.AddressFamily, address: tuple[Any, ...], site: Site) -> None:
        self.address_family = family
        self.site = site
        self._lock = Lock()
        self._viewers: dict[socket.socket, Thread] = {}
        super().__init__(address, Handler)
        self._accepting = Thread(target=self.serve_forever, args=(0.1,), name="imp-serve", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._accepting.start()

    def server_bind(self) -> None:
        """Bind without looking up this machine's name, which takes seconds where there is no DNS."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for a new viewer, unless there are too many."""
        with self._lock:
            full = len(self._viewers) >= MAX_CONNECTIONS
            if not full:
                thread = Thread(
                    target=self.process_request_thread,
                    args=(request, client_address),
                    name="imp-serve viewer",
                    daemon=True,
                )
                thread.start()  # it may fail, and takes itself off the list only when this is done
                self._viewers[request] = thread
        if full:
            request.setblocking(False)
            with suppress(OSError):
                request.sendall(_FULL)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """All requests of one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._viewers.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Viewers come and go: no reason to print a trace."""
        _log.debug("a viewer's connection ended", exc_info=True)

    def close(self, within_s: float) -> None:
        """Stop listening and end every viewer's thread."""
        deadline = time.monotonic() + within_s
        self.shutdown()
        self.server_close()
        self._accepting.join(within_s)
        # First the way in alone: an idle connection ends at once, and no answer is cut off.
        self._hang_up(socket.SHUT_RD, time.monotonic() + within_s / 2)
        self._hang_up(socket.SHUT_RDWR, deadline)

    def _hang_up(self, how: int, deadline: float) -> None:
        with self._lock:
            viewers = dict(self._viewers)
        for request in viewers:
            with suppress(OSError):
                request.shutdown(how)
        for thread in viewers.values():
            thread.join(max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True)
class Asked:
    """What the query of a request says; every part may be left out.

    Attributes:
        view: what is to be drawn.
        source: name of a source; the first one if there is none of that name.
        after: pictures with a higher number.
        held: number of a picture that is kept; None to wait for a new one.
        hold: keep the picture that is sent.
        page: what the asking page calls itself.
    """

    view: View
    source: str
    after: int
    held: int | None
    hold: bool
    page: str

    @classmethod
    def from_query(cls, text: str) -> Asked:
        """From what stands behind the question mark; ValueError if it makes no sense."""
        # Blank values count: no layers is a wish too.
        query = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=16))
        return cls(
            view=View.from_query(query),
            source=query.get("source", ""),
            after=int(query.get("after", "0")),
            held=int(query["held"]) if "held" in query else None,
            hold="hold" in query,
            page=query.get("page", ""),
        )


class Handler(BaseHTTPRequestHandler):
    """One connection of a viewer. Everything is read only, and chosen by the address alone."""

    server: ViewServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_S
    # Headers and body leave in two pieces: the second must not wait until the first is acknowledged.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer, or say why not."""
        server = self.server
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body that nobody reads would be taken for the next request
        try:
            url = urlsplit(self.path)
            asked = Asked.from_query(url.query)
        except ValueError as error:
            self._say(HTTPStatus.BAD_REQUEST, str(error))
            return
        refused = refusal(self.headers, server.site.names, server.site.loopback, url.path == "/")
        if refused is not None:
            self._say(refused.status, refused.text)
            return
        self._answer(url.path, asked)

    do_HEAD = do_GET

    def _answer(self, path: str, asked: Asked) -> None:
        site = self.server.site
        if path in _ASSETS:
            name, kind = _ASSETS[path]
            self._send(HTTPStatus.OK, kind, files("imp_trt.video.serve").joinpath(name).read_bytes())
        elif path == "/about":
            self._send(HTTPStatus.OK, "application/json", site.about())
        elif path == "/state":
            state = site.state(asked.after, asked.source, asked.page)
            self._send(HTTPStatus.OK, "application/json", state)
        elif path == "/frame":
            self._frame(asked)
        elif path == "/stream":
            self._stream(asked)
        else:
            self._say(HTTPStatus.NOT_FOUND, "There is /, /about, /state, /frame and /stream.")

    def _frame(self, asked: Asked) -> None:
        """One JPEG: a picture newer than ``after`` as soon as there is one, or the one that was ``held``."""
        site = self.server.site
        if asked.held is not None:
            shown = site.latest.held(asked.held)
            if shown is None:
                self._say(HTTPStatus.GONE, "That picture is no longer kept.")
                return
        else:
            shown = site.latest.newer(asked.after, asked.source, _WAIT_S)
            if shown is None:
                self._send(HTTPStatus.NO_CONTENT, None, b"")
                return
            if asked.hold:
                site.latest.hold(shown)
        try:
            jpeg = site.jpeg(shown, asked.view)
        except OutputError as error:
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            return
        frame = shown.item.frame
        age = "" if frame.captured_s is None else f"{(site.clock() - frame.captured_s) * 1e3:.1f}"
        about = {"Sequence": shown.sequence, "Index": frame.index, "Name": quote(frame.name), "Age": age}
        headers = {f"Frame-{name}": str(value) for name, value in about.items()}
        self._send(HTTPStatus.OK, "image/jpeg", jpeg, headers)

    def _stream(self, asked: Asked) -> None:
        """Motion JPEG for other programs, until either side ends it or a picture cannot be drawn."""
        latest, source = self.server.site.latest, asked.source
        self.close_connection = True
        # What a slow viewer has not received yet is old: little of it is kept.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        shown = latest.newer(0, source, _WAIT_S)
        if shown is None:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "There is no picture yet.")
            return
        self._head(HTTPStatus.OK, f"multipart/x-mixed-replace; boundary={_BOUNDARY}", {"Connection": "close"})
        sequence = 0
        while self.command != "HEAD":
            if shown is not None:
                try:
                    jpeg = self.server.site.jpeg(shown, asked.view)
                except OutputError:
                    return
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                sequence = shown.sequence
            shown = latest.newer(sequence, source, _WAIT_S)
            if shown is None and (latest.run != "live" or self._gone()):
                return

    def _gone(self) -> bool:
        """Whether the viewer has hung up."""
        with selectors.DefaultSelector() as selector:  # select() itself fails from descriptor 1024 on
            selector.register(self.connection, selectors.EVENT_READ)
            return bool(selector.select(0)) and not self.connection.recv(1, socket.MSG_PEEK)

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{text}\n".encode())

    def _send(
        self, status: HTTPStatus, kind: str | None, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        length = {} if status == HTTPStatus.NO_CONTENT else {"Content-Length": str(len(body))}
        self._head(status, kind, {**length, **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str | None, headers: dict[str, str]) -> None:
        site = self.server.site
        if site.latest.run != "live":
            self.close_connection = True
        self.send_response(status)
        for name, value in RESPONSE_HEADERS.items():
            self.send_header(name, value)
        if kind is not None:
            self.send_header("Content-Type", kind)
        self.send_header("Run", site.latest.run)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def version_string(self) -> str:
        """Nothing about this machine's software."""
        return "imp-trt"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are worth a line only to those who look for one."""
        _log.debug(format, *args)

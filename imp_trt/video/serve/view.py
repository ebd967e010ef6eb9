# SPDX-License-Identifier: Apache-2.0
"""Sink that shows a run in the browser: ``imp-segment SOURCE --serve PORT``."""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from threading import Lock
from typing import cast

from imp_trt.classes import ClassTable
from imp_trt.data.native_calls import call_after_fork
from imp_trt.errors import InvalidInput, OutputError
from imp_trt.video.serve.access import allowed_hosts
from imp_trt.video.serve.frame_store import FrameStore
from imp_trt.video.serve.server import SocketAddress, ViewServer
from imp_trt.video.serve.state import ViewState
from imp_trt.video.sinks import BaseSink, SegmentedFrame

_log = logging.getLogger(__name__)


class BrowserView(BaseSink):
    """Serves a web page with the newest frame of a run: overlay, classes, latency and frame age.

    The server listens from construction on. It never blocks the run: newer frames replace older ones, and
    frames are drawn only on request, in the thread of the viewer's connection.

    Args:
        port: 0 selects a free port; see `url`.
        host: address to listen on. With an address other than loopback, the video is visible without
            password and encryption to everyone who can reach this machine.
        classes: names and colors for the legend.
        statistics: returns the statistics of the run as data for JSON (imp_trt.video.statistics); may be
            set later.
        title: title of the page.
        clock: the clock of Frame.captured_s.

    Attributes:
        url: address of the page.

    Raises:
        InvalidInput: the port is not 0-65535.
        OutputError: the port is in use or not permitted, or the host is not this machine.
    """

    draws = False
    keeps = False

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        classes: ClassTable,
        statistics: Callable[[], Mapping[str, object]] | None = None,
        title: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= port <= 65535:
            raise InvalidInput("port", expected="0 to 65535", got=port)
        self._state = ViewState(classes, title, clock)
        self._state.statistics = statistics
        self._server = _listen(host, port, self._state)
        address, self.port = str(self._server.server_address[0]), int(self._server.server_address[1])
        self._state.names = allowed_hosts(host, address)
        self._state.loopback = ip_address(address).is_loopback
        self.url = _url(address, self.port)
        if not self._state.loopback:
            _log.warning(
                "%s is visible to everyone who can reach this machine, without password and encryption. "
                "Safer: the default host and an SSH tunnel (ssh -L %d:localhost:%d).",
                self.url,
                self.port,
                self.port,
            )
        self._closing = Lock()
        self._closed = False
        self._server.start()
        call_after_fork(self)

    def after_fork(self) -> None:
        """See :class:`imp_trt.data.native_calls.Inherited`: the server is the parent's, and closed here."""
        self._closing, self._closed = Lock(), True
        self._state.frames = FrameStore(self._state.clock)
        self._server.after_fork()

    @property
    def statistics(self) -> Callable[[], Mapping[str, object]] | None:
        """Function that returns the statistics of the run."""
        return self._state.statistics

    @statistics.setter
    def statistics(self, snapshot: Callable[[], Mapping[str, object]] | None) -> None:
        self._state.statistics = snapshot

    def write(self, item: SegmentedFrame) -> bool:
        """Make this frame the newest. Takes microseconds, independent of the number of viewers."""
        self._state.frames.put(item)
        return True

    def close(self) -> None:
        """Notify the viewers that the run has ended, and stop within 2 s. Idempotent."""
        self._end("ended")

    def abort(self) -> None:
        """Notify the viewers that the run has failed, and stop within 2 s. Idempotent."""
        self._end("failed")

    def _end(self, run: str) -> None:
        with self._closing:
            if not self._closed:
                self._closed = True
                self._state.frames.end(run)
                # Pages poll four times a second. Wait so that they can display the end of the run.
                self._state.wait_until_notified(0.5)
                self._server.close(1.0)


def _listen(host: str, port: int, state: ViewState) -> ViewServer:
    try:
        infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise OutputError(
            f"browser view on {host}",
            expected="a name or address of this machine",
            got=error,
            fix="omit the host (127.0.0.1), or use 0.0.0.0 for all network interfaces",
        ) from error
    family, _, _, _, address = infos[0]
    try:
        return ViewServer(family, cast("SocketAddress", address), state)
    except OSError as error:
        raise _bind_error(host, port, error) from error


def _bind_error(host: str, port: int, error: OSError) -> OutputError:
    what = f"browser view on {host}:{port}"
    if error.errno == errno.EADDRINUSE:
        other = port + 1 if port < 65535 else 8080
        return OutputError(
            what,
            expected="a free port",
            got="a port that another program listens on",
            fix=f"--serve {other}, or --serve 0 for any free port",
        )
    if error.errno == errno.EACCES:
        return OutputError(what, expected="a port above 1023", got=error.strerror, fix="--serve 8080")
    return OutputError(
        what, expected="an address of this machine", got=error.strerror, fix="omit the host (127.0.0.1)"
    )


def _url(address: str, port: int) -> str:
    ip = ip_address(address)
    if ip.is_unspecified:
        return f"http://{socket.gethostname()}:{port}/"
    return f"http://[{address}]:{port}/" if ip.version == 6 else f"http://{address}:{port}/"

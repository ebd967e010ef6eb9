"""The sink behind ``imp-segment SOURCE --serve PORT``."""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from threading import Lock
from typing import Any

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput, OutputError
from imp_trt.video.serve.access import known_names
from imp_trt.video.serve.server import ViewServer
from imp_trt.video.serve.site import Site
from imp_trt.video.sinks import Base, Segmented

_log = logging.getLogger(__name__)


class BrowserView(Base):
    """The newest picture of a run as a page: overlay, classes, latency and frame age.

    It listens from its construction on. It never holds up the run: pictures that nobody has fetched are
    replaced, and drawn only when somebody asks, in that viewer's thread.

    Args:
        port: 0 takes any free one; see `url`.
        host: where to listen. Anything but loopback shows the video, without a password and without
            encryption, to everyone who can reach this machine.
        classes: names and colors for the legend.
        statistics: the run's counters as plain data for JSON (imp_trt.video.statistics); may be set later.
        title: what is being watched, for the page's head.
        clock: that of Frame.captured_s.

    Attributes:
        url: where to look.

    Raises:
        InvalidInput: the port is not 0-65535.
        OutputError: the port is taken or forbidden, or the host is not this machine.
    """

    draws = False
    keeps = False

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        classes: ClassTable,
        statistics: Callable[[], Mapping[str, Any]] | None = None,
        title: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= port <= 65535:
            raise InvalidInput("port", expected="0 to 65535", got=port)
        self._site = Site(classes, title, clock)
        self._site.statistics = statistics
        self._server = _listen(host, port, self._site)
        address, self.port = str(self._server.server_address[0]), int(self._server.server_address[1])
        self._site.names = known_names(host, address)
        self._site.loopback = ip_address(address).is_loopback
        self.url = _url(address, self.port)
        if not self._site.loopback:
            _log.warning(
                "%s shows the video to everyone who can reach this machine: no password, no encryption. "
                "Safer: the default host, and a tunnel (ssh -L %d:localhost:%d).",
                self.url,
                self.port,
                self.port,
            )
        self._closing = Lock()
        self._closed = False
        self._server.start()

    @property
    def statistics(self) -> Callable[[], Mapping[str, Any]] | None:
        """Where the run's counters come from."""
        return self._site.statistics

    @statistics.setter
    def statistics(self, snapshot: Callable[[], Mapping[str, Any]] | None) -> None:
        self._site.statistics = snapshot

    def write(self, item: Segmented) -> bool:
        """Show this picture from now on. Takes microseconds, whoever watches."""
        self._site.latest.put(item)
        return True

    def close(self) -> None:
        """Tell the viewers that the run has ended, and stop within 2 s. Idempotent."""
        self._end("ended")

    def abort(self) -> None:
        """Tell the viewers that the run has failed, and stop within 2 s. Idempotent."""
        self._end("failed")

    def _end(self, run: str) -> None:
        with self._closing:
            if not self._closed:
                self._closed = True
                self._site.latest.end(run)
                # A page asks four times a second; it can say "ended" only if it hears of it.
                self._site.wait_until_told(0.5)
                self._server.close(1.0)


def _listen(host: str, port: int, site: Site) -> ViewServer:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise OutputError(
            f"browser view on {host}",
            expected="a name or address of this machine",
            got=error,
            fix="leave the host out (127.0.0.1), or 0.0.0.0 for every network that this machine is in",
        ) from error
    family, _, _, _, address = found[0]
    try:
        return ViewServer(family, address, site)
    except OSError as error:
        raise _refused(host, port, error) from error


def _refused(host: str, port: int, error: OSError) -> OutputError:
    what = f"browser view on {host}:{port}"
    if error.errno == errno.EADDRINUSE:
        other = port + 1 if port < 65535 else 8080
        return OutputError(
            what,
            expected="a free port",
            got="one that another program listens on",
            fix=f"--serve {other}, or --serve 0 for any free port",
        )
    if error.errno == errno.EACCES:
        return OutputError(what, expected="a port from 1024 on", got=error.strerror, fix="--serve 8080")
    return OutputError(
        what, expected="an address of this machine", got=error.strerror, fix="leave the host out (127.0.0.1)"
    )


def _url(address: str, port: int) -> str:
    ip = ip_address(address)
    if ip.is_unspecified:
        return f"http://{socket.gethostname()}:{port}/"
    return f"http://[{address}]:{port}/" if ip.version == 6 else f"http://{address}:{port}/"

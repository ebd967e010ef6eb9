# SPDX-License-Identifier: Apache-2.0
"""Access control of the browser view: only its own page gets responses.

Any web page can send requests to this machine through the user's browser. Three checks protect the video:
the Host header (against DNS rebinding, where an attacker's host name resolves to 127.0.0.1), the
Sec-Fetch-Site and Origin headers (against requests from other sites), and response headers that forbid
framing and embedding.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from ipaddress import ip_address

RESPONSE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_HOST = re.compile(r"(?:\[(?P<ip6>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::\d*)?", re.ASCII)


@dataclass(frozen=True)
class Rejection:
    """Reason for rejecting a request: status and message of the response."""

    status: HTTPStatus
    text: str


def allowed_hosts(host: str, address: str) -> frozenset[str]:
    """Return the accepted host names in lower case. IP addresses are accepted in addition.

    Args:
        host: host that the server was configured to listen on.
        address: the IP address that it resolved to.
    """
    names = {"localhost", host}
    if not ip_address(address).is_loopback:
        names |= {socket.gethostname(), f"{socket.gethostname()}.local"}
    return frozenset(name.lower() for name in names if name)


def rejection(headers: Message, names: Iterable[str], loopback: bool, page: bool) -> Rejection | None:
    """Check the headers of a request; None if it is allowed.

    Args:
        names: see :func:`allowed_hosts`.
        loopback: the server listens on the loopback interface only.
        page: the request is for the page itself, which links on other sites may open.
    """
    hosts = headers.get_all("Host") or []
    if len(hosts) != 1:
        return Rejection(HTTPStatus.BAD_REQUEST, "exactly one Host header is required")
    if not _is_allowed_host(hosts[0], names, loopback):
        return Rejection(
            HTTPStatus.MISDIRECTED_REQUEST,
            "This host name is not allowed. Use the IP address or localhost, or set the name with "
            "--serve-host.",
        )
    if _is_cross_site(headers, hosts[0], page):
        return Rejection(HTTPStatus.FORBIDDEN, "Cross-site requests are not allowed.")
    return None


def _is_allowed_host(host: str, names: Iterable[str], loopback: bool) -> bool:
    # The port is not checked, because it differs behind a tunnel (ssh -L 9000:localhost:8080).
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match["ip6"] or match["name"]
    try:
        address = ip_address(name)
    except ValueError:
        return name.lower() in names
    return address.is_loopback or not loopback


def _is_cross_site(headers: Message, host: str, page: bool) -> bool:
    # same-site is rejected too: another port of localhost is another program.
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        opened = (headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == ("navigate", "document")
        return not (page and opened)
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != host

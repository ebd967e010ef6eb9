"""Whom the browser view answers: its own page, under a name that cannot be turned against it.

A browser lets any page on the web send requests to this machine. Three things keep those from the video:
the Host header (a name that an attacker points at 127.0.0.1 is not one of ours: DNS rebinding), the
Sec-Fetch-Site and Origin headers (another page asks), and response headers that forbid framing and embedding.
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
class Refusal:
    """Why a request is not answered: the status, and a text for whoever sent it."""

    status: HTTPStatus
    text: str


def known_names(host: str, address: str) -> frozenset[str]:
    """Lower-case names, beside IP addresses, under which a server may be asked for.

    Args:
        host: what it was told to listen on.
        address: the IP address that this became.
    """
    names = {"localhost", host}
    if not ip_address(address).is_loopback:
        names |= {socket.gethostname(), f"{socket.gethostname()}.local"}
    return frozenset(name.lower() for name in names if name)


def refusal(headers: Message, names: Iterable[str], loopback: bool, page: bool) -> Refusal | None:
    """Why a request with these headers is refused; None if it is not.

    Args:
        names: see :func:`known_names`.
        loopback: the server listens on this machine alone.
        page: the request is for the page itself, which a link elsewhere may open.
    """
    hosts = headers.get_all("Host") or []
    if len(hosts) != 1:
        return Refusal(HTTPStatus.BAD_REQUEST, "one Host header is needed")
    if not _answers_to(hosts[0], names, loopback):
        return Refusal(
            HTTPStatus.MISDIRECTED_REQUEST,
            "This view does not answer to that name: open it by IP address or as localhost, or name it with "
            "--serve-host.",
        )
    if _from_another_site(headers, hosts[0], page):
        return Refusal(HTTPStatus.FORBIDDEN, "Another site asks for this view.")
    return None


def _answers_to(host: str, names: Iterable[str], loopback: bool) -> bool:
    # Ports differ behind a tunnel (ssh -L 9000:localhost:8080), so the name alone decides.
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match["ip6"] or match["name"]
    try:
        address = ip_address(name)
    except ValueError:
        return name.lower() in names
    return address.is_loopback or not loopback


def _from_another_site(headers: Message, host: str, page: bool) -> bool:
    # same-site is refused too: another port of localhost is another program.
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        opened = (headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == ("navigate", "document")
        return not (page and opened)
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != host

# SPDX-License-Identifier: Apache-2.0
"""Access control of the browser view."""

from __future__ import annotations

import socket
from email.message import Message

import pytest

from imp_trt.video.serve.access import allowed_hosts, rejection


def request(*hosts: str, **headers: str) -> Message:
    message = Message()
    for host in hosts:
        message["Host"] = host
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return message


LOCAL = allowed_hosts("127.0.0.1", "127.0.0.1")
OPEN = allowed_hosts("0.0.0.0", "0.0.0.0")  # noqa: S104
BOX = socket.gethostname()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8080", "localhost:8080", "LocalHost", "[::1]:8080", "[::1]", "127.0.0.1", "localhost:9000"],
)
def test_local_host_names_are_allowed(host: str) -> None:
    assert rejection(request(host), LOCAL, loopback=True, page=False) is None
    assert rejection(request(host), OPEN, loopback=False, page=False) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8080",
        "evil.example",
        "localhost.evil.example:8080",
        "127.0.0.1.evil.example:8080",
        "evil.example#localhost",
        "evil.example@localhost",
        "[::1].evil.example",
        "2130706433",
        "",
        ":8080",
        "[",
        "192.168.1.5:8080",
        f"{BOX}.evil.example:8080",
    ],
)
def test_foreign_host_names_are_rejected(host: str) -> None:
    rejected = rejection(request(host), LOCAL, loopback=True, page=True)
    assert rejected is not None
    assert rejected.status == 421
    assert "--serve-host" in rejected.text


def test_addresses_and_own_names_are_allowed_on_all_interfaces() -> None:
    for host in ("192.168.1.5:8080", "[fe80::1]:8080", BOX, f"{BOX}.local:8080", f"{BOX.upper()}"):
        assert rejection(request(host), OPEN, loopback=False, page=False) is None
    named = allowed_hosts("view.corp.example", "192.168.1.5")
    assert rejection(request("view.corp.example:1"), named, loopback=False, page=False) is None
    for host in ("evil.example", f"{BOX}.evil.example", "[fe80::1].evil.example"):
        assert rejection(request(host), OPEN, loopback=False, page=False) is not None


def test_exactly_one_host_header_is_required() -> None:
    for hosts in ((), ("localhost", "localhost"), ("localhost", "evil.example")):
        rejected = rejection(request(*hosts), LOCAL, loopback=True, page=True)
        assert rejected is not None
        assert rejected.status == 400


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_only_link_to_the_page(site: str) -> None:
    link = request("localhost", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document")
    frame = request("localhost", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="iframe")
    image = request("localhost", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="image")
    assert rejection(link, LOCAL, loopback=True, page=True) is None
    for headers, page in ((link, False), (frame, True), (image, True), (image, False)):
        rejected = rejection(headers, LOCAL, loopback=True, page=page)
        assert rejected is not None
        assert rejected.status == 403


def test_origin_decides_without_sec_fetch_site() -> None:
    for origin in ("http://evil.example", "null", "http://localhost:9000"):
        assert (
            rejection(request("localhost:8080", Origin=origin), LOCAL, loopback=True, page=True) is not None
        )
    for headers in ({"Origin": "http://localhost:8080"}, {"Sec_Fetch_Site": "same-origin"}, {}):
        assert rejection(request("localhost:8080", **headers), LOCAL, loopback=True, page=False) is None

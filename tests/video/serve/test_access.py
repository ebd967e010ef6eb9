"""Whom the view answers."""

from __future__ import annotations

import socket
from email.message import Message

import pytest

from imp_trt.video.serve.access import known_names, refusal


def asked(*hosts: str, **headers: str) -> Message:
    message = Message()
    for host in hosts:
        message["Host"] = host
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return message


LOCAL = known_names("127.0.0.1", "127.0.0.1")
OPEN = known_names("0.0.0.0", "0.0.0.0")  # noqa: S104
BOX = socket.gethostname()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8080", "localhost:8080", "LocalHost", "[::1]:8080", "[::1]", "127.0.0.1", "localhost:9000"],
)
def test_this_machines_names_are_answered(host: str) -> None:
    assert refusal(asked(host), LOCAL, loopback=True, page=False) is None
    assert refusal(asked(host), OPEN, loopback=False, page=False) is None


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
def test_a_name_that_was_pointed_at_this_machine_is_not_answered(host: str) -> None:
    found = refusal(asked(host), LOCAL, loopback=True, page=True)
    assert found is not None
    assert found.status == 421
    assert "--serve-host" in found.text


def test_on_every_network_addresses_and_own_names_are_answered() -> None:
    for host in ("192.168.1.5:8080", "[fe80::1]:8080", BOX, f"{BOX}.local:8080", f"{BOX.upper()}"):
        assert refusal(asked(host), OPEN, loopback=False, page=False) is None
    named = known_names("view.corp.example", "192.168.1.5")
    assert refusal(asked("view.corp.example:1"), named, loopback=False, page=False) is None
    for host in ("evil.example", f"{BOX}.evil.example", "[fe80::1].evil.example"):
        assert refusal(asked(host), OPEN, loopback=False, page=False) is not None


def test_a_request_needs_one_host() -> None:
    for hosts in ((), ("localhost", "localhost"), ("localhost", "evil.example")):
        found = refusal(asked(*hosts), LOCAL, loopback=True, page=True)
        assert found is not None
        assert found.status == 400


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_link_to_the_page_and_no_more(site: str) -> None:
    link = asked("localhost", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document")
    frame = asked("localhost", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="iframe")
    image = asked("localhost", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="image")
    assert refusal(link, LOCAL, loopback=True, page=True) is None
    for headers, page in ((link, False), (frame, True), (image, True), (image, False)):
        found = refusal(headers, LOCAL, loopback=True, page=page)
        assert found is not None
        assert found.status == 403


def test_origin_decides_where_a_browser_does_not_say_more() -> None:
    for origin in ("http://evil.example", "null", "http://localhost:9000"):
        assert refusal(asked("localhost:8080", Origin=origin), LOCAL, loopback=True, page=True) is not None
    for headers in ({"Origin": "http://localhost:8080"}, {"Sec_Fetch_Site": "same-origin"}, {}):
        assert refusal(asked("localhost:8080", **headers), LOCAL, loopback=True, page=False) is None

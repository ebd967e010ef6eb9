"""Addresses without what must not be shown."""

from __future__ import annotations

import re

_URL = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*:/+)(?P<rest>(?:\S*@)?[^\s\"'<>]*)", re.IGNORECASE)
# Without the scheme it is no address, but what is wrong with it is shown to the user.
_LOGIN = re.compile(r"(?<![^\s/\"'<>])[^\s/:@\"'<>]+:(?!/)[^\s@]+@(?=\S)")
# Cameras take logins in the query or the path (user=admin&password=x), GStreamer as properties (user-pw="x").
# A value may hold any separator but these, so too much is hidden rather than too little.
_SETTING = re.compile(
    r"(?<![a-z0-9])(?P<key>user(?:[-_]?(?:id|pw|name))?|usr|login|pass(?:word|wd)?|pwd|proxy-(?:id|pw)"
    r"|(?:access|auth)?[-_]?token|(?:api|access)?[-_]?key|secret|auth|sig(?:nature)?|credentials?)"
    r"(?P<is>\s*=\s*)(?P<value>\"[^\"]*\"|'[^']*'|[^\s&;\"'!]+)",
    re.IGNORECASE,
)
HIDDEN = "***"


def redacted(text: str) -> str:
    """text with the user, password and keys of every address and GStreamer property in it replaced.

    Hides rather too much: a password may hold ``/``, ``@`` or ``:`` that should have been escaped.
    """
    text = _URL.sub(lambda m: m["scheme"] + _without_login(m["rest"]), text)
    text = _LOGIN.sub(f"{HIDDEN}@", text)
    return _SETTING.sub(lambda m: f"{m['key']}{m['is']}{HIDDEN}", text)


def _without_login(rest: str) -> str:
    """rest: what follows ``//``: ``[user[:password]@]host[:port][/path]``."""
    before, at, after = rest.rpartition("@")
    # In https://host/@name/clip the @ ends no login: neither is there a colon before it, nor is it ahead of
    # the path. An unescaped / in a password would put it there, hence the colon.
    if at and (":" in before or "/" not in before):
        return f"{HIDDEN}@{after}"
    return rest

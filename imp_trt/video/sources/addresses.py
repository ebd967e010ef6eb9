# SPDX-License-Identifier: Apache-2.0
"""Redaction of credentials in addresses and GStreamer pipelines."""

from __future__ import annotations

import re

_URL = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*:/+)(?P<rest>(?:\S*@)?[^\s\"'<>]*)", re.IGNORECASE)
# Without a scheme it is not a URL, but it is still quoted in error messages.
_LOGIN = re.compile(r"(?<![^\s/\"'<>])[^\s/:@\"'<>]+:(?!/)[^\s@]+@(?=\S)")
# Cameras take credentials in the query or path (user=admin&password=x), GStreamer as properties
# (user-pw="x"). A value may contain any other separator, so this hides too much rather than too little.
_SETTING = re.compile(
    r"(?<![a-z0-9])(?P<key>user(?:[-_]?(?:id|pw|name))?|usr|login|pass(?:word|wd)?|pwd|proxy-(?:id|pw)"
    r"|(?:access|auth)?[-_]?token|(?:api|access)?[-_]?key|secret|auth|sig(?:nature)?|credentials?)"
    r"(?P<is>\s*=\s*)(?P<value>\"[^\"]*\"|'[^']*'|[^\s&;\"'!]+)",
    re.IGNORECASE,
)
REDACTED = "***"


def redacted(text: str) -> str:
    """Return text with users, passwords and keys in URLs and GStreamer properties replaced by ``***``.

    May hide more than necessary, because passwords may contain an unescaped ``/``, ``@`` or ``:``.
    """
    text = _URL.sub(lambda m: m["scheme"] + _without_login(m["rest"]), text)
    text = _LOGIN.sub(f"{REDACTED}@", text)
    return _SETTING.sub(lambda m: f"{m['key']}{m['is']}{REDACTED}", text)


def _without_login(rest: str) -> str:
    """Redact the part after ``//``: ``[user[:password]@]host[:port][/path]``."""
    before, at, after = rest.rpartition("@")
    # In https://host/@name/clip the @ does not end a login: no colon precedes it, and it is in the path.
    # The colon is checked because an unescaped / in a password also makes the @ look like part of the path.
    if at and (":" in before or "/" not in before):
        return f"{REDACTED}@{after}"
    return rest

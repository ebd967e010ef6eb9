# SPDX-License-Identifier: Apache-2.0
"""Redaction of credentials in addresses and GStreamer pipelines.

What is shown is listed, what is hidden is not: cameras have their own names for a password (psw, loginpas,
p), and services for a token. Of an address, scheme, host, port, path and the names in its query are shown.
"""

from __future__ import annotations

import re

REDACTED = "***"

_SCHEME = re.compile(r"\b[a-z][a-z0-9+.-]*:/+", re.IGNORECASE)
# An address within a message ends at white space, unless an @ follows that ends its login.
_EMBEDDED = re.compile(r"(?:\S*@)?\S*")
# What a message puts after an address. A query keeps nothing behind its last = or &, so these cannot be the
# end of a value that is shown.
_AFTER = re.compile(r"[\"'<>(),.:;]*$")
# Without a scheme it is not a URL, but it is still quoted in error messages.
_LOGIN = re.compile(r"(?<![^\s/\"'<>])[^\s/:@\"'<>]+:(?!/)[^\s@]+@(?=\S)")
_QUERY = re.compile(r"(?<=\S)\?(?=[^\s=]*=)([^\s#]*)")
# Words that are known to hide something, in text that is neither an address nor a pipeline.
_SETTING = re.compile(
    r"(?<![a-z0-9])(?P<key>user(?:[-_]?(?:id|pw|name))?|usr|login|pass(?:word|wd)?|pwd|proxy-(?:id|pw)"
    r"|(?:access|auth)?[-_]?token|(?:api|access)?[-_]?key|secret|auth|sig(?:nature)?|credentials?)"
    r"(?P<is>\s*=\s*)(?P<value>\"[^\"]*\"|'[^']*'|(?!\*\*\*)\S+)",
    re.IGNORECASE,
)
# Values that are shown: sizes and numbers of cameras, as numbers, and codecs. Anything else may be a secret.
_SHOWN = frozenset(
    ("width", "height", "fps", "codec", "channel", "stream", "subtype", "resolution", "profile")
)
_SHOWN_NUMBER = re.compile(r"\d{1,5}(?:x\d{1,5})?")
_CODEC = re.compile(r"[A-Za-z0-9]{4}")
_NAME = re.compile(r"[A-Za-z][\w.%~-]{0,63}")
# Part of a path that names nothing: 20 or more characters that have letters and digits.
_KEY_IN_PATH = re.compile(r"(?=[^/]*\d)(?=[^/]*[A-Za-z])[\w~=+-]{20,}", re.ASCII)

_PROPERTY = re.compile(r"(?<![\w-])(?P<key>[A-Za-z][\w-]*)(?P<is>\s*=\s*)(?P<value>\"(?:\\.|[^\"\\])*\"|\S+)")
_SHOWN_PROPERTIES = frozenset(
    """
    location uri host address port device sensor-id sensor-mode camera index name caps format width height
    framerate latency protocols drop drop-on-latency max-buffers sync is-live do-timestamp num-buffers pattern
    timeout tcp-timeout buffer-mode buffer-size codec encoding-name media payload clock-rate stream-type
    io-mode method video-direction interpolation-method bl-output enable-max-performance leaky
    max-size-buffers max-size-bytes max-size-time blocksize emit-signals interval start-index stop-index
    """.split()
)


def redacted(text: str) -> str:
    """Return text with what may be secret in its addresses and GStreamer properties replaced by ``***``.

    Hides users, passwords, fragments, all values of a query or path except sizes, channels and codecs,
    path components that look like a key, and all GStreamer properties that are not known to be harmless. May
    hide more than necessary, because passwords may contain any unescaped character.
    """
    text = _pipeline(_addresses(text))
    text = _LOGIN.sub(f"{REDACTED}@", text)
    text = _QUERY.sub(lambda m: "?" + _values(m[1]), text)
    return _SETTING.sub(lambda m: f"{m['key']}{m['is']}{REDACTED}", text)


def _addresses(text: str) -> str:
    """Redact every part that starts with a scheme; a text that starts with one is a single address."""
    parts, end = [], 0
    alone = _SCHEME.match(text)
    while (scheme := _SCHEME.search(text, end)) is not None:
        stop = len(text) if alone and _is_one_address(text) else _end_of_address(text, scheme.end())
        parts += [text[end : scheme.end()], _address(text[scheme.end() : stop])]
        end = stop
    return "".join([*parts, text[end:]])


def _is_one_address(text: str) -> bool:
    # ": " and quotes are of a message about the address.
    return not re.search(r": |['\"]", text) and " ! " not in text


def _end_of_address(text: str, start: int) -> int:
    found = _EMBEDDED.match(text, start)
    rest = found.group() if found else ""
    login = re.match(r"[^\s/?#@:]+:(?!\d{1,5}(?:[/?#\s\"',;:)]|$))[^\n@]*@\S*", text[start:])
    if "@" not in rest and login:  # a password with a space
        other = _SCHEME.search(login.group())
        if other is None:
            rest = login.group()
    after = _AFTER.search(rest)
    return start + len(rest) - (len(after.group()) if after else 0)


def _address(rest: str) -> str:
    """Redact the part after ``//``: ``[user[:password]@]host[:port][/path][?query][#fragment]``."""
    before, at, after = rest.rpartition("@")
    head = before.partition("@")[0]
    if re.match(r"[\w.-]+(:\d{1,5})?[/?#]", head) and any(c in head for c in "?#="):
        return REDACTED  # a password with @ in a query, or one with ? or = in a login
    # In https://host/@name/clip the @ does not end a login: no colon precedes it, and it is in the path.
    # The colon is checked because an unescaped / in a password also makes the @ look like part of the path.
    login = f"{REDACTED}@" if at and (":" in before or "/" not in before) else ""
    found = re.fullmatch(r"([^?#]*)(\?[^#]*)?(#.*)?", after if login else rest, re.DOTALL)
    if found is None:
        return REDACTED
    place, query, fragment = found.groups()
    shown = _place(place)
    if query:
        shown += "?" + _values(query[1:])
    return login + shown + (f"#{REDACTED}" if fragment else "")


def _place(place: str) -> str:
    """Host, port and path. Cameras also take credentials in the path: everything after them is hidden."""
    host, *path = place.split("/")
    shown, hidden = [host], False
    for part in path:
        if hidden and part:
            shown.append(REDACTED)
        elif "=" in part:
            shown.append(_values(part))
            hidden = REDACTED in shown[-1]
        elif _KEY_IN_PATH.fullmatch(part):
            shown.append(REDACTED)
        else:
            shown.append(part)
    return "/".join(shown)


def _values(query: str) -> str:
    """``name=value`` pairs without their values; what has no name is hidden as well."""
    shown = []
    for pair in re.split(r"[&;]", query):
        name, equals, value = pair.partition("=")
        if not pair:
            shown.append("")
        elif not _NAME.fullmatch(name) or not equals:
            shown.append(REDACTED)
        elif name.lower() in _SHOWN and (_SHOWN_NUMBER if name != "codec" else _CODEC).fullmatch(value):
            shown.append(pair)
        else:
            shown.append(f"{name}={REDACTED}")
    return "&".join(shown)


def _pipeline(text: str) -> str:
    """Redact the properties of a GStreamer pipeline."""
    if not re.search(r"\s!\s|^gstreamer:", text):
        return text
    return _PROPERTY.sub(
        lambda m: m.group() if m["key"] in _SHOWN_PROPERTIES else f"{m['key']}{m['is']}{REDACTED}", text
    )

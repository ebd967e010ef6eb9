# SPDX-License-Identifier: Apache-2.0
"""Seeded mutations of bytes, and of JSON by its structure."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

_TOKENS: Sequence[bytes] = (
    b"NaN", b"-Infinity", b"1e400", b"-1", b"0", b"9" * 40, b"1" + b"0" * 400, b"null", b"true", b'""', b"[]",
    b"{}", b'"\\ud800"', b"\\u0000", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 2000, b'{"a":' * 500,
    b"../", b"%s%n", b"\x1b[31m", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80" * 11,
)  # fmt: skip
_VALUES: Sequence[Any] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 255, 256, 2**31, 2**63, 10**30, 10**400, 1e308, "", "0",
    "x" * 5000, "\0", "\ud800", "a/../b", "\x1b[2J\u202e", [], {}, [None], [[[[]]]], {"": {}}, ["a"] * 300,
)  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four random changes of a seed."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        rng.choice(_CHANGES)(result, rng)
    return bytes(result)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """A document with some of its values replaced, removed, repeated or renamed; sometimes its bytes too."""
    document = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        document = _change_value(document, rng)
    text = json.dumps(document).encode("utf-8", "surrogatepass")
    return mutate(text, rng) if rng.random() < 0.2 else text


def _change_value(document: Any, rng: random.Random) -> Any:
    places = list(_places(document))
    if not places:
        return copy.deepcopy(rng.choice(_VALUES))
    parent, key = rng.choice(places)
    action = rng.randrange(5)
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(parent, dict):
        parent[_other_name(str(key), rng)] = parent.pop(key)
    elif action == 2 and isinstance(parent, list):
        parent.insert(key, parent[key])
    elif action == 3:
        other, name = rng.choice(places)
        parent[key] = json.loads(json.dumps(other[name]))
    else:
        parent[key] = copy.deepcopy(rng.choice(_VALUES))
    return document


def _places(value: Any) -> Sequence[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    level = [value]
    while level:
        parent = level.pop()
        keys = parent if isinstance(parent, dict) else range(len(parent)) if isinstance(parent, list) else ()
        for key in list(keys):
            found.append((parent, key))
            level.append(parent[key])
    return found


def _other_name(name: str, rng: random.Random) -> str:
    at = rng.randrange(len(name) + 1)
    return name[:at] + rng.choice(("", "x", "\0")) + name[at + 1 :]


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    data[start : start + rng.randrange(9)] = rng.choice(_TOKENS)


def _insert(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.randbytes(rng.randrange(1, 9))


def _cut(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.choice((1, 4, 16, len(data)))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.randrange(64)]
    data[start:start] = part * rng.randrange(1, 20)


_CHANGES: Sequence[Callable[[bytearray, random.Random], None]] = (
    _flip,
    _flip,
    _replace,
    _insert,
    _cut,
    _repeat,
)

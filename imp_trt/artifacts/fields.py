# SPDX-License-Identifier: Apache-2.0
"""Checks of a manifest's fields; every error names the field."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

from imp_trt.errors import InvalidInput

_T = TypeVar("_T")

EXPORT_AGAIN = "export again with imp-export"


class FieldError(ValueError):
    """A field in the text of a manifest is missing, unknown or malformed."""

    def __init__(self, name: str, expected: str, got: str) -> None:
        super().__init__(name)
        self.name, self.expected, self.got = name, expected, got


def keys(prefix: str, raw: Mapping[str, object], required: set[str], known: set[str]) -> None:
    """FieldError unless the object has every required field and no unknown one."""
    for name in sorted(required - set(raw)):
        raise FieldError(prefix + name, "a value", "nothing: the field is missing")
    for name in sorted(set(raw) - known):
        raise FieldError(prefix + name[:80], "no such field", "an unknown field")


def is_list(value: object, item: type) -> bool:
    """Whether value is a list of items of exactly this type."""
    # Not isinstance: a bool is an int, and true is not a class index.
    return isinstance(value, list) and all(type(v) is item for v in value)


def short(value: object) -> str:
    """The value as text of at most 120 characters, for a message."""
    text = reprlib.repr(value) if not isinstance(value, Exception) else f"{type(value).__name__}: {value}"
    return text if len(text) <= 120 else text[:117] + "..."


def integer(name: str, value: object, low: int, high: int) -> None:
    """InvalidInput unless value is an int in low..high."""
    if type(value) is not int or not low <= value <= high:
        expected = str(low) if low == high else f"an integer {low} to {high}"
        raise InvalidInput(f"manifest field '{name}'", expected=expected, got=short(value))


def fraction(name: str, value: object) -> None:
    """InvalidInput unless value is a number between 0 and 1, both excluded."""
    if not isinstance(value, float) or not 0 < value < 1:
        raise InvalidInput(f"manifest field '{name}'", expected="a number between 0 and 1", got=short(value))


def choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """InvalidInput unless value is one of allowed."""
    if value not in allowed:
        raise InvalidInput(
            f"manifest field '{name}'", expected=f"one of {', '.join(allowed)}", got=short(value)
        )


def text(name: str, value: object) -> None:
    """InvalidInput unless value is a non-empty string."""
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"manifest field '{name}'", expected="a non-empty string", got=short(value))


def matches(name: str, value: object, pattern: re.Pattern[str], expected: str) -> None:
    """InvalidInput unless value is a string that the whole pattern matches."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidInput(f"manifest field '{name}'", expected=expected, got=short(value))


def digest(name: str, value: object) -> None:
    """InvalidInput unless value is a SHA-256 in lowercase hexadecimal digits, or empty."""
    # Empty until write_artifact fills it in.
    if not isinstance(value, str) or (value and (len(value) != 64 or set(value) - set("0123456789abcdef"))):
        raise InvalidInput(f"manifest field '{name}'", expected="64 hexadecimal digits", got=short(value))


def mapping(name: str, value: object) -> Mapping[str, object]:
    """value itself; InvalidInput unless it is a mapping whose keys are strings."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidInput(f"manifest field '{name}'", expected="an object", got=short(value))
    return value


def build(kind: type[_T], values: Mapping[str, object]) -> _T:
    """An object of a dataclass whose ``__post_init__`` checks the types of its fields."""
    unchecked: dict[str, Any] = dict(values)
    return kind(**unchecked)

"""Checks of the manifest's fields, shared by its parts; every message names the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from imp_trt.errors import InvalidInput

EXPORT_AGAIN = "export again with imp-export"


class FieldError(ValueError):
    """A field of a manifest's text is missing, unknown or malformed."""

    def __init__(self, name: str, expected: str, got: str) -> None:
        super().__init__(name)
        self.name, self.expected, self.got = name, expected, got


def keys(prefix: str, raw: Mapping[str, Any], required: set[str], known: set[str]) -> None:
    """The object has every required field and no unknown one."""
    for name in sorted(required - set(raw)):
        raise FieldError(prefix + name, "a value", "nothing: the field is missing")
    for name in sorted(set(raw) - known):
        raise FieldError(prefix + name[:80], "no such field", "an unknown field")


def is_list(value: object, item: type) -> bool:
    """Whether value is a list of exactly this type."""
    # bool is an int to isinstance; true is no class index.
    return isinstance(value, list) and all(type(v) is item for v in value)


def short(value: object) -> str:
    """The value as text of at most 120 characters, for a message."""
    text = repr(value) if not isinstance(value, Exception) else f"{type(value).__name__}: {value}"
    return text if len(text) <= 120 else text[:117] + "..."


def integer(name: str, value: object, low: int, high: int) -> None:
    """value is an int in low..high."""
    if type(value) is not int or not low <= value <= high:
        wanted = str(low) if low == high else f"an integer {low} to {high}"
        raise InvalidInput(f"manifest field '{name}'", expected=wanted, got=short(value))


def choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """value is one of allowed."""
    if value not in allowed:
        raise InvalidInput(
            f"manifest field '{name}'", expected=f"one of {', '.join(allowed)}", got=short(value)
        )


def text(name: str, value: object) -> None:
    """value is a non-empty string."""
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"manifest field '{name}'", expected="a non-empty string", got=short(value))


def matches(name: str, value: object, pattern: re.Pattern[str], wanted: str) -> None:
    """value is a string that the whole pattern matches."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidInput(f"manifest field '{name}'", expected=wanted, got=short(value))


def digest(name: str, value: object) -> None:
    """value is a SHA-256 in lower-case hexadecimal digits, or empty."""
    # Empty until write_artifact fills it in.
    if not isinstance(value, str) or (value and (len(value) != 64 or set(value) - set("0123456789abcdef"))):
        raise InvalidInput(f"manifest field '{name}'", expected="64 hexadecimal digits", got=short(value))


def mapping(name: str, value: object) -> None:
    """value is a mapping whose keys are strings."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidInput(f"manifest field '{name}'", expected="an object", got=short(value))

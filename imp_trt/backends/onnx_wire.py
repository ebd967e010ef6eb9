# SPDX-License-Identifier: Apache-2.0
"""Fields of protobuf messages, read as protobuf itself reads them, or rejected.

Protobuf merges a message that is given twice, keeps the last of several numbers, and ignores a field that is
encoded as another type. A reader that did otherwise would check another model than the one that runs, so all
of these are errors here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MAX_FIELDS = 1 << 22
"""Fields that are read; networks with 10,000 nodes have some hundred thousand."""

INT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Encodings: integers of variable size, 8 bytes, strings and messages, 4 bytes."""

_MAX_KEY = 1 << 32

Value = int | memoryview
"""An integer, or the bytes of a string, message or packed list."""


@dataclass(frozen=True)
class Message:
    """The fields of a type of message: number -> encoding.

    Attributes:
        one: fields that can be given once.
        many: fields that can be repeated; those with numbers can also be packed.
    """

    one: Mapping[int, int]
    many: Mapping[int, int]


class Reader:
    """Reads the messages of one file, up to a number of fields."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def fields(self, data: memoryview, message: Message) -> Iterator[tuple[int, Value]]:
        """Number and value of the known fields; ValueError if the message is malformed or ambiguous."""
        at, end, seen = 0, len(data), 0
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"more than {MAX_FIELDS:,} fields")
            key, at = varint(data, at)
            number, wire = key >> 3, key & 7
            if number == 0 or key >= _MAX_KEY:  # of a larger key, protobuf takes the last 32 bits
                raise ValueError(f"a field with the number {number}")
            value: Value
            if wire == INT:
                value, at = varint(data, at)
            else:
                size, at = _size(data, at, wire)
                part = data[at : at + size]
                at += size
                value = part if wire == BYTES else int.from_bytes(part, "little")
            if number in message.one:
                if wire != message.one[number] or seen >> number & 1:
                    raise ValueError(f"field {number} of another type, or twice")
                seen |= 1 << number
            elif number in message.many:
                if wire not in (message.many[number], BYTES):
                    raise ValueError(f"field {number} of another type")
            else:
                continue
            yield number, value


def integers(value: Value) -> Iterator[int]:
    """The integers of a field with one or with a packed list, signed."""
    if isinstance(value, int):
        yield signed(value)
        return
    at = 0
    while at < len(value):
        number, at = varint(value, at)
        yield signed(number)


def packed(value: Value, size: int) -> bytes | memoryview:
    """The bytes of a field with one number of a fixed size, or with a packed list of them."""
    if isinstance(value, int):
        return value.to_bytes(size, "little")
    if len(value) % size:
        raise ValueError("a list that ends within a number")
    return value


def signed(value: int) -> int:
    """An integer of 64 bits as it is stored in two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value


def number_of(value: Value) -> int:
    """The integer of a field that has one."""
    assert isinstance(value, int)  # noqa: S101  # Reader.fields compares the encoding
    return signed(value)


def bytes_of(value: Value) -> memoryview:
    """The bytes of a string or message."""
    assert isinstance(value, memoryview)  # noqa: S101  # Reader.fields compares the encoding
    return value


def text_of(value: Value) -> str:
    """A string; ValueError if it is not UTF-8, since two such names could look the same."""
    return str(bytes_of(value), "utf-8")


def _size(data: memoryview, at: int, wire: int) -> tuple[int, int]:
    if wire == BYTES:
        size, at = varint(data, at)
    elif wire in (FIXED32, FIXED64):
        size = 4 if wire == FIXED32 else 8
    else:
        raise ValueError(f"wire type {wire}")
    if size > len(data) - at:
        raise ValueError("a field that extends beyond its message")
    return size, at


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """An integer of variable size and the position behind it; ValueError if it does not end."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number that does not end")
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value & (1 << 64) - 1, at
        shift += 7

# SPDX-License-Identifier: Apache-2.0
"""TIFF: tags of the first directory, and whether its compressed pixels are complete.

libtiff decodes damaged LZW and Deflate data to an image with black rows; OpenCV logs that, and returns it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_TAGS = 4096
_MAX_BLOCKS = 1 << 18
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # field types
_BYTES = 7  # field type of what is no number

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, CHANNELS = 256, 257, 258, 259, 262, 274, 277
EXTRA_SAMPLES, SAMPLE_FORMAT, ICC = 338, 339, 34675
_ROWS_PER_STRIP, PLANAR = 278, 284
_STRIPS, _TILES = (273, 279), (324, 325)  # offsets, sizes in bytes
_TILE_WIDTH, _TILE_HEIGHT = 322, 323

_LZW, _DEFLATE = 5, (8, 32946)
_YCBCR = 6
_CLEAR, _END, _FIRST, _MAX_CODES = 256, 257, 258, 4096
_PIECE = 1 << 20


@dataclass(frozen=True)
class Field:
    """Integers of a tag: where they are in the file, how many, and byte order and type as struct has them."""

    offset: int
    count: int
    order: str
    kind: str

    def first(self, data: bytes | memoryview) -> int:
        return int(struct.unpack_from(self.order + self.kind, data, self.offset)[0])

    def values(self, data: bytes | memoryview) -> Sequence[int]:
        return struct.unpack_from(f"{self.order}{self.count}{self.kind}", data, self.offset)


def first_directory(data: bytes) -> tuple[dict[int, Field], bool]:
    """Tags with integers of a TIFF's first directory, and whether another directory follows.

    Raises:
        ValueError: not a TIFF, more than 4,096 tags, or two values of one tag.
        struct.error: the file ends within it.
    """
    if data[:2] not in (b"II", b"MM"):
        raise ValueError("not a TIFF")
    order = "<" if data.startswith(b"II") else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    offset = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
    count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, offset)[0]
    if count > _MAX_TAGS:
        raise ValueError(f"a TIFF directory of {count} tags")
    start, size = offset + (8 if big else 2), 20 if big else 12
    fields: dict[int, Field] = {}
    for index in range(count):
        tag, field = _field(data, order, big, start + size * index)
        if field is None:
            continue
        earlier = fields.setdefault(tag, field)
        if earlier.first(data) != field.first(data):  # readers differ in which one they take
            raise ValueError(f"a TIFF directory with two values of tag {tag}")
    following = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, start + size * count)[0]
    return fields, following != 0


def _field(data: bytes, order: str, big: bool, entry: int) -> tuple[int, Field | None]:
    tag, kind, number = struct.unpack_from(f"{order}HH{'Q' if big else 'I'}", data, entry)
    if (kind not in _INTEGERS and (tag, kind) != (ICC, _BYTES)) or not number:
        return tag, None
    code = _INTEGERS.get(kind, "B")
    at = entry + (12 if big else 8)
    if number * struct.calcsize(f"={code}") > (8 if big else 4):  # elsewhere
        at = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, at)[0]
    return tag, Field(at, number, order, code)


@dataclass(frozen=True)
class _Block:
    """A strip or tile: its compressed bytes, its size decoded, and the pixels of its last row, as slices."""

    data: memoryview
    size: int
    last_row: tuple[slice, slice]


def damage(data: bytes, pixels: NDArray[Any]) -> str | None:
    """What is damaged in the compressed pixels of a TIFF that OpenCV decoded; None if nothing is found.

    Deflate has a checksum. LZW has none: a block's length is checked where its last row has a single color,
    as rows that libtiff could not decode have.

    Args:
        data: the file.
        pixels: [h, w] or [h, w, c], its first image, decoded.
    """
    try:
        fields, _ = first_directory(data)
        tags = {tag: field.first(data) for tag, field in fields.items()}
        compression, upright = tags.get(COMPRESSION, 1), tags.get(ORIENTATION, 1) == 1
        for number, block in enumerate(_blocks(memoryview(data), fields, tags)):
            if compression in _DEFLATE and not _inflates(block):
                return f"damaged Deflate data in block {number}"
            if compression == _LZW and not (upright and _varies(pixels[block.last_row])):
                if not _unpacks(block):
                    return f"damaged LZW data in block {number}"
    except (struct.error, ValueError, KeyError, ZeroDivisionError):
        return None  # OpenCV reads such a file otherwise; nothing is known of its blocks
    return None


def _blocks(data: memoryview, fields: dict[int, Field], tags: dict[int, int]) -> Iterator[_Block]:
    if tags[COMPRESSION] not in (_LZW, *_DEFLATE) or tags.get(PHOTOMETRIC, 2) == _YCBCR:
        return  # the rows of YCbCr are subsampled
    width, height = tags[WIDTH], tags[HEIGHT]
    tiled = _TILES[0] in tags
    wide = tags[_TILE_WIDTH] if tiled else width
    high = tags[_TILE_HEIGHT] if tiled else min(tags.get(_ROWS_PER_STRIP, height), height)
    across, down = -(-width // wide), -(-height // high)
    channels = tags.get(CHANNELS, 1)
    planes = channels if tags.get(PLANAR, 1) == 2 else 1
    row = -(-wide * (channels // planes) * tags.get(BITS, 1) // 8)
    offsets, sizes = (fields[tag] for tag in (_TILES if tiled else _STRIPS))
    if not offsets.count == sizes.count == across * down * planes <= _MAX_BLOCKS:
        return
    for index, (offset, size) in enumerate(zip(offsets.values(data), sizes.values(data), strict=True)):
        top, left = index % (across * down) // across * high, index % across * wide
        rows = high if tiled else min(high, height - top)
        last = min(top + rows, height) - 1
        yield _Block(
            data[offset : offset + size], rows * row, (slice(last, last + 1), slice(left, left + wide))
        )


def _varies(row: NDArray[Any]) -> bool:
    return bool(row.size) and bool(np.any(row != row[:1, :1]))


def _inflates(block: _Block) -> bool:
    """Whether a Deflate block has all its bytes, and its checksum if it is there."""
    decoder, found = zlib.decompressobj(), 0
    piece: bytes | memoryview = block.data
    try:
        while not decoder.eof and found <= block.size:
            decoded = decoder.decompress(piece, _PIECE)
            piece = decoder.unconsumed_tail
            found += len(decoded)
            if not decoded and not piece:
                break
    except zlib.error:
        return False
    return found >= block.size


def _unpacks(block: _Block) -> bool:
    """Whether the codes of an LZW block are valid and give all its bytes; only their lengths are computed."""
    data = bytes(block.data) + b"\0\0"
    if data[0] == 0 and data[1] & 1:  # the old order of bits
        return True
    lengths = [1] * _MAX_CODES
    found, position, bits, following, earlier = 0, 0, 9, _FIRST, 0
    end = len(block.data) * 8
    while found < block.size:
        if position + bits > end:
            return False
        at = position >> 3
        code = int.from_bytes(data[at : at + 3], "big") >> (24 - bits - (position & 7)) & ((1 << bits) - 1)
        position += bits
        if code == _END:
            return False
        if code == _CLEAR:
            bits, following, earlier = 9, _FIRST, 0
            continue
        if code > following or (code == following and not earlier) or (code >= _CLEAR and not earlier):
            return False
        if earlier and following < _MAX_CODES:
            lengths[following] = earlier + 1
            following += 1
            if following == (1 << bits) - 1 and bits < 12:  # one code earlier than needed
                bits += 1
        earlier = lengths[code]
        found += earlier
    return True

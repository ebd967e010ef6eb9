# SPDX-License-Identifier: Apache-2.0
"""Image files of every kind, with the image that each shows."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (48, 64)
_PATCHES = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 220, 60), (16, 16, 16), (240, 240, 240))


def rgb() -> NDArray[np.uint8]:
    """[48, 64, 3] uint8 RGB: six patches and a corner, so that no turn or mirroring goes unnoticed."""
    image = np.zeros((*SIZE, 3), np.uint8)
    for number, color in enumerate(_PATCHES):
        row, column = divmod(number, 3)
        image[24 * row : 24 * row + 24, column * 64 // 3 : (column + 1) * 64 // 3] = color
    image[:8, :8] = 128
    return image


def gray() -> NDArray[np.uint8]:
    """[48, 64] uint8."""
    return np.asarray(Image.fromarray(rgb()).convert("L"))


def with_orientation(path: Path, orientation: int) -> Path:
    """The image with an EXIF orientation; the suffix chooses the format."""
    image = Image.fromarray(rgb())
    exif = Image.Exif()
    exif[0x112] = orientation
    settings: dict[str, Any] = {"exif": exif.tobytes()}
    if path.suffix == ".jpg":
        settings |= {"quality": 95, "subsampling": 0}
    elif path.suffix == ".webp":
        settings |= {"lossless": True}
    elif path.suffix == ".tif":
        settings = {"tiffinfo": {274: orientation}}
    image.save(path, **settings)
    return path


def png(
    path: Path,
    pixels: NDArray[np.generic],  # [h, w] or [h, w, channels]
    bits: int = 8,
    chunks: Sequence[tuple[bytes, bytes]] = (),
    size: tuple[int, int] | None = None,
    interlaced: bool = False,
) -> Path:
    """A PNG of gray, gray and alpha, RGB or RGBA; size: what its header says instead of the truth."""
    height, width = size or pixels.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    passes = [pixels]
    if interlaced:
        steps = (
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        )
        passes = [pixels[row::down, column::across] for row, column, down, across in steps]
    rows = b"".join(b"\0" + _packed(row, bits) for part in passes for row in part)
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, int(interlaced))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts))
    return path


def _packed(row: NDArray[np.generic], bits: int) -> bytes:
    if bits == 16:
        return row.astype(">u2").tobytes()
    if bits == 8:
        return row.astype(np.uint8).tobytes()
    digits = (row.astype(np.uint8)[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.ravel()).tobytes()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tiff(
    path: Path,
    pixels: NDArray[Any],  # [h, w] or [h, w, channels], unsigned, signed or float
    *,
    orientation: int = 1,
    extra: int | None = None,
    photometric: int | None = None,
    pages: int = 1,
    planar: bool = False,
) -> Path:
    """An uncompressed TIFF. extra: meaning of the fourth channel, 1 premultiplied alpha, 2 straight alpha."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    bits = 8 * pixels.dtype.itemsize
    planes = np.moveaxis(pixels, 2, 0) if planar else pixels
    content = planes.astype(pixels.dtype.newbyteorder("<")).tobytes()
    strips = channels if planar else 1
    size = len(content) // strips
    tags: list[tuple[int, int, int, int | list[int]]] = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits),
        (259, 3, 1, 1),
        (262, 3, 1, photometric if photometric is not None else (2 if channels >= 3 else 1)),
        (273, 4, strips, [8 + size * plane for plane in range(strips)]),
        (274, 3, 1, orientation),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, strips, [size] * strips),
        (284, 3, 1, 2 if planar else 1),
        *([(338, 3, 1, extra)] if extra is not None else []),
        (339, 3, channels, {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]),
    ]
    data = b"II*\0" + struct.pack("<I", 8 + len(content)) + content
    for page in range(pages):
        start = len(data)
        end = start + 2 + 12 * len(tags) + 4
        entries, lists = b"", b""
        for tag, kind, number, value in tags:
            values = value if isinstance(value, list) else [value] * number
            field = struct.pack(f"<{number}{'H' if kind == 3 else 'I'}", *values)
            if len(field) > 4:
                field, lists = struct.pack("<I", end + len(lists)), lists + field
            field = field.ljust(4, b"\0")
            entries += struct.pack("<HHI", tag, kind, number) + field
        following = end + len(lists) if page + 1 < pages else 0
        data += struct.pack("<H", len(tags)) + entries + struct.pack("<I", following) + lists
    path.write_bytes(data)
    return path


def tiff_tiles(path: Path, image: NDArray[np.uint8], side: int) -> Path:
    """A TIFF of Deflate tiles [side, side], padded at the right and lower edge; image: [h, w, 3] RGB."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % side), (0, -width % side), (0, 0)))
    tiles = [
        zlib.compress(padded[top : top + side, left : left + side].tobytes())
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]
    sizes = [len(tile) for tile in tiles]
    offsets = [8 + sum(sizes[:index]) for index in range(len(sizes))]
    start = 8 + sum(sizes)
    tags = {256: [width], 257: [height], 258: [8] * 3, 259: [8], 262: [2], 277: [3], 284: [1]}
    tags |= {322: [side], 323: [side], 324: offsets, 325: sizes}
    entries, lists, end = b"", b"", start + 2 + 12 * len(tags) + 4
    for tag, values in tags.items():
        content = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            content, lists = struct.pack("<I", end + len(lists)), lists + content
        entries += struct.pack("<HHI", tag, 4, len(values)) + content
    directory = struct.pack("<H", len(tags)) + entries + b"\0" * 4 + lists
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + b"".join(tiles) + directory)
    return path


def bmp(path: Path, bits: int, *, top_down: bool = False) -> Path:
    """A BMP of 16 (5-6-5), 24 or 32 bits."""
    image = rgb().astype(np.uint32)
    if bits == 16:
        packed = (image[..., 0] >> 3 << 11) | (image[..., 1] >> 2 << 5) | (image[..., 2] >> 3)
        rows = packed.astype("<u2")
        masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    else:
        masks = b""
        bgr = rgb()[..., ::-1]
        rows = bgr if bits == 24 else np.dstack([bgr, np.zeros((*SIZE, 1), np.uint8)])
    rows = rows if top_down else rows[::-1]
    content = np.ascontiguousarray(rows).tobytes()
    offset = 54 + len(masks)
    height, width = SIZE
    head = struct.pack(
        "<IiiHHIIiiII", 40, width, -height if top_down else height, 1, bits, 3 if masks else 0, len(content),
        2835, 2835, 0, 0,
    )  # fmt: skip
    path.write_bytes(
        b"BM" + struct.pack("<IHHI", offset + len(content), 0, 0, offset) + head + masks + content
    )
    return path

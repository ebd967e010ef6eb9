# SPDX-License-Identifier: Apache-2.0
"""Checks the structure of video files: truncation, and edit lists.

A decoder plays a truncated file up to the cut and then stops as if it had reached the end.
"""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MAX_INDEX = 64 << 20  # bytes
_MAX_BOXES = 1 << 18  # a file of empty boxes would take minutes; the longest recordings have thousands
_SMALL_BOX = 64  # bytes; a fragment has some hundreds for each frame
_VISUAL_ENTRY = 78  # bytes of a sample entry before its boxes
_EBML = b"\x1a\x45\xdf\xa3"
_EBML_HEAD = 1 << 20  # bytes; tracks are described before the first frame
_SEGMENT, _TRACKS, _TRACK, _VIDEO = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0"
_PIXEL_CROPS = (b"\x54\xaa", b"\x54\xbb", b"\x54\xcc", b"\x54\xdd")
_MP4_FIRST = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LISTS = (b"ffconcat version", b"#EXTM3U")

_log = logging.getLogger(__name__)


def lists_frames(path: Path) -> bool:
    """Whether the container stores its number of frames: MP4, MOV, AVI. For others OpenCV estimates it."""
    with path.open("rb") as file:
        head = file.read(8)
    return head[4:8] in _MP4_FIRST or head[:4] == b"RIFF"


def missing_bytes(path: Path) -> int:
    """Number of bytes missing from an MP4, MOV, AVI, MKV or WebM file; 0 for others, and those of many boxes.

    MP4 files in fragments can be played up to a cut: 0, with a warning. MP4 files that were appended to each
    other are a warning too: decoders ignore all but the first.

    Raises:
        OSError: it cannot be read, or consists of that many boxes without content: FFmpeg needs minutes for
            100 MB of them.
    """
    size = path.stat().st_size
    fragmented, movies = False, 0
    with path.open("rb") as file:
        head = file.read(12)
        position = 0
        for _ in range(_MAX_BOXES):
            if position + 8 > size:
                break
            file.seek(position)
            header = file.read(16)
            if head[4:8] in _MP4_FIRST:
                length = _box_length(header, size - position)
                fragmented = fragmented or header[4:8] == b"moof"
                movies += header[4:8] == b"moov"
            elif head[:4] == b"RIFF":
                length = _riff_length(header, size - position)
            elif head[:4] == _EBML:
                length = _ebml_length(header, size - position)
            else:
                return 0
            if length < 8:
                return 0  # invalid length: the file is damaged, which the decoder reports in more detail
            position += length
        else:
            if position < _MAX_BOXES * _SMALL_BOX:
                raise OSError(
                    errno.EINVAL, f"{_MAX_BOXES:,} boxes of {position // _MAX_BOXES} bytes: no video"
                )
            return 0
    if movies > 1:
        _log.warning("%s has %d movies (moov boxes) in a row; only the first is read", path, movies)
    if fragmented and position > size:
        _log.warning("%s ends within a fragment: its recording was interrupted", path)
        return 0
    return max(position - size, 0)


def shown_share(path: Path) -> float:
    """Share of a video's duration that its edit list shows: below 1 for MP4 and MOV trimmed without encoding.

    1 for other files, and if the boxes are damaged or larger than _MAX_INDEX.
    """
    try:
        with path.open("rb") as file:
            index = _find_index(file, path.stat().st_size)
        scale, _ = _times(_first(index, b"mvhd"))
        for track in (box for kind, box in _boxes(index) if kind == b"trak"):
            media = _first(track, b"mdia")
            if _first(media, b"hdlr")[8:12] != b"vide":
                continue
            media_scale, duration = _times(_first(media, b"mdhd"))
            shown = _edited(_first(_first(track, b"edts"), b"elst")) / scale
            return min(1.0, shown / (duration / media_scale)) if shown else 1.0
    except (struct.error, ZeroDivisionError):
        pass
    return 1.0


def declared_crop(path: Path) -> str:
    """What says that less than the frames of a file is to be shown, which decoders do not apply; or "".

    That is a clean aperture in MP4 and MOV, and PixelCrop in MKV and WebM.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_EBML_HEAD)
            if head.startswith(_EBML):
                return "PixelCrop" if _crops_matroska(head) else ""
            index = _find_index(file, path.stat().st_size)
        for _, entry in _sample_entries(index):
            aperture = _first(entry[_VISUAL_ENTRY:], b"clap")
            if aperture:
                width, width_by, height, height_by = struct.unpack_from(">4I", aperture)
                stored = struct.unpack_from(">HH", entry, 24)
                whole = (width, height) == (stored[0] * width_by, stored[1] * height_by)
                return "" if whole else "clean aperture"
    except struct.error:
        pass
    return ""


def is_list(path: Path) -> bool:
    """Whether a file is a list of others, which FFmpeg would read in its place, whatever its name."""
    with path.open("rb") as file:
        return file.read(len(_BYTE_ORDER_MARK) + 16).removeprefix(_BYTE_ORDER_MARK).startswith(_LISTS)


def is_encrypted(path: Path) -> bool:
    """Whether the video of an MP4 is encrypted: its frames are noise, or are not decoded."""
    with path.open("rb") as file:
        if file.read(8)[4:8] not in _MP4_FIRST:
            return False
        index = _find_index(file, path.stat().st_size)
    return any(kind == b"encv" for kind, _ in _sample_entries(index))


def _sample_entries(index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Formats and contents of the sample entries of all tracks in a moov box."""
    for track in (box for kind, box in _boxes(index) if kind == b"trak"):
        table = _first(_first(_first(track, b"mdia"), b"minf"), b"stbl")
        yield from _boxes(_first(table, b"stsd")[8:])


def _crops_matroska(head: bytes) -> bool:
    """Whether a video track has a PixelCrop other than 0; head is the beginning of the file."""
    for track in _elements(_element(_element(head, _SEGMENT), _TRACKS), _TRACK):
        for kind, value in _children(_element(track, _VIDEO)):
            if kind in _PIXEL_CROPS and any(value):
                return True
    return False


def _element(data: bytes, kind: bytes) -> bytes:
    return next(_elements(data, kind), b"")


def _elements(data: bytes, kind: bytes) -> Iterator[bytes]:
    return (content for name, content in _children(data) if name == kind)


def _children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Ids and contents of the elements in a Matroska element, or as much of them as is there."""
    position = 0
    while position < len(data) and data[position]:
        start = position + 9 - data[position].bit_length()
        if start >= len(data) or not data[start]:
            return
        kind, width = data[position:start], 9 - data[start].bit_length()
        length = int.from_bytes(data[start : start + width], "big") & ((1 << 7 * width) - 1)
        if length == (1 << 7 * width) - 1:  # unknown: to the end
            length = len(data)
        yield kind, data[start + width : start + width + length]
        position = start + width + length


def _find_index(file: BinaryIO, size: int) -> bytes:
    """Content of an MP4's moov box; empty if there is none."""
    position = 0
    for _ in range(_MAX_BOXES):
        if position + 8 > size:
            break
        file.seek(position)
        header = file.read(16)
        length = _box_length(header, size - position)
        if header[4:8] == b"moov":
            file.seek(position + 8)
            return file.read(length - 8) if 8 <= length <= _MAX_INDEX else b""
        if length < 8:
            break
        position += length
    return b""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Types and contents of the boxes in a box."""
    position = 0
    for _ in range(_MAX_BOXES):
        if position + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        if length < 8:
            return
        yield kind, data[position + 8 : position + length]
        position += length


def _first(data: bytes, kind: bytes) -> bytes:
    return next((box for name, box in _boxes(data) if name == kind), b"")


def _times(header: bytes) -> tuple[int, int]:
    """Time scale and duration of an mvhd or mdhd box."""
    scale, duration = (
        struct.unpack_from(">IQ", header, 20)
        if header[:1] == b"\1"
        else struct.unpack_from(">II", header, 12)
    )
    return scale, duration


def _edited(edits: bytes) -> int:
    """Duration of an edit list without its empty edits, in units of the movie."""
    if not edits:
        return 0
    form = ">QqI" if edits[0] == 1 else ">IiI"
    size, (count,) = struct.calcsize(form), struct.unpack_from(">I", edits, 4)
    entries = (struct.unpack_from(form, edits, 8 + size * k) for k in range(min(count, len(edits) // size)))
    return sum(duration for duration, start, _ in entries if start >= 0)


def _box_length(header: bytes, rest: int) -> int:
    """Bytes of an ISO 14496-12 box: a 32-bit length; 1: 64 bits after the type; 0: to the end of file."""
    length = int.from_bytes(header[:4], "big")
    if length == 1:
        return int.from_bytes(header[8:16], "big")
    return length or rest


def _riff_length(header: bytes, rest: int) -> int:
    """Bytes of a RIFF chunk, padded to even. Recorders that lose power leave the length 0."""
    length = int.from_bytes(header[4:8], "little")
    # The last padding byte is often missing.
    return rest if length == 0 or length + 8 >= rest > length + 6 else 8 + length + length % 2


def _ebml_length(header: bytes, rest: int) -> int:
    """Bytes of a Matroska element with a 4-byte id. Live recordings have an unknown length (all ones)."""
    first = header[4] if len(header) > 4 else 0
    if not first:
        return 0
    width = 9 - first.bit_length()
    value = int.from_bytes(header[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
    return rest if value == (1 << 7 * width) - 1 else 4 + width + value

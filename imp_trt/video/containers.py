# SPDX-License-Identifier: Apache-2.0
"""Checks the top-level structure of video files for truncation.

A decoder plays a truncated file up to the cut and then stops as if it had reached the end.
"""

from __future__ import annotations

import logging
from pathlib import Path

_EBML = b"\x1a\x45\xdf\xa3"
_MP4_FIRST = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")

_log = logging.getLogger(__name__)


def lists_frames(path: Path) -> bool:
    """Whether the container stores its number of frames: MP4, MOV, AVI. For others OpenCV estimates it."""
    with path.open("rb") as file:
        head = file.read(8)
    return head[4:8] in _MP4_FIRST or head[:4] == b"RIFF"


def missing_bytes(path: Path) -> int:
    """Number of bytes missing from an MP4, MOV, AVI, MKV or WebM file; 0 for other files.

    MP4 files in fragments can be played up to a cut: 0, with a warning.
    """
    size = path.stat().st_size
    fragmented = False
    with path.open("rb") as file:
        head = file.read(12)
        position = 0
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            if head[4:8] in _MP4_FIRST:
                length = _box_length(header, size - position)
                fragmented = fragmented or header[4:8] == b"moof"
            elif head[:4] == b"RIFF":
                length = _riff_length(header, size - position)
            elif head[:4] == _EBML:
                length = _ebml_length(header, size - position)
            else:
                return 0
            if length < 8:
                return 0  # invalid length: the file is damaged, which the decoder reports in more detail
            position += length
    if fragmented and position > size:
        _log.warning("%s ends within a fragment: its recording was interrupted", path)
        return 0
    return max(position - size, 0)


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

"""Looks into the outermost structure of video files, to see whether they are whole.

A decoder plays what is there of a file that was cut short and then stops as at its end.
"""

from __future__ import annotations

from pathlib import Path

_EBML = b"\x1a\x45\xdf\xa3"
_MP4_FIRST = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")


def lists_frames(path: Path) -> bool:
    """Whether a file says how many frames it holds: MP4, MOV, AVI; of others a decoder can only guess."""
    with path.open("rb") as file:
        head = file.read(8)
    return head[4:8] in _MP4_FIRST or head[:4] == b"RIFF"


def missing_bytes(path: Path) -> int:
    """How many bytes an MP4, MOV, AVI, MKV or WebM file lacks by its own account; 0 for other files."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        position = 0
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            if head[4:8] in _MP4_FIRST:
                length = _box_length(header, size - position)
            elif head[:4] == b"RIFF":
                length = _riff_length(header, size - position)
            elif head[:4] == _EBML:
                length = _ebml_length(header, size - position)
            else:
                return 0
            if length < 8:
                return 0  # no length that leads on: damaged, which the decoder will say better
            position += length
    return max(position - size, 0)


def _box_length(header: bytes, rest: int) -> int:
    """Bytes of an ISO 14496-12 box: 32-bit length; 1 means 64-bit after the type, 0 to the end."""
    length = int.from_bytes(header[:4], "big")
    if length == 1:
        return int.from_bytes(header[8:16], "big")
    return length or rest


def _riff_length(header: bytes, rest: int) -> int:
    """Bytes of a RIFF chunk, padded to even; recorders that were switched off leave the length 0."""
    length = int.from_bytes(header[4:8], "little")
    # The last pad byte is often left out.
    return rest if length == 0 or length + 8 >= rest > length + 6 else 8 + length + length % 2


def _ebml_length(header: bytes, rest: int) -> int:
    """Bytes of a Matroska element with a 4-byte id; live recordings leave the length open (all ones)."""
    first = header[4] if len(header) > 4 else 0
    if not first:
        return 0
    width = 9 - first.bit_length()
    value = int.from_bytes(header[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
    return rest if value == (1 << 7 * width) - 1 else 4 + width + value

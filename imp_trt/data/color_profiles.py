# SPDX-License-Identifier: Apache-2.0
"""What an image file says about its colors and decoders do not apply: ICC profiles, and chunks of PNG."""

from __future__ import annotations

import struct
import zlib

from imp_trt.errors import printable

_SRGB_X = {b"rXYZ": 0.436, b"gXYZ": 0.385}  # X of red and green under D50, by which gamuts differ most
_MAX_OFF = 0.03
_DISPLAY_GAMMA = (1.6, 2.8)
"""Range in which the gamma of an image differs little from that of sRGB, 2.2."""

_MAX_PROFILE = 1 << 20  # bytes
_HDR = (16, 18)  # transfer characteristics of ITU-T H.273: PQ and HLG
_NARROW = (1, 2, 5, 6, 7)  # primaries: BT.709 and BT.601, or unspecified


def unapplied_profile(profile: bytes) -> str | None:
    """Text for a warning of an ICC profile whose colors are not those of sRGB.

    None for sRGB and for gray, and for what is no profile.
    """
    space = profile[16:20]
    if len(profile) < 132 or space == b"GRAY" or profile[36:40] != b"acsp":
        return None
    try:
        tags = _tags(profile)
        name = _name(tags.get(b"desc", b""))
        if space == b"RGB " and (_is_srgb(tags) if b"rXYZ" in tags else "srgb" in name.lower()):
            return None
    except (struct.error, KeyError, ValueError):
        return None
    described = printable(name) or f"for {printable(space.decode('latin-1')).strip()}"
    return f"has a color profile that is not applied ({described:.60})"


def unapplied_chunks(chunks: dict[bytes, bytes]) -> str | None:
    """As unapplied_profile, for chunks of a PNG: the first of cICP, iCCP, sRGB and gAMA counts."""
    if len(chunks.get(b"cICP", b"")) == 4:
        primaries, transfer = chunks[b"cICP"][:2]
        if transfer in _HDR:
            return "has HDR colors (cICP), which are not mapped to SDR"
        return None if primaries in _NARROW else "has wide-gamut colors (cICP), which are not mapped to sRGB"
    if b"iCCP" in chunks:
        data = chunks[b"iCCP"].partition(b"\0")[2][1:]
        try:
            return unapplied_profile(zlib.decompressobj().decompress(data, _MAX_PROFILE))
        except zlib.error:
            return None
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big") / 100_000
    if b"sRGB" in chunks or not gamma or _DISPLAY_GAMMA[0] <= 1 / gamma <= _DISPLAY_GAMMA[1]:
        return None
    return f"has a gamma of {1 / gamma:.2g}, which is not applied"


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = (struct.unpack_from(">4sII", profile, 132 + 12 * index) for index in range(min(count, 200)))
    return {kind: profile[offset : offset + size] for kind, offset, size in entries}


def _is_srgb(tags: dict[bytes, bytes]) -> bool:
    gamut = all(abs(_fixed(tags[kind], 8) - x) <= _MAX_OFF for kind, x in _SRGB_X.items())
    middle = _middle(tags[b"rTRC"])
    return gamut and 0.5 ** _DISPLAY_GAMMA[1] <= middle <= 0.5 ** _DISPLAY_GAMMA[0]


def _fixed(data: bytes, offset: int) -> float:
    return float(struct.unpack_from(">i", data, offset)[0]) / 65536


def _middle(curve: bytes) -> float:
    """Light, 0 to 1, of the level in the middle, by a tone curve."""
    if curve[:4] == b"para":
        kind, gamma = struct.unpack_from(">H", curve, 8)[0], _fixed(curve, 12)
        slope, shift = (_fixed(curve, 16), _fixed(curve, 20)) if kind else (1.0, 0.0)
        return float(max(0.5 * slope + shift, 0.0) ** gamma)
    (count,) = struct.unpack_from(">I", curve, 8)
    if count == 0:
        return 0.5
    if count == 1:
        return float(0.5 ** (struct.unpack_from(">H", curve, 12)[0] / 256))
    return float(struct.unpack_from(">H", curve, 12 + 2 * (count // 2))[0]) / 65535


def _name(description: bytes) -> str:
    """Text of a tag "desc", of version 2 or 4 of ICC."""
    if description[:4] == b"mluc":
        length, offset = struct.unpack_from(">II", description, 20)
        return description[offset : offset + min(length, 200)].decode("utf-16-be", "replace")
    return description[12:212].partition(b"\0")[0].decode("latin-1")

# SPDX-License-Identifier: Apache-2.0
"""Headers of image files: what has to be known before, and about, their decoding.

Decoders allocate memory for the size in the header, differ in the metadata that they honor, and return the
first page of several.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, replace

from imp_trt.data import tiff
from imp_trt.data.color_profiles import unapplied_chunks, unapplied_profile

# JPEG: markers without a length, and those of a frame header (not DHT, JPG and DAC).
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# PNG
_PNG = b"\x89PNG\r\n\x1a\n"
_COLORS = (b"cICP", b"iCCP", b"sRGB", b"gAMA")  # chunks
_MAX_TEXT = 1 << 20
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")

# BMP
_BITFIELDS, _WITH_ALPHA_MASK = 3, 56  # compression, size of the header
_BGR_MASKS = (0xFF0000, 0xFF00, 0xFF)

# TIFF: values of tags.
_GRAY, _LAB = (0, 1), (8, 9, 10)
_WHITE_IS_ZERO, _SEPARATE_PLANES = 0, 2
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_FORMATS = {2: "signed integers", 3: "floating point", 5: "complex integers", 6: "complex numbers"}


@dataclass(frozen=True)
class ImageHeader:
    """Properties of an image file.

    Attributes:
        format: PNG, JPEG, BMP, TIFF, WebP or PNM.
        size: height and width in pixels, as stored.
        bits: bits of a sample.
        orientation: EXIF orientation, 1 to 8; 1 is as stored.
        several: whether there are more pages or frames than the first.
        max_value: value of white of PNM; None for other formats.
        shallow: whether OpenCV decodes more than 8 bits wrongly, but converts them to 8 rightly.
        premultiplied: whether colors are multiplied by their alpha, in the file or by the decoder.
        unsupported: a property that decoders convert to other colors, or None.
        unapplied: what it says of its colors and orientation and is not applied, for warnings.
    """

    format: str
    size: tuple[int, int]
    bits: int = 8
    orientation: int = 1
    several: bool = False
    max_value: int | None = None
    shallow: bool = False
    premultiplied: bool = False
    unsupported: str | None = None
    unapplied: tuple[str, ...] = ()


def parse_header(data: bytes) -> ImageHeader | None:
    """Header of an image file; None if it is not of one of the supported formats.

    Raises:
        ValueError: the header is damaged or incomplete.
    """
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if re.match(rb"P[1-6]\s", data):
            return _pnm(data)
    except (struct.error, IndexError, OverflowError) as error:
        raise ValueError(f"an incomplete header ({error})") from error
    return None


def _png(data: bytes) -> ImageHeader:
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    header = ImageHeader("PNG", (height, width), bits)
    position, colors, turned = 8, {}, 1
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in _COLORS:
            colors[kind] = data[position + 8 : position + 8 + length]
        elif kind in _TEXTS:
            turned = max(turned, _orientation_of_text(kind, data[position + 8 : position + 8 + length]))
        elif kind == b"eXIf":
            header = replace(header, orientation=_orientation(data[position + 8 : position + 8 + length]))
        elif kind == b"acTL":
            header = replace(header, several=struct.unpack_from(">I", data, position + 8)[0] > 1)
        position += 12 + length
    return replace(header, unapplied=_told(unapplied_chunks(colors), header.orientation, turned))


def _jpeg(data: bytes) -> ImageHeader:
    header: ImageHeader | None = None
    orientation, position, profile, turned = None, 2, b"", 1
    while (position := data.find(b"\xff", position)) >= 0:
        marker = data[position + 1]
        if marker == 0xFF or marker in _STANDALONE:  # 0xFF bytes are padding between segments
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):  # metadata may follow the frame header, but not the scan
            break
        length = struct.unpack_from(">H", data, position + 2)[0]
        if marker in _FRAMES and header is None:
            bits, height, width = struct.unpack_from(">BHH", data, position + 4)
            header = ImageHeader("JPEG", (height, width), bits)
        # Of several blocks the first counts, as in viewers.
        if marker == 0xE1 and orientation is None and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = _orientation(data[position + 10 : position + 2 + length])
        if marker == 0xE1 and data[position + 4 : position + 33] == b"http://ns.adobe.com/xap/1.0/\0":
            turned = _orientation_of_xmp(data[position + 33 : position + 2 + length])
        if marker == 0xE2 and data[position + 4 : position + 16] == b"ICC_PROFILE\0":
            profile += data[position + 18 : position + 2 + length]  # in parts, in their order
        position += 2 + length
    if header is None:
        raise ValueError("a JPEG without a frame header")
    unapplied = _told(unapplied_profile(profile), orientation, turned)
    return replace(header, orientation=orientation or 1, unapplied=unapplied)


def _bmp(data: bytes) -> ImageHeader:
    length = struct.unpack_from("<I", data, 14)[0]
    if length == 12:  # OS/2
        width, height = struct.unpack_from("<HH", data, 18)
        return ImageHeader("BMP", (height, width))
    width, height = struct.unpack_from("<ii", data, 18)
    bits, compression = struct.unpack_from("<HI", data, 28)
    unsupported = None
    if bits == 32 and compression == _BITFIELDS and length < _WITH_ALPHA_MASK:
        # OpenCV honors the masks of longer headers only, and takes these as BGR.
        if struct.unpack_from("<3I", data, 54) != _BGR_MASKS:
            unsupported = "bit fields other than BGR"
    return ImageHeader("BMP", (abs(height), abs(width)), unsupported=unsupported)


def _webp(data: bytes) -> ImageHeader:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WebP", (height & 0x3FFF, width & 0x3FFF))
    if kind == b"VP8L":
        packed = struct.unpack_from("<I", data, 21)[0]
        return ImageHeader("WebP", ((packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1))
    width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    header = ImageHeader("WebP", (height, width), several=bool(data[20] & 2))
    position, profile, turned = 12, None, 1
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            exif = data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0")
            header = replace(header, orientation=_orientation(exif))
        elif kind == b"ICCP":
            profile = unapplied_profile(data[position + 8 : position + 8 + length])
        elif kind == b"XMP ":
            turned = _orientation_of_xmp(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    return replace(header, unapplied=_told(profile, header.orientation, turned))


def _pnm(data: bytes) -> ImageHeader:
    tokens = re.match(
        rb"P([1-6])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:(?:\s|#[^\n]*\n)+(\d+))?", data
    )
    if tokens is None:
        raise ValueError("an incomplete PNM header")
    kind, width, height, value = tokens.groups()
    max_value = 255 if kind in b"14" else int(value or 0)  # bitmaps have none
    if not 0 < max_value < 65536:
        raise ValueError(f"a PNM whose white is {max_value}")
    size, bits = (int(height), int(width)), 8 if max_value < 256 else 16
    return ImageHeader("PNM", size, bits, several=_another_follows(data, tokens, bits), max_value=max_value)


def _another_follows(data: bytes, tokens: re.Match[bytes], bits: int) -> bool:
    """Whether a binary PNM is followed by another one in the same file."""
    kind, width, height = (int(token) for token in tokens.groups()[:3])
    if kind < 4:
        return False
    row = -(-width // 8) if kind == 4 else width * (bits // 8) * (3 if kind == 6 else 1)
    end = tokens.end(3 if kind == 4 else 4) + 1 + row * height
    return re.match(rb"\s*P[1-6]\s", data[end : end + 64]) is not None


def _tiff(data: bytes) -> ImageHeader:
    tags, more = tiff.first_directory(data)

    def value(tag: int, default: int) -> int:
        return tags[tag].first(data) if tag in tags else default

    sample_format, photometric = value(tiff.SAMPLE_FORMAT, 1), value(tiff.PHOTOMETRIC, 2)
    bits, extra = value(tiff.BITS, 1), value(tiff.EXTRA_SAMPLES, 0)
    channels = value(tiff.CHANNELS, 1)
    unsupported = _FORMATS.get(sample_format) or ("CIE L*a*b* colors" if photometric in _LAB else None)
    if photometric in _GRAY and channels > 2:  # of a satellite, or of a tool that does not call them RGB
        unsupported = unsupported or f"{channels} bands of gray levels, of which OpenCV reads the first"
    return ImageHeader(
        "TIFF",
        (value(tiff.HEIGHT, 0), value(tiff.WIDTH, 0)),
        bits,
        _valid_orientation(value(tiff.ORIENTATION, 1)),
        several=more,
        # Read as if they were interleaved, or with black as white.
        shallow=value(tiff.PLANAR, 1) == _SEPARATE_PLANES or photometric == _WHITE_IS_ZERO,
        # OpenCV multiplies colors of 8 bits that are not multiplied yet.
        premultiplied=channels == 4
        and (extra == _ASSOCIATED_ALPHA or (extra == _UNASSOCIATED_ALPHA and bits == 8)),
        unsupported=unsupported,
        unapplied=_told(unapplied_profile(bytes(tags[tiff.ICC].values(data))) if tiff.ICC in tags else None),
    )


def still_png(data: bytes) -> bytes:
    """A PNG without its animation: the image that decoders show which do not know animations.

    It need not be a frame of the animation. Some versions of OpenCV read the first frame instead. Other data
    are returned as they are.
    """
    if not data.startswith(_PNG) or b"acTL" not in data:
        return data
    kept, position = [data[:8]], 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind not in _ANIMATION:
            kept.append(data[position : position + 12 + length])
        position += 12 + length
    return b"".join(kept)


def _told(colors: str | None, orientation: int | None = 1, turned: int = 1) -> tuple[str, ...]:
    """Texts for warnings; turned is an orientation that is not applied, unless EXIF has another one."""
    text = f"has orientation {turned} in metadata other than EXIF, which is not applied"
    told = (colors, text if turned != 1 and orientation in (None, 1) else None)
    return tuple(text for text in told if text is not None)


def _orientation_of_xmp(packet: bytes) -> int:
    found = re.search(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])\b", packet)
    return int(found[1]) if found else 1


def _orientation_of_text(kind: bytes, chunk: bytes) -> int:
    """Orientation in a text chunk of PNG: XMP, or EXIF as ImageMagick writes it, in hexadecimal digits."""
    key, _, text = chunk.partition(b"\0")
    if key == b"XML:com.adobe.xmp":
        return _orientation_of_xmp(text)
    if key not in (b"Raw profile type exif", b"Raw profile type APP1"):
        return 1
    try:
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_TEXT)
        exif = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (zlib.error, ValueError):
        return 1
    return _orientation(exif.removeprefix(b"Exif\0\0"))


def _orientation(exif: bytes) -> int:
    """Orientation of an EXIF block, which is a TIFF without pixels; 1 if it has none or is damaged."""
    try:
        field = tiff.first_directory(exif)[0].get(tiff.ORIENTATION)
        return 1 if field is None else _valid_orientation(field.first(exif))
    except (struct.error, IndexError, ValueError):
        return 1


def _valid_orientation(value: int) -> int:
    return value if 1 <= value <= 8 else 1

# SPDX-License-Identifier: Apache-2.0
"""Still images: decoding and encoding; truncated files are rejected."""

from __future__ import annotations

import errno
import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data import tiff
from imp_trt.data.headers import ImageHeader, parse_header, still_png
from imp_trt.data.memory import MEMORY_FIX, check_memory
from imp_trt.data.native_calls import native_call
from imp_trt.errors import OutputError, SourceError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

MAX_PIXELS = 178_956_970
"""Largest image that is decoded, 0.5 GB as BGR: the limit of Pillow. A PNG of 1 MB can be larger."""

MAX_BYTES = 2 << 30
"""Largest image file that is read."""

_NO_MEMORY = -4  # cv::Error::StsNoMem

_log = logging.getLogger(__name__)
_warned: set[tuple[Path, str]] = set()

# The "up" filter with run-length encoding, for videos as PNG files: compared with level 1 alone, class maps
# take a third of the time and half of the bytes, overlays half of the time and about the same size.
_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # older versions of OpenCV choose the filter
    _FAST_PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


@dataclass(frozen=True)
class DecodedImage:
    """An image as it is displayed.

    Attributes:
        pixels: [h, w, 3] uint8 BGR, turned and mirrored by its EXIF orientation.
        orientation: that orientation, 1 to 8; 1 is as stored.
    """

    pixels: NDArray[np.uint8]
    orientation: int = 1

    def as_stored(self) -> NDArray[np.uint8]:
        """The pixels without the EXIF orientation."""
        inverse = {6: 8, 8: 6}.get(self.orientation, self.orientation)  # the others are their own inverse
        return _oriented(self.pixels, inverse)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as [h, w, 3] uint8 BGR, rotated by its EXIF orientation.

    Grayscale, alpha and 16-bit images are converted. A warning is logged for images of which only the first
    page is read, for those of 16 bits whose upper bits are unused: they become almost black, and for color
    profiles and gammas other than those of sRGB, which are not applied.

    Raises:
        SourceError: the file is missing, unreadable, not a regular file, empty, truncated, larger than
            MAX_PIXELS, not an image, or of colors that cannot be converted.
    """
    return load_image(path).pixels


def load_image(path: Path) -> DecodedImage:
    """Read an image file, see :func:`read_image`, and its orientation.

    Raises:
        SourceError: see :func:`read_image`.
    """
    data, what = read_image_bytes(path), f"image {path}"
    header = checked_header(data, what)
    if header.unsupported is not None:
        raise SourceError(
            what, expected="unsigned integer colors", got=header.unsupported, fix="convert it to 8-bit RGB"
        )
    warn_of_pages(path, header)
    for text in header.unapplied:
        warn_once(path, text)
    is_deep = (header.bits > 8 and not header.shallow) or header.max_value not in (None, 255)
    if header.premultiplied and not (header.shallow and header.bits > 8):
        pixels = _without_alpha(decode_pixels(data, cv2.IMREAD_UNCHANGED, what), what)
    else:
        pixels = decode_pixels(data, cv2.IMREAD_COLOR | (cv2.IMREAD_ANYDEPTH if is_deep else 0), what)
    if is_deep:
        unused = _unused_bits(pixels, header)
        if unused:
            warn_once(path, f"leaves the upper {unused} bits of its values unused and becomes dark")
        pixels = _to_8_bits(pixels, header, what)
    image = np.asarray(pixels, np.uint8)
    if header.format != "TIFF":  # OpenCV applies the orientation of TIFF even where it is told not to
        image = _oriented(image, header.orientation)
    return DecodedImage(image, header.orientation)


def warn_of_pages(path: Path, header: ImageHeader) -> None:
    """Warn of an image with more pages or frames than are read."""
    if header.several:
        warn_once(path, "has several pages or frames; only the first is read")


def warn_once(path: Path, text: str) -> None:
    """Log a warning of the first image of a folder to which it applies."""
    if (path.parent, text) not in _warned:
        _warned.add((path.parent, text))
        _log.warning("image %s %s (other images of this folder are not named)", path, text)


def read_image_bytes(path: Path) -> bytes:
    """Content of an image file.

    Raises:
        SourceError: the file is missing, unreadable, not a regular file, empty, or larger than MAX_BYTES.
    """
    try:
        # Not blocking: opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SourceError(f"image {path}", expected="a regular file", got="a folder, device or pipe")
            if status.st_size > MAX_BYTES:
                size = f"{status.st_size} bytes"
                raise SourceError(f"image {path}", expected=f"at most {MAX_BYTES} bytes", got=size)
            check_memory(status.st_size, f"its {status.st_size:,} bytes")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(status.st_size + 1)  # read allocates that much at once
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise SourceError(f"image {path}", expected="a file", got="no file") from error
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a NUL in the path
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            raise _too_large(f"image {path}", error) from error
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceError(f"image {path}", expected="a readable file", got=reason) from error
    if not data:
        raise SourceError(f"image {path}", expected="an image", got="an empty file", fix="copy it again")
    return data


def checked_header(data: bytes, what: str) -> ImageHeader:
    """Header of an image that may be decoded.

    Raises:
        SourceError: the format is not supported, the file is truncated, or the image is too large.
    """
    try:
        header = parse_header(data)
    except ValueError as error:
        raise SourceError(what, expected="an image", got=str(error), fix="copy it again") from error
    if header is None:
        raise SourceError(
            what,
            expected="an image that OpenCV can decode: PNG, JPEG, BMP, TIFF, WebP, PPM or PGM",
            got="invalid data",
        )
    # OpenCV 4 decodes a truncated file to an image with gray rows, without an error.
    if _jpeg_truncated(data) or (header.format == "PNG" and b"IEND\xaeB`\x82" not in data):
        raise SourceError(what, expected="a complete file", got="a truncated file", fix="copy it again")
    height, width = header.size
    if height < 1 or width < 1:  # or a size of another type, which decoders read all the same
        raise SourceError(what, expected="an image with a size", got=f"{width}x{height}", fix="save it again")
    if height * width > MAX_PIXELS:
        raise SourceError(
            what,
            expected=f"at most {MAX_PIXELS} pixels",
            got=f"{width}x{height}",
            fix="resize the image, or cut it into tiles",
        )
    try:
        check_memory(height * width * 3 * (1 + (header.bits > 8)), "its pixels")
    except OSError as error:
        raise _too_large(what, error) from error
    return header


def decode_pixels(data: bytes, flags: int, what: str) -> NDArray[np.number[Any]]:
    """Decode an image whose header was checked, with flags of cv2.imdecode.

    Raises:
        SourceError: OpenCV cannot decode it, or it is a TIFF of damaged data.
    """
    try:
        image = _decode(still_png(data), flags, what)
    except MemoryError as error:
        raise _too_large(what, error) from error
    damage = tiff.damage(data, image) if data[:2] in (b"II", b"MM") else None
    if damage is not None:
        raise SourceError(what, expected="a complete file", got=damage, fix="copy it again")
    return image


@native_call()
def _decode(data: bytes, flags: int, what: str) -> NDArray[np.number[Any]]:
    try:
        # The orientation is applied here, because versions of OpenCV differ in the formats they apply it to.
        if flags != cv2.IMREAD_UNCHANGED:
            flags |= cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # for example image sizes above OpenCV's limit
        if error.code == _NO_MEMORY:
            raise MemoryError from error
        raise SourceError(what, expected="an image", got=_line(error)) from error
    if image is None or not image.size:
        raise SourceError(what, expected="an image that OpenCV can decode", got="invalid data")
    return np.asarray(image)


def _too_large(what: str, error: Exception) -> SourceError:
    got = (isinstance(error, OSError) and error.strerror) or "too little"
    return SourceError(what, expected="enough memory", got=got, fix=MEMORY_FIX)


def _to_8_bits(image: NDArray[np.number[Any]], header: ImageHeader, what: str) -> NDArray[np.uint8]:
    """Scale samples of more than 8 bits, or whose white is not 255, to 0 to 255."""
    if image.dtype not in (np.uint8, np.uint16):
        raise SourceError(what, expected="8 or 16 bits", got=image.dtype.name, fix="convert it to 8-bit RGB")
    white = _white(image, header)
    if white == 65535:
        return np.asarray(image >> 8, np.uint8)  # type: ignore[operator]
    scaled = (image.astype(np.uint32) * 255 + white // 2) // white
    return np.minimum(scaled, 255).astype(np.uint8)


def _white(image: NDArray[np.number[Any]], header: ImageHeader) -> int:
    return header.max_value or (255 if image.dtype == np.uint8 else 65535)


def _unused_bits(image: NDArray[np.number[Any]], header: ImageHeader) -> int:
    """Number of upper bits that no value of an image uses; 0 if it is below 2, or the image is black."""
    largest = int(image.max())
    unused = _white(image, header).bit_length() - largest.bit_length()
    return unused if largest and unused >= 2 and header.bits > 8 else 0


def _without_alpha(image: NDArray[np.number[Any]], what: str) -> NDArray[np.number[Any]]:
    """Colors that are multiplied by their alpha, which must be opaque."""
    if image.ndim == 3 and image.shape[2] == 4:
        if int(image[..., 3].min()) < (255 if image.dtype == np.uint8 else 65535):
            raise SourceError(
                what,
                expected="a TIFF without transparent pixels, which would become black",
                got="transparent pixels",
                fix="save it without alpha, or as PNG",
            )
        return np.ascontiguousarray(image[..., :3])
    return image


def _oriented(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The image [h, w, ...] as its EXIF orientation displays it."""
    if orientation >= 5:  # rows and columns are exchanged
        image = np.swapaxes(image, 0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::down, ::across])


@native_call()
def encode_image(image: NDArray[np.uint8], suffix: str) -> bytes:
    """Encode an image.

    Args:
        image: [h, w] or [h, w, 3] uint8 BGR.
        suffix: ".png", ".jpg" ...: one of IMAGE_SUFFIXES.

    Raises:
        OutputError: the suffix is unknown, or OpenCV fails to encode the image; colors as .pgm, which has
            none (some versions of OpenCV write gray).
    """
    if suffix not in IMAGE_SUFFIXES:
        raise OutputError(
            "image file", expected=f"a suffix of {', '.join(IMAGE_SUFFIXES)}", got=suffix or "none"
        )
    if suffix == ".pgm" and image.ndim == 3:
        raise OutputError("image file", expected="a format with colors", got=".pgm", fix="write .ppm or .png")
    try:
        done, data = cv2.imencode(suffix, image, _FAST_PNG if suffix == ".png" else [])
    except cv2.error as error:  # as OpenCV 4.10 says what OpenCV 5 returns
        raise _not_encoded(image, suffix, _line(error)) from error
    if not done:
        raise _not_encoded(image, suffix, "an error of OpenCV")
    return bytes(data)


def _not_encoded(image: NDArray[np.uint8], suffix: str, got: str) -> OutputError:
    height, width = image.shape[:2]
    return OutputError(
        f"image of {width}x{height} as {suffix}",
        expected="a size and channels that the format can have",
        got=got,
        fix="write .png, or a smaller image",
    )


def _jpeg_truncated(data: bytes) -> bool:
    """Whether a JPEG has no EOI marker after its SOS marker.

    The segments before SOS are skipped by their lengths, because an embedded thumbnail has an EOI marker too;
    data after EOI is ignored, because phones append videos.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return data.find(b"\xff\xd9", at) < 0
        # 0xFF bytes are padding between segments.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

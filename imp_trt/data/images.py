# SPDX-License-Identifier: Apache-2.0
"""Still images: decoding and encoding; truncated files are rejected."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import OutputError, SourceError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

# The "up" filter with run-length encoding, for videos as PNG files: compared with level 1 alone, class maps
# take a third of the time and half of the bytes, overlays half of the time and about the same size.
_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # older versions of OpenCV choose the filter
    _FAST_PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as [h, w, 3] uint8 BGR, rotated by its EXIF orientation.

    Grayscale, alpha and 16-bit images are converted.

    Raises:
        SourceError: the file is missing, unreadable, empty, truncated, or not an image.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise SourceError(f"image {path}", expected="a file", got="no file") from error
    except OSError as error:
        raise SourceError(f"image {path}", expected="a readable file", got=error.strerror) from error
    if not data:
        raise SourceError(f"image {path}", expected="an image", got="an empty file", fix="copy it again")
    # OpenCV 4 decodes a truncated file to an image with gray rows, without an error.
    if _jpeg_truncated(data) or (data.startswith(b"\x89PNG") and b"IEND\xaeB`\x82" not in data):
        raise SourceError(
            f"image {path}", expected="a complete file", got="a truncated file", fix="copy it again"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # for example image sizes above OpenCV's limit
        raise SourceError(f"image {path}", expected="an image", got=_line(error)) from error
    if image is None or not image.size:
        raise SourceError(f"image {path}", expected="an image that OpenCV can decode", got="invalid data")
    pixels: NDArray[np.uint8] = np.asarray(image, np.uint8)
    return pixels


def encode_image(image: NDArray[np.uint8], suffix: str) -> bytes:
    """Encode an image.

    Args:
        image: [h, w] or [h, w, 3] uint8 BGR.
        suffix: ".png", ".jpg" ...: one of IMAGE_SUFFIXES.

    Raises:
        OutputError: the suffix is unknown, or OpenCV fails to encode the image.
    """
    if suffix not in IMAGE_SUFFIXES:
        raise OutputError(
            "image file", expected=f"a suffix of {', '.join(IMAGE_SUFFIXES)}", got=suffix or "none"
        )
    try:
        done, data = cv2.imencode(suffix, image, _FAST_PNG if suffix == ".png" else [])
    except cv2.error as error:
        raise OutputError("image cannot be encoded", got=_line(error)) from error
    if not done:
        raise OutputError("image cannot be encoded", got=f"{suffix} not supported by OpenCV")
    return bytes(data)


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

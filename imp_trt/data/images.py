"""Still images: bytes to pixels and back, refusing what is cut short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import OutputError, SourceError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

# A video is many files. The differences to the row above, their runs packed: against level 1 alone class maps
# take a third of the time and half of the bytes, overlays half of the time and about as many.
_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # an older OpenCV chooses the filter itself
    _FAST_PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as [h, w, 3] uint8 BGR, turned as its EXIF orientation says.

    Gray, alpha and 16-bit files are converted.

    Raises:
        SourceError: missing, unreadable, empty, cut short, or no image.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise SourceError(f"image {path}", expected="a file", got="nothing at this path") from error
    except OSError as error:
        raise SourceError(f"image {path}", expected="a readable file", got=error.strerror) from error
    if not data:
        raise SourceError(f"image {path}", expected="an image", got="an empty file", fix="copy it again")
    # OpenCV 4 decodes a file that was cut short to a picture with gray rows, without an error.
    if _jpeg_cut_short(data) or (data.startswith(b"\x89PNG") and b"IEND\xaeB`\x82" not in data):
        raise SourceError(
            f"image {path}", expected="a whole file", got="one that is cut short", fix="copy it again"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # absurd sizes in the header
        raise SourceError(f"image {path}", expected="an image", got=_line(error)) from error
    if image is None or not image.size:
        raise SourceError(
            f"image {path}", expected="an image that OpenCV can decode", got="damaged or other data"
        )
    pixels: NDArray[np.uint8] = np.asarray(image, np.uint8)
    return pixels


def encode_image(image: NDArray[np.uint8], suffix: str) -> bytes:
    """Bytes of an image file.

    Args:
        image: [h, w] or [h, w, 3] uint8 BGR.
        suffix: ".png", ".jpg" ...: one of IMAGE_SUFFIXES.

    Raises:
        OutputError: unknown suffix, or OpenCV cannot encode it.
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
        raise OutputError("image cannot be encoded", got=f"{suffix} refused by OpenCV")
    return bytes(data)


def _jpeg_cut_short(data: bytes) -> bool:
    """Whether a JPEG lacks its end mark after the start of its pixels.

    The segments before are skipped by their lengths, because a thumbnail inside has an end mark too;
    what follows the end mark is not looked at, because phones append videos.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return data.find(b"\xff\xd9", at) < 0
        # 0xFF fills up between segments.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:200]

# SPDX-License-Identifier: Apache-2.0
"""Reading of images and JSON files of datasets, and checks for missing files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.files import open_regular, read_regular
from imp_trt.data.images import (
    MAX_BYTES,
    checked_header,
    decode_pixels,
    load_image,
    read_image_bytes,
    warn_of_pages,
    warn_once,
)
from imp_trt.data.memory import check_memory
from imp_trt.data.unique_keys import unique_keys
from imp_trt.errors import DatasetError, SourceError

MAX_JSON_BYTES = 4 << 30
"""The annotations of COCO have 450 MB, those of Objects365 3 GB."""

_MAX_NAMED = 3
_PIECE = 4096
_PIECES = 10
_UNCOMPRESSED = (b"BM", b"II", b"MM", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
"""First bytes of BMP, TIFF and PNM: an edit may leave all other bytes, and the size, as they were."""

_PARSED_BYTES = {b",": 24, b"[": 56, b"{": 180}
"""Size of the number, list or dictionary that a character stands for."""

_Label = TypeVar("_Label", np.uint8, np.uint16)
_REPLACE = "copy the file again or remove it from the list"
_LFS = b"version https://git-lfs.github.com/spec/"


def read_photo(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read a photo as [H, W, 3] uint8 BGR, turned by its EXIF orientation as in inference.

    Labels that were drawn on the stored pixels are recognized by their size: then the photo is returned as
    stored. Both are logged once for each folder.

    Args:
        path: image file.
        size: height and width of its labels.

    Raises:
        DatasetError: the file cannot be read or decoded.
    """
    with _as_dataset_error(path):
        image = load_image(path)
    if image.orientation == 1:
        return image.pixels
    stored = image.as_stored()
    if size == stored.shape[:2] != image.pixels.shape[:2]:
        warn_once(path, "is rotated by EXIF metadata, its labels are not; it is used as stored")
        return stored
    warn_once(path, "is rotated by EXIF metadata; its labels are assumed to belong to the rotated image")
    return image.pixels


def read_label_map(path: Path, dtype: type[_Label]) -> NDArray[_Label]:
    """Read a label map from a single-channel PNG: [H, W] of the given dtype.

    Raises:
        DatasetError: the file cannot be read or decoded, is not a PNG (lossy formats change values), has
            several channels, another dtype, or a lower bit depth, which OpenCV scales to 0-255; or it is
            rotated by EXIF metadata.
    """
    bits = 8 * np.dtype(dtype).itemsize
    with _as_dataset_error(path):
        data = read_image_bytes(path)
        header = checked_header(data, str(path))
        label = decode_pixels(data, cv2.IMREAD_UNCHANGED, str(path))
    if label.ndim != 2 or label.dtype != dtype or header.format != "PNG" or header.bits != bits:
        channels = 1 if label.ndim == 2 else label.shape[2]
        kind = f"a PNG of {header.bits} bits" if header.format == "PNG" else "not a PNG"
        raise DatasetError(
            f"label map {path}",
            expected=f"{bits}-bit single-channel PNG",
            got=f"{label.dtype.name} with {channels} channels, {kind}",
            fix="write the label values as grayscale, without palette",
        )
    if header.orientation != 1:
        raise DatasetError(
            f"label map {path}",
            expected="no EXIF orientation, which viewers apply and label tools ignore",
            got=f"orientation {header.orientation}",
            fix="write the label values without metadata",
        )
    warn_of_pages(path, header)
    return label.astype(dtype, copy=False)


def read_color_label(path: Path) -> NDArray[np.uint8]:
    """Read a label map in colors from a PNG: [H, W, 3] uint8 BGR, also of a palette; [H, W] if it is gray.

    Raises:
        DatasetError: the file cannot be read or decoded, is not a PNG of 8 bits (of fewer with a palette), is
            rotated by EXIF metadata, or has transparent pixels of another color than black.
    """
    with _as_dataset_error(path):
        data = read_image_bytes(path)
        header = checked_header(data, str(path))
        label = decode_pixels(data, cv2.IMREAD_UNCHANGED, str(path))
    gray = label.ndim == 2
    if header.format != "PNG" or label.dtype != np.uint8 or (gray and header.bits != 8):
        raise DatasetError(
            f"label map {path}",
            expected="a PNG of 8 bits in the colors of the classes",
            got=f"{header.format} of {header.bits} bits",
            fix="export PNG: lossy formats change colors",
        )
    if header.orientation != 1:
        raise DatasetError(
            f"label map {path}", expected="no EXIF orientation", got=f"orientation {header.orientation}"
        )
    warn_of_pages(path, header)
    colors = np.asarray(label, np.uint8)
    if not gray and colors.shape[2] == 4:
        # Tools leave any color below transparency; black means no object anyway.
        unclear = (colors[..., 3] < 255) & ((colors[..., 3] > 0) | colors[..., :3].any(axis=2))
        if unclear.any():
            raise DatasetError(
                f"label map {path}",
                expected="opaque colors; what is transparent is black",
                got=f"{int(unclear.sum())} transparent pixels of other colors",
                fix="save it as RGB, the transparent pixels black (background) or 224,224,192 (ignored)",
            )
    return colors if gray else colors[..., :3]


@contextmanager
def _as_dataset_error(path: Path) -> Iterator[None]:
    try:
        yield
    except SourceError as error:
        raise DatasetError(
            str(path),
            expected=error.expected,
            got=error.got,
            fix=_REPLACE if error.fix in (None, "copy it again") else error.fix,
        ) from error


def need_same_size(photo: Path, image: NDArray[np.generic], label: NDArray[np.generic], where: str) -> None:
    """Require that a photo and its labels have the same size.

    Args:
        photo: path of the photo.
        image: [H, W, 3].
        label: [H, W], or [H, W, ...].
        where: name of the labels in the error message.

    Raises:
        DatasetError: the sizes differ.
    """
    if label.shape[:2] != image.shape[:2]:
        raise DatasetError(
            f"{photo} and {where}",
            expected="the same size",
            got=f"{_size(image)} and {_size(label)} (width x height)",
            fix="resize the labels with nearest neighbor, or correct the pair",
        )


def read_json(path: Path, content: str, source: str = "copy the file again") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: file to read.
        content: expected content, for the error message.
        source: where to get the file, for the error message.

    Raises:
        DatasetError: the file is missing, not JSON, not a JSON object, or gives a key twice.
    """
    expected = f"a JSON file with {content}"
    try:
        data = json.loads(_json_text(path, expected), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
        raise DatasetError(
            str(path),
            expected=expected,
            got=(getattr(error, "strerror", None) or f"{type(error).__name__}: {error}")[:300],
            fix="free memory or raise its limit, or divide the file" if memory else source,
        ) from error
    if not isinstance(data, dict):
        raise DatasetError(str(path), expected=f"a JSON object with {content}", got=type(data).__name__)
    return data


def _json_text(path: Path, expected: str) -> str:
    data = read_regular(path, MAX_JSON_BYTES)
    if data.startswith(_LFS):
        raise DatasetError(
            str(path),
            expected=expected,
            got="a Git LFS pointer",
            fix="run 'git lfs pull' in the repository it came from",
        )
    check_memory(parsed_bytes(data), f"what is read from its {len(data):,} bytes")
    return data.decode("utf-8-sig")


def parsed_bytes(data: bytes) -> int:
    """About what JSON becomes in memory, rather too little: mostly three to five times as much."""
    return len(data) + sum(size * data.count(mark) for mark, size in _PARSED_BYTES.items())


def content_digest(settings: object, labels: Iterable[Path], photos: Iterable[Path]) -> str:
    """Short digest of what a dataset contains: settings, label files and photos.

    Of large photos in compressed formats only their sizes and a few pieces are read, because all of them may
    take minutes.

    Args:
        settings: plain data, such as the meaning of label values.
        labels, photos: files in the order of the samples.

    Raises:
        DatasetError: a file cannot be read, or is not a regular one.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    path = Path()
    try:
        for path in labels:
            digest.update(hashlib.sha256(read_regular(path, MAX_JSON_BYTES)).digest())
        for path in photos:
            _add_photo(digest, path)
    except OSError as error:
        raise DatasetError(str(path), expected="a readable file", got=error.strerror) from error
    return digest.hexdigest()[:16]


def photo_digest(path: Path) -> bytes:
    """Digest of a photo, of pieces of a large one as in :func:`content_digest`.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    digest = hashlib.sha256()
    _add_photo(digest, path)
    return digest.digest()


def _add_photo(digest: hashlib._Hash, path: Path) -> None:
    with open_regular(path, MAX_BYTES) as file:
        for piece in _pieces(file):
            digest.update(piece)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Size of a photo, and its content; pieces over its whole length if it is large and compressed."""
    size = file.seek(0, os.SEEK_END)
    yield f"{size} ".encode()
    file.seek(0)
    whole = size <= _PIECES * _PIECE or file.read(2) in _UNCOMPRESSED
    for index in range(0 if whole else _PIECES):
        file.seek((size - _PIECE) * index // (_PIECES - 1))
        yield file.read(_PIECE)
    if whole:
        file.seek(0)
        yield from iter(partial(file.read, 1 << 20), b"")


def need_folder(folder: Path, layout: str, source: str) -> None:
    """Require that a folder exists.

    Args:
        folder: root of a dataset.
        layout: expected content, for the error message.
        source: where to get it, for the error message.

    Raises:
        DatasetError: the folder does not exist.
    """
    if not folder.is_dir():
        raise DatasetError(f"dataset {str(folder)!r}", expected=layout, got="no such folder", fix=source)


def need_files(root: Path, names: Iterable[str], layout: str, source: str) -> None:
    """Require that files exist and are not empty; interrupted downloads leave both.

    Args:
        root: root of the dataset.
        names: paths of its files, relative to the root.
        layout: expected content, for the error message.
        source: where to get it, for the error message.

    Raises:
        DatasetError: with the first few missing or empty files, and their number.
    """
    expected = list(names)
    missing = [name for name in expected if not has_content(root / name)]
    if missing:
        first = ", ".join(missing[:_MAX_NAMED]) + (", ..." if len(missing) > _MAX_NAMED else "")
        raise DatasetError(
            f"dataset {str(root)!r}",
            expected=layout,
            got=f"{len(missing)} of {len(expected)} files missing: {first}",
            fix=source,
        )


def has_content(path: Path) -> bool:
    """Whether a path is a file that is not empty."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _size(image: NDArray[np.generic]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"

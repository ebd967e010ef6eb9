# SPDX-License-Identifier: Apache-2.0
"""Reading of images and JSON files of data sets, and checks for missing files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.files import read_regular
from imp_trt.errors import DatasetError

MAX_JSON_BYTES = 4 << 30
"""The annotations of COCO have 450 MB, those of Objects365 3 GB."""

_MAX_NAMED = 3
_Label = TypeVar("_Label", np.uint8, np.uint16)
_LFS = "version https://git-lfs.github.com/spec/"


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Read a photo as [H, W, 3] uint8 BGR, as stored.

    Labels refer to the stored pixels, so the EXIF orientation is ignored.

    Raises:
        DatasetError: the file cannot be read or decoded.
    """
    return np.asarray(_decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), np.uint8)


def read_label_map(path: Path, dtype: type[_Label]) -> NDArray[_Label]:
    """Read a label map from a single-channel PNG: [H, W] of the given dtype.

    Raises:
        DatasetError: the file cannot be read or decoded, is not a PNG (lossy formats change values), or has
            several channels, another dtype, or a lower bit depth, which OpenCV scales to 0-255.
    """
    label = _decode(path, cv2.IMREAD_UNCHANGED)
    with path.open("rb") as file:
        head = file.read(25)
    depth = head[24] if head.startswith(b"\x89PNG") else None
    if label.ndim != 2 or label.dtype != dtype or depth != 8 * label.dtype.itemsize:
        bits = 8 * np.dtype(dtype).itemsize
        channels = 1 if label.ndim == 2 else label.shape[2]
        kind = "not a PNG" if depth is None else f"a PNG of {depth} bits"
        raise DatasetError(
            f"label map {path}",
            expected=f"{bits}-bit single-channel PNG",
            got=f"{label.dtype.name} with {channels} channels, {kind}",
            fix="write the label values as grayscale, without palette",
        )
    return label.astype(dtype, copy=False)


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
        DatasetError: the file is missing, not JSON, or not a JSON object.
    """
    try:
        text = read_regular(path, MAX_JSON_BYTES).decode("utf-8")
        if text.startswith(_LFS):
            raise DatasetError(
                str(path),
                expected=f"a JSON file with {content}",
                got="a Git LFS pointer",
                fix="run 'git lfs pull' in the repository it came from",
            )
        data = json.loads(text)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise DatasetError(
            str(path),
            expected=f"a JSON file with {content}",
            got=f"{type(error).__name__}: {error}"[:300],
            fix=source,
        ) from error
    if not isinstance(data, dict):
        raise DatasetError(str(path), expected=f"a JSON object with {content}", got=type(data).__name__)
    return data


def need_folder(folder: Path, layout: str, source: str) -> None:
    """Require that a folder exists.

    Args:
        folder: root of a data set.
        layout: expected content, for the error message.
        source: where to get it, for the error message.

    Raises:
        DatasetError: the folder does not exist.
    """
    if not folder.is_dir():
        raise DatasetError(f"data set {str(folder)!r}", expected=layout, got="no such folder", fix=source)


def need_files(root: Path, names: Iterable[str], layout: str, source: str) -> None:
    """Require that files exist and are not empty; interrupted downloads leave both.

    Args:
        root: root of the data set.
        names: paths of its files, relative to the root.
        layout: expected content, for the error message.
        source: where to get it, for the error message.

    Raises:
        DatasetError: with the first few missing or empty files, and their number.
    """
    expected = list(names)
    missing = [name for name in expected if not _has_content(root / name)]
    if missing:
        first = ", ".join(missing[:_MAX_NAMED]) + (", ..." if len(missing) > _MAX_NAMED else "")
        raise DatasetError(
            f"data set {str(root)!r}",
            expected=layout,
            got=f"{len(missing)} of {len(expected)} files missing: {first}",
            fix=source,
        )


def _has_content(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _decode(path: Path, flags: int) -> NDArray[np.generic]:
    try:
        data = path.read_bytes()
        content = np.frombuffer(data, np.uint8)
        image = cv2.imdecode(content, flags) if data and not _jpeg_truncated(data) else None
    except (OSError, cv2.error) as error:
        raise DatasetError(str(path), expected="a readable image", got=repr(error)) from error
    if image is None:
        raise DatasetError(
            str(path),
            expected="a JPEG or PNG that OpenCV can decode",
            got=f"{content.size} bytes that it cannot decode",
            fix="copy the file again or remove it from the list",
        )
    return image


def _jpeg_truncated(data: bytes) -> bool:
    """Whether a JPEG is truncated; OpenCV 4 would fill the rest with gray or arbitrary values."""
    return data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def _size(image: NDArray[np.generic]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"

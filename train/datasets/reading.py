"""How every data set reads a picture or a JSON file, and how it says which files are missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import DatasetError

_NAMED = 3
_LFS = "version https://git-lfs.github.com/spec/"


def read_photo(path: Path) -> NDArray[np.uint8]:
    """The photo in a file: [H, W, 3] uint8, BGR, its pixels as stored.

    Labels are drawn on the stored pixels, so the camera's orientation tag does not turn the image.

    Raises:
        DatasetError: the file cannot be read or decoded.
    """
    return np.asarray(_decoded(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), np.uint8)


def read_label_map(path: Path, dtypes: tuple[type[np.generic], ...] = (np.uint8,)) -> NDArray[Any]:
    """The label map in a single-channel PNG: [H, W], one of the given dtypes.

    Raises:
        DatasetError: the file cannot be read or decoded, is no PNG (others lose numbers), or holds
            colors, another dtype, or numbers of fewer bits, which OpenCV stretches to 0-255.
    """
    label = _decoded(path, cv2.IMREAD_UNCHANGED)
    with path.open("rb") as file:
        head = file.read(25)
    depth = head[24] if head.startswith(b"\x89PNG") else None
    if label.ndim != 2 or label.dtype not in dtypes or depth != 8 * label.dtype.itemsize:
        bits = " or ".join(str(8 * np.dtype(t).itemsize) for t in dtypes)
        channels = 1 if label.ndim == 2 else label.shape[2]
        kind = "no PNG" if depth is None else f"a PNG of {depth} bits"
        raise DatasetError(
            f"label map {path}",
            expected=f"{bits}-bit single-channel PNG of numbers",
            got=f"{label.dtype.name} with {channels} channels, {kind}",
            fix="write the numbers as grayscale, without palette",
        )
    return label


def need_same_size(photo: Path, image: NDArray[Any], label: NDArray[Any], where: str) -> None:
    """Refuse a photo and labels of different sizes.

    Args:
        photo: path of the photo.
        image: [H, W, 3].
        label: [H, W], or [H, W, ...].
        where: what the labels are called in the message.

    Raises:
        DatasetError: the sizes disagree.
    """
    if label.shape[:2] != image.shape[:2]:
        raise DatasetError(
            f"{photo} and {where}",
            expected="the same size",
            got=f"{_size(image)} and {_size(label)} (width x height)",
            fix="resize the labels with nearest neighbor, or name the right pair",
        )


def read_json(path: Path, holds: str, source: str = "copy the file again") -> Mapping[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        holds: what it should hold, for the message.
        source: where to get it.

    Raises:
        DatasetError: the file is missing, is not JSON, or holds no object.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith(_LFS):
            raise DatasetError(
                str(path),
                expected=f"a JSON file that holds {holds}",
                got="a Git LFS pointer in its place",
                fix="run 'git lfs pull' in the repository it came from",
            )
        data = json.loads(text)
    except (OSError, ValueError) as error:
        raise DatasetError(
            str(path),
            expected=f"a JSON file that holds {holds}",
            got=f"{type(error).__name__}: {error}",
            fix=source,
        ) from error
    if not isinstance(data, dict):
        raise DatasetError(str(path), expected=f"a JSON object that holds {holds}", got=type(data).__name__)
    return data


def need_folder(folder: Path, layout: str, source: str) -> None:
    """Refuse a folder that does not exist.

    Args:
        folder: the root of a data set.
        layout: what should lie in it.
        source: where to get it.

    Raises:
        DatasetError: there is no such folder.
    """
    if not folder.is_dir():
        raise DatasetError(f"data set {str(folder)!r}", expected=layout, got="no such folder", fix=source)


def need_files(root: Path, names: Iterable[str], layout: str, source: str) -> None:
    """Refuse a data set with missing or empty files; an interrupted download leaves both.

    Args:
        root: the root of the data set.
        names: paths of its files below the root.
        layout: what should lie in the root.
        source: where to get it.

    Raises:
        DatasetError: names the first few files that are missing or empty, and how many there are.
    """
    wanted = list(names)
    missing = [name for name in wanted if not _has_content(root / name)]
    if missing:
        first = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise DatasetError(
            f"data set {str(root)!r}",
            expected=layout,
            got=f"{len(missing)} of {len(wanted)} files missing: {first}",
            fix=source,
        )


def _has_content(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _decoded(path: Path, flags: int) -> NDArray[Any]:
    try:
        data = path.read_bytes()
        content = np.frombuffer(data, np.uint8)
        image = cv2.imdecode(content, flags) if data and not _cut_off(data) else None
    except (OSError, cv2.error) as error:
        raise DatasetError(str(path), expected="a readable image", got=repr(error)) from error
    if image is None:
        raise DatasetError(
            str(path),
            expected="a JPEG or PNG that OpenCV can decode",
            got=f"{content.size} bytes it cannot",
            fix="copy the file again or leave it out of the list",
        )
    return image


def _cut_off(data: bytes) -> bool:
    """Whether a JPEG lacks its end; OpenCV 4 would fill the rest with gray, or with anything."""
    return data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"

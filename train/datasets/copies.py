# SPDX-License-Identifier: Apache-2.0
"""Images that two datasets share: the same files, or copies of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from imp_trt.data.files import resolved
from imp_trt.train.datasets.reading import photo_digest


def shared_images(images: Collection[Path], others: Collection[Path]) -> set[Path]:
    """The images that are among the others too, under any name: the same file, or one of the same bytes.

    Images that cannot be read are compared by their paths.
    """
    files = {resolved(path) for path in others}
    shared = {path for path in images if resolved(path) in files}
    by_size: dict[int | None, list[Path]] = {}
    for path in others:
        by_size.setdefault(_size(path), []).append(path)
    digests: dict[int | None, set[bytes | None]] = {None: set()}
    for path in set(images) - shared:
        size = _size(path)
        if size not in digests:
            digests[size] = {_digest(other) for other in by_size.get(size, ())} - {None}
        if digests[size] and _digest(path) in digests[size]:
            shared.add(path)
    return shared


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _digest(path: Path) -> bytes | None:
    try:
        return photo_digest(path)
    except OSError:
        return None

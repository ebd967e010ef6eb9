# SPDX-License-Identifier: Apache-2.0
"""Account of what a dataset contains but cannot be used: counted, named, rejected if it is everything."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from imp_trt.errors import DatasetError

_log = logging.getLogger(__name__)

_MAX_NAMED = 3


class DroppedObjects:
    """Annotations that are left out, by reason."""

    def __init__(self) -> None:
        self._by_reason: dict[str, list[object]] = {}

    def add(self, reason: str, annotation: Mapping[str, object]) -> None:
        """Count an annotation that is left out."""
        self._by_reason.setdefault(reason, []).append(annotation.get("id", "without id"))

    def counts(self) -> dict[str, int]:
        """Number of annotations by reason."""
        return {reason: len(ids) for reason, ids in self._by_reason.items()}

    def __len__(self) -> int:
        return sum(map(len, self._by_reason.values()))

    def __str__(self) -> str:
        return "; ".join(
            f"{len(ids)} {reason} (annotation {named(ids)})" for reason, ids in self._by_reason.items()
        )


def report_objects(
    where: str,
    images: Sequence[tuple[str, Sequence[str]]],
    dropped: DroppedObjects,
    classes: Sequence[str],
    fix: str,
) -> None:
    """Log what cannot be used of a dataset with annotated objects.

    Args:
        where: name of the file, for messages.
        images: file name and class names of the objects of each image.
        dropped: annotations that are left out.
        classes: names of the classes with objects.
        fix: what to do if no object can be used.

    Raises:
        DatasetError: no image has an object.
    """
    used = sum(len(objects) for _, objects in images)
    if not used:
        raise DatasetError(
            where,
            expected="objects with regions inside their images",
            got=f"none: {dropped}" if len(dropped) else "no annotations of these images",
            fix=fix,
        )
    if len(dropped):
        total = used + len(dropped)
        _log.warning("%s: %d of %d objects are not used: %s", where, len(dropped), total, dropped)
    report_empty(where, [name for name, objects in images if not objects], len(images), "objects")
    present = {name for _, objects in images for name in objects}
    report_absent(where, [name for name in classes if name not in present])


def report_empty(where: str, images: Sequence[str], total: int, what: str) -> None:
    """Warn of images without something."""
    if images:
        _log.warning("%s: %d of %d images have no %s: %s", where, len(images), total, what, named(images))


def report_absent(where: str, classes: Sequence[str]) -> None:
    """Warn of classes that no image shows."""
    if classes:
        _log.warning("%s: no image shows the classes %s", where, named(classes))


def named(items: Iterable[object]) -> str:
    """The first few items, and how many there are in all."""
    listed = list(items)
    more = f", ... ({len(listed)})" if len(listed) > _MAX_NAMED else ""
    return ", ".join(str(item) for item in listed[:_MAX_NAMED]) + more

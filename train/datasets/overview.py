# SPDX-License-Identifier: Apache-2.0
"""What a dataset contains, and what is wrong with it: every label is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.data.images import IMAGE_SUFFIXES
from imp_trt.data.instance_maps import instance_table
from imp_trt.errors import DatasetError
from imp_trt.train.datasets.coco import BACKGROUNDS
from imp_trt.train.datasets.dropped import DroppedObjects, named
from imp_trt.train.datasets.view import DatasetView, FileDataset

Fault = tuple[str, str]
"""Name of an image, or of the split, and message."""


@dataclass
class SplitOverview:
    """Content of a split.

    Attributes:
        name: of the split.
        images: number of images.
        unlabeled: names of images without any label: only background, or all ignored.
        without_objects: names of images without an instance or crowd.
        unlisted: names of image files next to the listed ones that the labels do not mention.
        shared: number of images that are in another split too, also as copies, by that split.
        dropped: number of objects that cannot be used, by reason.
        hidden: number of objects of which no pixel is left below others.
        sizes: number of images by height and width.
        pixels: labeled pixels of each class, and those that are ignored at 255.
        objects: number of instances by class index.
        crowds: number of crowds.
        faults: images that cannot be used.
    """

    name: str
    images: int = 0
    unlabeled: list[str] = field(default_factory=list)
    without_objects: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    shared: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    hidden: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    objects: Counter[int] = field(default_factory=Counter)
    crowds: int = 0
    faults: list[Fault] = field(default_factory=list)

    def add(self, name: str, sample: Sample, classes: ClassTable) -> None:
        """Count a sample."""
        counts = np.bincount(sample.semantic.ravel(), minlength=256)
        self.pixels.update({int(k): int(counts[k]) for k in np.flatnonzero(counts)})
        self.sizes[sample.size] += 1
        _, labels, _ = instance_table(sample)
        self.objects.update(int(label) for label in labels)
        crowds = 0 if sample.crowd is None else len(np.unique(sample.crowd)) - int((sample.crowd == 0).any())
        self.crowds += crowds
        if not len(labels) and not crowds:
            self.without_objects.append(name)
        empty = {IGNORE_INDEX, *(k for k, n in enumerate(classes.names) if n.lower() in BACKGROUNDS)}
        if set(np.flatnonzero(counts).tolist()) <= empty:
            self.unlabeled.append(name)

    @property
    def read(self) -> int:
        """Number of images that were read, or could not be; the other counts are about these."""
        return sum(self.sizes.values()) + len(self.faults)

    def to_dict(self, classes: ClassTable) -> dict[str, Any]:
        """Data for JSON."""
        total = sum(self.pixels.values()) or 1
        return {
            "images": self.images,
            "images_read": self.read,
            "images_without_labels": self.unlabeled,
            "images_without_objects": self.without_objects,
            "images_not_in_labels": self.unlisted,
            "images_shared_with": self.shared,
            "dropped_objects": self.dropped,
            "hidden_objects": self.hidden,
            "sizes": {f"{width}x{height}": n for (height, width), n in self.sizes.most_common()},
            "pixels": {name: self.pixels[k] / total for k, name in enumerate(classes.names)},
            "ignored_pixels": self.pixels[IGNORE_INDEX] / total,
            "objects": {classes.names[thing]: self.objects[thing] for thing in classes.things},
            "crowds": self.crowds,
            "faults": [{"where": where, "message": message} for where, message in self.faults],
        }


def overview(
    dataset: FileDataset, split: str, limit: int | None = None, done: Callable[[int], None] | None = None
) -> SplitOverview:
    """Read every sample of a split.

    Args:
        dataset: the split.
        split: its name.
        limit: maximum number of images to read; None reads all.
        done: called with the number of finished images.
    """
    found = SplitOverview(split, len(dataset))
    inner = dataset
    while isinstance(inner, DatasetView):
        inner = inner.dataset
    dropped = getattr(inner, "dropped", None)
    if isinstance(dropped, DroppedObjects):
        found.dropped = dropped.counts()
    for index in range(min(len(dataset), limit or len(dataset))):
        name = dataset.image_name(index)
        try:
            found.add(name, dataset[index], dataset.classes)
        except DatasetError as error:
            found.faults.append((name, str(error)))
        if done is not None:
            done(index + 1)
    hidden = getattr(inner, "hidden", None)
    if isinstance(hidden, dict):  # of the images that were read
        found.hidden = sum(hidden.values())
    return found


def image_files(dataset: FileDataset) -> set[Path]:
    """Files of the images of a dataset."""
    return {dataset.image_path(index) for index in range(len(dataset))}


def unlisted(files: set[Path], others: set[Path]) -> list[str]:
    """Names of images in the folders of ``files`` that are neither in ``files`` nor in ``others``."""
    present = {
        path
        for folder in {file.parent for file in files}
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
    }
    return sorted(path.name for path in present - files - others)


def class_faults(tables: dict[str, ClassTable]) -> list[Fault]:
    """Splits whose classes are not those of the first."""
    first = next(iter(tables), "")
    return [
        (split, f"classes {named(table.names)} differ from those of {first}: {named(tables[first].names)}")
        for split, table in tables.items()
        if table.names != tables[first].names
    ]

# SPDX-License-Identifier: Apache-2.0
"""Cityscapes in its official folder layout, fine annotations.

::

    leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png      8 bit
    gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_instanceIds.png   16 bit

Label ids are mapped to the official train ids by a table, so no files have to be generated first.
An instance id of 1000 or more is label id * 1000 + number; below 1000 it is the label id itself, which
for a class with instances marks a group without individual annotations.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.data.dataset import Sample, SampleCache, checked_index
from imp_trt.errors import DatasetError
from imp_trt.train.datasets.reading import (
    content_digest,
    need_files,
    need_folder,
    need_same_size,
    read_label_map,
    read_photo,
)

_log = logging.getLogger(__name__)

TERMS = (
    "Cityscapes (Cordts et al., CVPR 2016): non-commercial use only, no redistribution of the images; "
    "https://www.cityscapes-dataset.com/license/"
)
LAYOUT = (
    "leftImg8bit/<split>/<city>/*_leftImg8bit.png and "
    "gtFine/<split>/<city>/*_gtFine_labelIds.png and *_gtFine_instanceIds.png"
)
SOURCE = (
    "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
    "https://www.cityscapes-dataset.com/downloads/ (registration; non-commercial license)"
)
CITIES = {
    "train": {
        "aachen": 174,
        "bochum": 96,
        "bremen": 316,
        "cologne": 154,
        "darmstadt": 85,
        "dusseldorf": 221,
        "erfurt": 109,
        "hamburg": 248,
        "hanover": 196,
        "jena": 119,
        "krefeld": 99,
        "monchengladbach": 94,
        "strasbourg": 365,
        "stuttgart": 196,
        "tubingen": 144,
        "ulm": 95,
        "weimar": 142,
        "zurich": 122,
    },
    "val": {
        "frankfurt": 267,
        "lindau": 59,
        "munster": 174,
    },
}
"""Cities of each split, with their numbers of images."""
# Label id, name and color of each class, in the order of the official train ids.
_CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
CITYSCAPES_CLASSES = ClassTable(
    names=tuple(name for _, name, _ in _CLASSES),
    things=tuple(range(11, 19)),
    palette=tuple(rgb for _, _, rgb in _CLASSES),
)
_IDS = 1 << 16
# Maximum fraction of differing pixels: files of the same polygons agree everywhere, others almost nowhere.
_MISMATCH = 0.01


class CityscapesDataset:
    """Cityscapes, 19 classes of which 8 have instances.

    All other label ids are ignored, including caravan, trailer and license plate.

    Args:
        root: folder with ``leftImg8bit`` and ``gtFine``.
        split: train or val; the annotations of test are not public.
        cities: cities to load; None loads all of the split, requires that they exist, and warns
            of those that have fewer images than the official dataset.
        cache: cache decoded samples in memory. A sample takes 12 MB.

    Raises:
        DatasetError: a city or one of an image's three files is missing; on access, a file cannot be
            decoded, sizes differ, or the two label files do not match.
    """

    def __init__(
        self, root: str | Path, split: str, cities: tuple[str, ...] | None = None, cache: bool = False
    ) -> None:
        self.root = Path(root)
        self.split = split
        need_folder(self.root, LAYOUT, SOURCE)
        if split not in CITIES:
            raise DatasetError(
                "split of Cityscapes",
                expected="train or val (the labels of test are not public)",
                got=repr(split),
            )
        self.stems = _complete(self.root, split, tuple(CITIES[split]) if cities is None else cities)
        if cities is None:
            _warn_incomplete_cities(split, self.stems)
        self.min_area = 1
        self._cache = SampleCache() if cache else None

    @property
    def name(self) -> str:
        return f"cityscapes/{self.split}"

    @property
    def classes(self) -> ClassTable:
        return CITYSCAPES_CLASSES

    @property
    def terms(self) -> str | None:
        return TERMS

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Sample:
        position = checked_index(index, len(self))
        return self._load(position) if self._cache is None else self._cache.get(position, self._load)

    def content_digest(self) -> str:
        """Short digest of the names, the label files and the photos."""
        files = [[self.root / name for name in _files(self.split, stem)] for stem in self.stems]
        labels = (path for _, *both in files for path in both)
        return content_digest(self.stems, labels, (photo for photo, *_ in files))

    def image_name(self, index: int) -> str:
        """Path of an image, relative to the root."""
        return _files(self.split, self.stems[index])[0]

    def image_path(self, index: int) -> Path:
        """File of an image."""
        return self.root / self.image_name(index)

    def label_name(self, index: int) -> str:
        """Path of a label map, relative to the root."""
        return _files(self.split, self.stems[index])[1]

    def label_map(self, index: int) -> NDArray[np.uint8]:
        """Class map [H, W], 255 = ignore, without reading the image and the instances."""
        return _class_of_label()[read_label_map(self.root / self.label_name(index), np.uint8)]

    def _load(self, index: int) -> Sample:
        photo, labels, numbers = (self.root / name for name in _files(self.split, self.stems[index]))
        label_ids = read_label_map(labels, np.uint8)
        image = read_photo(photo, label_ids.shape[:2])
        instance_ids = read_label_map(numbers, np.uint16)
        need_same_size(photo, image, label_ids, str(labels))
        need_same_size(photo, image, instance_ids, str(numbers))
        same = _label_of_instance()[instance_ids] == label_ids
        if not same.all():
            if same.mean() < 1 - _MISMATCH:
                raise DatasetError(
                    f"{labels} and {numbers}",
                    expected="the same classes",
                    got=f"different ones in {100 * (1 - same.mean()):.0f}% of the pixels",
                    fix=SOURCE,
                )
            instance_ids = np.where(same, instance_ids, np.uint16(0))
        instances, crowd = _instances(instance_ids)
        return Sample(image, _class_of_label()[label_ids], instances, crowd)


def _instances(instance_ids: NDArray[np.uint16]) -> tuple[NDArray[np.int32], NDArray[np.uint16] | None]:
    """Instance numbers [H, W] int32, ordered by instance id, and groups [H, W] uint16, by class."""
    things = np.array([_CLASSES[t][0] for t in CITYSCAPES_CLASSES.things])
    ids = np.arange(_IDS)
    present = np.bincount(instance_ids.ravel(), minlength=_IDS) > 0
    single = present & (ids >= 1000) & np.isin(ids // 1000, things)
    number = np.where(single, np.cumsum(single), 0).astype(np.int32)
    group = np.where(present & np.isin(ids, things), ids, 0).astype(np.uint16)
    return number[instance_ids], group[instance_ids] if group.any() else None


@lru_cache
def _label_of_instance() -> NDArray[np.int32]:
    """[65536] int32: label id of every instance id."""
    ids = np.arange(_IDS, dtype=np.int32)
    return np.where(ids < 1000, ids, ids // 1000)


@lru_cache
def _class_of_label() -> NDArray[np.uint8]:
    """[256] uint8: class index of every label id, 255 for label ids without class."""
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for index, (label, _, _) in enumerate(_CLASSES):
        table[label] = index
    return table


def _complete(root: Path, split: str, cities: tuple[str, ...]) -> tuple[str, ...]:
    """Sorted ``city/stem`` of all images; each image and its annotations must exist."""
    photos, labels = root / "leftImg8bit" / split, root / "gtFine" / split
    stems: set[str] = set()
    missing: list[str] = []
    for city in cities:
        present = {
            f"{city}/{path.name.removesuffix(ending)}"
            for folder, ending in (
                (photos, "_leftImg8bit.png"),
                (labels, "_gtFine_labelIds.png"),
                (labels, "_gtFine_instanceIds.png"),
            )
            for path in (folder / city).glob(f"*{ending}")
        }
        stems |= present
        if not present:
            missing.append(f"leftImg8bit/{split}/{city}/*")
    expected = sorted(stems)
    need_files(root, [*missing, *(name for stem in expected for name in _files(split, stem))], LAYOUT, SOURCE)
    return tuple(expected)


def _warn_incomplete_cities(split: str, stems: tuple[str, ...]) -> None:
    counts = Counter(stem.split("/")[0] for stem in stems)
    short = [
        f"{city} {counts[city]} of {count}" for city, count in CITIES[split].items() if counts[city] < count
    ]
    if short:
        _log.warning(
            "cityscapes/%s has %d of %d images: %s; if this is not intended, %s",
            split,
            len(stems),
            sum(CITIES[split].values()),
            ", ".join(short),
            SOURCE,
        )


def _files(split: str, stem: str) -> tuple[str, str, str]:
    return (
        f"leftImg8bit/{split}/{stem}_leftImg8bit.png",
        f"gtFine/{split}/{stem}_gtFine_labelIds.png",
        f"gtFine/{split}/{stem}_gtFine_instanceIds.png",
    )

# SPDX-License-Identifier: Apache-2.0
"""YOLO segmentation: data.yaml, images, and a text file of polygons for each image.

::

    data.yaml                names, and the folders or lists of train, val and test
    images/train/NAME.jpg    or train/images/NAME.jpg, as data.yaml says
    labels/train/NAME.txt    per object: class x1 y1 x2 y2 ..., fractions of width and height

An image without a text file has no objects. Every class is a thing; pixels of no object are background.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable, default_palette
from imp_trt.data.dataset import Sample, checked_index
from imp_trt.data.files import read_regular
from imp_trt.data.images import IMAGE_SUFFIXES
from imp_trt.errors import DatasetError, DependencyMissing, InvalidInput
from imp_trt.train.datasets.coco import BACKGROUND, BACKGROUNDS
from imp_trt.train.datasets.dropped import DroppedObjects, named, report_objects
from imp_trt.train.datasets.label_values import class_names, path_below, report_repeated, whole_number
from imp_trt.train.datasets.painting import count_hidden, paint
from imp_trt.train.datasets.reading import content_digest, has_content, need_files, read_photo
from imp_trt.train.datasets.region_checks import report_boxes
from imp_trt.train.datasets.regions import OVERHANG, Region, need_pycocotools
from imp_trt.train.datasets.splits import SPLITS, canonical

_log = logging.getLogger(__name__)

LAYOUT = "data.yaml with names and train, val, test; images/<split>/*.jpg, labels/<split>/*.txt"
SOURCE = "correct the paths in data.yaml"
_MAX_YAML_BYTES = 1 << 20
_MAX_TEXT_BYTES = 1 << 26
_MAX_FILES = 5_000_000
_CLASSES = "classes.txt"
_OTHER_IMAGES = (".avif", ".dng", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".mpo", ".pbm", ".pfm", ".tga")
_REACH = 1.5
"""Largest coordinate; what is drawn grows with it."""

Polygon = tuple[int, NDArray[np.float64]]
"""Class index, and vertices x0, y0, x1, y1, ... as fractions of width and height."""


class YoloDataset:
    """A split of a dataset in YOLO's segmentation format.

    Args:
        description: data.yaml.
        split: train, val or test.
        name: short name for logs and model cards.

    Raises:
        DatasetError: a file is missing or malformed, or no image has an object.
        DependencyMissing: PyYAML or pycocotools is not installed.
    """

    terms: str | None = None

    def __init__(self, description: Path, split: str, name: str) -> None:
        self.name = name
        data = read_description(description)
        self.classes, class_of = _classes(data, description)
        self._class_of = class_of
        self.root = description.parent
        self._images = image_files(description, data, split)
        if not self._images:
            raise DatasetError(
                f"split {split!r} of {description}",
                expected="a folder or list of images",
                got=repr(data.get(split, "no such key"))[:200],
                fix=SOURCE,
            )
        need_files(Path(), (str(path) for path in self._images), LAYOUT, SOURCE)
        need_pycocotools()
        _report_other_names(
            description, data["names"], {self.root, *(_label_file(path).parent for path in self._images)}
        )
        labels = (str(_label_file(path)) for path in self._images)
        report_repeated(str(description), labels, "text files are those of several images")
        self.dropped = DroppedObjects()
        self.hidden: dict[int, int] = {}
        for path in _without_image(self._images):
            self.dropped.add("in text files without an image", {"id": path.name})
        strange = DroppedObjects()
        self._objects = [
            _polygons(_label_file(path), class_of, self.dropped, strange) for path in self._images
        ]
        if len(strange):
            used = sum(map(len, self._objects))
            text = "%s: %s, of %d: the fractions may be of another image size"
            _log.warning(text, description, strange, used)
        names = self.classes.names
        listed = [
            (path.name, [names[label] for label, _ in objects if label])
            for path, objects in zip(self._images, self._objects, strict=True)
        ]
        fix = (
            "export YOLO segmentation: lines of class x1 y1 x2 y2 x3 y3 ..., fractions of width and height, "
            f"in a text file for each image, such as {_label_file(self._images[0])}"
        )
        report_objects(str(description), listed, self.dropped, names[1:], fix)
        report_boxes(
            str(description), ([points] for objects in self._objects for label, points in objects if label)
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        position = checked_index(index, len(self))
        path = self._images[position]
        image = read_photo(path)
        height, width = image.shape[:2]
        objects = [
            (label, False, Region((height, width), (polygon * np.tile([width, height], polygon.size // 2),)))
            for label, polygon in self._objects[position]
        ]
        sample = paint(image, objects, self.classes, 0)
        self.hidden[position] = count_hidden(path, sample, objects, self.classes)
        return sample

    def content_digest(self) -> str:
        """Short digest of the classes and their numbers, the text files and the photos."""
        expected = [(image.name, _label_file(image)) for image in self._images]
        names = [(image, label.name if os.path.lexists(label) else None) for image, label in expected]
        labels = [label for _, label in expected if os.path.lexists(label)]
        settings = [self.classes.to_dict(), sorted(self._class_of.items()), names]
        return content_digest(settings, labels, self._images)

    def image_name(self, index: int) -> str:
        """Path of an image, relative to data.yaml where it is below."""
        path = self._images[index]
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def image_path(self, index: int) -> Path:
        """File of an image."""
        return self._images[index]


def read_description(path: Path) -> dict[str, object]:
    """Content of data.yaml; it is data only, no object is made of it.

    Raises:
        DatasetError: it is missing, not YAML, or no mapping.
        DependencyMissing: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise DependencyMissing(
            "PyYAML, which reads data.yaml", got=repr(error), fix="pip install 'imp-trt[train]'"
        ) from error
    expected = "a YAML file with names, train and val"
    try:
        text = read_regular(path, _MAX_YAML_BYTES).decode("utf-8-sig")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("aliases, with which a small file can describe any amount of data")
        data = yaml.safe_load(text)
        if isinstance(data, dict):
            data |= _names_as_written(yaml.compose(text, yaml.SafeLoader))
    except Exception as error:  # PyYAML raises many types for values that are none of their tag: !!int ''
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise DatasetError(str(path), expected=expected, got=reason, fix="export it again") from error
    if not isinstance(data, dict):
        raise DatasetError(str(path), expected=expected, got=type(data).__name__)
    named = {str(key): value for key, value in data.items()}
    others = {canonical(key): value for key, value in named.items() if canonical(key) in SPLITS}
    return others | named  # valid is val, unless both are there


def _names_as_written(node: Any) -> dict[str, object]:
    """The key names of YAML as text: its rules make False of no and off, and 8 of 010.

    Raises:
        ValueError: a key occurs twice, of which only the last would count.
    """
    _need_once([str(key.value) for key, _ in node.value])
    for key, names in node.value:
        if key.value == "names" and names.id == "mapping":
            _need_once([f"names {number.value}" for number, _ in names.value])
            return {"names": {number.value: name.value for number, name in names.value}}
        if key.value == "names" and names.id == "sequence":
            return {"names": [name.value for name in names.value]}
    return {}


def _need_once(keys: list[str]) -> None:
    twice = sorted(key for key, count in Counter(keys).items() if count > 1)
    if twice:
        raise ValueError(f"twice in the file: {', '.join(twice[:3])}")


def split_names(path: Path) -> list[str]:
    """Splits that data.yaml has images for."""
    data = read_description(path)
    return [split for split in SPLITS if data.get(split)]


def image_files(description: Path, data: Mapping[str, object], split: str) -> list[Path]:
    """Images of a split, in the order of their paths."""
    value = data.get(split) or ()
    listed = list(value) if isinstance(value, list | tuple) else [value]
    entries = [entry for entry in listed if isinstance(entry, str)]
    if len(entries) < len(listed):
        raise DatasetError(str(description), expected=f"paths for {split}", got=repr(value)[:200], fix=SOURCE)
    base = description.parent
    root = base / str(data.get("path") or ".")
    if not root.is_dir():  # that of another machine
        root = base
    found: list[Path] = []
    for entry in entries:
        # Roboflow's ../train/images is written for another place than the one that the archive has.
        texts = (entry, entry.removeprefix("../"), entry.replace("\\", "/"))
        places = [folder / text for text in texts for folder in (root, base)]
        place = next((p for p in places if p.exists()), None)
        if place is None:
            raise DatasetError(
                str(description), expected=f"{split}: an existing folder or list", got=entry, fix=SOURCE
            )
        if place.is_dir():
            found += _below(place)
        else:
            found += _listed(place, base)
    report_repeated(str(description), map(str, found), f"images of {split} are listed more than once")
    return sorted(set(found))


def _below(folder: Path) -> list[Path]:
    """Images in a folder and below; data.yaml may name any folder of the machine."""
    found, others = [], []
    try:
        for number, path in enumerate(folder.rglob("*")):
            if number >= _MAX_FILES:
                raise DatasetError(
                    f"folder {folder}", expected=f"at most {_MAX_FILES:,} files", got="more", fix=SOURCE
                )
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.append(path)
            elif path.suffix.lower() in _OTHER_IMAGES:
                others.append(path.name)
    except OSError as error:
        raise DatasetError(f"folder {folder}", expected="a readable folder", got=error.strerror) from error
    if others:
        kinds = ", ".join(IMAGE_SUFFIXES)
        text = "folder %s: %d images are not read: %s; convert them to one of %s"
        _log.warning(text, folder, len(others), named(sorted(others)), kinds)
    return found


def _listed(path: Path, base: Path) -> list[Path]:
    found = []
    for line in _lines(path):
        if line:
            # CVAT puts data/ before paths of files that are not below data.
            names = (line, line.removeprefix("data/"))
            folders = (path.parent, base)
            places = [folder / path_below(folder, name) for name in names for folder in folders]
            found.append(next((p for p in places if has_content(p)), places[0]))
    return found


def _label_file(image: Path) -> Path:
    """Text file of an image: labels instead of the last folder images."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _without_image(images: list[Path]) -> list[Path]:
    """Text files next to those of the images that belong to no image, nor to one of another list."""
    expected = {_label_file(path) for path in images}
    folders = {path.parent for path in expected} - {path.parent for path in images}
    others = sorted({file for folder in folders for file in folder.glob("*.txt")} - expected)
    others = [file for file in others if file.name != _CLASSES]
    if not others:
        return []
    present = {_label_file(file) for folder in {path.parent for path in images} for file in _photos(folder)}
    return [file for file in others if file not in present]


def _photos(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]


def _lines(path: Path) -> list[str]:
    try:
        text = read_regular(path, _MAX_TEXT_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            str(path), expected="a text file", got=f"{type(error).__name__}: {error}"[:200]
        ) from error
    return [line.strip() for line in text.splitlines()]


def _classes(data: Mapping[str, object], path: Path) -> tuple[ClassTable, dict[int, int]]:
    """Class table with the background first, and the class index of each number in the text files."""
    names = data.get("names")
    expected = "names: a list, or a mapping of 0, 1, 2, ... to names"
    try:
        named = _numbered(names, path)
        count = data.get("nc", len(named))
        if count != len(named):
            raise ValueError(f"nc: {count!r:.80}, but {len(named)} names")
        if named and (named[0][0] < 0 or len({number for number, _ in named}) < len(named)):
            raise ValueError(f"numbers {', '.join(str(number) for number, _ in named)[:80]}")
        if "kpt_shape" in data:
            raise ValueError("kpt_shape: boxes and keypoints, no polygons")
        things = [(number, name) for number, name in named if name.lower() not in BACKGROUNDS]
        table = (BACKGROUND, *(name for _, name in things))
        class_of = {number: 0 for number, _ in named}
        class_of |= {number: index for index, (number, _) in enumerate(things, 1)}
        return ClassTable(table, tuple(range(1, len(table))), default_palette(len(table))), class_of
    except (TypeError, ValueError, OverflowError, InvalidInput) as error:
        raise DatasetError(str(path), expected=expected, got=str(error)[:300], fix="correct names") from error


def _numbered(names: object, path: Path) -> list[tuple[int, str]]:
    """Number and name of each class, in the order of the numbers."""
    if isinstance(names, dict):
        numbers = [whole_number(number, "the number of a class") for number in names]
        return sorted(zip(numbers, class_names(list(names.values()), str(path)), strict=True))
    if isinstance(names, list):
        return list(enumerate(class_names(names, str(path))))
    raise ValueError(f"{names!r:.80}")


def _report_other_names(description: Path, names: object, folders: set[Path]) -> None:
    """Warn of a classes.txt, as LabelImg and Label Studio write it, with other classes than data.yaml."""
    wanted = [name for _, name in _numbered(names, description)]
    for file in sorted(folder / _CLASSES for folder in folders):
        listed = [line for line in _lines(file) if line] if has_content(file) else wanted
        if listed != wanted:
            text = "%s: its classes are %s, but %s lists %s: text files may have the numbers of the latter"
            _log.warning(text, description, named(wanted), file, named(listed))


def _polygons(
    path: Path, class_of: Mapping[int, int], dropped: DroppedObjects, strange: DroppedObjects
) -> list[Polygon]:
    """The polygons of a text file; those that are not used, and those that may be wrong, are counted."""
    if not os.path.lexists(path):  # a link whose target is missing is an error
        return []
    found: list[Polygon] = []
    seen: set[tuple[int, bytes]] = set()
    for number, line in enumerate(_lines(path), 1):
        if not line:
            continue
        fields, where = line.split(), f"{path} line {number}"
        try:
            label = class_of[whole_number(fields[0], "class")]
            points = np.array([float(field) for field in fields[1:]], np.float64)
        except (KeyError, ValueError) as error:
            raise DatasetError(
                where,
                expected=f"class x1 y1 x2 y2 ..., class one of {min(class_of)} to {max(class_of)}",
                got=line[:80],
                fix="correct the line, or add the class to names in data.yaml",
            ) from error
        repeats = (label, points.tobytes()) in seen
        seen.add((label, points.tobytes()))
        problem = "that repeat another of their image" if repeats else _problem(points)
        place = {"id": f"{path.name}:{number}"}
        if problem is not None:
            dropped.add(problem, place)
            continue
        found.append((label, points))
        if points.max() > 1 + OVERHANG or points.min() < -OVERHANG:
            strange.add("that reach far beyond their image", place)
    return found


def _problem(points: NDArray[np.float64]) -> str | None:
    """Why a line of coordinates cannot be used, or None."""
    if points.size == 4:
        return "boxes without a polygon"
    if points.size < 6 or points.size % 2:
        return "without a polygon of three points"
    if not np.isfinite(points).all() or points.max() > _REACH or points.min() < 1 - _REACH:
        return "with coordinates that are no fractions of width and height"
    return Region((1, 1), (points,)).problem()

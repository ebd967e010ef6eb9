# SPDX-License-Identifier: Apache-2.0
"""Masks in colors, as PASCAL VOC and CVAT ("Segmentation mask 1.1") lay them out.

::

    JPEGImages/NAME.jpg
    SegmentationClass/NAME.png       RGB or palette PNG, a color for each class
    SegmentationObject/NAME.png      optional: a color for each object, black for none
    ImageSets/Segmentation/<split>.txt   a NAME per line; without lists all masks are one set
    labelmap.txt                     NAME:R,G,B:: per line; without it the classes are VOC's

Every class but the background is a thing. Without SegmentationObject, instances are the connected
components. The color 224,224,192 (VOC's borders) is ignored, if it is none of a class.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable, Rgb, default_palette
from imp_trt.data.dataset import Sample, checked_index
from imp_trt.data.files import read_regular
from imp_trt.data.images import IMAGE_SUFFIXES, warn_once
from imp_trt.data.instance_maps import connected_instances, renumbered
from imp_trt.errors import DatasetError, InvalidInput, printable
from imp_trt.train.datasets.coco import BACKGROUNDS
from imp_trt.train.datasets.dropped import named
from imp_trt.train.datasets.label_values import class_names, path_below, report_repeated
from imp_trt.train.datasets.reading import (
    content_digest,
    need_files,
    need_same_size,
    read_color_label,
    read_photo,
)

_log = logging.getLogger(__name__)

LAYOUT = "JPEGImages/*.jpg, SegmentationClass/*.png, ImageSets/Segmentation/<split>.txt"
SOURCE = "in CVAT, export 'Segmentation mask 1.1' with 'Save images'; or complete the folder"
_MAX_LIST_BYTES = 1 << 28
_VOID: Rgb = (224, 224, 192)
_VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
)
_COMPONENT_AREA = 50


class ColorMaskDataset:
    """A folder of images and masks in colors; see this module.

    Args:
        root: folder with SegmentationClass.
        split: name of a list; ``all`` takes every mask.
        name: short name for logs and model cards.

    Raises:
        DatasetError: a file is missing or malformed; on access, a mask cannot be decoded, has a color of no
            class, or another size than its image.
    """

    terms: str | None = None

    def __init__(self, root: Path, split: str, name: str) -> None:
        self.root = root
        self.name = name
        self.classes, self._codes = _classes(root / "labelmap.txt")
        self._stems = mask_names(root, split)
        self._objects = (root / "SegmentationObject").is_dir()
        self.min_area = 1 if self._objects else _COMPONENT_AREA
        self._images = _image_files(root / "JPEGImages", self._stems)
        report_repeated(f"split {split!r} of {root}", self._stems, "images are listed more than once")
        labels = [self._label(stem) for stem in self._stems]
        objects = [self._object(stem) for stem in self._stems] if self._objects else []
        photos = [f"JPEGImages/{file}" for file in self._images]
        need_files(root, [*labels, *objects, *photos], LAYOUT, SOURCE)
        self._lookup: NDArray[np.int16] | None = None

    def __len__(self) -> int:
        return len(self._stems)

    def __getitem__(self, index: int) -> Sample:
        position = checked_index(index, len(self))
        stem, photo = self._stems[position], self.image_path(position)
        semantic = self.label_map(position)
        image = read_photo(photo, (semantic.shape[0], semantic.shape[1]))
        need_same_size(photo, image, semantic, self._label(stem))
        if not self._objects:
            return Sample(image, semantic, connected_instances(semantic, self.classes.things, self.min_area))
        colors = read_color_label(self.root / self._object(stem))
        need_same_size(photo, image, colors, self._object(stem))
        instances = _instances(colors, semantic, self.classes)
        without = np.unique(semantic[(instances == 0) & np.isin(semantic, self.classes.things)])
        for label in without.tolist():
            warn_once(
                self.root / self._object(stem),
                f"has no object where the mask has {printable(self.classes.names[label])}: no instance there",
            )
        return Sample(image, semantic, instances)

    def content_digest(self) -> str:
        """Short digest of the classes, the lists, the masks and the photos."""
        files = [self._label, self._object] if self._objects else [self._label]
        labels = (self.root / file(stem) for stem in self._stems for file in files)
        settings = [self.classes.to_dict(), self._stems]
        return content_digest(settings, labels, map(self.image_path, range(len(self))))

    def image_name(self, index: int) -> str:
        """Path of an image, relative to the root."""
        return f"JPEGImages/{self._images[index]}"

    def image_path(self, index: int) -> Path:
        """File of an image."""
        return self.root / self.image_name(index)

    def label_name(self, index: int) -> str:
        """Path of a mask, relative to the root."""
        return self._label(self._stems[index])

    def label_map(self, index: int) -> NDArray[np.uint8]:
        """Class map [H, W], 255 = ignore, without reading the image.

        Raises:
            DatasetError: the mask cannot be decoded, or has a color of no class.
        """
        path = self.root / self.label_name(index)
        label = read_color_label(path)
        if label.ndim == 2:  # class indices instead of colors
            mapped = self._gray_table(label, path)[label]
        else:
            mapped = self._table()[_codes(label)]
        if mapped.min() < 0:
            values, counts = np.unique(_codes(label)[mapped < 0], return_counts=True)
            colors = [f"{v >> 16},{v >> 8 & 255},{v & 255}" for v in values[np.argsort(-counts)].tolist()]
            raise DatasetError(
                f"mask {path}",
                expected="only the colors of labelmap.txt, or of PASCAL VOC",
                got=f"in {int(counts.sum())} pixels also the colors {named(colors)}",
                fix="add them to labelmap.txt, or export without smoothing of edges",
            )
        return mapped.astype(np.uint8)

    def _gray_table(self, label: NDArray[np.uint8], path: Path) -> NDArray[np.int16]:
        """[256] class of each gray value: an index, or the gray color of a class; -1 for others."""
        indices, colors = np.full((2, 256), -1, np.int16)
        indices[: len(self.classes)] = np.arange(len(self.classes))
        indices[IGNORE_INDEX] = IGNORE_INDEX
        for code, index in self._codes.items():
            if code == (code & 255) * 0x010101:
                colors[code & 255] = index
        used = np.unique(label)
        is_index, is_color = ((table[used] >= 0).all() for table in (indices, colors))
        if is_index and is_color and (indices[used] != colors[used]).any():
            raise DatasetError(
                f"mask {path}",
                expected="values that are class indices, or gray colors of labelmap.txt",
                got=f"values that are both: {named(used.tolist())}",
                fix="write the mask as RGB",
            )
        return colors if is_color and not is_index else indices

    def _table(self) -> NDArray[np.int16]:
        if self._lookup is None:
            self._lookup = np.full(1 << 24, -1, np.int16)
            for code, label in self._codes.items():
                self._lookup[code] = label
        return self._lookup

    def _label(self, stem: str) -> str:
        return f"SegmentationClass/{stem}.png"

    def _object(self, stem: str) -> str:
        return f"SegmentationObject/{stem}.png"


def mask_lists(root: Path) -> dict[str, Path]:
    """Name and file of each list."""
    return {path.stem: path for path in sorted((root / "ImageSets/Segmentation").glob("*.txt"))}


def mask_names(root: Path, split: str) -> list[str]:
    """Names of the masks of a split, without suffix.

    Raises:
        DatasetError: the list is missing, empty or unreadable, or a name leads out of the folder.
    """
    lists = mask_lists(root)
    if split not in lists and split == "all":
        folder = root / "SegmentationClass"
        files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES]
        names = sorted(p.relative_to(folder).with_suffix("").as_posix() for p in files if p.suffix == ".png")
        others = [p.relative_to(folder).as_posix() for p in files if p.suffix != ".png"]
        if others:
            text = "%s: %d masks are not read, as their names do not end with .png: %s"
            _log.warning(text, folder, len(others), named(others))
    else:
        path = lists.get(split, root / f"ImageSets/Segmentation/{split}.txt")
        lines = (line.strip() for line in _text(path).splitlines())
        names = [_stem(root, line) for line in lines if line]
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DatasetError(
                f"split {split!r} of {root}", expected="names of masks", got=f"a path out of it: {name!r:.80}"
            )
    if not names:
        raise DatasetError(f"split {split!r} of {root}", expected="at least one mask", got="none")
    return names


def _text(path: Path) -> str:
    try:
        return read_regular(path, _MAX_LIST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            str(path), expected="a text file", got=f"{type(error).__name__}: {error}"[:200], fix=SOURCE
        ) from error


def _image_files(folder: Path, stems: list[str]) -> list[str]:
    """File of each image in the folder; NAME.jpg where there is none."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            file = path.relative_to(folder).as_posix()
            found.setdefault(file[: -len(path.suffix)], []).append(file)
    several = [" and ".join(found[stem]) for stem in dict.fromkeys(stems) if len(found.get(stem, ())) > 1]
    if several:
        _log.warning(
            "%s: %d masks have several images, of which the first is taken: %s",
            folder,
            len(several),
            named(several),
        )
    return [found.get(stem, [f"{stem}.jpg"])[0] for stem in stems]


def _stem(root: Path, line: str) -> str:
    """The name of a mask in a list, also as Windows writes it."""
    return path_below(root / "SegmentationClass", f"{line}.png").removesuffix(".png")


def _classes(path: Path) -> tuple[ClassTable, dict[int, int]]:
    """Class table, and the class index of each color 0xRRGGBB."""
    if path.exists():
        names, colors = _label_map_text(path)
    else:
        names, colors = tuple(_VOC.split()), default_palette(21)
    codes = {_code(_VOID): IGNORE_INDEX}
    codes |= {_code(color): label for label, color in enumerate(colors)}
    things = tuple(i for i, name in enumerate(names) if name.lower() not in BACKGROUNDS)
    try:
        if len({*colors}) != len(colors):
            raise InvalidInput("colors", expected="each color once", got=colors)
        return ClassTable(class_names(names, str(path)), things, colors), codes
    except (InvalidInput, ValueError) as error:
        raise DatasetError(str(path), expected="NAME:R,G,B:: per class", got=str(error)) from error


def _label_map_text(path: Path) -> tuple[tuple[str, ...], tuple[Rgb, ...]]:
    names, colors = [], []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"(.+?):(\d{1,3}),(\d{1,3}),(\d{1,3})(:.*)?", line.strip())
        if match is None:
            raise DatasetError(
                f"{path} line {number}", expected="NAME:R,G,B::", got=line[:80], fix="export it again"
            )
        names.append(match[1])
        colors.append((int(match[2]), int(match[3]), int(match[4])))
    return tuple(names), tuple(colors)


def _code(color: Rgb) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _codes(label: NDArray[np.uint8]) -> NDArray[np.int32]:
    """0xRRGGBB of each pixel of a BGR image [H, W, 3]; the values of gray ones as they are."""
    if label.ndim == 2:
        return label.astype(np.int32)
    # In place: a mask of 100 million pixels would take several planes of 400 MB.
    codes = label[..., 2].astype(np.int32)
    for channel in (1, 0):
        codes <<= 8
        codes |= label[..., channel]
    return codes


def _instances(
    colors: NDArray[np.uint8], semantic: NDArray[np.uint8], classes: ClassTable
) -> NDArray[np.int32]:
    """Instance numbers [H, W]: pixels of one color and one thing class, in the order of their first pixel."""
    codes = _codes(colors)
    none = (0, IGNORE_INDEX) if colors.ndim == 2 else (0, _code(_VOID))
    inside = np.isin(semantic, classes.things) & ~np.isin(codes, none)
    _, first, number = np.unique(
        codes[inside].astype(np.int64) * 256 + semantic[inside], return_index=True, return_inverse=True
    )
    instances = np.zeros(semantic.shape, np.int32)
    instances[inside] = np.argsort(np.argsort(first))[number.ravel()] + 1
    return renumbered(instances)

# SPDX-License-Identifier: Apache-2.0
"""Segmentation datasets of index PNGs, with instances as connected components.

A folder holds ``<split>.txt``; each line is ``images/NAME.jpg labels/NAME.png`` (blank lines and lines
that start with # are skipped). Paths with spaces are separated by a tab, or each is in double quotes. A
label map is an 8-bit single-channel PNG of class indices with the size of its image. A custom dataset
also has ``dataset.json``::

    {"classes": ["sky", "road", "car"],          names; position = class index
     "things": ["car"],                          the classes with instances (names or indices)
     "palette": [[70, 130, 180], ...],           optional, one RGB color per class
     "ignore_index": 255,                        optional: a label value or a list of them
     "groups": [0, 1, 1, 2],                     optional: class index of label value 0, 1, 2, ...
     "exclude": ["images/broken.jpg"],           optional: images to exclude, also as absolute paths
     "name": "mine", "terms": "CC BY 4.0"}       optional

Such labels have no instances: these are the connected components of the thing classes, as in the
IMP paper's clothing dataset VCP (Fu, Berg and Berg, ICCV 2019).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable, Rgb, default_palette
from imp_trt.data.dataset import Sample, SampleCache, checked_index
from imp_trt.data.files import open_regular, read_regular
from imp_trt.data.instance_maps import connected_instances
from imp_trt.errors import DatasetError, InvalidInput, suggestion
from imp_trt.train.datasets.dropped import named
from imp_trt.train.datasets.label_values import (
    class_names,
    path_below,
    report_repeated,
    report_unknown,
    whole_number,
)
from imp_trt.train.datasets.reading import (
    MAX_JSON_BYTES,
    content_digest,
    has_content,
    need_files,
    need_folder,
    need_same_size,
    read_json,
    read_label_map,
    read_photo,
)

_log = logging.getLogger(__name__)

LAYOUT = "<split>.txt with lines 'images/NAME.jpg labels/NAME.png', images/, labels/"

_DESCRIPTION = "classes, things and optionally palette, ignore_index, groups, exclude, name, terms"


_KEYS = ("classes", "things", "palette", "ignore_index", "groups", "exclude", "name", "terms", "root")


@dataclass(frozen=True)
class IndexPngSpec:
    """Meaning of the label values of a dataset.

    Attributes:
        name: short name of the dataset.
        classes: class table.
        native: class index of label value 0, 1, 2, ...; 255 = ignore.
        ignore: additional label values to ignore.
        exclude: images to exclude, as written in the lists.
        terms: license terms, or None.
        source: advice if files are missing, for the error message.

    Raises:
        DatasetError: a label value is mapped to a class that does not exist.
    """

    name: str
    classes: ClassTable
    native: tuple[int, ...]
    ignore: tuple[int, ...] = ()
    exclude: frozenset[str] = frozenset()
    terms: str | None = None
    source: str = "restore the files or remove their lines from the list"

    def __post_init__(self) -> None:
        invalid = [v for v in self.native if v != IGNORE_INDEX and not 0 <= v < len(self.classes)]
        if invalid or len(self.native) > 256 or any(not 0 <= v <= 255 for v in self.ignore):
            raise DatasetError(
                f"label values of dataset {self.name!r}",
                expected=f"at most 256 values, each a class below {len(self.classes)} or 255 (ignore)",
                got=f"classes {invalid} for {len(self.native)} values, ignored values {list(self.ignore)}",
            )

    def lookup(self) -> NDArray[np.int16]:
        """[256] int16: class index of every label value, 255 = ignore, -1 = not a label value."""
        table = np.full(256, -1, np.int16)
        table[: len(self.native)] = self.native
        table[list(self.ignore)] = IGNORE_INDEX
        return table


def folder_spec(root: str | Path, file: Path | None = None) -> IndexPngSpec:
    """Spec from a folder's ``dataset.json`` (see this module for the format).

    Args:
        root: folder.
        file: dataset.json, if it lies elsewhere.

    Raises:
        DatasetError: the file is missing or malformed.
    """
    path = file or Path(root) / "dataset.json"
    data = read_json(path, _DESCRIPTION)
    try:
        names = class_names([_typed(n, str) for n in _typed(data["classes"], list)], str(path))
        report_unknown(str(path), data, _KEYS)
        position = {name: index for index, name in enumerate(names)}
        things = sorted(
            _position(t, position) if isinstance(t, str) else _typed(t, int)
            for t in _typed(data["things"], list)
        )
        palette = data.get("palette")
        colors = default_palette(len(names)) if palette is None else tuple(_rgb(c) for c in palette)
        ignore = data.get("ignore_index")
        values = [] if ignore is None else ignore if isinstance(ignore, list) else [ignore]
        terms = data.get("terms")
        return IndexPngSpec(
            name=str(data.get("name", Path(root).name)),
            classes=ClassTable(names, tuple(things), colors),
            native=tuple(_typed(g, int) for g in _typed(data.get("groups", list(range(len(names)))), list)),
            ignore=tuple(_typed(v, int) for v in values),
            exclude=frozenset(_typed(e, str) for e in _typed(data.get("exclude", []), list)),
            terms=None if terms is None else _typed(terms, str).strip() or None,
        )
    except InvalidInput as error:
        raise DatasetError(
            f"{path}: {error.what}", expected=error.expected, got=error.got, fix=error.fix
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            str(path),
            expected=_DESCRIPTION,
            got=repr(error),
            fix="see the format in imp_trt.train.datasets.index_png",
        ) from error


class IndexPngDataset:
    """A folder of images and index PNGs, with instances as connected components.

    Args:
        root: folder of the dataset.
        split: name of the list, without ``.txt``.
        spec: meaning of the label values.
        min_area: components with fewer pixels are not instances.
        cache: cache decoded samples in memory.

    Raises:
        DatasetError: the folder, the list or a file named in it is missing; on access, a file
            cannot be decoded, sizes differ, or a label value is undefined.
    """

    def __init__(
        self, root: str | Path, split: str, spec: IndexPngSpec, min_area: int = 50, cache: bool = True
    ) -> None:
        self.root = Path(root)
        self.split = split
        self.spec = spec
        self.min_area = min_area
        self.pairs = _read_list(self.root, split, spec.exclude, spec.source)
        self._lookup = spec.lookup()
        self._cache = SampleCache() if cache else None

    @property
    def name(self) -> str:
        return f"{self.spec.name}/{self.split}"

    @property
    def classes(self) -> ClassTable:
        return self.spec.classes

    @property
    def terms(self) -> str | None:
        return self.spec.terms

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        position = checked_index(index, len(self))
        return self._load(position) if self._cache is None else self._cache.get(position, self._load)

    def content_digest(self) -> str:
        """Short digest of the lists, the meaning of label values, the label maps and the photos."""
        spec = self.spec
        settings = [self.pairs, spec.native, spec.ignore, self.min_area]
        photos, labels = zip(*self.pairs, strict=True)
        return content_digest(settings, (self.root / n for n in labels), (self.root / n for n in photos))

    def image_name(self, index: int) -> str:
        """Path of an image, as written in the list."""
        return self.pairs[index][0]

    def image_path(self, index: int) -> Path:
        """File of an image."""
        return self.root / self.pairs[index][0]

    def label_name(self, index: int) -> str:
        """Path of a label map, as written in the list."""
        return self.pairs[index][1]

    def label_map(self, index: int) -> NDArray[np.uint8]:
        """Class map [H, W], 255 = ignore, without reading the image.

        Raises:
            DatasetError: the file cannot be decoded, or a label value is undefined.
        """
        label_path = self.root / self.pairs[index][1]
        label = read_label_map(label_path, np.uint8)
        mapped = self._lookup[label]
        if mapped.min() < 0:
            raise DatasetError(
                f"label map {label_path}",
                expected=f"values {_values(self._lookup >= 0)}",
                got=f"also {sorted(int(v) for v in np.unique(label[mapped < 0]))}",
                fix="add the values to ignore_index or groups, or correct the label map",
            )
        return mapped.astype(np.uint8)

    def _load(self, index: int) -> Sample:
        image_path, label_path = (self.root / name for name in self.pairs[index])
        semantic = self.label_map(index)
        image = read_photo(image_path, semantic.shape[:2])
        need_same_size(image_path, image, semantic, str(label_path))
        return Sample(
            image=image,
            semantic=semantic,
            instances=connected_instances(semantic, self.spec.classes.things, self.min_area),
        )


def _read_list(root: Path, split: str, exclude: frozenset[str], source: str) -> list[tuple[str, str]]:
    need_folder(root, LAYOUT, source)
    path = root / f"{split}.txt"
    try:
        lines = read_regular(path, MAX_JSON_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        present = sorted(p.stem for p in root.glob("*.txt"))
        raise DatasetError(
            f"list {path}",
            expected="a text file of lines 'images/NAME.jpg labels/NAME.png'",
            got=f"{type(error).__name__}",
            fix=f"choose another split; text files in the folder: {', '.join(present)}"
            if present
            else source,
        ) from error
    pairs: list[tuple[str, str]] = []
    left_out: set[Path] = set()
    excluded = {_place(root, name): name for name in exclude}
    for number, line in enumerate(lines, 1):
        fields = _fields(line)
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != 2:
            raise DatasetError(
                f"{path} line {number}",
                expected="two paths, image and label map",
                got=line,
                fix="if the paths contain spaces, put a tab between them, or double quotes around each",
            )
        place = _place(root, fields[0]) if excluded else None
        if place in excluded:
            left_out.add(place)
        else:
            pairs.append((path_below(root, fields[0]), path_below(root, fields[1])))
    report_repeated(f"list {path}", (image for image, _ in pairs), "images are listed more than once")
    by_label = {str(Path(label)): str(Path(image)) for image, label in pairs}
    shared = {str(Path(label)) for image, label in pairs if by_label[str(Path(label))] != str(Path(image))}
    if shared:
        _log.warning(
            "list %s: %d label maps are those of several images: %s", path, len(shared), named(sorted(shared))
        )
    if left_out:
        _log.info("list %s: %d images are excluded", path, len(left_out))
    labels = {_place(root, label) for _, label in pairs} if excluded else set()
    others = {place: name for place, name in excluded.items() if place not in left_out}
    # An image of another list is none of this one, but exists.
    unknown = sorted(name for place, name in others.items() if place in labels or not has_content(place))
    if unknown:
        _log.warning("list %s: %d entries of exclude name no image: %s", path, len(unknown), named(unknown))
    if not pairs:
        raise DatasetError(f"list {path}", expected="at least one pair of files", got="an empty list")
    need_files(root, (name for pair in pairs for name in pair), LAYOUT, source)
    return pairs


def _place(root: Path, name: str) -> Path:
    """The file of a path from a list or from exclude, which may be spelled differently there."""
    place = root / name.replace("\\", "/")
    try:
        return place.parent.resolve() / place.name
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a NUL
        return place


def is_list(path: Path) -> bool:
    """Whether a text file begins as a list of images and label maps, or is empty, or cannot be read."""
    try:
        with open_regular(path) as file:
            head = file.read(1 << 16).decode("utf-8-sig", "replace")
    except OSError:
        return True
    lines = [line for line in head.splitlines() if line.strip() and not line.startswith("#")]
    fields = _fields(lines[0]) if lines else []
    return not lines or (len(fields) == 2 and Path(fields[1]).suffix.lower() == ".png")


def _fields(line: str) -> list[str]:
    """Paths of a line: separated by tabs, or by spaces outside of double quotes."""
    if "\t" in line.strip():
        return [field.strip().strip('"') for field in line.strip().split("\t") if field.strip()]
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]+)"(?!\S)|(\S+)', line)]


def _position(name: str, positions: Mapping[str, int]) -> int:
    if name not in positions:
        raise InvalidInput(
            "things",
            expected=f"some of the classes {', '.join(positions)}",
            got=repr(name),
            fix=suggestion(name, positions),
        )
    return positions[name]


_T = TypeVar("_T")


def _typed(value: object, kind: type[_T]) -> _T:
    """The value if it has the given type: true and "25" are not numbers, a string is not a list."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a {kind.__name__}")
    return value


def _rgb(color: Sequence[int]) -> Rgb:
    red, green, blue = (whole_number(value, "a color of palette") for value in color)
    return red, green, blue


def _values(valid: NDArray[np.bool_]) -> str:
    values = np.flatnonzero(valid)
    if values.size and values.size == values[-1] - values[0] + 1:
        return f"{values[0]} to {values[-1]}"
    return ", ".join(str(int(v)) for v in values)

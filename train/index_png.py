"""Segmentation sets of index PNGs, opened by name or path.

A folder holds ``<split>.txt``; each line is ``images/NAME.jpg labels/NAME.png`` (blank lines and lines
that start with # are skipped). A label map is an 8-bit single-channel PNG of class numbers, as large as
its image. A folder of your own also holds ``dataset.json``::

    {"classes": ["sky", "road", "car"],          names; position = class index
     "things": ["car"],                          the classes with instances (names or indices)
     "palette": [[70, 130, 180], ...],           optional, one RGB colour per class
     "ignore_index": 255,                        optional: a label value or a list of them
     "groups": [0, 1, 1, 2],                     optional: class index of label value 0, 1, 2, ...
     "exclude": ["images/broken.jpg"],           optional: images to leave out
     "name": "mine", "terms": "CC BY 4.0"}       optional

Instances are not in such labels: they are the connected components of the thing classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX, ClassTable, Rgb
from imp_trt.errors import DatasetError, InvalidInput
from imp_trt.train.dataset import CachedDataset, Dataset, Sample, SampleCache, checked_index
from imp_trt.train.instances import connected_instances

CAMVID_TERMS = (
    "CamVid (Brostow, Fauqueur, Cipolla, Pattern Recognition Letters 2009; SegNet split): "
    "non-commercial research use only"
)
CCP_TERMS = (
    "Clothing Co-Parsing (Yang, Luo, Lin, CVPR 2014): photos of identifiable people, research use only, "
    "do not publish the photos"
)
_CAMVID = (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (60, 40, 222)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
)


@dataclass(frozen=True)
class IndexPngSpec:
    """What the label values of a folder mean.

    Attributes:
        name: short name of the set.
        classes: the class table.
        native: class index of label value 0, 1, 2, ...; 255 = ignore.
        ignore: further label values that mean ignore.
        exclude: images of the lists to leave out, as they stand there.
        terms: terms of use, or None.

    Raises:
        DatasetError: a label value is mapped to a class that does not exist.
    """

    name: str
    classes: ClassTable
    native: tuple[int, ...]
    ignore: tuple[int, ...] = ()
    exclude: frozenset[str] = frozenset()
    terms: str | None = None

    def __post_init__(self) -> None:
        wrong = [v for v in self.native if v != IGNORE_INDEX and not 0 <= v < len(self.classes)]
        if wrong or len(self.native) > 256 or any(not 0 <= v <= 255 for v in self.ignore):
            raise DatasetError(
                f"label values of data set {self.name!r}",
                expected=f"at most 256 values, each a class below {len(self.classes)} or 255 (ignore)",
                got=f"classes {wrong} for {len(self.native)} values, ignored values {list(self.ignore)}",
            )

    def lookup(self) -> NDArray[np.int16]:
        """[256] int16: class index of every label value, 255 = ignore, -1 = not a label value."""
        table = np.full(256, -1, np.int16)
        table[: len(self.native)] = self.native
        table[list(self.ignore)] = IGNORE_INDEX
        return table


def camvid_spec() -> IndexPngSpec:
    """CamVid with the 11 classes of the SegNet split; label value 11 is void."""
    classes = ClassTable(
        names=tuple(name for name, _ in _CAMVID),
        things=(2, 6, 8, 9, 10),
        palette=tuple(rgb for _, rgb in _CAMVID),
    )
    return IndexPngSpec("camvid", classes, tuple(range(11)), ignore=(11,), terms=CAMVID_TERMS)


def ccp_spec(root: str | Path) -> IndexPngSpec:
    """Clothing Co-Parsing with the groups of the folder's ``groups.json``.

    Photo 0536 is left out: a person fills it, and its label map is empty.

    Raises:
        DatasetError: ``groups.json`` is missing or malformed.
    """
    path = Path(root) / "groups.json"
    data = _read_json(path)
    try:
        names = tuple(str(n) for n in data["group_names"])
        classes = ClassTable(names, tuple(int(t) for t in data["things"]), default_palette(len(names)))
        native = tuple(int(g) for g in data["native_to_group"])
    except (KeyError, TypeError, ValueError, InvalidInput) as error:
        raise DatasetError(
            str(path), expected="group_names, things and native_to_group", got=repr(error)
        ) from error
    return IndexPngSpec("ccp", classes, native, exclude=frozenset({"images/0536.jpg"}), terms=CCP_TERMS)


def folder_spec(root: str | Path) -> IndexPngSpec:
    """The spec in a folder's ``dataset.json`` (format: see this module).

    Raises:
        DatasetError: the file is missing or malformed.
    """
    path = Path(root) / "dataset.json"
    data = _read_json(path)
    try:
        names = tuple(_typed(n, str) for n in _typed(data["classes"], list))
        position = {name: index for index, name in enumerate(names)}
        things = sorted(
            position[t] if isinstance(t, str) else _typed(t, int) for t in _typed(data["things"], list)
        )
        palette = data.get("palette")
        colours = default_palette(len(names)) if palette is None else tuple(_rgb(c) for c in palette)
        ignore = data.get("ignore_index")
        values = [] if ignore is None else ignore if isinstance(ignore, list) else [ignore]
        terms = data.get("terms")
        return IndexPngSpec(
            name=str(data.get("name", path.parent.name)),
            classes=ClassTable(names, tuple(things), colours),
            native=tuple(_typed(g, int) for g in _typed(data.get("groups", list(range(len(names)))), list)),
            ignore=tuple(_typed(v, int) for v in values),
            exclude=frozenset(_typed(e, str) for e in _typed(data.get("exclude", []), list)),
            terms=None if terms is None else _typed(terms, str).strip() or None,
        )
    except (KeyError, TypeError, ValueError, InvalidInput) as error:
        raise DatasetError(
            str(path),
            expected="classes, things and optionally palette, ignore_index, groups, exclude, name, terms",
            got=repr(error),
            fix="see the format in imp_trt.train.index_png",
        ) from error


class IndexPngDataset:
    """A folder of images and index PNGs, with instances as connected components.

    Args:
        root: the folder.
        split: name of the list, without ``.txt``.
        spec: what the label values mean.
        min_area: components of fewer pixels are no instances.
        cache: keep decoded samples in memory from their first use on (6 bytes a pixel or less).

    Raises:
        DatasetError: the folder, the list or a file named in it is missing; on access, a file
            cannot be decoded, the sizes disagree, or a label value has no meaning.
    """

    def __init__(
        self, root: str | Path, split: str, spec: IndexPngSpec, min_area: int = 50, cache: bool = True
    ) -> None:
        self.root = Path(root)
        self.split = split
        self.spec = spec
        self.min_area = min_area
        self.pairs = _read_list(self.root, split, spec.exclude)
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

    def _load(self, index: int) -> Sample:
        image_path, label_path = (self.root / name for name in self.pairs[index])
        # Labels were drawn on the stored pixels, so the camera's orientation tag must not turn the image.
        image = _decode(image_path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        label = _decode(label_path, cv2.IMREAD_UNCHANGED)
        if label.ndim != 2 or label.dtype != np.uint8:
            raise DatasetError(
                f"label map {label_path}",
                expected="8-bit single-channel PNG of class numbers",
                got=f"{label.dtype.name} with {1 if label.ndim == 2 else label.shape[2]} channels",
                fix="write the class numbers as greyscale, without palette",
            )
        if label.shape != image.shape[:2]:
            raise DatasetError(
                f"{image_path} and {label_path}",
                expected="the same size",
                got=f"{_size(image)} and {_size(label)} (width x height)",
                fix="resize the label map with nearest neighbour, or name the right pair in the list",
            )
        mapped = self._lookup[label]
        if mapped.min() < 0:
            raise DatasetError(
                f"label map {label_path}",
                expected=f"values {_values(self._lookup >= 0)}",
                got=f"also {sorted(int(v) for v in np.unique(label[mapped < 0]))}",
                fix="add the values to ignore_index or groups, or correct the label map",
            )
        semantic = mapped.astype(np.uint8)
        return Sample(
            image=np.asarray(image, np.uint8),
            semantic=semantic,
            instances=connected_instances(semantic, self.spec.classes.things, self.min_area),
        )


def open_dataset(name_or_path: str, split: str) -> Dataset:
    """The data set a command names.

    Args:
        name_or_path: ``camvid:FOLDER``, ``ccp:FOLDER``, ``scenes`` (procedural, needs no files;
            ``scenes:HEIGHTxWIDTH`` for another size), or a folder with a ``dataset.json``.
        split: name of a list in the folder; for scenes any of train, val, test.

    Raises:
        DatasetError: there is no such data set, or it is incomplete.
    """
    kind, _, rest = name_or_path.partition(":")
    if kind == "scenes":
        return _scenes(rest, split)
    if kind == "camvid" and rest:
        return IndexPngDataset(rest, split, camvid_spec())
    if kind == "ccp" and rest:
        _need_folder(Path(rest))
        return IndexPngDataset(rest, split, ccp_spec(rest))
    folder = Path(name_or_path)
    _need_folder(folder)
    return IndexPngDataset(folder, split, folder_spec(folder))


def default_palette(count: int) -> tuple[Rgb, ...]:
    """``count`` distinct RGB colours, class 0 black: the bits of the index spread over the channels."""
    colours: list[Rgb] = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
        colours.append((channels[0], channels[1], channels[2]))
    return tuple(colours)


def _scenes(size_text: str, split: str) -> Dataset:
    from imp_trt.scenes import StreetScenes

    splits = {"train": (0, 1200), "val": (1, 200), "test": (2, 200)}
    if split not in splits:
        raise DatasetError("split of scenes", expected="one of train, val, test", got=repr(split))
    size = (256, 512)
    if size_text:
        parts = size_text.lower().split("x")
        if len(parts) != 2 or not all(p.isdecimal() for p in parts):
            raise DatasetError("scenes", expected="scenes or scenes:HEIGHTxWIDTH", got=f"scenes:{size_text}")
        size = (int(parts[0]), int(parts[1]))
    seed, length = splits[split]
    scenes = StreetScenes(seed=seed, size=size, length=length)
    # Training sees a scene many times, and drawing one takes longer than training on it.
    return CachedDataset(scenes) if split == "train" else scenes


def _need_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DatasetError(
            f"data set {str(folder)!r}",
            expected="an existing folder, camvid:FOLDER, ccp:FOLDER, or scenes",
            got="no such folder",
            fix="correct the path, or use 'scenes', which needs no files",
        )


def _read_list(root: Path, split: str, exclude: frozenset[str]) -> list[tuple[str, str]]:
    _need_folder(root)
    path = root / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        present = sorted(p.stem for p in root.glob("*.txt"))
        raise DatasetError(
            f"list {path}",
            expected="a text file of lines 'images/NAME.jpg labels/NAME.png'",
            got=f"{type(error).__name__}",
            fix=f"name another split; text files there: {', '.join(present) or 'none'}",
        ) from error
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != 2:
            raise DatasetError(f"{path} line {number}", expected="two paths, image and label map", got=line)
        if fields[0] not in exclude:
            pairs.append((fields[0], fields[1]))
    missing = [name for pair in pairs for name in pair if not (root / name).is_file()]
    if missing or not pairs:
        raise DatasetError(
            f"list {path}",
            expected=f"at least one pair of files that exist below {root}",
            got=f"{len(missing)} missing: {', '.join(missing[:3])}" if missing else "an empty list",
            fix="restore the files or take their lines out of the list",
        )
    return pairs


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(
            str(path),
            expected="a JSON file that describes the classes",
            got=f"{type(error).__name__}: {error}",
            fix="see the format in imp_trt.train.index_png",
        ) from error
    if not isinstance(data, dict):
        raise DatasetError(str(path), expected="a JSON object", got=type(data).__name__)
    return data


def _decode(path: Path, flags: int) -> NDArray[Any]:
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(content, flags) if content.size else None
    except (OSError, cv2.error) as error:
        raise DatasetError(str(path), expected="a readable image", got=repr(error)) from error
    if image is None:
        raise DatasetError(
            str(path),
            expected="a JPEG or PNG that OpenCV can decode",
            got=f"{content.size} bytes it cannot",
            fix="copy the file again or take its line out of the list",
        )
    return image


_T = TypeVar("_T")


def _typed(value: object, kind: type[_T]) -> _T:
    """value, if it is of the kind. JSON's true and "25" are no numbers, and a string is no list."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a {kind.__name__}")
    return value


def _rgb(colour: Sequence[int]) -> Rgb:
    red, green, blue = colour
    return int(red), int(green), int(blue)


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _values(valid: NDArray[np.bool_]) -> str:
    values = np.flatnonzero(valid)
    if values.size and values.size == values[-1] - values[0] + 1:
        return f"{values[0]} to {values[-1]}"
    return ", ".join(str(int(v)) for v in values)

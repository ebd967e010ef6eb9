# SPDX-License-Identifier: Apache-2.0
"""Datasets in COCO's format: one JSON file of images, categories and annotations, and a folder of images.

Every category is a class with instances, unless the file says ``"isthing": 0``, as those made of panoptic
annotations do; pixels without annotation are the class ``background``, or ignored. Categories that only
group others, as Roboflow exports them, are left out. Annotations without a usable region are counted and
logged, and rejected if none is left. A label map has one instance per pixel, so where annotations overlap
the smaller one is on top: boxes and masks are those of the visible parts.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, cast

import numpy as np

from imp_trt.classes import IGNORE_INDEX, ClassTable, default_palette
from imp_trt.data.dataset import Sample, SampleCache, checked_index
from imp_trt.errors import DatasetError, InvalidInput
from imp_trt.train.datasets.dropped import DroppedObjects, named, report_objects
from imp_trt.train.datasets.label_values import class_names, path_below, report_repeated, whole_number
from imp_trt.train.datasets.painting import count_hidden, paint
from imp_trt.train.datasets.reading import (
    content_digest,
    has_content,
    need_files,
    need_folder,
    need_same_size,
    read_json,
    read_photo,
)
from imp_trt.train.datasets.region_checks import fills_hole, report_boxes
from imp_trt.train.datasets.regions import Region, need_pycocotools, parse_region
from imp_trt.train.datasets.splits import synonyms, words

_log = logging.getLogger(__name__)

BACKGROUND = "background"
BACKGROUNDS = (BACKGROUND, "_background_", "__background__")
LAYOUT = "annotations/instances_<split>2017.json and <split>2017/*.jpg, or JSON,IMAGES"
SOURCE = (
    "COCO is available at https://cocodataset.org/#download (annotations CC BY 4.0, photos under the "
    "licenses of their owners)"
)
MAX_IMAGE_PIXELS = 1 << 28
"""Limit of height x width of an image: 16384 x 16384."""

MAX_CROWDS = 0.1
"""Share of crowds from which on they are reported; COCO has 1%."""

_LOOKED_FOR = 20
_CONTENT = "images, annotations and categories in COCO's format"


class CategoryJson(TypedDict):
    """Category of a COCO file; files may omit supercategory and isthing."""

    id: int
    name: str
    supercategory: str | None
    isthing: int | None


class ImageJson(TypedDict):
    """Image of a COCO file."""

    id: int
    file_name: str
    height: int
    width: int


class AnnotationJson(TypedDict):
    """Annotation of a COCO file; files may omit id and iscrowd."""

    id: int
    image_id: int
    category_id: int
    segmentation: object
    iscrowd: int


class CocoJson(TypedDict):
    """The keys of a COCO file that are used; files may omit licenses."""

    images: list[ImageJson]
    annotations: list[AnnotationJson]
    categories: list[CategoryJson]
    licenses: list[dict[str, object]] | None


@dataclass(frozen=True)
class CocoImage:
    """An image and its annotations.

    Attributes:
        file_name: path relative to the image folder.
        size: height and width.
        objects: class index, iscrowd, and region of each annotation, in the file's order.
    """

    file_name: str
    size: tuple[int, int]
    objects: tuple[tuple[int, bool, Region], ...]


class CocoDataset:
    """A dataset in COCO's format.

    Args:
        annotations: JSON file.
        images: folder of the images, or several, of which that with most images is taken.
        name: short name for logs and model cards.
        background: pixels without annotation are the class ``background`` (index 0); False ignores them. A
            category of that name is the background too, and has no instances.
        keep: predicate that selects images; None keeps all.
        terms: license terms; None takes the names of the licenses in the file.
        layout, source: for the error message if files are missing.
        cache: cache decoded samples in memory.

    Raises:
        DatasetError: the file is missing or malformed, an image is missing, or there are no images; on
            access, an image cannot be decoded or its size differs from the annotations.
        DependencyMissing: the annotations are polygons and pycocotools is not installed.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path | Sequence[Path],
        name: str,
        *,
        background: bool = True,
        keep: Callable[[CocoImage], bool] | None = None,
        terms: str | None = None,
        layout: str = LAYOUT,
        source: str = SOURCE,
        cache: bool = False,
    ) -> None:
        self.name = name
        self._annotations = annotations
        data = cast(CocoJson, read_json(annotations, _CONTENT, source))
        try:
            categories = _without_root(data, str(annotations))
            self.classes, class_of = _classes(categories, background, str(annotations))
            images_of_file, self.dropped = _images(data, class_of, str(annotations))
            self.terms = terms or _licenses(data)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, InvalidInput) as error:
            raise DatasetError(str(annotations), expected=_CONTENT, got=repr(error)[:300]) from error
        folders = [images] if isinstance(images, Path) else list(images)
        self.folder, images_of_file = _located(folders, images_of_file)
        names = (image.file_name for image in images_of_file)
        report_repeated(str(annotations), names, "images are listed with several ids, each with own objects")
        self.images = tuple(i for i in images_of_file if keep is None or keep(i))
        if keep is not None:
            _log.info("%s: %d of %d images are selected", name, len(self.images), len(images_of_file))
        if not self.images:
            raise DatasetError(f"dataset {name}", expected="at least one image", got=f"none in {annotations}")
        if any(region.polygons for image in self.images for _, _, region in image.objects):
            need_pycocotools()
        self._report(str(annotations), self.dropped)
        need_files(self.folder, (image.file_name for image in self.images), layout, source)
        self._unlabeled = 0 if background else IGNORE_INDEX
        self.hidden: dict[int, int] = {}
        self._cache = SampleCache() if cache else None

    def content_digest(self) -> str:
        """Short digest of the annotations, the selected images and the photos."""
        names = [image.file_name for image in self.images]
        photos = (self.folder / name for name in names)
        return content_digest([names, self._unlabeled], [self._annotations], photos)

    def _report(self, where: str, dropped: DroppedObjects) -> None:
        names = {k: name for k, name in enumerate(self.classes.names) if name not in BACKGROUNDS}
        images = [
            (image.file_name, [names[label] for label, _, _ in image.objects if label in names])
            for image in self.images
        ]
        fix = "export polygons in pixels, or run-length encodings, with the images' own ids"
        report_objects(where, images, dropped, list(names.values()), fix)
        objects = (found for image in self.images for found in image.objects)
        report_boxes(where, (r.polygons for label, crowd, r in objects if label in names and not crowd))
        crowds = [crowd for image in self.images for _, crowd, _ in image.objects]
        if sum(crowds) > MAX_CROWDS * len(crowds):
            _log.warning(
                "%s: %s objects are crowds (iscrowd 1), which are not detected one by one; some labeling "
                "tools set it for every mask that is no polygon",
                *(where, "all" if all(crowds) else f"{sum(crowds)} of {len(crowds)}"),
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        position = checked_index(index, len(self))
        return self._load(position) if self._cache is None else self._cache.get(position, self._load)

    def image_name(self, index: int) -> str:
        """Path of an image, relative to the image folder."""
        return self.images[index].file_name

    def image_path(self, index: int) -> Path:
        """File of an image."""
        return self.folder / self.images[index].file_name

    def _load(self, index: int) -> Sample:
        labeled = self.images[index]
        image = read_photo(self.folder / labeled.file_name, labeled.size)
        where = self.folder / labeled.file_name
        need_same_size(where, image, np.empty(labeled.size, np.uint8), "the size in the annotations")
        sample = paint(image, labeled.objects, self.classes, self._unlabeled)
        self.hidden[index] = count_hidden(where, sample, labeled.objects, self.classes)
        return sample


def _located(folders: Sequence[Path], images: list[CocoImage]) -> tuple[Path, list[CocoImage]]:
    """The folder with most of the first images, and the images with paths of this system."""
    first = images[:_LOOKED_FOR]
    counts = [sum(has_content(f / path_below(f, i.file_name)) for i in first) for f in folders]
    folder = folders[counts.index(max(counts))]
    others = [f for f in folders if any(_differ(folder / i.file_name, f / i.file_name) for i in first)]
    if others:
        text = "images of %s are used; other images of the same names are in %s"
        _log.warning(text, folder, named(dict.fromkeys(others)))
    return folder, [replace(i, file_name=path_below(folder, i.file_name)) for i in images]


def _differ(one: Path, other: Path) -> bool:
    """Whether both are files, of different sizes: no links, nor copies."""
    return has_content(one) and has_content(other) and one.stat().st_size != other.stat().st_size


def _classes(
    categories: list[CategoryJson], background: bool, where: str
) -> tuple[ClassTable, dict[int, int]]:
    """Class table in the order of the category ids, and the class index of each id."""
    texts = class_names([c["name"] for c in categories], where)
    ids = (whole_number(c["id"], "a category id") for c in categories)
    named = sorted(zip(ids, texts, map(_is_thing, categories), strict=True))
    others = [category for category in named if category[1].lower() not in BACKGROUNDS]
    first = int(background)
    names = (BACKGROUND,) * first + tuple(name for _, name, _ in others)
    things = tuple(index for index, (_, _, is_thing) in enumerate(others, first) if is_thing)
    table = ClassTable(names, things, default_palette(len(names)))
    class_of = {number: index for index, (number, _, _) in enumerate(others, first)}
    rest = 0 if background else IGNORE_INDEX
    class_of |= {number: rest for number, name, _ in named if name.lower() in BACKGROUNDS}
    if len(class_of) != len(named):
        raise ValueError("category ids must be unique")
    return table, class_of


def _is_thing(category: CategoryJson) -> bool:
    value = category.get("isthing")
    if value not in (None, 0, 1):
        raise ValueError(f"isthing must be 0 or 1, not {value!r:.80}")
    return value != 0


def _without_root(data: CocoJson, where: str) -> list[CategoryJson]:
    """The categories without Roboflow's root: id 0, without objects, the supercategory of others."""
    used = {annotation["category_id"] for annotation in data["annotations"]}
    groups = {c.get("supercategory") for c in data["categories"] if c["id"] != 0}
    kept = []
    for category in data["categories"]:
        name, parent = category["name"], category.get("supercategory")
        if category["id"] == 0 not in used and name in groups and parent in (None, "", "none", name):
            _log.warning("%s: category 0 (%s) only groups others and has no objects; left out", where, name)
        else:
            if name != BACKGROUND and str(name).lower() in BACKGROUNDS:
                _log.warning("%s: category %s is taken as the background", where, name)
            kept.append(category)
    return kept


def _images(
    data: CocoJson, class_of: Mapping[int, int], where: str
) -> tuple[list[CocoImage], DroppedObjects]:
    """Images in the order of their ids, each with its annotations, and the annotations that are not used."""
    sizes = {image["id"]: _size(image) for image in data["images"]}
    if len(sizes) != len(data["images"]):
        raise ValueError("image ids must be unique")
    objects: dict[object, list[tuple[int, bool, Region]]] = defaultdict(list)
    dropped, strange, told = DroppedObjects(), DroppedObjects(), DroppedObjects()
    seen: set[int] = set()
    for annotation in data["annotations"]:
        size = sizes.get(annotation["image_id"])
        if size is None:  # subsets often keep the annotations of the whole dataset
            dropped.add("of images that the file does not list", annotation)
            continue
        try:
            number = whole_number(annotation["category_id"], "category_id")
            if number not in class_of:
                raise ValueError(f"category {number} is not in the file's categories")
            if annotation.get("segmentation") is None:
                raise ValueError("no segmentation: boxes or keypoints alone are not enough")
            region = parse_region(annotation["segmentation"], size)
            crowd = annotation.get("iscrowd")
            if crowd not in (None, 0, 1):
                raise ValueError(f"iscrowd must be 0 or 1, not {crowd!r:.80}")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"annotation {annotation.get('id')}: {error!r}") from error
        problem = region.problem()
        if problem is not None:
            dropped.add(problem, annotation)
            continue
        found = (class_of[number], bool(crowd), region)
        listed = objects[annotation["image_id"]]
        if _repeats(found, listed, seen, annotation["image_id"]):
            dropped.add("that repeat another of their image", annotation)
            continue
        listed.append(found)
        if not region.fits(annotation.get("bbox")):
            strange.add("with a bbox that is not that of their segmentation", annotation)
        elif region.reaches_beyond():
            strange.add("that reach far beyond their image", annotation)
        if fills_hole(region, annotation.get("area")):
            told.add("with a polygon inside another, which is filled; holes need RLE", annotation)
        if annotation.get("ignore") in (1, True):
            told.add("with ignore 1, which are used; iscrowd 1 leaves them out of the scores", annotation)
    if len(told):
        _log.warning("%s: %s", where, told)
    if len(strange):
        used = sum(map(len, objects.values()))
        _log.warning(
            "%s: %s, of %d: the coordinates may be in another order, unit or image size",
            where,
            strange,
            used,
        )
    ordered = sorted(data["images"], key=lambda image: image["id"])
    images = [CocoImage(str(i["file_name"]), sizes[i["id"]], tuple(objects[i["id"]])) for i in ordered]
    return images, dropped


def _repeats(
    found: tuple[int, bool, Region],
    others: Sequence[tuple[int, bool, Region]],
    seen: set[int],
    image: object,
) -> bool:
    """Whether an object is one of the others of its image; ``seen`` are hashes of all objects."""
    label, crowd, region = found
    parts = region.polygons if region.runs is None else (region.runs,)
    key = hash((image, label, crowd, *(part.tobytes() for part in parts)))
    if key not in seen:
        seen.add(key)
        return False
    return any(o[:2] == (label, crowd) and region.equals(o[2]) for o in others)


def _size(image: ImageJson) -> tuple[int, int]:
    """Height and width; a label map of that size is made before the image is read."""
    height, width = (whole_number(image[side], side) for side in ("height", "width"))
    if not (0 < height and 0 < width and height * width <= MAX_IMAGE_PIXELS):
        raise ValueError(
            f"image {image['id']!r:.80}: expected 1 to {MAX_IMAGE_PIXELS:,} pixels, not {width} x {height}"
        )
    return height, width


def _licenses(data: CocoJson) -> str | None:
    names = dict.fromkeys(
        str(license["name"])[:200]
        for license in data.get("licenses") or []
        if isinstance(license, dict) and license.get("name")
    )
    return f"licenses of the images, as listed in the file: {'; '.join(names)}" if names else None


def annotations_and_images(where: str) -> tuple[str, str]:
    """The two paths of JSON,IMAGES, which may contain commas themselves."""
    ends = re.match(r"(.+?\.json),(.*)", where, re.IGNORECASE | re.DOTALL)
    annotations, images = ends.groups() if ends else where.split(",", 1)
    return annotations, images


def open_coco(where: str, split: str) -> CocoDataset:
    """Open COCO, or any dataset in its format.

    Args:
        where: a folder in COCO's layout (``annotations/instances_<split>2017.json`` and
            ``<split>2017/``, or the same without 2017), or ``JSON,IMAGES``: the annotations and the
            folder of the images, in which ``{split}`` stands for the split.
        split: name of the split, such as train or val. A JSON file whose name does not have it, or a
            synonym of it, as a word is rejected, and for others than train one with the word train, such as
            ``trainval``, to prevent evaluation on training data; ``all`` opens any file.

    Raises:
        DatasetError: see :class:`CocoDataset`.
        DependencyMissing: see :class:`CocoDataset`.
    """
    root = Path(where)
    if "," in where and not root.is_dir():
        json_text, images_text = annotations_and_images(where)
        if "{split}" in json_text:
            named = (name for name in synonyms(split) if Path(json_text.replace("{split}", name)).is_file())
            split = next(named, split)
        annotations, images = (Path(t.replace("{split}", split)) for t in (json_text, images_text))
        present, asked = words(annotations.stem), words(split)
        if split != "all" and not asked <= present and "{split}" not in json_text:
            raise DatasetError(
                f"split {split!r} of {annotations}",
                expected="a file named after the split, {split} in its path, or the split 'all'",
                got=annotations.name,
                fix="write coco:PATH/{split}.json,IMAGES/{split}, or add --split all",
            )
        if split != "all" and "train" in present - asked:
            raise DatasetError(
                f"split {split!r} of {annotations}",
                expected="a file of images that are not trained on",
                got="images of training too, by its name",
                fix="give a file of this split alone, or add --split all",
            )
        return CocoDataset(annotations, images, f"{annotations.stem}/{split}")
    need_folder(root, LAYOUT, SOURCE)
    for name in synonyms(split):
        for year in ("2017", ""):
            annotations, images = root / f"annotations/instances_{name}{year}.json", root / f"{name}{year}"
            if annotations.is_file():
                folders = [images, root / "images" / images.name, root / "images"]
                return CocoDataset(annotations, folders, f"{root.name}/{name}")
    raise DatasetError(
        f"dataset {where!r}",
        expected=LAYOUT,
        got=f"files missing: annotations/instances_{split}2017.json, {split}2017/",
        fix=SOURCE,
    )

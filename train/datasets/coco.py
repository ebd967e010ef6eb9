"""Sets in COCO's format: one JSON file of images, categories and annotations, and a folder of images.

Every category is a class with instances; what no annotation covers is ``background``, a class of its
own, or ignored. A label map holds one instance a pixel, so where annotations overlap the smaller one
lies on top: boxes and masks are those of the visible parts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imp_trt.classes import IGNORE_INDEX, ClassTable, default_palette
from imp_trt.data.dataset import Sample, SampleCache, checked_index
from imp_trt.data.instance_maps import renumbered
from imp_trt.errors import DatasetError, InvalidInput
from imp_trt.train.datasets.reading import need_files, need_folder, need_same_size, read_json, read_photo
from imp_trt.train.datasets.regions import Region, need_pycocotools, parse_region

BACKGROUND = "background"
LAYOUT = "annotations/instances_<split>2017.json and <split>2017/*.jpg, or JSON,IMAGES"
SOURCE = (
    "COCO itself is at https://cocodataset.org/#download (annotations CC BY 4.0, photos under the "
    "terms of their owners)"
)
_HOLDS = "images, annotations and categories in COCO's format"


@dataclass(frozen=True)
class CocoImage:
    """An image and what is annotated in it.

    Attributes:
        file_name: path below the folder of images.
        size: height and width.
        objects: class index, whether it is a crowd, and region of every annotation, in the file's order.
    """

    file_name: str
    size: tuple[int, int]
    objects: tuple[tuple[int, bool, Region], ...]


class CocoDataset:
    """A set in COCO's format.

    Args:
        annotations: the JSON file.
        images: the folder of the images.
        name: short name for logs and model cards.
        background: what no annotation covers is the class ``background`` (index 0); False ignores it. A
            category of that name is the background too, and has no instances.
        keep: whether an image belongs to this part of the set; None keeps all.
        terms: the terms of use; None takes the names of the licenses that the file lists.
        layout, source: for the message when files are missing.
        cache: keep decoded samples in memory from their first use on, as far as they fit.

    Raises:
        DatasetError: the file is missing or malformed, an image is missing, or there is none; on access,
            an image cannot be decoded or is not as large as the file says.
        DependencyMissing: the annotations are polygons and pycocotools is not installed.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
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
        self.folder = images
        data = read_json(annotations, _HOLDS, source)
        try:
            self.classes, class_of = _classes(data["categories"], background)
            found = _images(data, class_of)
            self.terms = terms or _licenses(data)
        except (KeyError, TypeError, ValueError, InvalidInput) as error:
            raise DatasetError(str(annotations), expected=_HOLDS, got=repr(error)) from error
        self.images = tuple(i for i in found if keep is None or keep(i))
        if not self.images:
            raise DatasetError(
                f"data set {name}", expected="at least one image", got=f"none in {annotations}"
            )
        if any(region.polygons for image in self.images for _, _, region in image.objects):
            need_pycocotools()
        need_files(images, (image.file_name for image in self.images), layout, source)
        self._rest = 0 if background else IGNORE_INDEX
        self._cache = SampleCache() if cache else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        position = checked_index(index, len(self))
        return self._load(position) if self._cache is None else self._cache.get(position, self._load)

    def _load(self, index: int) -> Sample:
        labeled = self.images[index]
        image = read_photo(self.folder / labeled.file_name)
        semantic = np.full(labeled.size, self._rest, np.uint8)
        need_same_size(self.folder / labeled.file_name, image, semantic, "the size in the annotations")
        painted = np.zeros(labeled.size, np.int32)
        crowd = np.zeros(labeled.size, np.uint16)
        layers = [
            (number, label, group, region.mask())
            for number, (label, group, region) in enumerate(labeled.objects, 1)
        ]
        # Crowds lie below everything, small things above large ones.
        layers.sort(key=lambda layer: (not layer[2], -int(layer[3].sum())))
        for number, label, group, mask in layers:
            thing = label in self.classes.things
            semantic[mask] = label
            painted[mask] = number if thing and not group else 0
            crowd[mask] = number if thing and group else 0
        return Sample(image, semantic, renumbered(painted), crowd if crowd.any() else None)


def _classes(categories: list[Mapping[str, Any]], background: bool) -> tuple[ClassTable, dict[int, int]]:
    """The class table in the order of the category numbers, and the class index of each number."""
    named = sorted((int(c["id"]), str(c["name"])) for c in categories)
    things = [(number, name) for number, name in named if name.lower() != BACKGROUND]
    first = int(background)
    names = (BACKGROUND,) * first + tuple(name for _, name in things)
    table = ClassTable(names, tuple(range(first, len(names))), default_palette(len(names)))
    class_of = {number: index for index, (number, _) in enumerate(things, first)}
    rest = 0 if background else IGNORE_INDEX
    class_of |= {number: rest for number, name in named if name.lower() == BACKGROUND}
    if len(class_of) != len(named):
        raise ValueError("each category number once")
    return table, class_of


def _images(data: Mapping[str, Any], class_of: Mapping[int, int]) -> list[CocoImage]:
    """The images in the order of their numbers, each with its annotations."""
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in data["images"]}
    if len(sizes) != len(data["images"]):
        raise ValueError("each image number once")
    objects: dict[object, list[tuple[int, bool, Region]]] = defaultdict(list)
    for annotation in data["annotations"]:
        size = sizes.get(annotation["image_id"])
        if size is None:
            continue  # a part of a set often keeps the annotations of the whole
        try:
            number = annotation["category_id"]
            if number not in class_of:
                raise ValueError(f"category {number} is not among the file's categories")
            region = parse_region(annotation["segmentation"], size)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"annotation {annotation.get('id')}: {error!r}") from error
        objects[annotation["image_id"]].append((class_of[number], bool(annotation.get("iscrowd", 0)), region))
    listed = sorted(data["images"], key=lambda image: image["id"])
    return [CocoImage(str(i["file_name"]), sizes[i["id"]], tuple(objects[i["id"]])) for i in listed]


def _licenses(data: Mapping[str, Any]) -> str | None:
    names = dict.fromkeys(
        str(license["name"]) for license in data.get("licenses") or [] if license.get("name")
    )
    return f"licenses of the images, as the file lists them: {'; '.join(names)}" if names else None


def open_coco(where: str, split: str) -> CocoDataset:
    """COCO itself, or any set in its format.

    Args:
        where: a folder in COCO's layout (``annotations/instances_<split>2017.json`` and
            ``<split>2017/``, or the same without 2017), or ``JSON,IMAGES``: the annotations and the
            folder of the images, in which ``{split}`` stands for the split.
        split: name of the part, such as train or val. A JSON file whose name does not hold it is
            refused, so that nobody scores on what was trained on; ``all`` opens any file.

    Raises:
        DatasetError: see :class:`CocoDataset`.
        DependencyMissing: see :class:`CocoDataset`.
    """
    root = Path(where)
    if "," in where and not root.is_dir():
        json_text, _, images_text = where.partition(",")
        annotations, images = (Path(t.replace("{split}", split)) for t in (json_text, images_text))
        if split != "all" and split not in annotations.name and "{split}" not in json_text:
            raise DatasetError(
                f"split {split!r} of {annotations}",
                expected="a file named after the split, {split} in its path, or the split 'all'",
                got=annotations.name,
                fix="write coco:PATH/{split}.json,IMAGES/{split}, or add --split all",
            )
        return CocoDataset(annotations, images, f"{annotations.stem}/{split}")
    need_folder(root, LAYOUT, SOURCE)
    for year in ("2017", ""):
        annotations, images = root / f"annotations/instances_{split}{year}.json", root / f"{split}{year}"
        if annotations.is_file():
            return CocoDataset(annotations, images, f"{root.name}/{split}")
    raise DatasetError(
        f"data set {where!r}",
        expected=LAYOUT,
        got=f"files missing: annotations/instances_{split}2017.json, {split}2017/",
        fix=SOURCE,
    )

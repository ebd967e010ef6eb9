# SPDX-License-Identifier: Apache-2.0
"""Layouts of datasets, recognized by the content of a folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from imp_trt.errors import DatasetError
from imp_trt.train.datasets.ccp import ccp_spec
from imp_trt.train.datasets.cityscapes import CITIES, CityscapesDataset
from imp_trt.train.datasets.coco import CocoDataset
from imp_trt.train.datasets.description import FILE, described_classes, described_root, read_description
from imp_trt.train.datasets.dropped import named
from imp_trt.train.datasets.index_png import IndexPngDataset, IndexPngSpec, folder_spec, is_list
from imp_trt.train.datasets.label_map_checks import check_label_maps
from imp_trt.train.datasets.modanet import ANNOTATIONS, open_modanet
from imp_trt.train.datasets.names import NAMES
from imp_trt.train.datasets.reading import need_folder
from imp_trt.train.datasets.splits import canonical, divided, matching, versions_apart
from imp_trt.train.datasets.unknown_layouts import not_a_folder, unknown_layout
from imp_trt.train.datasets.view import DatasetView, FileDataset
from imp_trt.train.datasets.voc import ColorMaskDataset, mask_lists
from imp_trt.train.datasets.yolo import YoloDataset, split_names

_log = logging.getLogger(__name__)

Openers = dict[str, Callable[[], FileDataset]]
"""Function that opens a split, by the split's name."""

_ROBOFLOW = "_annotations.coco.json"
_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
_ALONE = ("result", "annotations", "instances", "coco", "all", "default")


@dataclass(frozen=True)
class Layout:
    """A folder whose layout is known.

    Attributes:
        kind: coco, voc, yolo, cityscapes, modanet, ccp or index-png.
        title: its origin, for people.
        root: folder.
        openers: of the splits in the folder. A single one that is named after no split is divided into train
            and val by file names.
        description: content of its dataset.json, if that names the layout.
        where: path of that file.
        unread: labels in the folder that are in no split.
        unread_fix: how to open those.
        is_folder: whether the folder alone is enough to find its labels.
    """

    kind: str
    title: str
    root: Path
    openers: Openers
    description: Mapping[str, Any] | None = None
    where: Path | None = None
    unread: tuple[Path, ...] = ()
    unread_fix: str = ""
    is_folder: bool = True

    @property
    def divides(self) -> bool:
        """Whether the folder has no splits."""
        name = next(iter(self.openers))
        return self.is_folder and len(self.openers) == 1 and canonical(name) not in ("train", "val", "test")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return ("train", "val") if self.divides else tuple(self.openers)

    def open(self, split: str) -> FileDataset:
        """Open a split; train, val and test also by their synonyms, ``all`` of a folder without splits.

        Raises:
            DatasetError: there is no such split, or its data are incomplete or malformed.
            DependencyMissing: a required package is not installed.
        """
        present = matching(split, self.openers)
        if present is None and self.divides and canonical(split) in ("train", "val", "all"):
            inner = self._inner(next(iter(self.openers)))
            return self._seen(inner, None if split == "all" else self._part(inner, split), split)
        if present is None:
            raise DatasetError(
                f"dataset {str(self.root)!r} ({self.title})",
                expected=f"one of the splits {', '.join(self.splits)}",
                got=repr(split),
                fix=f"add --split {self.splits[-1]}, or add the split {split} to the data",
            )
        return self._seen(self._inner(present), None, split)

    def _inner(self, split: str) -> FileDataset:
        try:
            return self.openers[split]()
        except OSError as error:  # no permission, or a name that is too long
            raise DatasetError(
                f"split {split!r} of dataset {str(self.root)!r}",
                expected="readable files",
                got=f"{error.strerror}: {str(error.filename)!r:.200}",
                fix="correct the path, or the permissions of the file",
            ) from error

    def _part(self, inner: FileDataset, split: str) -> list[int]:
        """Positions of the images of train or val in a folder without splits."""
        names = [inner.image_name(index) for index in range(len(inner))]
        positions = divided(names, split)
        if not positions:
            raise DatasetError(
                f"split {split!r} of dataset {str(self.root)!r}",
                expected="two images or more, to divide them into train and val",
                got=len(names),
                fix="add images, or add --split all",
            )
        _log.info(
            "%s has no splits: %s takes %d of %d images, by a hash of their names",
            self.root,
            split,
            len(positions),
            len(names),
        )
        versions = versions_apart(names, positions)
        if versions:
            _log.warning(
                "%s: %d of %d images of %s are versions of images of the other split, which makes scores too "
                "good: %s; export with splits",
                *(self.root, len(versions), len(positions), split, named(versions)),
            )
        return positions

    def _seen(self, inner: FileDataset, positions: list[int] | None, split: str) -> FileDataset:
        if positions is None and self.description is None:
            return inner
        check_label_maps(inner)
        classes, terms, name = None, None, self.root.resolve().name
        if self.description is not None:
            classes = described_classes(self.description, inner.classes, str(self.where))
            terms = str(self.description.get("terms") or "").strip() or None
            name = str(self.description.get("name") or name)
        return DatasetView(inner, positions=positions, classes=classes, name=f"{name}/{split}", terms=terms)


def recognize(path: str | Path) -> Layout:
    """The layout of a folder, or of the folder that a dataset.json is about.

    Labels in the folder that are in no split are logged as a warning.

    Raises:
        DatasetError: there is no such folder, or it has no known layout: with what it is, and what to do.
    """
    try:
        return _reported(_recognized(Path(path)))
    except OSError as error:  # no permission, or a name that is too long
        raise DatasetError(
            f"dataset {str(path)!r:.200}",
            expected=f"one of {NAMES}",
            got=error.strerror,
            fix="correct the path",
        ) from error


def _reported(layout: Layout) -> Layout:
    if layout.unread:
        listed = named(path.relative_to(layout.root) for path in layout.unread)
        _log.warning("%s: not read: %s; %s", layout.root, listed, layout.unread_fix)
    return layout


def _recognized(where: Path) -> Layout:
    if where.suffix == ".json" and where.is_file():
        data = read_description(where)
        return _described(described_root(where, data), where, data)
    if where.is_file():
        raise not_a_folder(where)
    need_folder(where, f"one of {NAMES}", "correct the path, or use 'scenes', which needs no files")
    file = where / FILE
    if file.is_file():
        return _described(where, file, read_description(file))
    found = _detect(where)
    if found is None:
        raise _unknown_layout(where)
    return found


def _described(root: Path, file: Path, data: dict[str, Any]) -> Layout:
    need_folder(root, "the folder of the dataset", f"correct root in {file}")
    if "layout" not in data:
        openers = index_png_openers(root, folder_spec(root, file))
        return Layout("index-png", "index PNGs with dataset.json", root, openers)
    found = _detect(root)
    if found is None:
        raise _unknown_layout(root)
    if found.kind != data["layout"]:
        raise DatasetError(
            str(file), expected=f"layout {found.kind!r}, as the folder has", got=repr(data["layout"])[:80]
        )
    return replace(found, description=data, where=file)


def _unknown_layout(root: Path) -> DatasetError:
    error = unknown_layout(root)
    inner = [p for p in sorted(root.iterdir())[:100] if p.is_dir() and _detect(p) is not None]
    if len(inner) != 1:
        return error
    return DatasetError(
        error.what,
        expected=error.expected,
        got=f"its parent folder, with {inner[0].name}/ in it",
        fix=f"pass {inner[0]}",
    )


def _detect(root: Path) -> Layout | None:
    for look in (_cityscapes, _modanet, _coco, _yolo, _color_masks, _ccp):
        found = look(root)
        if found is not None:
            return found
    return None


def _cityscapes(root: Path) -> Layout | None:
    if not ((root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()):
        return None
    splits = [split for split in CITIES if (root / "gtFine" / split).is_dir()] or list(CITIES)
    return Layout(
        "cityscapes", "Cityscapes", root, {name: partial(CityscapesDataset, root, name) for name in splits}
    )


def _modanet(root: Path) -> Layout | None:
    if not (root / ANNOTATIONS).is_file():
        return None
    return Layout(
        "modanet", "ModaNet", root, {name: partial(open_modanet, root, name) for name in ("train", "val")}
    )


def _ccp(root: Path) -> Layout | None:
    if not (root / "groups.json").is_file():
        return None
    spec = ccp_spec(root)
    return Layout("ccp", "Clothing Co-Parsing", root, index_png_openers(root, spec))


def index_png_openers(root: Path, spec: IndexPngSpec) -> Openers:
    """Openers of the splits of a folder of index PNGs, one for each list."""
    lists = sorted(path.stem for path in root.glob("*.txt") if is_list(path)) or ["train"]
    return {name: partial(IndexPngDataset, root, name, spec) for name in lists}


def coco_layout(root: Path) -> Layout | None:
    """The layout of a folder with COCO JSON, or None; files in no split are logged as a warning."""
    found = _coco(root)
    return None if found is None else _reported(found)


def _coco(root: Path) -> Layout | None:
    groups = [(title, files) for title, files in _coco_files(root) if files]
    if not groups:
        return None
    title, chosen = groups[0]
    files = {split: path for split, path in chosen}  # of several years the last
    openers: Openers = {}
    for split, path in files.items():
        folders = _image_folders(root, split, path)
        name = f"{root.resolve().name}/{split}"
        openers[split] = partial(
            CocoDataset, path, folders, name, layout=title, source="export the dataset with its images"
        )
    present = dict.fromkeys(path for _, group in groups for _, path in group)
    unread = tuple(path for path in present if path not in files.values())
    return Layout(
        "coco", title, root, openers, unread=unread, unread_fix="--data coco:JSON,IMAGES opens one of them"
    )


def _coco_files(root: Path) -> list[tuple[str, list[tuple[str, Path]]]]:
    """Origins of COCO JSON, each with the split and path of its files; the first with files is read."""
    roboflow = [(path.parent.name, path) for path in sorted(root.glob(f"*/{_ROBOFLOW}"))]
    alone, label_studio = root / _ROBOFLOW, root / "result.json"
    folder = root / "annotations"
    found = sorted(folder.glob("instances_*.json")) or [
        path for path in sorted(folder.glob("*.json")) if not path.name.startswith(_OTHER_TASKS)
    ]
    cvat = [path.name for path in found] == ["instances_default.json"]
    others = [
        (path.stem, path)
        for path in sorted(root.glob("*.json"))
        if path.stem in _ALONE or canonical(path.stem) in ("train", "val", "test")
    ]
    return [
        ("COCO JSON as Roboflow exports it", roboflow),
        ("COCO JSON as Roboflow exports it", [(_name_of(root.resolve().name), alone)] * alone.is_file()),
        (f"COCO JSON{' as CVAT exports it' * cvat}", [(_split_of(path), path) for path in found]),
        ("COCO JSON as Label Studio exports it", [("all", label_studio)] * label_studio.is_file()),
        ("COCO JSON", others),
    ]


def _split_of(path: Path) -> str:
    return re.sub(r"_?20\d\d$", "", path.stem.removeprefix("instances_")) or path.stem


def _name_of(folder: str) -> str:
    return folder if canonical(folder) in ("train", "val", "test") else "all"


def _image_folders(root: Path, split: str, path: Path) -> list[Path]:
    year = path.stem.removeprefix("instances_")
    names = dict.fromkeys((year, split))
    below = [root / "images" / name for name in names]
    return [path.parent, *(root / name for name in names), *below, root / "images", root / "JPEGImages", root]


def _yolo(root: Path) -> Layout | None:
    found = [root / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (root / name).is_file()]
    if not found:
        return None
    name = root.resolve().name
    openers: Openers = {
        split: partial(YoloDataset, found[0], split, f"{name}/{split}") for split in split_names(found[0])
    }
    if not openers:
        openers = {"train": partial(YoloDataset, found[0], "train", f"{name}/train")}
    fix = f"{found[0].name} is read instead; move it away to read another"
    return Layout("yolo", "YOLO segmentation", root, openers, unread=tuple(found[1:]), unread_fix=fix)


def _color_masks(root: Path) -> Layout | None:
    years = [path.parent for path in sorted(root.glob("VOC20*/SegmentationClass"))]
    folder = root if (root / "SegmentationClass").is_dir() else years[-1] if years else None
    if folder is None:
        return None
    name = root.resolve().name
    openers: Openers = {
        split: partial(ColorMaskDataset, folder, split, f"{name}/{split}")
        for split in mask_lists(folder) or ("all",)
    }
    origin = "CVAT exports them" if (folder / "labelmap.txt").is_file() else "PASCAL VOC has them"
    unread = tuple(year for year in years if year != folder)
    fix = f"--data {unread[0]} opens that folder alone" if unread else ""
    return Layout("voc", f"color masks as {origin}", root, openers, unread=unread, unread_fix=fix)

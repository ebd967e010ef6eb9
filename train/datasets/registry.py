# SPDX-License-Identifier: Apache-2.0
"""Datasets by name, for the option ``--data``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from imp_trt.data.dataset import CachedDataset, Dataset
from imp_trt.errors import DatasetError
from imp_trt.train.datasets.camvid import SOURCE, camvid_spec
from imp_trt.train.datasets.ccp import ccp_spec
from imp_trt.train.datasets.cityscapes import CityscapesDataset
from imp_trt.train.datasets.coco import annotations_and_images, open_coco
from imp_trt.train.datasets.description import FILE, read_description
from imp_trt.train.datasets.index_png import LAYOUT, IndexPngDataset, folder_spec
from imp_trt.train.datasets.label_map_checks import check_label_maps
from imp_trt.train.datasets.layouts import Layout, Openers, coco_layout, index_png_openers, recognize
from imp_trt.train.datasets.modanet import open_modanet
from imp_trt.train.datasets.names import NAMES
from imp_trt.train.datasets.reading import need_folder
from imp_trt.train.datasets.splits import SPLITS, canonical, matching, synonyms

_log = logging.getLogger(__name__)


def open_dataset(name_or_path: str, split: str) -> Dataset:
    """Open a dataset by name.

    Args:
        name_or_path: ``scenes`` (procedural, needs no files; ``scenes:HEIGHTxWIDTH`` for another
            size), ``camvid:DIR``, ``ccp:DIR``, ``cityscapes:DIR``, ``modanet:DIR``, ``coco:DIR``,
            ``coco:JSON,IMAGES``, or a folder whose layout is recognized, with or without
            ``components:`` before it if it holds index PNGs and a ``dataset.json``: semantic label maps
            whose instances are the connected components of the thing classes, as in the paper's clothing
            dataset VCP. Also a ``dataset.json`` that lies elsewhere and names the folder.
        split: train, val, or another split of the dataset; valid, for example, is val.

    Label maps without labels or things and classes without pixels are logged as warnings.

    Raises:
        DatasetError: the dataset does not exist, is incomplete, or has no labels.
        DependencyMissing: a required package is not installed.
    """
    try:
        dataset = _open(name_or_path, split)
    except OSError as error:  # no permission, or a name that is too long
        raise DatasetError(
            f"split {split!r:.200} of dataset {name_or_path!r:.200}",
            expected="readable files",
            got=error.strerror or error,
            fix="correct the path, or the permissions of the file",
        ) from error
    check_label_maps(dataset)
    return dataset


def _open(name_or_path: str, split: str) -> Dataset:
    kind, _, rest = name_or_path.partition(":")
    rest = _with_home(rest)
    if kind in _OPENERS and rest:
        if _is_described(rest, kind):
            return recognize(rest).open(split)
        return _OPENERS[kind](rest, split)
    if kind == "scenes":
        return _scenes(rest, canonical(split))
    layout = recognize(name_or_path)
    _log.info("%s: %s, splits %s", name_or_path, layout.title, ", ".join(layout.splits))
    return layout.open(split)


def _with_home(rest: str) -> str:
    """Paths behind a name with ~ as the home folder: a shell expands it at the start of a word only."""
    return ",".join(p if os.path.lexists(p) else os.path.expanduser(p) for p in rest.split(","))


def _is_described(folder: str, kind: str) -> bool:
    """Whether a folder has a dataset.json, of imp-data, that chooses the things of its layout."""
    path = Path(folder) / FILE
    if kind in ("camvid", "components"):  # it has none, or is index PNGs anyway
        return False
    return path.is_file() and read_description(path).get("layout") == kind


def find_layout(name_or_path: str) -> Layout:
    """The layout of what :func:`open_dataset` opens, except ``scenes``.

    Raises:
        DatasetError: it does not exist, or has no known layout.
    """
    kind, _, rest = name_or_path.partition(":")
    if kind not in _OPENERS or not rest:
        return recognize(name_or_path)
    rest = _with_home(rest)
    root = Path(rest)
    if kind == "camvid":
        need_folder(root, LAYOUT, SOURCE)
        return Layout(kind, "CamVid", root, index_png_openers(root, camvid_spec()))
    if kind == "coco" and not root.is_dir():
        return _coco_file(rest)
    return recognize(root)


def _coco_file(where: str) -> Layout:
    """The layout of JSON,IMAGES: one split, or with {split} those of which there is a file."""
    annotations, images = annotations_and_images(where) if "," in where else (where, "")
    splits = ["all"]
    if "{split}" in annotations:
        files = {s: [Path(annotations.replace("{split}", name)) for name in synonyms(s)] for s in SPLITS}
        splits = [split for split, paths in files.items() if any(map(Path.is_file, paths))] or [SPLITS[0]]
    openers: Openers = {split: partial(open_coco, where, split) for split in splits}
    root = Path(images.partition("{split}")[0])
    return Layout("coco", "COCO JSON", root, openers, is_folder=False)


def without_folder(name_or_path: str) -> str:
    """The name with DIR instead of a folder, to document a run without local paths."""
    kind, _, rest = name_or_path.partition(":")
    if kind == "scenes":
        return name_or_path
    return f"{kind}:DIR" if kind in _OPENERS and rest else "DIR"


def _described_folder(path: str, split: str) -> Dataset:
    need_folder(Path(path), f"one of {NAMES}", "correct the path, or use 'scenes', which needs no files")
    return IndexPngDataset(path, _list_name(path, split), folder_spec(path))


def _coco(where: str, split: str) -> Dataset:
    folder = Path(where)
    layout = coco_layout(folder) if folder.is_dir() else None
    if layout is None or not (layout.divides or matching(split, layout.splits)):
        return open_coco(where, split)
    return layout.open(split)


def _list_name(root: str, split: str) -> str:
    """Name of the list of a split, which may be a synonym."""
    return next((name for name in synonyms(split) if (Path(root) / f"{name}.txt").is_file()), split)


def _scenes(size_text: str, split: str) -> Dataset:
    from imp_trt.synthetic import StreetScenes

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
    # Training uses each scene many times, and rendering takes longer than a training step.
    return CachedDataset(scenes) if split == "train" else scenes


_OPENERS: dict[str, Callable[[str, str], Dataset]] = {
    "camvid": lambda root, split: IndexPngDataset(root, _list_name(root, split), camvid_spec()),
    "ccp": lambda root, split: IndexPngDataset(root, _list_name(root, split), ccp_spec(root)),
    "cityscapes": lambda root, split: CityscapesDataset(root, canonical(split)),
    "coco": _coco,
    "components": _described_folder,
    "modanet": lambda root, split: open_modanet(root, canonical(split)),
}

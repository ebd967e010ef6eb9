# SPDX-License-Identifier: Apache-2.0
"""Data sets by name, for the option ``--data``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from imp_trt.data.dataset import CachedDataset, Dataset
from imp_trt.errors import DatasetError
from imp_trt.train.datasets.camvid import camvid_spec
from imp_trt.train.datasets.ccp import ccp_spec
from imp_trt.train.datasets.cityscapes import CityscapesDataset
from imp_trt.train.datasets.coco import open_coco
from imp_trt.train.datasets.index_png import IndexPngDataset, folder_spec
from imp_trt.train.datasets.modanet import open_modanet
from imp_trt.train.datasets.names import NAMES
from imp_trt.train.datasets.reading import need_folder
from imp_trt.train.datasets.survey import survey


def open_dataset(name_or_path: str, split: str) -> Dataset:
    """Open a data set by name.

    Args:
        name_or_path: ``scenes`` (procedural, needs no files; ``scenes:HEIGHTxWIDTH`` for another
            size), ``camvid:DIR``, ``ccp:DIR``, ``cityscapes:DIR``, ``modanet:DIR``, ``coco:DIR``,
            ``coco:JSON,IMAGES``, or a folder with a ``dataset.json``, with or without
            ``components:`` before it: semantic label maps whose instances are the connected
            components of the thing classes, as in the paper's clothing data set VCP.
        split: train, val, or another split of the data set.

    Label maps without labels or things and classes without pixels are logged as warnings.

    Raises:
        DatasetError: the data set does not exist, is incomplete, or has no labels.
        DependencyMissing: a required package is not installed.
    """
    dataset = _open(name_or_path, split)
    survey(dataset)
    return dataset


def _open(name_or_path: str, split: str) -> Dataset:
    kind, _, rest = name_or_path.partition(":")
    if kind in _OPENERS and rest:
        return _OPENERS[kind](rest, split)
    if kind == "scenes":
        return _scenes(rest, split)
    return _described_folder(name_or_path, split)


def without_folder(name_or_path: str) -> str:
    """The name with DIR instead of a folder, to document a run without local paths."""
    kind, _, rest = name_or_path.partition(":")
    if kind == "scenes":
        return name_or_path
    return f"{kind}:DIR" if kind in _OPENERS and rest else "DIR"


def _described_folder(path: str, split: str) -> Dataset:
    need_folder(Path(path), f"one of {NAMES}", "correct the path, or use 'scenes', which needs no files")
    return IndexPngDataset(path, split, folder_spec(path))


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
    "camvid": lambda root, split: IndexPngDataset(root, split, camvid_spec()),
    "ccp": lambda root, split: IndexPngDataset(root, split, ccp_spec(root)),
    "cityscapes": CityscapesDataset,
    "coco": open_coco,
    "components": _described_folder,
    "modanet": open_modanet,
}

# SPDX-License-Identifier: Apache-2.0
"""One scene of rectangles, written in every layout that a folder is recognized by."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.train.datasets.cityscapes import CITIES
from imp_trt.train.datasets.modanet import ANNOTATIONS, in_validation

H, W = 40, 64
NAMES = ("background", "road", "car", "person")
COLORS = ((0, 0, 0), (128, 64, 128), (0, 0, 142), (220, 20, 60))
Rect = tuple[int, int, int, int, int]
"""Class index, left, top, right, bottom."""


@dataclass(frozen=True)
class Scene:
    """Rectangles that do not overlap, on nothing."""

    photo: NDArray[np.uint8]
    rects: tuple[Rect, ...]

    def planes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Class indices, and numbers of the rectangles."""
        semantic, numbers = np.zeros((H, W), np.uint8), np.zeros((H, W), np.uint8)
        for number, (label, left, top, right, bottom) in enumerate(self.rects, 1):
            semantic[top:bottom, left:right], numbers[top:bottom, left:right] = label, number
        return semantic, numbers


def scene(seed: int) -> Scene:
    """A road, two cars and a person, a few pixels elsewhere for every seed."""
    photo = np.random.default_rng(seed).integers(0, 255, (H, W, 3), np.uint8)
    s = seed % 4
    return Scene(
        photo,
        ((1, 0, 28, W, H), (2, 2 + s, 6, 18 + s, 16), (2, 24 + s, 8, 40 + s, 18), (3, 50 + s, 2, 56 + s, 20)),
    )


@dataclass
class Written:
    """A folder, its photos and label files, and the scene of each photo by the photo's stem."""

    root: Path
    photos: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)
    scenes: dict[str, Scene] = field(default_factory=dict)

    def photo(self, path: Path, shown: Scene) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), shown.photo)
        self.photos.append(path)
        self.scenes[path.stem] = shown
        return path

    def label(self, path: Path, content: str | NDArray[np.generic]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            assert cv2.imwrite(str(path), content)
        self.labels.append(path)
        return path


SPLITS: Mapping[str, tuple[int, ...]] = {"train": (0, 1, 2), "val": (3, 4)}
"""Seeds of the scenes of each split."""


def coco_json(files: Mapping[str, Scene], **changes: Any) -> str:
    """COCO's format, the background left out."""
    annotations: list[dict[str, Any]] = []
    for image, shown in enumerate(files.values(), 1):
        for label, left, top, right, bottom in shown.rects:
            polygon = [left, top, right, top, right, bottom, left, bottom]
            row = {"image_id": image, "category_id": label, "segmentation": [polygon], "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, **row})
    images = [{"id": i, "file_name": name, "height": H, "width": W} for i, name in enumerate(files, 1)]
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(NAMES) if i]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories} | changes)


def _coco_official(root: Path) -> Written:
    written = Written(root)
    for split, seeds in SPLITS.items():
        files = {f"pic {seed}.png": scene(seed) for seed in seeds}
        for name, shown in files.items():
            written.photo(root / f"{split}2017" / name, shown)
        written.label(root / f"annotations/instances_{split}2017.json", coco_json(files))
    return written


def _roboflow(root: Path) -> Written:
    written = Written(root)
    for split, seeds in {"train": SPLITS["train"], "valid": SPLITS["val"]}.items():
        files = {f"pic {seed}.png": scene(seed) for seed in seeds}
        for name, shown in files.items():
            written.photo(root / split / name, shown)
        categories = [{"id": 0, "name": "things", "supercategory": "none"}]
        categories += [{"id": i, "name": n, "supercategory": "things"} for i, n in enumerate(NAMES) if i]
        text = coco_json(files, categories=categories)
        written.label(root / split / "_annotations.coco.json", text)
    return written


def _cvat(root: Path, folder: str = "images") -> Written:
    written = Written(root)
    files = {f"pic {seed}.png": scene(seed) for seeds in SPLITS.values() for seed in seeds}
    for name, shown in files.items():
        written.photo(root / folder / name, shown)
    written.label(root / "annotations/instances_default.json", coco_json(files))
    return written


def _label_studio(root: Path, separator: str = "/") -> Written:
    written = Written(root)
    files = {f"pic {seed}.png": scene(seed) for seeds in SPLITS.values() for seed in seeds}
    for name, shown in files.items():
        written.photo(root / "images" / name, shown)
    text = coco_json({f"images{separator}{name}": shown for name, shown in files.items()})
    written.label(root / "result.json", text)
    return written


def _modanet(root: Path) -> Written:
    written, files = Written(root), {}
    for split, seeds in SPLITS.items():
        names = (f"{number}.png" for number in range(10_000))
        chosen = (name for name in names if in_validation(name) == (split == "val"))
        files |= dict(zip(chosen, map(scene, seeds), strict=False))
    for name, shown in files.items():
        written.photo(root / "images" / name, shown)
    written.label(root / ANNOTATIONS, coco_json(files))
    return written


def _index_png(root: Path) -> Written:
    written = Written(root)
    for split, seeds in SPLITS.items():
        lines = ""
        for seed in seeds:
            photo = written.photo(root / f"images/pic {seed}.png", scene(seed))
            written.label(root / "labels" / photo.name, scene(seed).planes()[0])
            lines += f"images/{photo.name}\tlabels/{photo.name}\n"
        (root / f"{split}.txt").write_text(lines)
    text = json.dumps({"classes": NAMES, "things": NAMES[1:], "palette": COLORS})
    (root / "dataset.json").write_text(text)
    return written


def _cityscapes(root: Path) -> Written:
    written = Written(root)
    ids = np.array([0, 7, 26, 24], np.uint16)
    for split, seeds in SPLITS.items():
        for number, city in enumerate(CITIES[split]):
            shown = scene(seeds[number % len(seeds)])
            stem = f"{split}/{city}/{city}_000000_00000{number % 10}"
            semantic, numbers = shown.planes()
            instances = np.where(semantic > 1, ids[semantic] * 1000 + numbers, ids[semantic])
            written.photo(root / f"leftImg8bit/{stem}_leftImg8bit.png", shown)
            written.label(root / f"gtFine/{stem}_gtFine_labelIds.png", ids.astype(np.uint8)[semantic])
            written.label(root / f"gtFine/{stem}_gtFine_instanceIds.png", instances.astype(np.uint16))
    return written


def _voc(root: Path, lists: bool = True, objects: bool = True) -> Written:
    """Without lists as CVAT exports a task, with them as a dataset with splits."""
    written = Written(root)
    root.mkdir(parents=True, exist_ok=True)
    table = [f"{name}:{','.join(map(str, color))}::" for name, color in zip(NAMES, COLORS, strict=True)]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *table, ""]))
    palette = np.array(COLORS, np.uint8)[:, ::-1]
    object_colors = np.array([[0, 0, 0], [0, 0, 128], [0, 128, 0], [0, 128, 128], [128, 0, 0]], np.uint8)
    folder = root / "ImageSets/Segmentation"
    folder.mkdir(parents=True)
    for split, seeds in SPLITS.items():
        for seed in seeds:
            semantic, numbers = scene(seed).planes()
            written.photo(root / f"JPEGImages/pic {seed}.png", scene(seed))
            written.label(root / f"SegmentationClass/pic {seed}.png", palette[semantic])
            if objects:
                written.label(root / f"SegmentationObject/pic {seed}.png", object_colors[numbers])
        if lists:
            (folder / f"{split}.txt").write_text("".join(f"pic {seed}\n" for seed in seeds))
    if not lists:
        names = "".join(f"pic {seed}\n" for seeds in SPLITS.values() for seed in seeds)
        (folder / "default.txt").write_text(names)
    return written


def yolo_lines(shown: Scene) -> str:
    """Class and vertices of every rectangle, as fractions."""
    lines = ""
    for label, left, top, right, bottom in shown.rects:
        points = ((left, top), (right, top), (right, bottom), (left, bottom))
        lines += f"{label - 1} " + " ".join(f"{x / W} {y / H}" for x, y in points) + "\n"
    return lines


def _yolo(root: Path, val: str = "val", inverted: bool = False) -> Written:
    """images/train and labels/train, or inverted as Roboflow exports it: train/images, train/labels."""
    written = Written(root)
    folders = {"train": "train", "val": val}
    for split, seeds in SPLITS.items():
        images, labels = (
            f"{folders[split]}/{kind}" if inverted else f"{kind}/{folders[split]}"
            for kind in ("images", "labels")
        )
        for seed in seeds:
            written.photo(root / images / f"pic {seed}.png", scene(seed))
            written.label(root / labels / f"pic {seed}.txt", yolo_lines(scene(seed)))
    text = "names:\n  0: road\n  1: car\n  2: person\ntrain: images/train\nval: images/val\npath: .\n"
    if inverted:
        text = f"train: ../train/images\nval: ../{val}/images\n\nnc: 3\nnames: ['road', 'car', \"person\"]\n"
    (root / "data.yaml").write_text(text)
    return written


LAYOUTS: dict[str, Callable[[Path], Written]] = {
    "coco": _coco_official,
    "coco-roboflow": _roboflow,
    "coco-cvat": _cvat,
    "coco-cvat-subset": lambda root: _cvat(root, "images/default"),
    "coco-label-studio": _label_studio,
    "coco-label-studio-windows": lambda root: _label_studio(root, "\\"),
    "modanet": _modanet,
    "index-png": _index_png,
    "cityscapes": _cityscapes,
    "voc": _voc,
    "voc-cvat": lambda root: _voc(root, lists=False),
    "voc-components": lambda root: _voc(root, objects=False),
    "yolo": _yolo,
    "yolo-roboflow": lambda root: _yolo(root, "valid", inverted=True),
}
"""Writers of the same scenes, by layout."""

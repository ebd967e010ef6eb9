# SPDX-License-Identifier: Apache-2.0
"""What a folder is that cannot be opened, and how to get its labels in a layout that can."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from imp_trt.data.files import open_regular, read_regular
from imp_trt.data.images import IMAGE_SUFFIXES
from imp_trt.errors import DatasetError
from imp_trt.train.datasets.index_png import is_list

KNOWN = (
    "COCO JSON (CVAT, Roboflow, Label Studio, COCO), color masks (PASCAL VOC, CVAT), YOLO segmentation "
    "(data.yaml), Cityscapes, ModaNet, or index PNGs with dataset.json"
)
_MAX_FILES = 2000
_MAX_LOOKED_AT = 5
_HEAD = 1 << 16
_MAX_JSON = 64 << 20

_CVAT = "in CVAT, export 'COCO 1.0' or 'Segmentation mask 1.1', with 'Save images'"
_ROBOFLOW = "in Roboflow, export 'COCO Segmentation'"


def unknown_layout(root: Path) -> DatasetError:
    """The error for a folder in no known layout."""
    got, fix = _what(root)
    return DatasetError(f"dataset {str(root)!r}", expected=KNOWN, got=got, fix=fix)


def not_a_folder(path: Path) -> DatasetError:
    """The error for a file instead of a folder."""
    archive = path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
    return DatasetError(
        f"dataset {str(path)!r}",
        expected=f"a folder: {KNOWN}",
        got="an archive" if archive else "a file",
        fix="unpack it and give the folder" if archive else "give the folder of the dataset",
    )


def _what(root: Path) -> tuple[str, str]:
    files = sorted(itertools.islice(_files(root), _MAX_FILES))
    for look in (_json, _xml, _boxes, _roboflow_masks, _lists):
        found = look(files)
        if found is not None:
            return found
    names = Counter(path.suffix.lower() or "without suffix" for path in files)
    listed = ", ".join(f"{count} {suffix}" for suffix, count in names.most_common(4)) or "no files"
    photos = sum(count for suffix, count in names.items() if suffix in IMAGE_SUFFIXES)
    if photos and photos == len(files):
        if {path.parent.name.lower() for path in files} >= {"images", "labels"}:
            return (
                "images and label maps without dataset.json",
                "add dataset.json and lists, see train/README.md",
            )
        return f"images without labels ({listed})", f"label them; {_CVAT}"
    return (
        f"files of no known layout ({listed})",
        f"export COCO JSON with images from the labeling tool; {_CVAT}",
    )


def _files(root: Path) -> Iterator[Path]:
    """Files in a folder and two levels below."""
    for pattern in ("*", "*/*", "*/*/*"):
        yield from (path for path in root.glob(pattern) if path.is_file())


def _head(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return file.read(_HEAD).decode("utf-8", "replace")
    except OSError:
        return ""


def _json(files: list[Path]) -> tuple[str, str] | None:
    for path in [p for p in files if p.suffix.lower() == ".json"][:_MAX_LOOKED_AT]:
        try:
            data = json.loads(read_regular(path, _MAX_JSON))
        except (OSError, ValueError, RecursionError, MemoryError):
            continue
        if isinstance(data, dict) and "shapes" in data and "imagePath" in data:
            fix = f"pip install labelme2coco; labelme2coco {path.parent}; open the result as coco:JSON,IMAGES"
            return f"LabelMe JSON, a file per image ({path.name})", fix
        if isinstance(data, dict) and {"images", "annotations", "categories"} <= set(data):
            fix = "write coco:JSON,IMAGES, or move it to annotations/instances_train.json and images/"
            return f"COCO JSON at an unknown place ({path})", fix
        first = data[0] if isinstance(data, list) and data else None
        if isinstance(first, dict) and ("annotations" in first or "annotation_id" in first):
            return (
                f"Label Studio's own JSON ({path.name})",
                "in Label Studio, export 'COCO with images'; brushes need 'Convert to polygon' before",
            )
        if isinstance(data, dict) and "_via_img_metadata" in data:
            return f"a project of VGG Image Annotator ({path.name})", "in VIA, export annotations as COCO"
    return None


def _xml(files: list[Path]) -> tuple[str, str] | None:
    for path in [p for p in files if p.suffix.lower() == ".xml"][:_MAX_LOOKED_AT]:
        head = _head(path)
        if "<annotations" in head:
            return f"CVAT XML ({path.name})", _CVAT
        if "<annotation" in head and "<object" in head:
            fix = f"label masks or polygons; {_CVAT}; {_ROBOFLOW}"
            return f"PASCAL VOC XML, which has boxes and no masks ({path.name})", fix
    return None


def _boxes(files: list[Path]) -> tuple[str, str] | None:
    for path in [p for p in files if p.suffix == ".txt" and "labels" in p.parts][:_MAX_LOOKED_AT]:
        fields = _head(path).partition("\n")[0].split()
        if len(fields) == 5:
            return f"YOLO boxes without polygons ({path.name})", f"label masks or polygons; {_ROBOFLOW}"
        if len(fields) > 6:
            return "YOLO polygons without data.yaml", "add data.yaml with names, train: and val:"
    return None


def _roboflow_masks(files: list[Path]) -> tuple[str, str] | None:
    if any(path.name == "_classes.csv" for path in files):
        return "Roboflow's semantic masks (_classes.csv)", _ROBOFLOW
    return None


def _lists(files: list[Path]) -> tuple[str, str] | None:
    for path in files:
        if path.suffix == ".txt" and _head(path).strip() and is_list(path):
            fix = f"add dataset.json, see train/README.md; for CamVid write camvid:{path.parent}"
            return f"lists of images and label maps ({path.name}) without dataset.json", fix
    return None

# SPDX-License-Identifier: Apache-2.0
"""ModaNet: street fashion with polygons of 13 clothing classes; everything else is background.

::

    annotations/modanet2018_instances_train.json
    images/<file_name of the annotations>
    exclude.txt            optional: file names to exclude, one per line

The public file of the validation split has no annotations, so the training split is divided. Known issues
of the data: photos with people but without annotations (excluded), photos that can no longer be
downloaded (exclude.txt), and confusions of footwear and boots (unchanged).
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from imp_trt.data.files import read_regular
from imp_trt.errors import DatasetError
from imp_trt.train.datasets.coco import CocoDataset, CocoImage
from imp_trt.train.datasets.dropped import named
from imp_trt.train.datasets.reading import MAX_JSON_BYTES, need_folder, read_json

_log = logging.getLogger(__name__)

TERMS = (
    "ModaNet (Zheng et al., ACM Multimedia 2018): annotations CC BY-NC 4.0; photos of identifiable people, "
    "rights with their owners, do not publish the photos"
)
LAYOUT = "annotations/modanet2018_instances_train.json, images/*.jpg"
SOURCE = (
    "download the annotations from https://github.com/eBay/modanet (Git LFS; CC BY-NC 4.0) and the photos "
    "via https://github.com/kyamagu/paperdoll (data/chictopia); list photos that are not available in "
    "exclude.txt (imp_trt.train.datasets.modanet.missing_photos returns them)"
)
ANNOTATIONS = "annotations/modanet2018_instances_train.json"
VAL_SHARE = 20
"""One of this many images belongs to val, close to the fraction of the paper (2,799 of 55,176)."""

_SEED = "imp-trt modanet split 1"


def open_modanet(root: str | Path, split: str) -> CocoDataset:
    """Open the train or val split of ModaNet, 13 thing classes after ``background``.

    Images are assigned to val by a hash of their file name, so the split does not depend on which
    photos are available.

    Args:
        root: folder, see this module.
        split: train or val.

    Raises:
        DatasetError: the split does not exist, or a file is missing or malformed.
        DependencyMissing: pycocotools is not installed.
    """
    folder = Path(root)
    need_folder(folder, LAYOUT, SOURCE)
    if split not in ("train", "val"):
        raise DatasetError("split of ModaNet", expected="train or val", got=repr(split))
    if not (folder / ANNOTATIONS).is_file():
        raise DatasetError(
            f"dataset {str(root)!r}", expected=LAYOUT, got=f"files missing: {ANNOTATIONS}", fix=SOURCE
        )
    excluded = _excluded(folder / "exclude.txt")
    listed: set[str] = set()

    def keep(image: CocoImage) -> bool:
        name, in_val = _plain(image.file_name), in_validation(image.file_name)
        listed.add(name)
        return bool(image.objects) and name not in excluded and in_val == (split == "val")

    dataset = CocoDataset(
        folder / ANNOTATIONS,
        folder / "images",
        f"modanet/{split}",
        keep=keep,
        terms=TERMS,
        layout=LAYOUT,
        source=SOURCE,
    )
    unknown = sorted(excluded - listed)
    if unknown:
        text = "%s: %d lines are no file name of the annotations, such as %s: %s"
        _log.warning(text, folder / "exclude.txt", len(unknown), min(listed), named(unknown))
    return dataset


def missing_photos(root: str | Path) -> list[str]:
    """File names of annotated photos missing in the folder ``images``, for exclude.txt.

    Raises:
        DatasetError: the annotations are missing or malformed.
    """
    folder = Path(root)
    listed = read_json(folder / ANNOTATIONS, "images in COCO's format", SOURCE).get("images", [])
    names = [str(image["file_name"]) for image in listed]
    return [name for name in names if not (folder / "images" / name).is_file()]


def in_validation(file_name: str) -> bool:
    """Whether a photo belongs to the val split."""
    digest = hashlib.sha256(f"{_SEED}:{file_name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % VAL_SHARE == 0


def _excluded(path: Path) -> frozenset[str]:
    try:
        text = read_regular(path, MAX_JSON_BYTES).decode("utf-8-sig") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(str(path), expected="a text file of file names", got=repr(error)) from error
    lines = (line.strip() for line in text.splitlines())
    return frozenset(_plain(line) for line in lines if line and not line.startswith("#"))


def _plain(name: str) -> str:
    """A file name without the folder of the photos, in which people include it."""
    return name.replace("\\", "/").removeprefix("./").removeprefix("images/")

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from imp_trt.errors import DatasetError
from imp_trt.train.datasets import open_dataset
from imp_trt.train.datasets.modanet import ANNOTATIONS, in_validation, missing_photos

pytest.importorskip("pycocotools.mask", reason="needs pycocotools")

NAMES = (
    "bag",
    "belt",
    "boots",
    "footwear",
    "outer",
    "dress",
    "sunglasses",
    "pants",
    "top",
    "shorts",
    "skirt",
)
PHOTOS = [f"{number:07d}.jpg" for number in range(40)]
EMPTY = PHOTOS[7]


def _write(root: Path) -> Path:
    """40 photos of 24x16: an outer garment with a bag upon it; one photo has no annotations."""
    (root / "annotations").mkdir()
    (root / "images").mkdir()
    annotations = []
    for number, name in enumerate(PHOTOS):
        assert cv2.imwrite(str(root / "images" / name), np.full((24, 16, 3), 90, np.uint8))
        for category, (x0, y0, x1, y1) in ((1, (4, 6, 8, 10)), (5, (2, 2, 14, 20))):
            polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": category,
                    "iscrowd": 0,
                    "segmentation": [polygon],
                }
            )
    content = {
        "images": [{"id": k, "file_name": n, "height": 24, "width": 16} for k, n in enumerate(PHOTOS)],
        "annotations": [a for a in annotations if PHOTOS[a["image_id"]] != EMPTY],
        "categories": [{"id": k, "name": n} for k, n in enumerate((*NAMES, "headwear", "scarf & tie"), 1)],
    }
    (root / ANNOTATIONS).write_text(json.dumps(content))
    return root


def test_polygons_become_classes_small_over_large(tmp_path: Path) -> None:
    data = open_dataset(f"modanet:{_write(tmp_path)}", "train")
    assert data.classes.names == ("background", *NAMES, "headwear", "scarf & tie")
    assert data.classes.things == tuple(range(1, 14))
    assert "CC BY-NC 4.0" in (data.terms or "")
    sample = data[0]
    assert sample.size == (24, 16)
    assert (sample.semantic == 1).sum() == 16
    assert (sample.semantic == 5).sum() == 12 * 18 - 16
    assert sample.instances[7, 5] == 1
    assert sample.instances[3, 3] == 2


def test_the_split_is_fixed_and_the_empty_photo_is_left_out(tmp_path: Path) -> None:
    root = _write(tmp_path)
    parts = {
        split: {image.file_name for image in open_dataset(f"modanet:{root}", split).images}
        for split in ("train", "val")
    }
    assert parts["train"] | parts["val"] == set(PHOTOS) - {EMPTY}
    assert not parts["train"] & parts["val"]
    # Written down once: models trained on one side must never meet the other by a change of the rule.
    assert parts["val"] == {"0000004.jpg", "0000006.jpg"}
    share = np.mean([in_validation(f"{k:07d}.jpg") for k in range(20_000)])
    assert share == pytest.approx(0.05, abs=0.005)
    with pytest.raises(DatasetError, match="train or val"):
        open_dataset(f"modanet:{root}", "test")


def test_photos_that_are_gone_are_named_and_can_be_listed(tmp_path: Path) -> None:
    root = _write(tmp_path)
    gone = [n for n in PHOTOS if not in_validation(n)][:2]
    for name in gone:
        (root / "images" / name).unlink()
    with pytest.raises(DatasetError, match=rf"2 of \d+ files missing: {gone[0]}, {gone[1]}\. .*exclude\.txt"):
        open_dataset(f"modanet:{root}", "train")
    assert missing_photos(root) == gone
    (root / "exclude.txt").write_text("\n".join(missing_photos(root)))
    data = open_dataset(f"modanet:{root}", "train")
    assert not {image.file_name for image in data.images} & set(gone)


def test_lines_of_exclude_that_name_no_photo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = _write(tmp_path)
    (root / "exclude.txt").write_text("# gone\n\nimages/0000000.jpg\n./0000001.jpg\n2\n0000003.JPG\n")
    names = [image.file_name for image in open_dataset(f"modanet:{root}", "train").images]
    assert names[:2] == PHOTOS[2:4]
    assert "2 lines are no file name of the annotations, such as 0000000.jpg: 0000003.JPG, 2" in caplog.text


def test_a_missing_set_says_where_it_is(tmp_path: Path) -> None:
    for where in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DatasetError, match=r"github\.com/eBay/modanet.*paperdoll"):
            open_dataset(f"modanet:{where}", "train")


def test_an_annotation_file_that_is_cut_off_says_where_to_get_it(tmp_path: Path) -> None:
    root = _write(tmp_path)
    path = root / ANNOTATIONS
    path.write_text(path.read_text()[:-50])
    with pytest.raises(DatasetError, match=r"JSONDecodeError.*github\.com/eBay/modanet"):
        open_dataset(f"modanet:{root}", "train")

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from imp_trt.data.dataset import Dataset
from imp_trt.errors import DatasetError
from imp_trt.train.datasets import open_dataset
from imp_trt.train.datasets.cityscapes import CITIES, CITYSCAPES_CLASSES, CityscapesDataset

SIZE = (24, 48)


def _labels() -> tuple[np.ndarray, np.ndarray]:
    """Road, two cars, a group of persons, a caravan, a rider, void, and a license plate's 255."""
    ids = np.full(SIZE, 7, np.uint16)
    ids[2:6, 2:10] = 26001
    ids[8:12, 2:10] = 26000
    ids[2:6, 20:30] = 24
    ids[8:12, 20:30] = 29000
    ids[14:20, 4:6] = 25007
    ids[0] = 3
    labels = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
    labels[4, 4] = 255  # disagrees with the car around it
    return labels, ids


def _write(root: Path, split: str = "val", cities: tuple[str, ...] | None = None) -> Path:
    labels, ids = _labels()
    for city in CITIES[split] if cities is None else cities:
        photos, truth = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
        photos.mkdir(parents=True)
        truth.mkdir(parents=True)
        stem = f"{city}_000000_000019"
        photo = np.full((*SIZE, 3), (10, 20, 30), np.uint8)
        assert cv2.imwrite(str(photos / f"{stem}_leftImg8bit.png"), photo)
        assert cv2.imwrite(str(truth / f"{stem}_gtFine_labelIds.png"), labels)
        assert cv2.imwrite(str(truth / f"{stem}_gtFine_instanceIds.png"), ids)
        (truth / f"{stem}_gtFine_polygons.json").write_text("{}")
    return root


def test_classes_are_the_19_train_ids_in_the_official_order() -> None:
    classes = CITYSCAPES_CLASSES
    assert len(classes) == 19
    assert [classes.names[t] for t in classes.things] == [
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ]
    assert classes.names[:4] == ("road", "sidewalk", "building", "wall")
    assert classes.palette[13] == (0, 0, 142)
    assert [len(cities) for cities in CITIES.values()] == [18, 3]


# Label id -> train id of the official tools (cityscapesScripts, helpers/labels.py).
TRAIN_IDS = dict.fromkeys(range(256), 255) | {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9,
    23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


def test_label_ids_become_the_official_train_ids(tmp_path: Path) -> None:
    root = _write(tmp_path, cities=("lindau",))
    every = [*range(34), 255]
    labels = np.repeat(np.array(every, np.uint8), 2)[None].repeat(24, axis=0)
    ids = np.where(np.isin(labels, [24, 25, 26, 27, 28, 31, 32, 33]), labels * np.uint16(1000) + 3, labels)
    start = root / "gtFine/val/lindau/lindau_000000_000019_gtFine"
    cv2.imwrite(f"{start}_labelIds.png", labels)
    cv2.imwrite(f"{start}_instanceIds.png", ids.astype(np.uint16))
    cv2.imwrite(
        str(root / "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png"), np.zeros((24, 70, 3))
    )
    sample = CityscapesDataset(root, "val", cities=("lindau",))[0]
    assert sample.semantic[0, ::2].tolist() == [TRAIN_IDS[label] for label in every]
    numbered = {int(c) for c in np.unique(sample.semantic[sample.instances > 0])}
    assert numbered == set(range(11, 19))
    assert len(np.unique(sample.instances)) == 9
    assert CITYSCAPES_CLASSES.names == (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
        "bicycle",
    )  # fmt: skip


def test_cities_with_too_few_images_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    CityscapesDataset(_write(tmp_path), "val")
    assert "3 of 500 images: frankfurt 1 of 267, lindau 1 of 59, munster 1 of 174" in caplog.text
    assert "cityscapes-dataset.com/downloads" in caplog.text
    caplog.clear()
    CityscapesDataset(tmp_path, "val", cities=("lindau",))
    assert not caplog.text


@pytest.mark.parametrize("cache", [True, False])
def test_labels_become_classes_instances_and_crowds(tmp_path: Path, cache: bool) -> None:
    data = CityscapesDataset(_write(tmp_path), "val", cache=cache)
    assert isinstance(data, Dataset)
    assert (len(data), data.name) == (3, "cityscapes/val")
    for _ in range(2):
        sample = data[1]
        assert sample.size == SIZE
        assert sample.image[5, 5].tolist() == [10, 20, 30]
        assert sample.semantic[23, 40] == 0
        assert (sample.semantic == 13).sum() == 63  # two cars of 32 pixels, one pixel of which is void
        assert (sample.semantic[8:12, 20:30] == 255).all()  # caravan
        assert (sample.semantic[0] == 255).all()  # out of roi
        # Numbers go by instance id: rider 25007, car 26000, car 26001.
        assert [(sample.instances == k).sum() for k in range(1, 5)] == [12, 32, 31, 0]
        assert sample.instances[15, 5] == 1
        assert sample.instances[9, 3] == 2
        assert sample.instances[4, 4] == 0
        assert sample.crowd is not None
        assert np.unique(sample.crowd, return_counts=True)[1].tolist() == [24 * 48 - 40, 40]
        assert (sample.semantic[sample.crowd > 0] == 11).all()
        assert (sample.instances[sample.crowd > 0] == 0).all()


def test_an_image_without_groups_has_no_crowd(tmp_path: Path) -> None:
    root = _write(tmp_path)
    path = root / "gtFine/val/lindau/lindau_000000_000019_gtFine_{}Ids.png"
    for kind, dtype in (("label", np.uint8), ("instance", np.uint16)):
        cv2.imwrite(str(path).format(kind), np.full(SIZE, 23, dtype))
    sample = CityscapesDataset(root, "val", cities=("lindau",))[0]
    assert sample.crowd is None
    assert (sample.semantic == 10).all()
    assert not sample.instances.any()


def test_images_come_in_order_and_open_by_name(tmp_path: Path) -> None:
    data = open_dataset(f"cityscapes:{_write(tmp_path, 'train')}", "train")
    assert len(data) == 18
    assert list(data.stems) == sorted(f"{c}/{c}_000000_000019" for c in CITIES["train"])
    assert "non-commercial" in (data.terms or "")


def test_half_a_set_is_rejected_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no such folder.*cityscapes-dataset\.com"):
        open_dataset(f"cityscapes:{tmp_path / 'nowhere'}", "val")
    with pytest.raises(DatasetError, match=r"3 of 3 files missing: leftImg8bit/val/frankfurt.*downloads"):
        open_dataset(f"cityscapes:{tmp_path}", "val")
    with pytest.raises(DatasetError, match="labels of test are not public"):
        open_dataset(f"cityscapes:{tmp_path}", "test")
    root = _write(tmp_path, cities=("frankfurt", "lindau"))
    with pytest.raises(DatasetError, match=r"1 of 7 files missing: leftImg8bit/val/munster/\*\."):
        CityscapesDataset(root, "val")
    assert len(CityscapesDataset(root, "val", cities=("frankfurt", "lindau"))) == 2
    numbers = root / "gtFine/val/lindau/lindau_000000_000019_gtFine_instanceIds.png"
    numbers.write_bytes(b"")  # an interrupted copy leaves empty files, too
    (root / "leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(DatasetError) as caught:
        CityscapesDataset(root, "val", cities=("frankfurt", "lindau"))
    for name in ("2 of 6", "frankfurt_000000_000019_leftImg8bit.png", numbers.name):
        assert name in str(caught.value)


def test_labels_of_another_image_are_rejected(tmp_path: Path) -> None:
    data = CityscapesDataset(_write(tmp_path), "val", cities=("lindau",))
    labels, ids = _labels()
    stem = tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine"
    cv2.imwrite(f"{stem}_labelIds.png", labels[:, ::-1])
    with pytest.raises(DatasetError, match=r"the same classes, got different ones in \d+%"):
        data[0]
    cv2.imwrite(f"{stem}_labelIds.png", labels[:, :-1])
    with pytest.raises(DatasetError, match="48x24 and 47x24"):
        data[0]
    cv2.imwrite(f"{stem}_labelIds.png", labels)
    cv2.imwrite(f"{stem}_instanceIds.png", ids[:-1])
    with pytest.raises(DatasetError, match="48x24 and 48x23"):
        data[0]
    cv2.imwrite(f"{stem}_instanceIds.png", ids.astype(np.uint8))
    with pytest.raises(DatasetError, match="16-bit single-channel PNG, got uint8"):
        data[0]

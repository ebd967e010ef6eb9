# SPDX-License-Identifier: Apache-2.0
"""Folders are recognized by their content, and one scene is the same in every layout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Dataset, Sample
from imp_trt.errors import DatasetError
from imp_trt.train.datasets import open_dataset
from imp_trt.train.datasets.description import chosen_things, write_description
from imp_trt.train.datasets.layouts import recognize
from imp_trt.train.datasets.splits import divided
from imp_trt.train.datasets.view import FileDataset
from tests.support.label_layouts import LAYOUTS, NAMES, Scene, Written, coco_json, scene

THINGS = ["car", "person"]


def _regions(sample: Sample, classes: ClassTable) -> set[tuple[str, bool, bytes]]:
    """Name, whether it is an instance, and mask of every instance and of every class of stuff."""
    found = set()
    for label, name in enumerate(classes.names):
        mask = sample.semantic == label
        if name == "background" or not mask.any():
            continue
        for number in np.unique(sample.instances[mask]):
            part = mask & (sample.instances == number)
            found.add((name, bool(number), part.tobytes()))
    return found


def _expected(shown: Scene, things: list[str]) -> set[tuple[str, bool, bytes]]:
    _, numbers = shown.planes()
    masks = ((NAMES[label], numbers == number) for number, (label, *_) in enumerate(shown.rects, 1))
    return {(name, name in things, mask.tobytes()) for name, mask in masks}


def _opened(written: Written) -> list[FileDataset]:
    return [open_dataset(str(written.root), split) for split in ("train", "val")]  # type: ignore[misc]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("described", ["as labeled", "beside the labels", "elsewhere"])
def test_a_scene_is_the_same_in_every_layout(layout: str, described: str, tmp_path: Path) -> None:
    written = LAYOUTS[layout](tmp_path / "export")
    where, things = written.root, list(NAMES[1:])
    if described != "as labeled":
        found = recognize(where)
        classes = chosen_things(found.open("train").classes, THINGS, None)
        beside = described == "beside the labels"
        file = write_description((where if beside else tmp_path) / "dataset.json", where, found.kind, classes)
        where, things = where if beside else file, THINGS
    elif layout == "cityscapes":
        things = THINGS
    seen = set()
    for split in ("train", "val"):
        data = open_dataset(str(where), split)
        assert isinstance(data, Dataset)
        assert isinstance(data, FileDataset)
        assert {data.classes.names[thing] for thing in data.classes.things} >= set(things)
        assert len(data.content_digest()) == 16
        for index, sample in enumerate(data):
            stem = data.image_path(index).stem
            assert np.array_equal(sample.image, written.scenes[stem].photo)
            assert _regions(sample, data.classes) == _expected(written.scenes[stem], things)
            assert sample.crowd is None
            assert (split, stem) not in seen
            seen.add((split, stem))
    assert {stem for _, stem in seen} == set(written.scenes)
    assert len(seen) == len(written.scenes)
    assert len(open_dataset(str(where), "valid")) == len(open_dataset(str(where), "val"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_path_may_be_relative(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS[layout](tmp_path / "some export")
    monkeypatch.chdir(tmp_path)
    assert open_dataset("some export", "train")[0].instances.any()
    monkeypatch.chdir(tmp_path / "some export")
    assert open_dataset(".", "val")[0].instances.any()


def test_things_change_what_a_data_set_is(tmp_path: Path) -> None:
    written = LAYOUTS["coco-cvat"](tmp_path)
    train, val = _opened(written)
    before = train.content_digest()
    assert before != val.content_digest()
    write_description(tmp_path / "dataset.json", tmp_path, "coco", chosen_things(train.classes, THINGS, None))
    again = _opened(written)[0]
    assert again.content_digest() != before
    assert again.name == f"{tmp_path.name}/train"


def test_a_folder_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"\xff")
    root.mkdir()
    table = ClassTable(("road", "car"), (1,), ((0, 0, 0), (1, 1, 1)))
    file = write_description(tmp_path / "dataset.json", root, "coco", table)
    assert json.loads(file.read_text(encoding="utf-8"))["root"] == str(root.resolve())
    assert sorted(divided([root.name, "b.png"], "train") + divided([root.name, "b.png"], "val")) == [0, 1]


def test_stuff_becomes_things_as_connected_components(tmp_path: Path) -> None:
    written = LAYOUTS["cityscapes"](tmp_path)
    data = open_dataset(str(tmp_path), "val")
    table = chosen_things(data.classes, ["road", "car"], None)
    write_description(tmp_path / "dataset.json", tmp_path, "cityscapes", table)
    data = open_dataset(str(tmp_path), "val")
    shown = written.scenes[data.image_path(0).stem]  # type: ignore[attr-defined]
    assert _regions(data[0], data.classes) == _expected(shown, ["road", "car"])


Fault = Callable[[Written], None]


def _no_photo(written: Written) -> None:
    written.photos[0].unlink()


def _cut_photo(written: Written) -> None:
    written.photos[0].write_bytes(written.photos[0].read_bytes()[:60])


def _cut_label(written: Written) -> None:
    path = written.labels[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 - 1])
    if path.suffix == ".txt":
        path.write_bytes(path.read_bytes() + b" nan0")


def _binary_label(written: Written) -> None:
    written.labels[0].write_bytes(b"\xff\xfe\x00\x01" * 20)


def _fifo(written: Written) -> None:
    import os

    written.labels[0].unlink()
    os.mkfifo(written.labels[0])


FAULTS: tuple[Fault, ...] = (_no_photo, _cut_photo, _cut_label, _binary_label, _fifo)


@pytest.mark.parametrize(
    ("layout", "fault"),
    # The folders of YOLO are the lists of images.
    [(n, f) for n in LAYOUTS for f in FAULTS if not (n.startswith("yolo") and f is _no_photo)],
)
def test_a_fault_is_named_with_its_file(layout: str, fault: Fault, tmp_path: Path) -> None:
    written = LAYOUTS[layout](tmp_path / "export")
    fault(written)
    with pytest.raises(DatasetError) as caught:
        _ = [sample for data in _opened(written) for sample in data]
    assert any(path.stem in str(caught.value) for path in (written.photos[0], written.labels[0]))


def test_a_text_file_of_yolo_without_an_image_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = LAYOUTS["yolo"](tmp_path)
    written.photos[0].unlink()
    assert len(open_dataset(str(tmp_path), "train")) == 2
    assert f"1 in text files without an image (annotation {written.labels[0].name})" in caplog.text


@pytest.mark.parametrize("layout", ["coco", "index-png", "cityscapes", "voc"])
def test_photos_of_another_size_are_named(layout: str, tmp_path: Path) -> None:
    written = LAYOUTS[layout](tmp_path)
    cv2.imwrite(str(written.photos[0]), written.scenes[written.photos[0].stem].photo[:30])
    with pytest.raises(DatasetError, match="same size"):
        _ = [sample for data in _opened(written) for sample in data]


def _coco_file(path: Path) -> None:
    cv2.imwrite(str(path.parent.parent / "a.png"), scene(0).photo)
    path.parent.mkdir(exist_ok=True)
    path.write_text(coco_json({"a.png": scene(0)}))


def _years(root: Path) -> None:
    for year in (2014, 2017):
        _coco_file(root / f"annotations/instances_train{year}.json")


def _beside_roboflow(root: Path) -> None:
    LAYOUTS["coco-roboflow"](root)
    _coco_file(root / "annotations/instances_val.json")


def _years_of_voc(root: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        LAYOUTS["voc"](root / year)


def _two_descriptions(root: Path) -> None:
    LAYOUTS["yolo"](root)
    (root / "dataset.yaml").write_text("names: [a]\n")


def _other_suffixes(root: Path) -> None:
    LAYOUTS["yolo"](root)
    (root / "images/train/b.HEIC").write_bytes(b"x")


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (_years, "not read: annotations/instances_train2014.json; --data coco:JSON,IMAGES opens"),
        (_beside_roboflow, "not read: annotations/instances_val.json; --data coco:JSON,IMAGES opens"),
        (_years_of_voc, "not read: VOC2007; --data {root}/VOC2007 opens"),
        (_two_descriptions, "not read: dataset.yaml; data.yaml is read instead"),
        (_other_suffixes, "1 images are not read: b.HEIC; convert them"),
    ],
)
def test_labels_and_images_that_are_not_read_are_named(
    write: Callable[[Path], None], told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path)
    open_dataset(str(tmp_path), "train")
    assert told.format(root=tmp_path) in caplog.text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_unread_in_an_export(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    LAYOUTS[layout](tmp_path)
    open_dataset(str(tmp_path), "train")
    assert "not read" not in caplog.text


def _labelme(root: Path) -> None:
    cv2.imwrite(str(root / "a.png"), scene(0).photo)
    (root / "a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png", "version": "5.4"}))


def _voc_boxes(root: Path) -> None:
    (root / "Annotations").mkdir()
    (root / "Annotations/a.xml").write_text("<annotation><object><bndbox/></object></annotation>")


def _cvat_xml(root: Path) -> None:
    (root / "annotations.xml").write_text('<?xml version="1.0"?><annotations><version>1.1</version>')


def _label_studio_json(root: Path) -> None:
    (root / "project-1.json").write_text(json.dumps([{"id": 1, "annotations": [], "data": {}}]))


def _label_studio_json_min(root: Path) -> None:
    (root / "project-1.json").write_text(json.dumps([{"id": 1, "annotation_id": 1, "image": "a.png"}]))


def _yolo_boxes(root: Path) -> None:
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")


def _photos(root: Path) -> None:
    cv2.imwrite(str(root / "a.png"), scene(0).photo)


def _maps(root: Path) -> None:
    for name in ("images", "labels"):
        (root / name).mkdir()
        _photos(root / name)


def _masks_of_roboflow(root: Path) -> None:
    (root / "train").mkdir()
    (root / "train/_classes.csv").write_text("Pixel Value, Class\n0, background\n")


def _coco_elsewhere(root: Path) -> None:
    (root / "labels_v3.json").write_text(coco_json({"a.png": scene(0)}))


def _nested(root: Path) -> None:
    LAYOUTS["coco-cvat"](root / "inner")


def _via(root: Path) -> None:
    (root / "via_project.json").write_text(json.dumps({"_via_img_metadata": {}}))


def _lists(root: Path) -> None:
    LAYOUTS["index-png"](root)
    (root / "dataset.json").unlink()


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (_lists, r"lists of images and label maps \(train\.txt\) without dataset\.json.*camvid:"),
        (_labelme, r"LabelMe JSON.*labelme2coco"),
        (_voc_boxes, r"boxes and no masks.*COCO 1\.0"),
        (_cvat_xml, r"CVAT XML.*'COCO 1\.0' or 'Segmentation mask 1\.1'"),
        (_label_studio_json, r"Label Studio's own JSON.*'COCO with images'"),
        (_label_studio_json_min, r"Label Studio's own JSON.*'COCO with images'"),
        (_yolo_boxes, r"YOLO boxes.*'COCO Segmentation'"),
        (_photos, r"images without labels \(1 \.png\).*CVAT"),
        (_maps, r"label maps without dataset\.json"),
        (_masks_of_roboflow, r"semantic masks.*'COCO Segmentation'"),
        (_coco_elsewhere, r"COCO JSON at an unknown place.*coco:JSON,IMAGES"),
        (_nested, r"its parent folder, with inner/ in it.*Fix: pass .*inner"),
        (_via, r"VGG Image Annotator.*COCO"),
        (lambda root: None, r"expected COCO JSON.*no files"),
    ],
)
def test_other_folders_are_reported_how_to_convert(
    write: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DatasetError, match=told):
        open_dataset(str(tmp_path), "train")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("name", "told"), [("export.zip", "unpack"), ("a.png", "give the folder")])
def test_a_file_is_no_folder(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DatasetError, match=told):
        open_dataset(str(tmp_path / name), "train")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\ud800"])
def test_paths_that_are_none(name: str) -> None:
    with pytest.raises(DatasetError):
        open_dataset(name, "train")


def test_a_split_that_is_missing_is_reported_with_those_there_are(tmp_path: Path) -> None:
    LAYOUTS["coco-roboflow"](tmp_path)
    with pytest.raises(DatasetError, match=r"one of the splits train, valid, got 'test'"):
        open_dataset(str(tmp_path), "test")


def test_augmented_versions_of_an_image_in_train_and_val_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Roboflow adds a hash to the name of each version that it makes of an image."""
    shown = {f"street_jpg.rf.{number:032x}.png": scene(number) for number in range(12)}
    shown |= {f"other-{number}_jpg.rf.{number:032x}.png": scene(20 + number) for number in range(12)}
    (tmp_path / "_annotations.coco.json").write_text(coco_json(shown))
    for name, content in shown.items():
        cv2.imwrite(str(tmp_path / name), content.photo)
    for split in ("train", "val"):
        caplog.clear()
        data = recognize(tmp_path).open(split)
        names = [data.image_path(index).name for index in range(len(data))]
        count = sum(name.startswith("street") for name in names)
        assert 0 < count < 12
        assert f"{count} of {len(names)} images of {split} are versions of images of the other" in caplog.text


def test_one_image_alone_is_not_divided(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), scene(0).photo)
    (tmp_path / "result.json").write_text(coco_json({"images/a.png": scene(0)}))
    assert len(open_dataset(str(tmp_path), "all")) == 1
    with pytest.raises(DatasetError, match="two images or more"):
        _ = [open_dataset(str(tmp_path), split) for split in ("train", "val")]


@pytest.mark.parametrize("layout", ["coco-roboflow", "coco-cvat", "coco-label-studio", "coco"])
def test_the_spelling_with_coco_takes_every_coco_folder(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path)
    assert len(open_dataset(f"coco:{tmp_path}", "train")) >= 3
    assert len(open_dataset(f"coco:{tmp_path}", "val")) >= 1


@pytest.mark.parametrize("layout", ["coco", "cityscapes", "modanet"])
def test_a_name_before_the_folder_changes_no_things(layout: str, tmp_path: Path) -> None:
    """imp-data writes and shows the description under both spellings."""
    LAYOUTS[layout](tmp_path)
    before = open_dataset(f"{layout}:{tmp_path}", "train").classes
    stuff = before.names[before.things[0]]
    chosen = chosen_things(before, None, [stuff])
    write_description(tmp_path / "dataset.json", tmp_path, layout, chosen)
    for where in (str(tmp_path), f"{layout}:{tmp_path}"):
        data = open_dataset(where, "train")
        assert data.classes.things == chosen.things
        assert data.terms == open_dataset(str(tmp_path), "train").terms
    (tmp_path / "dataset.json").write_text('{"classes": ["a"], "things": []}')  # of index PNGs
    assert open_dataset(f"{layout}:{tmp_path}", "train").classes == before


def test_a_pattern_of_coco_understands_valid(tmp_path: Path) -> None:
    LAYOUTS["coco-roboflow"](tmp_path)
    spelled = f"coco:{tmp_path}/{{split}}/_annotations.coco.json,{tmp_path}/{{split}}"
    assert len(open_dataset(spelled, "val")) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"things": ["cra"]}, r"'cra'.*use 'car'"),
        ({"things": None}, "a list of class names"),
        ({"things": ["background"]}, "the background"),
        ({"classes": ["background", "car"]}, "the classes of the labels"),
        ({"layout": "yolo"}, "layout 'coco'"),
        ({"classes": 3}, "the classes of the labels"),
        ({"palette": [[0, 0]]}, "palette"),
        ({"palette": [[float("inf"), 0, 0]] * 4}, "palette"),
        ({"root": "a" * 5000}, "File name too long"),
        ({"root": 3}, "root: a path"),
    ],
)
def test_wrong_descriptions_are_rejected(changes: dict[str, object], told: str, tmp_path: Path) -> None:
    LAYOUTS["coco-cvat"](tmp_path / "export")
    data = {"layout": "coco", "root": "export", "things": ["car"], "classes": list(NAMES)} | changes
    (tmp_path / "dataset.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=told):
        open_dataset(str(tmp_path / "dataset.json"), "train")

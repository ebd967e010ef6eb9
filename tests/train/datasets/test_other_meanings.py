# SPDX-License-Identifier: Apache-2.0
"""Labels that look valid and mean something else: rejected, read as they are meant, or said and counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imp_trt.cli import data as command
from imp_trt.cli import eval as eval_command
from imp_trt.cli import train as train_command
from imp_trt.data import images
from imp_trt.errors import DatasetError
from imp_trt.train.datasets import open_dataset
from tests.train.datasets.small_files import boxes_of, two_classes, write_coco, write_photo


@pytest.fixture(autouse=True)
def _nothing_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_warned", set())


@pytest.mark.parametrize("flag", ["data", "eval"])
def test_no_picture_replaces_a_photo_or_label(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejected before anything is read: the files of other splits are inputs of the next command."""
    where = _index(tmp_path / "set")
    extra = tmp_path / "set/more/c.png"
    write_photo(extra)
    before = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()}
    for file in ("images/a.png", "labels/b.png", "more/c.png"):
        for target in (tmp_path / "set" / file, tmp_path / "set/images/.." / file):
            argv = [where, "--samples", str(target)]
            if flag == "eval":
                argv = ["none.safetensors", "--data", where, "--image-grid", str(target)]
            assert (command if flag == "data" else eval_command).main(argv) == 2
    assert {path: path.read_bytes() for path in before} == before
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # a drawing is replaced
        assert command.main([where, "--samples", "drawn.png", "-q"]) == 0


def test_images_that_are_both_trained_on_and_validated_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where = _index(tmp_path / "set")
    (tmp_path / "set/val.txt").write_text("images/b.png labels/b.png\n")
    (tmp_path / "set/rest.txt").write_text("images/c.png labels/b.png\n")
    cv2.imwrite(str(tmp_path / "set/images/c.png"), np.full((96, 128, 3), 9, np.uint8))
    (tmp_path / "set/copy.txt").write_text("images/d.png labels/b.png\n")
    (tmp_path / "set/images/d.png").write_bytes((tmp_path / "set/images/b.png").read_bytes())
    (tmp_path / "link").symlink_to("set")
    for val, words in (
        ("val", "1 of 1 images of --val are trained on"),
        (f"{tmp_path}/link", "1 of 1 images of --val are trained on"),
        ("copy", "1 of 1 images of --val are trained on"),
        ("rest", None),
    ):
        caplog.clear()
        options = train_command.parser().parse_args(["--data", where, "--val", val, "-o", "run"])
        train_command._validation(options, open_dataset(where, "train"))
        assert ("are trained on" in caplog.text) == (words is not None)
        assert (words or "") in caplog.text


LINE = "0 0.2 0.2 0.6 0.2 0.6 0.6\n"


def _yolo(root: Path, description: str, lines: str = LINE) -> str:
    write_photo(root / "images/train/a.png")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text(lines)
    (root / "data.yaml").write_text(description + "\n")
    return str(root)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("[yes, no]", ("yes", "no")),
        ("{0: off, 1: on}", ("off", "on")),
        ("[010, 1e3]", ("010", "1e3")),
        ("['no', 2026-01-01]", ("no", "2026-01-01")),
        ("\n  0: null\n  3: 0x1F", ("null", "0x1F")),
    ],
)
def test_names_of_yaml_are_as_they_are_written(names: str, wanted: tuple[str, str], tmp_path: Path) -> None:
    data = open_dataset(_yolo(tmp_path, f"names: {names}\ntrain: images/train"), "train")
    assert data.classes.names == ("background", *wanted)


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ("nc: 5\nnames: [cat, dog]", "nc: 5, but 2 names"),
        ("names: [cat, dog]\nnames: [dog, cat]", "twice in the file: names"),
        ("names: {-1: cat, 0: dog}", "numbers -1, 0"),
        ("names: {0.5: cat, 1: dog}", "must be an integer, not '0.5'"),
        ("names: {0: cat, '0': dog}", "twice in the file: names 0"),
        ("names: [cat, [dog]]", "class names must be text"),
        ('names: [cat, "\\ud800"]', "YAML file|class names must be text"),
        (f"names: [cat, {'x' * 1001}]", "class names must be text"),
        ("names: [cat, dog]\nkpt_shape: [2, 2]", "keypoints"),
    ],
)
def test_descriptions_that_contradict_themselves(description: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=told):
        open_dataset(_yolo(tmp_path, f"{description}\ntrain: images/train"), "train")


@pytest.mark.parametrize("key", ["valid", "validation", "val"])
def test_splits_of_yolo_by_other_names(key: str, tmp_path: Path) -> None:
    """Roboflow's folder is named valid, and so is the key that people write."""
    where = _yolo(tmp_path, f"names: [cat]\ntraining: images/train\n{key}: images/train")
    assert [len(open_dataset(where, split)) for split in ("train", "val", "valid")] == [1, 1, 1]


def test_a_split_of_yolo_under_two_names(tmp_path: Path) -> None:
    where = _yolo(tmp_path, "names: [cat]\ntrain: images/train\nvalid: nowhere\nval: images/train")
    assert len(open_dataset(where, "val")) == 1


@pytest.mark.parametrize("number", ["0_1", "true", "0.5", "\u0660"])
def test_classes_of_yolo_are_plain_numbers(number: str, tmp_path: Path) -> None:
    where = _yolo(tmp_path, "names: [cat, dog]\ntrain: images/train", number + LINE[1:])
    with pytest.raises(DatasetError, match=r"a\.txt line 1"):
        open_dataset(where, "train")


@pytest.mark.parametrize("lines", ["0 10 10 60 10 60 50\n", "0 0.2 0.2 0.4 0.4\n", ""])
def test_what_yolo_needs_is_named_where_no_object_is_left(lines: str, tmp_path: Path) -> None:
    where = _yolo(tmp_path, "names: [cat]\ntrain: images/train", lines)
    with pytest.raises(DatasetError, match=r"fractions of width and height.* such as .*labels/train/a\.txt"):
        open_dataset(where, "train")


@pytest.mark.parametrize(
    ("polygon", "named"),
    [("0.6 0.2 1.04 0.2 1.04 0.6", False), ("0.6 0.2 1.2 0.2 1.2 0.6", True), ("-0.1 0 1 0 1 1", True)],
)
def test_fractions_of_another_image_size(
    polygon: str, named: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_dataset(_yolo(tmp_path, "names: [cat]\ntrain: images/train", f"{LINE}0 {polygon}\n"), "train")
    told = "1 that reach far beyond their image (annotation a.txt:2), of 2: the fractions may be of another"
    assert (told in caplog.text) == named


@pytest.mark.parametrize("listed", ["images\\train\\a.png", "./images/train/a.png\nimages/train/a.png"])
def test_lists_of_yolo(listed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = _yolo(tmp_path, "names: [cat]\ntrain: list.txt")
    (tmp_path / "list.txt").write_text(listed)
    assert len(open_dataset(where, "train")) == 1
    assert ("listed more than once" in caplog.text) == ("\n" in listed)


def test_a_text_file_of_two_images_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = _yolo(tmp_path, "names: [cat]\ntrain: images\\train", LINE * 2)
    write_photo(tmp_path / "images/train/a.jpg")
    assert len(open_dataset(where, "train")) == 2
    assert "1 text files are those of several images" in caplog.text
    assert "2 that repeat another of their image" in caplog.text


@pytest.mark.parametrize("folder", ["", "labels/train"])
@pytest.mark.parametrize(
    ("listed", "named"), [("dog\ncat\n", True), ("cat\ndog\n\n", False), ("cat\n", True)]
)
def test_classes_in_another_order_beside_data_yaml(
    folder: str, listed: str, named: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """LabelImg and Label Studio write classes.txt, and people write data.yaml."""
    where = _yolo(tmp_path, "names: {0: cat, 1: dog}\ntrain: images/train", f"{LINE}1{LINE[1:]}")
    (tmp_path / folder / "classes.txt").write_text(listed)
    assert len(open_dataset(where, "train")) == 1
    assert [f"{folder}/classes.txt lists" in message for message in caplog.messages] == [True] * named


def _index(root: Path, lines: str = "", **changes: object) -> str:
    for name in "ab":
        write_photo(root / f"images/{name}.png")
        (root / "labels").mkdir(exist_ok=True)
        assert cv2.imwrite(str(root / f"labels/{name}.png"), two_classes())
    (root / "train.txt").write_text(lines or "images/a.png labels/a.png\nimages/b.png labels/b.png\n")
    data = {"classes": ["ground", "cat", "dog"], "things": ["cat", "dog"], **changes}
    (root / "dataset.json").write_text(json.dumps(data))
    return str(root)


@pytest.mark.parametrize(
    ("lines", "changes", "told"),
    [
        ("images/a.png labels/a.png\nimages/b.png labels/a.png\n", {}, "1 label maps are those of several"),
        ("images/a.png labels/a.png\n./images/a.png labels/b.png\n", {}, "images are listed more than once"),
        ("", {"ignore_label": 0}, "keys without effect: ignore_label"),
        ("", {"exclude": ["a.png"]}, "1 entries of exclude name no image: a.png"),
        ("", {"exclude": ["labels/a.png"]}, "1 entries of exclude name no image: labels/a.png"),
        ("", {"classes": ["ground", "cat", "Cat"], "things": ["cat"]}, "'cat' and 'Cat'"),
    ],
)
def test_index_pngs_that_are_accepted_are_named(
    lines: str, changes: dict[str, object], told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(open_dataset(_index(tmp_path, lines, **changes), "train")) == 2
    assert told in caplog.text


@pytest.mark.parametrize(
    "spelled", ["./images/a.png", "images\\a.png", "{root}/images/a.png", "labels/../images/a.png", "{link}"]
)
def test_images_to_exclude_in_other_spellings(
    spelled: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "link").symlink_to("set")
    name = spelled.format(root=tmp_path / "set", link=tmp_path / "link/images/a.png")
    data = open_dataset(_index(tmp_path / "set", exclude=[name]), "train")
    assert [data.image_name(index) for index in range(len(data))] == ["images/b.png"]  # type: ignore[attr-defined]
    assert not caplog.records


def test_lists_of_windows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = "\ufeffimages\\a.png labels\\a.png\r\nimages\\b.png labels\\b.png\r\n"
    assert boxes_of(open_dataset(_index(tmp_path, lines), "train"))[0] == (0, "cat", [20, 10, 60, 50])
    assert not caplog.records


@pytest.mark.parametrize("color", [[0.0, 0.5, 1.0], ["1", "x", "2"], [True, 0, 0]])
@pytest.mark.parametrize("layout", ["index-png", "coco"])
def test_colors_are_whole_numbers(color: list[object], layout: str, tmp_path: Path) -> None:
    palette = [color, [0, 0, 0], [9, 9, 9]]
    where = _index(tmp_path, palette=palette)
    if layout == "coco":
        write_coco(tmp_path, lambda d: None)
        data = {
            "layout": "coco",
            "classes": ["background", "cat", "dog"],
            "things": ["cat"],
            "palette": palette,
        }
        (tmp_path / "dataset.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="palette must be an integer"):
        open_dataset(where, "train")


COLORS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
LABELS = "background:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"


def _voc(root: Path, colors: NDArray[np.uint8] = COLORS, labels: str = LABELS, lists: str = "a\n") -> str:
    write_photo(root / "JPEGImages/a.jpg")
    for folder in ("SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "SegmentationObject").rmdir()
    Image.fromarray(colors[two_classes()]).save(root / "SegmentationClass/a.png")
    (root / "labelmap.txt").write_text(labels)
    (root / "ImageSets/Segmentation/train.txt").write_text(lists)
    return str(root)


@pytest.mark.parametrize(
    ("alpha", "hidden", "rejected"),
    [(0, (0, 0, 0), False), (0, (128, 0, 0), True), (9, (0, 0, 0), True), (255, (0, 128, 0), False)],
)
@pytest.mark.parametrize("palette", [False, True])
def test_masks_with_transparent_pixels(
    alpha: int, hidden: tuple[int, int, int], rejected: bool, palette: bool, tmp_path: Path
) -> None:
    where = _voc(tmp_path)
    file = tmp_path / "SegmentationClass/a.png"
    if palette:
        image = Image.fromarray(two_classes()).convert("P")
        image.putpalette([*hidden, *COLORS[1:].ravel().tolist()])
        image.save(file, transparency=bytes([alpha, 255, 255]))
    else:
        colors = np.array([hidden, *COLORS[1:]], np.uint8)[two_classes()]
        opacity = np.where(two_classes(), 255, alpha).astype(np.uint8)
        Image.fromarray(np.dstack([colors, opacity])).save(file)
    if rejected:
        with pytest.raises(DatasetError, match=r"a\.png.*transparent pixels of other colors"):
            open_dataset(where, "train")[0]
    else:
        assert len(boxes_of(open_dataset(where, "train"))) == 2


GRAY = "background:0,0,0::\ncat:{0},{0},{0}::\ndog:{1},{1},{1}::\n"


def test_gray_masks_of_gray_colors(tmp_path: Path) -> None:
    """A tool that saves an RGB mask as gray keeps the levels of the colors, which are no indices."""
    where = _voc(tmp_path / "levels", np.array([0, 100, 200], np.uint8), GRAY.format(100, 200))
    wanted = [(0, "cat", [20, 10, 60, 50]), (0, "dog", [70, 60, 120, 90])]
    assert boxes_of(open_dataset(where, "train")) == wanted
    where = _voc(tmp_path / "indices", np.array([0, 1, 2], np.uint8))
    assert boxes_of(open_dataset(where, "train")) == wanted
    with pytest.raises(DatasetError, match="values that are both: 0, 1, 2"):
        open_dataset(_voc(tmp_path / "both", np.array([0, 2, 1], np.uint8), GRAY.format(2, 1)), "train")[0]


def test_masks_that_are_accepted_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = _voc(tmp_path, lists="a\na\n")
    write_photo(tmp_path / "JPEGImages/a.png")
    (tmp_path / "SegmentationObject").mkdir()
    Image.fromarray(np.where(two_classes()[..., None] == 1, 50, 0).astype(np.uint8).repeat(3, 2)).save(
        tmp_path / "SegmentationObject/a.png"
    )
    assert boxes_of(open_dataset(where, "train")) == [(k, "cat", [20, 10, 60, 50]) for k in (0, 1)]
    for words in (
        "1 images are listed more than once: a",
        "1 masks have several images, of which the first is taken: a.jpg and a.png",
        "has no object where the mask has dog",
    ):
        assert words in caplog.text


@pytest.mark.parametrize("name", ["b.PNG", "b.jpg", "sub/b.tif"])
def test_masks_of_other_suffixes_are_named(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where = _voc(tmp_path)
    shutil.rmtree(tmp_path / "ImageSets")
    write_photo(tmp_path / "JPEGImages" / name)
    write_photo(tmp_path / "SegmentationClass" / name)
    assert len(open_dataset(where, "all")) == 1
    assert f"1 masks are not read, as their names do not end with .png: {name}" in caplog.text


def test_lists_of_masks_of_windows(tmp_path: Path) -> None:
    where = _voc(tmp_path, lists="sub\\a\r\n")
    for folder, file in (("JPEGImages", "a.jpg"), ("SegmentationClass", "a.png")):
        (tmp_path / folder / "sub").mkdir()
        (tmp_path / folder / file).rename(tmp_path / folder / "sub" / file)
    assert len(boxes_of(open_dataset(where, "train"))) == 2

# SPDX-License-Identifier: Apache-2.0
"""Labels that look valid and mean something else: rejected, read as they are meant, or said and counted."""

from __future__ import annotations

import copy
import json
import logging
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imp_trt.cli import data as command
from imp_trt.cli import eval as eval_command
from imp_trt.cli import train as train_command
from imp_trt.data import images
from imp_trt.data.dataset import Dataset
from imp_trt.errors import DatasetError
from imp_trt.train.datasets import open_dataset
from imp_trt.train.datasets.regions import parse_region

W, H = 128, 96
RING = [20, 10, 60, 10, 60, 50, 20, 50]
BOX = [20, 10, 40, 40]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def _nothing_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_warned", set())


def _photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((H, W, 3), np.uint8))


def _mask() -> NDArray[np.uint8]:
    """Class 1 in a rectangle, class 2 in another."""
    mask = np.zeros((H, W), np.uint8)
    mask[10:50, 20:60], mask[60:90, 70:120] = 1, 2
    return mask


def _coco(root: Path, change: Change) -> str:
    for name in ("a.png", "b.png", "sub/c.png"):
        _photo(root / name)
    row = {"image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": BOX, "segmentation": [RING]}
    data: dict[str, Any] = {
        "images": [
            {"id": k, "width": W, "height": H, "file_name": f} for k, f in ((1, "a.png"), (2, "b.png"))
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": 1, **row}, {"id": 2, **row, "image_id": 2, "category_id": 2}],
    }
    data = copy.deepcopy(data)
    change(data)
    (root / "train.json").write_text(json.dumps(data))
    return f"coco:{root}/train.json,{root}"


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        ('"iscrowd": 0', '"iscrowd": 1, "iscrowd": 0'),
        ('"categories": [', '"categories": [], "categories": ['),
        ('"name": "cat"', '"name": "cat", "name": "dog"'),
    ],
)
def test_a_key_given_twice(once: str, twice: str, tmp_path: Path) -> None:
    where = _coco(tmp_path, lambda data: None)
    path = tmp_path / "train.json"
    path.write_text(path.read_text().replace(once, twice, 1))
    key = once.partition('"')[2].partition('"')[0]
    with pytest.raises(DatasetError, match=f"key '{key}' is given twice"):
        open_dataset(where, "train")


def _boxes(data: Dataset) -> list[tuple[int, str, list[int]]]:
    """Image, class and box of each instance."""
    found = []
    for index in range(len(data)):
        sample = data[index]
        for number in range(1, int(sample.instances.max()) + 1):
            y, x = np.nonzero(sample.instances == number)
            box = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
            found.append((index, data.classes.names[sample.semantic[y[0], x[0]]], box))
    return found


WHOLE = [(0, "cat", [20, 10, 60, 50]), (1, "dog", [20, 10, 60, 50])]


def _runs(mask: NDArray[np.uint8], order: Any) -> dict[str, Any]:
    flat = mask.astype(bool).flatten(order)
    edges = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [H, W], "counts": np.diff(np.r_[0, edges, flat.size]).tolist()}


def _first(**changes: object) -> Change:
    return lambda data: data["annotations"][0].update(changes)


def _names(one: object, two: object) -> Change:
    return lambda data: [c.update(name=n) for c, n in zip(data["categories"], (one, two), strict=True)]


COCO_SAID: dict[str, tuple[Change, str]] = {
    "image under two ids": (lambda d: d["images"][1].update(file_name="a.png"), "1 images .* several ids"),
    "image in two spellings": (lambda d: d["images"][1].update(file_name="./a.png"), "several ids"),
    "object twice": (
        lambda d: d["annotations"].append({**d["annotations"][0], "id": 3}),
        r"1 of 3 objects are not used: 1 that repeat another of their image \(annotation 3\)",
    ),
    "object below another": (
        lambda d: d["annotations"].append({**d["annotations"][0], "id": 3, "category_id": 2}),
        r"a\.png has objects that others hide",
    ),
    "object without a pixel": (_first(segmentation=[[20.1, 10.1, 20.3, 10.1, 20.3, 10.3]]), "cover no pixel"),
    "names in two cases": (_names("cat", "Cat"), "'cat' and 'Cat'"),
    "names with a space": (_names("cat", "cat "), "begin or end with a space: 'cat '"),
    "names in two forms of Unicode": (
        _names("caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")),
        "classes differ only in case",
    ),
    "names with two kinds of spaces": (_names("traffic light", "traffic\u00a0light"), "classes differ only"),
    "names with and without underscore": (_names("traffic light", "traffic_light"), "classes differ only"),
    "name with an invisible character": (_names("cat", "c\u200bat"), "classes differ only"),
    "runs along rows": (_first(segmentation=_runs(_mask() == 1, "C")), "1 with a bbox that is not"),
    "y before x": (
        _first(segmentation=[[v for p in range(0, 8, 2) for v in (RING[p + 1], RING[p])]]),
        "bbox",
    ),
    "percent": (_first(segmentation=[[v / (W, H)[i % 2] * 100 for i, v in enumerate(RING)]]), "bbox that"),
    "a smaller image": (_first(segmentation=[[v / 4 for v in RING]]), "order, unit or image size"),
    "keypoints with visibility": (
        _first(segmentation=[[20, 10, 2, 60, 10, 2, 60, 50, 2, 20, 50, 2]]),
        "bbox",
    ),
}


@pytest.mark.parametrize("name", COCO_SAID)
def test_coco_that_is_accepted_is_named(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    change, words = COCO_SAID[name]
    _boxes(open_dataset(_coco(tmp_path, change), "train"))
    assert [r.levelno for r in caplog.records if _matches(words, r.getMessage())] == [logging.WARNING]


def _matches(words: str, text: str) -> bool:

    return re.search(words, text) is not None


COCO_REFUSED: dict[str, tuple[Change, str]] = {
    "category id 1.7": (lambda d: d["categories"][0].update(id=1.7), "a category id must be an integer"),
    "category id false": (lambda d: d["categories"][0].update(id=False), "must be an integer, not False"),
    "category_id true": (_first(category_id=True), "category_id must be an integer"),
    "width 128.9": (lambda d: d["images"][0].update(width=128.9), "width must be an integer"),
    "no name": (_names("cat", None), "class names must be text"),
    "empty name": (_names("cat", "  "), "class names must be text"),
    "name with a lone surrogate": (_names("cat", "\ud800x"), "class names must be text"),
    "name without end": (_names("cat", "x" * 1001), "class names must be text"),
    "name of two lines": (_names("cat", "a\nb"), "class names must be text"),
}


@pytest.mark.parametrize("name", COCO_REFUSED)
def test_coco_that_is_refused(name: str, tmp_path: Path) -> None:
    change, words = COCO_REFUSED[name]
    with pytest.raises(DatasetError, match=words):
        open_dataset(_coco(tmp_path, change), "train")


def _as_text(data: dict[str, Any]) -> None:
    for row, key in [(c, "id") for c in data["categories"]] + [
        (a, "category_id") for a in data["annotations"]
    ]:
        row[key] = str(row[key])


COCO_MEANT: dict[str, Change] = {
    "unchanged": lambda d: None,
    "category ids as text": _as_text,
    "category ids as floats": lambda d: [c.update(id=float(c["id"])) for c in d["categories"]],
    "width as text": lambda d: d["images"][0].update(width=str(W)),
    "a path of Windows": lambda d: d["images"][0].update(file_name="sub\\c.png"),
    "no bbox": lambda d: d["annotations"][0].pop("bbox"),
    "an empty bbox": _first(bbox=[]),
    "a bbox of zeros": _first(bbox=[0, 0, 0, 0]),
    "a bbox that is rounded outward": _first(bbox=[18, 8, 44, 44]),
    "runs down the columns": _first(segmentation=_runs(_mask() == 1, "F")),
    "a name that is a number": _names("cat", "dog"),
}


@pytest.mark.parametrize("name", COCO_MEANT)
def test_coco_that_is_meant_is_read_in_silence(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    assert _boxes(open_dataset(_coco(tmp_path, COCO_MEANT[name]), "train")) == WHOLE
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_bounds_of_runs_are_those_of_their_masks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(v) for v in rng.integers(1, 9, 2))
        mask = rng.random((height, width)) < rng.choice([0.05, 0.3, 0.9])
        flat = mask.flatten("F")
        runs = np.diff(np.r_[0, np.flatnonzero(np.diff(flat)) + 1, flat.size]).tolist()
        region = parse_region(
            {"size": [height, width], "counts": [0, *runs] if flat[0] else runs}, mask.shape
        )
        y, x = np.nonzero(mask)
        bounds = region.bounds()
        if not y.size:
            assert bounds is None
            continue
        assert bounds is not None
        assert bounds[[0, 2]].tolist() == [x.min(), x.max() + 1]
        assert bounds[[1, 3]].tolist() == [y.min(), y.max() + 1]


def test_hidden_objects_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    _coco(tmp_path, COCO_SAID["object below another"][0])
    assert command.main([str(tmp_path), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["hidden_objects"] == 1
    assert command.main([str(tmp_path), "-q"]) == 0
    assert "1 objects hidden by others, or without a pixel" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["data", "eval"])
def test_no_picture_replaces_a_photo_or_label(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejected before anything is read: the files of other splits are inputs of the next command."""
    where = _index(tmp_path / "set")
    extra = tmp_path / "set/more/c.png"
    _photo(extra)
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
    _photo(tmp_path / "set/images/c.png")
    (tmp_path / "link").symlink_to("set")
    for val, words in (
        ("val", "1 of 1 images of --val are trained on"),
        (f"{tmp_path}/link", "1 of 1 images of --val are trained on"),
        ("rest", None),
    ):
        caplog.clear()
        options = train_command.parser().parse_args(["--data", where, "--val", val, "-o", "run"])
        train_command._validation(options, open_dataset(where, "train"))
        assert ("are trained on" in caplog.text) == (words is not None)
        assert (words or "") in caplog.text


LINE = "0 0.2 0.2 0.6 0.2 0.6 0.6\n"


def _yolo(root: Path, description: str, lines: str = LINE) -> str:
    _photo(root / "images/train/a.png")
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


@pytest.mark.parametrize("number", ["0_1", "true", "0.5", "\u0660"])
def test_classes_of_yolo_are_plain_numbers(number: str, tmp_path: Path) -> None:
    where = _yolo(tmp_path, "names: [cat, dog]\ntrain: images/train", number + LINE[1:])
    with pytest.raises(DatasetError, match=r"a\.txt line 1"):
        open_dataset(where, "train")


@pytest.mark.parametrize("listed", ["images\\train\\a.png", "./images/train/a.png\nimages/train/a.png"])
def test_lists_of_yolo(listed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = _yolo(tmp_path, "names: [cat]\ntrain: list.txt")
    (tmp_path / "list.txt").write_text(listed)
    assert len(open_dataset(where, "train")) == 1
    assert ("listed more than once" in caplog.text) == ("\n" in listed)


def test_a_text_file_of_two_images_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = _yolo(tmp_path, "names: [cat]\ntrain: images\\train", LINE * 2)
    _photo(tmp_path / "images/train/a.jpg")
    assert len(open_dataset(where, "train")) == 2
    assert "1 text files are those of several images" in caplog.text
    assert "2 that repeat another of their image" in caplog.text


def _index(root: Path, lines: str = "", **changes: object) -> str:
    for name in "ab":
        _photo(root / f"images/{name}.png")
        (root / "labels").mkdir(exist_ok=True)
        assert cv2.imwrite(str(root / f"labels/{name}.png"), _mask())
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
    assert _boxes(open_dataset(_index(tmp_path, lines), "train"))[0] == (0, "cat", [20, 10, 60, 50])
    assert not caplog.records


@pytest.mark.parametrize("color", [[0.0, 0.5, 1.0], ["1", "x", "2"], [True, 0, 0]])
@pytest.mark.parametrize("layout", ["index-png", "coco"])
def test_colors_are_whole_numbers(color: list[object], layout: str, tmp_path: Path) -> None:
    palette = [color, [0, 0, 0], [9, 9, 9]]
    where = _index(tmp_path, palette=palette)
    if layout == "coco":
        _coco(tmp_path, lambda d: None)
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
    _photo(root / "JPEGImages/a.jpg")
    for folder in ("SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "SegmentationObject").rmdir()
    Image.fromarray(colors[_mask()]).save(root / "SegmentationClass/a.png")
    (root / "labelmap.txt").write_text(labels)
    (root / "ImageSets/Segmentation/train.txt").write_text(lists)
    return str(root)


@pytest.mark.parametrize(
    ("alpha", "hidden", "refused"),
    [(0, (0, 0, 0), False), (0, (128, 0, 0), True), (9, (0, 0, 0), True), (255, (0, 128, 0), False)],
)
@pytest.mark.parametrize("palette", [False, True])
def test_masks_with_transparent_pixels(
    alpha: int, hidden: tuple[int, int, int], refused: bool, palette: bool, tmp_path: Path
) -> None:
    where = _voc(tmp_path)
    file = tmp_path / "SegmentationClass/a.png"
    if palette:
        image = Image.fromarray(_mask()).convert("P")
        image.putpalette([*hidden, *COLORS[1:].ravel().tolist()])
        image.save(file, transparency=bytes([alpha, 255, 255]))
    else:
        colors = np.array([hidden, *COLORS[1:]], np.uint8)[_mask()]
        opacity = np.where(_mask(), 255, alpha).astype(np.uint8)
        Image.fromarray(np.dstack([colors, opacity])).save(file)
    if refused:
        with pytest.raises(DatasetError, match=r"a\.png.*transparent pixels of other colors"):
            open_dataset(where, "train")[0]
    else:
        assert len(_boxes(open_dataset(where, "train"))) == 2


GRAY = "background:0,0,0::\ncat:{0},{0},{0}::\ndog:{1},{1},{1}::\n"


def test_gray_masks_of_gray_colors(tmp_path: Path) -> None:
    """A tool that saves an RGB mask as gray keeps the levels of the colors, which are no indices."""
    where = _voc(tmp_path / "levels", np.array([0, 100, 200], np.uint8), GRAY.format(100, 200))
    wanted = [(0, "cat", [20, 10, 60, 50]), (0, "dog", [70, 60, 120, 90])]
    assert _boxes(open_dataset(where, "train")) == wanted
    where = _voc(tmp_path / "indices", np.array([0, 1, 2], np.uint8))
    assert _boxes(open_dataset(where, "train")) == wanted
    with pytest.raises(DatasetError, match="values that are both: 0, 1, 2"):
        open_dataset(_voc(tmp_path / "both", np.array([0, 2, 1], np.uint8), GRAY.format(2, 1)), "train")[0]


def test_masks_that_are_accepted_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = _voc(tmp_path, lists="a\na\n")
    _photo(tmp_path / "JPEGImages/a.png")
    (tmp_path / "SegmentationObject").mkdir()
    Image.fromarray(np.where(_mask()[..., None] == 1, 50, 0).astype(np.uint8).repeat(3, 2)).save(
        tmp_path / "SegmentationObject/a.png"
    )
    assert _boxes(open_dataset(where, "train")) == [(k, "cat", [20, 10, 60, 50]) for k in (0, 1)]
    for words in (
        "1 images are listed more than once: a",
        "1 masks have several images, of which the first is taken: a.jpg and a.png",
        "has no object where the mask has dog",
    ):
        assert words in caplog.text


def test_lists_of_masks_of_windows(tmp_path: Path) -> None:
    where = _voc(tmp_path, lists="sub\\a\r\n")
    for folder, file in (("JPEGImages", "a.jpg"), ("SegmentationClass", "a.png")):
        (tmp_path / folder / "sub").mkdir()
        (tmp_path / folder / file).rename(tmp_path / folder / "sub" / file)
    assert len(_boxes(open_dataset(where, "train"))) == 2

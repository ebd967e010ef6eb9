# SPDX-License-Identifier: Apache-2.0
"""imp-data says what a folder contains, finds bad labels, and writes what imp-train reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imp_trt.cli import data as command
from imp_trt.cli import eval as eval_command
from imp_trt.cli import train as train_command
from imp_trt.train.datasets import open_dataset
from tests.support.label_layouts import LAYOUTS, H, W, coco_json, scene


def _json(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    assert command.main([*args, "--json", "-q"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_counts_are_those_of_the_scenes(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = LAYOUTS[layout](tmp_path)
    found = _json(capsys, str(tmp_path))
    kind = next(
        k for k in ("coco", "modanet", "index-png", "cityscapes", "voc", "yolo") if layout.startswith(k)
    )
    assert found["layout"] == kind
    assert found["divided"] == ("cvat" in layout or "label-studio" in layout)
    assert not found["faults"]
    splits = found["splits"].values()
    assert sum(split["images"] for split in splits) == len(written.scenes)
    for split in splits:
        assert split["sizes"] == {f"{W}x{H}": split["images"]}
        assert split["objects"]["car"] == 2 * split["images"]
        assert split["pixels"]["person"] == pytest.approx(18 * 6 / (H * W))
        assert split["pixels"]["road"] == pytest.approx(12 / H)
        empty = ("images_without_labels", "images_without_objects", "images_not_in_labels", "faults")
        assert not any(split[key] for key in (*empty, "dropped_objects", "images_shared_with"))


def _faulty(root: Path) -> None:
    """An image with a box alone and a polygon outside, one with nothing, and one that is not listed."""
    files = {"a.png": scene(0), "b.png": scene(1)}
    data = json.loads(coco_json(files))
    first = [row for row in data["annotations"] if row["image_id"] == 1]
    first[0]["segmentation"], first[1]["segmentation"] = [], [[100, 5, 110, 5, 110, 9]]
    data["annotations"] = first
    root.mkdir(parents=True, exist_ok=True)
    (root / "result.json").write_text(json.dumps(data))
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(root / name), scene(0).photo)


def test_what_is_missing_and_dropped_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _faulty(tmp_path)
    found = _json(capsys, str(tmp_path), "--split", "all")["splits"]["all"]
    assert found["images_without_labels"] == found["images_without_objects"] == ["b.png"]
    assert sum(found["dropped_objects"].values()) == 2
    assert found["dropped_objects"]["outside of its image"] == 1
    assert command.main([str(tmp_path), "-q"]) == 0
    text = capsys.readouterr().out
    assert "1 image files that no label mentions: c.png" in text
    assert "1 object dropped: outside of its image" in text
    assert "1 images without objects: b.png" in text


def test_every_fault_is_found_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = LAYOUTS["index-png"](tmp_path)
    cv2.imwrite(str(written.labels[0]), np.full((H, W), 77, np.uint8))
    written.photos[1].write_bytes(b"no image")
    written.photos[3].unlink()
    assert command.main([str(tmp_path), "-q"]) == 2
    captured = capsys.readouterr()
    assert "2 images cannot be used" in captured.out
    for text in ("got also [77]", "pic 1.png", "1 of 4 files missing: images/pic 3.png", "3 faults"):
        assert text in captured.err
    assert "Traceback" not in captured.err


def test_classes_that_differ_between_splits_are_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = LAYOUTS["coco-roboflow"](tmp_path)
    written.labels[1].write_text(written.labels[1].read_text().replace("person", "people"))
    found = _json(capsys, str(tmp_path), code=2)
    assert [fault["where"] for fault in found["faults"]] == ["valid"]
    assert list(found["splits"]) == ["train"]


def test_images_of_two_splits_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS["voc"](tmp_path)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("pic 0\npic 3\n")
    splits = _json(capsys, str(tmp_path))["splits"]
    assert splits["train"]["images_shared_with"] == {"val": 1}
    assert splits["val"]["images_shared_with"] == {"train": 1}
    assert splits["val"]["images_not_in_labels"] == ["pic 4.png"]


def test_a_coco_file_is_read_as_imp_train_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS["coco-roboflow"](tmp_path / "set")
    pattern = f"coco:{tmp_path}/set/{{split}}/_annotations.coco.json,{tmp_path}/set/{{split}}"
    found = _json(capsys, pattern)
    assert {name: split["images"] for name, split in found["splits"].items()} == {"train": 3, "val": 2}
    assert not found["divided"]
    found = _json(capsys, pattern.replace("{split}", "train"))
    assert {name: split["images"] for name, split in found["splits"].items()} == {"all": 3}
    assert not found["divided"], "imp-train takes all images of the file"


def test_a_description_of_a_coco_file_alone_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No folder could be opened by it."""
    LAYOUTS["coco-roboflow"](tmp_path / "set")
    name = f"coco:{tmp_path}/set/train/_annotations.coco.json,{tmp_path}/set/train"
    assert command.main([name, "-o", str(tmp_path / "new.json"), "--stuff", "road", "-q"]) == 2
    assert "-o: expected a folder of one of coco" in capsys.readouterr().err
    assert not (tmp_path / "new.json").exists()


def test_a_part_of_the_images_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS["voc"](tmp_path)
    for more, said in (
        ("2", "train: 3 images, the first 2 of which are read, 8 objects"),
        ("3", "train: 3 images, 12 objects"),
    ):
        assert command.main([str(tmp_path), "--max-images", more, "-q"]) == 0
        assert said in capsys.readouterr().out
        assert command.main([str(tmp_path), "--max-images", more, "-q", "--json"]) == 0
        train = json.loads(capsys.readouterr().out)["splits"]["train"]
        assert (train["images"], train["images_read"]) == (3, int(more))


def test_copies_of_an_image_in_two_splits_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = LAYOUTS["yolo"](tmp_path)
    train, val = ([p for p in written.photos if name in p.parts] for name in ("train", "val"))
    val[0].write_bytes(train[0].read_bytes())
    val[1].write_bytes(val[1].read_bytes() + bytes(len(train[1].read_bytes())))  # of another size
    splits = _json(capsys, str(tmp_path))["splits"]
    assert splits["train"]["images_shared_with"] == {"val": 1}
    assert splits["val"]["images_shared_with"] == {"train": 1}
    assert command.main([str(tmp_path), "-q"]) == 0
    assert "1 image also in val" in capsys.readouterr().out


def test_samples_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS["yolo"](tmp_path / "export")
    picture = tmp_path / "new/labels.png"
    assert command.main([str(tmp_path / "export"), "--samples", str(picture), "-q"]) == 0
    drawn = cv2.imread(str(picture))
    assert drawn is not None
    assert drawn.shape[0] > 3 * 300
    assert drawn.shape[1] == 2 * 480 + 6
    assert "samples: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--things", "cra"], "use 'car'"),
        (["--things", "car", "--stuff", "car"], "each class in one of the two"),
        (["--things", "car", "--stuff", "road"], "in neither: person"),
        (["--things", "background"], "the background"),
        (["--samples", "x.jpg"], "ends in .png"),
        (["-o", "x.txt"], "ends in .json"),
        (["--split", "holdout"], "one of the splits train, valid"),
    ],
)
def test_wrong_options_leave_nothing(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LAYOUTS["coco-roboflow"](tmp_path / "export")
    before = sorted(tmp_path.rglob("*"))
    output = [] if "-o" in options else ["-o", str(tmp_path / "dataset.json")]
    assert command.main([str(tmp_path / "export"), *options, *output, "-q"]) == 2
    assert told in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


NAMES = ("bag, small", "bag", "small", "car", "end ", "cafe\u0301")


@pytest.mark.parametrize(
    ("options", "things"),
    [
        (["--things", "bag, small"], ["bag, small"]),
        (["--things", "car,bag, small,bag"], ["bag, small", "bag", "car"]),
        (["--things", "small,bag"], ["bag", "small"]),
        (["--things", "car", "--things", "bag"], ["bag", "car"]),
        (["--stuff", "car,caf\u00e9", "--stuff", "bag, small"], ["bag", "small", "end "]),
        (["--things", "caf\u00e9"], ["cafe\u0301"]),
        (["--things", "end "], ["end "]),
        (["--things", " end,car"], ["car", "end "]),
        (["--things", ""], []),
    ],
)
def test_names_of_things(
    options: list[str], things: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    data = json.loads(coco_json({"a.png": scene(0), "b.png": scene(1)}))
    data["categories"] = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    (tmp_path / "result.json").write_text(json.dumps(data))
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), scene(0).photo)
    assert _json(capsys, str(tmp_path), *options)["things"] == things


@pytest.mark.parametrize("failing", ["-o", "--samples", "stdout"])
def test_an_output_that_cannot_be_written_takes_no_other(
    failing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = LAYOUTS["index-png"](tmp_path / "export")
    written.photos[1].write_bytes(b"no image")
    (tmp_path / "file").touch()
    paths = {"-o": tmp_path / "d.json", "--samples": tmp_path / "s.png"}
    if failing in paths:
        paths[failing] = tmp_path / "file" / paths[failing].name
    else:
        monkeypatch.setattr("sys.stdout", open("/dev/full", "w"))
    flags = [str(argument) for pair in paths.items() for argument in pair]
    assert command.main([str(tmp_path / "export"), *flags, "-q"]) == 2
    out, err = capsys.readouterr()
    assert "error: " in err
    assert "fault: " in err
    assert ("things: " in out) == (failing != "stdout")
    assert [path.exists() for path in paths.values()] == [flag != failing for flag in paths]


def test_labels_are_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = LAYOUTS["coco-roboflow"](tmp_path)
    before = written.labels[0].read_bytes()
    assert command.main([str(tmp_path), "--stuff", "road", "-o", str(written.labels[0]), "-q"]) == 2
    assert "exists" in capsys.readouterr().err
    assert written.labels[0].read_bytes() == before


def test_a_description_keeps_what_it_says_otherwise(tmp_path: Path) -> None:
    LAYOUTS["index-png"](tmp_path)
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ignore_index": 9, "terms": "mine alone"}))
    assert command.main([str(tmp_path), "--stuff", "road", "-o", str(file), "-q"]) == 0
    found = json.loads(file.read_text())
    assert (found["ignore_index"], found["terms"], found["things"]) == (9, "mine alone", ["car", "person"])
    assert open_dataset(str(tmp_path), "val").terms == "mine alone"


def test_a_description_that_no_longer_fits_is_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = LAYOUTS["coco-cvat"](tmp_path)
    output = ["-o", str(tmp_path / "dataset.json"), "-q"]
    assert command.main([str(tmp_path), "--things", "car", *output]) == 0
    written.labels[0].write_text(written.labels[0].read_text().replace("person", "people"))
    assert command.main([str(tmp_path), "-q"]) == 2
    assert "write it again with imp-data" in capsys.readouterr().err
    assert command.main([str(tmp_path), "--things", "car,people", *output]) == 0
    capsys.readouterr()
    assert _json(capsys, str(tmp_path))["things"] == ["car", "people"]


def test_named_data_sets_are_described_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS["index-png"](tmp_path / "camvid")
    (tmp_path / "camvid/dataset.json").unlink()
    found = _json(capsys, f"camvid:{tmp_path / 'camvid'}")
    assert (found["layout"], list(found["splits"])) == ("camvid", ["train", "val"])
    assert command.main([f"camvid:{tmp_path / 'camvid'}", "-o", str(tmp_path / "x.json"), "-q"]) == 2
    assert not (tmp_path / "x.json").exists()
    written = LAYOUTS["coco-cvat"](tmp_path / "coco")
    spelled = f"coco:{written.labels[0]},{written.photos[0].parent}"
    assert _json(capsys, spelled)["splits"]["all"]["images"] == len(written.photos)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["coco-roboflow", "voc-cvat"])
def test_a_folder_is_trained_on_and_evaluated_without_a_spelling(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LAYOUTS[layout](tmp_path / "export")
    folder, file = str(tmp_path / "export"), str(tmp_path / "export/dataset.json")
    assert command.main([folder, "--stuff", "road", "-o", file, "-q"]) == 0
    run = ["--recipe", "smoke", "--iterations", "1", "1", "--input-size", "64", "64", "--threads", "1"]
    assert train_command.main(["--data", folder, *run, "-o", str(tmp_path / "run"), "-q"]) == 0
    model = str(tmp_path / "run/imp.safetensors")
    capsys.readouterr()
    assert eval_command.main([model, "--data", folder, "--threads", "1", "--json", "-q"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["images"] == len(open_dataset(folder, "val"))
    assert set(scores["semantic"]["iou"]) == {"background", "road", "car", "person"}

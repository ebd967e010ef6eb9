# SPDX-License-Identifier: Apache-2.0
"""What identifies a run: every input that changes the result, contents of files included; and it is said."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from imp_trt.data.dataset import CachedDataset
from imp_trt.errors import UsageError
from imp_trt.models.checkpoint import load_model
from imp_trt.train.config import Stage
from imp_trt.train.datasets import IndexPngDataset, open_dataset
from imp_trt.train.datasets.coco import CocoDataset
from imp_trt.train.datasets.index_png import folder_spec
from imp_trt.train.datasets.reading import content_digest
from imp_trt.train.provenance import dataset_digest
from imp_trt.train.run import Run, train_stage_one
from imp_trt.train.state import TimeBudgetSpent
from tests.train.boxes import CLASSES, CONFIG, RECIPE, Boxes

pytestmark = pytest.mark.usefixtures("one_thread")


def _folder(root: Path) -> Path:
    """Boxes as files."""
    boxes = Boxes()
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for index in range(2):
        sample = boxes[index]
        cv2.imwrite(str(root / f"images/{index}.png"), sample.image)
        cv2.imwrite(str(root / f"labels/{index}.png"), sample.semantic)
    (root / "train.txt").write_text("images/0.png labels/0.png\nimages/1.png labels/1.png\n")
    described = {"classes": CLASSES.names, "things": list(CLASSES.things), "ignore_index": 9}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def _change_label(root: Path) -> None:
    label = cv2.imread(str(root / "labels/1.png"), cv2.IMREAD_UNCHANGED)
    label[40, 40] ^= 1
    cv2.imwrite(str(root / "labels/1.png"), label)


def _change_photo(root: Path) -> None:
    photo = cv2.imread(str(root / "images/1.png"))
    photo[40:50] = 77
    cv2.imwrite(str(root / "images/1.png"), photo)


def _change_order(root: Path) -> None:
    (root / "train.txt").write_text("images/1.png labels/1.png\nimages/0.png labels/0.png\n")


def _change_meaning(root: Path) -> None:
    described = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(described | {"groups": [0, 2, 1]}))


@pytest.mark.parametrize("change", [_change_label, _change_photo, _change_order, _change_meaning])
def test_the_digest_of_a_folder_follows_its_content(tmp_path: Path, change: Callable[[Path], None]) -> None:
    root = _folder(tmp_path / "a")
    first = dataset_digest(open_dataset(str(root), "train"))
    assert dataset_digest(CachedDataset(open_dataset(str(root), "train"))) == first
    assert dataset_digest(open_dataset(str(_folder(tmp_path / "copy")), "train")) == first
    change(root)
    assert dataset_digest(open_dataset(str(root), "train")) != first


def _overwrite(path: Path, start: float, end: float) -> None:
    """Change a part of a file, but not its size."""
    data = bytearray(path.read_bytes())
    for at in range(int(start * len(data)), int(end * len(data))):
        data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("suffix", "start", "end"),
    [(s, 0.6, 0.601) for s in (".bmp", ".tif", ".ppm")] + [(s, 0.3, 0.5) for s in (".png", ".jpg")],
)
def test_the_digest_covers_all_of_a_photo(tmp_path: Path, suffix: str, start: float, end: float) -> None:
    photo = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    cv2.imwrite(str(photo), noise, [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix == ".jpg" else [])
    assert photo.stat().st_size > 60_000
    first = content_digest([], [], [photo])
    assert content_digest([], [], [photo]) == first
    _overwrite(photo, start, end)
    assert content_digest([], [], [photo]) != first


def test_the_digest_follows_a_text_file_that_moves_to_another_image(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    (tmp_path / "data.yaml").write_text("names: [car]\ntrain: images\n")
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"images/{name}.png"), Boxes()[0].image)
    (tmp_path / "labels/a.txt").write_text("0 0.2 0.2 0.6 0.3 0.5 0.7\n")
    first = dataset_digest(open_dataset(str(tmp_path), "train"))
    (tmp_path / "labels/a.txt").rename(tmp_path / "labels/b.txt")
    assert dataset_digest(open_dataset(str(tmp_path), "train")) != first


def test_the_digest_follows_the_options_of_the_data_set(tmp_path: Path) -> None:
    root = _folder(tmp_path / "a")
    small, large = (IndexPngDataset(root, "train", folder_spec(root), min_area=area) for area in (16, 50))
    assert dataset_digest(small) != dataset_digest(large)


def test_the_digest_of_a_coco_file_follows_its_annotations(tmp_path: Path) -> None:
    root = _folder(tmp_path / "a")
    image = {"id": 1, "file_name": "0.png", "height": 80, "width": 96}
    digests = set()
    for edge in (20, 30):
        runs = {"size": [80, 96], "counts": [0, edge, 80 * 96 - edge]}
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": runs}
        content = {"images": [image], "categories": [{"id": 1, "name": "box"}], "annotations": [annotation]}
        (root / "train.json").write_text(json.dumps(content))
        for background in (True, False):
            dataset = CocoDataset(root / "train.json", root / "images", "small", background=background)
            digests.add(dataset_digest(dataset))
    assert len(digests) == 4


@pytest.mark.slow
def test_a_run_is_not_reused_or_resumed_with_other_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _folder(tmp_path / "data")
    recipe = replace(RECIPE, stage_one=Stage(2, 1e-3, 5e-4, warmup=1), batch=1)

    def train(folder: str, **changes: object) -> Path:
        dataset = open_dataset(str(root), "train")
        run = Run(dataset, recipe, 0, tmp_path / folder, quiet=True)
        return train_stage_one(replace(run, **changes), CONFIG)  # type: ignore[arg-type]

    path = train("done")
    assert load_model(path)[1]["data_digest"] == dataset_digest(open_dataset(str(root), "train"))
    with pytest.raises(TimeBudgetSpent):
        train("stopped", deadline=_AfterOneStep())
    with caplog.at_level(logging.INFO, "imp_trt"):
        assert train("done") == path
        assert "is reused: it was trained with 2 images of data/train (content " in caplog.text
        caplog.clear()
        train("stopped", deadline=_AfterOneStep())
        assert "resumes at step 1 of 2: 2 images of data/train" in caplog.text
    (tmp_path / "stopped" / "stage_one.safetensors").unlink(missing_ok=True)
    _change_label(root)
    with pytest.raises(UsageError, match="other images or labels"):
        train("done")


class _AfterOneStep(float):
    """A deadline that passes after the first step."""

    def __new__(cls) -> _AfterOneStep:
        return super().__new__(cls, 0.0)

    def __init__(self) -> None:
        self._asked = 0

    def __le__(self, _now: float) -> bool:  # now >= deadline
        self._asked += 1
        return self._asked > 1

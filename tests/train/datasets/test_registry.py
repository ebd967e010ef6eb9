# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imp_trt.data.dataset import CachedDataset
from imp_trt.errors import DatasetError
from imp_trt.train.datasets import open_dataset
from imp_trt.train.datasets.registry import find_layout, without_folder
from tests.support.label_layouts import LAYOUTS


def test_scenes_open_by_name() -> None:
    train, val = open_dataset("scenes:64x96", "train"), open_dataset("scenes:64x96", "val")
    assert isinstance(train, CachedDataset)
    assert train[0].size == (64, 96)
    assert not np.array_equal(train[0].semantic, val[0].semantic)
    for name, split in (("scenes", "holdout"), ("scenes:64", "train"), ("scenes:axb", "train")):
        with pytest.raises(DatasetError, match="scenes"):
            open_dataset(name, split)


@pytest.mark.parametrize("name", ["cityscape:/data", "camvid", "camvid:", "/no/such/folder", "coco:"])
def test_what_is_no_data_set_is_answered_with_what_there_is(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"scenes, camvid:DIR.*cityscapes:DIR.*dataset\.json"):
        open_dataset(name, "train")


def test_the_package_loads_no_heavy_module() -> None:
    heavy = "{'cv2', 'torch', 'pycocotools'}"
    code = f"import sys, imp_trt.train.datasets; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("scenes", "scenes"),
        ("scenes:64x128", "scenes:64x128"),
        ("camvid:/data/camvid", "camvid:DIR"),
        ("coco:/a/val.json,/a/images", "coco:DIR"),
        ("/data/my streets", "DIR"),
        ("C:/data", "DIR"),
    ],
)
def test_how_a_set_is_named_without_its_folder(written, expected):
    assert without_folder(written) == expected


@pytest.mark.parametrize("spelled", ["camvid", "components"])
def test_valid_is_val_with_every_spelling(spelled: str, tmp_path: Path) -> None:
    LAYOUTS["index-png"](tmp_path)
    assert len(open_dataset(f"{spelled}:{tmp_path}", "valid")) == 2
    (tmp_path / "val.txt").rename(tmp_path / "valid.txt")
    assert len(open_dataset(f"{spelled}:{tmp_path}", "val")) == 2
    assert len(open_dataset("scenes:64x96", "valid")) == len(open_dataset("scenes:64x96", "val"))


def test_the_home_folder_behind_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell expands ~ at the start of a word only."""
    monkeypatch.setenv("HOME", str(tmp_path))
    LAYOUTS["coco"](tmp_path / "set")
    images = len(open_dataset(f"coco:{tmp_path}/set", "val"))
    assert len(open_dataset("coco:~/set", "val")) == images
    assert len(open_dataset("coco:~/set/annotations/instances_val2017.json,~/set/val2017", "val")) == images
    assert find_layout("coco:~/set").root == tmp_path / "set"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").rename(tmp_path / "~")
    assert len(open_dataset("coco:~", "val")) == images

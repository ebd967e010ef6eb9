# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imp_trt.data.dataset import Dataset
from imp_trt.errors import DatasetError, DependencyMissing
from imp_trt.train.datasets import open_dataset
from imp_trt.train.datasets.coco import CocoDataset, open_coco

H, W = 20, 30


def _runs(y0: int, y1: int, x0: int, x1: int) -> dict[str, Any]:
    """Uncompressed run lengths of a rectangle, counted down the columns."""
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.r_[0, edges, flat.size]).tolist()
    return {"size": [H, W], "counts": [0, *counts] if flat[0] else counts}


def _content(**changes: Any) -> dict[str, Any]:
    """Image 1: a dog in a crowd of persons behind a person; image 2: nothing; image 3: no photo needed."""
    annotations = [
        {"id": 10, "image_id": 1, "category_id": 7, "iscrowd": 0, "segmentation": _runs(5, 10, 5, 10)},
        {"id": 11, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": _runs(2, 16, 2, 12)},
        {"id": 12, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": _runs(0, 4, 0, 30)},
        {"id": 13, "image_id": 99, "category_id": 1, "segmentation": []},
    ]
    data: dict[str, Any] = {
        "images": [
            {"id": 2, "file_name": "b.png", "height": H, "width": W},
            {"id": 1, "file_name": "a.png", "height": H, "width": W},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": annotations,
        "licenses": [{"id": 1, "name": "CC BY 2.0"}, {"id": 2, "name": "CC0"}],
    }
    return data | changes


def _write(root: Path, content: dict[str, Any] | None = None, split: str = "val2017") -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    text = json.dumps(_content() if content is None else content)
    (root / f"annotations/instances_{split}.json").write_text(text)
    for name in ("a", "b"):
        photo = np.full((H, W, 3), (1, 2, 3), np.uint8)
        assert cv2.imwrite(str(root / split / f"{name}.png"), photo)
    return root


def _dataset(root: Path, content: dict[str, Any] | None = None, **options: Any) -> CocoDataset:
    _write(root, content)
    return CocoDataset(root / "annotations/instances_val2017.json", root / "val2017", "small", **options)


@pytest.mark.parametrize("cache", [True, False])
def test_small_lies_over_large_and_crowds_below_all(tmp_path: Path, cache: bool) -> None:
    data = _dataset(tmp_path, cache=cache)
    assert isinstance(data, Dataset)
    assert data.classes.names == ("background", "person", "dog")
    assert data.classes.things == (1, 2)
    assert data.terms == "licenses of the images, as listed in the file: CC BY 2.0; CC0"
    for _ in range(2):
        sample = data[0]
        assert sample.image[0, 0].tolist() == [1, 2, 3]
        assert (sample.semantic == 2).sum() == 25
        assert (sample.instances == 1).sum() == 25  # the dog, first in the file
        assert (sample.instances == 2).sum() == 14 * 10 - 25
        assert sample.crowd is not None
        assert (sample.crowd > 0).sum() == 4 * 30 - 2 * 10
        assert len(np.unique(sample.crowd)) == 2
        assert (sample.semantic[sample.crowd > 0] == 1).all()
        assert (sample.semantic == 0).sum() == H * W - 14 * 10 - (4 * 30 - 2 * 10)


def test_images_without_annotations_are_background(tmp_path: Path) -> None:
    sample = _dataset(tmp_path)[1]
    assert not sample.semantic.any()
    assert not sample.instances.any()
    assert sample.crowd is None


def test_the_rest_can_be_ignored(tmp_path: Path) -> None:
    data = _dataset(tmp_path, background=False)
    assert data.classes.names == ("person", "dog")
    assert data.classes.things == (0, 1)
    assert (data[0].semantic[18] == 255).all()
    assert data[0].semantic[6, 6] == 1


@pytest.mark.parametrize("background", [True, False])
def test_a_category_named_background_has_no_instances(tmp_path: Path, background: bool) -> None:
    content = _content(categories=[{"id": 7, "name": "Background"}, {"id": 1, "name": "person"}])
    data = _dataset(tmp_path, content, background=background)
    assert data.classes.names == (("background", "person") if background else ("person",))
    sample = data[0]
    assert (sample.semantic[5:10, 5:10] == (0 if background else 255)).all()
    assert sorted(np.unique(sample.instances)) == [0, 1]
    assert (sample.instances[5:10, 5:10] == 0).all()


def test_instances_that_nothing_is_seen_of_get_no_number(tmp_path: Path) -> None:
    hidden = [
        {"id": k, "image_id": 1, "category_id": 1, "segmentation": _runs(*box)}
        for k, box in enumerate([(2, 8, 2, 8), (2, 8, 2, 8), (2, 12, 10, 20)])
    ]
    sample = _dataset(tmp_path, _content(annotations=hidden))[0]
    # Of equal size, the later one lies on top.
    assert [(sample.instances == k).sum() for k in (1, 2, 3)] == [36, 100, 0]


def test_polygons_and_compressed_runs_open_as_masks(tmp_path: Path) -> None:
    codec = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    mask = np.zeros((H, W), np.uint8)
    mask[3:9, 4:14] = 1
    packed = codec.encode(np.asfortranarray(mask))
    forms = (
        [[4, 3, 14, 3, 14, 9, 4, 9]],
        {"size": [H, W], "counts": packed["counts"].decode()},
        _runs(3, 9, 4, 14),
    )
    for number, form in enumerate(forms):
        annotation = {"id": 1, "image_id": 1, "category_id": 7, "segmentation": form}
        sample = _dataset(tmp_path / str(number), _content(annotations=[annotation]))[0]
        assert np.array_equal(sample.instances, mask)


def test_pycocotools_is_asked_for_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    _dataset(tmp_path)
    polygon = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]}
    with pytest.raises(DependencyMissing, match="pycocotools"):
        _dataset(tmp_path, _content(annotations=[polygon]))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"images": None}, "TypeError"),
        ({"categories": []}, None),
        ({"categories": [{"id": 1, "name": "person"}, {"id": 1, "name": "dog"}]}, "category ids must"),
        ({"categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}]}, "each name once"),
        ({"categories": [{"id": 1}]}, "name"),
        ({"images": [{"id": 1, "file_name": "a.png", "height": H, "width": W}] * 2}, "image ids must"),
        ({"images": [{"id": 1, "file_name": "a.png"}]}, "height"),
        (
            {"annotations": [{"id": 5, "image_id": 1, "category_id": 3, "segmentation": []}]},
            "annotation 5.*category 3",
        ),
        (
            {"annotations": [{"id": 6, "image_id": 1, "category_id": 1}]},
            "annotation 6.*boxes or keypoints alone",
        ),
        (
            {"annotations": [{"id": 8, "image_id": 1, "category_id": 1, "segmentation": [[1, 2, 3]]}]},
            "8.*a polygon",
        ),
        ({"images": []}, "at least one image"),
    ],
)
def test_wrong_files_are_rejected(tmp_path: Path, changes: dict[str, Any], named: str | None) -> None:
    with pytest.raises(DatasetError, match=named):
        _dataset(tmp_path, _content(**changes))


def test_photos_of_another_size_are_rejected(tmp_path: Path) -> None:
    data = _dataset(tmp_path)
    cv2.imwrite(str(tmp_path / "val2017/a.png"), np.zeros((H, W + 1, 3), np.uint8))
    with pytest.raises(DatasetError, match="31x20 and 30x20"):
        data[0]


def test_folders_in_the_official_layout_open_by_name(tmp_path: Path) -> None:
    _write(tmp_path)
    data = open_dataset(f"coco:{tmp_path}", "val")
    assert (data.name, len(data)) == (f"{tmp_path.name}/val", 2)
    with pytest.raises(DatasetError, match=r"instances_train2017\.json.*cocodataset\.org"):
        open_dataset(f"coco:{tmp_path}", "train")
    with pytest.raises(DatasetError, match="no such folder"):
        open_dataset(f"coco:{tmp_path / 'nowhere'}", "val")
    _write(tmp_path, split="train")
    assert len(open_dataset(f"coco:{tmp_path}", "train")) == 2
    (tmp_path / "val2017/a.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 files missing: a\.png"):
        open_dataset(f"coco:{tmp_path}", "val")


def test_a_file_and_a_folder_open_by_name_and_splits_are_not_mixed(tmp_path: Path) -> None:
    _write(tmp_path)
    json_path, images = tmp_path / "annotations/instances_val2017.json", tmp_path / "val2017"
    for where, split in (
        (f"{json_path},{images}", "val"),
        (f"{json_path},{images}", "all"),
        (f"{tmp_path}/annotations/instances_{{split}}2017.json,{tmp_path}/{{split}}2017", "val"),
    ):
        assert len(open_dataset(f"coco:{where}", split)) == 2
    for folder in (images, f"{tmp_path}/{{split}}2017"):
        with pytest.raises(DatasetError, match=r"split 'train'.*--split all"):
            open_coco(f"{json_path},{folder}", "train")
    with pytest.raises(DatasetError, match=r"train\.json: expected a JSON file with images"):
        open_coco(f"{tmp_path}/{{split}}.json,{images}", "train")


def test_paths_with_commas(tmp_path: Path) -> None:
    root = tmp_path / "a, b"
    root.mkdir()
    _write(root)
    for file in ("annotations/instances_val2017.json", "annotations/instances_{split}2017.json"):
        assert len(open_dataset(f"coco:{root}/{file},{root}/val2017", "val")) == 2


@pytest.mark.parametrize("name", ["instances_trainval2017.json", "train-val.json", "train_test.json"])
def test_a_file_of_several_splits_is_not_that_for_validation(tmp_path: Path, name: str) -> None:
    _write(tmp_path)
    (tmp_path / "annotations/instances_val2017.json").rename(tmp_path / name)
    split = "test" if "test" in name else "val"
    for where in (f"{tmp_path}/{name},{tmp_path}/val2017", f"{tmp_path}/{name},{tmp_path}/{{split}}2017"):
        with pytest.raises(
            DatasetError, match=f"split '{split}' of .*got images of training too.*--split all"
        ):
            open_coco(where, split)
    for split in ("train", "all"):
        assert len(open_coco(f"{tmp_path}/{name},{tmp_path}/val2017", split)) == 2


@pytest.mark.parametrize(
    ("name", "split", "opens"),
    [
        ("interval.json", "val", False),
        ("evaluated.json", "val", False),
        ("latest.json", "test", False),
        ("restrained.json", "train", False),
        ("fold10.json", "fold1", False),
        ("image_info_test-dev2017.json", "val", False),
        ("val_and_train.json", "val", False),
        ("valtrain.json", "val", False),
        ("instances_valid2017.json", "val", True),
        ("myVal.json", "validation", True),
        ("val-2.json", "val", True),
        ("fold1.json", "fold1", True),
        ("test_dev_2017.json", "test_dev", True),
        ("left_Train.json", "train", True),
        ("trainval.json", "trainval", True),
    ],
)
def test_a_file_is_named_after_the_split_by_whole_words(
    name: str, split: str, opens: bool, tmp_path: Path
) -> None:
    _write(tmp_path)
    (tmp_path / "annotations/instances_val2017.json").rename(tmp_path / name)
    where = f"{tmp_path}/{name},{tmp_path}/val2017"
    if opens:
        assert len(open_coco(where, split)) == 2
        return
    with pytest.raises(DatasetError, match="--split all"):
        open_coco(where, split)


def test_a_pointer_in_place_of_the_file_is_recognized(tmp_path: Path) -> None:
    _write(tmp_path)
    path = tmp_path / "annotations/instances_val2017.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:09a5\nsize 215182\n")
    with pytest.raises(DatasetError, match="git lfs pull"):
        open_coco(str(tmp_path), "val")


_RING = [5, 5, 15, 5, 15, 12, 5, 12]
_UNUSABLE: dict[str, dict[str, Any]] = {
    "polygon of three points": {"segmentation": []},
    "polygon of three points ": {"segmentation": [_RING[i : i + 2] for i in range(0, 8, 2)]},
    "polygon of three points  ": {"segmentation": [_RING[:4]]},
    "coordinates of 0 to 1": {"segmentation": [[v / (H if i % 2 else W) for i, v in enumerate(_RING)]]},
    "file does not list": {"image_id": "1"},
    "outside of its image": {"segmentation": [[v + 40 for v in _RING]]},
    "without area": {"segmentation": [[5, 5, 10, 10, 5, 5]]},
    "empty mask": {"segmentation": {"size": [H, W], "counts": [H * W]}},
}


def _object(number: int, **changes: Any) -> dict[str, Any]:
    plain = {"id": number, "image_id": 1, "category_id": 7, "iscrowd": 0, "segmentation": [_RING]}
    return plain | changes


@pytest.mark.parametrize(("reason", "changes"), _UNUSABLE.items())
def test_objects_without_a_usable_region_are_reported_and_rejected_if_all_are(
    tmp_path: Path, reason: str, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    bad = [_object(20 + k, **changes) for k in range(4)]
    with pytest.raises(DatasetError, match=f"(?s)none: 4 .*{reason.strip()}.*20, 21, 22, ... .4."):
        _dataset(tmp_path, _content(annotations=bad))
    data = _dataset(tmp_path, _content(annotations=[*bad, _object(1)]))
    assert data[0].instances.max() == 1
    assert "4 of 5 objects are not used: 4" in caplog.text
    assert reason.strip() in caplog.text
    assert sum("not used" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("crowd", ["0", "1", 2, []])
def test_iscrowd_is_0_or_1(tmp_path: Path, crowd: object) -> None:
    with pytest.raises(DatasetError, match="iscrowd must be 0 or 1"):
        _dataset(tmp_path, _content(annotations=[_object(1, iscrowd=crowd)]))


def test_images_without_objects_and_classes_that_none_shows_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _dataset(tmp_path, _content(annotations=[_object(1, segmentation=_runs(5, 10, 5, 10))]))
    assert "1 of 2 images have no objects: b.png" in caplog.text
    assert "no image shows the classes person" in caplog.text
    with pytest.raises(DatasetError, match="no annotations"):
        _dataset(tmp_path, _content(annotations=[]))


def test_crowds_alone_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _dataset(tmp_path, _content(annotations=[_object(1, iscrowd=1, segmentation=_runs(5, 10, 5, 10))]))
    assert "all objects are crowds" in caplog.text


@pytest.mark.parametrize(("crowds", "told"), [(1, False), (2, True)])
def test_many_crowds_are_reported(
    tmp_path: Path, crowds: int, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Labeling tools set iscrowd for masks that are no polygons."""
    rows = [
        _object(k, iscrowd=int(k < crowds), segmentation=_runs(5, 10, k, k + 1)) for k in range(10 + crowds)
    ]
    _dataset(tmp_path, _content(annotations=rows))
    assert (f"{crowds} of {10 + crowds} objects are crowds" in caplog.text) == told


@pytest.mark.parametrize("root", ["pets", "dog"])
def test_a_category_that_only_groups_others_is_left_out(
    tmp_path: Path, root: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Roboflow's export: the project's name as category 0."""
    categories = [
        {"id": 0, "name": root, "supercategory": "none"},
        {"id": 1, "name": "person", "supercategory": root},
        {"id": 7, "name": "dog", "supercategory": root},
    ]
    data = _dataset(tmp_path, _content(categories=categories))
    assert data.classes.names == ("background", "person", "dog")
    assert f"category 0 ({root}) only groups others" in caplog.text


def test_a_group_with_objects_or_another_id_is_a_class(tmp_path: Path) -> None:
    categories = [
        {"id": 1, "name": "person", "supercategory": "none"},
        {"id": 7, "name": "dog", "supercategory": "person"},
    ]
    assert _dataset(tmp_path, _content(categories=categories)).classes.names[1:] == ("person", "dog")
    categories[0]["id"] = 0
    annotations = [_object(1, category_id=number, segmentation=_runs(5, 10, 5, 10)) for number in (0, 7)]
    data = _dataset(tmp_path, _content(categories=categories, annotations=annotations))
    assert data.classes.names[1:] == ("person", "dog")


def test_the_background_of_labelme(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    categories = [{"id": 0, "name": "_background_"}, {"id": 1, "name": "person"}, {"id": 7, "name": "dog"}]
    assert _dataset(tmp_path, _content(categories=categories)).classes.names == (
        "background",
        "person",
        "dog",
    )
    assert "_background_ is taken as the background" in caplog.text


def test_a_byte_order_mark(tmp_path: Path) -> None:
    path = _write(tmp_path) / "annotations/instances_val2017.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(open_coco(str(tmp_path), "val")) == 2


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("licenses", ["CC BY"]),
        ("licenses", [7]),
        ("categories", ["car"]),
        ("images", [{"id": 1, "file_name": "a.png", "height": 20, "width": 2**31}]),
        ("images", [{"id": 1, "file_name": "a.png", "height": -20, "width": 30}]),
        ("images", [{"id": 1, "file_name": "a.png", "height": 1e400, "width": 30}]),
        ("images", [{"id": [1], "file_name": "a.png", "height": 20, "width": 30}]),
        ("images", [{"id": 1, "file_name": ["a.png"], "height": 20, "width": 30}]),
        ("annotations", [7]),
        ("annotations", "x"),
        ("segmentation", [[10**400, 1, 8, 1, 8, 8]]),
        ("segmentation", [[[1, 2], [3]]]),
        ("segmentation", {"counts": [10**30, 1], "size": [H, W]}),
        ("segmentation", {"counts": [-(10**30), 600], "size": [H, W]}),
        ("segmentation", {"counts": "~" * 100, "size": [H, W]}),
        ("segmentation", {"counts": [1], "size": 7}),
    ],
)
def test_values_of_other_types_end_as_a_data_set_error(tmp_path: Path, place: str, value: object) -> None:
    content = _content()
    if place == "segmentation":
        content["annotations"][0]["segmentation"] = value
    else:
        content[place] = value
    _write(tmp_path, content)
    if place == "licenses":
        assert open_coco(str(tmp_path), "val").terms is None
        return
    with pytest.raises(DatasetError) as caught:
        _ = [open_coco(str(tmp_path), "val")[0]]
    assert len(str(caught.value)) < 1000

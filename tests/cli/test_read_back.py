# SPDX-License-Identifier: Apache-2.0
"""What imp-segment writes for any image that it accepts, read back as labels: imp-eval then scores 100 %."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from imp_trt.cli import eval as evaluate
from imp_trt.cli import segment
from imp_trt.data.images import read_image
from imp_trt.segmenter import Segmenter
from imp_trt.train.datasets import open_dataset
from tests.support import image_files, tiny

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")


def _gray(path: Path) -> None:
    Image.fromarray(image_files.gray()).save(path)


IMAGES: dict[str, Callable[[Path], object]] = {
    **{
        f"turned{number}{suffix}": (lambda path, number=number: image_files.with_orientation(path, number))
        for suffix in (".jpg", ".png", ".webp", ".tif")
        for number in range(1, 9)
    },
    "gray.png": _gray,
    "gray.jpg": _gray,
    "palette.png": lambda path: Image.fromarray(image_files.rgb()).quantize(16, dither=0).save(path),
    "clear.png": lambda path: Image.fromarray(image_files.rgb()).quantize(16).save(path, transparency=0),
    "cmyk.jpg": lambda path: Image.fromarray(image_files.rgb()).convert("CMYK").save(path),
    "deep.png": lambda path: image_files.png(path, image_files.rgb().astype(np.uint16) * 257, 16),
    "raw.png": lambda path: image_files.png(path, image_files.rgb().astype(np.uint16) * 16, 16),
    "deep.tif": lambda path: image_files.tiff(path, image_files.rgb().astype(np.uint16) * 257, orientation=6),
    "pages.tif": lambda path: image_files.tiff(path, image_files.rgb(), pages=2),
    "one.bmp": lambda path: Image.fromarray(image_files.gray()).convert("1").save(path),
    "one pixel.png": lambda path: Image.fromarray(image_files.rgb()[:1, :1]).save(path),
    "wide one.png": lambda path: Image.fromarray(np.tile(image_files.rgb()[:3], (1, 9, 1))).save(path),
    "ünïcode.ppm": lambda path: Image.fromarray(image_files.rgb()).save(path),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, the artifact, and what imp-segment writes for them."""
    root = tmp_path_factory.mktemp("read back")
    (root / "images").mkdir()
    for name, save in IMAGES.items():
        save(root / "images" / f"{name.replace('.', '_')}{Path(name).suffix}")
    artifact = str(tiny.artifact(root))
    outputs = ["--save-classes", f"{root}/labels", "--save-panoptic", f"{root}/panoptic"]
    arguments = [f"{root}/images", "-a", artifact, *outputs, "--save-json", f"{root}/lines.jsonl"]
    assert segment.main([*arguments, "--threads", "1", "-q"]) == 0
    return root


def test_class_maps_score_100_percent(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = sorted((written / "images").iterdir())
    assert len(list((written / "labels").iterdir())) == len(images) == len(IMAGES)
    lines = [f"images/{path.name}\tlabels/{path.stem}.png" for path in images]
    (written / "val.txt").write_text("\n".join(lines), encoding="utf-8")
    names = list(tiny.CLASSES.names)
    (written / "dataset.json").write_text(json.dumps({"classes": names, "things": ["car", "person"]}))
    data = ["--data", str(written), "--split", "val", "--metrics", "semantic", "--json"]
    assert evaluate.main([str(written / "tiny.fp32.onnx"), *data, "--threads", "1", "-q"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["images"] == len(IMAGES)
    assert scores["semantic"]["mean_iou"] == 1
    assert scores["semantic"]["pixel_accuracy"] == 1


def test_panoptic_images_hold_the_segments_of_their_json(written: Path) -> None:
    described = json.loads((written / "panoptic" / "panoptic.json").read_text(encoding="utf-8"))
    assert len(described["annotations"]) == len(IMAGES)
    for annotation in described["annotations"]:
        folder = written / "panoptic"
        (path,) = folder.rglob(annotation["file_name"])
        blue, green, red = np.moveaxis(cv2.imread(str(path)).astype(np.int64), 2, 0)
        ids = red + 256 * green + 65536 * blue
        areas = {segment["id"]: segment["area"] for segment in annotation["segments_info"]}
        counts = dict(zip(*(values.tolist() for values in np.unique(ids, return_counts=True)), strict=True))
        counts.pop(0, None)
        assert counts == areas


def test_instances_as_a_coco_file_are_read_back(written: Path) -> None:
    """The result's COCO form, put into a file, gives the instance masks back."""
    images, annotations = [], []
    results = {}
    with Segmenter(written / "tiny.fp32.onnx", threads=1) as segmenter:
        for number, path in enumerate(sorted((written / "images").iterdir()), 1):
            result = results[path.name] = segmenter.run(read_image(path))
            height, width = result.semantic.shape
            images.append({"id": number, "file_name": path.name, "height": height, "width": width})
            annotations += [
                {**entry, "id": len(annotations) + k, "iscrowd": 0}
                for k, entry in enumerate(result.to_coco(number), 1)
            ]
    ids = sorted({entry["category_id"] for entry in annotations})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": tiny.CLASSES.names[number]} for number in ids],
    }
    (written / "val.json").write_text(json.dumps(content), encoding="utf-8")
    dataset = open_dataset(f"coco:{written}/val.json,{written}/images", "val")
    for index, image in enumerate(images):
        sample, result = dataset[index], results[image["file_name"]]
        masks = list(result.instances.paste())
        expected = sorted(int(mask.sum()) for mask in masks if mask.any())
        numbers, counts = np.unique(sample.instances, return_counts=True)
        assert sorted(counts[numbers > 0].tolist()) == expected
        union = np.zeros(sample.size, np.bool_)
        for mask in masks:
            union |= mask
        assert np.array_equal(sample.instances > 0, union)

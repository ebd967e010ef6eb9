# SPDX-License-Identifier: Apache-2.0
"""What holds for every sample, and the ones that are a single file."""

from __future__ import annotations

import json
import os
import runpy
import sys

import cv2
import numpy as np
import pytest

from imp_trt.data.images import encode_image
from imp_trt.errors import OutputError, SourceError
from tests.samples.conftest import SAMPLES
from tests.support import tiny

TOOLS = {"on_target"}  # run as they are, not copied

PROGRAMS = sorted(path for path in SAMPLES.rglob("*") if path.suffix in (".py", ".cpp"))


@pytest.mark.parametrize(
    "path", [p for p in PROGRAMS if p.parent.name not in TOOLS], ids=lambda path: path.name
)
def test_samples_stay_short_enough_to_copy(path):
    lines = [line for line in path.read_text().splitlines() if "SPDX-License-Identifier" not in line]
    assert len(lines) < (150 if path.suffix == ".py" else 170)  # C++ has headers and braces


@pytest.mark.parametrize("name", sorted({path.relative_to(SAMPLES).parts[0] for path in PROGRAMS}))
def test_every_sample_is_explained_and_listed(name):
    place = SAMPLES / name
    page = "" if place.is_file() else "/README.md"
    assert f"({name}{page})" in (SAMPLES / "README.md").read_text()
    if place.is_dir():
        explained = (place / "README.md").read_text()
        assert any(path.name in explained for path in PROGRAMS if path.parent == place)


def test_segment_image(tmp_path, monkeypatch, capsys, artifact):
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), tiny.frame())
    monkeypatch.setattr(sys, "argv", ["segment_image.py", str(artifact), str(picture)])
    runpy.run_path(str(SAMPLES / "image" / "segment_image.py"), run_name="__main__")
    classes = cv2.imread(str(tmp_path / "photo.classes.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(classes, tiny.truth(tiny.frame()))
    found = json.loads((tmp_path / "photo.json").read_text())["instances"]
    assert [instance["class"] for instance in found] == ["car", "person"]
    overlay = cv2.imread(str(tmp_path / "photo.overlay.png"))
    assert overlay.shape == (64, 96, 3)
    assert capsys.readouterr().out.splitlines() == [
        "car          0.90  [10.0, 20.0, 50.0, 52.0]",
        "person       0.60  [60.0, 8.0, 76.0, 40.0]",
    ]


def test_segment_image_lists_what_is_sure_enough(tmp_path, sample, artifact, capsys):
    program = sample("image/segment_image.py")
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), tiny.frame())
    program.SURE = 0.7
    program.segment(str(artifact), str(picture))
    assert capsys.readouterr().out.startswith("car          0.90")
    (tmp_path / "photo.overlay.png").unlink()
    (tmp_path / "photo.overlay.png").mkdir()
    with pytest.raises(OutputError, match=r"photo\.overlay\.png cannot be written"):
        program.segment(str(artifact), str(picture))


def test_segment_image_says_what_is_no_frame(tmp_path, sample, artifact):
    with pytest.raises(SourceError, match="can decode"):
        sample("image/segment_image.py").segment(str(artifact), str(artifact))


def test_segment_image_takes_any_name(tmp_path, sample, artifact):
    image = tmp_path / os.fsdecode(b"x\xff.png")
    image.write_bytes(encode_image(tiny.frame(), ".png"))
    sample("image/segment_image.py").segment(str(artifact), str(image))
    assert (tmp_path / os.fsdecode(b"x\xff.overlay.png")).exists()


def test_segment_image_says_what_is_no_network(tmp_path, monkeypatch):
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), tiny.frame())
    monkeypatch.setattr(sys, "argv", ["segment_image.py", str(tmp_path / "no.onnx"), str(picture)])
    with pytest.raises(SystemExit, match=r"no\.onnx"):
        runpy.run_path(str(SAMPLES / "image" / "segment_image.py"), run_name="__main__")


@pytest.mark.slow
def test_mask_rcnn_imp_from_coco_weights(tmp_path):
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), tiny.frame(90, 120))
    sample = runpy.run_path(str(SAMPLES / "mask_rcnn_imp_coco.py"))
    arguments = [str(picture), "-o", str(tmp_path / "out"), "--input-size", "64", "96", "--random-weights"]
    overlay = sample["main"](arguments)
    assert cv2.imread(str(overlay)).shape[1] >= 120
    manifest = json.loads((tmp_path / "out" / "mask_rcnn_imp_coco.fp32.onnx.json").read_text())
    assert len(manifest["classes"]["names"]) == 81

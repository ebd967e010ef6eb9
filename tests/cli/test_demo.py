# SPDX-License-Identifier: Apache-2.0
"""imp-demo as a whole, with a shorter clip."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from imp_trt.cli.demo import main
from imp_trt.export.onnx.from_model import onnx_from_module
from imp_trt.export.quantization import lowering
from tests.support import tiny
from tests.support.shared_exports import shared


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "onnx_from_module", shared(onnx_from_module))
        assert main(["-o", str(folder), "--max-frames", "8", "--threads", "1", "-q"]) == 0
    return folder


@pytest.mark.slow
def test_files(made):
    names = sorted(p.name for p in made.iterdir())
    assert names == [
        "contact_sheet.png",
        "demo.mp4",
        "scenes.fp32.golden.npz",
        "scenes.fp32.onnx",
        "scenes.fp32.onnx.json",
    ]
    video = cv2.VideoCapture(str(made / "demo.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(15)
    sheet = cv2.imread(str(made / "contact_sheet.png"))
    assert sheet.shape[1] > 4 * 400
    assert sheet.std() > 20, "a sheet of one color shows nothing"


@pytest.mark.slow
def test_the_artifact_is_verified(made):
    manifest = json.loads((made / "scenes.fp32.onnx.json").read_text())
    assert manifest["verification"]["verified_on"] == "onnxruntime-cpu"
    assert manifest["verification"]["label_agreement"] >= 0.9999


@pytest.mark.slow
def test_the_demo_model_sees_the_street(made):
    """The bundled weights are trained: most pixels of scenes that training never saw are right."""
    from imp_trt import Segmenter
    from imp_trt.synthetic import StreetScenes

    scenes = StreetScenes(seed=99, length=4)
    samples = [scenes[i] for i in range(4)]
    with Segmenter(made / "scenes.fp32.onnx", threads=1) as segmenter:
        right = [np.mean(segmenter.run(s.image).semantic == s.semantic) for s in samples]
    assert np.mean(right) > 0.85


def test_images_of_several_sizes_are_an_error_with_a_command_that_takes_them(tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    for index, width in enumerate((96, 96, 80)):
        cv2.imwrite(str(tmp_path / f"in/{index}.png"), np.zeros((64, width, 3), np.uint8))
    artifact = tiny.artifact(tmp_path)
    report = SimpleNamespace(path=artifact)
    monkeypatch.setattr("imp_trt.export.pipeline.export_onnx", lambda *_, **__: report)
    (tmp_path / "out").mkdir()
    assert main([str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-q"]) == 2
    message = capsys.readouterr().err
    assert "expected 96x64, as the first image, for one video, got 80x64" in message
    assert f"Fix: imp-segment IMAGES overlays/ -a {artifact}" in message


def test_a_source_that_is_not_there(tmp_path, capsys):
    assert main([str(tmp_path / "none.mp4"), "-o", str(tmp_path / "out"), "-q"]) == 2
    message = capsys.readouterr().err
    assert "none.mp4" in message
    assert "trained on synthetic street scenes" in message, "the warning comes before the work"
    assert "samples/weights/camvid_imp.safetensors" in message
    assert not (tmp_path / "out").exists(), "a mistake is found before anything is written"

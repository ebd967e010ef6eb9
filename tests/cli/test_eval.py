# SPDX-License-Identifier: Apache-2.0
"""imp-eval from end to end, at the smallest size."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from imp_trt.benchmark import machine
from imp_trt.classes import ClassTable
from imp_trt.cli import eval as command
from imp_trt.metrics import SemanticScores, bootstrap_differences
from imp_trt.models.checkpoint import save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import system, without_imp
from imp_trt.results.image_grid import GAP
from imp_trt.segmenter import Segmenter
from imp_trt.synthetic import StreetScenes

DATA = ["--data", "scenes:64x128", "--max-images", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained networks: with IMP, without, without a detector, and one of other classes."""
    import torch

    folder = tmp_path_factory.mktemp("models")
    classes = StreetScenes(seed=0, size=(64, 128), length=1).classes
    other = ClassTable(("ground", "box"), (1,), ((0, 0, 0), (255, 0, 0)))
    imp = system("panoptic-fpn-imp", classes, (64, 128))
    configs = {
        "imp": imp,
        "plain": without_imp(imp),
        "semantic": system("semantic-fpn", classes, (64, 128)),
        "other": system("semantic-fpn", other, (64, 128)),
    }
    paths = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        paths[name] = str(save_checkpoint(folder / f"{name}.safetensors", ImpNetwork(config), {}))
    return paths


@pytest.mark.slow
def test_json_of_one_model(models, capsys):
    assert command.main([models["imp"], *DATA, "--json", "-q"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["model"] == models["imp"]
    assert scores["images"] == 2
    assert 0 <= scores["semantic"]["mean_iou"] <= 1
    assert set(scores["semantic"]["iou"]) >= {"road", "car"}
    assert all(scores[name] for name in ("boundary", "instances", "panoptic"))
    assert "baseline" not in scores


def test_images_without_labels_have_no_scores(models, capsys, monkeypatch):
    def unlabeled(self, index):
        sample = rendered(self, index)
        return replace(sample, semantic=np.full_like(sample.semantic, 255))

    rendered = StreetScenes.__getitem__
    monkeypatch.setattr(StreetScenes, "__getitem__", unlabeled)
    assert command.main([models["semantic"], *DATA, "-q"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "expected labeled pixels, to compare predictions with, got none in 2 of 200 images" in captured.err


@pytest.mark.slow
def test_a_network_that_leaves_out_instances_is_noted(models, capsys, tmp_path):
    config = system("panoptic-fpn-imp", StreetScenes(seed=0, size=(64, 128), length=1).classes, (64, 128))
    config = replace(config, detector_config=replace(config.detector_config, score_threshold=0.4))
    path = str(save_checkpoint(tmp_path / "strict.safetensors", ImpNetwork(config), {}))
    assert command.main([path, "--baseline", models["imp"], *DATA, "-q"]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "leaves out instances" in line]
    assert len(notes) == 1
    assert path in notes[0]
    assert "below 0.4; the metric instances usually counts them from 0.05 up" in notes[0]


def test_a_network_without_a_detector_has_no_instances(models, capsys):
    assert command.main([models["semantic"], *DATA, "--json", "-q"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["boundary"]
    assert scores["instances"] is None
    assert scores["panoptic"] is None


@pytest.mark.slow
def test_a_pair_as_text_and_as_a_page(models, capsys, tmp_path):
    page = tmp_path / "report.html"
    arguments = [
        models["imp"],
        "--baseline",
        models["plain"],
        *DATA,
        "--report",
        str(page),
        "--num-images",
        "2",
    ]
    assert command.main(arguments) == 0
    said = capsys.readouterr()
    assert "IoU of each class, %:" in said.out
    assert "difference" in said.out
    assert "Differences with 95% intervals" in said.out
    assert str(page) in said.err
    text = page.read_text()
    assert text.count("<figure>") == 2 * 5
    assert models["plain"] in text


@pytest.mark.slow
def test_frames_alone_as_one_sheet(models, capsys, tmp_path):
    path = tmp_path / "sheet.png"
    arguments = [
        models["imp"],
        "--baseline",
        models["plain"],
        *DATA,
        "--image-grid",
        str(path),
        "--num-images",
        "2",
        "--json",
    ]
    assert command.main(arguments) == 0
    said = capsys.readouterr()
    assert str(path) in said.err
    scores = json.loads(said.out)
    difference = scores["difference"]["mean_iou"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert difference["value"] == pytest.approx(
        scores["semantic"]["mean_iou"] - scores["baseline"]["semantic"]["mean_iou"]
    )
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
    panels = 5  # image, ground truth, baseline, model, its instances alone
    assert cv2.imread(str(path)).shape[1] == panels * 128 + (panels - 1) * GAP


@pytest.mark.slow
def test_counts_of_each_image_give_the_scores_and_their_intervals(models, capsys, tmp_path):
    path = tmp_path / "counts.json"
    arguments = [models["imp"], "--baseline", models["plain"], *DATA, "--metrics", "semantic", "--json", "-q"]
    assert command.main([*arguments, "--image-counts", str(path)]) == 0
    printed, written = json.loads(capsys.readouterr().out), json.loads(path.read_text())
    classes = ClassTable.from_dict(written["classes"])
    model, baseline = (
        SemanticScores.from_image_counts(np.array(written[name]["counts"]), classes)
        for name in ("model", "baseline")
    )
    assert len(model.image_counts) == 2
    assert model.to_dict() == {k: v for k, v in printed["semantic"].items() if k != "confusion"}
    assert written["baseline"]["path"] == printed["baseline"]["model"] == models["plain"]
    differences = {k: v.to_dict() for k, v in bootstrap_differences(model, baseline).items()}
    assert differences == printed["difference"]


def test_chosen_measures_and_no_frames(models, capsys, tmp_path):
    page = tmp_path / "report.html"
    arguments = [
        models["imp"],
        *DATA,
        "--metrics",
        "semantic",
        "--report",
        str(page),
        "--num-images",
        "0",
        "-q",
    ]
    assert command.main(arguments) == 0
    assert "box AP" not in capsys.readouterr().out
    assert "<figure>" not in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["--report", "--image-grid", "both", "images"])
def test_an_output_that_cannot_be_written_takes_no_other(models, capsys, monkeypatch, tmp_path, failing):
    (tmp_path / "file").touch()
    places = {"--report": tmp_path / "r.html", "--image-grid": tmp_path / "g.png"}
    broken = {"both": list(places), "images": []}.get(failing, [failing])
    places |= {flag: tmp_path / "file" / places[flag].name for flag in broken}
    if failing == "images":

        def interrupted(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "_example_images", interrupted)
    flags = [str(argument) for pair in places.items() for argument in pair]
    arguments = [models["semantic"], *DATA, "--metrics", "semantic", "--num-images", "1", "--json", "-q"]
    assert command.main([*arguments, *flags]) == (130 if failing == "images" else 2)
    said = capsys.readouterr()
    assert json.loads(said.out)["semantic"]
    assert said.err.count("error: ") == len(broken)
    written = {flag for flag, place in places.items() if place.exists()}
    assert written == (set() if failing == "images" else set(places) - set(broken))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.safetensors", "--data", "scenes"], "existing file"),
        (["imp", "--data", "camvid:/nowhere"], "/nowhere"),
        (["imp", *DATA, "--metrics", "beauty"], "--metrics: expected some of semantic, boundary, inst"),
        (["semantic", *DATA, "--metrics", "beauty"], "--metrics: expected some of semantic, boundary, inst"),
        (["semantic", *DATA, "--metrics", "panoptic"], "has no detector: expected some of semantic, bound"),
        (["imp", *DATA, "--baseline", "other"], "those of the dataset"),
        (["imp", *DATA, "--report", "page.pdf"], "ends in .html"),
        (["imp", *DATA, "--image-grid", "sheet.jpg"], "ends in .png"),
        (["imp", *DATA, "--image-grid", "sheet.png", "--num-images", "0"], "--num-images of at least 1"),
        (["imp", *DATA, "--image-counts", "counts.npz"], "ends in .json"),
        (["scenes.onnx", *DATA, "--image-counts", "scenes.onnx.json"], "which is an input"),
        (["imp", "--data", "coco:a.json,images", "--image-counts", "a.json"], "which is an input"),
        (["imp", *DATA, "--num-images", "6"], "--num-images 6: expected --report or --image-grid"),
        (["imp", *DATA, "--num-images", "0"], "Fix: --max-images N"),
    ],
)
def test_mistakes_exit_2_with_one_line(models, capsys, arguments, words):
    assert command.main([models.get(a, a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_missing_package_is_reported_before_the_scoring(models, capsys, monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("imp_trt.train.evaluation.evaluate", lambda *_: pytest.fail("scored in vain"))
    assert command.main([models["imp"], *DATA, "--report", str(tmp_path / "page.html")]) == 5
    assert "imp-trt[eval]" in capsys.readouterr().err


@pytest.mark.parametrize(("gpu", "words"), [(None, "with 2 of its"), (0, "NVIDIA X in a machine with")])
def test_the_report_names_what_the_models_run_on(models, monkeypatch, gpu, words):
    """A checkpoint runs on the GPU if there is one, and its times were said to be those of the CPU."""
    monkeypatch.setattr("imp_trt.benchmark.run.gpu_of", lambda *_: gpu)
    described = machine.describe
    found = {"gpu": None if gpu is None else {"name": "NVIDIA X"}}
    monkeypatch.setattr(machine, "describe", lambda *a: {**described(a[0], a[1], None), **found})
    with Segmenter(models["semantic"], device="cpu") as segmenter:
        assert words in command._machine(segmenter, 2)


def test_names_for_headings(tmp_path):
    one, two = tmp_path / "a" / "imp.safetensors", tmp_path / "b" / "imp.safetensors"
    assert command._names([one, tmp_path / "plain.safetensors"]) == ["imp", "plain"]
    assert command._names([one, two]) == ["a", "b"]
    assert command._names([one, one]) == ["baseline", "model"]
    assert command._names([one]) == ["imp"]

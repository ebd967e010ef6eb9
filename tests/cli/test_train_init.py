# SPDX-License-Identifier: Apache-2.0
"""imp-train --init FILE: a run that starts from a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from imp_trt.classes import ClassTable, default_palette
from imp_trt.cli import train as command
from imp_trt.errors import CheckpointError, DatasetError, UsageError
from imp_trt.models.checkpoint import load_model, read_checkpoint, save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.train import recipes
from imp_trt.train.datasets import open_dataset
from tests.cli.test_train import TINY
from tests.support.networks import detecting_network, small_config

DATA = "scenes:64x128"
SCENES = open_dataset(DATA, "val").classes


@pytest.fixture
def base(monkeypatch, tmp_path):
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    monkeypatch.setitem(recipes.RECIPES, "tiny-detector-first", replace(TINY, semantic_in_stage_one=False))
    arguments = ["--data", DATA, "--recipe", "tiny", "--iterations", "0", "0", "--threads", "1"]
    return [*arguments, "-o", str(tmp_path / "run"), "--init"]


def saved(path, classes=SCENES, name="panoptic-fpn-imp", metadata=None, **changes):
    network = detecting_network(replace(small_config(name, **changes), classes=classes))
    with torch.no_grad():
        if hasattr(network.semantic, "canvas_kernel"):
            network.semantic.canvas_kernel.normal_(0, 1)
    return save_checkpoint(path, network, metadata or {})


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["tiny", pytest.param("tiny-detector-first", marks=pytest.mark.slow)])
def test_without_steps_the_result_is_the_checkpoint(base, tmp_path, recipe):
    file = saved(tmp_path / "mine.safetensors", canvas_scale=3.0)
    assert command.main([*base, str(file), "-q", "--recipe", recipe]) == 0
    start, _ = load_model(file)
    result, metadata = load_model(tmp_path / "run" / "imp.safetensors")
    assert result.config == start.config
    weights = start.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in result.state_dict().items())
    assert metadata["initial"] == "checkpoint"
    assert metadata["initial_sha256"] == read_checkpoint(file).sha256


@pytest.mark.slow
def test_what_is_taken_is_reported_and_terms_are_kept(base, tmp_path, capsys):
    names = (*SCENES.names[:-1], "unicorn")
    file = saved(
        tmp_path / "mine.safetensors", replace(SCENES, names=names), metadata={"terms": "research only"}
    )
    assert command.main([*base, str(file)]) == 0
    said = capsys.readouterr().err
    for words in (
        f"from {file}",
        "taken: backbone, FPN, detector, semantic head; classes ",
        f"new: classes {SCENES.names[-1]}",
        "not used: classes unicorn",
        "license terms of the result: research only",
    ):
        assert words in said
    assert "untrained" not in said
    assert load_model(tmp_path / "run" / "imp.safetensors")[1]["terms"] == "research only"


@pytest.mark.slow
def test_another_file_is_another_run(base, tmp_path, capsys):
    file = saved(tmp_path / "mine.safetensors")
    assert command.main([*base, str(file), "-q"]) == 0
    assert command.main([*base, str(file), "-q"]) == 0
    saved(file, metadata={"a": 1})
    assert command.main([*base, str(file), "-q"]) == UsageError.exit_code
    assert "another run" in capsys.readouterr().err


@pytest.mark.slow
def test_an_imported_detector_gets_a_semantic_head(base, tmp_path, capsys):
    things = ClassTable(("background", "car", "person"), (1, 2), default_palette(3))
    file = saved(tmp_path / "mine.safetensors", things, "mask-rcnn-imp", backbone="resnet18")
    assert command.main([*base, str(file), "--system", "panoptic-fpn-imp"]) == 0
    assert "panoptic-fpn-imp on resnet18" in (said := capsys.readouterr().err)
    assert "new: semantic head" in said
    config = load_model(tmp_path / "run" / "imp.safetensors")[0].config
    assert (config.semantic_head, config.imp, config.classes) == ("fpn", True, SCENES)
    assert config.detector_config == load_model(file)[0].config.detector_config


@pytest.mark.slow
def test_the_system_and_sizes_are_those_of_the_file_by_default(base, tmp_path):
    network = ImpNetwork(replace(small_config("semantic-p2", sampling="rect"), classes=SCENES))
    file = tmp_path / "mine.pt"
    torch.save({"config": network.config.to_dict(), "metadata": {}, "weights": network.state_dict()}, file)
    assert command.main([*base, str(file), "-q"]) == 0
    assert load_model(tmp_path / "run" / "plain.safetensors")[0].config == network.config


def test_a_checkpoint_has_a_recipe_of_its_own(tmp_path):
    options = command.parser().parse_args(["--data", DATA, "-o", "x", "--init", "mine.safetensors"])
    assert command._recipe(options) == recipes.RECIPES["fine-tune"]
    options = command.parser().parse_args(["--data", DATA, "-o", "x", "--init", "scratch"])
    assert command._recipe(options) == recipes.RECIPES["scenes"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--backbone", "resnet18"], "backbone='compact'"),
        (["--norm", "group"], "norm='batch'"),
        (["--anchor-scales", "1", "1.4"], "anchor_scales=(1.0,)"),
    ],
)
def test_options_for_another_network_exit_with_the_values_of_the_file(base, tmp_path, capsys, more, words):
    file = saved(tmp_path / "mine.safetensors")
    assert command.main([*base, str(file), "-q", *more]) == CheckpointError.exit_code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("imagnet", "scratch, imagenet, coco"), ("none.safetensors", "existing file")]
)
def test_a_start_that_does_not_exist_is_a_usage_error(base, tmp_path, capsys, name, words):
    assert command.main([*base, name, "-q"]) == UsageError.exit_code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_of_another_program_name_the_import(base, tmp_path, capsys):
    file = tmp_path / "foreign.pth"
    torch.save({"model": {"backbone.weight": torch.zeros(3)}}, file)
    assert command.main([*base, str(file), "-q"]) == CheckpointError.exit_code
    assert "imp-import FILE" in capsys.readouterr().err


def test_backbone_weights_beside_a_checkpoint_are_rejected(base, tmp_path, capsys):
    file = saved(tmp_path / "mine.safetensors")
    assert command.main([*base, str(file), "-q", "--backbone-weights", "b.pth"]) == UsageError.exit_code
    assert "--backbone-weights" in capsys.readouterr().err


@pytest.mark.slow
def test_validation_from_the_command_line(base, tmp_path, capsys):
    file = saved(tmp_path / "mine.safetensors")
    few = ["--system", "panoptic-fpn-imp", "--set", "stage_two.warmup=0", "--device", "auto"]
    assert command.main([*base, str(file), *few, "--val", str(folder_of(tmp_path)), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"stage_one", "imp"}, "no step, nothing to evaluate"
    more = [*base, str(file), *few, "--iterations", "0", "2", "--val-every", "1", "--json"]
    more[more.index("-o") + 1] = str(tmp_path / "other")
    assert command.main([*more, "--val", str(folder_of(tmp_path))]) == 0
    written = json.loads(capsys.readouterr().out)
    assert set(written) == {"stage_one", "imp", "imp.best"}
    assert len((tmp_path / "other" / "imp.val.jsonl").read_text().splitlines()) == 2


def test_what_is_validated_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = folder_of(tmp_path)
    folder.rename(tmp_path / "train")  # the name of a split
    (tmp_path / "mine").symlink_to("train")
    description = json.loads((tmp_path / "train/dataset.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps({**description, "root": "train"}))
    dataset = open_dataset(DATA, "train")
    found = {}
    for value in ("train", "val", "mine", "mine.json", "./train"):
        options = command.parser().parse_args(["--data", DATA, "-o", "x", "--val", value])
        found[value] = command._validation(options, dataset).dataset
    assert {name: len(data) for name, data in found.items()} == {
        "train": 1200,
        "val": 200,
        "mine": 2,
        "mine.json": 2,
        "./train": 2,
    }


def test_a_split_that_val_does_not_have_is_not_blamed_on_another_option(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "val.txt").rename(folder / "train.txt")
    (folder / "coco.json").write_text("{}")
    for data, val, fix in (
        (DATA, str(folder), r"add a split val to .*, or --val SPLIT takes one of --data"),
        (f"coco:{folder}/coco.json,{folder}", "val", r"write coco:PATH/\{split\}.*, or add --val all"),
    ):
        options = command.parser().parse_args(["--data", data, "-o", "x", "--val", val])
        with pytest.raises(DatasetError, match=f"Fix: {fix}$"):
            command._validation(options, open_dataset(DATA, "train"))


def folder_of(root):
    """Two scenes as a dataset of files."""
    from imp_trt.synthetic import StreetScenes
    from tests.bench.bench_finetune import write_pictures

    folder = root / "pictures"
    if not folder.exists():
        folder.mkdir()
        write_pictures(folder, {"val": StreetScenes(seed=9, size=(64, 128), length=2)})
    return folder


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--patience", "2"], "--val SPLIT"),
        (["--val-every", "2"], "--val SPLIT"),
        (["--val", "nope"], "nope"),
        (["--val", "camvid:nowhere"], "nowhere"),
    ],
)
def test_a_validation_that_cannot_be_is_rejected(base, tmp_path, capsys, more, words):
    assert command.main([*base, "scratch", "-q", *more]) == UsageError.exit_code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

# SPDX-License-Identifier: Apache-2.0
"""imp-train from end to end, at the smallest size."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from imp_trt.cli import train as command
from imp_trt.cli import train_options
from imp_trt.cli.train_settings import reject_idle_settings
from imp_trt.cli.train_warnings import warn_of_settings, warn_of_untrained
from imp_trt.errors import CheckpointError, UsageError
from imp_trt.models.checkpoint import Checkpoint, load_model
from imp_trt.models.presets import SYSTEMS, system
from imp_trt.train import recipes, tensorboard
from imp_trt.train.recipes import Stage
from imp_trt.train.run import Run
from tests.models.test_efficientnet_lite import published_state
from tests.train.boxes import CLASSES, CONFIG, Boxes

TINY = replace(
    recipes.RECIPES["smoke"],
    stage_one=Stage(2, 1e-3, 1e-3, warmup=1),
    stage_two=Stage(2, 1e-3, 1e-3, warmup=1),
    crop=(64, 64),
    class_weights=False,  # counting the classes draws two hundred scenes
)
DATA = ["--data", "scenes:64x128", "--input-size", "64", "128"]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    return [*DATA, "--recipe", "tiny", "--threads", "1"]


@pytest.mark.slow
def test_a_pair_is_written_and_announced(tiny, tmp_path, capsys):
    assert command.main([*tiny, "--with-baseline", "--half", "-o", str(tmp_path / "run")]) == 0
    # Kernels as float16: the results are half of the float32 file that stage two starts from.
    sizes = {p.stem: p.stat().st_size for p in (tmp_path / "run").glob("*.safetensors")}
    assert set(sizes) == {"stage_one", "imp", "plain"}
    assert sizes["imp"] < 0.6 * sizes["stage_one"]
    said = capsys.readouterr()
    assert said.out.splitlines()[1] == f"imp: {tmp_path / 'run' / 'imp.safetensors'}"
    for words in (
        "5.1 M parameters",
        "from scratch",
        "stage one 2 iterations, stage two 2 x 2",
        "batch size 2",
    ):
        assert words in said.err
    assert "padding" not in said.err
    # The same command finds everything done.
    assert (
        command.main([*tiny, "--with-baseline", "--half", "-q", "--json", "-o", str(tmp_path / "run")]) == 0
    )
    said = capsys.readouterr()
    assert set(json.loads(said.out)) == {"stage_one", "imp", "plain"}
    assert said.err == ""


@pytest.mark.slow
def test_padding_is_reported_before_the_training(tiny, tmp_path, capsys):
    arguments = [*tiny, "--stage", "one", "--iterations", "0", "0", "--input-size", "64", "160"]
    assert command.main([*arguments, "-o", str(tmp_path)]) == 0
    assert "20% of the network input is padding (frames 128x64, input 160x64)" in (capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], None),
        (["--input-size", "128", "256"], "scaled by 2.00, but the recipe trains with scales 0.75 to 1.50"),
        (["--input-size", "128", "256"], "--set scale=1.5,3 "),
        (["--set", "short_sides=128,160"], "scaled by 1.00, but the recipe trains with scales 2.00 to 2.50"),
        (["--set", "short_sides=128,160"], "--set short_sides=64, or"),
        (["--set", "short_sides=128,160", "--set", "max_long=128"], None),
        (["--set", "short_sides=32,", "--set", "max_long=64"], "short_sides=64, --set max_long=None or"),
    ],
)
def test_an_input_size_that_training_never_shows_is_warned_of(tiny, tmp_path, capsys, more, words):
    nothing = ["--stage", "one", "--iterations", "0", "0", "-o", str(tmp_path)]
    assert command.main([*tiny, *more, *nothing]) == 0
    said = capsys.readouterr().err
    assert ("WARNING" in said) == (words is not None)
    assert (words or "") in said


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ["stage_two.iterations=50", "stage_two.warmup=50"],
            "stage two ends after 50 steps, in its warmup of 50",
        ),
        (["stage_two.schedule=step"], "stage two has a schedule of steps without milestones"),
        (
            ["stage_one.schedule=step", "stage_one.milestones=1,3"],
            "stage one ends after 2 steps, before its mile",
        ),
        (["stage_one.schedule=step", "stage_one.milestones=1,3"], "milestones 3: "),
        (["stage_one.schedule=step", "stage_one.milestones=1,"], None),
        (["stage_one.iterations=0", "stage_one.warmup=50"], None),
    ],
)
def test_a_schedule_that_is_longer_than_its_stage_is_warned_of(
    tmp_path, caplog, monkeypatch, settings, expected
):
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    warn_of_settings(Run(Boxes(), recipes.changed(TINY, settings), 0, tmp_path, initial="coco"), CONFIG)
    assert ("WARNING" in caplog.text) == (expected is not None), caplog.text
    assert (expected or "") in caplog.text


def test_a_stage_one_that_a_system_skips_has_no_schedule(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    plan = recipes.changed(TINY, ["stage_one.warmup=50", "semantic_in_stage_one=False"])
    config = system("semantic-fpn", CLASSES, (64, 96))
    warn_of_settings(Run(Boxes(), plan, 0, tmp_path), config)
    assert "stage one" not in caplog.text


@pytest.mark.parametrize(
    ("lengths", "settings", "more", "told"),
    [
        ((0, 0), [], {}, "no stage trains the detector and semantic head"),
        ((0, 0), [], {"initial": "coco"}, "no stage trains the semantic head"),
        ((2, 0), ["semantic_in_stage_one=False"], {}, "no stage trains the semantic head"),
        ((2, 0), ["semantic_in_stage_one=True"], {}, None),
        ((0, 2), [], {}, None),
        ((0, 0), [], {"checkpoint": CONFIG}, None),
        ((0, 0), [], {"checkpoint": system("mask-rcnn-imp", CLASSES, (64, 96))}, "trains the semantic head"),
    ],
)
def test_heads_that_no_stage_trains_are_warned_of(
    tmp_path, caplog, monkeypatch, lengths, settings, more, told
):
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    if "checkpoint" in more:
        more = {"checkpoint": Checkpoint(SimpleNamespace(config=more["checkpoint"]), {}, "")}
    plan = recipes.changed(TINY, settings).with_iterations(*lengths)
    warn_of_untrained(Run(Boxes(), plan, 0, tmp_path, **more), CONFIG)
    assert ("WARNING" in caplog.text) == (told is not None)
    assert (told or "") in caplog.text


def test_lengths_by_an_option_scale_the_schedule(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    plan = replace(recipes.RECIPES["vcp"], short_sides=())
    for lengths in ((70, 70), (3, 5), (1000, 1)):
        run = Run(Boxes(), plan.with_iterations(*lengths), 0, tmp_path, initial="imagenet")
        warn_of_settings(run, CONFIG)
    assert "stage" not in caplog.text


@pytest.mark.parametrize(
    ("names", "flip", "expected"),
    [
        (("ground", "left shoe", "right shoe"), True, "left shoe and right shoe; use --set flip=False"),
        (("ground", "left shoe", "right shoe"), False, None),
        (("ground", "shoe", "right of way"), True, None),
    ],
)
def test_classes_that_differ_in_left_and_right_are_warned_of(
    tmp_path, caplog, monkeypatch, names, flip, expected
):
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)

    class Shoes(Boxes):
        classes = replace(CLASSES, names=names)

    setting = [] if flip else ["flip=False"]
    warn_of_settings(Run(Shoes(), recipes.changed(TINY, setting), 0, tmp_path), CONFIG)
    assert ("mirrored" in caplog.text) == (expected is not None)
    assert (expected or "") in caplog.text


def test_a_detector_that_nothing_has_trained_is_warned_of(tiny, tmp_path, capsys):
    arguments = [*tiny, "--stage", "one", "--iterations", "0", "1"]
    assert command.main([*arguments, "-o", str(tmp_path / "detector")]) == 0
    assert "WARNING: stage one has no iterations" in capsys.readouterr().err
    assert command.main([*arguments, "--system", "semantic-p2", "-o", str(tmp_path / "none")]) == 0
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.slow
def test_options_reach_the_recipe_and_the_network(tiny, tmp_path):
    change = ["--iterations", "1", "0", "--batch", "1", "--set", "crop=32,64", "--set", "stage_one.lr=0.5"]
    arguments = [*tiny, *change, "--norm", "group", "--system", "semantic-p2", "--seed", "3", "-q"]
    assert command.main([*arguments, "-o", str(tmp_path)]) == 0
    model, metadata = load_model(tmp_path / "plain.safetensors")
    assert (model.config.norm, model.config.semantic_head, model.config.detector) == ("group", "p2", False)
    said = metadata["recipe"]
    assert (metadata["seed"], said["batch"], said["crop"]) == (3, 1, [32, 64])
    assert [said[stage]["iterations"] for stage in ("stage_one", "stage_two")] == [1, 0]
    assert said["stage_one"]["peak"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "initial", "norm"),
    [
        (["--backbone", "compact"], "scratch", "batch"),
        (["--backbone", "resnet50"], "scratch", "batch"),
        (["--backbone", "resnet50", "--init", "imagenet"], "imagenet", "frozen_batch"),
        (["--backbone", "resnet50", "--recipe", "vcp"], "imagenet", "frozen_batch"),
        (["--backbone", "resnet50", "--recipe", "cityscapes"], "coco", "frozen_batch"),
        (["--backbone", "resnet50", "--recipe", "cityscapes", "--init", "scratch"], "scratch", "batch"),
        (["--backbone", "resnet50", "--init", "coco", "--norm", "group"], "coco", "group"),
    ],
)
def test_where_training_starts(tmp_path, monkeypatch, arguments, initial, norm):
    from imp_trt.train import run

    class Seen(Exception):
        pass

    def stop(training, config):
        raise Seen(training.initial, config.norm)

    monkeypatch.setattr(run, "train_stage_one", stop)
    options = command.parser().parse_args([*DATA, "-q", "-o", str(tmp_path), *arguments])
    with pytest.raises(Seen) as seen:
        command._train(options)
    assert seen.value.args == (initial, norm)


def test_the_gpu_that_is_named_is_the_one_that_trains(tiny, tmp_path, monkeypatch):
    from imp_trt.backends import pytorch
    from imp_trt.train import run

    seen = []
    monkeypatch.setattr(pytorch, "choose_device", torch.device)
    monkeypatch.setattr(run, "train_stage_one", lambda training, _config: seen.append(training.device))
    arguments = [*tiny, "-q", "--stage", "one", "--device", "cuda:1", "-o", str(tmp_path)]
    assert command.main(arguments) == 0
    assert seen == ["cuda:1"]


@pytest.mark.parametrize(
    "change",
    [
        ["--recipe", "nope"],
        ["--system", "nope"],
        ["--backbone", "nope"],
        ["--input-size", "65", "64"],
        ["--device", "abacus"],
        ["--system", "panoptic-fpn", "--with-baseline"],
        ["--system", "mask-rcnn-imp", "--with-baseline"],
        ["--set", "nothing=3"],
        ["--set", "batch=none"],
    ],
)
def test_wrong_names_exit_2(tmp_path, capsys, change):
    arguments = ["--data", "scenes:64x128", "--recipe", "smoke", "-o", str(tmp_path / "run"), *change]
    assert command.main(arguments) == 2
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        ["--threads", "-1"],
        ["--threads", "0"],
        ["--seed", "-1"],
        ["--seed", str(1 << 64)],
        ["--iterations", "-1", "2"],
        ["--batch", "0"],
    ],
)
def test_numbers_out_of_range_are_usage_errors(tmp_path, change):
    arguments = ["--data", "scenes:64x128", "--recipe", "smoke", "-o", str(tmp_path / "run"), *change]
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2


def test_frozen_stages_without_pretrained_weights_exit_2(tmp_path, capsys):
    arguments = [*DATA, "--recipe", "vcp", "--init", "scratch", "-o", str(tmp_path)]
    assert command.main(arguments) == 2
    assert "freeze_stages=0" in capsys.readouterr().err


def test_an_output_folder_that_is_a_file_exits_2(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    arguments = ["--data", "scenes:64x128", "--recipe", "smoke", "-o", str(tmp_path / "run")]
    assert command.main(arguments) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_command_exits_130_and_leaves_its_state(tmp_path):
    arguments = [*DATA, "--recipe", "smoke", "--iterations", "5000", "1", "--set", "crop=32,32"]
    arguments += ["--set", "class_weights=False"]
    process = subprocess.Popen(
        [sys.executable, "-m", "imp_trt.cli.train", *arguments, "--threads", "1", "-o", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "stage_one.jsonl").is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command resumes there" in said
    # Where TensorBoard is installed, the command also writes curves for it.
    files = {p.name for p in tmp_path.iterdir()} - {tensorboard.FOLDER}
    assert files == {".lock", "stage_one.jsonl", "stage_one.resume.pt"}


def recipe_of(*arguments):
    return command._recipe(command.parser().parse_args(["--data", "scenes", "-o", "x", *arguments]))


def test_settings_come_after_the_other_options():
    plan = recipe_of("--set", "batch=5", "--iterations", "40", "50", "--set", "stage_one.lr=0.5")
    assert (plan.batch, plan.stage_one.lr) == (5, 0.5)
    assert (plan.stage_one.iterations, plan.stage_two.iterations) == (40, 50)
    with pytest.raises(UsageError, match="expected"):
        recipe_of("--set", "batch")


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        (["--batch-size", "8"], "batch=1"),
        (["--iterations", "5", "6"], "stage_one.iterations=100"),
        (["--iterations", "5", "6"], "stage_two.iterations=100"),
        (["--init", "scratch"], "initial=imagenet"),
    ],
)
def test_two_options_for_one_field_are_rejected(option, setting):
    with pytest.raises(UsageError, match=f"{option[0]} and --set {setting}"):
        recipe_of(*option, "--set", setting)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--system", "semantic-fpn", "--canvas-skip"], "--canvas-skip with --system semantic-fpn"),
        (["--system", "mask-rcnn-imp", "--canvas-skip"], "a semantic head with IMP"),
        (["--system", "panoptic-fpn", "--sampling", "rect"], "--sampling with --system panoptic-fpn"),
        (["--system", "semantic-p2", "--anchor-scales", "1", "1.41"], "a system with a detector"),
        (["--system", "panoptic-p2", "--with-baseline"], "--with-baseline with --system panoptic-p2"),
        (["--system", "mask-rcnn-imp", "--with-baseline"], "--with-baseline with --system mask-rcnn-imp"),
        (["--system", "mask-rcnn-imp", "--stage", "plain"], "--stage plain with --system mask-rcnn-imp"),
    ],
)
def test_options_for_a_part_that_a_system_lacks_are_rejected(tiny, tmp_path, capsys, arguments, words):
    assert command.main([*tiny, *arguments, "-q", "-o", str(tmp_path / "run")]) == UsageError.exit_code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        (
            "panoptic-fpn",
            ["short_sides=64,", "scale=0.5,1"],
            "without short_sides, .*add --set short_sides=()",
        ),
        ("panoptic-fpn", ["max_long=500"], "with short_sides, "),
        ("panoptic-fpn", ["stage_one.milestones=1,"], "'step', .*add --set stage_one.schedule=step"),
        ("panoptic-fpn", ["stage_two.schedule=step", "stage_two.end=0.1"], "'cosine', "),
        ("panoptic-fpn", ["canvas_gradient=none"], "a semantic head with IMP, "),
        ("mask-rcnn-imp", ["class_weights=False"], "a semantic head, "),
        ("mask-rcnn-imp", ["bootstrap=0.5"], "a semantic head, "),
        ("semantic-fpn", ["min_area=3"], "a detector, "),
    ],
)
def test_settings_without_effect_are_rejected(name, settings, words):
    config = system(name, CLASSES, (64, 96))
    plan = recipes.changed(TINY, settings)
    with pytest.raises(UsageError, match=re.escape(f"--set {settings[-1]}") + f": expected .*{words}"):
        reject_idle_settings(settings, plan, config)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "panoptic-fpn-imp",
            ["short_sides=64,", "max_long=500", "canvas_scale=None", "scale=1,2", "short_sides=()"],
        ),
        (
            "panoptic-fpn",
            ["stage_one.schedule=step", "stage_one.milestones=1,", "class_weights=True", "min_area=3"],
        ),
        ("semantic-fpn", ["stage_one.min_lr=0.1", "stage_one.warmup=1", "semantic_weight=2", "flip=False"]),
    ],
)
def test_settings_with_an_effect_are_not(name, settings):
    plan = recipes.changed(TINY, settings)
    reject_idle_settings([s for s in settings if s != "max_long=500"], plan, system(name, CLASSES, (64, 96)))


def test_a_stage_of_a_pair_says_what_is_trained(tiny, tmp_path, capsys):
    arguments = [*tiny, "--iterations", "0", "0", "--with-baseline", "--stage", "imp"]
    assert command.main([*arguments, "-o", str(tmp_path)]) == 0
    said = "--stage imp: stage two with IMP alone; --with-baseline is without effect"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "plain.safetensors").exists()


@pytest.mark.slow
def test_the_anchors_and_the_skip_reach_the_network(tiny, tmp_path):
    arguments = [*tiny, "--anchor-scales", "1", "1.5", "--canvas-skip", "--iterations", "0", "0", "-q"]
    assert command.main([*arguments, "-o", str(tmp_path)]) == 0
    config = load_model(tmp_path / "imp.safetensors")[0].config
    assert config.detector_config.anchor_scales == (1.0, 1.5)
    assert config.canvas_skip


@pytest.mark.slow
def test_the_weights_of_the_backbone_come_from_a_file(tiny, tmp_path, capsys):
    state = published_state("efficientnet_lite0")
    torch.save(state, tmp_path / "mine.pth")
    arguments = [*tiny, "--backbone", "efficientnet_lite0", "--init", "imagenet", "--iterations", "0", "0"]
    arguments += ["-q", "--stage", "one", "-o", str(tmp_path / "run")]
    assert command.main([*arguments, "--backbone-weights", str(tmp_path / "mine.pth")]) == 0
    stem = load_model(tmp_path / "run" / "stage_one.safetensors")[0].backbone.body.stem[0][0].weight
    assert torch.equal(stem, state["_conv_stem.weight"])
    # Another file is another run.
    torch.save(published_state("efficientnet_lite0", seed=1), tmp_path / "mine.pth")
    assert (
        command.main([*arguments, "--backbone-weights", str(tmp_path / "mine.pth")]) == UsageError.exit_code
    )
    assert "another run" in capsys.readouterr().err
    assert command.main([*arguments, "--backbone-weights", str(tmp_path / "none.pth")]) != 0
    assert "none.pth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ([], UsageError, "got 'scratch'. Fix: add --init imagenet, or leave out --backbone-weights"),
        (["--init", "coco"], UsageError, "got 'coco'"),
        (["--recipe", "cityscapes"], UsageError, "got 'coco'"),
        (["--init", "imagenet"], CheckpointError, "none.pth: expected an existing file"),
    ],
)
def test_backbone_weights_without_effect_are_errors(tiny, tmp_path, capsys, monkeypatch, more, error, words):
    monkeypatch.setattr("imp_trt.train.datasets.open_dataset", None)  # rejected before it is opened
    arguments = [*tiny, "--backbone", "resnet18", "--backbone-weights", str(tmp_path / "none.pth"), *more]
    assert command.main([*arguments, "-q", "-o", str(tmp_path / "run")]) == error.exit_code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_help_names_the_systems(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    assert all(name in text for name in SYSTEMS)
    assert train_options.SYSTEMS == tuple(SYSTEMS)

"""The training loop: resumable to the bit, one shared first stage, losses that fall."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from imp_trt.classes import ClassTable
from imp_trt.errors import CheckpointError, UsageError
from imp_trt.models.checkpoint import load_model
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import COMPACT_DETECTOR, SYSTEMS, system, without_imp
from imp_trt.train import loop
from imp_trt.train.config import RECIPES, Stage, recipe
from imp_trt.train.dataset import Sample

CLASSES = ClassTable(("ground", "box", "bar"), (1, 2), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


class Boxes:
    """Bright squares and dim bars on a grey ground."""

    name, terms, classes = "boxes", None, CLASSES

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        image = rng.integers(90, 110, (80, 96, 3)).astype(np.uint8)
        semantic, instances = np.zeros((80, 96), np.uint8), np.zeros((80, 96), np.int32)
        for number, (thing, h, w, value) in enumerate([(1, 24, 24, 250), (2, 12, 40, 20)], start=1):
            y, x = rng.integers(0, 80 - h), rng.integers(0, 96 - w)
            area = np.s_[y : y + h, x : x + w]
            image[area], semantic[area], instances[area] = value, thing, number
        # The second thing may cover the first.
        return Sample(image, semantic, instances)


RECIPE = replace(
    RECIPES["smoke"],
    stage_one=Stage(6, 1e-3, 5e-4, warmup=2),
    stage_two=Stage(4, 1e-3, 1e-5, warmup=1),
    crop=(64, 64),
)
CONFIG = system(
    "panoptic-fpn-imp",
    CLASSES,
    (64, 96),
    detector_config=replace(COMPACT_DETECTOR, pre_nms_per_level=30, proposals=20, detections=8, roi_batch=16),
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    run = loop.Run(Boxes(), RECIPE, 0, folder)
    torch.set_num_threads(1)
    return folder, *loop.train_pair(run, CONFIG)


def weights_of(path):
    return load_model(path)[0].state_dict()


def test_pair_shares_stage_one_and_its_crops(pair):
    folder, with_imp, plain = pair
    assert sorted(p.name for p in folder.iterdir()) == [
        f"{name}.{suffix}" for name in ("imp", "plain", "stage_one") for suffix in ("jsonl", "safetensors")
    ]
    assert load_model(with_imp)[0].config == CONFIG
    assert load_model(plain)[0].config == without_imp(CONFIG)
    # Zero canvas weights: the two start from the same function, so their first detector losses agree.
    first = [json.loads((folder / f"{n}.jsonl").read_text().splitlines()[0]) for n in ("imp", "plain")]
    assert first[0]["step"] == first[1]["step"] == 4
    assert "semantic" in first[0]
    canvas_weights = weights_of(with_imp)["semantic.fuse.0.0.weight"][:, CONFIG.semantic_channels :]
    assert canvas_weights.abs().max() > 0, "stage two must have trained the canvas channels"


def test_checkpoint_says_how_it_was_made(pair):
    metadata = load_model(pair[1])[1]
    assert metadata["data"] == "boxes"
    assert metadata["seed"] == 0
    assert metadata["stage"] == 2
    assert metadata["recipe"]["batch"] == RECIPE.batch


def test_resume_after_a_kill_is_bit_identical(pair, tmp_path, monkeypatch):
    folder, _, _ = pair
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    real, calls = loop._step, []

    def killed(*args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(loop, "_step", killed)
    run = loop.Run(Boxes(), RECIPE, 0, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        loop.train_stage_one(run, CONFIG)
    assert (tmp_path / "stage_one.resume.pt").is_file()
    assert not (tmp_path / "stage_one.safetensors").exists()
    monkeypatch.setattr(loop, "_step", real)
    resumed = weights_of(loop.train_stage_one(run, CONFIG))
    whole = weights_of(folder / "stage_one.safetensors")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not (tmp_path / "stage_one.resume.pt").exists()
    steps = [json.loads(line)["step"] for line in (tmp_path / "stage_one.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_another_seed_gives_other_weights(pair, tmp_path):
    other = loop.train_stage_one(loop.Run(Boxes(), RECIPE, 1, tmp_path), CONFIG)
    mine, whole = weights_of(other), weights_of(pair[0] / "stage_one.safetensors")
    assert any(not torch.equal(mine[n], whole[n]) for n in whole)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"recipe": replace(RECIPE, batch=3)},
        {"recipe": replace(RECIPE, stage_one=Stage(7, 1e-3, 5e-4, warmup=2))},
    ],
    ids=["seed", "batch", "length"],
)
def test_a_folder_of_another_run_is_refused(pair, change):
    run = replace(loop.Run(Boxes(), RECIPE, 0, pair[0]), **change)
    with pytest.raises(UsageError, match="another run"):
        loop.train_stage_one(run, CONFIG)


def test_stage_one_serves_runs_that_differ_in_stage_two(pair):
    run = loop.Run(Boxes(), replace(RECIPE, stage_two=Stage(9, 1e-3, 1e-4)), 0, pair[0])
    assert loop.train_stage_one(run, CONFIG) == pair[0] / "stage_one.safetensors"
    with pytest.raises(UsageError, match="another run"):
        loop.train_stage_two(run, CONFIG, pair[0] / "stage_one.safetensors", "imp")


def test_losses_fall(tmp_path):
    plan = replace(RECIPE, stage_one=Stage(40, 2e-3, 1e-3, warmup=5))
    loop.train_stage_one(loop.Run(Boxes(), plan, 0, tmp_path), CONFIG)
    lines = [json.loads(line) for line in (tmp_path / "stage_one.jsonl").read_text().splitlines()]
    assert lines[-1]["semantic"] < 0.8 * lines[0]["semantic"]


def test_taking_over_stage_one_changes_nothing_at_first():
    torch.manual_seed(0)
    before, after = ImpNetwork(without_imp(CONFIG)), ImpNetwork(CONFIG)
    loop.take_over(after, before)
    features = {f"p{i}": torch.rand(1, 64, 64 // 2**i, 96 // 2**i) for i in (2, 3, 4, 5)}
    canvas = torch.rand(1, 2, 16, 24)
    with torch.no_grad():
        expected = before.eval().segment(features, None)
        torch.testing.assert_close(after.eval().segment(features, canvas), expected)


def test_taking_over_another_network_is_refused():
    other = ImpNetwork(replace(CONFIG, imp=False, semantic_channels=32))
    with pytest.raises(CheckpointError, match="stage one"):
        loop.take_over(ImpNetwork(CONFIG), other)


def test_learning_rate_warms_up_and_decays():
    plan = Stage(100, 1.0, 0.1, warmup=10)
    rates = [loop.learning_rate(plan, s) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[10]) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_rare_classes_weigh_more():
    weights = loop.class_weights(Boxes())
    assert weights.shape == (3,)
    assert weights[0] < weights[1]
    assert torch.isfinite(weights).all()


def test_diverging_training_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(
        loop, "training_losses", lambda *_: {"semantic": torch.tensor(float("nan"), requires_grad=True)}
    )
    with pytest.raises(loop.TrainingDiverged, match="lower the learning rate"):
        loop.train_stage_one(loop.Run(Boxes(), RECIPE, 0, tmp_path), CONFIG)


@pytest.mark.parametrize("source", ["ground-truth", "both"])
def test_other_canvas_sources_train(tmp_path, source):
    plan = replace(RECIPE, canvas_source=source, stage_two=Stage(2, 1e-3, 1e-4, warmup=1))
    run = loop.Run(Boxes(), plan, 0, tmp_path)
    torch.manual_seed(0)
    loop.save_checkpoint(tmp_path / "one.safetensors", ImpNetwork(without_imp(CONFIG)), {})
    loop.train_stage_two(run, CONFIG, tmp_path / "one.safetensors", "imp")
    line = json.loads((tmp_path / "imp.jsonl").read_text().splitlines()[-1])
    assert np.isfinite([v for v in line.values()]).all()


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_system_takes_a_step_of_both_stages(tmp_path, name):
    plan = replace(RECIPE, stage_one=Stage(1, 1e-3, 1e-3, warmup=1), stage_two=Stage(1, 1e-3, 1e-3, warmup=1))
    config = system(name, CLASSES, (64, 96), detector_config=CONFIG.detector_config)
    run = loop.Run(Boxes(), plan, 0, tmp_path, quiet=True)
    done = loop.train_stage_two(run, config, loop.train_stage_one(run, config), "imp")
    assert load_model(done)[0].config == config


def test_a_damaged_state_names_itself_and_the_remedy(tmp_path):
    (tmp_path / "stage_one.resume.pt").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match="delete the file"):
        loop.train_stage_one(loop.Run(Boxes(), RECIPE, 0, tmp_path), CONFIG)


def test_quiet_runs_draw_no_bar(tmp_path, capsys):
    plan = replace(RECIPE, stage_one=Stage(1, 1e-3, 1e-3, warmup=1))
    loop.train_stage_one(loop.Run(Boxes(), plan, 0, tmp_path, quiet=True), CONFIG)
    assert capsys.readouterr().err == ""


def test_unknown_recipe_or_field_is_a_usage_error():
    with pytest.raises(UsageError, match="smoke"):
        recipe("none")
    with pytest.raises(UsageError, match="fields of Recipe"):
        recipe("smoke", {"lr": 3})

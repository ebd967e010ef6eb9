# SPDX-License-Identifier: Apache-2.0
"""Two processes under torchrun train what one would have trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from imp_trt.errors import UsageError
from imp_trt.models.checkpoint import load_model
from imp_trt.models.presets import system
from imp_trt.train import distributed
from imp_trt.train.batches import draw_batch
from imp_trt.train.config import Stage
from imp_trt.train.run import Run, train_stage_one
from tests.train.boxes import CLASSES, RECIPE, Boxes

ROOT = Path(__file__).resolve().parents[2]

SEMANTIC = system("semantic-fpn", CLASSES, (64, 96), norm="group", head_norm="group", fpn_channels=32)
PLAIN_STEPS = replace(
    RECIPE,
    batch=4,
    stage_one=Stage(2, 0.1, 0.1, warmup=0),
    optimizer="sgd",
    weight_decay=0.0,
    clip=None,
)
"""SGD without clipping or decay: after a step, the weights give the gradient."""

CHILD = """
import contextlib, itertools, os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from imp_trt.errors import DatasetError, ImpTrtError
from imp_trt.train import distributed, loop, validation
from imp_trt.train.run import Run, train_stage_one, train_stage_two
from tests.train.boxes import CONFIG, RECIPE, Boxes
from tests.train.test_distributed import PLAIN_STEPS, SEMANTIC

out = Path(sys.argv[1])
with distributed.joined("cpu") as device:
    rank = distributed.rank()
    trained = {}
    prepare = loop._prepare
    def watched(network, run):
        trained[run.folder.name] = network
        return prepare(network, run)
    loop._prepare = watched
    train_stage_one(Run(Boxes(), PLAIN_STEPS, 0, out / "semantic", device, quiet=True), SEMANTIC)
    recipe = replace(RECIPE, batch=2, stage_one=replace(RECIPE.stage_one, iterations=3))
    run = Run(Boxes(), recipe, 0, out / "whole", device, quiet=True)
    first = train_stage_one(run, CONFIG)
    second = replace(run, folder=out / "imp", recipe=replace(recipe, canvas_lr_mult=10.0))
    train_stage_two(second, CONFIG, first, "imp")
    real, calls = loop._step, []
    def stepping(*args):
        losses = real(*args)
        calls.append(1)
        if len(calls) == 2 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses
    loop._step = stepping
    cut = replace(run, folder=out / "cut")
    try:
        train_stage_one(cut, CONFIG)
        raise SystemExit("was not stopped")
    except KeyboardInterrupt:
        (out / f"stopped-{rank}").write_text(str(len(calls)))
    distributed.wait()
    train_stage_one(cut, CONFIG)
    # The images of one process cannot be read before step 2.
    stream = loop.batch_stream
    @contextlib.contextmanager
    def unreadable(*args):
        def some(batches):
            yield from itertools.islice(batches, 2)
            raise DatasetError("image", expected="a readable file", got="a damaged one")
        with stream(*args) as batches:
            yield some(batches) if rank == 1 else batches
    loop.batch_stream = unreadable
    damaged = replace(run, folder=out / "damaged")
    try:
        train_stage_one(damaged, CONFIG)
        raise SystemExit("was not stopped")
    except ImpTrtError as error:
        (out / f"failed-{rank}").write_text(str(error))
    saved = torch.load(out / "damaged" / "stage_one.resume.pt", weights_only=True)
    (out / f"saved-{rank}").write_text(str(saved["step"]))
    loop.batch_stream = stream
    distributed.wait()
    train_stage_one(damaged, CONFIG)
    # Scores that fall: only the first process has them, and both must stop.
    scores = [0.9, 0.1]
    validation._scores = lambda found, step, _: {
        "step": step, "score": scores[step - 1], "mean_iou": 0.5, "thing_iou": None, "iou": {}
    }
    early = replace(run, folder=out / "early", validation=validation.Validation(Boxes(), 1, patience=1))
    train_stage_one(early, CONFIG)
    for name, network in trained.items():
        torch.save(dict(network.named_parameters()), out / f"{name}-{rank}.pt")
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with what two processes made."""
    out = tmp_path_factory.mktemp("two")
    (out / "child.py").write_text(CHILD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [*command, str(out / "child.py"), str(out)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return out


def weights_of(path):
    return load_model(path)[0].state_dict()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_gradient_of_two_processes_is_that_of_one(two, tmp_path):
    """Two steps of SGD; crops differ in how many pixels are labeled, so a mean of means would be off."""
    drawn = [draw_batch(Boxes(), CLASSES, PLAIN_STEPS, (0, 1, s)) for s in range(2)]
    labeled = [[int((b.semantic[i : i + 2] != 255).sum()) for i in (0, 2)] for b in drawn]
    assert any(a != b for a, b in labeled)
    one = weights_of(train_stage_one(Run(Boxes(), PLAIN_STEPS, 0, tmp_path, quiet=True), SEMANTIC))
    both = weights_of(two / "semantic" / "stage_one.safetensors")
    assert max(float((one[n] - both[n]).abs().max()) for n in one) < 1e-5
    lines = [json.loads((f / "stage_one.jsonl").read_text()) for f in (two / "semantic", tmp_path)]
    assert lines[0]["semantic"] == pytest.approx(lines[1]["semantic"], abs=2e-4)


@pytest.mark.slow
def test_all_processes_have_the_same_weights(two):
    for name in ("semantic", "whole", "imp", "cut"):
        zero, one = (torch.load(two / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert zero.keys() == one.keys()
        assert all(torch.equal(zero[n], one[n]) for n in zero), name
        written = weights_of(two / name / ("imp.safetensors" if name == "imp" else "stage_one.safetensors"))
        assert all(torch.equal(written[n], zero[n].detach().contiguous()) for n in zero), name


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_they_continue_to_the_bit(two):
    assert [(two / f"stopped-{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    whole, cut = (weights_of(two / n / "stage_one.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(whole[n], cut[n]) for n in whole)
    assert load_model(two / "cut" / "stage_one.safetensors")[1]["processes"] == 2


@pytest.mark.slow
def test_an_image_that_one_cannot_read_costs_no_step_of_all(two):
    assert [(two / f"saved-{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    said = [(two / f"failed-{rank}").read_text() for rank in (0, 1)]
    assert "another process" in said[0], said
    assert "a damaged one" in said[1]
    whole, damaged = (weights_of(two / n / "stage_one.safetensors") for n in ("whole", "damaged"))
    assert all(torch.equal(whole[n], damaged[n]) for n in whole)


def test_each_process_takes_its_part_of_the_same_batch(monkeypatch):
    whole = draw_batch(Boxes(), CLASSES, PLAIN_STEPS, (0, 1, 3))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        part = draw_batch(Boxes(), CLASSES, PLAIN_STEPS, (0, 1, 3))
        assert torch.equal(part.frames, whole.frames[2 * rank : 2 * rank + 2])
        assert torch.equal(part.semantic, whole.semantic[2 * rank : 2 * rank + 2])


def test_a_batch_that_cannot_be_shared_out_is_rejected(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(UsageError, match="multiple of the 3 processes"):
        distributed.part_of(4)


def test_one_process_joins_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.joined("cpu") as device:
        assert (device, distributed.world_size(), distributed.rank()) == ("cpu", 1, 0)
        module = torch.nn.Linear(1, 1)
        assert distributed.parallel(module, device) is module
        assert distributed.any_process(True, device)
        assert not distributed.any_process(False, device)
        distributed.wait()


def test_the_others_wait_for_a_long_validation(monkeypatch):
    """PyTorch's timeouts are 10 and 30 minutes; the same evaluation would fail again at every resume."""
    settings = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **given: settings.update(given))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with distributed.joined("cpu"):
        assert settings["timeout"] >= timedelta(hours=12)


@pytest.mark.slow
def test_both_processes_stop_when_the_score_of_one_does_not_improve(two):
    lines = (two / "early" / "stage_one.val.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert load_model(two / "early" / "stage_one.safetensors")[1]["stopped_early_at"] == 2
    assert load_model(two / "early" / "stage_one.best.safetensors")[1]["step"] == 1

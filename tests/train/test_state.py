# SPDX-License-Identifier: Apache-2.0
"""Runs that are stopped: by a deadline, by signals, by a kill; what they leave, and how they go on."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imp_trt.errors import CheckpointError, DatasetError, UsageError
from imp_trt.models.checkpoint import load_model
from imp_trt.train import early_ends, loop, state
from imp_trt.train.config import Stage
from imp_trt.train.run import Run, train_stage_one
from imp_trt.train.state import StopRequest, TimeBudgetSpent, save_state
from tests.train.boxes import CONFIG, RECIPE, Boxes

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
PLAN = replace(RECIPE, stage_one=Stage(4, 1e-3, 5e-4, warmup=2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Weights of a run that was not stopped."""
    torch.set_num_threads(1)
    return weights_of(train_stage_one(run_in(tmp_path_factory.mktemp("whole")), CONFIG))


def run_in(folder, **changes):
    return replace(Run(Boxes(), PLAN, 0, folder, quiet=True), **changes)


def weights_of(path):
    return load_model(path)[0].state_dict()


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def after_step(monkeypatch, number, action):
    """Do something as soon as a step has been made."""
    real, calls = loop._step, []

    def stepping(*args):
        losses = real(*args)
        calls.append(1)
        if len(calls) == number:
            action()
        return losses

    monkeypatch.setattr(loop, "_step", stepping)
    return calls


@pytest.mark.slow
def test_a_deadline_saves_the_state_and_the_same_run_continues(tmp_path, monkeypatch, whole):
    deadline = time.monotonic() + 1000
    calls = after_step(monkeypatch, 2, lambda: monkeypatch.setattr(time, "monotonic", lambda: deadline))
    with pytest.raises(TimeBudgetSpent, match="more time"):
        train_stage_one(run_in(tmp_path, deadline=deadline), CONFIG)
    assert len(calls) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "stage_one.resume.pt"]
    monkeypatch.undo()
    assert same(weights_of(train_stage_one(run_in(tmp_path), CONFIG)), whole)


@pytest.mark.slow
def test_an_image_that_cannot_be_read_costs_no_step(tmp_path, monkeypatch, whole):
    real = loop.batch_stream

    @contextmanager
    def failing(*args):
        def some(batches):
            yield from itertools.islice(batches, 3)
            raise DatasetError("image", expected="a readable file", got="a damaged one")

        with real(*args) as batches:
            yield some(batches)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "batch_stream", failing)
        with pytest.raises(DatasetError):
            train_stage_one(run_in(tmp_path), CONFIG)
    assert torch.load(tmp_path / "stage_one.resume.pt", weights_only=True)["step"] == 3
    assert same(weights_of(train_stage_one(run_in(tmp_path), CONFIG)), whole)


@pytest.mark.parametrize(("rank", "writes"), [(0, True), (1, False)])
def test_only_the_process_that_saves_says_so(tmp_path, monkeypatch, caplog, rank, writes):
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    caplog.set_level(logging.INFO, logger="imp_trt.train")
    monkeypatch.setattr(early_ends.distributed, "rank", lambda: rank)
    saved = []

    def unreadable():
        raise DatasetError("image", expected="a readable file", got="a damaged one")
        yield

    with pytest.raises(DatasetError):
        early_ends.next_batch(unreadable(), saved.append, 3, 0, "cpu")
    assert saved == [3]  # in the others it does nothing
    assert ("the state is saved" in caplog.text) == writes


def test_a_deadline_that_has_passed_makes_no_step_and_spares_finished_runs(tmp_path, monkeypatch):
    calls = after_step(monkeypatch, 99, lambda: None)
    run = run_in(tmp_path, recipe=replace(PLAN, stage_one=Stage(1, 1e-3)), deadline=time.monotonic() - 1)
    with pytest.raises(TimeBudgetSpent):
        train_stage_one(run, CONFIG)
    assert not calls
    assert not list(tmp_path.glob("*.pt"))
    done = train_stage_one(replace(run, deadline=None), CONFIG)
    assert train_stage_one(run, CONFIG) == done


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGHUP))],
)
def test_a_signal_saves_the_state_at_the_next_step(tmp_path, monkeypatch, whole, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    calls = after_step(monkeypatch, 3, lambda: os.kill(os.getpid(), number))
    hangup = signal.signal(signal.SIGHUP, lambda *_: None)  # under nohup it would stay ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            train_stage_one(run_in(tmp_path), CONFIG)
    finally:
        signal.signal(signal.SIGHUP, hangup)
    assert len(calls) == 3
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.undo()
    calls = after_step(monkeypatch, 99, lambda: None)
    assert same(weights_of(train_stage_one(run_in(tmp_path), CONFIG)), whole)
    assert len(calls) == 1, "the steps before the signal are not made again"


@pytest.mark.slow
def test_a_signal_in_the_last_step_is_not_lost(tmp_path, monkeypatch, whole):
    after_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        train_stage_one(run_in(tmp_path), CONFIG)
    assert same(weights_of(tmp_path / "stage_one.safetensors"), whole)
    assert not list(tmp_path.glob("*.pt"))


def test_a_signal_while_the_checkpoint_is_written_is_not_lost(tmp_path, monkeypatch):
    real = loop.save_checkpoint

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(loop, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_stage_one(run_in(tmp_path, recipe=replace(PLAN, stage_one=Stage(1, 1e-3))), CONFIG)
    assert (tmp_path / "stage_one.safetensors").is_file()
    assert not list(tmp_path.glob("*.pt"))


CHILD = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from imp_trt.train import early_ends, loop, state
from imp_trt.train.run import train_stage_one
from tests.train.boxes import CONFIG
from tests.train.test_state import run_in
real, calls = loop._step, []
def dying(*args):
    losses = real(*args)
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return losses
loop._step = dying
train_stage_one(run_in(Path(sys.argv[1]), save_every=2), CONFIG)
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_from_its_last_save_to_the_same_weights(tmp_path, monkeypatch, whole):
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / "stage_one.resume.pt").is_file()
    assert not (tmp_path / "stage_one.safetensors").exists()
    calls = after_step(monkeypatch, 99, lambda: None)
    assert same(weights_of(train_stage_one(run_in(tmp_path), CONFIG)), whole)
    assert len(calls) == 2, "saved after two of four steps"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (True, ["commit old", "commit new"]),
        pytest.param(False, ["version unknown", "commit new"], marks=pytest.mark.slow),
    ],
)
def test_a_resumed_stage_names_every_version_that_trained_it(tmp_path, monkeypatch, stored, expected):
    monkeypatch.setattr(loop, "source_version", lambda: "commit old")
    after_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        train_stage_one(run_in(tmp_path), CONFIG)
    if not stored:
        saved = torch.load(tmp_path / "stage_one.resume.pt", weights_only=True)
        del saved["sources"]
        save_state(tmp_path / "stage_one.resume.pt", saved)
    monkeypatch.undo()
    monkeypatch.setattr(loop, "source_version", lambda: "commit new")
    assert load_model(train_stage_one(run_in(tmp_path), CONFIG))[1]["sources"] == expected


def test_a_second_signal_does_not_wait_but_its_echo_does(monkeypatch):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        monkeypatch.setattr(state, "SECOND_AFTER", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_signals_are_left_alone():
    seen = []

    def body():
        with StopRequest(deadline=time.monotonic() - 1) as stop:
            seen.append((stop.requested, stop.signaled))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(True, False)]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("damage", [b"PK nothing", b""])
def test_a_damaged_state_names_itself_and_the_remedy(tmp_path, damage):
    (tmp_path / "stage_one.resume.pt").write_bytes(damage)
    with pytest.raises(CheckpointError, match="delete the file"):
        train_stage_one(run_in(tmp_path), CONFIG)


def test_a_state_without_its_parts_is_damaged(tmp_path):
    from imp_trt.train.run import identity, stage_one_config

    mine = identity(run_in(tmp_path), stage_one_config(CONFIG, PLAN), 1)
    save_state(tmp_path / "stage_one.resume.pt", {"identity": mine, "step": 1})
    with pytest.raises(CheckpointError, match="delete the file"):
        train_stage_one(run_in(tmp_path), CONFIG)


def small_state():
    weights = torch.arange(10_000, dtype=torch.float32)
    return {"network": {"w": weights}, "optimiser": {}, "identity": "i", "step": 5, "log": {}}


def read_again(path):
    """Whether the state is rejected; it is never another one."""
    try:
        assert torch.equal(state.read_state(path, "i")["network"]["w"], small_state()["network"]["w"])
    except CheckpointError as error:
        assert "saved state" in str(error)  # noqa: PT017
        return True
    return False


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, small_state())
    assert not read_again(path)
    data = path.read_bytes()
    for position in range(0, len(data) - 48, len(data) // 50):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        assert read_again(path)
    for position in range(len(data) - 47, len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        read_again(path)


@pytest.mark.parametrize("rest", [1, 40, 48, 200, 20_000])
def test_a_cut_state_is_noticed_or_whole(tmp_path, rest):
    path = tmp_path / "state.pt"
    save_state(path, small_state())
    path.write_bytes(path.read_bytes()[:-rest])
    assert read_again(path) or rest < 48


def test_a_state_without_a_checksum_is_read_with_a_word(tmp_path, caplog):
    torch.save(small_state(), tmp_path / "old.pt")
    assert state.read_state(tmp_path / "old.pt", "i")["step"] == 5
    assert "no checksum" in caplog.text


def test_another_run_is_told_from_all_that_decides_the_weights(tmp_path):
    with pytest.raises(UsageError, match="initial weights, and with --patience the same --val"):
        state.require_same_run(tmp_path / "imp.safetensors", "a", "b")

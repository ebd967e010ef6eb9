"""The step loop of one stage: seeded, interruptible at every step, continued to the bit.

Everything random in a step is drawn from (seed, stage, step), so a resumed run needs no generator
state and continues with the very steps that an uninterrupted one would have made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.train import distributed
from imp_trt.train.batches import batch_stream, class_weights, hard_share
from imp_trt.train.log import TrainingLog
from imp_trt.train.losses import StageLosses, trains_semantic
from imp_trt.train.optimizer import Optimizer, TrainingDiverged
from imp_trt.train.provenance import source_version
from imp_trt.train.schedule import learning_rate
from imp_trt.train.state import (
    StopRequest,
    TimeBudgetSpent,
    read_state,
    require_same_run,
    save_state,
)
from imp_trt.train.targets import Batch

if TYPE_CHECKING:
    from imp_trt.train.run import Run

_LOGGER = logging.getLogger("imp_trt.train")


def finished(run: Run, name: str, identity: str) -> Path | None:
    """The stage's checkpoint if this run, perhaps interrupted since, has made it already.

    Raises:
        UsageError: a checkpoint of that name is of another run.
    """
    final = run.folder / f"{name}.safetensors"
    # All processes must agree before the first of them writes.
    found = distributed.any_process(final.is_file(), run.device)
    if not found:
        return None
    require_same_run(final, load_model(final)[1].get("identity"), identity)
    return final


def train_stage(run: Run, network: ImpNetwork, stage: int, name: str, identity: str, digest: str) -> Path:
    """Train a network for one stage and write its checkpoint.

    Args:
        run: data, recipe, folder, device.
        network: with the weights that the stage starts from; trained in place.
        stage: 1 or 2.
        name: of the files: checkpoint, log, saved state.
        identity: of the run and stage; a saved state of another is refused.
        digest: of the stage's whole configuration, for the checkpoint's metadata.

    Returns:
        The checkpoint ``<name>.safetensors`` in the run's folder.

    Raises:
        TimeBudgetSpent: the run's deadline has come; its state is saved.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is saved, or the checkpoint after the
            last step.
        TrainingDiverged: a loss or a gradient is not finite.
        CheckpointError: the saved state is damaged.
    """
    plan = run.recipe.stage_one if stage == 1 else run.recipe.stage_two
    network = network.to(run.device).to(memory_format=torch.channels_last)
    optimizer = _ready(network, run)
    path = run.folder / f"{name}.resume.pt"
    state = read_state(path, identity) or {"step": 0, "log": {}}
    if state["step"]:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimiser"])
    sources = _sources(state)
    writes = distributed.rank() == 0
    log_path = run.folder / f"{name}.jsonl" if writes else None
    log = TrainingLog(log_path, plan.iterations, state["step"], state["log"], run.quiet)

    def save(step: int) -> None:
        if writes:
            parts = {"network": network.state_dict(), "optimiser": optimizer.state_dict()}
            facts = {"identity": identity, "step": step, "sources": sources}
            save_state(path, {**parts, **facts, "log": log.state()})

    with log, StopRequest(run.deadline) as stop:
        _steps(run, network, optimizer, stage, range(state["step"], plan.iterations), log, stop, save)
    if writes:
        made = {"identity": identity, "config_digest": digest, "sources": sources}
        metadata = {**_metadata(run, stage, log.seconds), **made}
        save_checkpoint(run.folder / f"{name}.safetensors", network, metadata, run.half and stage == 2)
        path.unlink(missing_ok=True)
    distributed.wait()
    if distributed.any_process(stop.signalled, run.device):
        # It came during the last step: the stage is done, but what follows it must not begin.
        raise KeyboardInterrupt
    return run.folder / f"{name}.safetensors"


def _sources(state: dict[str, Any]) -> list[str]:
    """Versions of the source that took part in a stage: a resumed one may have begun under another."""
    # Older states do not record them.
    before = state.get("sources", ["version unknown"] if state["step"] else [])
    return list(dict.fromkeys([*before, source_version()]))


def _ready(network: ImpNetwork, run: Run) -> Optimizer:
    """Training mode, with the trunk's frozen part in evaluation mode and without gradients."""
    network.train()
    body = network.backbone.body
    for part in [body.stem, *body.stages][: run.recipe.freeze_stages]:
        part.eval().requires_grad_(False)
    return Optimizer(network, run.recipe, run.device)


def _steps(
    run: Run,
    network: ImpNetwork,
    optimizer: Optimizer,
    stage: int,
    steps: range,
    log: TrainingLog,
    stop: StopRequest,
    save: Callable[[int], None],
) -> None:
    recipe = run.recipe
    plan = recipe.stage_one if stage == 1 else recipe.stage_two
    weights = None
    if recipe.class_weights and trains_semantic(network.config, recipe, stage):
        weights = class_weights(run.dataset).to(run.device)
    losses = distributed.parallel(StageLosses(network, recipe, stage, weights), run.device)
    classes = network.config.classes
    seed, workers = (run.seed, stage), run.batch_workers
    with batch_stream(run.dataset, classes, recipe, seed, steps, workers) as batches:
        for step in steps:
            _stop_if_wanted(run, stop, step, steps, save)
            if step > steps.start and step % run.save_every == 0:
                save(step)
            batch = next(batches).to(run.device)
            torch.manual_seed(_step_seed(run.seed, stage, step))
            rate = learning_rate(plan, step, recipe.rate_factor)
            share = hard_share(recipe, (run.seed, stage, step))
            log.add(step, _step(losses, optimizer, batch, share, rate, run), rate)


def _stop_if_wanted(
    run: Run, stop: StopRequest, step: int, steps: range, save: Callable[[int], None]
) -> None:
    if not distributed.any_process(stop.wanted, run.device):
        return
    if step > steps.start:
        save(step)
    distributed.wait()
    if distributed.any_process(stop.signalled, run.device):
        _LOGGER.info("stopped before step %d of %d; the same command continues there", step, steps.stop)
        raise KeyboardInterrupt
    raise TimeBudgetSpent(
        "training",
        expected=f"{steps.stop} steps",
        got=f"the deadline before step {step}",
        fix="run the same again with more time; it continues there",
    )


def _step(
    losses: nn.Module,
    optimizer: Optimizer,
    batch: Batch,
    share: float | None,
    rate: float,
    run: Run,
) -> dict[str, float]:
    """One update of the weights; the losses before it, averaged over processes."""
    precision = run.recipe.precision
    low = torch.float16 if precision == "float16" else torch.bfloat16
    with torch.autocast(run.device.split(":")[0], dtype=low, enabled=precision != "float32"):
        parts = losses(batch, share)
    stacked = torch.stack(list(parts.values()))
    means = distributed.mean(stacked.detach())
    values = dict(zip(parts, means.tolist(), strict=True))
    if not torch.isfinite(means).all():
        raise TrainingDiverged(
            "training", expected="finite losses", got=values, fix="lower the learning rate"
        )
    optimizer.step(stacked.sum(), rate)
    return values


def _step_seed(seed: int, stage: int, step: int) -> int:
    """Seed of the samplers inside a step; processes sample their own parts of the batch."""
    numbers = (seed, stage, step, distributed.rank()) if distributed.rank() else (seed, stage, step)
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _metadata(run: Run, stage: int, seconds: float) -> dict[str, Any]:
    return {
        "data": run.dataset.name,
        "terms": run.dataset.terms,
        "seed": run.seed,
        "recipe": run.recipe.to_dict(),
        "initial": run.initial,
        "stage": stage,
        "torch": torch.__version__,
        "device": run.device,
        "processes": distributed.world_size(),
        "seconds": round(seconds, 1),
    }

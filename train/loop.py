# SPDX-License-Identifier: Apache-2.0
"""The training loop of one stage: seeded, interruptible at every step, resumed bit for bit.

All random numbers of a step derive from (seed, stage, step), so a resumed run needs no generator
state and executes exactly the steps of an uninterrupted one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from imp_trt.data.files import remove_file
from imp_trt.errors import CheckpointError
from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.train import distributed
from imp_trt.train.batches import batch_stream, class_weights, draw_ohem_ratio
from imp_trt.train.canvas_scale import set_canvas_scale
from imp_trt.train.config import Stage
from imp_trt.train.early_ends import next_batch, saved_on_failure, stop_if_requested
from imp_trt.train.ema import WeightAverage
from imp_trt.train.log import LogState, TrainingLog
from imp_trt.train.losses import StageLosses, trains_semantic
from imp_trt.train.optimizer import Optimizer, TrainingDiverged
from imp_trt.train.provenance import source_version
from imp_trt.train.schedule import learning_rate
from imp_trt.train.state import (
    VALIDATION_KEY,
    StopRequest,
    TrainingState,
    ValidationFacts,
    read_state,
    require_same_data,
    require_same_run,
    require_same_validation,
    save_state,
)
from imp_trt.train.targets import Batch
from imp_trt.train.tensorboard import TensorBoardCurves
from imp_trt.train.validation import ValidationScores, Validator

if TYPE_CHECKING:
    from imp_trt.train.run import Run

_LOGGER = logging.getLogger("imp_trt.train")


def find_finished(run: Run, stage: int, name: str, identity: str) -> Path | None:
    """The stage's checkpoint if this run has already written it, else None.

    A run without validation takes that of one with any: its weights are the same.

    Raises:
        UsageError: a checkpoint of that name belongs to another run, was trained with other labels, or has
            another validation than this run.
    """
    path = run.folder / f"{name}.safetensors"
    # All processes must agree before the first of them writes.
    exists = distributed.any_process(path.is_file(), run.device)
    if not exists:
        return None
    metadata = load_model(path)[1]
    require_same_run(path, metadata.get("identity"), identity)
    require_same_data(path, metadata.get("data_digest"), run.data_digest)
    validation = _validation_facts(run, stage)
    if validation is not None:
        require_same_validation(path, metadata, validation)
        if not best_path(path).is_file():
            _LOGGER.warning(
                "%s is reused, but %s does not exist: no best weights are known; train in another folder to "
                "get them",
                path,
                best_path(path),
            )
    _LOGGER.info("%s is reused: it was trained with %s", path, _inputs(run, identity))
    return path


def _schedule(run: Run, stage: int) -> Stage:
    return run.recipe.stage_one if stage == 1 else run.recipe.stage_two


def _validation_facts(run: Run, stage: int) -> ValidationFacts | None:
    """What the scores of a stage depend on; None if none are made."""
    if run.validation is None:
        return None
    return run.validation.facts(_schedule(run, stage).iterations)


def _inputs(run: Run, identity: str) -> str:
    """What identifies a run, in words."""
    initial = f"checkpoint {run.checkpoint.sha256[:12]}" if run.checkpoint else run.initial
    data = f"{len(run.dataset)} images of {run.dataset.name} (content {run.data_digest})"
    return f"{data}, seed {run.seed}, initial weights {initial}; run {identity[:12]}"


def train_stage(run: Run, network: ImpNetwork, stage: int, name: str, identity: str, digest: str) -> Path:
    """Train a network for one stage and write its checkpoint.

    Args:
        run: data, recipe, folder, device.
        network: network with the initial weights of the stage; trained in place.
        stage: 1 or 2.
        name: file name, without suffix, of checkpoint, log and saved state.
        identity: identity of run and stage; a saved state with another one is rejected.
        digest: digest of the stage's resolved configuration, for the checkpoint's metadata.

    Returns:
        The checkpoint ``<name>.safetensors`` in the run's folder, with the last weights; with a validation
        ``<name>.best.safetensors`` next to it has those with the best score.

    Raises:
        TimeBudgetSpent: the run reached its deadline; its state is saved.
        KeyboardInterrupt: SIGINT or SIGTERM was received; the state is saved, or the checkpoint after the
            last step.
        TrainingDiverged: a loss or a gradient is not finite.
        CheckpointError: the saved state is damaged.
    """
    total = _schedule(run, stage).iterations
    network = network.to(run.device).to(memory_format=torch.channels_last)
    optimizer = _prepare(network, run)
    path = run.folder / f"{name}.resume.pt"
    validation = _validation_facts(run, stage)
    state = _saved_state(run, path, identity, validation, total)
    average = _restore(network, optimizer, run.recipe.ema_decay, state)
    first = 0 if state is None else state["step"]
    sources = _sources(state)
    is_writer = distributed.rank() == 0
    log, curves = _logs(run, name, total, state)
    provenance = {
        "identity": identity,
        "config_digest": digest,
        "data_digest": run.data_digest,
        VALIDATION_KEY: validation,
        "sources": sources,
    }

    def write(path: Path, weights: ImpNetwork, more: dict[str, object]) -> None:
        metadata = {**_metadata(run, stage, log.seconds), **provenance, **more}
        save_checkpoint(path, weights, metadata, run.half and stage == 2)

    history = state.get("validation", []) if state is not None else []
    validator = _validator(run, name, total, provenance, history, write, curves)
    if is_writer and not history:
        remove_file(run.folder / f"{name}.val.jsonl")  # of an earlier run, of which imp-eval would draw it

    def save(step: int) -> None:
        if is_writer:
            saved = TrainingState(
                network=network.state_dict(),
                optimiser=optimizer.state_dict(),
                identity=identity,
                step=step,
                sources=sources,
                data_digest=run.data_digest,
                validation_facts=validation,
                canvas_scale=network.config.canvas_scale,
                log=log.state(),
            )
            if average is not None:
                saved["average"] = average.state_dict()
            if validator is not None:
                saved["validation"] = validator.history
            save_state(path, saved)

    # A signal while the checkpoint is written does not interrupt that either.
    with log, StopRequest(run.deadline) as stop:
        steps = range(first, total)
        done = _steps(run, network, optimizer, average, stage, steps, log, stop, save, validator)
        if curves is not None:
            curves.close()
        if average is not None:
            average.copy_to(network)
        if is_writer:
            more: dict[str, object] = {"stopped_early_at": done} if done < total else {}
            write(run.folder / f"{name}.safetensors", network, more)
            path.unlink(missing_ok=True)
        distributed.wait()
    if distributed.any_process(stop.signaled, run.device):
        # Received in the last step or after it: the stage is done, but the next one must not start.
        raise KeyboardInterrupt
    return run.folder / f"{name}.safetensors"


def _saved_state(
    run: Run, path: Path, identity: str, validation: ValidationFacts | None, total: int
) -> TrainingState | None:
    """What a stopped training saved, if anything; the log says what identifies it."""
    state = read_state(path, identity, run.data_digest)
    if state is not None:
        # Its scores are the first part of the history.
        require_same_validation(path, state, validation)
        _LOGGER.info("%s resumes at step %d of %d: %s", path, state["step"], total, _inputs(run, identity))
    return state


def best_path(path: Path) -> Path:
    """File with the weights of the best score, next to a stage's checkpoint."""
    return path.with_name(f"{path.stem}.best{path.suffix}")


def _validator(
    run: Run,
    name: str,
    total: int,
    provenance: Mapping[str, object],
    history: list[ValidationScores],
    write: Callable[[Path, ImpNetwork, dict[str, object]], None],
    curves: TensorBoardCurves | None,
) -> Validator | None:
    """The validation of a stage; UsageError if the folder has the best weights of another one."""
    best = best_path(run.folder / f"{name}.safetensors")
    exists = distributed.any_process(best.is_file(), run.device)
    if run.validation is None:
        if exists and not _is_of_run(best, provenance["identity"]):
            _LOGGER.warning("%s is of another run; this one has no --val and keeps no best weights", best)
        return None
    if exists:
        metadata = load_model(best)[1]
        require_same_run(best, metadata.get("identity"), str(provenance["identity"]))
        require_same_validation(best, metadata, run.validation.facts(total))

    def on_best(network: ImpNetwork, step: int, score: float) -> None:
        write(best, network, {"step": step, "validation_score": score})

    def on_scores(scores: ValidationScores) -> None:
        if curves is not None:
            by_class = {f"IoU {key}": value for key, value in scores["iou"].items()}
            curves.add(scores["step"], {**scores, **by_class}, "validation")

    path = run.folder / f"{name}.val.jsonl"
    return Validator(run.validation, total, path, run.device, history, on_best, on_scores)


def _is_of_run(path: Path, identity: object) -> bool:
    try:
        return bool(load_model(path)[1].get("identity") == identity)
    except CheckpointError:
        return False


def _sources(state: TrainingState | None) -> list[str]:
    """Versions of the source code that a stage was trained with: it may change before a run is resumed."""
    # Older states do not record them.
    previous = [] if state is None else state.get("sources", ["version unknown"])
    return list(dict.fromkeys([*previous, source_version()]))


def _restore(
    network: ImpNetwork, optimizer: Optimizer, ema_decay: float, state: TrainingState | None
) -> WeightAverage | None:
    """Load what a stopped training saved, if anything; returns the average of the weights, if one is kept."""
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimiser"])
        # A measured one; on another device, or of other parts of the batch, it may come out differently.
        set_canvas_scale(network, state.get("canvas_scale", network.config.canvas_scale))
    if not ema_decay:
        return None
    average = WeightAverage(network, ema_decay)
    if state is not None:
        average.load_state_dict(state.get("average", {}))
    return average


def _logs(
    run: Run, name: str, total: int, state: TrainingState | None
) -> tuple[TrainingLog, TensorBoardCurves | None]:
    """Log and curves of a stage, continued after a saved state; only the first process writes files."""
    first = 0 if state is None else state["step"]
    is_writer = distributed.rank() == 0
    curves = TensorBoardCurves(run.folder, name, first) if run.tensorboard and is_writer else None
    on_line = None if curves is None else partial(curves.add, group="training")
    previous: LogState = {} if state is None else state["log"]
    path = run.folder / f"{name}.jsonl" if is_writer else None
    return TrainingLog(path, total, first, previous, run.quiet, on_line), curves


def _prepare(network: ImpNetwork, run: Run) -> Optimizer:
    """Set training mode, with the backbone's frozen part in evaluation mode and without gradients."""
    network.train()
    body = network.backbone.body
    if run.recipe.freeze_norm:
        for module in body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    for part in [body.stem, *body.stages][: run.recipe.freeze_stages]:
        part.eval().requires_grad_(False)
    return Optimizer(network, run.recipe, run.device)


def _steps(
    run: Run,
    network: ImpNetwork,
    optimizer: Optimizer,
    average: WeightAverage | None,
    stage: int,
    steps: range,
    log: TrainingLog,
    stop: StopRequest,
    save: Callable[[int], None],
    validator: Validator | None,
) -> int:
    """Execute the steps; returns the number of those done, fewer than all if the validation ended them."""
    recipe, schedule = run.recipe, _schedule(run, stage)
    weights = None
    if recipe.class_weights and trains_semantic(network.config, recipe, stage):
        weights = class_weights(run.dataset).to(run.device)
    losses = distributed.parallel(StageLosses(network, recipe, stage, weights), run.device)
    classes = network.config.classes
    seed, workers = (run.seed, stage), run.batch_workers
    with batch_stream(run.dataset, classes, recipe, seed, steps, workers) as batches:
        for step in steps:
            with saved_on_failure(save, step, steps.start):
                if validator is not None and validator.ends(step, network, average, stop):
                    return step
            stop_if_requested(stop, step, steps, save, run.device)
            if step > steps.start and step % run.save_every == 0:
                save(step)
            batch = next_batch(batches, save, step, steps.start, run.device).to(run.device)
            torch.manual_seed(_step_seed(run.seed, stage, step))
            lr = learning_rate(schedule, step, recipe.lr_factor)
            ohem_ratio = draw_ohem_ratio(recipe, (run.seed, stage, step))
            log.add(step, _step(losses, optimizer, batch, ohem_ratio, lr, run), lr)
            if average is not None:
                average.update(network)
    if validator is not None:
        with saved_on_failure(save, steps.stop, steps.start):
            validator.ends(steps.stop, network, average, stop)
        if distributed.any_process(distributed.rank() == 0 and validator.is_due(steps.stop), run.device):
            stop_if_requested(stop, steps.stop, steps, save, run.device)  # it was interrupted
    return steps.stop


def _step(
    losses: nn.Module,
    optimizer: Optimizer,
    batch: Batch,
    ohem_ratio: float | None,
    lr: float,
    run: Run,
) -> dict[str, float]:
    """One optimizer step; returns the losses before it, averaged over processes."""
    precision = run.recipe.precision
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    with torch.autocast(run.device.split(":")[0], dtype=dtype, enabled=precision != "float32"):
        parts = losses(batch, ohem_ratio)
    stacked = torch.stack(list(parts.values()))
    means = distributed.mean(stacked.detach())
    values = dict(zip(parts, means.tolist(), strict=True))
    if not torch.isfinite(means).all():
        raise TrainingDiverged(
            "training", expected="finite losses", got=values, fix="lower the learning rate"
        )
    optimizer.step(stacked.sum(), lr)
    return values


def _step_seed(seed: int, stage: int, step: int) -> int:
    """Seed of the RPN and RoI samplers in a step; each process samples its own part of the batch."""
    numbers = (seed, stage, step, distributed.rank()) if distributed.rank() else (seed, stage, step)
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _metadata(run: Run, stage: int, seconds: float) -> dict[str, object]:
    return {
        "data": run.dataset.name,
        "terms": run.terms,
        "seed": run.seed,
        "recipe": run.recipe.to_dict(),
        **_initial_facts(run),
        "stage": stage,
        "torch": torch.__version__,
        "device": run.device,
        "processes": distributed.world_size(),
        "seconds": round(seconds, 1),
    }


def _initial_facts(run: Run) -> dict[str, object]:
    if run.checkpoint is None:
        return {"initial": run.initial}
    return {"initial": "checkpoint", "initial_sha256": run.checkpoint.sha256}

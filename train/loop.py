"""The two-stage training loop: iteration-based, seeded, resumable after a kill at any step.

Everything random in a step is drawn from (seed, stage, step), so a resumed run needs no generator
state and continues with the very steps that an uninterrupted one would have made.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imp_trt.classes import IGNORE_INDEX, ClassTable
from imp_trt.errors import CheckpointError, ImpTrtError, UsageError
from imp_trt.files import make_folder, write_atomically
from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.config import ModelConfig
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import without_imp
from imp_trt.train.augment import ColourJitter, random_crop
from imp_trt.train.config import Recipe, Stage
from imp_trt.train.dataset import Dataset
from imp_trt.train.losses import training_losses
from imp_trt.train.targets import Batch, make_batch

LOG_EVERY = 20
SAVE_EVERY = 500


@dataclass(frozen=True)
class Run:
    """What one training run needs to know.

    Attributes:
        dataset: labelled pictures.
        recipe: lengths, rates, augmentation.
        seed: of everything random.
        folder: where logs, resume state and checkpoints go.
        device: "cpu" or "cuda".
        half: write the results of stage two with kernels as float16.
        pretrained: start the backbone from torchvision's ImageNet weights.
        quiet: no progress bar.
    """

    dataset: Dataset
    recipe: Recipe
    seed: int
    folder: Path
    device: str = "cpu"
    half: bool = False
    pretrained: bool = False
    quiet: bool = False


class TrainingDiverged(ImpTrtError):
    """A loss is no longer finite: lower the learning rate or the clip norm."""


def train_pair(run: Run, config: ModelConfig) -> tuple[Path, Path]:
    """Train a network with IMP and its control without, from one shared stage one.

    Returns:
        Checkpoints (with IMP, without).
    """
    stage_one = train_stage_one(run, config)
    with_imp = train_stage_two(run, config, stage_one, "imp")
    return with_imp, train_stage_two(run, without_imp(config), stage_one, "plain")


def train_stage_one(run: Run, config: ModelConfig) -> Path:
    """The detector first (paper, section 4); returns the checkpoint, trained or found finished.

    The network of this stage has no canvas, so that the systems which differ in IMP share it.
    """
    torch.manual_seed(run.seed)
    plain = without_imp(config) if config.semantic_head != "none" else config
    network = ImpNetwork(plain, pretrained_backbone=run.pretrained)
    return _train_stage(run, network, 1, run.recipe.stage_one, "stage_one")


def train_stage_two(run: Run, config: ModelConfig, stage_one: Path, name: str) -> Path:
    """Everything together, IMP on predicted detections; returns the checkpoint called name."""
    torch.manual_seed(run.seed)
    network = ImpNetwork(config)
    before, _ = load_model(stage_one)
    take_over(network, before)
    return _train_stage(run, network, 2, run.recipe.stage_two, name)


def take_over(network: ImpNetwork, before: ImpNetwork) -> None:
    """Copy the weights of stage one; the canvas channels that it did not have start at zero.

    With zero weights the network with IMP computes at first exactly what the one without does.

    Raises:
        CheckpointError: the two networks differ in more than the canvas.
    """
    weights = before.state_dict()
    wanted = network.state_dict()
    if set(weights) != set(wanted):
        raise CheckpointError(
            "stage one",
            expected="the same network without IMP",
            got=f"tensors that differ: {sorted(set(weights) ^ set(wanted))[:3]}",
            fix="train stage one with this configuration",
        )
    for name, value in weights.items():
        target = wanted[name]
        if value.shape == target.shape:
            target.copy_(value)
        elif name == "semantic.fuse.0.0.weight" and value.shape[0] == target.shape[0]:
            # Input channels are (features, canvas).
            target.zero_()
            target[:, : value.shape[1]].copy_(value)
        else:
            raise CheckpointError(
                f"stage one, tensor {name}",
                expected=list(target.shape),
                got=list(value.shape),
                fix="train stage one with this configuration",
            )


def learning_rate(stage: Stage, step: int) -> float:
    """Rate of a step: linear warm-up from peak / 10, then a cosine to end."""
    if step < stage.warmup:
        return stage.peak * (0.1 + 0.9 * step / stage.warmup)
    progress = (step - stage.warmup) / max(1, stage.iterations - stage.warmup)
    return stage.end + (stage.peak - stage.end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def class_weights(dataset: Dataset) -> Tensor:
    """1 / log(1.10 + frequency) for each class (ENet, Paszke et al. 2016, with its constant 1.10)."""
    counts = np.zeros(256, np.int64)
    step = max(1, len(dataset) // 200)
    for index in range(0, len(dataset), step):
        counts += np.bincount(dataset[index].semantic.ravel(), minlength=256)
    counts[IGNORE_INDEX] = 0
    frequency = counts[: len(dataset.classes)] / max(1, counts.sum())
    return torch.from_numpy(1.0 / np.log(1.10 + frequency)).float()


def draw_batch(dataset: Dataset, classes: ClassTable, recipe: Recipe, seed: tuple[int, int, int]) -> Batch:
    """The crops of one step; depends on the seed alone."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, len(dataset), recipe.batch)
    strength = recipe.colour
    colour = ColourJitter(strength, strength, strength, strength / 10)
    samples = [random_crop(dataset[int(i)], rng, recipe.crop, recipe.scale, colour=colour) for i in indices]
    return make_batch(samples, classes, recipe.min_area)


def _train_stage(run: Run, network: ImpNetwork, stage: int, plan: Stage, name: str) -> Path:
    final = run.folder / f"{name}.safetensors"
    identity = _identity(run, network.config, stage)
    if final.is_file():
        _same_run(final, load_model(final)[1].get("identity"), identity)
        return final
    network = network.to(run.device).to(memory_format=torch.channels_last)
    network.train()
    optimizer = _optimizer(network, run.recipe)
    state = run.folder / f"{name}.resume.pt"
    first, spent = _restore(state, network, optimizer, identity)
    weights = class_weights(run.dataset).to(run.device) if run.recipe.class_weights else None
    log = _Log(run.folder / f"{name}.jsonl", plan.iterations, first, spent, run.quiet)
    with log, _batches(run, network.config.classes, stage, range(first, plan.iterations)) as batches:
        for step, batch in enumerate(batches, start=first):
            torch.manual_seed(_step_seed(run.seed, stage, step))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(plan, step)
            losses = _step(network, optimizer, batch, run, stage, weights)
            log.add(step, losses, learning_rate(plan, step))
            if (step + 1) % SAVE_EVERY == 0 and step + 1 < plan.iterations:
                _save_state(state, network, optimizer, identity, step + 1, log.seconds)
    metadata = {
        "data": run.dataset.name,
        "terms": run.dataset.terms,
        "seed": run.seed,
        "recipe": run.recipe.to_dict(),
        "stage": stage,
        "identity": identity,
        "torch": torch.__version__,
        "device": run.device,
        "seconds": round(log.seconds, 1),
    }
    save_checkpoint(final, network, metadata, half=run.half and stage == 2)
    state.unlink(missing_ok=True)
    return final


def _identity(run: Run, config: ModelConfig, stage: int) -> str:
    """Digest of all that decides a stage's result: what is found in a folder must be of the same run.

    The device and the number of threads are left out: a run may continue on another machine.
    """
    settings = run.recipe.to_dict()
    # Stage one knows neither the second stage's length nor the canvas.
    later = [n for n in settings if stage == 1 and (n == "stage_two" or n.startswith("canvas_"))]
    facts = {
        "config": config.to_dict(),
        "recipe": {n: v for n, v in settings.items() if n not in later},
        "seed": run.seed,
        "data": [run.dataset.name, len(run.dataset), run.dataset[0].size],
        "pretrained": run.pretrained,
        "stage": stage,
        "half": run.half and stage == 2,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _same_run(path: Path, found: object, identity: str) -> None:
    if found != identity:
        raise UsageError(
            f"{path} belongs to another run",
            expected="the same data, seed, recipe and network",
            got="a file that was made with others",
            fix="choose another folder with -o, or delete the file",
        )


def _step(
    network: ImpNetwork,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    run: Run,
    stage: int,
    weights: Tensor | None,
) -> dict[str, float]:
    batch = batch.to(run.device)
    with torch.autocast(run.device, dtype=torch.bfloat16, enabled=run.recipe.bfloat16):
        losses = training_losses(network, batch, run.recipe, stage, weights)
    total = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(total):
        raise TrainingDiverged(
            "training",
            expected="finite losses",
            got={k: float(v.detach()) for k, v in losses.items()},
            fix="lower the learning rate",
        )
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), run.recipe.clip)
    optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def _optimizer(network: ImpNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [p for p in network.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in network.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.stage_one.peak, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.stage_one.peak, fused=True)


def _step_seed(seed: int, stage: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, stage, step)).generate_state(1)[0])


@contextmanager
def _batches(run: Run, classes: ClassTable, stage: int, steps: range) -> Iterator[Iterator[Batch]]:
    """Batches of the steps in order, the next one made while the current one trains."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="imp-batches")

    def make(step: int) -> Batch:
        return draw_batch(run.dataset, classes, run.recipe, (run.seed, stage, step))

    def stream() -> Iterator[Batch]:
        ahead: list[Future[Batch]] = [pool.submit(make, s) for s in steps[:2]]
        for position in range(len(steps)):
            batch = ahead.pop(0).result()
            if position + 2 < len(steps):
                ahead.append(pool.submit(make, steps[position + 2]))
            yield batch

    try:
        yield stream()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _restore(
    path: Path, network: ImpNetwork, optimizer: torch.optim.Optimizer, identity: str
) -> tuple[int, float]:
    """Continue from a saved state: the next step, and the seconds spent so far; (0, 0) without one."""
    if not path.is_file():
        return 0, 0.0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many unrelated types for a damaged file
        raise CheckpointError(
            f"saved state {path}", expected="a whole file", got=type(error).__name__, fix="delete the file"
        ) from error
    _same_run(path, state.get("identity"), identity)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])


def _save_state(
    path: Path,
    network: ImpNetwork,
    optimizer: torch.optim.Optimizer,
    identity: str,
    step: int,
    seconds: float,
) -> None:
    buffer = io.BytesIO()
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "identity": identity,
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


class _Log:
    """Mean losses as JSON lines, and a progress bar with the time left on stderr."""

    def __init__(self, path: Path, total: int, first: int, spent: float, quiet: bool) -> None:
        self.path, self.total, self.first = path, total, first
        self.quiet = quiet or bool(os.environ.get("IMP_TRT_NO_PROGRESS"))
        self.sums: dict[str, float] = {}
        self.seen = 0
        self.started = time.monotonic() - spent
        self._bar: Any = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def __enter__(self) -> _Log:
        from tqdm import tqdm

        make_folder(self.path.parent)
        self._forget_lost_steps()
        # Every 20 s where stderr is a file, so that logs stay short.
        interval = 0.1 if sys.stderr.isatty() else 20.0
        self._bar = tqdm(
            total=self.total,
            initial=self.first,
            desc=self.path.stem,
            unit="it",
            mininterval=interval,
            disable=self.quiet,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def _forget_lost_steps(self) -> None:
        """Drop the lines of steps that were made after the state that the run resumes from."""
        if self.path.is_file():
            lines = self.path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= self.first]
            write_atomically(self.path, "".join(kept).encode())

    def add(self, step: int, losses: dict[str, float], rate: float) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.seen += 1
        self._bar.update(1)
        if self.seen < LOG_EVERY and step + 1 < self.total:
            return
        means = {name: round(value / self.seen, 5) for name, value in self.sums.items()}
        line = {"step": step + 1, "lr": rate, "seconds": round(self.seconds, 2), **means}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._bar.set_postfix(loss=f"{sum(means.values()):.3f}")
        self.sums, self.seen = {}, 0

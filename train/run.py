# SPDX-License-Identifier: Apache-2.0
"""One training run: the network that each stage trains, and the identity of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from imp_trt.cuda.cpus import usable_cpus
from imp_trt.data.dataset import Dataset
from imp_trt.data.files import resolved
from imp_trt.data.locks import Busy, LocksUnsupported, claim
from imp_trt.errors import CheckpointError, UsageError
from imp_trt.models.checkpoint import Checkpoint, load_model
from imp_trt.models.config import Initial, ModelConfig
from imp_trt.models.finetune import copy_canvas_weights, copy_weights, plan_transfer
from imp_trt.models.initial import NEW_LAYER_STD
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import without_imp
from imp_trt.models.semantic import SemanticHead
from imp_trt.train import distributed
from imp_trt.train.batches import check_batch
from imp_trt.train.canvas_scale import measure_canvas_scale, set_canvas_scale
from imp_trt.train.config import Recipe
from imp_trt.train.datasets.label_map_checks import require_objects
from imp_trt.train.identity import identity, stage_digest
from imp_trt.train.loop import find_finished, train_stage
from imp_trt.train.losses import trains_semantic
from imp_trt.train.provenance import dataset_digest
from imp_trt.train.validation import Validation, check_validation

TERMS_OF_WEIGHTS = "; initial weights: "
"""Between the license terms of a run's data and those of its initial weights."""

LOCK_NAME = ".lock"
"""Lock file in the folder of a run. It stays there; the lock ends with the process."""

_log = logging.getLogger("imp_trt.train")
_held: ContextVar[frozenset[Path]] = ContextVar("folders that this thread has locked", default=frozenset())


@dataclass(frozen=True)
class Run:
    """Settings of one training run.

    Attributes:
        dataset: labeled images.
        recipe: schedules, losses, augmentation.
        seed: seed of all random numbers.
        folder: output folder of logs, resume state and checkpoints.
        device: "cpu", "cuda" or "cuda:<index>".
        half: store the convolution kernels of stage two's checkpoint as float16.
        initial: initial weights of stage one: "scratch", an "imagenet" backbone, or torchvision's "coco"
            Mask R-CNN.
        backbone_weights: with initial "imagenet", a file with the backbone's weights; None takes the
            published ones.
        checkpoint: initial weights of the whole network, instead of ``initial``: what it has in common with
            the networks of both stages is copied (:func:`imp_trt.models.finetune.copy_weights`).
        validation: evaluation during training; None: none. It changes nothing but when a stage ends; a folder
            has the scores of one.
        tensorboard: also write the curves in TensorBoard's format.
        quiet: no progress bar.
        deadline: a :func:`time.monotonic` time; after it the state is saved at the next step
            and :class:`imp_trt.train.state.TimeBudgetSpent` is raised.
        save_every: steps between two saved states; a killed run repeats the steps since the last one.
        workers: threads that load batches; None: one for training on the CPU, up to eight on a GPU.
            The result does not depend on it.
    """

    dataset: Dataset
    recipe: Recipe
    seed: int
    folder: Path
    device: str = "cpu"
    half: bool = False
    initial: Initial = "scratch"
    backbone_weights: Path | None = None
    quiet: bool = False
    deadline: float | None = None
    save_every: int = 500
    workers: int | None = None
    checkpoint: Checkpoint | None = None
    validation: Validation | None = None
    tensorboard: bool = False

    @property
    def is_pretrained(self) -> bool:
        """Whether the backbone starts from weights that have been trained."""
        return self.checkpoint is not None or self.initial != "scratch"

    @property
    def terms(self) -> str | None:
        """License terms of the data, and of the data that the initial weights are from."""
        before = self.checkpoint.metadata.get("terms") if self.checkpoint is not None else None
        # Those of a checkpoint may already be of several datasets.
        parts = [self.dataset.terms, *str(before or "").split(TERMS_OF_WEIGHTS)]
        return TERMS_OF_WEIGHTS.join(dict.fromkeys(terms for terms in parts if terms)) or None

    @cached_property
    def data_digest(self) -> str:
        """Digest of the dataset's content: a file of a run with other labels is not reused."""
        return dataset_digest(self.dataset)

    @property
    def batch_workers(self) -> int:
        """Number of threads that load batches."""
        if self.workers is not None:
            return self.workers
        return 1 if self.device == "cpu" else min(8, usable_cpus())


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock the folder of a run while the block runs; nested blocks of one thread share the lock.

    Of the processes of a distributed run, the first holds it. Without locks in the file system a warning is
    logged instead.

    Raises:
        UsageError: another run uses the folder.
        OutputError: the folder is not writable.
    """
    folder = resolved(folder)
    if folder in _held.get() or distributed.rank() > 0:
        yield
        return
    lock = claim(folder / LOCK_NAME)
    try:
        lock.__enter__()
    except Busy as error:
        raise UsageError(
            f"training in {folder}",
            expected="a folder that no other run uses",
            got=f"one that is in use{f' by process {error.holder}' if error.holder else ''}",
            fix="choose another folder with -o, or wait for the other run",
        ) from error
    except LocksUnsupported as error:
        _log.warning("a second run in the same folder would not be noticed: %s", error)
        yield
        return
    token = _held.set(_held.get() | {folder})
    try:
        yield
    finally:
        _held.reset(token)
        lock.__exit__(None, None, None)


def train_pair(run: Run, config: ModelConfig) -> tuple[Path, Path]:
    """Train a network with IMP and its control without, from one shared stage one.

    Returns:
        Checkpoints (with IMP, without).
    """
    with exclusive(run.folder):
        stage_one = train_stage_one(run, config)
        with_imp = train_stage_two(run, config, stage_one, "imp")
        return with_imp, train_stage_two(run, without_imp(config), stage_one, "plain")


def train_stage_one(run: Run, config: ModelConfig) -> Path:
    """Train the detector first (paper, section 4); returns the checkpoint, new or existing.

    The network is that of :func:`stage_one_config`, so that systems with the same one share the result. If
    stage one trains the detector alone, a system without a detector skips it: it gets as many semantic steps
    as the others.

    Raises:
        UsageError: the folder has the stage one of another run, or another run uses it; the classes of data
            and network differ; or frozen stages have no pretrained weights.
        TimeBudgetSpent, KeyboardInterrupt: the state is saved; the same call resumes.
    """
    _check(run, config)
    run, shared = _stage_one(run, config)
    run_id = identity(run, shared, 1)
    with exclusive(run.folder):
        done = find_finished(run, 1, "stage_one", run_id)
        if done is not None:
            return done
        torch.manual_seed(run.seed)
        network = _initialized(run, shared)
        return train_stage(run, network, 1, "stage_one", run_id, stage_digest(run, shared, 1))


def train_stage_two(run: Run, config: ModelConfig, stage_one: Path, name: str) -> Path:
    """Train all parts, with IMP on predicted detections; returns the checkpoint ``name``.

    If stage one had no semantic head, a network with IMP and its control start from the same randomly
    initialized head, and the weights that read the canvas are initialized from N(0, 0.01). Otherwise these
    weights start at zero, so that the network first computes the same as after stage one.

    Raises:
        CheckpointError: stage_one is a checkpoint of another network.
        UsageError: the folder has a checkpoint of that name from another run, or another run uses it; or the
            classes of data and network differ.
        TimeBudgetSpent, KeyboardInterrupt: the state is saved; the same call resumes.
    """
    _check(run, config)
    first, metadata = load_model(stage_one)
    run_id = identity(run, config, 2, str(metadata.get("identity")))
    with exclusive(run.folder):
        done = find_finished(run, 2, name, run_id)
        if done is not None:
            return done
        network = _second_network(run, config, first)
        start = metadata.get("config_digest") or metadata.get("identity")
        return train_stage(run, network, 2, name, run_id, stage_digest(run, config, 2, start))


def _second_network(run: Run, config: ModelConfig, first: ImpNetwork) -> ImpNetwork:
    """The network that stage two trains, with the weights of stage one."""
    canvas = config.imp and config.semantic_head != "none"
    base = without_imp(config) if canvas else config
    torch.manual_seed(run.seed)
    head_is_trained = base.semantic_head in ("none", first.config.semantic_head)
    network = ImpNetwork(base) if head_is_trained else _initialized(run, base)
    transfer_weights(network, first)
    if canvas:
        control, network = network, ImpNetwork(config)
        transfer_weights(network, control)
        if not head_is_trained and isinstance(network.semantic, SemanticHead):
            # No trained head to preserve, so the canvas contributes from the first step.
            nn.init.normal_(network.semantic.canvas_kernel.detach(), std=NEW_LAYER_STD)
        network = _with_canvas_scale(run, network)
        if run.checkpoint is not None:
            copy_canvas_weights(network, run.checkpoint.network)
    return network


def _with_canvas_scale(run: Run, network: ImpNetwork) -> ImpNetwork:
    """The network with the recipe's factor of the canvas, measured if the recipe has none."""
    scale = run.recipe.canvas_scale
    if scale is None:
        scale = measure_canvas_scale(network, run.dataset, run.recipe, run.seed, run.device)
    if scale != 1.0:
        set_canvas_scale(network, scale)
    return network


def stage_one_config(config: ModelConfig, recipe: Recipe) -> ModelConfig:
    """Configuration of the network of stage one: the same for all systems that can share it.

    The detector alone (that of mask-rcnn-imp), or the network without canvas if the recipe also trains the
    semantic head in stage one. A semantic-only network is its own first stage.
    """
    if config.detector and not trains_semantic(config, recipe, 1):
        config = replace(config, semantic_head="none", imp=True, semantic_channels=128, head_norm="group")
    else:
        config = without_imp(config)
    return replace(config, sampling="bilinear", background_score=0.5, canvas_scale=1.0, canvas_skip=False)


def stage_one_key(run: Run, config: ModelConfig) -> str:
    """Short digest of all inputs of stage one: runs with the same key can share its folder."""
    return identity(*_stage_one(run, config), 1)[:12]


def _stage_one(run: Run, config: ModelConfig) -> tuple[Run, ModelConfig]:
    """Run and network configuration of a system's stage one."""
    recipe = run.recipe
    if not (config.detector or recipe.semantic_in_stage_one):
        run = replace(run, recipe=replace(recipe, stage_one=recipe.stage_one.with_iterations(0)))
    return run, stage_one_config(config, recipe)


def transfer_weights(network: ImpNetwork, source: ImpNetwork) -> None:
    """Copy the weights of stage one; weights of canvas channels that it lacks are set to zero.

    With zero weights the network with IMP first computes exactly the same as the one without. A
    semantic head that stage one lacks keeps its random initialization.

    Args:
        network: network of stage two; changed in place.
        source: network of stage one.

    Raises:
        CheckpointError: the two networks differ in more than that.
    """
    weights = source.state_dict()
    targets = network.state_dict()
    new = {name for name in targets if name not in weights and not name.startswith("semantic.")}
    # The convolution from canvas to logits starts at zero.
    missing = _semantic(targets) - _semantic(weights) - {"semantic.canvas_to_logits.weight"}
    if set(weights) - set(targets) or new or (_semantic(weights) and missing):
        raise CheckpointError(
            "stage one",
            expected="the same network without IMP, or its detector alone",
            got=f"tensors that differ: {sorted(set(weights) ^ set(targets))[:3]}",
            fix="train stage one with this configuration",
        )
    for name, value in weights.items():
        target = targets[name]
        if value.shape == target.shape:
            target.copy_(value)
        elif name in ("semantic.fuse.0.0.weight", "semantic.classify.weight") and (
            value.shape[0] == target.shape[0]
        ):
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


def _initialized(run: Run, config: ModelConfig) -> ImpNetwork:
    network = ImpNetwork(config)
    if run.checkpoint is not None:
        copy_weights(network, run.checkpoint.network)
    elif run.initial != "scratch":
        from imp_trt.models.initial import initialize

        if run.backbone_weights is None:
            initialize(network, run.initial)
        else:
            initialize(network, run.initial, run.backbone_weights)
    return network


def check_backbone_weights(path: Path | None, initial: str, checkpoint: Checkpoint | None) -> None:
    """Check that a file with the backbone's weights exists and would be used.

    Args:
        path, initial, checkpoint: ``backbone_weights``, ``initial`` and ``checkpoint`` of a :class:`Run`.

    Raises:
        UsageError: the run starts from other weights.
        CheckpointError: there is no such file.
    """
    if path is None:
        return
    if checkpoint is not None:
        raise UsageError(
            "backbone weights",
            expected="none with the weights of a whole network",
            got=str(path),
            fix="leave out --backbone-weights",
        )
    if initial != "imagenet":
        raise UsageError(
            f"--backbone-weights {path}",
            expected="initial weights 'imagenet', of which it is the backbone",
            got=repr(initial),
            fix="add --init imagenet, or leave out --backbone-weights",
        )
    if not os.path.isfile(path):
        raise CheckpointError(
            f"backbone weights {path}", expected="an existing file", got="none", fix="check the path"
        )


def _check(run: Run, config: ModelConfig) -> None:
    check_backbone_weights(run.backbone_weights, run.initial, run.checkpoint)
    data, network = run.dataset.classes, config.classes
    if (data.names, data.things) != (network.names, network.things):
        raise UsageError(
            f"the network's classes and the classes of {run.dataset.name}",
            expected=f"{', '.join(data.names)}, things {data.things}",
            got=f"{', '.join(network.names)}, things {network.things}",
            fix="build the config with the dataset's class table",
        )
    if config.detector:
        require_objects(run.dataset)
    check_batch(run.dataset, run.recipe)
    if run.validation is not None:
        check_validation(run.validation, run.dataset)
    if run.checkpoint is not None:
        plan_transfer(config, run.checkpoint.network.config)
    if (run.recipe.freeze_stages or run.recipe.freeze_norm) and not run.is_pretrained:
        raise UsageError(
            "frozen stages or statistics of the backbone",
            expected="pretrained weights",
            got="initial 'scratch'",
            fix="--init imagenet or coco, or --set freeze_stages=0 --set freeze_norm=False",
        )
    if config.norm == "frozen_batch" and not run.is_pretrained:
        raise UsageError(
            "frozen normalization",
            expected="pretrained statistics",
            got="initial 'scratch'",
            fix="--norm group or batch, or --init imagenet or coco",
        )


def _semantic(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith("semantic.")}

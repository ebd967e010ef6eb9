"""One training run: which network each stage trains, and what makes two runs the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from imp_trt.cuda.platform import usable_cpus
from imp_trt.data.dataset import Dataset
from imp_trt.errors import CheckpointError, UsageError
from imp_trt.models.checkpoint import load_model
from imp_trt.models.config import ModelConfig
from imp_trt.models.initial import NEW_LAYER_DEVIATION
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import without_imp
from imp_trt.models.semantic import SemanticHead
from imp_trt.train.loop import finished, train_stage
from imp_trt.train.losses import trains_semantic
from imp_trt.train.provenance import config_digest, dataset_facts
from imp_trt.train.recipes import CANVAS_FIELDS, Initial, Recipe


@dataclass(frozen=True)
class Run:
    """What one training run needs to know.

    Attributes:
        dataset: labeled pictures.
        recipe: lengths, rates, augmentation.
        seed: of everything random.
        folder: where logs, resume state and checkpoints go.
        device: "cpu", "cuda" or "cuda:<index>".
        half: write the results of stage two with kernels as float16.
        initial: what stage one starts from: "scratch", or torchvision's "imagenet" trunk or "coco"
            Mask R-CNN.
        quiet: no progress bar.
        deadline: a :func:`time.monotonic` time; once it has come, the state is saved at a step
            boundary and :class:`imp_trt.train.state.TimeBudgetSpent` is raised.
        save_every: steps between two saved states; a killed run repeats the steps since the last.
        workers: threads that make batches; None: one where the CPU trains, up to eight where a GPU does.
            The result does not depend on it.
    """

    dataset: Dataset
    recipe: Recipe
    seed: int
    folder: Path
    device: str = "cpu"
    half: bool = False
    initial: Initial = "scratch"
    quiet: bool = False
    deadline: float | None = None
    save_every: int = 500
    workers: int | None = None

    @property
    def batch_workers(self) -> int:
        """Threads that make batches."""
        if self.workers is not None:
            return self.workers
        return 1 if self.device == "cpu" else min(8, usable_cpus())


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

    The network is :func:`stage_one_config`'s, so that systems which agree in it share the result. Where
    stage one trains the detector alone, a system without one has nothing to train in it: it gets as many
    semantic steps as the others.

    Raises:
        UsageError: the folder has a stage one of another run; the data has other classes than the
            network; or frozen stages without pretrained weights.
        TimeBudgetSpent, KeyboardInterrupt: the state is saved, the same call continues.
    """
    _check(run, config)
    run, shared = _stage_one(run, config)
    same = identity(run, shared, 1)
    done = finished(run, "stage_one", same)
    if done is not None:
        return done
    torch.manual_seed(run.seed)
    return train_stage(run, _initialized(run, shared), 1, "stage_one", same, stage_digest(run, shared, 1))


def train_stage_two(run: Run, config: ModelConfig, stage_one: Path, name: str) -> Path:
    """Everything together, IMP on predicted detections; returns the checkpoint called name.

    Where stage one had no semantic head, a network with IMP and its control start from the same
    drawn head, and the weights that read the canvas are drawn from N(0, 0.01). Where it had one, they
    start at zero: the network computes at first what stage one taught it.

    Raises:
        CheckpointError: stage_one is of another network.
        UsageError: the folder has a checkpoint of that name of another run; or the data has other
            classes than the network.
        TimeBudgetSpent, KeyboardInterrupt: the state is saved, the same call continues.
    """
    _check(run, config)
    before, metadata = load_model(stage_one)
    same = identity(run, config, 2, str(metadata.get("identity")))
    done = finished(run, name, same)
    if done is not None:
        return done
    canvas = config.imp and config.semantic_head != "none"
    drawn = without_imp(config) if canvas else config
    torch.manual_seed(run.seed)
    known = drawn.semantic_head in ("none", before.config.semantic_head)
    network = ImpNetwork(drawn) if known else _initialized(run, drawn)
    take_over(network, before)
    if canvas:
        control, network = network, ImpNetwork(config)
        take_over(network, control)
        if not known and isinstance(network.semantic, SemanticHead):
            # There is no trained head to leave as it is: the canvas is read from the first step on.
            nn.init.normal_(network.semantic.canvas_kernel.detach(), std=NEW_LAYER_DEVIATION)
    start = metadata.get("config_digest") or metadata.get("identity")
    return train_stage(run, network, 2, name, same, stage_digest(run, config, 2, start))


def stage_one_config(config: ModelConfig, recipe: Recipe) -> ModelConfig:
    """The network that stage one trains for a system: the same for all systems that can share it.

    The detector alone (that of mask-rcnn-imp) unless the recipe trains the semantic head too; a
    network without canvas then. A semantic-only network is its own first stage.
    """
    if config.detector and not trains_semantic(config, recipe, 1):
        config = replace(config, semantic_head="none", imp=True, semantic_channels=128, head_norm="group")
    else:
        config = without_imp(config)
    return replace(config, sampling="bilinear", background_score=0.5)


def stage_one_key(run: Run, config: ModelConfig) -> str:
    """Short digest of all that decides stage one: runs with the same key can share its folder."""
    return identity(*_stage_one(run, config), 1)[:12]


def _stage_one(run: Run, config: ModelConfig) -> tuple[Run, ModelConfig]:
    """The run and the network that stage one of a system is."""
    recipe = run.recipe
    if not (config.detector or recipe.semantic_in_stage_one):
        run = replace(run, recipe=replace(recipe, stage_one=recipe.stage_one.lasting(0)))
    return run, stage_one_config(config, recipe)


def take_over(network: ImpNetwork, before: ImpNetwork) -> None:
    """Copy the weights of stage one; the canvas channels that it did not have start at zero.

    With zero weights the network with IMP computes at first exactly what the one without does. A
    semantic head that stage one did not have stays as it was drawn.

    Raises:
        CheckpointError: the two networks differ in more than that.
    """
    weights = before.state_dict()
    wanted = network.state_dict()
    new = {name for name in wanted if name not in weights and not name.startswith("semantic.")}
    if set(weights) - set(wanted) or new or (_semantic(weights) and _semantic(wanted) - _semantic(weights)):
        raise CheckpointError(
            "stage one",
            expected="the same network without IMP, or its detector alone",
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


def identity(run: Run, config: ModelConfig, stage: int, start: str | None = None) -> str:
    """Digest of all that decides a stage's result: what is found in a folder must be of the same run.

    Fields at their defaults are left out, so that a new field leaves old runs what they were. The
    device and the numbers of threads and processes are left out too: a run may continue on another
    machine.

    Args:
        run: data, recipe, seed.
        config: of the network that the stage trains.
        stage: 1 or 2.
        start: identity of the stage one that stage two starts from.
    """
    facts = {
        **_settings(run, config, stage, _changed),
        "data": [run.dataset.name, len(run.dataset), run.dataset[0].size],
        "start": start,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def stage_digest(run: Run, config: ModelConfig, stage: int, start: str | None = None) -> str:
    """Short digest of a stage's resolved configuration, for its checkpoint's metadata.

    Unlike :func:`identity` it covers fields at their defaults and the first sample's pixels: it changes
    with a default and between splits of the same name and length.

    Args:
        run, config, stage: as in :func:`identity`.
        start: digest, or identity, of the stage one that stage two starts from.
    """
    facts = _settings(run, config, stage, asdict)
    return config_digest({**facts, "data": dataset_facts(run.dataset), "start": start})


def _settings(
    run: Run, config: ModelConfig, stage: int, plain: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    """Settings that decide a stage's weights, dataclasses as ``plain`` writes them."""
    settings = plain(run.recipe)
    settings.pop("initial", None)  # the run's own decides
    unknown: list[str] = []
    if stage == 1 or not config.imp or config.semantic_head == "none":
        unknown += CANVAS_FIELDS
    if stage == 1:
        unknown.append("stage_two")
        if not trains_semantic(config, run.recipe, 1):
            unknown += ["semantic_weight", "class_weights", "bootstrap"]
    if not config.detector:
        unknown.append("semantic_in_stage_one")
    for name in unknown:
        settings.pop(name, None)
    return {
        "config": plain(config),
        "recipe": settings,
        "seed": run.seed,
        "initial": run.initial,
        "stage": stage,
        "half": run.half and stage == 2,
    }


def _changed(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, as plain data."""
    found: dict[str, Any] = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        if value != default:
            found[item.name] = _changed(value) if is_dataclass(value) else value
    return found


def _initialized(run: Run, config: ModelConfig) -> ImpNetwork:
    network = ImpNetwork(config)
    if run.initial != "scratch":
        from imp_trt.models.initial import initialize

        initialize(network, run.initial)
    return network


def _check(run: Run, config: ModelConfig) -> None:
    data, network = run.dataset.classes, config.classes
    if (data.names, data.things) != (network.names, network.things):
        raise UsageError(
            f"the network's classes and the classes of {run.dataset.name}",
            expected=f"{', '.join(data.names)}, things {data.things}",
            got=f"{', '.join(network.names)}, things {network.things}",
            fix="make the config with the data set's class table",
        )
    if run.recipe.freeze_stages and run.initial == "scratch":
        raise UsageError(
            "frozen stages of the trunk",
            expected="pretrained weights to keep",
            got="initial 'scratch'",
            fix="--init imagenet or coco, or --set freeze_stages=0",
        )
    if config.norm == "frozen_batch" and run.initial == "scratch":
        raise UsageError(
            "frozen norms",
            expected="pretrained statistics to keep",
            got="initial 'scratch'",
            fix="--norm group or batch, or --init imagenet or coco",
        )


def _semantic(names: Any) -> set[str]:
    return {name for name in names if name.startswith("semantic.")}

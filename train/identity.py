# SPDX-License-Identifier: Apache-2.0
"""The identity of a run and the digest of a stage: what decides the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING

from imp_trt.data.files import read_regular
from imp_trt.errors import CheckpointError
from imp_trt.models.checkpoint import MAX_CHECKPOINT_BYTES
from imp_trt.models.config import ModelConfig
from imp_trt.train.config import CANVAS_KEYS
from imp_trt.train.losses import trains_semantic
from imp_trt.train.provenance import config_digest, dataset_facts
from imp_trt.train.renamed import json_key, plain_dict

if TYPE_CHECKING:
    from imp_trt.train.run import Run


def identity(run: Run, config: ModelConfig, stage: int, start: str | None = None) -> str:
    """Digest of all inputs of a stage: files in a folder are only reused by the same run.

    Fields at their defaults are left out, so that a new field does not change the identity of old runs. The
    device and the numbers of threads and processes are left out too: a run may resume on another machine.

    Args:
        run: data, recipe, seed.
        config: configuration of the network that the stage trains.
        stage: 1 or 2.
        start: identity of the stage one that stage two starts from.
    """
    facts = {
        **_settings(run, config, stage, _non_default),
        "data": [run.dataset.name, len(run.dataset), run.dataset[0].size],
        "start": start,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def stage_digest(run: Run, config: ModelConfig, stage: int, start: str | None = None) -> str:
    """Short digest of a stage's resolved configuration, for its checkpoint's metadata.

    Unlike :func:`identity` it includes fields at their defaults and the first sample's pixels: it changes
    with a default, and between splits of the same name and length.

    Args:
        run, config, stage: as in :func:`identity`.
        start: digest, or identity, of the stage one that stage two starts from.
    """
    facts = _settings(run, config, stage, plain_dict)
    return config_digest({**facts, "data": dataset_facts(run.dataset), "start": start})


def _settings(
    run: Run, config: ModelConfig, stage: int, to_plain: Callable[[object], dict[str, object]]
) -> dict[str, object]:
    """Settings that a stage's weights depend on, with ``to_plain`` applied to dataclasses."""
    settings = to_plain(run.recipe)
    settings.pop("initial", None)  # the run's own value applies
    unused: list[str] = []  # JSON keys
    if stage == 1 or not config.imp or config.semantic_head == "none":
        unused += CANVAS_KEYS
    if stage == 1:
        unused.append("stage_two")
        if not trains_semantic(config, run.recipe, 1):
            unused += ["semantic_weight", "class_weights", json_key("ohem_ratios")]
    if not config.detector:
        unused.append("semantic_in_stage_one")
    for key in unused:
        settings.pop(key, None)
    return {
        "config": to_plain(config),
        "recipe": settings,
        "seed": run.seed,
        "initial": run.initial,
        "stage": stage,
        "half": run.half and stage == 2,
        **_weights_digest(run),
        **_early_stopping(run),
    }


def _early_stopping(run: Run) -> dict[str, object]:
    """Settings of the validation, if it can end a stage."""
    if run.validation is None or run.validation.patience is None:
        return {}
    return {"validation": [run.validation.data_digest, run.validation.every, run.validation.patience]}


def _weights_digest(run: Run) -> dict[str, object]:
    """Digest of the file with the initial weights of network or backbone, if the run has one."""
    if run.checkpoint is not None:
        return {"initial": "checkpoint", "checkpoint": run.checkpoint.sha256}
    if run.backbone_weights is None:
        return {}
    try:
        content = read_regular(run.backbone_weights, MAX_CHECKPOINT_BYTES)
    except OSError as error:
        raise CheckpointError(
            f"backbone weights {run.backbone_weights}",
            expected="a readable file",
            got=error.strerror or error,
            fix="check the path",
        ) from error
    return {"backbone_weights": hashlib.sha256(content).hexdigest()}


def _non_default(settings: object) -> dict[str, object]:
    """Fields of a dataclass that differ from their defaults, as plain data under their JSON keys."""
    if not is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"expected a dataclass instance, got {type(settings).__name__}")
    changed: dict[str, object] = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        if value != default:
            changed[json_key(item.name)] = _non_default(value) if is_dataclass(value) else value
    return changed

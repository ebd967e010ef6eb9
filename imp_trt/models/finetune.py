# SPDX-License-Identifier: Apache-2.0
"""Initial weights from a checkpoint of this package: the whole network, with classes matched by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from imp_trt.classes import ClassTable
from imp_trt.errors import CheckpointError
from imp_trt.models.config import ModelConfig
from imp_trt.models.initial import by_class, init_normal, match_names
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import SYSTEMS, system
from imp_trt.models.semantic import SemanticHead

_PARTS = {
    "backbone": "backbone.body.",
    "FPN": "backbone.fpn.",
    "detector": "detector.",
    "semantic head": "semantic.",
}
"""Parts of a network, each taken as a whole, and how the names of their tensors begin."""

_DETECTOR_ROWS = (
    "detector.roi.box_predictor.cls_score.",
    "detector.roi.box_predictor.bbox_pred.",
    "detector.roi.mask_predictor.mask_fcn_logits.",
)
_SEMANTIC_ROWS = "semantic.classify."
_READS_CANVAS = ("semantic.fuse.0.0.weight", "semantic.classify.weight")
"""The first of these that a head has reads (features, canvas)."""

_CANVAS_SKIP = "semantic.canvas_to_logits.weight"

# Chosen by the system, by the data, or by the user: they do not make another network of the weights.
_FREE_FIELDS: frozenset[str] = frozenset(
    (
        *("classes", "input_size", "semantic_head", "detector", "imp", "sampling"),
        *("background_score", "canvas_scale", "canvas_skip"),
    )
)
_MAX_LISTED = 12


@dataclass(frozen=True)
class WeightTransfer:
    """What a network takes from a checkpoint's network.

    Attributes:
        config: of the network.
        source: config of the checkpoint.
        parts: parts that both have, which are copied.
        classes: index of a class -> its index in the checkpoint, for rows of the semantic head.
        things: number of a thing (canvas channel) -> its number in the checkpoint, for rows of the detector
            and canvas channels.
    """

    config: ModelConfig
    source: ModelConfig
    parts: tuple[str, ...]
    classes: Mapping[int, int]
    things: Mapping[int, int]

    def lines(self) -> list[str]:
        """What is taken, what is new, what in the checkpoint is unused, a line each."""
        own, source = self.config, self.source
        taken, new, unused = list(self.parts), [], []
        for part in _PARTS:
            if part not in self.parts and part in _parts_of(own):
                new.append(part)
            if part not in self.parts and part in _parts_of(source):
                unused.append(part)
        if "semantic head" in self.parts and own.imp != source.imp:
            (new if own.imp else unused).append("the weights that read the canvas")
        kept, new_classes = [], []
        for index, name in enumerate(own.classes.names):
            missing, found = self._of_class(index)
            if missing:
                new_classes.append(f"{name} ({', '.join(missing)})" if found else name)
            if found:
                theirs = source.classes.names[self._source_class(index)]
                kept.append(name if theirs == name else f"{name} (from {theirs})")
        used = {self._source_class(i) for i in range(len(own.classes)) if self._of_class(i)[1]}
        left = [name for index, name in enumerate(source.classes.names) if index not in used]
        lines = [f"taken: {', '.join(taken)}; classes {_listed(kept)}"]
        new += [f"classes {_listed(new_classes)}"] if new_classes else []
        unused += [f"classes {_listed(left)}"] if left else []
        lines += [f"new: {'; '.join(new)}"] if new else []
        lines += [f"not used: {'; '.join(unused)}"] if unused else []
        changed = _differences(own, source)
        lines += [f"other than in the checkpoint: {', '.join(changed)}"] if changed else []
        return lines

    def _of_class(self, index: int) -> tuple[list[str], list[str]]:
        """The copied heads that have no row for a class, and those that have one."""
        missing: list[str] = []
        found: list[str] = []
        if "detector" in self.parts and index in self.config.classes.things:
            number = self.config.classes.things.index(index)
            (found if number in self.things else missing).append("detector")
        if "semantic head" in self.parts:
            (found if index in self.classes else missing).append("semantic head")
        return missing, found

    def _source_class(self, index: int) -> int:
        if index in self.classes:
            return self.classes[index]
        return self.source.classes.things[self.things[self.config.classes.things.index(index)]]


def finetune_config(
    source: ModelConfig, classes: ClassTable, system_name: str | None = None, **changes: Any
) -> ModelConfig:
    """The architecture of a checkpoint for other classes, or as another system.

    Args:
        source: config of the checkpoint.
        classes: classes of the new network.
        system_name: one of SYSTEMS; None keeps that of the checkpoint. Parts that it adds have the sizes of
            the backbone's preset.
        changes: fields of ModelConfig to override.

    Raises:
        InvalidInput: unknown system, or an invalid value.
    """
    name = system_name or system_of(source)
    preset = system(name, classes, source.input_size, source.backbone)
    switches = ("classes", "semantic_head", "detector", "imp")
    chosen: dict[str, Any] = {field: getattr(preset, field) for field in switches}
    if source.semantic_head != preset.semantic_head:
        sizes = ("semantic_channels", "head_norm", "background_score", "canvas_scale")
        chosen.update({field: getattr(preset, field) for field in sizes})
    if preset.detector and not source.detector:
        chosen["detector_config"] = preset.detector_config
    return replace(source, **{**chosen, **changes})


def system_of(config: ModelConfig) -> str:
    """Name of a network's system, one of SYSTEMS.

    Raises:
        CheckpointError: it is none of them.
    """
    switches = (config.semantic_head, config.detector, config.imp)
    for name, fields_of in SYSTEMS.items():
        if switches == (fields_of["semantic_head"], fields_of["detector"], fields_of["imp"]):
            return name
    raise CheckpointError(
        "system of the checkpoint",
        expected=f"one of {', '.join(SYSTEMS)}",
        got="semantic_head {!r}, detector {}, imp {}".format(*switches),
        fix="choose a system",
    )


def plan_transfer(config: ModelConfig, source: ModelConfig) -> WeightTransfer:
    """What a network takes from a checkpoint's, without copying anything.

    Args:
        config: of the new network.
        source: config of the checkpoint.

    Raises:
        CheckpointError: a part that both have has other sizes; the message has the values of the checkpoint.
    """
    with torch.device("meta"):
        own, theirs = ImpNetwork(config).state_dict(), ImpNetwork(source).state_dict()
    parts = [part for part in _PARTS if part in _parts_of(config) and part in _parts_of(source)]
    if config.semantic_head != source.semantic_head and "semantic head" in parts:
        parts.remove("semantic head")  # another kind of head
    for part in parts:
        prefix = _PARTS[part]
        if _sizes(own, prefix, config) != _sizes(theirs, prefix, source):
            raise CheckpointError(
                f"{part} of the network",
                expected=f"the sizes of the checkpoint: {', '.join(_differences(source, config))}",
                got=", ".join(_differences(config, source)),
                fix="leave out the options that change these, or use finetune_config",
            )
    names = source.classes.names
    things = [names[index] for index in source.classes.things]
    return WeightTransfer(
        config,
        source,
        tuple(parts),
        match_names(config.classes.names, names),
        match_names([config.classes.names[index] for index in config.classes.things], things),
    )


def copy_weights(network: ImpNetwork, source: ImpNetwork) -> WeightTransfer:
    """Copy the weights of a checkpoint's network to a new one, in place.

    Rows of predictors are matched by class name (see :func:`imp_trt.models.initial.match_names`), and so are
    the channels of the canvas. New layers and rows are initialized from N(0, 0.01) by torch's global
    generator, except the 3x3 layers of a "p2" head; new channels of the canvas start at zero in a head that
    is copied.

    Args:
        network: as constructed; its config may have other classes and be another system.
        source: network of the checkpoint; not changed.

    Raises:
        CheckpointError: a part that both have has other sizes.
    """
    transfer = plan_transfer(network.config, source.config)
    _initialize_new(network, transfer)
    own, weights = network.state_dict(), source.state_dict()
    kernel = _canvas_kernel(own)
    things = {0: 0} | {row + 1: found + 1 for row, found in transfer.things.items()}
    with torch.no_grad():
        for part in transfer.parts:
            for name, target in own.items():
                if not name.startswith(_PARTS[part]) or name not in weights:
                    continue
                value = weights[name]
                if name == kernel:
                    features = target.shape[1] - _canvas_channels(network.config)
                    target[:, features:].zero_()
                    target, value = target[:, :features], value[:, :features]
                if name.startswith(_DETECTOR_ROWS):
                    target.copy_(by_class(target, value, things, name))
                elif name.startswith(_SEMANTIC_ROWS):
                    target.copy_(by_class(target, value, transfer.classes, name))
                elif name != _CANVAS_SKIP:
                    target.copy_(value)
    copy_canvas_weights(network, source)
    return transfer


def copy_canvas_weights(network: ImpNetwork, source: ImpNetwork) -> None:
    """Copy the weights that read the canvas channels of matched things, in place; others stay as they are.

    They are divided by the network's canvas_scale and multiplied by the checkpoint's: the head computes the
    same from the same canvas.

    Args:
        network, source: as for :func:`copy_weights`; nothing happens unless both have such weights.
    """
    own, theirs = network.semantic, source.semantic
    if not isinstance(own, SemanticHead) or not isinstance(theirs, SemanticHead) or own.kind != theirs.kind:
        return
    if not network.config.imp or not source.config.imp:
        return
    transfer = plan_transfer(network.config, source.config)
    with torch.no_grad():
        factor = theirs.canvas_scale / own.canvas_scale
        rows = list(transfer.classes.items())
        if len(own.fuse):
            rows = [(row, row) for row in range(len(own.canvas_kernel))]
        for channel, found in transfer.things.items():
            for row, source_row in rows:
                own.canvas_kernel[row, channel] = theirs.canvas_kernel[source_row, found] * factor
        if own.canvas_to_logits is None or theirs.canvas_to_logits is None:
            return
        for channel, found in transfer.things.items():
            for row, source_row in transfer.classes.items():
                value = theirs.canvas_to_logits.weight[source_row, found]
                own.canvas_to_logits.weight[row, channel] = value


def _initialize_new(network: ImpNetwork, transfer: WeightTransfer) -> None:
    """Initialize what may not be in the checkpoint; what is there is copied over it."""
    if network.detector is not None:
        roi = network.detector.roi
        init_normal((roi.box_predictor, roi.mask_predictor.mask_fcn_logits))
        if "detector" not in transfer.parts:
            init_normal([network.detector.rpn.head])
    head = network.semantic
    if isinstance(head, SemanticHead):
        taken = "semantic head" in transfer.parts
        init_normal([head.classify if taken or head.kind == "p2" else head])
        if not taken and head.canvas_to_logits is not None:
            torch.nn.init.zeros_(head.canvas_to_logits.weight)


def _parts_of(config: ModelConfig) -> tuple[str, ...]:
    parts = ["backbone", "FPN"]
    parts += ["detector"] if config.detector else []
    parts += ["semantic head"] if config.semantic_head != "none" else []
    return tuple(parts)


def _sizes(state: Mapping[str, Tensor], prefix: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a part's tensors without the axes that depend on the classes."""
    sizes = {}
    kernel = _canvas_kernel(state)
    for name, value in state.items():
        # Frozen normalization has no counter of batches, but the same parameters.
        if not name.startswith(prefix) or name.endswith("num_batches_tracked") or name == _CANVAS_SKIP:
            continue
        shape = tuple(value.shape)
        if name == kernel:
            shape = (shape[0], shape[1] - _canvas_channels(config), *shape[2:])
        if name.startswith((*_DETECTOR_ROWS, _SEMANTIC_ROWS)):
            shape = shape[1:]
        sizes[name] = shape
    return sizes


def _canvas_kernel(state: Mapping[str, Tensor]) -> str | None:
    """Name of the weight whose inputs are (features, canvas)."""
    return next((name for name in _READS_CANVAS if name in state), None)


def _canvas_channels(config: ModelConfig) -> int:
    return config.num_things if config.imp else 0


def _differences(config: ModelConfig, other: ModelConfig) -> list[str]:
    """Fields of the architecture that differ from another's, as ``name=value``."""
    found = []
    skipped: set[str] = set(_FREE_FIELDS)
    if not (config.detector and other.detector):
        skipped.add("detector_config")
    if config.semantic_head != other.semantic_head or config.semantic_head == "none":
        skipped |= {"semantic_channels", "head_norm"}
    for item in fields(config):
        own, theirs = getattr(config, item.name), getattr(other, item.name)
        if item.name in skipped or own == theirs:
            continue
        if is_dataclass(own):
            found += [
                f"{part.name}={getattr(own, part.name)!r}"
                for part in fields(own)
                if getattr(own, part.name) != getattr(theirs, part.name)
            ]
        else:
            found.append(f"{item.name}={own!r}")
    return found


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return "none"
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more

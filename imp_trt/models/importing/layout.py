# SPDX-License-Identifier: Apache-2.0
"""What a source's converter returns, and what all converters read off a state dict's shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from imp_trt.errors import CheckpointError
from imp_trt.models.config import Backbone

State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Converted:
    """A network of another code base in this one's terms.

    Attributes:
        source: one of imp_trt.models.importing.SOURCES.
        backbone: of the network.
        state: name in :class:`imp_trt.models.network.ImpNetwork` -> tensor.
        num_things: classes of the detector, without background.
        model: fields of ModelConfig that differ from the preset's.
        detector: fields of DetectorConfig that differ from the defaults.
        semantic_classes: classes of the semantic head; 0 without one.
        stuff_names: default names of the semantic classes, where the source has fixed ones.
    """

    source: str
    backbone: Backbone
    state: dict[str, Tensor]
    num_things: int
    model: dict[str, Any] = field(default_factory=dict)
    detector: dict[str, Any] = field(default_factory=dict)
    semantic_classes: int = 0


_BLOCKS: dict[tuple[int, int, int, int], tuple[Backbone | None, Backbone | None]] = {
    # blocks of the four stages -> network with two-convolution blocks, and with bottlenecks
    (2, 2, 2, 2): ("resnet18", None),
    (3, 4, 6, 3): ("resnet34", "resnet50"),
    (3, 4, 23, 3): (None, "resnet101"),
}


def resnet_name(state: State, stage_prefixes: tuple[str, str, str, str], source: str) -> Backbone:
    """The ResNet whose blocks a state dict has.

    Args:
        state: of the whole network.
        stage_prefixes: names that the blocks of the four stages begin with, up to the block's number.
        source: for the message.

    Raises:
        CheckpointError: none of the supported ones.
    """
    counts = []
    for prefix in stage_prefixes:
        numbers = [
            int(match[1]) for name in state if (match := re.match(re.escape(prefix) + r"(\d+)\.", name))
        ]
        counts.append(max(numbers, default=-1) + 1)
    a, b, c, d = counts
    plain, bottleneck = _BLOCKS.get((a, b, c, d), (None, None))
    first = stage_prefixes[0] + "0."
    has_third = any(name.startswith(first + "conv3.") for name in state)
    name = bottleneck if has_third else plain
    middle = state.get(first + "conv2.weight")
    if has_third and middle is not None and middle.shape[1] != middle.shape[0]:
        # Grouped: ResNeXt-101 32x8d has 256 channels in 32 groups of 8.
        is_32x8d = tuple(middle.shape[:2]) == (256, 8) and name == "resnet101"
        name = "resnext101_32x8d" if is_32x8d else None
    if name is None:
        raise CheckpointError(
            f"{source} checkpoint",
            expected="a ResNet-18, 34, 50, 101 or ResNeXt-101 32x8d with FPN",
            got=f"stages of {', '.join(map(str, counts))} blocks",
        )
    return name


def rows(state: State, name: str, source: str) -> int:
    """Length of a tensor's first axis; CheckpointError if it is missing."""
    if name not in state:
        raise CheckpointError(
            f"{source} checkpoint",
            expected=f"a Mask R-CNN with FPN, with the tensor {name}",
            got=f"{len(state)} tensors without it",
            fix="choose another --from, or import a Mask R-CNN",
        )
    return int(state[name].shape[0])


def shift_variance(state: dict[str, Tensor], prefix: str, difference: float) -> None:
    """Add a difference of eps to the running variances below a prefix, in place."""
    if difference:
        for name, value in state.items():
            if name.startswith(prefix) and name.endswith("running_var"):
                state[name] = value.to(torch.float64) + difference

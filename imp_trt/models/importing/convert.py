# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint of another code base to a network of this one."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from imp_trt.classes import ClassTable, default_palette
from imp_trt.errors import CheckpointError, InvalidInput, printable
from imp_trt.models.config import DetectorConfig, ModelConfig
from imp_trt.models.importing import detectron2, maskrcnn_benchmark, mmdet, torchvision
from imp_trt.models.importing.classes import COCO_THINGS, coco_rows_in_use
from imp_trt.models.importing.layout import PREDICTORS, Converted, State
from imp_trt.models.importing.reading import ForeignCheckpoint, read_foreign
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import system

_log = logging.getLogger(__name__)

Source = Literal["torchvision", "torchvision-v2", "detectron2", "mmdet", "maskrcnn-benchmark"]

SOURCES: tuple[Source, ...] = get_args(Source)
"""Code bases whose checkpoints are imported."""

DEFAULT_INPUT_SIZE = (800, 1344)
"""(height, width): the size that all these networks are trained and evaluated at."""

MAX_LISTED = 8
"""Tensors that an error lists."""

_DEPTH = 3
"""Most parts of a prefix of all names of a network."""

BACKGROUND = "background"

NEVER = -1e4
"""Logit of each thing in an imported semantic head, which has one class for all; finite in float16."""

_Convert = Callable[[ForeignCheckpoint, float | None, bool | None], Converted]
_CONVERTERS: dict[Source, tuple[Callable[[State], bool], _Convert]] = {
    "torchvision-v2": (
        lambda state: torchvision.is_torchvision(state) and torchvision.is_version_2(state),
        torchvision.convert,
    ),
    "torchvision": (
        lambda state: torchvision.is_torchvision(state) and not torchvision.is_version_2(state),
        torchvision.convert,
    ),
    "detectron2": (detectron2.fits, detectron2.convert),
    "mmdet": (mmdet.fits, mmdet.convert),
    "maskrcnn-benchmark": (maskrcnn_benchmark.fits, maskrcnn_benchmark.convert),
}


def import_checkpoint(
    path: str | Path,
    source: Source | Literal["auto"] = "auto",
    *,
    classes: Sequence[str] | None = None,
    input_size: tuple[int, int] = DEFAULT_INPUT_SIZE,
    batch_norm_eps: float | None = None,
    caffe: bool | None = None,
    roi_samples: int | None = None,
) -> ImpNetwork:
    """A network with the weights of a Mask R-CNN or Panoptic FPN of another code base.

    A Mask R-CNN becomes the system "mask-rcnn-imp", which gives class maps without training: each pixel has
    the class of the largest score * mask, or background. ``imp-train --init`` adds a semantic head to it. A
    Panoptic FPN becomes the system "panoptic-fpn"; its semantic classes are those of its head, of which the
    first, "things", stands for every thing, and the classes of its detector follow.

    RoIAlign of Detectron2 and mmdetection samples adaptively, and so does the network: an engine of it needs
    plugins. With ``roi_samples=2`` it does not, and boxes and masks differ a little from the source's where
    boxes are large on their level.

    Args:
        path: a .pth, .pt, .pkl or .safetensors file with a state dict, or a training checkpoint around one.
            Nothing in it is executed.
        source: where it is from; "auto" tells by the names of the tensors.
        classes: names of the detector's classes, without background, in the order of its predictor. None
            takes those in the file, or COCO's if there are 80, or 90 of torchvision.
        input_size: (height, width) of the frames, multiples of 32.
        batch_norm_eps: eps of the backbone's normalization, where it is not that of the source's default.
        caffe: whether the backbone is from Caffe2 (BGR pixels, and in ResNet-50 and 101 the stride in the 1x1
            convolutions). None takes the source's default: what an mmdetection file says, True for
            maskrcnn-benchmark, and for Detectron2 unless the file has the mean of RGB pixels.
        roi_samples: samples per bin and axis of RoIAlign, 0 for adaptive sampling. None takes the source's
            default: what an mmdetection file says, 0 for Detectron2, else 2.

    Returns:
        The network in evaluation mode, with float32 weights.

    Raises:
        CheckpointError: the file cannot be read, is not of that source, or has other tensors than a network
            of its sizes.
        InvalidInput: source, classes, input_size, batch_norm_eps or roi_samples is invalid, or caffe is true
            for torchvision.
    """
    if source != "auto" and source not in SOURCES:
        raise InvalidInput("source", expected=f"one of auto, {', '.join(SOURCES)}", got=source)
    if batch_norm_eps is not None and not 0 <= batch_norm_eps <= 1:
        raise InvalidInput("batch_norm_eps", expected="0 to 1", got=batch_norm_eps)
    foreign = _without_prefix(read_foreign(path))
    chosen = _detect(path, foreign.tensors) if source == "auto" else source
    fits, convert = _CONVERTERS[chosen]
    if not fits(foreign.tensors):
        got = f"{len(foreign.tensors)} tensors such as {', '.join(sorted(foreign.tensors)[:2])}"
        expected = f"the tensors of {chosen}"
        raise CheckpointError(f"checkpoint {path}", expected=expected, got=got, fix="--from auto")
    try:
        converted = convert(foreign, batch_norm_eps, caffe)
        if roi_samples is not None:
            converted = replace(converted, detector={**converted.detector, "roi_samples": roi_samples})
        converted, names = _named(converted, classes or foreign.classes)
        network = ImpNetwork(_config(converted, names, input_size))
        converted = _with_things(converted)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        raise _other_tensors(path, chosen, error) from error
    _load(path, network, converted)
    return network.eval()


def _other_tensors(path: str | Path, source: Source, error: Exception) -> CheckpointError:
    """For tensors of other types, or of shapes from which the network's sizes cannot be read."""
    return CheckpointError(
        f"checkpoint {path}",
        expected=f"tensors of the shapes and types of {source}",
        got=f"{type(error).__name__}: {error}"[:300],
        fix="check --from, and that the file is that of a Mask R-CNN in floating point",
    )


def _without_prefix(foreign: ForeignCheckpoint) -> ForeignCheckpoint:
    """The tensors of the network alone, if they have a prefix and others do not, as in files of Lightning.

    Raises:
        CheckpointError: several networks are in the file, such as one and its moving average.
    """
    state = foreign.tensors
    if any(fits(state) for fits, _ in _CONVERTERS.values()):
        return foreign
    below: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        parts = name.split(".", _DEPTH)
        for depth in range(1, min(len(parts), _DEPTH + 1)):
            prefix = ".".join(parts[:depth]) + "."
            below.setdefault(prefix, {})[name.removeprefix(prefix)] = value
    networks = {
        prefix: inner
        for prefix, inner in sorted(below.items())
        if any(fits(inner) for fits, _ in _CONVERTERS.values())
    }
    if len(networks) > 1:
        raise CheckpointError(
            f"checkpoint {foreign.path}",
            expected="one network",
            got=f"several, whose tensors begin with {', '.join(networks)}",
            fix="save the tensors of one: torch.save({n: v for n, v in state.items() if "
            f"n.startswith({next(iter(networks))!r})}}, 'model.pth')",
        )
    for prefix, inner in networks.items():
        left = [name for name in state if not name.startswith(prefix)]
        if left:
            more = ", ..." if len(left) > MAX_LISTED else ""
            _log.warning(
                "%s: tensors whose names do not begin with %s are left out: %s%s",
                *(foreign.path, printable(prefix), printable(", ".join(left[:MAX_LISTED])), more),
            )
        return replace(foreign, tensors=inner)
    return foreign


_RELATIVES: tuple[tuple[str, str], ...] = (  # names of tensors -> what has them
    (r"(^|\.)(roi_heads\.box_predictor|roi_head\.bbox_head)\.[012]\.", "a cascade of box heads"),
    (
        r"(^|\.)(roi_heads\.res5|roi_heads\.box\.feature_extractor\.head|roi_head\.shared_head)\.",
        "no FPN (C4)",
    ),
    (r"(^|\.)(transformer|decoder|encoder)\.", "a transformer"),
    (r"(^|\.)(roi_heads|roi_head|rpn|rpn_head)\.", "a detector without masks, or with other heads"),
    (r"^(model\.)*\d+\.", "layers by number, as YOLO has them"),
)


_OWN = re.compile(r"(backbone\.(body|fpn)|detector\.(rpn|roi)|semantic\.(levels|fuse|classify))\.")
"""Names of the tensors of an ImpNetwork."""


def _detect(path: str | Path, state: State) -> Source:
    for name, (fits, _) in _CONVERTERS.items():
        if fits(state):
            return name
    if all(map(_OWN.match, state)) and not all(name.startswith("backbone.") for name in state):
        raise CheckpointError(
            f"checkpoint {path}",
            expected="a checkpoint of another code base",
            got="one of imp-trt",
            fix="use it as it is: imp-export --weights FILE, imp-train --init FILE",
        )
    kinds = (kind for pattern, kind in _RELATIVES if any(re.search(pattern, name) for name in state))
    kind = next(kinds, "")
    raise CheckpointError(
        f"checkpoint {path}",
        expected=f"a Mask R-CNN with FPN of {', '.join(SOURCES)}",
        got=f"{len(state)} tensors such as {', '.join(sorted(state)[:3])}{kind and f' ({kind})'}",
        fix="export the network to ONNX where it runs: imp-export FILE.onnx builds its engine, and "
        "imp_trt.graph.add_projection adds class maps to an instance segmenter",
    )


def _named(converted: Converted, classes: Sequence[str]) -> tuple[Converted, tuple[str, ...]]:
    """The network without unused classes, and the names of its classes."""
    count = converted.num_things
    if classes:
        if len(classes) != count:
            raise InvalidInput(
                "classes",
                expected=f"{count} names, one for each class of the detector without background",
                got=f"{len(classes)} names",
                fix="--classes FILE, a text file with one name a line",
            )
        return converted, tuple(classes)
    # Of COCO's 90 category ids ten are unused, and only torchvision has rows for them.
    unused = converted.source.startswith("torchvision") and count == len(coco_rows_in_use()) + 10
    if unused or count == len(COCO_THINGS):
        _log.info(
            "no class names in the checkpoint: with %d they are COCO's; --classes FILE gives others", count
        )
        return _select(converted, [0, *coco_rows_in_use()]) if unused else converted, COCO_THINGS
    _log.warning(
        "no class names in the checkpoint: they are class_1 to class_%d; --classes FILE gives others", count
    )
    return converted, tuple(f"class_{i}" for i in range(1, count + 1))


def _select(converted: Converted, kept: list[int]) -> Converted:
    """Keep some rows of the predictors, background included."""
    state = dict(converted.state)
    for layer, width in PREDICTORS.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            value = state[name]
            state[name] = value.reshape(-1, width, *value.shape[1:])[kept].reshape(-1, *value.shape[1:])
    return replace(converted, state=state, num_things=len(kept) - 1)


def _config(converted: Converted, names: tuple[str, ...], input_size: tuple[int, int]) -> ModelConfig:
    stuff = converted.stuff_names
    if not stuff:
        stuff = (next(n for n in (BACKGROUND, "__background__", "no object") if n not in names),)
    stuff = tuple(f"{name} (stuff)" if name in names else name for name in stuff)
    every = (*stuff, *names)
    classes = ClassTable(every, tuple(range(len(stuff), len(every))), default_palette(len(every)))
    changes: dict[str, Any] = dict(converted.model)
    detector = replace(DetectorConfig(), **converted.detector)
    kind = "panoptic-fpn" if converted.stuff_names else "mask-rcnn-imp"
    return system(kind, classes, input_size, converted.backbone, detector_config=detector, **changes)


def _with_things(converted: Converted) -> Converted:
    """The semantic predictor with a row for each thing, which never wins."""
    if not converted.stuff_names:
        return converted
    state = dict(converted.state)
    for name, fill in (("semantic.classify.weight", 0.0), ("semantic.classify.bias", NEVER)):
        if name in state:
            row = torch.full_like(state[name][:1], fill).expand(converted.num_things, *state[name].shape[1:])
            state[name] = torch.cat([state[name], row])
    return replace(converted, state=state)


def _load(path: str | Path, network: ImpNetwork, converted: Converted) -> None:
    """Load the converted tensors; CheckpointError with a short list if they are not the network's."""
    own = network.state_dict()
    state = {n: v for n, v in converted.state.items() if not n.endswith("num_batches_tracked")}
    needed = {n for n in own if not n.endswith("num_batches_tracked")}
    problems = [f"{n} is missing" for n in sorted(needed - state.keys())]
    problems += [f"{n} is not part of the network" for n in sorted(state.keys() - needed)]
    for name in sorted(needed & state.keys()):
        value = state[name]
        if value.shape != own[name].shape:
            problems.append(f"{name} is {list(value.shape)}, not {list(own[name].shape)}")
        elif not value.is_floating_point():
            problems.append(f"{name} has dtype {str(value.dtype).removeprefix('torch.')}, not float")
        elif not torch.isfinite(value.float()).all():
            problems.append(f"{name} holds NaN, infinity or values beyond float32")
    if problems:
        listed = problems[:MAX_LISTED]
        if len(problems) > MAX_LISTED:
            listed.append(f"and {len(problems) - MAX_LISTED} more")
        raise CheckpointError(
            f"checkpoint {path}",
            expected=f"{len(needed)} tensors of {converted.source}'s network with {converted.backbone}",
            got="\n  " + "\n  ".join(listed),
            fix="check --from, and that the network has the sizes of its source's default configuration",
        )
    with torch.no_grad():
        for name in needed:
            target: Tensor = own[name]
            target.copy_(state[name])

# SPDX-License-Identifier: Apache-2.0
"""Initial weights: random, a backbone pretrained on ImageNet, or a Mask R-CNN pretrained on COCO.

The pretrained weights of ResNets are torchvision's. They are downloaded on first use to the cache of
``torch.hub``, which also serves machines without network access. Those of EfficientNet-Lite are in packages,
see :mod:`imp_trt.models.efficientnet_lite_weights`.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights
from torchvision.ops import FrozenBatchNorm2d

from imp_trt.errors import CheckpointError, DependencyMissing, InvalidInput
from imp_trt.models import efficientnet_lite_weights
from imp_trt.models.config import Initial
from imp_trt.models.efficientnet_lite import SCALING
from imp_trt.models.efficientnet_lite_weights import read_state
from imp_trt.models.network import ImpNetwork
from imp_trt.models.semantic import SemanticHead

INITIALS: tuple[Initial, ...] = get_args(Initial)
"""Choices of :func:`initialize`."""

NEW_LAYER_STD = 0.01
"""Layers without pretrained weights are initialized from N(0, 0.01), as in the paper."""

_COCO_SYNONYMS = {
    "human": "person",
    "pedestrian": "person",
    "bicyclist": "bicycle",
    "bike": "bicycle",
    "cyclist": "bicycle",
    "motorbike": "motorcycle",
    "lorry": "truck",
    "bag": "handbag",
    "scarf & tie": "tie",
    "scarf tie": "tie",
    "sofa": "couch",
    "tv monitor": "tv",
}
"""COCO's names of classes that other datasets name differently. COCO has no class for Cityscapes' rider."""

State = Mapping[str, Tensor]


def initialize(network: ImpNetwork, kind: Initial, backbone_weights: Path | None = None) -> None:
    """Initialize the weights of a new network, in place.

    Args:
        network: as constructed; "imagenet" and "coco" require batch normalization in its backbone.
        kind: "scratch" keeps the random initialization. "imagenet" loads the backbone from a published
            classifier. "coco" loads backbone, FPN, RPN, box and mask heads from torchvision's Mask R-CNN
            with a ResNet-50; rows of the predictors are matched by class name, and classes missing in COCO
            are randomly initialized. With both, the semantic head and new predictors are initialized from
            N(0, 0.01) with zero biases, by torch's global generator. FPN, box and mask head keep
            torchvision's default initialization if there are no pretrained weights. So do the 3x3
            convolutions of the "p2" head: they have no normalization, N(0, 0.01) attenuates the signal in
            each, and a head of the paper's size did not learn in its first thousand steps of SGD, which
            matters for short schedules.
        backbone_weights: with "imagenet", a .pth file with the backbone's state dict, under the names of
            torchvision (ResNets) or of the EfficientNet-Lite packages; None takes the published weights.

    Raises:
        InvalidInput: the network is incompatible with these weights.
        DependencyMissing: the weights are not in the cache and cannot be downloaded, or the package with them
            is not installed.
        CheckpointError: the weights do not match the network's sizes.
    """
    if kind not in INITIALS:
        raise InvalidInput("initialization", expected=f"one of {', '.join(INITIALS)}", got=kind)
    if backbone_weights is not None and kind != "imagenet":
        raise InvalidInput("backbone weights", expected="initialization 'imagenet'", got=kind)
    if kind == "scratch":
        return
    _check(network, kind)
    if kind == "imagenet":
        state = _imagenet_state(network.config.backbone, backbone_weights)
        copy_backbone(network, {name: value for name, value in state.items() if not name.startswith("fc.")})
        if network.detector is not None:
            roi = network.detector.roi
            init_normal((network.detector.rpn.head, roi.box_predictor, roi.mask_predictor.mask_fcn_logits))
    else:
        weights = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
        copy_mask_rcnn(network, fetch(weights.url), weights.meta["categories"], batch_norm_eps=0.0)
    if isinstance(network.semantic, SemanticHead):
        init_normal([network.semantic if network.semantic.kind == "fpn" else network.semantic.classify])


def fetch(url: str) -> dict[str, Tensor]:
    """Load weights from the cache of ``torch.hub``, downloading them if needed, with a hash check.

    Raises:
        DependencyMissing: the weights are neither cached nor downloadable.
    """
    name, folder = url.rsplit("/", 1)[-1], Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DependencyMissing(
            f"pretrained weights {name}",
            expected=f"{folder / name}, or network access to download it",
            got=repr(error),
            fix=f"download {url} to {folder} (see TORCH_HOME), or train from scratch",
        ) from error
    return state


def copy_backbone(network: ImpNetwork, state: State, batch_norm_eps: float | None = None) -> None:
    """Copy a ResNet's or EfficientNet-Lite's convolutions and normalizations to the backbone, in place.

    Args:
        network: a network with that backbone.
        state: state dict with the names of ``torchvision.models.resnet``, without the classifier, or with
            those of the EfficientNet-Lite packages.
        batch_norm_eps: eps that the weights were trained with, if it differs from that of the layers. The
            variances are shifted by the difference, so that the network computes the same.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape.
    """
    own = network.backbone.body.state_dict()
    if network.config.backbone in SCALING:
        source = efficientnet_lite_weights.renamed(network.config.backbone, dict(state))
    else:
        source = {backbone_name(name): value for name, value in state.items()}
    eps = {
        name: module.eps
        for name, module in network.backbone.body.named_modules()
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)
    }
    if batch_norm_eps is not None:
        for name, value in eps.items():
            variance = f"{name}.running_var"
            if variance in source:
                source[variance] = source[variance] + (batch_norm_eps - value)
    # Frozen normalization has no batch counter, and the counter is not used here.
    ignored = {name for name in own.keys() | source.keys() if name.endswith("num_batches_tracked")}
    _copy(own, {name: value for name, value in source.items() if name not in ignored}, "backbone", ignored)


def copy_mask_rcnn(
    network: ImpNetwork, state: State, categories: Iterable[str], batch_norm_eps: float | None = None
) -> None:
    """Copy torchvision's ``maskrcnn_resnet50_fpn`` to backbone, FPN and detector, in place.

    Args:
        network: a system with a ResNet-50 and torchvision's sizes; without a detector, only backbone and FPN
            are copied.
        state: state dict of that model, with current names or those of the published file.
        categories: class name of each row of its class predictor, background first.
        batch_norm_eps: see :func:`copy_backbone`; 0.0 for torchvision's COCO_V1.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    parts: dict[str, dict[str, Tensor]] = {
        "backbone.body.": {},
        "backbone.fpn.": {},
        "rpn.": {},
        "roi_heads.": {},
    }
    for published, value in state.items():
        name = current_name(published)
        prefix = next((p for p in parts if name.startswith(p)), None)
        if prefix is not None:
            parts[prefix][name.removeprefix(prefix)] = value
    copy_backbone(network, parts["backbone.body."], batch_norm_eps)
    fpn = network.backbone.fpn.state_dict()
    source = {_fpn_name(name, fpn): value for name, value in parts["backbone.fpn."].items()}
    # Batch normalization after an FPN convolution starts as the identity, with the convolution's bias.
    new = {name for name in fpn if name.rsplit(".", 2)[-2] == "1"} - source.keys()
    _copy(fpn, source, "FPN", new)
    if network.detector is None:
        return
    _copy(network.detector.rpn.state_dict(), parts["rpn."], "RPN")
    things = [network.config.classes.names[index] for index in network.config.classes.things]
    rows = coco_rows(things, categories)
    roi = network.detector.roi
    init_normal((roi.box_predictor, roi.mask_predictor.mask_fcn_logits))
    own, source = roi.state_dict(), parts["roi_heads."]
    merged = {
        name: by_class(own[name], value, rows, name) if name in _PREDICTORS & own.keys() else value
        for name, value in source.items()
    }
    _copy(own, merged, "box and mask heads")


def coco_rows(things: Iterable[str], categories: Iterable[str]) -> dict[int, int]:
    """Rows of a class predictor -> rows of COCO's predictor, by name; row 0 is the background in both.

    Args:
        things: thing classes, in the order of the predictor; case is ignored, and ``_`` equals a space.
        categories: COCO's names, background first.
    """
    matched = match_names(things, categories)
    return {0: 0} | {index + 1: row for index, row in matched.items()}


def match_names(names: Iterable[str], known: Iterable[str]) -> dict[int, int]:
    """Index of each name -> index of the same class in ``known``; names without one are left out.

    Case is ignored, ``_`` equals a space, and COCO's name is found for a synonym of other datasets.
    """
    places = {_normalized(name): index for index, name in enumerate(known)}
    matched = {}
    for index, given in enumerate(names):
        name = _normalized(given)
        name = name if name in places else _COCO_SYNONYMS.get(name, name)
        if name in places:
            matched[index] = places[name]
    return matched


_PREDICTORS = frozenset(
    f"{layer}.{kind}"
    for layer in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
    for kind in ("weight", "bias")
)
"""Tensors of the RoI heads with one row, or four rows, per class."""


def _normalized(name: str) -> str:
    return name.lower().replace("_", " ").strip()


def _check(network: ImpNetwork, kind: Initial) -> None:
    config = network.config
    if kind == "coco" and config.backbone != "resnet50":
        raise InvalidInput(
            "initialization 'coco'",
            expected="backbone resnet50, the only one whose Mask R-CNN torchvision publishes",
            got=config.backbone,
            fix="choose resnet50, or imagenet and a recipe that trains stage one (cityscapes-imagenet)",
        )
    if config.backbone == "compact":
        raise InvalidInput(
            "initialization 'imagenet'",
            expected="one of torchvision's ResNets, or an EfficientNet-Lite",
            got="backbone compact, which has no published weights",
            fix="train from scratch, or choose another backbone",
        )
    if config.norm not in ("batch", "frozen_batch"):
        raise InvalidInput(
            f"initialization {kind!r}",
            expected="norm batch or frozen_batch, as the weights have",
            got=config.norm,
            fix="choose --norm frozen_batch, or train from scratch",
        )


def _imagenet_state(backbone: str, path: Path | None) -> dict[str, Tensor]:
    if path is None and backbone not in SCALING:
        return fetch(_imagenet_url(backbone))
    return read_state(path or efficientnet_lite_weights.installed_weights(backbone))


def _imagenet_url(backbone: str) -> str:
    # IMAGENET1K_V1 weights are those that torchvision's own detectors start from.
    weights = models.get_model_weights(backbone)
    return str(weights["IMAGENET1K_V1"].url)


def backbone_name(name: str) -> str:
    first, _, rest = name.partition(".")
    if first.startswith("layer"):
        stage = first.removeprefix("layer")
        return f"stages.{int(stage) - 1}.{rest}" if re.fullmatch("[0-9]", stage) else name
    return f"stem.{'0' if first == 'conv1' else '1'}.{rest}"


def current_name(name: str) -> str:
    """Current layer name: COCO_V1 dates from 2019, and torchvision renames these layers when loading it."""
    name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", name)
    name = re.sub(r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", name)
    return re.sub(r"mask_head\.mask_fcn(\d)\.", lambda match: f"mask_head.{int(match[1]) - 1}.0.", name)


def _fpn_name(name: str, own: State) -> str:
    if name in own:
        return name
    # With a normalization layer, the convolution's bias becomes that of the normalization.
    return name.removesuffix("0.bias") + "1.bias" if name.endswith("0.bias") else name


def by_class(own: Tensor, pretrained: Tensor, rows: Mapping[int, int], name: str) -> Tensor:
    """Own values with the rows of matched classes replaced.

    Args:
        own, pretrained: tensors of a predictor; the first axis is classes, or classes * 4 for boxes.
        rows: row of a class in ``own`` -> its row in ``pretrained``.
        name: name of the tensor.

    Raises:
        CheckpointError: the other axes differ.
    """
    width = 4 if ".bbox_pred." in name else 1
    merged = own.reshape(-1, width, *own.shape[1:]).clone()
    source = pretrained.reshape(-1, width, *pretrained.shape[1:])
    if merged.shape[2:] != source.shape[2:]:
        raise _mismatch("box and mask heads", name, own.shape, pretrained.shape)
    for row, source_row in rows.items():
        merged[row] = source[source_row]
    return merged.reshape(own.shape)


def _copy(own: State, source: State, part: str, optional: Iterable[str] = ()) -> None:
    """Copy all tensors in place; those named in ``optional`` may be missing in the source."""
    missing, unknown = own.keys() - source.keys() - set(optional), source.keys() - own.keys()
    if missing or unknown:
        raise CheckpointError(
            f"pretrained {part}",
            expected=f"{len(own)} tensors of the network",
            got=f"missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]}",
            fix="use the weights of this backbone, under the names that their publisher gave them"
            if part == "backbone"
            else "use the preset's sizes, or train from scratch",
        )
    for name, value in source.items():
        if own[name].shape != value.shape:
            raise _mismatch(part, name, own[name].shape, value.shape)
        if own[name].is_floating_point() and not _is_finite(value):
            raise CheckpointError(
                f"pretrained {part}, {name}",
                expected="finite floating-point numbers",
                got=f"{value.dtype}{' with NaN or infinity' * value.is_floating_point()}",
                fix="use weights that are neither damaged nor quantized",
            )
    with torch.no_grad():
        for name, value in source.items():
            own[name].copy_(value)


def _is_finite(value: Tensor) -> bool:
    return value.is_floating_point() and bool(torch.isfinite(value.float()).all())


def _mismatch(part: str, name: str, own: torch.Size, pretrained: torch.Size) -> CheckpointError:
    return CheckpointError(
        f"pretrained {part}, {name}",
        expected=list(own),
        got=list(pretrained),
        fix="use the preset's sizes: fpn_channels 256 and the default DetectorConfig",
    )


def init_normal(layers: Iterable[nn.Module]) -> None:
    """Initialize convolutions and linear layers from N(0, 0.01), with zero biases."""
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=NEW_LAYER_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

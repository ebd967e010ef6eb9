"""Where training starts: fresh layers, a trunk trained on ImageNet, or a Mask R-CNN trained on COCO.

The pretrained weights are torchvision's. They are fetched on first use and kept in the cache of
``torch.hub``; a machine without network takes them from there.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights
from torchvision.ops import FrozenBatchNorm2d

from imp_trt.errors import CheckpointError, DependencyMissing, InvalidInput
from imp_trt.models.network import ImpNetwork
from imp_trt.models.semantic import SemanticHead

INITIALS = ("scratch", "imagenet", "coco")
"""What :func:`initialize` knows."""

NEW_LAYER_DEVIATION = 0.01
"""Layers without pretrained values are drawn from N(0, 0.01) (the paper, on its training)."""

_LIKE_COCO = {
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
"""Names of other sets for what COCO calls otherwise. Cityscapes' rider has no class in COCO."""

State = Mapping[str, Tensor]


def initialize(network: ImpNetwork, kind: str) -> None:
    """Give a new network the values that training starts from, in place.

    Args:
        network: as constructed; with "imagenet" and "coco" its trunk is normalized by batch statistics.
        kind: "scratch" leaves every layer as it was drawn. "imagenet" takes the trunk from torchvision's
            classifier. "coco" takes trunk, pyramid, RPN, box and mask heads from torchvision's Mask R-CNN
            with a ResNet-50; rows of the predictors go by class name, and a class that COCO lacks is new.
            With both, the semantic head and new predictors are drawn from N(0, 0.01) with zero biases, by
            torch's global generator. Pyramid, box and mask head keep torchvision's draws where no pretrained
            values exist. So do the 3x3 convolutions of the "p2" head: nothing normalizes after them,
            N(0, 0.01) shrinks the signal in each, and a head of the paper's width stood still for its first
            thousand steps of SGD, which a long schedule forgives and a short one does not.

    Raises:
        InvalidInput: the network cannot take these weights.
        DependencyMissing: the weights are not in the cache and cannot be fetched.
        CheckpointError: the weights do not fit the network's sizes.
    """
    if kind not in INITIALS:
        raise InvalidInput("initialization", expected=f"one of {', '.join(INITIALS)}", got=kind)
    if kind == "scratch":
        return
    _check(network, kind)
    if kind == "imagenet":
        state = fetch(_imagenet_url(network.config.backbone))
        copy_trunk(network, {name: value for name, value in state.items() if not name.startswith("fc.")})
        if network.detector is not None:
            roi = network.detector.roi
            _draw((network.detector.rpn.head, roi.box_predictor, roi.mask_predictor.mask_fcn_logits))
    else:
        weights = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
        copy_mask_rcnn(network, fetch(weights.url), weights.meta["categories"], batch_norm_eps=0.0)
    if isinstance(network.semantic, SemanticHead):
        _draw([network.semantic if network.semantic.kind == "fpn" else network.semantic.classify])


def fetch(url: str) -> dict[str, Tensor]:
    """Weights from the cache of ``torch.hub``, or from the network into it, checked by their hash.

    Raises:
        DependencyMissing: neither has them whole.
    """
    name, folder = url.rsplit("/", 1)[-1], Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DependencyMissing(
            f"pretrained weights {name}",
            expected=f"{folder / name}, or the network to fetch it",
            got=repr(error),
            fix=f"get {url} and put it in {folder} (it moves with TORCH_HOME); or start from scratch",
        ) from error
    return state


def copy_trunk(network: ImpNetwork, state: State, batch_norm_eps: float | None = None) -> None:
    """Copy a torchvision ResNet's convolutions and normalizations to the backbone, in place.

    Args:
        network: its backbone is that ResNet.
        state: names as in ``torchvision.models.resnet``, without the classifier.
        batch_norm_eps: the eps that the weights were trained with, where it is not the layers' own. The
            variances are moved by the difference, so that the network computes the same.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape.
    """
    own = network.backbone.body.state_dict()
    found = {_trunk_name(name): value for name, value in state.items()}
    eps = {
        name: module.eps
        for name, module in network.backbone.body.named_modules()
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)
    }
    if batch_norm_eps is not None:
        for name, value in eps.items():
            variance = f"{name}.running_var"
            if variance in found:
                found[variance] = found[variance] + (batch_norm_eps - value)
    # Frozen normalization has no count of batches, and a fresh count does no harm.
    ignored = {name for name in own.keys() | found.keys() if name.endswith("num_batches_tracked")}
    _copy(own, {name: value for name, value in found.items() if name not in ignored}, "trunk", ignored)


def copy_mask_rcnn(
    network: ImpNetwork, state: State, categories: Iterable[str], batch_norm_eps: float | None = None
) -> None:
    """Copy torchvision's ``maskrcnn_resnet50_fpn`` to trunk, pyramid and detector, in place.

    Args:
        network: a system with a ResNet-50 and torchvision's sizes; without a detector, trunk and pyramid
            alone are copied.
        state: the state dictionary of that model, with its names of today or those of the published file.
        categories: name of each row of its class predictor, background first.
        batch_norm_eps: see :func:`copy_trunk`; 0.0 for torchvision's COCO_V1.

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
        name = _name_of_today(published)
        prefix = next((p for p in parts if name.startswith(p)), None)
        if prefix is not None:
            parts[prefix][name.removeprefix(prefix)] = value
    copy_trunk(network, parts["backbone.body."], batch_norm_eps)
    pyramid = network.backbone.fpn.state_dict()
    found = {_pyramid_name(name, pyramid): value for name, value in parts["backbone.fpn."].items()}
    # Batch normalization after a pyramid convolution starts as the identity, with the convolution's bias.
    fresh = {name for name in pyramid if name.rsplit(".", 2)[-2] == "1"} - found.keys()
    _copy(pyramid, found, "pyramid", fresh)
    if network.detector is None:
        return
    _copy(network.detector.rpn.state_dict(), parts["rpn."], "RPN")
    things = [network.config.classes.names[index] for index in network.config.classes.things]
    rows = coco_rows(things, categories)
    roi = network.detector.roi
    _draw((roi.box_predictor, roi.mask_predictor.mask_fcn_logits))
    own, found = roi.state_dict(), parts["roi_heads."]
    merged = {
        name: _by_class(own[name], value, rows, name) if name in _PREDICTORS & own.keys() else value
        for name, value in found.items()
    }
    _copy(own, merged, "box and mask heads")


def coco_rows(things: Iterable[str], categories: Iterable[str]) -> dict[int, int]:
    """Row of a class predictor -> row of COCO's, by name; row 0 is the background of both.

    Args:
        things: thing classes, in the order of the predictor; upper and lower case, and ``_`` for a space,
            do not matter.
        categories: COCO's names, background first.
    """
    theirs = {_plain(name): row for row, name in enumerate(categories)}
    rows = {0: 0}
    for row, thing in enumerate(things, start=1):
        name = _plain(thing)
        name = name if name in theirs else _LIKE_COCO.get(name, name)
        if name in theirs:
            rows[row] = theirs[name]
    return rows


_PREDICTORS = frozenset(
    f"{layer}.{kind}"
    for layer in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
    for kind in ("weight", "bias")
)
"""Tensors of the RoI heads with a row, or four rows, for each class."""


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").strip()


def _check(network: ImpNetwork, kind: str) -> None:
    config = network.config
    if kind == "coco" and config.backbone != "resnet50":
        raise InvalidInput(
            "initialization 'coco'",
            expected="backbone resnet50, the only one whose Mask R-CNN torchvision publishes",
            got=config.backbone,
            fix="choose resnet50; or imagenet and a recipe that trains stage one (cityscapes-imagenet)",
        )
    if config.backbone == "compact":
        raise InvalidInput(
            "initialization 'imagenet'",
            expected="one of torchvision's ResNets",
            got="backbone compact, for which nobody publishes weights",
            fix="start from scratch, or choose a ResNet",
        )
    if config.norm not in ("batch", "frozen_batch"):
        raise InvalidInput(
            f"initialization {kind!r}",
            expected="norm batch or frozen_batch, as the weights have",
            got=config.norm,
            fix="choose --norm frozen_batch, or start from scratch",
        )


def _imagenet_url(backbone: str) -> str:
    # The first of each network's weights are those that torchvision's own detectors start from.
    weights = models.get_model_weights(backbone)
    return str(weights["IMAGENET1K_V1"].url)


def _trunk_name(name: str) -> str:
    first, _, rest = name.partition(".")
    if first.startswith("layer"):
        return f"stages.{int(first.removeprefix('layer')) - 1}.{rest}"
    return f"stem.{'0' if first == 'conv1' else '1'}.{rest}"


def _name_of_today(name: str) -> str:
    """COCO_V1 is a file of 2019; torchvision has renamed these layers since, and does so when it loads it."""
    name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", name)
    name = re.sub(r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", name)
    return re.sub(r"mask_head\.mask_fcn(\d)\.", lambda found: f"mask_head.{int(found[1]) - 1}.0.", name)


def _pyramid_name(name: str, own: State) -> str:
    if name in own:
        return name
    # The bias of a convolution is that of the normalization that follows it, where there is one.
    return name.removesuffix("0.bias") + "1.bias" if name.endswith("0.bias") else name


def _by_class(own: Tensor, theirs: Tensor, rows: Mapping[int, int], name: str) -> Tensor:
    """Own values with the rows of known classes replaced; the first axis is classes, or classes x 4."""
    width = 4 if ".bbox_pred." in name else 1
    merged = own.reshape(-1, width, *own.shape[1:]).clone()
    source = theirs.reshape(-1, width, *theirs.shape[1:])
    if merged.shape[2:] != source.shape[2:]:
        raise _misfit("box and mask heads", name, own.shape, theirs.shape)
    for row, other in rows.items():
        merged[row] = source[other]
    return merged.reshape(own.shape)


def _copy(own: State, found: State, part: str, left: Iterable[str] = ()) -> None:
    """Copy every tensor; own tensors named in left may be absent."""
    missing, unknown = own.keys() - found.keys() - set(left), found.keys() - own.keys()
    if missing or unknown:
        raise CheckpointError(
            f"pretrained {part}",
            expected=f"{len(own)} tensors of the network",
            got=f"missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]}",
            fix="use the preset's sizes, or start from scratch",
        )
    for name, value in found.items():
        if own[name].shape != value.shape:
            raise _misfit(part, name, own[name].shape, value.shape)
    with torch.no_grad():
        for name, value in found.items():
            own[name].copy_(value)


def _misfit(part: str, name: str, own: torch.Size, theirs: torch.Size) -> CheckpointError:
    return CheckpointError(
        f"pretrained {part}, {name}",
        expected=list(own),
        got=list(theirs),
        fix="use the preset's sizes: fpn_channels 256 and the default DetectorConfig",
    )


def _draw(layers: Iterable[nn.Module]) -> None:
    """Convolutions and linear layers from N(0, 0.01), biases 0."""
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=NEW_LAYER_DEVIATION)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

# SPDX-License-Identifier: Apache-2.0
"""Options of imp-train."""

from __future__ import annotations

import argparse
from pathlib import Path

from imp_trt.cli.common import add_deprecated, positive, threads

INITIALS = ("scratch", "imagenet", "coco")
"""Initial weights by name; any other value of --init is a file."""

SYSTEMS = (
    "mask-rcnn-imp",
    "semantic-p2",
    "semantic-fpn",
    "panoptic-p2",
    "panoptic-p2-imp",
    "panoptic-fpn",
    "panoptic-fpn-imp",
)
"""Names of imp_trt.models.presets.SYSTEMS, without importing PyTorch for --help."""


def network_options(data: argparse._ArgumentGroup) -> None:
    """Dataset, system, backbone and sizes."""
    data.add_argument(
        "--data",
        required=True,
        help="dataset: scenes, NAME:DIR (camvid, ccp, cityscapes, modanet, coco, components), or a folder "
        "whose layout is recognized: COCO JSON, color masks, YOLO segmentation, Cityscapes, index PNGs with "
        "dataset.json; imp-data FOLDER says what it contains",
    )
    data.add_argument("--split", default="train", help="split to train on (default: train)")
    data.add_argument(
        "--system",
        help=f"network: {', '.join(SYSTEMS)}; those with -imp have Instance Mask Projection (default: "
        "panoptic-fpn-imp, or that of the checkpoint of --init)",
    )
    data.add_argument(
        "--backbone",
        help="compact; efficientnet_lite0, _lite1 or _lite2; or a torchvision backbone: resnet18 ... "
        "resnext101_32x8d (default: compact, or that of the checkpoint of --init)",
    )
    data.add_argument(
        "--norm",
        choices=("batch", "frozen_batch", "group"),
        help="normalization layers of backbone and FPN (default: frozen_batch for a pretrained ResNet-50 or "
        "larger, otherwise batch)",
    )
    data.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="input size for inference; images are resized to fit. The recipe's range of scales should "
        "include the resulting scale (default: 256 512, or that of the checkpoint of --init)",
    )
    data.add_argument(
        "--anchor-scales",
        type=float,
        nargs="+",
        metavar="FACTOR",
        help="scales of the anchors on each level of the FPN; 1 1.41 gives two per octave (default: 1)",
    )
    data.add_argument(
        "--canvas-skip",
        action="store_true",
        help="also add a trained 1x1 convolution of the canvas to the logits",
    )
    data.add_argument(
        "--sampling",
        choices=("bilinear", "nearest", "rect"),
        help="sampling mode of Instance Mask Projection (default: bilinear, or that of the checkpoint of "
        "--init)",
    )


def recipe_options(how: argparse._ArgumentGroup) -> None:
    """Recipe, initial weights, batch size and lengths."""
    how.add_argument(
        "--recipe",
        help="training recipe: smoke; fine-tune (from a checkpoint); camvid-pretrained, ccp-pretrained "
        "(EfficientNet-Lite); scenes, camvid, ccp (from scratch, on the CPU), each also as NAME-short; those "
        "of the paper: vcp, "
        "modanet, cityscapes, cityscapes-imagenet, cityscapes-no-aug "
        "(default: scenes, or fine-tune with a checkpoint)",
    )
    how.add_argument(
        "--init",
        metavar="{scratch,imagenet,coco,FILE}",
        help="initial weights; pretrained weights are downloaded by torchvision, those of EfficientNet-Lite "
        "are in imp-trt[lite]. FILE: a checkpoint of imp-train or imp-import; the architecture is taken from "
        "it, and the weights, with classes matched by name (default: that of the recipe)",
    )
    how.add_argument(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="only with --init imagenet: .pth file of the backbone's weights (default: torchvision's, or "
        "those of the package in imp-trt[lite])",
    )
    batch_size = how.add_argument(
        "--batch-size",
        dest="batch",
        type=positive,
        metavar="N",
        help="total batch size over all processes; learning rates of the paper's recipes scale with it",
    )
    add_deprecated(how, "--batch", batch_size)
    how.add_argument(
        "--iterations",
        type=_count,
        nargs=2,
        metavar=("ONE", "TWO"),
        help="iterations of the two stages; schedules are scaled accordingly; 0 skips a stage",
    )
    how.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="override a field of the recipe, such as crop=256,512 or stage_one.lr=0.01; can be repeated",
    )


def run_options(how: argparse._ArgumentGroup) -> None:
    """Baseline, stages, device, validation."""
    with_baseline = how.add_argument(
        "--with-baseline",
        dest="pair",
        action="store_true",
        help="also train the baseline without IMP, from the same stage one",
    )
    add_deprecated(how, "--pair", with_baseline)
    how.add_argument(
        "--stage",
        choices=("one", "imp", "plain", "all"),
        default="all",
        help="stage to train: one, imp (stage two), plain (stage two of the baseline) or all; finished "
        "stages are skipped (default: all)",
    )
    how.add_argument("--half", action="store_true", help="save weights as float16, which halves the file")
    how.add_argument("--seed", type=_seed, default=0, metavar="N", help="random seed (default: 0)")
    how.add_argument(
        "--device",
        default="cpu",
        help="cpu, cuda, cuda:INDEX, or auto: a GPU if there is one; torchrun for several GPUs "
        "(default: cpu)",
    )
    how.add_argument(
        "--val",
        metavar="SPLIT|DATA",
        help="evaluate during training on this split of --data, or on the split val of another dataset; the "
        "weights with the best mIoU are kept in NAME.best.safetensors, the scores in NAME.val.jsonl",
    )
    how.add_argument(
        "--val-every",
        type=positive,
        metavar="N",
        help="steps between evaluations (default: a tenth of a stage)",
    )
    how.add_argument(
        "--patience", type=positive, metavar="N", help="end a stage after N evaluations without a better mIoU"
    )
    how.add_argument(
        "--threads", type=threads, metavar="N", help="CPU threads of PyTorch (default: PyTorch's)"
    )
    how.add_argument(
        "--workers",
        type=threads,
        metavar="N",
        help="threads of the data loader (default: 1; with a GPU up to 8)",
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _seed(text: str) -> int:
    value = _count(text)
    if value >= 1 << 64:
        raise argparse.ArgumentTypeError(f"{text} has more than 64 bits")
    return value

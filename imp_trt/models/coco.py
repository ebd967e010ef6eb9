# SPDX-License-Identifier: Apache-2.0
"""The paper's Mask R-CNN-IMP with torchvision's COCO weights: semantic segmentation without training."""

from __future__ import annotations

from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from imp_trt.classes import ClassTable, default_palette
from imp_trt.models.config import ModelConfig
from imp_trt.models.initial import initialize
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import system

COCO_INPUT_SIZE = (800, 1344)
"""torchvision's detector was trained and evaluated with short sides of 800 and long sides up to 1333."""


def coco_classes() -> ClassTable:
    """Background, then COCO's 80 things in the order of their category ids."""
    categories = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    # Ten of COCO's 90 category ids are unused.
    things = [name for name in categories[1:] if name != "N/A"]
    names = ("background", *things)
    return ClassTable(names, tuple(range(1, len(names))), default_palette(len(names)))


def coco_config(input_size: tuple[int, int] = COCO_INPUT_SIZE) -> ModelConfig:
    """Mask R-CNN-IMP over :func:`coco_classes` with a ResNet-50 and the paper's sizes.

    Args:
        input_size: (height, width), multiples of 32.
    """
    return system("mask-rcnn-imp", coco_classes(), input_size, "resnet50")


def coco_mask_rcnn_imp(input_size: tuple[int, int] = COCO_INPUT_SIZE) -> ImpNetwork:
    """The network of :func:`coco_config` with torchvision's COCO weights, in evaluation mode.

    Nothing is trained: the detections are projected on the canvas, and each pixel has the class of the
    largest canvas value, or background (paper, section 3.2). Boxes, scores and masks are torchvision's;
    the ten unused rows of its class predictor are omitted.

    Args:
        input_size: (height, width), multiples of 32.

    Raises:
        InvalidInput: the size is invalid.
        DependencyMissing: the weights are not in torch.hub's cache and cannot be downloaded.
    """
    network = ImpNetwork(coco_config(input_size))
    initialize(network, "coco")
    return network.eval()

# SPDX-License-Identifier: Apache-2.0
"""Instance Mask Projection in networks from other libraries.

    python samples/foreign_model/foreign_model.py --steps 20 -o deeplab_imp.onnx

torchvision's Mask R-CNN detects instances, the operator projects their masks to the feature map of
torchvision's DeepLabV3, and DeepLabV3 segments. Both are trained jointly on synthetic streets; DeepLabV3 is
exported.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from imp_trt.export import onnx_with_operators
from imp_trt.ops import instance_mask_projection
from imp_trt.synthetic import SCENE_CLASSES, StreetScenes

SIZE, STRIDE, MAX_INSTANCES = (128, 256), 4, 20  # image, pixels per canvas cell, instances per image
THINGS = len(SCENE_CLASSES.things)


class DeepLabWithImp(nn.Module):
    """DeepLabV3 with the canvas as an additional input of the last layers. Adapt it to your network."""

    def __init__(self) -> None:
        super().__init__()
        net = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None)
        self.backbone = net.backbone
        self.context = nn.Sequential(*list(net.classifier.children())[:-1])  # 256 channels, stride 16
        self.classify = nn.Sequential(
            nn.Conv2d(256 + THINGS, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, len(SCENE_CLASSES), 1)
        )

    def forward(self, images: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """Images [B, 3, H, W] 0-1; boxes [B, N, 4] xyxy; scores, labels [B, N]; masks [B, N, 28, 28]."""
        features = self.context(self.backbone(images)["out"])
        grid = (SIZE[0] // STRIDE, SIZE[1] // STRIDE)
        features = F.interpolate(features, size=grid, mode="bilinear", align_corners=False)
        canvas = instance_mask_projection(boxes, scores, labels, masks, THINGS, grid, 1 / STRIDE)
        return F.interpolate(
            self.classify(torch.cat([features, canvas], 1)), size=SIZE, mode="bilinear", align_corners=False
        )


def detector() -> MaskRCNN:
    """Torchvision's Mask R-CNN; label 0 is its background."""
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    # The size of the images, so that the network does not resize them; few boxes, for training on a CPU.
    sides = {"min_size": SIZE[0], "max_size": SIZE[1]}
    few = {"rpn_post_nms_top_n_train": 300, "rpn_post_nms_top_n_test": 100, "box_batch_size_per_image": 48}
    return MaskRCNN(backbone, THINGS + 1, box_detections_per_img=MAX_INSTANCES, **sides, **few)


def detect(mask_rcnn: MaskRCNN, images: Tensor) -> tuple[Tensor, ...]:
    """Return inputs of the operator: boxes, scores, labels and 28x28 masks, padded with score 0."""
    mask_rcnn.eval()
    batch, _ = mask_rcnn.transform(list(images))
    features = mask_rcnn.backbone(batch.tensors)
    proposals, _ = mask_rcnn.rpn(batch, features)
    detections, _ = mask_rcnn.roi_heads(features, proposals, batch.image_sizes)

    def padded(values: Tensor) -> Tensor:
        return torch.cat([values, values.new_zeros(MAX_INSTANCES - len(values), *values.shape[1:])])

    columns = [(f["boxes"].detach(), f["scores"], f["labels"] - 1, f["masks"][:, 0]) for f in detections]
    return tuple(torch.stack([padded(v) for v in column]) for column in zip(*columns, strict=True))


def scenes(count: int, first: int) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Images, class maps, and torchvision's detection targets of synthetic streets."""
    drawn = [StreetScenes(seed=7, size=SIZE)[first + i] for i in range(count)]
    images = torch.stack([torch.from_numpy(s.image[..., ::-1].copy()).permute(2, 0, 1) / 255 for s in drawn])
    semantic = torch.stack([torch.from_numpy(s.semantic.astype(np.int64)) for s in drawn])
    targets = []
    for s in drawn:
        sizes = np.bincount(s.instances.ravel())
        ids = [i for i in np.unique(s.instances) if i and sizes[i] >= 20]
        masks = np.stack([s.instances == i for i in ids])  # the scenes always have an instance
        spots = [np.nonzero(m) for m in masks]
        boxes = [(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in spots]
        labels = [SCENE_CLASSES.things.index(s.semantic[m][0]) + 1 for m in masks]
        boxes_t = torch.tensor(np.array(boxes), dtype=torch.float32)
        pixels = torch.from_numpy(masks.astype(np.uint8))
        targets.append({"boxes": boxes_t, "labels": torch.tensor(labels), "masks": pixels})
    return images, semantic, targets


def train(network: DeepLabWithImp, mask_rcnn: MaskRCNN, steps: int) -> list[float]:
    """Train both networks with the summed loss; returns the semantic loss of each step."""
    parameters = [*network.parameters(), *mask_rcnn.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4)
    history = []
    for step in range(steps):
        images, semantic, targets = scenes(2, 2 * step)
        detection = torch.stack(list(mask_rcnn.train()(list(images), targets).values())).sum()
        # The network's own detections, as at inference; the canvas is differentiable in masks and scores.
        logits = network.train()(images, *detect(mask_rcnn, images))
        loss = F.cross_entropy(logits, semantic)
        optimizer.zero_grad()
        (loss + detection).backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        history.append(float(loss.detach()))
        print(f"step {step + 1}: semantic {history[-1]:.3f}, detection {float(detection.detach()):.3f}")
    return history


def main(arguments: list[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="training steps of two images")
    parser.add_argument("-o", "--output", type=Path, default=Path("deeplab_imp.onnx"))
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    network, mask_rcnn = DeepLabWithImp(), detector()
    history = train(network, mask_rcnn, options.steps)
    images, _, _ = scenes(1, 900)
    with torch.no_grad():
        example = (images, *detect(mask_rcnn, images))
    names = ["images", "boxes", "scores", "labels", "masks"]
    onnx.save(onnx_with_operators(network, example, names, ["logits"]), options.output)
    print(f"wrote {options.output}: the operator is one node; its function body is in the same file")
    return history


if __name__ == "__main__":
    main()

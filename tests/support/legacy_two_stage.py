# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN as maskrcnn-benchmark computes it, written out over a state dict with Detectron2's names.

A box [x1, y1, x2, y2] ends in its last pixel: it is x2 - x1 + 1 wide. Nothing of imp_trt is used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from tests.support.two_stage import FPN, LEVELS, Network, Source, State, grid

LEGACY = Source(mean=(102.9801, 115.9465, 122.7717), eps=0.0)
"""What the published configurations of a ResNet-50 have; the fields of :class:`Source` that are read here."""


class LegacyNetwork(Network):
    """The formulas where they differ."""

    def proposals(self, levels: list[Tensor], image: int, size: tuple[int, int]) -> Tensor:
        """[P, 4], best first: in each level 1000 and non-maximum suppression at 0.7, then 1000 of all."""
        boxes, scores = [], []
        for index, features in enumerate(levels):
            head = "proposal_generator.rpn_head."
            x = F.relu(self.conv(features[image : image + 1], f"{head}conv", 1, 1))
            objectness = self.conv(x, f"{head}objectness_logits")[0].permute(1, 2, 0).flatten().sigmoid()
            deltas = self.conv(x, f"{head}anchor_deltas")[0].permute(1, 2, 0).reshape(-1, 4)
            height, width = features.shape[-2:]
            stride = 4 << index
            anchors = cell_anchors(stride, 32 << index)[None] + grid(height, width, stride)[:, None]
            top, order = objectness.topk(min(1000, len(objectness)))
            found = clip(decode(deltas[order], anchors.reshape(-1, 4)[order], (1, 1, 1, 1)), size)
            keep = nms(found, top, 0.7)[:1000]
            boxes.append(found[keep])
            scores.append(top[keep])
        every, ranks = torch.cat(boxes), torch.cat(scores)
        return every[ranks.topk(min(1000, len(ranks))).indices]

    def pool(self, levels: list[Tensor], image: int, boxes: Tensor, side: int) -> Tensor:
        """RoIAlign from x1 to x2, from the level of the box's area."""
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        which = torch.floor(4 + torch.log2(sides.prod(1).sqrt() / 224 + 1e-6)).clamp(2, 5)
        pooled = boxes.new_zeros(len(boxes), FPN, side, side)
        for level in LEVELS:
            rows = torch.nonzero(which == level)[:, 0]
            rois = torch.cat([boxes.new_zeros(len(rows), 1), boxes[rows]], 1)
            features = levels[level - 2][image : image + 1]
            pooled[rows] = roi_align(features, rois, side, 1 / (1 << level), 2, aligned=False)
        return pooled

    def detect(self, frames: Tensor) -> list[dict[str, Tensor]]:
        """boxes, scores, labels (0 is the first thing) and masks of each frame, best first."""
        levels = self.pyramid(frames)
        size = (frames.shape[1], frames.shape[2])
        things, answers = self.source.things, []
        for image in range(len(frames)):
            proposals = self.proposals(levels, image, size)
            x = self.pool(levels, image, proposals, 7).flatten(1)
            x = F.relu(self.linear(x, "roi_heads.box_head.fc1"))
            x = F.relu(self.linear(x, "roi_heads.box_head.fc2"))
            # In this state dict the background is the last class; in their files it is the first.
            scores = self.linear(x, "roi_heads.box_predictor.cls_score").softmax(1)[:, :things]
            deltas = self.linear(x, "roi_heads.box_predictor.bbox_pred").reshape(-1, things, 4)
            every = clip(decode(deltas, proposals[:, None], (10, 10, 5, 5)), size)
            boxes, ranks, labels = [], [], []
            for label in range(things):
                confident = torch.nonzero(scores[:, label] > 0.05)[:, 0]
                keep = confident[nms(every[confident, label], scores[confident, label], 0.5)]
                boxes.append(every[keep, label])
                ranks.append(scores[keep, label])
                labels.append(torch.full((len(keep),), label))
            order = torch.cat(ranks).sort(descending=True).indices[:100]
            box, label_of = torch.cat(boxes)[order], torch.cat(labels)[order]
            head = "roi_heads.mask_head."
            x = self.pool(levels, image, box, 14)
            for i in range(4):
                x = F.relu(self.conv(x, f"{head}mask_fcn{i + 1}", 1, 1))
            up, bias = self.state[f"{head}deconv.weight"], self.state[f"{head}deconv.bias"]
            x = self.conv(F.relu(F.conv_transpose2d(x, up, bias, 2)), f"{head}predictor")
            masks = x[torch.arange(len(label_of)), label_of].sigmoid()
            answers.append(
                {"boxes": box, "scores": torch.cat(ranks)[order], "labels": label_of, "masks": masks}
            )
        return answers


def cell_anchors(stride: int, side: int) -> Tensor:
    """[3, 4] around the middle of the pixels 0 to stride - 1: rounded at the stride's size, then scaled."""
    middle = (stride - 1) / 2
    rows = []
    for ratio in (0.5, 1.0, 2.0):
        width = round(math.sqrt(stride * stride / ratio))
        height = round(width * ratio)
        x, y = (width * side / stride - 1) / 2, (height * side / stride - 1) / 2
        rows.append([middle - x, middle - y, middle + x, middle + y])
    return torch.tensor(rows)


def decode(deltas: Tensor, boxes: Tensor, factors: tuple[int, int, int, int]) -> Tensor:
    """Boxes moved by dx, dy and scaled by exp(dw), exp(dh), at most 1000 / 16 times."""
    dx, dy, dw, dh = (deltas[..., i] / factor for i, factor in enumerate(factors))
    width, height = boxes[..., 2] - boxes[..., 0] + 1, boxes[..., 3] - boxes[..., 1] + 1
    x, y = boxes[..., 0] + 0.5 * width + dx * width, boxes[..., 1] + 0.5 * height + dy * height
    limit = math.log(1000 / 16)
    width, height = torch.exp(dw.clamp(max=limit)) * width, torch.exp(dh.clamp(max=limit)) * height
    return torch.stack([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width - 1, y + 0.5 * height - 1], -1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """All corners into the pixels of the image."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]).float() - 1)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the kept boxes, best first."""
    order = scores.sort(descending=True, stable=True).indices
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    both = (high - low + 1).clamp(min=0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
    iou = both / (area[:, None] + area[None] - both)
    suppressed = torch.zeros(len(boxes), dtype=torch.bool)
    keep = []
    for i in order.tolist():
        if not suppressed[i]:
            keep.append(i)
            suppressed |= iou[i] > threshold
    return torch.tensor(keep, dtype=torch.int64)


def file_names(state: State) -> State:
    """The tensors as a file has them: the background is first, and its boxes and masks are not read."""
    renamed = {}
    generator = torch.Generator().manual_seed(1)
    for name, value in state.items():
        for theirs, ours in (
            ("backbone.bottom_up.", "backbone.body."),
            ("stem.conv1.norm.", "stem.bn1."),
            *((f"res{i + 1}.", f"layer{i}.") for i in range(1, 5)),
            *((f"conv{i}.norm.", f"bn{i}.") for i in range(1, 4)),
            ("shortcut.norm.", "downsample.1."),
            ("shortcut.", "downsample.0."),
            *((f"backbone.fpn_lateral{i + 1}.", f"backbone.fpn.fpn_inner{i}.") for i in range(1, 5)),
            *((f"backbone.fpn_output{i + 1}.", f"backbone.fpn.fpn_layer{i}.") for i in range(1, 5)),
            ("proposal_generator.rpn_head.objectness_logits.", "rpn.head.cls_logits."),
            ("proposal_generator.rpn_head.anchor_deltas.", "rpn.head.bbox_pred."),
            ("proposal_generator.rpn_head.", "rpn.head."),
            ("roi_heads.box_head.fc1.", "roi_heads.box.feature_extractor.fc6."),
            ("roi_heads.box_head.fc2.", "roi_heads.box.feature_extractor.fc7."),
            ("roi_heads.box_predictor.", "roi_heads.box.predictor."),
            ("roi_heads.mask_head.mask_fcn", "roi_heads.mask.feature_extractor.mask_fcn"),
            ("roi_heads.mask_head.deconv.", "roi_heads.mask.predictor.conv5_mask."),
            ("roi_heads.mask_head.predictor.", "roi_heads.mask.predictor.mask_fcn_logits."),
        ):
            name = name.replace(theirs, ours)
        if ".cls_score." in name:
            value = value.roll(1, 0)
        elif "predictor.bbox_pred." in name or ".mask_fcn_logits." in name:
            unused = torch.randn(
                (4 if "bbox_pred" in name else 1, *value.shape[1:]), generator=generator, device="cpu"
            )
            value = torch.cat([unused.to(value.device), value])
        renamed[name] = value
    for i in range(5):
        renamed[f"rpn.anchor_generator.cell_anchors.{i}"] = cell_anchors(4 << i, 32 << i)
    return renamed

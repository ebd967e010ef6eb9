# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN and Panoptic FPN as Detectron2 and mmdetection compute them, written out over a state dict.

The names are Detectron2's. Nothing of imp_trt is used. Sizes are small except for those of the ResNet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, roi_align

State = dict[str, Tensor]

FPN, HIDDEN, MASK, SEMANTIC = 32, 64, 16, 32
"""Channels of the pyramid, the box head, the mask head and the semantic head."""
LEVELS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Source:
    """Where the code bases and their configurations differ.

    Attributes:
        things: classes of the detector.
        stuff: classes of the semantic head, 0 without one.
        bgr: the first convolution reads BGR.
        mean, std: of its channels, for pixels of 0-255.
        stride_in_1x1: in the first block of a stage.
        samples: of RoIAlign; 0 as many as a bin has cells, rounded up.
        blocks, groups, width: of the ResNet.
        eps: of its normalization.
    """

    things: int = 3
    stuff: int = 0
    bgr: bool = True
    mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stride_in_1x1: bool = True
    samples: int = 0
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    groups: int = 1
    width: int = 64
    eps: float = 1e-5


def shapes(source: Source) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name: str, *shape: int, norm: bool = False, bias: bool = False, statistics: bool = True) -> None:
        found[f"{name}.weight"] = shape
        if bias:
            found[f"{name}.bias"] = shape[:1]
        if norm:
            kinds = ("weight", "bias", "running_mean", "running_var")
            found.update({f"{name}.norm.{kind}": shape[:1] for kind in (kinds if statistics else kinds[:2])})

    body = "backbone.bottom_up."
    conv(f"{body}stem.conv1", 64, 3, 7, 7, norm=True)
    before = 64
    for stage, count in enumerate(source.blocks):
        middle, after = source.groups * source.width << stage, 256 << stage
        for i in range(count):
            name = f"{body}res{stage + 2}.{i}."
            conv(f"{name}conv1", middle, before, 1, 1, norm=True)
            conv(f"{name}conv2", middle, middle // source.groups, 3, 3, norm=True)
            conv(f"{name}conv3", after, middle, 1, 1, norm=True)
            if i == 0:
                conv(f"{name}shortcut", after, before, 1, 1, norm=True)
            before = after
    for level in LEVELS:
        conv(f"backbone.fpn_lateral{level}", FPN, 64 << level, 1, 1, bias=True)
        conv(f"backbone.fpn_output{level}", FPN, FPN, 3, 3, bias=True)
    conv("proposal_generator.rpn_head.conv", FPN, FPN, 3, 3, bias=True)
    conv("proposal_generator.rpn_head.objectness_logits", 3, FPN, 1, 1, bias=True)
    conv("proposal_generator.rpn_head.anchor_deltas", 12, FPN, 1, 1, bias=True)
    conv("roi_heads.box_head.fc1", HIDDEN, FPN * 49, bias=True)
    conv("roi_heads.box_head.fc2", HIDDEN, HIDDEN, bias=True)
    conv("roi_heads.box_predictor.cls_score", source.things + 1, HIDDEN, bias=True)
    conv("roi_heads.box_predictor.bbox_pred", 4 * source.things, HIDDEN, bias=True)
    for i in range(4):
        conv(f"roi_heads.mask_head.mask_fcn{i + 1}", MASK, MASK if i else FPN, 3, 3, bias=True)
    conv("roi_heads.mask_head.deconv", MASK, MASK, 2, 2, bias=True)
    conv("roi_heads.mask_head.predictor", source.things, MASK, 1, 1, bias=True)
    if source.stuff:
        for level in LEVELS:
            for step in range(max(level - 2, 1)):
                name = f"sem_seg_head.p{level}.{2 * step}"
                conv(name, SEMANTIC, SEMANTIC if step else FPN, 3, 3, norm=True, statistics=False)
        conv("sem_seg_head.predictor", source.stuff, SEMANTIC, 1, 1, bias=True)
    return found


def weights(source: Source, frames: Tensor, network: type[Network] | None = None) -> State:
    """Random weights with which the network finds confident boxes of several classes in these frames."""
    network = network or Network
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in shapes(source).items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight"):
            # Without a small last factor the residual sums grow with the depth.
            value = (0.3 if "conv3" in name else 1.0) * (1 + 0.1 * value)
        elif name.endswith("running_var"):
            value = 1 + 0.2 * value.abs()
        elif len(shape) == 1:
            value = 0.1 * value
        else:
            value = value * math.sqrt(2 / math.prod(shape[1:]))
        state[name] = value
    # The predictors in turn, as each reads what those before it found: the deviations of what they return.
    # Their mean becomes 0 in each channel, so that no class wins everywhere.
    for layer, deviation in (
        ("proposal_generator.rpn_head.objectness_logits", 2.0),
        ("proposal_generator.rpn_head.anchor_deltas", 0.3),
        ("roi_heads.box_predictor.cls_score", 2.0),
        ("roi_heads.box_predictor.bbox_pred", 1.0),
        ("roi_heads.mask_head.predictor", 2.0),
    ):
        seen: dict[str, list[Tensor]] = {}
        network(state, source, seen).detect(frames)
        outputs = torch.cat([x.transpose(0, 1).flatten(1) for x in seen[layer]], 1)
        factor = deviation / (outputs - outputs.mean(1, keepdim=True)).std()
        state[f"{layer}.weight"] *= factor
        state[f"{layer}.bias"] = (state[f"{layer}.bias"] - outputs.mean(1)) * factor
    return state


class Network:
    """The formulas; ``seen`` gets the outputs of each layer by its name."""

    def __init__(self, state: State, source: Source, seen: dict[str, list[Tensor]] | None = None) -> None:
        self.state, self.source = state, source
        self.seen = {} if seen is None else seen

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        x = F.conv2d(x, weight, bias, stride, padding, groups=groups)
        if f"{name}.norm.running_var" in self.state:
            mean, var, scale, shift = (
                self.state[f"{name}.norm.{kind}"][:, None, None]
                for kind in ("running_mean", "running_var", "weight", "bias")
            )
            x = (x - mean) / torch.sqrt(var + self.source.eps) * scale + shift
        elif f"{name}.norm.weight" in self.state:
            x = F.group_norm(x, 32, self.state[f"{name}.norm.weight"], self.state[f"{name}.norm.bias"])
        self.seen.setdefault(name, []).append(x)
        return x

    def linear(self, x: Tensor, name: str) -> Tensor:
        x = F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])
        self.seen.setdefault(name, []).append(x)
        return x

    def pyramid(self, frames: Tensor) -> list[Tensor]:
        """Frames [B, H, W, 3] BGR -> p2..p6."""
        source = self.source
        x = frames.float() if source.bgr else frames.float().flip(-1)
        x = ((x - torch.tensor(source.mean)) / torch.tensor(source.std)).permute(0, 3, 1, 2)
        body = "backbone.bottom_up."
        x = F.max_pool2d(F.relu(self.conv(x, f"{body}stem.conv1", 2, 3)), 3, 2, 1)
        stages = []
        for stage, count in enumerate(source.blocks):
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                first, second = (stride, 1) if source.stride_in_1x1 else (1, stride)
                name = f"{body}res{stage + 2}.{i}."
                y = F.relu(self.conv(x, f"{name}conv1", first))
                y = F.relu(self.conv(y, f"{name}conv2", second, 1, source.groups))
                y = self.conv(y, f"{name}conv3")
                x = F.relu(y + (self.conv(x, f"{name}shortcut", stride) if i == 0 else x))
            stages.append(x)
        levels: list[Tensor] = []
        above = None
        for level in reversed(LEVELS):
            inner = self.conv(stages[level - 2], f"backbone.fpn_lateral{level}")
            if above is not None:
                inner = inner + F.interpolate(above, scale_factor=2.0, mode="nearest")
            above = inner
            levels.insert(0, self.conv(inner, f"backbone.fpn_output{level}", 1, 1))
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]

    def proposals(self, levels: list[Tensor], image: int, size: tuple[int, int]) -> Tensor:
        """[P, 4], best first: 1000 of each level, then non-maximum suppression at 0.7 in each level."""
        boxes, scores, which = [], [], []
        for index, features in enumerate(levels):
            head = "proposal_generator.rpn_head."
            x = F.relu(self.conv(features[image : image + 1], f"{head}conv", 1, 1))
            logits = self.conv(x, f"{head}objectness_logits")[0].permute(1, 2, 0).flatten()
            deltas = self.conv(x, f"{head}anchor_deltas")[0].permute(1, 2, 0).reshape(-1, 4)
            height, width = features.shape[-2:]
            anchors = cell_anchors(32 << index)[None] + grid(height, width, 4 << index)[:, None]
            top, order = logits.sort(descending=True)
            order = order[:1000]
            found = clip(decode(deltas[order], anchors.reshape(-1, 4)[order], (1, 1, 1, 1)), size)
            boxes.append(found)
            scores.append(top[:1000])
            which.append(torch.full((len(order),), index))
        every, ranks, levels_of = torch.cat(boxes), torch.cat(scores), torch.cat(which)
        real = ((every[:, 2:] - every[:, :2]) > 0).all(1)
        every, ranks, levels_of = every[real], ranks[real], levels_of[real]
        return every[batched_nms(every, ranks, levels_of, 0.7)[:1000]]

    def pool(self, levels: list[Tensor], image: int, boxes: Tensor, side: int) -> Tensor:
        """RoIAlign with aligned boxes from the level of each box."""
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        which = torch.floor(4 + torch.log2(areas.sqrt() / 224 + 1e-8)).clamp(2, 5)
        pooled = boxes.new_zeros(len(boxes), FPN, side, side)
        for level in LEVELS:
            rows = torch.nonzero(which == level)[:, 0]
            rois = torch.cat([boxes.new_zeros(len(rows), 1), boxes[rows]], 1)
            features = levels[level - 2][image : image + 1]
            pooled[rows] = roi_align(features, rois, side, 1 / (1 << level), self.source.samples, True)
        return pooled

    def detect(self, frames: Tensor) -> list[dict[str, Tensor]]:
        """boxes, scores, labels (0 is the first thing) and masks of each frame, best first."""
        levels = self.pyramid(frames)
        size = (frames.shape[1], frames.shape[2])
        things, answers = self.source.things, []
        for image in range(len(frames)):
            proposals = self.proposals(levels, image, size)
            x = self.pool(levels, image, proposals, 7).flatten(1)
            x = F.relu(
                self.linear(F.relu(self.linear(x, "roi_heads.box_head.fc1")), "roi_heads.box_head.fc2")
            )
            # The background is the last class.
            scores = self.linear(x, "roi_heads.box_predictor.cls_score").softmax(1)[:, :things]
            deltas = self.linear(x, "roi_heads.box_predictor.bbox_pred").reshape(-1, things, 4)
            boxes = clip(decode(deltas, proposals[:, None], (10, 10, 5, 5)), size)
            row, label = torch.nonzero(scores > 0.05, as_tuple=True)
            boxes, scores = boxes[row, label], scores[row, label]
            keep = batched_nms(boxes, scores, label, 0.5)[:100]
            boxes, scores, label = boxes[keep], scores[keep], label[keep]
            head = "roi_heads.mask_head."
            x = self.pool(levels, image, boxes, 14)
            for i in range(4):
                x = F.relu(self.conv(x, f"{head}mask_fcn{i + 1}", 1, 1))
            up, bias = self.state[f"{head}deconv.weight"], self.state[f"{head}deconv.bias"]
            x = self.conv(F.relu(F.conv_transpose2d(x, up, bias, 2)), f"{head}predictor")
            masks = x[torch.arange(len(label)), label].sigmoid()
            answers.append({"boxes": boxes, "scores": scores, "labels": label, "masks": masks})
        return answers

    def semantic(self, frames: Tensor) -> Tensor:
        """Logits [B, stuff, H, W] of Panoptic FPN."""
        levels = self.pyramid(frames)
        total = torch.zeros(())
        for level in LEVELS:
            x = levels[level - 2]
            for step in range(max(level - 2, 1)):
                x = F.relu(self.conv(x, f"sem_seg_head.p{level}.{2 * step}", 1, 1))
                if level > 2:
                    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            total = total + x
        logits = self.conv(total, "sem_seg_head.predictor")
        return F.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)


def cell_anchors(side: int) -> Tensor:
    """[3, 4] xyxy around 0, not rounded."""
    rows = []
    for ratio in (0.5, 1.0, 2.0):
        width = math.sqrt(side**2 / ratio)
        height = ratio * width
        rows.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(rows)


def grid(height: int, width: int, stride: int) -> Tensor:
    """[height * width, 4] positions x, y, x, y, row by row."""
    y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
    return torch.stack([x, y, x, y], -1).reshape(-1, 4).float()


def decode(deltas: Tensor, boxes: Tensor, factors: tuple[int, int, int, int]) -> Tensor:
    """Boxes moved by dx, dy and scaled by exp(dw), exp(dh), at most 1000 / 16 times."""
    dx, dy, dw, dh = (deltas[..., i] / factor for i, factor in enumerate(factors))
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    x, y = boxes[..., 0] + 0.5 * width + dx * width, boxes[..., 1] + 0.5 * height + dy * height
    limit = math.log(1000 / 16)
    width, height = torch.exp(dw.clamp(max=limit)) * width, torch.exp(dh.clamp(max=limit)) * height
    return torch.stack([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height], -1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    return torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]).float())


def compare(wanted: list[dict[str, Tensor]], found: dict[str, Tensor], first_thing: int) -> None:
    """Boxes, scores, labels and masks agree.

    In a hundred overlapping boxes of random weights one may have an IoU so near to a threshold that rounding
    decides: nineteen of twenty must have their equal, and the first ones of each frame are all the same.
    """
    for i, one in enumerate(wanted):
        count = int(found["num_detections"][i])
        assert abs(count - len(one["scores"])) <= 2
        assert len(one["scores"]) > 10
        assert len(set(one["labels"].tolist())) > 1
        equal = (one["labels"][:, None] + first_thing) == found["labels"][i, :count].long()
        for name, tolerance in (("scores", 1e-4), ("boxes", 0.02), ("masks", 2e-3)):
            ours, theirs = found[name][i, :count].reshape(count, -1), one[name].reshape(len(equal), -1)
            equal &= (ours - theirs[:, None]).abs().amax(2) < tolerance
        assert equal.any(1).float().mean() >= 0.95
        assert equal.diagonal()[:10].all()

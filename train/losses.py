# SPDX-License-Identifier: Apache-2.0
"""Losses of the two stages."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imp_trt.classes import IGNORE_INDEX
from imp_trt.models.config import ModelConfig
from imp_trt.models.detector import Detections
from imp_trt.models.network import ImpNetwork
from imp_trt.train.config import CanvasSource, Recipe
from imp_trt.train.distributed import mean as mean_over_processes
from imp_trt.train.targets import Batch


class StageLosses(nn.Module):
    """The losses of a stage as a module, which DistributedDataParallel can wrap.

    Args:
        network: in training mode.
        recipe: loss weights and canvas source.
        stage: 1 (detector, and the semantic head without canvas if semantic_in_stage_one) or 2.
        class_weights: [K] float32 weights of the cross-entropy, or None.
    """

    def __init__(self, network: ImpNetwork, recipe: Recipe, stage: int, class_weights: Tensor | None) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.stage = stage
        self.class_weights = class_weights

    def forward(self, batch: Batch, ohem_ratio: float | None = None) -> dict[str, Tensor]:
        """Losses of one step by name; the optimizer minimizes their sum.

        Args:
            batch: crops and their targets.
            ohem_ratio: fraction of the pixels, those with the highest loss, that the semantic loss averages;
                None for all.
        """
        network, recipe = self.network, self.recipe
        size = (int(batch.frames.shape[1]), int(batch.frames.shape[2]))
        images = network.preprocess(batch.frames).contiguous(memory_format=torch.channels_last)
        features = network.backbone(images)
        losses: dict[str, Tensor] = {}
        canvas = None
        semantic = trains_semantic(network.config, recipe, self.stage)
        if network.detector is not None:
            losses, proposals = network.detector.losses(features, size, batch.instances)
            losses = {name: recipe.instance_weight * value for name, value in losses.items()}
            if network.config.imp and self.stage == 2 and semantic:
                pooled = features
                if recipe.canvas_gradient != "all":
                    pooled = {name: level.detach() for name, level in features.items()}
                detections, masks = _canvas_inputs(network, pooled, proposals, batch, recipe, size)
                canvas = network.project(detections, masks, size)
                if recipe.canvas_gradient == "none":
                    canvas = canvas.detach()
        if semantic:
            logits = network.segment(features, canvas)
            loss = semantic_loss(logits, batch.semantic, self.class_weights, ohem_ratio)
            losses["semantic"] = recipe.semantic_weight * loss
        return losses


def trains_semantic(config: ModelConfig, recipe: Recipe, stage: int) -> bool:
    """Whether a stage trains the semantic head.

    With semantic_head "none" there are no weights to train; without a detector it is the only head.
    """
    if config.semantic_head == "none":
        return False
    return stage == 2 or recipe.semantic_in_stage_one or not config.detector


def semantic_loss(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, ohem_ratio: float | None
) -> Tensor:
    """Cross-entropy over the pixels that are not ignored; 0 if all are.

    Its gradient, averaged over processes, equals that of the mean over the global batch. With ohem_ratio
    each process selects among its own pixels and the means are averaged.

    Args:
        logits: [B, K, H, W] float32.
        target: [B, H, W] int64, 255 = ignore.
        class_weights: [K] float32, or None. The mean is weighted by them, as in PyTorch.
        ohem_ratio: fraction of the pixels, those with the largest weighted loss, to average.
    """
    valid = target != IGNORE_INDEX
    if ohem_ratio is not None:
        per_pixel = F.cross_entropy(
            logits, target, weight=class_weights, ignore_index=IGNORE_INDEX, reduction="none"
        )
        labeled = per_pixel[valid]
        if not labeled.numel():
            return 0.0 * logits.sum()
        return labeled.topk(max(1, int(ohem_ratio * labeled.numel()))).values.mean()
    if class_weights is None:
        own_weight = valid.sum().float()
    else:
        own_weight = class_weights[torch.where(valid, target, 0)][valid].sum()
    mean_weight = mean_over_processes(own_weight)
    if own_weight == 0:
        return 0.0 * logits.sum()
    loss = F.cross_entropy(logits, target, weight=class_weights, ignore_index=IGNORE_INDEX)
    return loss if own_weight is mean_weight else loss * (own_weight / mean_weight)


def _canvas_inputs(
    network: ImpNetwork,
    features: dict[str, Tensor],
    proposals: list[Tensor],
    batch: Batch,
    recipe: Recipe,
    size: tuple[int, int],
) -> tuple[Detections, Tensor]:
    """Detections to project, with masks [B, N, P, P]: the network's own, the ground truth, or both."""
    assert network.detector is not None  # noqa: S101  # ModelConfig requires it for imp
    source: CanvasSource = recipe.canvas_source
    parts: list[tuple[Detections, Tensor]] = []
    if source in ("predicted", "both"):
        detections = network.detector.detect(features, proposals, size)
        n = min(recipe.canvas_detections, detections.scores.shape[1])
        detections = Detections(
            detections.boxes[:, :n],
            detections.scores[:, :n],
            detections.labels[:, :n],
            detections.counts.clamp(max=n),
        )
        masks = network.detector.masks(features, detections)
        if source == "both":
            # The ground truth covers correct predictions; the remaining gradient could only lower scores.
            detections, masks = replace(detections, scores=detections.scores.detach()), masks.detach()
        parts.append((detections, masks))
    if source in ("ground-truth", "both"):
        detections = _ground_truth(batch, recipe.canvas_detections)
        parts.append((detections, network.detector.masks(features, detections)))
    if len(parts) == 1:
        return parts[0]
    (a, masks_a), (b, masks_b) = parts
    merged = replace(
        a,
        boxes=torch.cat([a.boxes, b.boxes], dim=1),
        scores=torch.cat([a.scores, b.scores], dim=1),
        labels=torch.cat([a.labels, b.labels], dim=1),
        counts=a.counts + b.counts,
    )
    return merged, torch.cat([masks_a, masks_b], dim=1)


def _ground_truth(batch: Batch, padded: int) -> Detections:
    """Ground-truth instances as detections of score 1, padded."""
    images, device = len(batch.instances), batch.frames.device
    boxes = torch.zeros(images, padded, 4, device=device)
    scores = torch.zeros(images, padded, device=device)
    labels = torch.zeros(images, padded, dtype=torch.int64, device=device)
    counts = torch.zeros(images, dtype=torch.int64, device=device)
    for i, target in enumerate(batch.instances):
        n = min(padded, len(target["labels"]))
        boxes[i, :n] = target["boxes"][:n]
        scores[i, :n] = 1.0
        labels[i, :n] = target["labels"][:n] - 1
        counts[i] = n
    return Detections(boxes, scores, labels, counts)

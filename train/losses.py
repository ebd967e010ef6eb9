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
from imp_trt.train.distributed import mean as mean_over_processes
from imp_trt.train.recipes import CanvasSource, Recipe
from imp_trt.train.targets import Batch


class StageLosses(nn.Module):
    """The losses of a stage as a module, which is what data parallel training wraps.

    Args:
        network: in training mode.
        recipe: weights and canvas source.
        stage: 1 (detector, and the semantic head without canvas if the recipe says so) or 2.
        class_weights: [K] weights of the cross-entropy, or None.
    """

    def __init__(self, network: ImpNetwork, recipe: Recipe, stage: int, class_weights: Tensor | None) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.stage = stage
        self.class_weights = class_weights

    def forward(self, batch: Batch, hard_share: float | None = None) -> dict[str, Tensor]:
        """Named losses of one step; their sum is what the optimizer sees.

        Args:
            batch: crops and their targets.
            hard_share: share of the pixels, the hardest, whose cross-entropy counts; None for all.
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
                if recipe.canvas_gradient == "heads":
                    pooled = {name: level.detach() for name, level in features.items()}
                found, masks = _canvas_inputs(network, pooled, proposals, batch, recipe, size)
                canvas = network.project(found, masks, size)
        if semantic:
            logits = network.segment(features, canvas)
            loss = semantic_loss(logits, batch.semantic, self.class_weights, hard_share)
            losses["semantic"] = recipe.semantic_weight * loss
        return losses


def trains_semantic(config: ModelConfig, recipe: Recipe, stage: int) -> bool:
    """Whether a stage trains the semantic head.

    Read straight from the canvas, semantics has nothing to learn; without a detector it is all there is.
    """
    if config.semantic_head == "none":
        return False
    return stage == 2 or recipe.semantic_in_stage_one or not config.detector


def semantic_loss(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, hard_share: float | None
) -> Tensor:
    """Cross-entropy over the pixels that are not ignored; 0 where all are.

    Its gradient, averaged over processes, is that of the mean over the global batch. With hard_share
    every process takes the hardest of its own pixels and the shares are averaged.

    Args:
        logits: [B, K, H, W].
        target: [B, H, W] int64, 255 = ignore.
        class_weights: [K], or None. The mean is weighted by them, as PyTorch's is.
        hard_share: share of the pixels, those with the largest weighted loss, whose mean is taken.
    """
    valid = target != IGNORE_INDEX
    if hard_share is not None:
        each = F.cross_entropy(
            logits, target, weight=class_weights, ignore_index=IGNORE_INDEX, reduction="none"
        )
        labeled = each[valid]
        if not labeled.numel():
            return 0.0 * logits.sum()
        return labeled.topk(max(1, int(hard_share * labeled.numel()))).values.mean()
    if class_weights is None:
        here = valid.sum().float()
    else:
        here = class_weights[torch.where(valid, target, 0)][valid].sum()
    everywhere = mean_over_processes(here)
    if here == 0:
        return 0.0 * logits.sum()
    loss = F.cross_entropy(logits, target, weight=class_weights, ignore_index=IGNORE_INDEX)
    return loss if here is everywhere else loss * (here / everywhere)


def _canvas_inputs(
    network: ImpNetwork,
    features: dict[str, Tensor],
    proposals: list[Tensor],
    batch: Batch,
    recipe: Recipe,
    size: tuple[int, int],
) -> tuple[Detections, Tensor]:
    """What is projected: the network's own detections, the ground truth, or both."""
    assert network.detector is not None  # noqa: S101  # imp needs the detector, the config checks it
    source: CanvasSource = recipe.canvas_source
    parts: list[tuple[Detections, Tensor]] = []
    if source in ("predicted", "both"):
        found = network.detector.detect(features, proposals, size)
        n = min(recipe.canvas_detections, found.scores.shape[1])
        found = Detections(
            found.boxes[:, :n], found.scores[:, :n], found.labels[:, :n], found.counts.clamp(max=n)
        )
        masks = network.detector.masks(features, found)
        if source == "both":
            # The truth covers them where they are right. What gradient is left would only lower scores.
            found, masks = replace(found, scores=found.scores.detach()), masks.detach()
        parts.append((found, masks))
    if source in ("ground-truth", "both"):
        found = _ground_truth(batch, recipe.canvas_detections)
        parts.append((found, network.detector.masks(features, found)))
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
    """The labeled instances as detections of score 1, padded."""
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

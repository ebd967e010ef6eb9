# SPDX-License-Identifier: Apache-2.0
"""The factor that gives the canvas the standard deviation of the features next to it."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import torch
from torch import Tensor

from imp_trt.data.dataset import Dataset
from imp_trt.models.network import ImpNetwork
from imp_trt.models.semantic import SemanticHead
from imp_trt.train import distributed
from imp_trt.train.batches import draw_batch
from imp_trt.train.config import Recipe

_log = logging.getLogger(__name__)

MEASURED_STEPS = 8
"""Batches of training crops that the standard deviations are computed from."""

LIMITS = (1.0, 64.0)
"""Range of the result; a detector that finds hardly anything would give an arbitrary factor."""


@torch.no_grad()
def measure_canvas_scale(
    network: ImpNetwork, dataset: Dataset, recipe: Recipe, seed: int, device: str = "cpu"
) -> float:
    """Ratio of standard deviations, features to canvas, each the mean over its channels.

    The crops are those of the first steps of stage two. The network is not changed.

    Args:
        network: with IMP and a semantic head, as stage two starts; in any mode.
        dataset, recipe, seed: training images, their augmentation, the run's seed.
        device: where to compute.

    Returns:
        The ratio with three significant digits, within LIMITS.
    """
    # In training mode: a new head's normalization has no statistics yet.
    network = copy.deepcopy(network).to(device).train()
    if recipe.freeze_norm:
        network.backbone.body.eval()
    head = network.semantic
    if not isinstance(head, SemanticHead) or not network.config.imp or network.detector is None:
        return 1.0
    moments: list[list[Tensor]] = [[], []]
    for step in range(MEASURED_STEPS):
        batch = draw_batch(dataset, network.config.classes, recipe, (seed, 2, step)).to(device)
        size = (int(batch.frames.shape[1]), int(batch.frames.shape[2]))
        features = network.backbone(network.preprocess(batch.frames))
        # The RPN's training mode requires targets.
        network.detector.eval()
        detections = network.detector.detect(features, network.detector.propose(features, size), size)
        canvas = network.project(detections, network.detector.masks(features, detections), size)
        for found, tensor in zip(moments, (head.merge_levels(features), canvas), strict=True):
            values = tensor.double()
            found.append(torch.stack([values.mean(dim=(0, 2, 3)), values.square().mean(dim=(0, 2, 3))]))
    feature_std, canvas_std = (_mean_std(torch.stack(found).mean(0)) for found in moments)
    low, high = LIMITS
    ratio = feature_std / canvas_std if canvas_std > 0 else low
    scale = float(f"{min(max(ratio, low), high):.3g}")
    _log.info(
        "canvas scale %g: the standard deviation of the canvas is %.3g, of the features %.3g",
        scale,
        canvas_std,
        feature_std,
    )
    return scale


def set_canvas_scale(network: ImpNetwork, scale: float) -> None:
    """Give a network another canvas_scale, in place; nothing happens without a head that reads the canvas."""
    if isinstance(network.semantic, SemanticHead):
        network.semantic.canvas_scale = scale
        network.config = replace(network.config, canvas_scale=scale)


def _mean_std(moments: Tensor) -> float:
    """Mean over channels of the standard deviation; moments [2, C] are means and means of squares."""
    mean, square = distributed.mean(moments)
    return float((square - mean.square()).clamp(min=0).sqrt().mean())

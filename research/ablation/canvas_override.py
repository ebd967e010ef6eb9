# SPDX-License-Identifier: Apache-2.0
"""Evaluation of an IMP network with its canvas replaced, to separate semantic head and detector.

If the oracle canvas improves much on the network's own, the detector is the bottleneck; if an empty canvas
costs nothing, the semantic head ignores the canvas.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from imp_trt.backends.pytorch import PyTorchBackend
from imp_trt.data.dataset import Sample
from imp_trt.errors import InvalidInput
from imp_trt.models.config import ModelConfig
from imp_trt.models.detector import Detections, mask_targets
from imp_trt.models.network import ImpNetwork
from imp_trt.train.augment import letterbox_sample
from imp_trt.train.targets import make_batch
from research.ablation.cells import CanvasOverride


class CanvasOverrideBackend(PyTorchBackend):
    """PyTorch backend whose semantic head reads a replaced canvas; the detections are the network's own.

    Args:
        path: checkpoint of a network with IMP.
        override: "empty", a canvas of zeros; or "oracle", the ground-truth instances at score 1, their masks
            resampled to the network's mask size and projected like its detections.
        sample: returns the sample that is being evaluated; called once per image.
        threads, device: see :class:`imp_trt.backends.pytorch.PyTorchBackend`.

    Raises:
        InvalidInput: the network has no canvas.
    """

    def __init__(
        self,
        path: Path,
        override: CanvasOverride,
        sample: Callable[[], Sample],
        *,
        threads: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(path, threads=threads, device=device)
        trained = self._network
        if trained is None or not trained.config.imp:
            raise InvalidInput(f"network {path}", expected="one with IMP", got="no canvas")
        network = _CanvasOverrideNetwork(trained.config, sample if override == "oracle" else None)
        network.load_state_dict(trained.state_dict())
        self._network = network.eval().to(self._device)


class _CanvasOverrideNetwork(ImpNetwork):
    """The network with its canvas replaced by zeros, or by that of the sample's ground truth."""

    def __init__(self, config: ModelConfig, sample: Callable[[], Sample] | None) -> None:
        super().__init__(config)
        self._sample = sample

    def project(self, detections: Detections, masks: Tensor, image_size: tuple[int, int]) -> Tensor:
        if self._sample is None:
            return torch.zeros_like(super().project(detections, masks, image_size))
        sample = letterbox_sample(self._sample(), image_size)
        target = make_batch([sample], self.config.classes).to(str(masks.device)).instances[0]
        boxes, labels = target["boxes"], target["labels"] - 1
        matched = torch.arange(len(labels), device=masks.device)
        true_masks = mask_targets(target["masks"], boxes, matched, masks.shape[-1])
        scores = torch.ones(1, len(labels), device=masks.device)
        oracle = Detections(boxes[None], scores, labels[None], scores.sum(dim=1).long())
        return super().project(oracle, true_masks[None], image_size)

# SPDX-License-Identifier: Apache-2.0
"""Evaluation of an IMP network with its canvas replaced, to separate semantic head and detector.

If the oracle canvas improves much on the network's own, the detector is the bottleneck; if an empty canvas
costs nothing, the semantic head ignores the canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Drawn:
    """Instances of one image that are projected on the canvas.

    Attributes:
        boxes: [N, 4] float32 xyxy, input pixels.
        scores: [N] float32.
        labels: [N] int64 thing index (canvas channel).
        masks: [N, P, P] float32.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


CanvasChange = Callable[[Drawn, Drawn], Drawn]
"""From the network's detections and the ground truth, at score 1, to what the canvas shows."""


def _empty(detected: Drawn, truth: Drawn) -> Drawn:
    return replace(detected, scores=torch.zeros_like(detected.scores))


def _oracle(detected: Drawn, truth: Drawn) -> Drawn:
    return truth


OVERRIDES: Mapping[CanvasOverride, CanvasChange] = {"empty": _empty, "oracle": _oracle}


class CanvasOverrideBackend(PyTorchBackend):
    """PyTorch backend whose semantic head reads a replaced canvas; the detections are the network's own.

    Args:
        path: checkpoint of a network with IMP.
        change: what the canvas shows. The masks of the ground truth are resampled to the network's mask
            size and projected like its detections.
        sample: returns the sample that is being evaluated; called once per image.
        threads, device: see :class:`imp_trt.backends.pytorch.PyTorchBackend`.

    Raises:
        InvalidInput: the network has no canvas.
    """

    def __init__(
        self,
        path: Path,
        change: CanvasChange,
        sample: Callable[[], Sample],
        *,
        threads: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(path, threads=threads, device=device)
        trained = self._network
        if trained is None or not trained.config.imp:
            raise InvalidInput(f"network {path}", expected="one with IMP", got="no canvas")
        network = _CanvasOverrideNetwork(trained.config, change, sample)
        network.load_state_dict(trained.state_dict())
        self._network = network.eval().to(self._device)


class _CanvasOverrideNetwork(ImpNetwork):
    """The network with other instances on its canvas."""

    def __init__(self, config: ModelConfig, change: CanvasChange, sample: Callable[[], Sample]) -> None:
        super().__init__(config)
        self._change, self._sample = change, sample

    def project(self, detections: Detections, masks: Tensor, image_size: tuple[int, int]) -> Tensor:
        count = int(detections.counts[0])
        detected = Drawn(
            detections.boxes[0, :count],
            detections.scores[0, :count].float(),
            detections.labels[0, :count],
            masks[0, :count].float(),
        )
        drawn = self._change(detected, self._truth(masks, image_size))
        counts = torch.tensor([len(drawn.labels)], device=masks.device)
        shown = Detections(drawn.boxes[None], drawn.scores[None], drawn.labels[None], counts)
        return super().project(shown, drawn.masks[None], image_size)

    def _truth(self, masks: Tensor, image_size: tuple[int, int]) -> Drawn:
        sample = letterbox_sample(self._sample(), image_size)
        target = make_batch([sample], self.config.classes).to(str(masks.device)).instances[0]
        boxes, labels = target["boxes"], target["labels"] - 1
        matched = torch.arange(len(labels), device=masks.device)
        true_masks = mask_targets(target["masks"], boxes, matched, masks.shape[-1])
        return Drawn(boxes, boxes.new_ones(len(labels)), labels, true_masks)

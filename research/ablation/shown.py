"""An IMP network that is shown another canvas than its own: what the semantic head makes of a canvas.

Where the truth helps much and the network's own canvas little, the detector is what is missing; where an
empty canvas costs nothing, the head does not look at it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from imp_trt.backends.pytorch import PyTorchBackend
from imp_trt.errors import InvalidInput
from imp_trt.models.config import ModelConfig
from imp_trt.models.detector import Detections, mask_targets
from imp_trt.models.network import ImpNetwork
from imp_trt.train.augment import letterbox_sample
from imp_trt.train.dataset import Sample
from imp_trt.train.targets import make_batch
from research.ablation.cells import Shown


class ShownCanvas(PyTorchBackend):
    """A checkpoint in PyTorch whose semantic head sees a canvas made for it; detections stay its own.

    Args:
        path: checkpoint of a network with IMP.
        shown: "nothing", a canvas of zeros; or "truth", the labelled instances at score 1, with their own
            masks at the size that the network predicts, projected as the network projects its detections.
        sample: gives the labelled picture that is being evaluated; called once for each.
        threads, device: see :class:`imp_trt.backends.pytorch.PyTorchBackend`.

    Raises:
        InvalidInput: the network has no canvas.
    """

    def __init__(
        self,
        path: Path,
        shown: Shown,
        sample: Callable[[], Sample],
        *,
        threads: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(path, threads=threads, device=device)
        trained = self._network
        if not trained.config.imp:
            raise InvalidInput(f"network {path}", expected="one with IMP", got="no canvas")
        network = _Shown(trained.config, sample if shown == "truth" else None)
        network.load_state_dict(trained.state_dict())
        self._network = network.eval().to(self._device)


class _Shown(ImpNetwork):
    """The network with its canvas replaced: by zeros, or by that of the sample."""

    def __init__(self, config: ModelConfig, sample: Callable[[], Sample] | None) -> None:
        super().__init__(config)
        self._sample = sample

    def project(self, found: Detections, masks: Tensor, image_size: tuple[int, int]) -> Tensor:
        if self._sample is None:
            return torch.zeros_like(super().project(found, masks, image_size))
        sample = letterbox_sample(self._sample(), image_size)
        truth = make_batch([sample], self.config.classes).to(str(masks.device)).instances[0]
        boxes, labels = truth["boxes"], truth["labels"] - 1
        own = torch.arange(len(labels), device=masks.device)
        shapes = mask_targets(truth["masks"], boxes, own, masks.shape[-1])
        scores = torch.ones(1, len(labels), device=masks.device)
        everything = Detections(boxes[None], scores, labels[None], scores.sum(dim=1).long())
        return super().project(everything, shapes[None], image_size)

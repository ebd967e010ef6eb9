"""From samples to the tensors that the losses read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imp_trt.classes import ClassTable
from imp_trt.train.dataset import Sample
from imp_trt.train.instances import instance_table


@dataclass(frozen=True)
class Batch:
    """Tensors of a training step.

    Attributes:
        frames: [B, H, W, 3] uint8 BGR.
        semantic: [B, H, W] int64, 255 = ignore.
        instances: per image: boxes [K, 4] float32 xyxy pixels, labels [K] int64 (thing index + 1,
            as torchvision counts the background as 0), masks [K, H, W] uint8.
    """

    frames: Tensor
    semantic: Tensor
    instances: list[dict[str, Tensor]]

    def to(self, device: str) -> Batch:
        """The same batch on a device."""
        return Batch(
            self.frames.to(device),
            self.semantic.to(device),
            [{name: value.to(device) for name, value in target.items()} for target in self.instances],
        )


def make_batch(samples: Sequence[Sample], classes: ClassTable, min_area: int) -> Batch:
    """Collate samples of one size; instances with fewer than min_area visible pixels are left out."""
    frames = torch.from_numpy(np.stack([s.image for s in samples]))
    semantic = torch.from_numpy(np.stack([s.semantic for s in samples]).astype(np.int64))
    return Batch(frames, semantic, [_instances(s, classes, min_area) for s in samples])


def _instances(sample: Sample, classes: ClassTable, min_area: int) -> dict[str, Tensor]:
    boxes, labels, ids = instance_table(sample)
    masks = sample.instances[None] == ids[:, None, None]  # [K, H, W]
    large = masks.sum(axis=(1, 2)) >= min_area
    position = {c: k + 1 for k, c in enumerate(classes.things)}
    return {
        "boxes": torch.from_numpy(boxes[large].astype(np.float32)).reshape(-1, 4),
        "labels": torch.tensor([position[int(c)] for c in labels[large]], dtype=torch.int64),
        "masks": torch.from_numpy(masks[large].astype(np.uint8)),
    }

"""From samples to the tensors that the losses read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.data.instance_maps import instance_table


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


def make_batch(samples: Sequence[Sample], classes: ClassTable) -> Batch:
    """Collate samples of one size; every instance that they have is a target of the detector."""
    frames = torch.from_numpy(np.stack([s.image for s in samples]))
    semantic = torch.from_numpy(np.stack([s.semantic for s in samples]).astype(np.int64))
    return Batch(frames, semantic, [_instances(s, classes) for s in samples])


def _instances(sample: Sample, classes: ClassTable) -> dict[str, Tensor]:
    boxes, labels, ids = instance_table(sample)
    masks = sample.instances[None] == ids[:, None, None]  # [K, H, W]
    position = {c: k + 1 for k, c in enumerate(classes.things)}
    return {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.tensor([position[int(c)] for c in labels], dtype=torch.int64),
        "masks": torch.from_numpy(masks.astype(np.uint8)),
    }

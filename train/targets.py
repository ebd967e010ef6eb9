# SPDX-License-Identifier: Apache-2.0
"""Collation of samples to the tensors of a training step."""

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
            since torchvision's label 0 is the background), masks [K, H, W] uint8.
    """

    frames: Tensor
    semantic: Tensor
    instances: list[dict[str, Tensor]]

    def to(self, device: str) -> Batch:
        """Copy the batch to a device."""
        return Batch(
            self.frames.to(device),
            self.semantic.to(device),
            [{name: value.to(device) for name, value in target.items()} for target in self.instances],
        )


def make_batch(samples: Sequence[Sample], classes: ClassTable) -> Batch:
    """Collate samples of equal size; all their instances are targets of the detector."""
    frames = torch.from_numpy(np.stack([s.image for s in samples]))  # [B, H, W, 3] uint8
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

# SPDX-License-Identifier: Apache-2.0
"""The eager network: backbone, detector, IMP canvas and semantic head, as configured."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imp_trt.errors import InvalidInput
from imp_trt.models.backbone import FpnBackbone, flip_and_normalize
from imp_trt.models.config import ModelConfig
from imp_trt.models.detector import Detections, Detector
from imp_trt.models.semantic import CanvasArgmax, SemanticHead
from imp_trt.ops.mask_projection.torch import instance_mask_projection

CANVAS_STRIDE = 4
"""The canvas has a quarter of the image's height and width, as in the paper (section 3.1)."""


class ImpNetwork(nn.Module):
    """One of the paper's seven systems.

    Args:
        config: architecture. Weights are randomly initialized with torch's global generator; for pretrained
            ones see :func:`imp_trt.models.initial.initialize`.
    """

    mean: Tensor  # [3] RGB
    std: Tensor  # [3] RGB
    thing_classes: Tensor  # [C] int32 semantic index of each thing

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # A program may have set another default type; here it would change weights and results.
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            self._build(config)
        finally:
            torch.set_default_dtype(before)

    def _build(self, config: ModelConfig) -> None:
        self.backbone = FpnBackbone(config.backbone, config.fpn_channels, config.norm, config.stride_in_1x1)
        self.detector: Detector | None = None
        if config.detector:
            self.detector = Detector(config.fpn_channels, config.num_things, config.detector_config)
        self.semantic: nn.Module
        if config.semantic_head == "none":
            self.semantic = CanvasArgmax(config.classes, config.background_score)
        else:
            self.semantic = SemanticHead(
                config.semantic_head,
                config.fpn_channels,
                config.semantic_channels,
                len(config.classes),
                config.num_things if config.imp else 0,
                config.head_norm,
                config.canvas_scale,
                config.canvas_skip,
                config.fuse_convs,
            )
        self.register_buffer("mean", torch.tensor(config.mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.std), persistent=False)
        things = torch.tensor(config.classes.things, dtype=torch.int32)
        self.register_buffer("thing_classes", things, persistent=False)

    def preprocess(self, frames: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] BGR -> float32 [B, 3, H, W] normalized, the input of the backbone."""
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise InvalidInput(
                "frames", expected="uint8 [B, H, W, 3]", got=f"{frames.dtype} {list(frames.shape)}"
            )
        return flip_and_normalize(frames, self.mean, self.std)

    def project(self, detections: Detections, masks: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Detections and their masks [B, N, P, P] -> canvas [B, C, H/4, W/4] (paper, section 3.1)."""
        size = (image_size[0] // CANVAS_STRIDE, image_size[1] // CANVAS_STRIDE)
        return instance_mask_projection(
            detections.boxes,
            detections.scores.float(),
            detections.labels,
            masks.float(),
            self.config.num_things,
            size,
            1.0 / CANVAS_STRIDE,
            self.config.sampling,
        )

    def segment(self, features: dict[str, Tensor], canvas: Tensor | None) -> Tensor:
        """Semantic logits [B, K, H, W] at the image's size."""
        if isinstance(self.semantic, CanvasArgmax):
            if canvas is None:
                raise InvalidInput("canvas", expected="a canvas for semantic_head 'none'", got=None)
            logits = self.semantic(canvas)
        else:
            logits = self.semantic(features, canvas)
        return F.interpolate(
            logits.float(), scale_factor=float(CANVAS_STRIDE), mode="bilinear", align_corners=False
        )

    @torch.no_grad()
    def forward_frames(self, frames: Tensor) -> dict[str, Tensor]:
        """Evaluate frames uint8 [B, H, W, 3] BGR (H, W multiples of 32).

        Returns:
            semantic uint8 [B, H, W]; boxes float32 [B, N, 4] xyxy pixels; scores float32 [B, N],
            descending; labels int32 [B, N], semantic class index; masks float32 [B, N, P, P];
            num_detections int32 [B]. Rows past num_detections are zeros. N is 0 without a detector.
        """
        size = (int(frames.shape[1]), int(frames.shape[2]))
        features = self.backbone(self.preprocess(frames))
        detections, masks = self._instances(features, size)
        canvas = self.project(detections, masks, size) if self.config.imp else None
        semantic = self.segment(features, canvas).argmax(dim=1).to(torch.uint8)
        valid = torch.arange(detections.scores.shape[1], device=frames.device) < detections.counts[:, None]
        classes = self.thing_classes[detections.labels] if self.detector is not None else detections.labels
        return {
            "semantic": semantic,
            "boxes": detections.boxes.float(),
            "scores": detections.scores.float(),
            "labels": torch.where(valid, classes, 0).to(torch.int32),
            "masks": masks.float(),
            "num_detections": detections.counts.to(torch.int32),
        }

    def _instances(self, features: dict[str, Tensor], size: tuple[int, int]) -> tuple[Detections, Tensor]:
        if self.detector is None:
            batch, device = features["p2"].shape[0], features["p2"].device
            side = self.config.detector_config.mask_size
            nothing = torch.zeros(batch, 0, dtype=torch.float32, device=device)
            detections = Detections(
                torch.zeros(batch, 0, 4, dtype=torch.float32, device=device),
                nothing,
                nothing.long(),
                torch.zeros(batch, dtype=torch.int64, device=device),
            )
            return detections, torch.zeros(batch, 0, side, side, dtype=torch.float32, device=device)
        detections = self.detector.detect(features, self.detector.propose(features, size), size)
        return detections, self.detector.masks(features, detections)

# SPDX-License-Identifier: Apache-2.0
"""Semantic heads of the IMP paper (section 3.2): P2, FPN, and none (argmax of the canvas)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imp_trt.classes import ClassTable
from imp_trt.models.backbone import LEVELS, norm_layer
from imp_trt.models.config import Norm


class SemanticHead(nn.Module):
    """Logits at stride 4 from FPN features and, with IMP, the canvas.

    The features are one tensor at stride 4: p2 itself ("p2"), or the sum over levels of
    conv3x3 + norm + ReLU + 2x upsampling ("fpn", Panoptic FPN). They are concatenated with the canvas and
    followed by 3x3 convolutions, four in the paper, and one 1x1 convolution. Without IMP the same
    convolutions run without the canvas, so that a pair with and without IMP has no other difference.

    Args:
        kind: "p2" or "fpn".
        in_channels: channels of the FPN.
        channels: channels of the head's convolutions.
        num_classes: channels of the logits.
        canvas_channels: number of thing classes, 0 without IMP.
        norm: normalization of the "fpn" head; the "p2" head has none.
        canvas_scale: factor of the canvas in the concatenation.
        canvas_skip: whether a 1x1 convolution of the canvas is added to the logits; it starts at zero.
        fuse_convs: number of 3x3 convolutions after the concatenation.
    """

    def __init__(
        self,
        kind: Literal["p2", "fpn"],
        in_channels: int,
        channels: int,
        num_classes: int,
        canvas_channels: int,
        norm: Norm | Literal["none"],
        canvas_scale: float = 1.0,
        canvas_skip: bool = False,
        fuse_convs: int = 4,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.canvas_scale = canvas_scale
        norm = norm if kind == "fpn" else "none"
        self.levels = nn.ModuleList()
        width = in_channels
        if kind == "fpn":
            # p2: one convolution; p3: one with upsampling; p4: two of each; p5: three of each.
            for steps in (1, 1, 2, 3):
                convs = [
                    _conv_norm(in_channels if step == 0 else channels, channels, norm)
                    for step in range(steps)
                ]
                self.levels.append(nn.ModuleList(convs))
            width = channels
        self.feature_channels = width
        self.fuse = nn.Sequential(
            *[
                _conv_norm(width + canvas_channels if step == 0 else channels, channels, norm)
                for step in range(fuse_convs)
            ]
        )
        self.classify = nn.Conv2d(channels if fuse_convs else width + canvas_channels, num_classes, 1)
        self.canvas_to_logits: nn.Conv2d | None = None
        if canvas_skip and canvas_channels:
            self.canvas_to_logits = nn.Conv2d(canvas_channels, num_classes, 1, bias=False)
            nn.init.zeros_(self.canvas_to_logits.weight)

    def forward(self, features: dict[str, Tensor], canvas: Tensor | None) -> Tensor:
        """FPN features and canvas [B, C, H/4, W/4] (None without IMP) -> logits [B, K, H/4, W/4]."""
        x = self.merge_levels(features)
        if canvas is not None:
            read = canvas if self.canvas_scale == 1.0 else canvas * self.canvas_scale
            # torch.cat of mixed memory formats returns contiguous_format, which is slower afterwards.
            channels_last = x.is_contiguous(memory_format=torch.channels_last)
            memory_format = torch.channels_last if channels_last else torch.contiguous_format
            x = torch.cat([x, read.to(x.dtype, memory_format=memory_format)], dim=1)
        logits: Tensor = self.classify(self.fuse(x))
        if canvas is not None and self.canvas_to_logits is not None:
            logits = logits + self.canvas_to_logits(canvas.to(x.dtype))
        return logits

    def fold_canvas_scale(self) -> None:
        """Multiply the weights that read the canvas by canvas_scale, which then is 1."""
        with torch.no_grad():
            self.canvas_kernel.mul_(self.canvas_scale)
        self.canvas_scale = 1.0

    @property
    def canvas_kernel(self) -> Tensor:
        """View [channels, C, k, k] of the first convolution's canvas weights; C is 0 without IMP."""
        weight = self.classify.weight
        if len(self.fuse):
            weight = self.fuse[0][0].weight  # type: ignore[index]
        return weight[:, self.feature_channels :]

    def merge_levels(self, features: dict[str, Tensor]) -> Tensor:
        """The features that the canvas is concatenated with, [B, channels, H/4, W/4]."""
        if self.kind == "p2":
            return features["p2"]
        total = None
        for level, convs in zip(LEVELS, self.levels, strict=True):
            x = features[level]
            for conv in convs:  # type: ignore[attr-defined]
                x = conv(x)
                if level != "p2":
                    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            total = x if total is None else total + x
        assert total is not None  # noqa: S101  # LEVELS is not empty
        return total


class CanvasArgmax(nn.Module):
    """Semantic logits from the canvas (Mask R-CNN-IMP): thing channels against a constant background score.

    The first stuff class has the background score, since the paper's clothing datasets have one
    background class; other stuff classes are never predicted.
    """

    def __init__(self, classes: ClassTable, background_score: float) -> None:
        super().__init__()
        self.classes = classes
        self.background_score = background_score

    def forward(self, canvas: Tensor) -> Tensor:  # [B, C, h, w] -> logits [B, K, h, w]
        channel = {c: k for k, c in enumerate(self.classes.things)}
        background = self.classes.stuff[0] if self.classes.stuff else -1
        zeros = torch.zeros_like(canvas[:, :1])
        channels = []
        for index in range(len(self.classes)):
            if index in channel:
                channels.append(canvas[:, channel[index] : channel[index] + 1])
            else:
                channels.append(zeros + (self.background_score if index == background else -1.0))
        return torch.cat(channels, dim=1)


def _conv_norm(in_channels: int, out_channels: int, norm: Norm | Literal["none"]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=norm == "none"),
        norm_layer(norm)(out_channels),
        nn.ReLU(inplace=True),
    )

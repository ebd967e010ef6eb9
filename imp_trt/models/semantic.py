"""Semantic heads of the IMP paper (section 3.2): P2, FPN, and none (straight from the canvas)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imp_trt.classes import ClassTable
from imp_trt.models.backbone import LEVELS, norm_layer


class SemanticHead(nn.Module):
    """Logits at stride 4 from pyramid features and, with IMP, the canvas.

    The feature part is one tensor at stride 4: p2 itself ("p2"), or the sum over levels of
    conv3x3 + norm + ReLU + 2x upsampling ("fpn", Panoptic FPN). The canvas is concatenated to it,
    and four 3x3 convolutions and one 1x1 convolution follow. With IMP off the same convolutions
    run without the canvas, so that a pair with and without IMP differs in nothing else.

    Args:
        kind: "p2" or "fpn".
        in_channels: channels of the pyramid.
        channels: width of the head.
        num_classes: channels of the logits.
        canvas_channels: thing classes, 0 with IMP off.
        norm: normalization of the "fpn" variant; the "p2" variant has none.
    """

    def __init__(
        self, kind: str, in_channels: int, channels: int, num_classes: int, canvas_channels: int, norm: str
    ) -> None:
        super().__init__()
        self.kind = kind
        norm = norm if kind == "fpn" else "none"
        self.levels = nn.ModuleList()
        width = in_channels
        if kind == "fpn":
            # p2 needs one convolution, p3 one and an upsampling, p4 two of each, p5 three of each.
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
                for step in range(4)
            ]
        )
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: dict[str, Tensor], canvas: Tensor | None) -> Tensor:
        """Pyramid and canvas [B, C, H/4, W/4] (None with IMP off) -> logits [B, K, H/4, W/4]."""
        x = self._gather(features)
        if canvas is not None:
            # Tensors of unlike layouts are joined in the default one, in which what follows is slower.
            channels_last = x.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            x = torch.cat([x, canvas.to(x.dtype, memory_format=layout)], dim=1)
        logits: Tensor = self.classify(self.fuse(x))
        return logits

    @property
    def canvas_kernel(self) -> Tensor:
        """The part [channels, C, 3, 3] of the first convolution that reads the canvas; C is 0 without IMP."""
        first: nn.Sequential = self.fuse[0]  # type: ignore[assignment]
        weight: Tensor = first[0].weight  # type: ignore[assignment]
        return weight[:, self.feature_channels :]

    def _gather(self, features: dict[str, Tensor]) -> Tensor:
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
    """Semantics straight from the canvas (Mask R-CNN-IMP): thing channels against a constant background.

    The first stuff class takes the background score, as the paper's clothing sets have one
    background; other stuff classes are never predicted.
    """

    def __init__(self, classes: ClassTable, background_score: float) -> None:
        super().__init__()
        self.classes = classes
        self.background_score = background_score

    def forward(self, canvas: Tensor) -> Tensor:  # [B, C, h, w] -> logits [B, K, h, w]
        channel = {c: k for k, c in enumerate(self.classes.things)}
        background = self.classes.stuff[0] if self.classes.stuff else -1
        empty = torch.zeros_like(canvas[:, :1])
        planes = []
        for index in range(len(self.classes)):
            if index in channel:
                planes.append(canvas[:, channel[index] : channel[index] + 1])
            else:
                planes.append(empty + (self.background_score if index == background else -1.0))
        return torch.cat(planes, dim=1)


def _conv_norm(before: int, after: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=norm == "none"),
        norm_layer(norm)(after),
        nn.ReLU(inplace=True),
    )
